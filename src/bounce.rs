// SPDX-License-Identifier: GPL-2.0

//! Memory that AES data is copied through which is too large for a slot.
//!
//! To pin a page of the user's, describe it and map it takes some 700 instructions, to copy it takes
//! less time than that (Documentation/architecture.rst 2.7). The memory is allocated once, in buffers that are
//! shared by all queues, and mapped for as long as the driver is bound. Who finds too few of them
//! does not wait: its data is accessed in place instead.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma::DmaAddress,
    prelude::*,
    sizes::{
        SZ_1M,
        SZ_64K, //
    },
    sync::Arc,
    uaccess::UserPtr, //
};

use crate::{
    lockless::tags::Tags,
    sys::dma::Buffer, //
};

/// Bytes of a buffer.
const BUFFER_BYTES: usize = SZ_64K;

/// Most bytes that are copied: a text of 1 MiB with its additional data.
const MAX_BYTES: usize = SZ_1M + BUFFER_BYTES;

/// Most buffers of either direction.
pub(crate) const MAX_BUFFERS: usize = MAX_BYTES / BUFFER_BYTES;

/// Returns how many bytes each of the buffers has that hold `len` bytes.
fn part_lens(len: usize) -> impl Iterator<Item = usize> {
    (0..len)
        .step_by(BUFFER_BYTES)
        .map(move |offset| BUFFER_BYTES.min(len - offset))
}

/// Returns how many buffers of each direction `len` bytes need, if a device that has `total` can
/// have as many.
fn buffers_for(len: usize, total: usize) -> Option<usize> {
    let count = len.div_ceil(BUFFER_BYTES);
    (count <= MAX_BUFFERS && 2 * count <= total).then_some(count)
}

/// The buffers of a device.
pub(crate) struct Reserve {
    buffers: KVec<Buffer>,
    tags: Tags,
}

impl Reserve {
    /// Allocates `count` buffers, or less if there is not as much memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is not even that for a list.
    pub(crate) fn new(dev: &Device<Bound>, count: usize) -> Result<Arc<Self>> {
        let mut buffers = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let Ok(buffer) = Buffer::new(dev, BUFFER_BYTES) else {
                break;
            };
            buffers.push(buffer, GFP_KERNEL)?;
        }
        let tags = Tags::new(buffers.len())?;
        Ok(Arc::new(Self { buffers, tags }, GFP_KERNEL)?)
    }

    /// Takes the buffers that `len` bytes need in either direction, if there are as many.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Option<Bounced> {
        let count = buffers_for(len, self.buffers.len())?;
        // From here on the destructor gives back what was taken if there are not enough.
        let mut this = Bounced {
            reserve: self.clone(),
            numbers: [[0; MAX_BUFFERS]; 2],
            counts: [0; 2],
            len,
        };
        for (numbers, taken) in this.numbers.iter_mut().zip(&mut this.counts) {
            for number in numbers.get_mut(..count)? {
                // CAST: There are less than that.
                *number = self.tags.take()? as u16;
                *taken += 1;
            }
        }
        Some(this)
    }
}

/// Data that is copied: buffers that the device reads, and as many that it writes.
///
/// Dropping it clears and gives them back; the device must be done with it.
pub(crate) struct Bounced {
    reserve: Arc<Reserve>,
    numbers: [[u16; MAX_BUFFERS]; 2],
    counts: [usize; 2],
    len: usize,
}

/// What the device does with a buffer.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// It reads it.
    Source = 0,
    /// It writes it.
    Destination = 1,
}

impl Bounced {
    /// Returns how many bytes the buffers have.
    pub(crate) fn bytes(&self) -> usize {
        let [source, destination] = self.counts;
        source
            .saturating_add(destination)
            .saturating_mul(BUFFER_BYTES)
    }

    /// Returns the buffers of `side` that have the first `len` bytes, and how many each has.
    fn parts(&self, side: Side, len: usize) -> impl Iterator<Item = (&Buffer, usize)> {
        // CAST: The discriminants are indices.
        let side = side as usize;
        let taken = self.counts.get(side).copied().unwrap_or(0);
        let numbers = self.numbers.get(side).into_iter().flatten().take(taken);
        let buffers = numbers.filter_map(|number| self.reserve.buffers.get(usize::from(*number)));
        buffers.zip(part_lens(len))
    }

    /// Returns the bus address and the length of each part of the first `len` bytes.
    pub(crate) fn addresses(
        &self,
        side: Side,
        len: usize,
    ) -> impl Iterator<Item = (DmaAddress, usize)> + '_ {
        self.parts(side, len)
            .map(|(buffer, len)| (buffer.dma_address(), len))
    }

    /// Returns the bus address of the byte at `offset`.
    pub(crate) fn address(&self, side: Side, offset: usize) -> Option<DmaAddress> {
        let (buffer, len) = self.parts(side, offset + 1).last()?;
        // CAST: Widening.
        Some(buffer.dma_address() + (len - 1) as u64)
    }

    /// Copies the data from user memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be read.
    pub(crate) fn fill(&self, from: UserPtr) -> Result {
        let mut from = from;
        for (buffer, len) in self.parts(Side::Source, self.len) {
            buffer.copy_from_user(0, from, len)?;
            from = from.wrapping_byte_add(len);
        }
        Ok(())
    }

    /// Copies the result to user memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be written.
    pub(crate) fn copy_result(&self, to: UserPtr) -> Result {
        let mut to = to;
        for (buffer, len) in self.parts(Side::Destination, self.len) {
            buffer.copy_to_user(0, to, len)?;
            to = to.wrapping_byte_add(len);
        }
        Ok(())
    }
}

impl Drop for Bounced {
    fn drop(&mut self) {
        for side in [Side::Source, Side::Destination] {
            for (buffer, len) in self.parts(side, self.len) {
                // Cannot fail: it is at most the size of the buffer.
                let _ = buffer.clear(0, len);
            }
        }
        for (numbers, taken) in self.numbers.iter().zip(self.counts) {
            for number in numbers.iter().take(taken) {
                self.reserve.tags.give(usize::from(*number));
            }
        }
    }
}

#[kunit_tests(azihsm_bounce)]
mod tests {
    use super::*;
    use crate::sys::dma::Nobody;

    #[test]
    fn a_buffer_has_64_kib() {
        let cases: [(usize, &[usize]); 7] = [
            (0, &[]),
            (1, &[1]),
            (0xffff, &[0xffff]),
            (0x1_0000, &[0x1_0000]),
            (0x1_0001, &[0x1_0000, 1]),
            (0x2_0000, &[0x1_0000, 0x1_0000]),
            (0x2_8000, &[0x1_0000, 0x1_0000, 0x8000]),
        ];
        for (len, parts) in cases {
            assert!(part_lens(len).eq(parts.iter().copied()));
        }
    }

    #[test]
    fn all_bytes_are_in_a_buffer() {
        for len in (0..=MAX_BYTES).step_by(4093) {
            assert_eq!(part_lens(len).sum::<usize>(), len);
            assert_eq!(part_lens(len).count(), len.div_ceil(0x1_0000));
        }
    }

    // abi.rst 5.2: 17 * 64 KiB, in either direction, of 72 buffers unless told otherwise.
    #[test]
    fn what_needs_too_many_buffers_is_not_copied() {
        let cases = [
            (1, 72, Some(1)),
            (0x1_0000, 72, Some(1)),
            (0x1_0001, 72, Some(2)),
            (0x10_0000, 72, Some(16)),
            (0x11_0000, 72, Some(17)),
            (0x11_0000, 34, Some(17)),
            (0x11_0000, 33, None),
            (0x11_0001, 72, None),
            (0x11_0001, 1024, None),
            (16 << 20, 1024, None),
            (1, 2, Some(1)),
            (1, 1, None),
            (1, 0, None),
        ];
        for (len, total, count) in cases {
            assert_eq!(buffers_for(len, total), count);
        }
    }

    #[test]
    fn each_byte_is_in_its_buffer() -> Result {
        let nobody = Nobody::new()?;
        let reserve = Reserve::new(nobody.device(), 6)?;
        // The lowest are taken, those that the device reads first.
        let bounced = reserve.take(0x2_8005).ok_or(ENOMEM)?;
        assert_eq!(bounced.bytes(), 0x6_0000);
        let buffer = |index| reserve.buffers.get(index).map(Buffer::dma_address);

        for (side, first) in [(Side::Source, 0), (Side::Destination, 3)] {
            let lens: [(usize, &[usize]); 6] = [
                (1, &[1]),
                (0x1_0000, &[0x1_0000]),
                (0x1_0001, &[0x1_0000, 1]),
                (0x2_0000, &[0x1_0000, 0x1_0000]),
                (0x2_8000, &[0x1_0000, 0x1_0000, 0x8000]),
                (0x2_8005, &[0x1_0000, 0x1_0000, 0x8005]),
            ];
            for (len, parts) in lens {
                let expected = parts.iter().enumerate();
                let expected = expected.map(|(index, part)| (buffer(first + index), *part));
                let found = bounced.addresses(side, len);
                assert!(found.map(|(at, part)| (Some(at), part)).eq(expected));
            }
            let offsets = [
                (0, 0, 0),
                (1, 0, 1),
                (0xfff0, 0, 0xfff0),
                (0xffff, 0, 0xffff),
                (0x1_0000, 1, 0),
                (0x1_0010, 1, 0x10),
                (0x1_ffff, 1, 0xffff),
                (0x2_0000, 2, 0),
                (0x2_8000, 2, 0x8000),
                (0x2_8004, 2, 0x8004),
            ];
            for (offset, index, within) in offsets {
                let expected = buffer(first + index).map(|at| at + within);
                assert_eq!(bounced.address(side, offset), expected);
            }
        }
        Ok(())
    }

    #[test]
    fn buffers_come_back_empty() -> Result {
        let nobody = Nobody::new()?;
        let reserve = Reserve::new(nobody.device(), 6)?;
        let first = reserve.take(0x1_0001).ok_or(ENOMEM)?;
        // Two are left, not four, and those stay.
        assert!(reserve.take(0x1_0001).is_none());
        let second = reserve.take(0x1_0000).ok_or(ENOMEM)?;
        assert!(reserve.tags.take().is_none());

        for bounced in [first, second] {
            for side in [Side::Source, Side::Destination] {
                for (buffer, len) in bounced.parts(side, bounced.len) {
                    buffer.write(0, &[0xa5])?;
                    buffer.write(len - 1, &[0x5a])?;
                }
            }
        }
        assert!(reserve.tags.are_all_free());
        for buffer in reserve.buffers.iter() {
            for offset in [0, 0xffff] {
                let mut byte = [1];
                buffer.read(offset, &mut byte)?;
                assert_eq!(byte, [0]);
            }
        }
        Ok(())
    }
}
