// SPDX-License-Identifier: GPL-2.0
//! Changing memory that calls point to, while they are under way.

use crate::dice::Dice;
use crate::raw;
use crate::raw::Access;
use crate::world::file_of;
use crate::world::RACING;
use anyhow::Result;
use azihsm_guest::sys::PAGE;
use nix::sys::mman::MmapAdvise;
use nix::sys::signal::kill;
use nix::sys::signal::Signal;
use nix::unistd::ftruncate;
use nix::unistd::Pid;
use std::fs::File;
use std::thread;
use std::time::Duration;

/// What may be said about memory.
const ADVICE: &[MmapAdvise] = &[
    MmapAdvise::MADV_DONTNEED,
    MmapAdvise::MADV_DONTNEED,
    MmapAdvise::MADV_FREE,
    MmapAdvise::MADV_COLD,
    MmapAdvise::MADV_PAGEOUT,
    MmapAdvise::MADV_HUGEPAGE,
    MmapAdvise::MADV_NOHUGEPAGE,
    MmapAdvise::MADV_POPULATE_READ,
    MmapAdvise::MADV_POPULATE_WRITE,
    MmapAdvise::MADV_REMOVE,
    MmapAdvise::MADV_MERGEABLE,
    MmapAdvise::MADV_DONTFORK,
    MmapAdvise::MADV_DOFORK,
];

/// Changes the racing memory of worlds.
pub struct Chaos {
    dice: Dice,
    /// Where the memory is.
    places: Vec<u64>,
    /// Memory that is shared, and shrinks and grows.
    file: File,
    /// Bytes to write there.
    noise: File,
}

impl Chaos {
    /// Changes what is at `places`.
    pub fn new(mut dice: Dice, places: Vec<u64>) -> Result<Self> {
        let noise = file_of(&dice.bytes(16 * PAGE))?;
        Ok(Self {
            dice,
            places,
            file: file_of(&vec![0; RACING])?,
            noise,
        })
    }

    /// Changes something.
    pub fn step(&mut self) {
        let dice = &mut self.dice;
        let place = dice.pick(&self.places);
        let all = RACING / PAGE;
        let pages = dice.pick(&[8, 32, 128, all]);
        let first = dice.below(pages);
        let count = dice.between(1, pages - first);
        let (address, len) = (place + (first * PAGE) as u64, count * PAGE);
        let access = dice.weigh(&[
            (6, Access::ReadWrite),
            (1, Access::Read),
            (1, Access::Write),
            (1, Access::None),
        ]);
        // Each of these may fail, depending on what is there.
        let _ = match dice.below(16) {
            0 => raw::unmap(address, len),
            1..=3 => raw::map(address, len, access, None),
            4 | 5 => raw::map(address, len, access, Some((&self.file, first * PAGE))),
            6..=8 => raw::protect(address, len, access),
            9..=11 => raw::advise(address, len, dice.pick(ADVICE)),
            12 => {
                let size = dice.pick(&[0, PAGE, RACING / 2, RACING, RACING, RACING]);
                ftruncate(&self.file, size as i64).map_err(Into::into)
            }
            13 => kill(Pid::this(), Signal::SIGALRM).map_err(Into::into),
            _ => {
                let offset = dice.below(4 * PAGE);
                let len = dice.between(1, 512);
                let from = dice.below(15 * PAGE);
                raw::write_if_possible(place + offset as u64, len, &self.noise, from);
                Ok(())
            }
        };
        let pause = dice.pick(&[0, 0, 50, 200, 1000]);
        if pause > 0 {
            thread::sleep(Duration::from_micros(pause));
        }
    }
}
