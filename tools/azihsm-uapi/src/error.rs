// SPDX-License-Identifier: GPL-2.0
//! Why a request failed.

use crate::abi::ext;
use rustix::io::Errno;
use std::fmt;

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// An ioctl that failed: what the system call said, and what the driver added.
///
/// A command that the *device* refused is not an error: the ioctl succeeds and
/// the reply carries the status of the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub struct Error {
    /// The error of the system call.
    pub errno: Errno,
    /// Extended status, one of [`ext`], or 0 if there is none.
    pub ext: u32,
}

impl Error {
    /// Whether the same request may succeed if it is sent again.
    pub fn is_transient(&self) -> bool {
        self.errno == Errno::AGAIN
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from(self.errno))?;
        match (self.ext, ext::describe(self.ext)) {
            (ext::OK, _) => Ok(()),
            (code, Some(text)) => write!(f, ", extended status {code:#x}: {text}"),
            (code, None) => write!(f, ", extended status {code:#x}"),
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            ext: ext::OK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Error;
    use crate::abi::ext;
    use rustix::io::Errno;

    #[test]
    fn display_names_the_extended_status() {
        let error = Error {
            errno: Errno::INVAL,
            ext: ext::HSM_NO_SESSION,
        };
        let text = error.to_string();
        assert!(text.starts_with("Invalid argument"), "{text}");
        assert!(
            text.ends_with("extended status 0xc: descriptor has no session"),
            "{text}"
        );
    }

    #[test]
    fn display_without_extended_status_is_the_errno() {
        let text = Error::from(Errno::NODEV).to_string();
        assert!(!text.contains("extended"), "{text}");
    }
}
