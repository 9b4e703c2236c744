// SPDX-License-Identifier: GPL-2.0
//! Commands as callers have them in memory, and what the tables of Documentation/abi.rst say of them.

use crate::device::Fields;

/// Puts `value` where a field of `len` bytes is.
pub fn put(bytes: &mut [u8], offset: usize, len: usize, value: u64) {
    bytes[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// Bytes of a HSM command (2.3).
pub const HSM_LEN: usize = 112;
/// Bytes of an AES command (2.7).
pub const AES_LEN: usize = 400;

/// Bytes of a reset (2.6).
pub const RESET_LEN: usize = 272;
/// Bytes of the device info (2.4).
pub const INFO_LEN: usize = 176;
/// Bytes of what says how many resource groups a virtual function has (2.9).
pub const GROUPS_LEN: usize = 12;
/// Bytes of what says how many virtual functions there are (2.9).
pub const FUNCTIONS_LEN: usize = 8;

const MIB_16: u64 = 16 << 20;

/// Whether `len` bytes at `address` are in the half of the address space that is not the kernel's.
pub fn is_outside(address: u64, len: u64) -> bool {
    u128::from(address) + u128::from(len) >= 1 << 63
}

/// Extended status for a HSM command (3.2, rows 6 to 11).
pub fn hsm_ext(bytes: &[u8; HSM_LEN]) -> Option<u32> {
    let (src_len, src) = (bytes.at(32, 4), bytes.at(40, 8));
    let (dst_len, dst) = (bytes.at(48, 4), bytes.at(56, 8));
    let rows = [
        (bytes.at(26, 2) != 0, 2),
        (![0, 2].contains(&bytes.at(24, 2)), 2),
        (src_len > 8192, 3),
        (dst_len > 8192, 4),
        ((src == 0) ^ (src_len == 0), 5),
        ((dst == 0) ^ (dst_len == 0), 7),
    ];
    first(&rows)
}

/// Extended status for an AES command whose descriptor has `session` (3.5, rows 8 to 23).
///
/// `xts` is for the ioctl, `can_unaligned` for the device.
pub fn aes_ext(
    bytes: &[u8; AES_LEN],
    xts: bool,
    can_unaligned: bool,
    (session, app): (u16, Option<u8>),
) -> Option<u32> {
    let (src, src_len) = (bytes.at(32, 8), bytes.at(40, 4));
    let (dst, dst_len) = (bytes.at(48, 8), bytes.at(56, 4));
    let unit = match bytes.at(72, 2) {
        0 => src_len,
        1 => 512,
        2 => 4096,
        3 => 8192,
        _ => 0,
    };
    let (aad, padded) = (bytes.at(104, 4), bytes.at(108, 4));
    let unaligned = can_unaligned && bytes[112] != 0;
    let rows = [
        (app.is_none(), 110),
        (bytes.at(66, 2) != u64::from(session), 107),
        (Some(bytes[68]) != app, 108),
        (bytes[24] > 1, 114),
        (bytes[25] != u8::from(xts), 112),
        (xts && dst_len < src_len, 118),
        (xts && (unit == 0 || src_len % unit != 0), 118),
        (!xts && (src_len == 0 || aad > src_len), 117),
        (!xts && unaligned && (padded < aad || padded % 32 != 0), 117),
        (!xts && padded > src_len, 117),
        (!xts && dst_len < src_len, 117),
        (bytes[64] != 1, 113),
        (src == 0 || src_len == 0 || is_outside(src, src_len), 101),
        (dst == 0 || dst_len == 0 || is_outside(dst, dst_len), 103),
        (src_len > MIB_16, 115),
        (dst_len > MIB_16, 116),
    ];
    first(&rows)
}

/// What the first row that applies says.
fn first(rows: &[(bool, u32)]) -> Option<u32> {
    rows.iter().find(|(applies, _)| *applies).map(|row| row.1)
}
