// SPDX-License-Identifier: GPL-2.0
//! What is known of the memory that a call may point to.

use std::ops::Range;

/// End of what a process can have mapped, with page tables of four levels.
const TASK_END: u64 = 0x7fff_ffff_f000;

/// Below this nobody may map anything.
const FIRST: u64 = 0x1_0000;

/// Addresses that the kernel refuses without looking for memory.
const KERNEL_HALF: u64 = 1 << 63;

/// Whether memory can be accessed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Certainty {
    /// It cannot.
    No,
    /// Nobody knows.
    Maybe,
    /// It can.
    Yes,
}

/// How memory is accessed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// It is read.
    Read,
    /// It is written.
    Write,
}

/// A range of addresses, and what is known of it.
#[derive(Clone, Debug)]
struct Span {
    range: Range<u64>,
    read: Certainty,
    write: Certainty,
}

/// What is known of all addresses.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// Those that come last count.
    spans: Vec<Span>,
}

impl Map {
    /// Takes note of what is at `range`.
    pub fn add(&mut self, range: Range<u64>, read: Certainty, write: Certainty) {
        self.spans.push(Span { range, read, write });
    }

    /// What is known of the byte at `address`, and where that may end.
    fn at(&self, address: u64, how: How) -> (Certainty, u64) {
        if address >= TASK_END {
            return (Certainty::No, u64::MAX);
        }
        let holder = self
            .spans
            .iter()
            .rposition(|span| span.range.contains(&address));
        // Where one that counts more begins, this one ends.
        let above = holder.map_or(0, |index| index + 1);
        let next = self.spans[above..]
            .iter()
            .map(|span| span.range.start)
            .filter(|&start| start > address)
            .min()
            .unwrap_or(TASK_END);
        match holder.map(|index| &self.spans[index]) {
            Some(span) => {
                let certainty = match how {
                    How::Read => span.read,
                    How::Write => span.write,
                };
                (certainty, span.range.end.min(next))
            }
            None if address < FIRST => (Certainty::No, next.min(FIRST)),
            None => (Certainty::Maybe, next.min(TASK_END)),
        }
    }

    /// Whether `len` bytes at `address` can be accessed.
    pub fn can(&self, how: How, address: u64, len: u64) -> Certainty {
        let mut certainty = Certainty::Yes;
        let mut at = address;
        let mut left = len;
        while left > 0 {
            let (here, end) = self.at(at, how);
            certainty = certainty.min(here);
            if here == Certainty::No {
                break;
            }
            let step = left.min(end - at);
            at += step;
            left -= step;
        }
        certainty
    }
}

/// Whether `len` bytes at `address` can only be the kernel's.
pub fn is_outside(address: u64, len: u32) -> bool {
    address
        .checked_add(u64::from(len))
        .is_none_or(|end| end >= KERNEL_HALF)
}

#[cfg(test)]
mod tests {
    use super::is_outside;
    use super::Certainty;
    use super::How;
    use super::Map;

    fn map() -> Map {
        let mut map = Map::default();
        map.add(0x100_0000..0x200_0000, Certainty::No, Certainty::No);
        map.add(0x110_0000..0x110_2000, Certainty::Yes, Certainty::Yes);
        map.add(0x110_2000..0x110_3000, Certainty::Yes, Certainty::No);
        map.add(0x120_0000..0x120_1000, Certainty::Maybe, Certainty::Maybe);
        map
    }

    #[test]
    fn later_spans_count() {
        let map = map();
        for (how, address, len, certainty) in [
            (How::Read, 0x110_0000, 0x3000, Certainty::Yes),
            (How::Write, 0x110_0000, 0x2000, Certainty::Yes),
            (How::Write, 0x110_0000, 0x2001, Certainty::No),
            (How::Read, 0x10f_ffff, 1, Certainty::No),
            (How::Read, 0x110_2fff, 2, Certainty::No),
            (How::Read, 0x120_0000, 0x1000, Certainty::Maybe),
            (How::Read, 0x120_0000, 0x1001, Certainty::No),
            (How::Read, 0x10f_ffff, 0, Certainty::Yes),
            (How::Read, 0x300_0000, 1, Certainty::Maybe),
            (How::Read, 0xff_ffff, 2, Certainty::No),
        ] {
            assert_eq!(map.can(how, address, len), certainty, "{address:#x} {len}");
        }
    }

    #[test]
    fn nobody_has_the_ends() {
        let map = Map::default();
        for address in [0, 0xffff, 0x7fff_ffff_f000, 1 << 63, u64::MAX] {
            assert_eq!(
                map.can(How::Read, address, 8),
                Certainty::No,
                "{address:#x}"
            );
        }
        assert_eq!(map.can(How::Read, 0x7fff_ffff_e000, 0x1001), Certainty::No);
    }

    #[test]
    fn the_upper_half_is_outside() {
        assert!(!is_outside(0x8000_0000_0000, 1));
        assert!(!is_outside((1 << 63) - 17, 16));
        assert!(is_outside((1 << 63) - 16, 16));
        assert!(is_outside(u64::MAX, 1));
    }
}
