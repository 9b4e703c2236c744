// SPDX-License-Identifier: GPL-2.0
//! The device's view of memory.

use std::collections::HashMap;

/// Bytes, with fields by offset.
pub trait Fields {
    fn at(&self, offset: usize, len: usize) -> u64;
}

impl Fields for [u8] {
    fn at(&self, offset: usize, len: usize) -> u64 {
        let bytes = &self[offset..offset + len];
        bytes
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    }
}

/// Asserts that all bytes outside of `fields`, offsets and lengths, are 0.
pub fn assert_rest_is_zero(bytes: &[u8], fields: &[(usize, usize)]) {
    for (offset, byte) in bytes.iter().enumerate() {
        let is_field = fields
            .iter()
            .any(|(start, len)| (*start..start + len).contains(&offset));
        assert!(is_field || *byte == 0, "byte {offset} is {byte:#04x}");
    }
}

/// Segments by address.
pub type Memory = HashMap<u64, [u8; 4096]>;

/// Follows the list that `descriptor` is for, and returns its pieces (6.4).
pub fn follow(memory: &Memory, descriptor: &[u8]) -> Vec<(u64, u32)> {
    let mut pieces = Vec::new();
    let mut link = descriptor.to_vec();
    loop {
        assert!(pieces.len() < 1 << 16, "the list goes around");
        assert_eq!(link.at(12, 3), 0, "reserved");
        let (address, len) = (link.at(0, 8), link.at(8, 4) as usize);
        assert_eq!(address % 4096, 0, "a segment crosses a page");
        let segment = &memory[&address];
        let is_last = match link[15] {
            0x20 => false,
            0x30 => true,
            kind => panic!("type {kind:#04x} of a segment"),
        };
        assert!(len != 0 && len % 16 == 0 && len <= 4096);
        let mut descriptors: Vec<&[u8]> = segment[..len].chunks(16).collect();
        let next = if is_last { None } else { descriptors.pop() };
        for piece in descriptors {
            assert_eq!((piece[15], piece.at(12, 3)), (0, 0), "type of a piece");
            pieces.push((piece.at(0, 8), piece.at(8, 4) as u32));
        }
        match next {
            Some(next) => link = next.to_vec(),
            None => return pieces,
        }
    }
}

/// Puts words together as the processor reads them.
pub fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    std::array::from_fn(|index| bytes.at(8 * index, 8))
}
