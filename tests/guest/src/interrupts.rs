// SPDX-License-Identifier: GPL-2.0
//! Interrupts, as `/proc/interrupts` counts them.

use anyhow::Result;
use std::fs;

/// How many interrupts of devices that send messages each processor has handled.
pub fn handled() -> Result<Vec<u64>> {
    let table = fs::read_to_string("/proc/interrupts")?;
    let mut handled = Vec::new();
    for row in table.lines().filter(|line| line.contains("PCI-MSIX-")) {
        let words = row.split_whitespace().skip(1);
        let counts = words.map_while(|word| word.parse::<u64>().ok());
        for (processor, count) in counts.enumerate() {
            if processor == handled.len() {
                handled.push(0);
            }
            handled[processor] += count;
        }
    }
    Ok(handled)
}
