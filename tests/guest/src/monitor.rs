// SPDX-License-Identifier: GPL-2.0
//! Telling the machine itself what to do, over the last serial port.
//!
//! Machines with one device have one (`tests/vm`).

use anyhow::ensure;
use anyhow::Result;
use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::termios::cfmakeraw;
use nix::sys::termios::tcgetattr;
use nix::sys::termios::tcsetattr;
use nix::sys::termios::SetArg;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;
use std::time::Instant;

const PORT: &str = "/dev/ttyS3";

/// What it says when it is ready.
const PROMPT: &str = "(qemu) ";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The line to QEMU's monitor.
#[derive(Debug)]
pub struct Monitor {
    port: File,
}

impl Monitor {
    /// Opens the line.
    pub fn open() -> Result<Self> {
        let port = OpenOptions::new().read(true).write(true).open(PORT)?;
        let mut attributes = tcgetattr(&port)?;
        cfmakeraw(&mut attributes);
        tcsetattr(&port, SetArg::TCSANOW, &attributes)?;
        let mut this = Self { port };
        // It may have said that it is ready when nobody listened.
        this.command("")?;
        Ok(this)
    }

    /// Gives a command and returns what is said, its echo included.
    pub fn command(&mut self, text: &str) -> Result<String> {
        self.port.write_all(format!("{text}\n").as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            let mut ready = [PollFd::new(self.port.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(100_u16))? > 0 {
                let mut part = [0; 4096];
                let count = self.port.read(&mut part)?;
                said.extend_from_slice(&part[..count]);
            } else if said.ends_with(PROMPT.as_bytes()) {
                return Ok(String::from_utf8_lossy(&said).into_owned());
            }
            ensure!(
                Instant::now() < deadline,
                "the monitor does not answer: {:?}",
                String::from_utf8_lossy(&said)
            );
        }
    }
}
