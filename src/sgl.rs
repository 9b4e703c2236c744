// SPDX-License-Identifier: GPL-2.0

//! Scatter gather lists: how the device is told where data is.
//!
//! Documentation/device.rst 6.4.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma::DataDirection,
    prelude::*,
    uaccess::UserPtr, //
};

use crate::{
    sys::{
        dma::Buffer,
        pin::UserMemory, //
    },
    wire::sgl,
};

pub(crate) use sgl::Sgl;

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
        let mut segments = KVec::with_capacity(sgl::segments(count), GFP_KERNEL)?;
        for _ in 0..sgl::segments(count) {
            segments.push(Buffer::new(dev, sgl::SEGMENT_BYTES)?, GFP_KERNEL)?;
        }
        let this = Self { segments, memory };
        this.write()?;
        Ok(this)
    }

    /// Writes the list.
    fn write(&self) -> Result {
        let segment = |index| self.segments.get(index).ok_or(EINVAL);
        let mut parts = self.memory.parts();

        sgl::write_list(
            self.memory.part_count(),
            || parts.next().ok_or(EINVAL),
            |index| segment(index).map(Buffer::dma_address),
            |index, offset, sgl| segment(index)?.write(offset, sgl.as_bytes()),
        )
    }

    /// Returns how many bytes the memory and its list are, in pages.
    pub(crate) fn bytes(&self) -> usize {
        let list = self.segments.len().saturating_mul(sgl::SEGMENT_BYTES);
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
