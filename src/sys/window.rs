// SPDX-License-Identifier: GPL-2.0

//! Windows of 4 KiB onto registers.
//!
//! Missing upstream: a trait for these accesses that 7.2 has in the same way as 7.3, so that
//! something else can stand in for a device in a test.

use kernel::{
    io::Io,
    pci,
    prelude::*,
    sizes::SZ_4K, //
};

/// Registers, by their byte offset.
pub(crate) trait Window {
    /// Reads the 32 bits at `offset`, which must be known to be within the window.
    fn read_32(&self, offset: usize) -> u32;

    /// Writes the 32 bits at `offset`, which must be known to be within the window.
    fn write_32(&self, offset: usize, value: u32);

    /// Reads the 64 bits at `offset`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not within the window.
    fn read_64(&self, offset: usize) -> Result<u64>;

    /// Writes the 64 bits at `offset`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not within the window.
    fn write_64(&self, offset: usize, value: u64) -> Result;
}

// Always inline: where they are used the kernel crate finds out, when it is compiled, that offsets
// of 32 bits are within the window.
impl Window for pci::Bar<'_, SZ_4K> {
    #[inline(always)]
    fn read_32(&self, offset: usize) -> u32 {
        self.read32(offset)
    }

    #[inline(always)]
    fn write_32(&self, offset: usize, value: u32) {
        self.write32(value, offset);
    }

    #[inline(always)]
    fn read_64(&self, offset: usize) -> Result<u64> {
        self.try_read64(offset)
    }

    #[inline(always)]
    fn write_64(&self, offset: usize, value: u64) -> Result {
        self.try_write64(value, offset)
    }
}

/// What stands in for a window in unit tests.
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) mod fake {
    use core::cell::Cell;

    use kernel::{
        prelude::*,
        sizes::SZ_4K,
        time::{
            delay::fsleep,
            Delta, //
        },
    };

    use super::Window;

    /// Where the status of the controller is (device.rst 2.6).
    const STATUS: usize = 0x1c;

    /// What a look at the status finds.
    #[derive(Clone, Copy)]
    pub(crate) enum Look {
        /// This.
        Finds(u32),
        /// The same, but so much time passes that the shortest of all timeouts is over.
        FindsLate(u32),
    }

    /// A write.
    #[derive(Clone, Copy, Eq, PartialEq)]
    pub(crate) struct Write {
        pub(crate) offset: usize,
        pub(crate) bits: u32,
        pub(crate) value: u64,
        /// How often the status had been looked at.
        pub(crate) looks_before: usize,
    }

    /// 4 KiB of memory, but for the status, which follows a script; the end of that stays.
    pub(crate) struct Fake<'a> {
        words: KVec<Cell<u32>>,
        script: &'a [Look],
        looks: Cell<usize>,
        writes: [Cell<Option<Write>>; 8],
        write_count: Cell<usize>,
        strays: Cell<u32>,
    }

    impl<'a> Fake<'a> {
        /// Makes one that is all zeroes.
        pub(crate) fn new(script: &'a [Look]) -> Result<Self> {
            let mut words = KVec::with_capacity(SZ_4K / 4, GFP_KERNEL)?;
            for _ in 0..SZ_4K / 4 {
                words.push(Cell::new(0), GFP_KERNEL)?;
            }
            Ok(Self {
                words,
                script,
                looks: Cell::new(0),
                writes: [const { Cell::new(None) }; 8],
                write_count: Cell::new(0),
                strays: Cell::new(0),
            })
        }

        /// Returns the register of 32 bits at `offset`. Who asks for another one is remembered.
        fn word(&self, offset: usize, bytes: usize) -> Option<&Cell<u32>> {
            let word = (offset % bytes == 0)
                .then(|| self.words.get(offset / 4))
                .flatten();
            if word.is_none() {
                self.strays.set(self.strays.get() + 1);
            }
            word
        }

        fn note(&self, offset: usize, bits: u32, value: u64) {
            if let Some(place) = self.writes.get(self.write_count.get()) {
                place.set(Some(Write {
                    offset,
                    bits,
                    value,
                    looks_before: self.looks.get(),
                }));
            }
            self.write_count.set(self.write_count.get() + 1);
        }

        /// Sets the 32 bits at `offset`, as the device does.
        pub(crate) fn set(&self, offset: usize, value: u32) {
            if let Some(word) = self.word(offset, 4) {
                word.set(value);
            }
        }

        /// Returns the 32 bits at `offset`.
        pub(crate) fn get(&self, offset: usize) -> u32 {
            self.word(offset, 4).map_or(0, Cell::get)
        }

        /// Returns whether exactly `writes` were done, and forgets them.
        pub(crate) fn takes(&self, writes: &[Write]) -> bool {
            let is_as_many = self.write_count.replace(0) == writes.len();
            let done = self.writes.iter().map(Cell::take);
            is_as_many && done.zip(writes).all(|(done, write)| done == Some(*write))
        }

        /// Returns how often the status was looked at.
        pub(crate) fn looks(&self) -> usize {
            self.looks.get()
        }

        /// Returns how many accesses were to no register at all, or to parts of two.
        pub(crate) fn strays(&self) -> u32 {
            self.strays.get()
        }
    }

    impl Window for Fake<'_> {
        fn read_32(&self, offset: usize) -> u32 {
            if offset != STATUS {
                return self.get(offset);
            }
            let look = self.looks.replace(self.looks.get() + 1);
            match self.script.get(look).or(self.script.last()) {
                Some(Look::Finds(status)) => *status,
                Some(Look::FindsLate(status)) => {
                    fsleep(Delta::from_millis(700));
                    *status
                }
                None => self.get(offset),
            }
        }

        fn write_32(&self, offset: usize, value: u32) {
            self.note(offset, 32, value.into());
            self.set(offset, value);
        }

        fn read_64(&self, offset: usize) -> Result<u64> {
            let low = self.word(offset, 8).ok_or(EINVAL)?.get();
            Ok(u64::from(low) | u64::from(self.get(offset + 4)) << 32)
        }

        fn write_64(&self, offset: usize, value: u64) -> Result {
            self.note(offset, 64, value);
            // CAST: Takes half of the bits each.
            self.word(offset, 8).ok_or(EINVAL)?.set(value as u32);
            self.set(offset + 4, (value >> 32) as u32);
            Ok(())
        }
    }
}
