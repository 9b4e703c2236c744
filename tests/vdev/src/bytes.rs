// SPDX-License-Identifier: GPL-2.0

//! Little-endian fields of byte buffers.
//!
//! Fields beyond the end of a buffer read as zero and ignore writes, so that
//! no offset can make the device panic.

/// A run of bytes as an array.
pub fn get_array<const N: usize>(data: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    if let Some(bytes) = data.get(offset..).and_then(|data| data.get(..N)) {
        array.copy_from_slice(bytes);
    }
    array
}

/// An 8-bit field.
pub fn get_u8(data: &[u8], offset: usize) -> u8 {
    data.get(offset).copied().unwrap_or(0)
}

/// A 16-bit field.
pub fn get_u16(data: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(get_array(data, offset))
}

/// A 32-bit field.
pub fn get_u32(data: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(get_array(data, offset))
}

/// A 64-bit field.
pub fn get_u64(data: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(get_array(data, offset))
}

/// Sets a run of bytes.
pub fn put(data: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(field) = data
        .get_mut(offset..)
        .and_then(|data| data.get_mut(..bytes.len()))
    {
        field.copy_from_slice(bytes);
    }
}

/// Sets a 16-bit field.
pub fn put_u16(data: &mut [u8], offset: usize, value: u16) {
    put(data, offset, &value.to_le_bytes());
}

/// Sets a 32-bit field.
pub fn put_u32(data: &mut [u8], offset: usize, value: u32) {
    put(data, offset, &value.to_le_bytes());
}

/// Sets a 64-bit field.
pub fn put_u64(data: &mut [u8], offset: usize, value: u64) {
    put(data, offset, &value.to_le_bytes());
}

/// Whether a range of bytes is all zeros.
pub fn is_zero(data: &[u8], range: std::ops::Range<usize>) -> bool {
    data.get(range)
        .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_little_endian() {
        let mut data = [0; 16];
        put_u16(&mut data, 0, 0x0201);
        put_u32(&mut data, 2, 0x0605_0403);
        put_u64(&mut data, 6, 0x0e0d_0c0b_0a09_0807);
        assert_eq!(
            &data[..14],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
        );
        assert_eq!(get_u16(&data, 0), 0x0201);
        assert_eq!(get_u32(&data, 2), 0x0605_0403);
        assert_eq!(get_u64(&data, 6), 0x0e0d_0c0b_0a09_0807);
        assert_eq!(get_u8(&data, 13), 14);
        assert!(is_zero(&data, 14..16));
        assert!(!is_zero(&data, 13..16));
    }

    #[test]
    fn offsets_beyond_the_end_are_harmless() {
        let mut data = [0xff; 4];
        put_u32(&mut data, 1, 0);
        put_u32(&mut data, usize::MAX, 0);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(get_u32(&data, 1), 0);
        assert_eq!(get_u8(&data, 4), 0);
        assert!(!is_zero(&data, 2..9));
    }
}
