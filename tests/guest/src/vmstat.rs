// SPDX-License-Identifier: GPL-2.0
//! What the kernel counts about memory.

use anyhow::Context;
use anyhow::Result;
use std::fs;

/// How many pages are pinned for devices.
pub fn pinned_pages() -> Result<i64> {
    // Each processor counts for itself; this adds it all up.
    fs::read("/proc/sys/vm/stat_refresh")?;
    let text = fs::read_to_string("/proc/vmstat")?;
    let field = |name: &str| -> Result<i64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(value
            .with_context(|| format!("no {name}"))?
            .trim()
            .parse()?)
    };
    Ok(field("nr_foll_pin_acquired ")? - field("nr_foll_pin_released ")?)
}
