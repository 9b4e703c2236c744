// SPDX-License-Identifier: GPL-2.0

//! The report that is written at the end.

use crate::device::Device;
use serde_json::json;
use serde_json::Value;
use std::io;
use std::path::Path;

/// Counters and violations.
pub fn report(device: &Device) -> Value {
    json!({
        "counters": device.model().counters(),
        "violations": device.strict.violations(),
        "errors": device.strict.errors(),
        "notes": device.strict.notes(),
    })
}

/// Writes the report to a file.
pub fn write_report(device: &Device, path: &Path) -> io::Result<()> {
    std::fs::write(path, format!("{:#}\n", report(device)))
}
