// SPDX-License-Identifier: GPL-2.0

//! Rings of entries.
//!
//! Documentation/device.rst 3.3 and 3.5.

/// The phase in the last word of a completion queue entry, whatever its class (3.5).
const PHASE: u64 = 1 << 48;

/// Returns where the entry `index` begins, if each takes `len`.
#[inline(always)]
pub(crate) fn start(index: u32, len: usize) -> usize {
    // CAST: Widening.
    index as usize * len
}

/// Returns the phase that the last word of a completion queue entry has.
#[inline(always)]
pub(crate) fn phase(last: u64) -> bool {
    last & PHASE != 0
}

/// Copies the completion queue entry `index` to `to`, which is as long, if its phase is `wanted`;
/// returns whether it is. `word` returns a word of the ring.
///
/// The device writes the phase of an entry last. It is read first; `barrier` keeps the other reads
/// behind it.
#[inline(always)]
pub(crate) fn read(
    index: u32,
    wanted: bool,
    to: &mut [u64],
    word: impl Fn(usize) -> u64,
    barrier: impl FnOnce(),
) -> bool {
    let start = start(index, to.len());

    if phase(word(start + to.len() - 1)) != wanted {
        return false;
    }
    barrier();

    for (offset, to) in to.iter_mut().enumerate() {
        *to = word(start + offset);
    }
    true
}
