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
/// Dropping it may sleep, and after [`Scattered::keep_written`] for long; the device must be done
/// with it.
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

    /// See [`UserMemory::keep_written`].
    pub(crate) fn keep_written(&mut self) {
        self.memory.keep_written();
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

// Documentation/device.rst 6.4.
#[kunit_tests(azihsm_sgl)]
mod tests {
    use super::*;
    use sgl::{
        segments,
        write_list, //
    };

    const HERE: u64 = 0x0123_4567_89ab_c000;

    #[test]
    fn descriptors_are_laid_out_as_documented() {
        let data = Sgl::data(HERE + 5, 0x0506_0708);
        let bytes = [
            0x05, 0xc0, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 8, 7, 6, 5, 0, 0, 0, 0x00,
        ];
        assert_eq!(data.as_bytes(), bytes);
        let cases: [(usize, [u8; 4], u8); 5] = [
            (1, [0x10, 0x00, 0, 0], 0x30),
            (254, [0xe0, 0x0f, 0, 0], 0x30),
            (255, [0xf0, 0x0f, 0, 0], 0x30),
            (256, [0x00, 0x10, 0, 0], 0x20),
            (511, [0x00, 0x10, 0, 0], 0x20),
        ];
        for (count, [a, b, c, d], kind) in cases {
            let segment = Sgl::segment(HERE, count);
            let bytes = [
                0x00, 0xc0, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, a, b, c, d, 0, 0, 0, kind,
            ];
            assert_eq!(segment.as_bytes(), bytes);
        }
        assert_eq!(Sgl::default().as_bytes(), [0; 16]);
    }

    #[test]
    fn a_segment_has_255_pieces() {
        let cases = [
            (0, 0),
            (1, 1),
            (254, 1),
            (255, 1),
            (256, 2),
            (510, 2),
            (511, 3),
            (4097, 17),
        ];
        for (count, needed) in cases {
            assert_eq!(segments(count), needed);
        }
        assert_eq!(sgl::SEGMENT_BYTES, 4096);
    }

    #[test]
    fn lists_are_written_piece_by_piece_with_links_between() -> Result {
        let piece = |index: usize| (HERE + 0x1_0000 * index as u64, 100 + index as u32);
        let address = |index: usize| 0x8000_0000 + 0x1000 * index as u64;

        for count in [1, 2, 254, 255, 256, 257, 510, 511, 765, 766] {
            let mut asked = 0;
            let mut written = 0;
            let mut wrong = 0;
            write_list(
                count,
                || {
                    asked += 1;
                    Ok(piece(asked - 1))
                },
                |index| Ok(address(index)),
                |segment, offset, sgl| {
                    // The place that it has in the list, links counted.
                    let place = segment * 256 + offset / 16;
                    let left = count - 255 * (segment + 1).min(count / 255);
                    let expected = match offset {
                        4080 if left <= 255 => {
                            let link = Sgl::segment(address(segment + 1), left);
                            // A last segment.
                            (sgl == link && link.as_bytes().last() == Some(&0x30)).then_some(sgl)
                        }
                        4080 => {
                            let link = Sgl::segment(address(segment + 1), left);
                            (sgl == link && link.as_bytes().last() == Some(&0x20)).then_some(sgl)
                        }
                        _ => {
                            let (address, len) = piece(segment * 255 + offset / 16);
                            Some(Sgl::data(address, len))
                        }
                    };
                    if place != written || offset % 16 != 0 || expected != Some(sgl) {
                        wrong += 1;
                    }
                    written += 1;
                    Ok::<(), Error>(())
                },
            )?;
            assert_eq!(wrong, 0);
            assert_eq!(asked, count);
            assert_eq!(written, count + count.div_ceil(255) - 1);
        }
        Ok(())
    }

    // 6.4.2.
    #[test]
    fn segments_end_as_documented() -> Result {
        /// How many pieces, then the segment, the offset in it, and the descriptor there.
        type Case = (usize, usize, usize, [u8; 16]);
        let cases: [Case; 15] = [
            (
                1,
                0,
                0,
                [0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            ),
            (
                255,
                0,
                0,
                [0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            ),
            (
                255,
                0,
                4064,
                [0, 0xe0, 0x0f, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            ),
            (
                256,
                0,
                4064,
                [0, 0xe0, 0x0f, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            ),
            (
                256,
                0,
                4080,
                [0, 0x10, 0, 0x80, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0x30],
            ),
            (
                256,
                1,
                0,
                [0, 0xf0, 0x0f, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            ),
            (
                257,
                0,
                4080,
                [0, 0x10, 0, 0x80, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0x30],
            ),
            (
                257,
                1,
                16,
                [0, 0, 0x10, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            ),
            (
                510,
                0,
                4080,
                [
                    0, 0x10, 0, 0x80, 0, 0, 0, 0, 0xf0, 0x0f, 0, 0, 0, 0, 0, 0x30,
                ],
            ),
            (
                510,
                1,
                4064,
                [0, 0xd0, 0x1f, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            ),
            (
                511,
                0,
                4080,
                [0, 0x10, 0, 0x80, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x20],
            ),
            (
                511,
                1,
                4064,
                [0, 0xd0, 0x1f, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            ),
            (
                511,
                1,
                4080,
                [0, 0x20, 0, 0x80, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0x30],
            ),
            (
                511,
                2,
                0,
                [0, 0xe0, 0x1f, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
            ),
            (
                4096,
                15,
                4080,
                [0, 0, 1, 0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x30],
            ),
        ];
        for (count, segment, offset, descriptor) in cases {
            // Pages from 0x10000000, described in segments from 0x80000000.
            let mut pages = (0x1000_0000..).step_by(0x1000);
            let mut found = None;
            write_list(
                count,
                || Ok((pages.next().ok_or(EINVAL)?, 0x1000)),
                |index| Ok(0x8000_0000 + 0x1000 * index as u64),
                |at, within, sgl: Sgl| {
                    if (at, within) == (segment, offset) {
                        found = Some(sgl);
                    }
                    Ok::<(), Error>(())
                },
            )?;
            assert!(found.is_some_and(|sgl| sgl.as_bytes() == descriptor));
        }
        Ok(())
    }

    #[test]
    fn a_list_ends_with_the_first_error() {
        let list = |pieces: usize, room: usize| {
            let mut left = pieces;
            write_list(
                300,
                || {
                    left = left.checked_sub(1).ok_or(EINVAL)?;
                    Ok((HERE, 1))
                },
                |index| if index < room { Ok(HERE) } else { Err(ENOMEM) },
                |_, _, _| Ok::<(), Error>(()),
            )
        };
        assert_eq!(list(300, 2), Ok(()));
        assert_eq!(list(299, 2), Err(EINVAL));
        assert_eq!(list(300, 1), Err(ENOMEM));
    }
}
