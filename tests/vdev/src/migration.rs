// SPDX-License-Identifier: GPL-2.0

//! The context that live migration moves between devices.
//!
//! Virtual functions are not part of this process, so the physical function
//! only ever saves and restores ones that are idle.  See
//! Documentation/device.rst, section 8.5 and appendix C.

use crate::bytes::get_u16;
use crate::bytes::get_u32;
use crate::bytes::put_u16;
use crate::bytes::put_u32;

/// Opcode of the command that saves a context.
pub const SAVE: u8 = 0xc8;
/// Opcode of the command that restores a context.
pub const RESTORE: u8 = 0xc9;
/// Size of a context.
pub const CONTEXT_SIZE: usize = 8720;

const CRC: usize = CONTEXT_SIZE - 4;
const MAJOR: u16 = 1;

/// The context of a function without queues and sessions.
pub fn idle_context(groups: u8) -> Vec<u8> {
    let mut context = vec![0; CONTEXT_SIZE];
    put_u16(&mut context, 2, MAJOR);
    put_u32(&mut context, 4, u32::from(groups));
    let crc = checksum(&context);
    put_u32(&mut context, CRC, crc);
    context
}

/// Whether a function with this many groups can take a context.
pub fn fits(context: &[u8], groups: u8) -> bool {
    get_u16(context, 2) == MAJOR
        && get_u32(context, 4) == u32::from(groups)
        && get_u32(context, CRC) == checksum(context)
}

/// CRC-32 of a context, with zero in place of the CRC itself.
fn checksum(context: &[u8]) -> u32 {
    let body = context.get(..CRC).unwrap_or(context);
    let crc = body.iter().chain(&[0; 4]).fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 }
        })
    });
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_crc32() {
        // CRC-32 of "123456789" followed by four zeros.
        assert_eq!(checksum(b"123456789"), 0xf3c1_ce60);
    }

    #[test]
    fn a_context_fits_the_count_it_was_saved_with() {
        let mut context = idle_context(3);
        assert!(fits(&context, 3));
        assert!(!fits(&context, 2));
        context[5000] ^= 1;
        assert!(!fits(&context, 3));
        assert!(!fits(&[], 0));
    }
}
