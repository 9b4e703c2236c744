// SPDX-License-Identifier: GPL-2.0
//! Telling the plugin that counts instructions what is going on.
//!
//! Without the plugin (`tests/bench/plugin`) these do nothing: a mark is an
//! instruction without effect.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::asm;

/// Declares a function that executes a mark.
macro_rules! mark {
    ($(#[$meta:meta])* $name:ident, $code:literal) => {
        $(#[$meta])*
        #[cfg(target_arch = "x86_64")]
        #[inline(always)]
        pub fn $name() {
            // SAFETY: A no-operation.  It is taken to access memory, so that
            // nothing moves across it.
            unsafe {
                asm!(
                    ".byte 0x0f, 0x1f, 0x84, 0x00",
                    ".long 0x50c00000 + {code}",
                    code = const $code,
                    options(nostack, preserves_flags),
                );
            }
        }
    };
}

mark! {
    /// An interval begins.
    begin, 1
}
mark! {
    /// A lap of the interval ends.
    lap, 2
}
mark! {
    /// The interval ends.
    end, 3
}

/// Passes bytes on to the plugin, which appends them to a file of the host.
/// They are filled up with newlines.
#[cfg(target_arch = "x86_64")]
pub fn pass(bytes: &[u8]) {
    for chunk in bytes.chunks(8) {
        let mut word = [b'\n'; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        // SAFETY: Reads the word.  The two instructions are in one cache line,
        // and so in one piece for QEMU.
        unsafe {
            asm!(
                ".balign 16",
                ".byte 0x0f, 0x1f, 0x84, 0x00",
                ".long 0x50c00004",
                "mov {scratch}, qword ptr [{address}]",
                address = in(reg) &raw const word,
                scratch = out(reg) _,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
}
