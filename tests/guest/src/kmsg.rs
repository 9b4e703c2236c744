// SPDX-License-Identifier: GPL-2.0
//! Reading the kernel log.

use anyhow::Result;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::fs::OpenOptionsExt;

/// Level of a message that is worse than a notice.
const WARNING: u8 = 4;

/// What the kernel itself says about modules that are not its own, and about
/// each probe that fails.
const OF_THE_KERNEL: &[&str] = &[
    "loading out-of-tree module taints kernel",
    "module verification failed",
    "probe with driver azihsm failed with error",
];

/// Words that a message of a driver that is well does not have.
const BAD_WORDS: &[&str] = &["error", "fail", "failed", "failure", "bug", "oops", "panic"];

/// What the kernel prints when something is wrong.
const SPLATS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops:",
    "Call Trace:",
    "DMA-API:",
    "INFO: task",
];

/// A message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// How bad it is, from 0 to 7.
    pub level: u8,
    /// What it says.
    pub text: String,
}

impl Message {
    /// Takes a record of `/dev/kmsg` apart.
    fn parse(record: &str) -> Option<Self> {
        let (prefix, rest) = record.split_once(';')?;
        let priority: u32 = prefix.split(',').next()?.parse().ok()?;
        Some(Self {
            level: (priority & 7) as u8,
            text: rest.lines().next()?.to_owned(),
        })
    }

    /// Whether the driver, or the kernel about the driver, printed it.
    pub fn is_about_driver(&self) -> bool {
        self.text.contains("azihsm") && !OF_THE_KERNEL.iter().any(|text| self.text.contains(text))
    }

    /// Whether it is informational, or less.
    pub fn is_harmless(&self) -> bool {
        self.level > WARNING
    }

    /// A word in it that a driver that is well does not use.
    pub fn bad_word(&self) -> Option<&'static str> {
        let text = self.text.to_lowercase();
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.find_map(|word| BAD_WORDS.iter().find(|&&bad| bad == word).copied())
    }

    /// Whether the kernel found something wrong with itself.
    pub fn is_splat(&self) -> bool {
        SPLATS.iter().any(|splat| self.text.contains(splat))
    }

    /// Whether it must not be in the log of a kernel that is well.
    pub fn is_alarming(&self) -> bool {
        (self.is_about_driver() && !self.is_harmless()) || self.is_splat()
    }
}

/// A place in the kernel log.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// The end of the log.
    pub fn end() -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file })
    }

    /// The messages since the last time, or since this value was made.
    pub fn read(&mut self) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(0) => return Ok(messages),
                Ok(count) => {
                    let record = String::from_utf8_lossy(&record[..count]);
                    messages.extend(Message::parse(&record));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(messages),
                // Messages were overwritten before they were read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Messages about the driver since the last time.
    pub fn read_about_driver(&mut self) -> Result<Vec<Message>> {
        let mut messages = self.read()?;
        messages.retain(Message::is_about_driver);
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    fn message(record: &str) -> Message {
        Message::parse(record).unwrap()
    }

    #[test]
    fn records_are_taken_apart() {
        let message = message("12,345,678901,-;azihsm 0000:01:00.0: text; more\n SUBSYSTEM=pci\n");
        assert_eq!(message.level, 4);
        assert_eq!(message.text, "azihsm 0000:01:00.0: text; more");
        assert_eq!(Message::parse("no record"), None);
    }

    #[test]
    fn bad_words_are_whole_words() {
        assert_eq!(
            message("6,1,1,-;azihsm: it Failed.").bad_word(),
            Some("failed")
        );
        assert_eq!(message("6,1,1,-;azihsm: debug failover").bad_word(), None);
    }

    #[test]
    fn alarming_is_what_the_driver_warns_of_and_any_splat() {
        assert!(message("4,1,1,-;azihsm 0000:01:00.0: odd").is_alarming());
        assert!(!message("6,1,1,-;azihsm 0000:01:00.0: ready").is_alarming());
        assert!(!message("4,1,1,-;clocksource: odd").is_alarming());
        assert!(message("4,1,1,-;WARNING: CPU: 0 PID: 1").is_alarming());
        assert!(
            !message("4,1,1,-;azihsm: loading out-of-tree module taints kernel.").is_alarming()
        );
    }
}
