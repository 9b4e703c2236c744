// SPDX-License-Identifier: GPL-2.0

//! Scatter gather lists.
//!
//! Documentation/device.rst 6.4.

use super::facade::{
    static_assert,
    DmaAddress,
    FromBytes,
    Immutable,
    IntoBytes,
    SZ_4K, //
};

/// A descriptor (6.4.1).
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub(crate) struct Sgl {
    address: [u32; 2],
    len: u32,
    reserved: [u8; 3],
    kind: u8,
}
static_assert!(size_of::<Sgl>() == Sgl::BYTES);

impl Sgl {
    /// Size of a descriptor.
    pub(crate) const BYTES: usize = 16;

    const DATA: u8 = 0 << 4;
    const SEGMENT: u8 = 2 << 4;
    const LAST_SEGMENT: u8 = 3 << 4;

    fn new(kind: u8, address: DmaAddress, len: u32) -> Self {
        Self {
            address: dwords(address),
            len: len.to_le(),
            reserved: [0; 3],
            kind,
        }
    }

    /// Describes `len` bytes of data.
    pub(crate) fn data(address: DmaAddress, len: u32) -> Self {
        Self::new(Self::DATA, address, len)
    }

    /// Describes the segment at `address`, when `count` data descriptors are left: all of them if
    /// they fit, else as many as do, with the descriptor of the next segment behind them.
    pub(crate) fn segment(address: DmaAddress, count: usize) -> Self {
        if count <= PER_SEGMENT {
            // CAST: At most a segment.
            Self::new(Self::LAST_SEGMENT, address, (count * Self::BYTES) as u32)
        } else {
            // CAST: A small constant.
            Self::new(Self::SEGMENT, address, SEGMENT_BYTES as u32)
        }
    }
}

/// Splits an address into the dwords of an entry or descriptor.
pub(crate) fn dwords(address: DmaAddress) -> [u32; 2] {
    // CAST: Takes half of the bits each.
    [(address as u32).to_le(), ((address >> 32) as u32).to_le()]
}

/// Size of a segment, which may not cross a multiple of it (6.4.3).
pub(crate) const SEGMENT_BYTES: usize = SZ_4K;

/// Data descriptors of a segment that another one follows.
const PER_SEGMENT: usize = SEGMENT_BYTES / Sgl::BYTES - 1;

/// Returns how many segments `count` data descriptors need.
pub(crate) fn segments(count: usize) -> usize {
    count.div_ceil(PER_SEGMENT)
}

/// Writes a list of `count` pieces of data, which `part` returns one after the other. `segment`
/// returns where a segment is, and `write` puts a descriptor into a segment, at an offset.
///
/// # Errors
///
/// Those of the three.
pub(crate) fn write_list<E>(
    count: usize,
    mut part: impl FnMut() -> Result<(DmaAddress, u32), E>,
    segment: impl Fn(usize) -> Result<DmaAddress, E>,
    mut write: impl FnMut(usize, usize, Sgl) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = count;

    for index in 0..segments(count) {
        let here = left.min(PER_SEGMENT);
        for slot in 0..here {
            let (address, len) = part()?;
            write(index, slot * Sgl::BYTES, Sgl::data(address, len))?;
        }
        left -= here;
        if left != 0 {
            let link = Sgl::segment(segment(index + 1)?, left);
            write(index, PER_SEGMENT * Sgl::BYTES, link)?;
        }
    }
    Ok(())
}
