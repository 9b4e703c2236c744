// SPDX-License-Identifier: GPL-2.0
//! What can go wrong, and what the program then exits with.

use azihsm_uapi::Errno;
use std::io;
use std::path::PathBuf;

/// The result of anything that can go wrong.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No HSM at all.
    #[error("there is no HSM: is the driver loaded (modprobe azihsm), and does lspci -d 1414:c003 show one?")]
    NoDevice,
    /// None that is called so.
    #[error("there is no HSM '{0}'; `azihsmctl list` shows which there are")]
    Unknown(String),
    /// More than one.
    #[error("there are several HSMs: say which one ({})", .0.join(", "))]
    Several(Vec<String>),
    /// The node may not be opened.
    #[error("{} may not be opened: {advice}", .path.display())]
    Denied {
        /// The node.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
    /// The node cannot be opened.
    #[error("{}: {error}", .path.display())]
    Open {
        /// The node.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// An ioctl failed.
    #[error("{what}: {error}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// Why it failed.
        error: azihsm_uapi::Error,
    },
    /// The device refused something.
    #[error("{what}: the device answers with status {status:#x}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its status.
        status: u32,
    },
    /// The device answered something that makes no sense.
    #[error("{what}: the answer of the device makes no sense: {why}")]
    Nonsense {
        /// What was asked for.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The driver has no counters.
    #[error("the driver that is loaded has no counters: there is no {}", .0.display())]
    NoCounters(PathBuf),
    /// A file in sysfs.
    #[error("{}: {error}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The user has to agree.
    #[error("a reset ends the work of all users of {0} and erases their keys: say --yes if that is what you want")]
    Unconfirmed(String),
    /// The user does not agree.
    #[error("not reset")]
    Declined,
    /// At least one test failed; which has been said.
    #[error("the test failed")]
    TestFailed,
    /// Nothing more can be printed.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// The exit status of the program.
    pub fn status(&self) -> u8 {
        match self {
            Self::Several(_) | Self::Unconfirmed(_) => 2,
            Self::NoDevice | Self::Unknown(_) => 3,
            Self::Denied { .. } => 4,
            Self::Request { error, .. } if error.errno == Errno::NODEV => 3,
            _ => 1,
        }
    }

    /// Whether nobody wants to read what is printed, which is no failure.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
