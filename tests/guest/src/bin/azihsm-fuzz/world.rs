// SPDX-License-Identifier: GPL-2.0
//! The memory that the calls of one thread point to.
//!
//! It is at addresses of its own, the same in each run, and surrounded by
//! nothing, so that it is known what the kernel can access there.  What is only
//! this thread's is compared after each call with what it should hold.

use crate::dice::Dice;
use crate::map::Certainty;
use crate::map::Map;
use crate::raw;
use crate::raw::Access;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::sys::PAGE;
use nix::sys::memfd::memfd_create;
use nix::sys::memfd::MFdFlags;
use nix::sys::mman::MmapAdvise;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::ops::Range;

/// What memory holds that nothing should write to.
pub const STALE: u8 = 0xa5;

/// Addresses that each thread has.
const SHARE: u64 = 0x1_0000_0000;

/// Size of what only one thread uses, and of what cannot be used as one would
/// expect.
const SMALL: usize = 8 * PAGE;

/// Size of what takes the longest data there is, at any address in a page.
pub const LARGE: usize = (16 << 20) + 4 * PAGE;

/// Size of what changes all the time.
pub const RACING: usize = 4 << 20;

/// How many bytes the file has that ends in the middle, and how many pages.
const SHORT_LEN: usize = 2 * PAGE + 100;
const SHORT_PAGES: usize = SHORT_LEN.div_ceil(PAGE);

/// How far next to a long reply is looked for bytes that should not be there.
const AROUND: u64 = 4 * PAGE as u64;

// Where things are in the addresses of a thread.
const ARGUMENT: u64 = 0x10_0000;
const SOURCE: u64 = 0x20_0000;
const TARGET: u64 = 0x30_0000;
const READ_ONLY: u64 = 0x40_0000;
const READ_ONLY_ALIAS: u64 = 0x48_0000;
const WRITE_ONLY: u64 = 0x50_0000;
const WRITE_ONLY_ALIAS: u64 = 0x58_0000;
const NOTHING: u64 = 0x60_0000;
const SHORT: u64 = 0x70_0000;
// Aligned like a huge page.
const MOVING: u64 = 0x100_0000;
const LARGE_TARGET: u64 = 0x1000_0000;
const LARGE_SOURCE: u64 = 0x2000_0000;

/// A kind of memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// For structures; this thread's.
    Argument,
    /// For requests; this thread's.
    Source,
    /// For replies; this thread's.
    Target,
    /// For long replies; this thread's.
    LargeTarget,
    /// Long requests, always the same.
    LargeSource,
    /// Can be read only.
    ReadOnly,
    /// Can be written only.
    WriteOnly,
    /// Cannot be accessed.
    Nothing,
    /// Of a file that ends in the middle.
    Short,
    /// Changes all the time.
    Racing,
}

impl Kind {
    /// Where it is, from where the addresses of a thread begin.
    fn offset(self) -> u64 {
        match self {
            Self::Argument => ARGUMENT,
            Self::Source => SOURCE,
            Self::Target => TARGET,
            Self::LargeTarget => LARGE_TARGET,
            Self::LargeSource => LARGE_SOURCE,
            Self::ReadOnly => READ_ONLY,
            Self::WriteOnly => WRITE_ONLY,
            Self::Nothing => NOTHING,
            Self::Short => SHORT,
            Self::Racing => MOVING,
        }
    }

    /// How large it is.
    pub fn size(self) -> usize {
        match self {
            Self::LargeTarget | Self::LargeSource => LARGE,
            Self::Racing => RACING,
            Self::Argument => 2 * PAGE,
            _ => SMALL,
        }
    }
}

/// A file without a name that holds `content`.
pub fn file_of(content: &[u8]) -> Result<File> {
    let mut file = File::from(memfd_create(c"azihsm-fuzz", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    Ok(file)
}

/// Memory, and what it should hold.
struct Mirrored {
    kind: Kind,
    address: u64,
    mirror: Vec<u8>,
}

impl Mirrored {
    fn write(&mut self, offset: usize, content: &[u8]) -> Result<()> {
        self.mirror[offset..offset + content.len()].copy_from_slice(content);
        raw::write(self.address + offset as u64, content)
    }

    /// Address of a byte that is not what it should be, unless one of `allowed`
    /// has it.  Afterwards all of them are again.
    fn check(&mut self, allowed: &[Range<u64>]) -> Result<Option<u64>> {
        if raw::is(self.address, &self.mirror)? {
            return Ok(None);
        }
        let found = raw::read(self.address, self.mirror.len())?;
        let wrong = found
            .iter()
            .zip(&self.mirror)
            .zip(self.address..)
            .filter(|((found, expected), _)| found != expected)
            .map(|(_, address)| address)
            .find(|address| !allowed.iter().any(|range| range.contains(address)));
        raw::write(self.address, &self.mirror)?;
        Ok(wrong)
    }
}

/// See the [module](self).
pub struct World {
    base: u64,
    /// What only this thread changes.
    own: Vec<Mirrored>,
    map: Map,
    /// What is written to memory that may not be there comes from here.
    scratch: File,
    /// What the kernel itself put there.
    vdso: Vec<Range<u64>>,
}

impl World {
    /// The memory of thread `number` of this process; `constant` is what long
    /// requests are.
    pub fn new(number: usize, constant: &File) -> Result<Self> {
        let base = raw::BASE + number as u64 * SHARE;
        let at = |offset| base + offset;
        raw::map(base, SHARE as usize, Access::None, None)?;
        let mut map = Map::default();
        // What is not used lies between the end of one thread's and the others'.
        map.add(raw::BASE..raw::END, Certainty::No, Certainty::No);

        let mut own = Vec::new();
        for kind in [
            Kind::Argument,
            Kind::Source,
            Kind::Target,
            Kind::LargeTarget,
        ] {
            let (address, len) = (at(kind.offset()), kind.size());
            raw::map(address, len, Access::ReadWrite, None)?;
            map.add(
                address..address + len as u64,
                Certainty::Yes,
                Certainty::Yes,
            );
            if kind != Kind::LargeTarget {
                let stale = vec![STALE; len];
                raw::write(address, &stale)?;
                own.push(Mirrored {
                    kind,
                    address,
                    mirror: stale,
                });
            }
        }
        for (kind, access, alias, read, write) in [
            (
                Kind::ReadOnly,
                Access::Read,
                READ_ONLY_ALIAS,
                Certainty::Yes,
                Certainty::No,
            ),
            // Whether such pages can be read is up to the processor.
            (
                Kind::WriteOnly,
                Access::Write,
                WRITE_ONLY_ALIAS,
                Certainty::Maybe,
                Certainty::Yes,
            ),
        ] {
            let (address, len) = (at(kind.offset()), kind.size());
            let file = file_of(&vec![STALE; len])?;
            raw::map(address, len, access, Some((&file, 0)))?;
            raw::map(at(alias), len, Access::ReadWrite, Some((&file, 0)))?;
            map.add(address..address + len as u64, read, write);
        }
        let short = file_of(&vec![STALE; SHORT_LEN])?;
        raw::map(at(SHORT), SMALL, Access::ReadWrite, Some((&short, 0)))?;
        map.add(
            at(SHORT)..at(SHORT) + (SHORT_PAGES * PAGE) as u64,
            Certainty::Yes,
            Certainty::Yes,
        );
        raw::map(at(LARGE_SOURCE), LARGE, Access::Read, Some((constant, 0)))?;
        map.add(
            at(LARGE_SOURCE)..at(LARGE_SOURCE) + LARGE as u64,
            Certainty::Yes,
            Certainty::No,
        );
        raw::map(at(MOVING), RACING, Access::ReadWrite, None)?;
        map.add(
            at(MOVING)..at(MOVING) + RACING as u64,
            Certainty::Maybe,
            Certainty::Maybe,
        );
        // What the kernel put there itself: one is no memory at all.
        let maps = fs::read_to_string("/proc/self/maps")?;
        let mut vdso = Vec::new();
        for line in maps.lines().filter(|line| line.contains("[v")) {
            let range = range_of(line).context("/proc/self/maps")?;
            if range.start < 1 << 47 {
                map.add(range.clone(), Certainty::Maybe, Certainty::No);
                vdso.push(range);
            }
        }
        Ok(Self {
            base,
            own,
            map,
            scratch: file_of(&[])?,
            vdso,
        })
    }

    /// What is known of all addresses.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Where memory of this kind begins.
    pub fn address(&self, kind: Kind) -> u64 {
        self.base + kind.offset()
    }

    fn own(&mut self, kind: Kind) -> &mut Mirrored {
        self.own
            .iter_mut()
            .find(|memory| memory.kind == kind)
            .expect("asked for what a thread has of its own")
    }

    /// Copies `content` to `offset` of memory of any kind, as far as that is
    /// there.
    pub fn write(&mut self, kind: Kind, offset: usize, content: &[u8]) -> Result<()> {
        let fitting = kind.size().saturating_sub(offset).min(content.len());
        let content = &content[..fitting];
        match kind {
            Kind::Argument | Kind::Source | Kind::Target => self.own(kind).write(offset, content),
            Kind::ReadOnly => raw::write(self.base + READ_ONLY_ALIAS + offset as u64, content),
            Kind::WriteOnly => raw::write(self.base + WRITE_ONLY_ALIAS + offset as u64, content),
            Kind::Short => {
                let there = (SHORT_PAGES * PAGE)
                    .saturating_sub(offset)
                    .min(content.len());
                raw::write(self.address(kind) + offset as u64, &content[..there])
            }
            Kind::Racing => {
                let address = self.address(kind) + offset as u64;
                nix::sys::uio::pwrite(&self.scratch, content, 0)?;
                raw::write_if_possible(address, content.len(), &self.scratch, 0);
                Ok(())
            }
            Kind::Nothing | Kind::LargeSource | Kind::LargeTarget => Ok(()),
        }
    }

    /// `len` bytes at `address`, if this thread can tell.
    pub fn read(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let range = address..address.checked_add(len as u64)?;
        for kind in [
            Kind::Argument,
            Kind::Source,
            Kind::Target,
            Kind::LargeTarget,
            Kind::LargeSource,
            Kind::ReadOnly,
            Kind::WriteOnly,
            Kind::Short,
        ] {
            let start = self.address(kind);
            let size = match kind {
                Kind::Short => SHORT_PAGES * PAGE,
                _ => kind.size(),
            };
            if range.start >= start && range.end <= start + size as u64 {
                let alias = match kind {
                    Kind::WriteOnly => WRITE_ONLY_ALIAS - WRITE_ONLY,
                    _ => 0,
                };
                return raw::read(address + alias, len).ok();
            }
        }
        None
    }

    /// `len` bytes that nobody can tell from random ones.
    pub fn data(&self, dice: &mut Dice, len: usize) -> Vec<u8> {
        let offset = dice.below(LARGE - len);
        let address = self.address(Kind::LargeSource) + offset as u64;
        self.read(address, len).unwrap_or_default()
    }

    /// Address of a byte of this thread's that was changed, unless one of
    /// `allowed` has it.  Afterwards all is as it was.
    pub fn check(&mut self, allowed: &[Range<u64>]) -> Result<Option<u64>> {
        let mut wrong = None;
        for memory in &mut self.own {
            wrong = memory.check(allowed)?.or(wrong);
        }
        Ok(wrong)
    }

    /// The same for long replies, of which only what is next to `allowed` is
    /// looked at: most of it was never touched, and is not going to be.
    pub fn check_large(&mut self, allowed: &Range<u64>) -> Result<Option<u64>> {
        let start = self.address(Kind::LargeTarget);
        let end = start + LARGE as u64;
        let clamp = |address: u64| address.clamp(start, end);
        let before = clamp(allowed.start.saturating_sub(AROUND))..clamp(allowed.start);
        let behind = clamp(allowed.end)..clamp(allowed.end.saturating_add(AROUND));
        let mut wrong = None;
        for range in [before, behind] {
            let found = raw::read(range.start, (range.end - range.start) as usize)?;
            let touched = found.iter().position(|&byte| byte != 0);
            wrong = touched.map(|at| range.start + at as u64).or(wrong);
        }
        raw::advise(start, LARGE, MmapAdvise::MADV_DONTNEED)?;
        Ok(wrong)
    }

    /// Takes back what was written to `offset` of memory of this thread's.
    pub fn refill(&mut self, kind: Kind, offset: usize, len: usize) -> Result<()> {
        let len = len.min(kind.size() - offset);
        self.own(kind).write(offset, &vec![STALE; len])
    }

    /// Has other pages at the same addresses, as the device may still be writing
    /// to those that are there.
    pub fn renew(&mut self) -> Result<()> {
        let large = self.address(Kind::LargeTarget);
        raw::map(large, LARGE, Access::ReadWrite, None)?;
        for memory in &mut self.own {
            raw::map(memory.address, memory.mirror.len(), Access::ReadWrite, None)?;
            raw::write(memory.address, &memory.mirror)?;
        }
        Ok(())
    }

    /// An address where something is that was never meant for data.
    pub fn strange(&self, dice: &mut Dice) -> Option<u64> {
        let range = self.vdso.get(dice.below(self.vdso.len().max(1)))?;
        let len = range.end - range.start;
        Some(range.start + dice.below(len as usize) as u64)
    }
}

/// The addresses in a line of `/proc/self/maps`.
fn range_of(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::file_of;
    use super::Kind;
    use super::World;
    use super::LARGE;
    use super::STALE;
    use crate::map::Certainty;
    use crate::map::How;

    fn world(number: usize) -> World {
        World::new(number, &file_of(&vec![7; LARGE]).unwrap()).unwrap()
    }

    #[test]
    fn a_changed_byte_is_found_once() {
        let mut world = world(0);
        let target = world.address(Kind::Target);
        assert_eq!(world.check(&[]).unwrap(), None);
        let change = || crate::raw::write(target + 70, &[1]).unwrap();
        change();
        let allowed = target + 70..target + 71;
        assert_eq!(world.check(&[allowed]).unwrap(), None);
        change();
        let allowed = target + 60..target + 70;
        assert_eq!(world.check(&[allowed]).unwrap(), Some(target + 70));
        assert_eq!(world.read(target, 100).unwrap(), [STALE; 100]);
    }

    #[test]
    fn long_replies_are_looked_at_around_their_target() {
        let mut world = world(1);
        let target = world.address(Kind::LargeTarget) + (1 << 20);
        let allowed = target..target + 100;
        for (at, wrong) in [(99, None), (100, Some(100)), (5000, Some(5000))] {
            crate::raw::write(target + at, &[1]).unwrap();
            let expected = wrong.map(|at: u64| target + at);
            assert_eq!(world.check_large(&allowed).unwrap(), expected);
        }
        crate::raw::write(target - 1, &[1]).unwrap();
        assert_eq!(world.check_large(&allowed).unwrap(), Some(target - 1));
        assert_eq!(world.check_large(&allowed).unwrap(), None);
    }

    #[test]
    fn map_knows_what_there_is() {
        let mut world = world(2);
        world.write(Kind::ReadOnly, 5, b"abc").unwrap();
        let at = world.address(Kind::ReadOnly);
        assert_eq!(world.read(at + 5, 3).unwrap(), b"abc");
        let can = |how, kind, offset, len| {
            let at = world.address(kind) + offset;
            world.map().can(how, at, len)
        };
        let pages = |count: u64| count * 4096;
        for (how, kind, offset, len, certainty) in [
            (How::Read, Kind::Argument, 0, pages(2), Certainty::Yes),
            (How::Read, Kind::Argument, 1, pages(2), Certainty::No),
            (How::Write, Kind::ReadOnly, 0, 1, Certainty::No),
            (How::Read, Kind::WriteOnly, 0, 1, Certainty::Maybe),
            (How::Read, Kind::Short, 0, pages(3), Certainty::Yes),
            (How::Read, Kind::Short, 1, pages(3), Certainty::No),
            (How::Read, Kind::Nothing, 0, 1, Certainty::No),
            (How::Write, Kind::Racing, 0, 9, Certainty::Maybe),
            (How::Write, Kind::LargeSource, 0, 9, Certainty::No),
        ] {
            assert_eq!(can(how, kind, offset, len), certainty, "{kind:?} {offset}");
        }
    }
}
