// SPDX-License-Identifier: GPL-2.0
//! Watching what the kernel does, by its trace events.

use anyhow::Context;
use anyhow::Result;
use nix::errno::Errno;
use nix::mount::mount;
use nix::mount::MsFlags;
use nix::unistd::gettid;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

const TRACEFS: &str = "/sys/kernel/tracing";

/// Whether the kernel can trace.
pub fn is_possible() -> bool {
    Path::new(TRACEFS).exists()
}

/// Where the kernel says what it can trace.
pub fn directory() -> Result<&'static Path> {
    match mount(
        Some("tracefs"),
        TRACEFS,
        Some("tracefs"),
        MsFlags::empty(),
        None::<&str>,
    ) {
        Ok(()) | Err(Errno::EBUSY) => Ok(Path::new(TRACEFS)),
        Err(error) => Err(error).context(TRACEFS),
    }
}

/// Events.
#[derive(Debug)]
pub struct Trace {
    instance: PathBuf,
    /// Kept open, as opening it would be seen. There until the end.
    switch: Option<File>,
}

impl Trace {
    /// Prepares to watch all events of these kinds, each of the form
    /// `system/event`, or a whole `system`, of this thread and of interrupts
    /// while nothing runs.
    pub fn new(kinds: &[&str]) -> Result<Self> {
        let filter = format!("common_pid == 0 || common_pid == {}", gettid());
        let trace = Self::prepare()?;
        for kind in kinds {
            trace.write(&format!("events/{kind}/filter"), &filter)?;
            trace.write(&format!("events/{kind}/enable"), "1")?;
        }
        Ok(trace)
    }

    /// Prepares to watch all events of a system, whoever causes them.
    pub fn of_all(system: &str) -> Result<Self> {
        let trace = Self::prepare()?;
        trace.write(&format!("events/{system}/enable"), "1")?;
        Ok(trace)
    }

    fn prepare() -> Result<Self> {
        // Otherwise each event that is enabled has the scheduler's code changed, to learn the
        // names of tasks, and an emulated processor that runs it meanwhile may stumble.
        let names = directory()?.join("options/record-cmd");
        fs::write(&names, "0").with_context(|| format!("{}", names.display()))?;
        let name = format!("azihsm-{}", std::process::id());
        let instance = Path::new(TRACEFS).join("instances").join(name);
        fs::create_dir(&instance).with_context(|| format!("{}", instance.display()))?;
        let mut trace = Self {
            instance,
            switch: None,
        };
        let switch = trace.instance.join("tracing_on");
        trace.switch = Some(OpenOptions::new().write(true).open(switch)?);
        trace.turn(false)?;
        Ok(trace)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, text).with_context(|| format!("{text} to {}", path.display()))
    }

    fn turn(&self, on: bool) -> Result<()> {
        let mut switch = self.switch.as_ref().context("no switch")?;
        Ok(switch.write_all(if on { b"1" } else { b"0" })?)
    }

    /// The events during `body`, one line each.
    pub fn during(&self, body: impl FnOnce() -> Result<()>) -> Result<Vec<String>> {
        self.write("trace", "")?;
        self.turn(true)?;
        let result = body();
        self.turn(false)?;
        result?;
        let text = fs::read_to_string(self.instance.join("trace"))?;
        let events = text.lines().filter(|line| !line.starts_with('#'));
        Ok(events.map(|line| line.trim().to_owned()).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.switch = None;
        // A test that leaves it behind does no harm to others.
        let _ = fs::remove_dir(&self.instance);
    }
}
