// SPDX-License-Identifier: GPL-2.0

//! Scatter gather lists: how the device is told where data is.
//!
//! Documentation/device.rst 6.4.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma::{
        DataDirection,
        DmaAddress, //
    },
    prelude::*,
    sizes::SZ_4K,
    uaccess::UserPtr, //
};
use zerocopy_derive::Immutable;

use crate::sys::{
    dma::Buffer,
    pin::UserMemory, //
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
const SEGMENT_BYTES: usize = SZ_4K;

/// Data descriptors of a segment that another one follows.
const PER_SEGMENT: usize = SEGMENT_BYTES / Sgl::BYTES - 1;

/// User memory that the device accesses in place, with the list that describes it.
///
/// Dropping it may sleep; the device must be done with it.
pub(crate) struct Scattered {
    // Whether these are dropped before or after the memory does not matter: the device uses both
    // or neither.
    segments: KVec<Buffer>,
    memory: UserMemory,
}

impl Scattered {
    /// Pins `len` bytes of user memory at `address` for `dev`, and writes their list.
    ///
    /// # Errors
    ///
    /// Those of [`UserMemory::new`].
    pub(crate) fn new(
        dev: &Device<Bound>,
        address: UserPtr,
        len: u32,
        direction: DataDirection,
    ) -> Result<Self> {
        // CAST: Widening.
        let memory = UserMemory::new(dev, address, len as usize, direction)?;
        let count = memory.part_count();
        let mut segments = KVec::with_capacity(count.div_ceil(PER_SEGMENT), GFP_KERNEL)?;
        for _ in 0..count.div_ceil(PER_SEGMENT) {
            segments.push(Buffer::new(dev, SEGMENT_BYTES)?, GFP_KERNEL)?;
        }
        let this = Self { segments, memory };
        this.write()?;
        Ok(this)
    }

    /// Writes the list.
    fn write(&self) -> Result {
        let mut left = self.memory.part_count();
        let mut parts = self.memory.parts();

        for (index, segment) in self.segments.iter().enumerate() {
            let here = left.min(PER_SEGMENT);
            for slot in 0..here {
                let (address, len) = parts.next().ok_or(EINVAL)?;
                segment.write(slot * Sgl::BYTES, Sgl::data(address, len).as_bytes())?;
            }
            left -= here;
            if let Some(next) = self.segments.get(index + 1) {
                let link = Sgl::segment(next.dma_address(), left);
                segment.write(PER_SEGMENT * Sgl::BYTES, link.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Returns how many bytes the memory and its list are, in pages.
    pub(crate) fn bytes(&self) -> usize {
        let list = self.segments.len().saturating_mul(SEGMENT_BYTES);
        list.saturating_add(self.memory.pinned_bytes())
    }

    /// Returns the descriptor of the list, for a submission queue entry.
    pub(crate) fn list(&self) -> Sgl {
        match self.segments.first() {
            Some(first) => Sgl::segment(first.dma_address(), self.memory.part_count()),
            // There is at least one.
            None => Sgl::default(),
        }
    }
}
