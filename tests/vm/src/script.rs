// SPDX-License-Identifier: GPL-2.0

//! Runs a script in a guest that has what another root file system has.

use crate::initramfs::Initramfs;
use crate::judge;
use crate::kernel;
use crate::machine;
use crate::machine::Config;
use crate::machine::Files;
use anyhow::Context;
use anyhow::Result;
use clap::Args;
use std::fs;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub struct Script {
    /// Kernel of the guest, a bzImage or an ELF image.
    #[arg(long)]
    kernel: PathBuf,
    /// Program of the virtual device.
    #[arg(long)]
    vdev: PathBuf,
    /// Directory for logs and sockets; keep it short.
    #[arg(long, default_value = "/tmp/azihsm-vm")]
    work: PathBuf,
    /// Most seconds that it may take.
    #[arg(long, default_value_t = 900)]
    timeout: u64,
    /// Statically linked shell and tools of the guest.
    #[arg(long, default_value = "/bin/busybox")]
    busybox: PathBuf,
    /// What else the guest has, an archive of cpio in format newc.
    #[arg(long)]
    archive: PathBuf,
    /// The script, for busybox's shell.
    script: PathBuf,
}

impl Script {
    /// Runs it, and returns whether it was successful and nothing else is wrong.
    pub fn run(&self) -> Result<bool> {
        let named = |path: &PathBuf| format!("{}", path.display());
        fs::create_dir_all(&self.work).with_context(|| named(&self.work))?;
        let dir = machine::boot_directory(&self.work, "script")?;
        let command = fs::read_to_string(&self.script).with_context(|| named(&self.script))?;
        let initramfs = dir.join("initramfs");
        Initramfs::new(&self.busybox, &command)?.write(&initramfs)?;
        // The kernel takes several archives one after another.
        let archive = fs::read(&self.archive).with_context(|| named(&self.archive))?;
        OpenOptions::new()
            .append(true)
            .open(&initramfs)?
            .write_all(&archive)?;
        let files = Files {
            kernel: kernel::prepare(&self.kernel, &self.work)?,
            initramfs,
            vdev: self.vdev.clone(),
        };
        let timeout = Duration::from_secs(self.timeout);
        let outcome = machine::run(&files, &Config::default(), &dir, timeout, |line| {
            println!("{line}");
        })?;
        Ok(judge(&outcome, &dir))
    }
}
