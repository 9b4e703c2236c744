// SPDX-License-Identifier: GPL-2.0

//! What the driver and the device write to each other's memory, and what the driver and its callers
//! do, byte by byte, and nothing else.
//!
//! These files use no more than the `core` library, `zerocopy` and [`facade`]. So they are compiled
//! twice: into the driver, and, with another facade, into `tests/wire`, which holds them against
//! Documentation/device.rst and Documentation/abi.rst with values that nobody has thought of.

pub(crate) mod admin;
pub(crate) mod aes;
mod facade;
pub(crate) mod hsm;
pub(crate) mod request;
pub(crate) mod ring;
pub(crate) mod sgl;
pub(crate) mod uapi;

/// What the unit tests of the files that use these have in common.
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) mod by_hand {
    /// Returns `N` bytes of which `fields`, each with its offset, are not 0.
    pub(crate) fn bytes<const N: usize>(fields: &[(usize, &[u8])]) -> [u8; N] {
        let mut bytes = [0; N];
        for (offset, field) in fields {
            for (to, from) in bytes.iter_mut().skip(*offset).zip(*field) {
                *to = *from;
            }
        }
        bytes
    }

    /// Returns the words of a completion queue entry of which `fields` are not 0.
    pub(crate) fn words<const N: usize>(fields: &[(usize, &[u8])]) -> [u64; N] {
        let bytes = bytes::<64>(fields);
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        words
    }
}
