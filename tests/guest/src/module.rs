// SPDX-License-Identifier: GPL-2.0
//! Loading and unloading the module.

use anyhow::Context;
use anyhow::Result;
use nix::errno::Errno;
use nix::kmod::delete_module;
use nix::kmod::finit_module;
use nix::kmod::DeleteModuleFlags;
use nix::kmod::ModuleInitFlags;
use std::fs::File;
use std::path::Path;

/// Whether the module is loaded.
pub fn is_loaded() -> bool {
    Path::new("/sys/module/azihsm").exists()
}

/// Loads the module in `file` with parameters.
pub fn load_with(file: &Path, parameters: &std::ffi::CStr) -> Result<()> {
    let image = File::open(file).with_context(|| format!("{}", file.display()))?;
    finit_module(&image, parameters, ModuleInitFlags::empty()).context("finit_module")
}

/// Loads the module in `file`.
pub fn load(file: &Path) -> Result<()> {
    load_with(file, c"")
}

/// Unloads the module.
pub fn unload() -> Result<(), Errno> {
    delete_module(c"azihsm", DeleteModuleFlags::O_NONBLOCK)
}
