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
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::fs::File;
use std::path::Path;

/// Names of all modules that are loaded.
pub fn names() -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/modules")?;
    let names = table.lines().filter_map(|line| line.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}

/// Where the code of a module is.
pub fn text(name: &str) -> Result<String> {
    let path = format!("/sys/module/{name}/sections/.text");
    Ok(fs::read_to_string(&path).context(path)?.trim().to_owned())
}

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
    let before = names()?;
    mark::begin();
    let loaded = load();
    let now = names()?;
    let name = now.difference(&before).next();
    let name = name.map_or("azihsm", String::as_str);
    let text = text(name).unwrap_or_else(|_| "0x0".to_owned());
    mark::pass(format!("module {name} {text}\n").as_bytes());
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
