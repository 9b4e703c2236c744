// SPDX-License-Identifier: GPL-2.0
//! Modules of any name.

use anyhow::Context;
use anyhow::Result;
use azihsm_guest::module;
use nix::errno::Errno;
use nix::kmod::delete_module;
use nix::kmod::DeleteModuleFlags;
use std::ffi::CStr;
use std::ffi::CString;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// A module that is loaded.
pub struct Loaded {
    name: String,
}

impl Loaded {
    /// Loads the module in `file` with `parameters`.
    pub fn new(file: &Path, parameters: &CStr) -> Result<Self> {
        let before = module::names()?;
        module::load_with(file, parameters)?;
        let name = module::names()?.difference(&before).next().cloned();
        Ok(Self {
            name: name.context("no module was loaded")?,
        })
    }

    /// Where its code is.
    pub fn text(&self) -> Result<String> {
        module::text(&self.name)
    }

    /// Unloads it.
    pub fn unload(self) -> Result<()> {
        let name = CString::new(self.name)?;
        // Whoever closed its files last may still be at it.
        for _ in 0..50 {
            match delete_module(&name, DeleteModuleFlags::O_NONBLOCK) {
                Err(Errno::EBUSY | Errno::EAGAIN) => thread::sleep(Duration::from_millis(20)),
                result => return result.context("delete_module"),
            }
        }
        delete_module(&name, DeleteModuleFlags::O_NONBLOCK).context("delete_module")
    }
}
