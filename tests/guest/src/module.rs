// SPDX-License-Identifier: GPL-2.0
//! Loading and unloading the module.
//!
//! With [`COVERAGE`] in the environment the plugin that counts instructions is told
//! where the module is, each time that it is loaded.

use crate::mark;
use anyhow::Context;
use anyhow::Result;
use nix::errno::Errno;
use nix::kmod::delete_module;
use nix::kmod::finit_module;
use nix::kmod::DeleteModuleFlags;
use nix::kmod::ModuleInitFlags;
use std::env;
use std::fs;
use std::fs::File;
use std::path::Path;

/// Says where the code of the module is.
const TEXT: &str = "/sys/module/azihsm/sections/.text";

/// Whether the module is loaded.
pub fn is_loaded() -> bool {
    Path::new("/sys/module/azihsm").exists()
}

/// Set when it is of interest which code of the module is reached.
pub const COVERAGE: &str = "AZIHSM_COVERAGE";

/// Loads the module in `file` with parameters.
pub fn load_with(file: &Path, parameters: &std::ffi::CStr) -> Result<()> {
    let image = File::open(file).with_context(|| format!("{}", file.display()))?;
    let load =
        || finit_module(&image, parameters, ModuleInitFlags::empty()).context("finit_module");
    if env::var_os(COVERAGE).is_none() {
        return load();
    }
    // What ran since the module was loaded last, where that was.
    mark::end();
    mark::begin();
    let loaded = load();
    let text = fs::read_to_string(TEXT);
    let text = text.as_deref().map_or("0x0", str::trim);
    mark::pass(format!("module azihsm {text}\n").as_bytes());
    loaded
}

/// Loads the module in `file`.
pub fn load(file: &Path) -> Result<()> {
    load_with(file, c"")
}

/// Unloads the module.
pub fn unload() -> Result<(), Errno> {
    delete_module(c"azihsm", DeleteModuleFlags::O_NONBLOCK)
}
