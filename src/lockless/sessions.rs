// SPDX-License-Identifier: GPL-2.0

//! Sessions of the device: which of them somebody has, which are known to have nobody, and whether
//! one may be opened now.
//!
//! A device that loses all its sessions begins a new era. What is noted of one that was opened
//! before says nothing any more, as the device gives its number to the next.

use core::array;

use super::{
    facade::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    },
    pair::FIRST_ERA, //
};

/// How many eras later one may be to be taken for a later one: half of what there are.
const ERAS_AHEAD: u32 = u32::MAX / 2;

/// See the [module](self).
pub(crate) struct Sessions {
    // A bit by session identifier: the device has it, and nobody else. The era that this is for is
    // in the high half: how often the device has lost all sessions, plus one.
    ids: Atomic<u64>,
    // By session identifier: how many descriptors have it, and commands that use or close it and
    // have not ended, in the low half. The era that this is for is in the high half.
    owners: [Atomic<u64>; Sessions::MAX_IDS as usize],
    // How many commands that open a session have not ended, or are about to be sent.
    opens: Atomic<u32>,
    // How many reasons there are to send none now.
    opens_held_back: Atomic<u32>,
    // Whether a command that opens or closes a session ended without a completion, so that the
    // device may have one that nobody knows of.
    unsure: Atomic<bool>,
}

impl Sessions {
    /// Most identifiers that can be noted; the device has 8.
    pub(crate) const MAX_IDS: u16 = 32;

    /// Makes an empty set.
    pub(crate) fn new() -> Self {
        Self {
            ids: Atomic::new(Self::word(FIRST_ERA, 0)),
            owners: array::from_fn(|_| Atomic::new(0)),
            opens: Atomic::new(0),
            opens_held_back: Atomic::new(0),
            unsure: Atomic::new(false),
        }
    }

    /// Puts a word together, of which `era` is the upper half.
    fn word(era: u32, low: u32) -> u64 {
        u64::from(era) << 32 | u64::from(low)
    }

    /// Takes a word apart.
    fn parts(word: u64) -> (u32, u32) {
        // CAST: Takes half of the bits each.
        ((word >> 32) as u32, word as u32)
    }

    /// Changes a word, whose halves `change` gets, unless that returns `None`. Returns the upper half
    /// from before that.
    fn change(word: &Atomic<u64>, change: impl Fn(u32, u32) -> Option<(u32, u32)>) -> Option<u32> {
        let mut seen = word.load(Relaxed);
        loop {
            let (era, low) = Self::parts(seen);
            let (new_era, new_low) = change(era, low)?;
            match word.cmpxchg(seen, Self::word(new_era, new_low), Full) {
                Ok(_) => return Some(era),
                Err(now) => seen = now,
            }
        }
    }

    /// Notes the session `id` of `era`, which nobody has any more. If the device has lost it the
    /// number may be that of another one.
    ///
    /// An identifier that the device cannot have given is ignored.
    pub(crate) fn keep(&self, id: u16, era: u32) {
        if id < Self::MAX_IDS {
            Self::change(&self.ids, |now, ids| {
                (now == era).then_some((era, ids | 1 << id))
            });
        }
    }

    /// Takes the session `id`, if it was noted. Returns its era.
    pub(crate) fn take(&self, id: u16) -> Option<u32> {
        let bit = 1_u32.checked_shl(id.into())?;
        Self::change(&self.ids, |era, ids| {
            (ids & bit != 0).then_some((era, ids & !bit))
        })
    }

    /// Returns whether there are none that were noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.orphaned() == 0
    }

    /// Returns how many sessions are known to have nobody.
    pub(crate) fn orphaned(&self) -> u32 {
        Self::parts(self.ids.load(Relaxed)).1.count_ones()
    }

    /// Notes that a descriptor has the session `id` of `era`.
    pub(crate) fn gain_owner(&self, id: u16, era: u32) {
        // One that is found out late to be of an earlier era has no owners that count.
        self.change_owners(
            id,
            |now, count| match era.wrapping_sub(now) {
                0 => count.checked_add(1),
                1..=ERAS_AHEAD => Some(1),
                _ => None,
            },
            era,
        );
    }

    /// Notes that a descriptor does not have the session `id` of `era` any more. If the device
    /// still has it, this was noted before by [`Self::keep`].
    pub(crate) fn lose_owner(&self, id: u16, era: u32) {
        // Nobody has one of an earlier era.
        self.change_owners(
            id,
            |now, count| (now == era).then(|| count.saturating_sub(1)),
            era,
        );
    }

    /// Changes the number of owners as `change` says, which gets the era that it is for. The new
    /// number is for `era`.
    fn change_owners(&self, id: u16, change: impl Fn(u32, u32) -> Option<u32>, era: u32) {
        if let Some(owners) = self.owners.get(usize::from(id)) {
            Self::change(owners, |now, count| Some((era, change(now, count)?)));
        }
    }

    /// Returns whether a descriptor has the session `id`, or a command that has not ended.
    pub(crate) fn is_owned(&self, id: u16) -> bool {
        self.owners.get(usize::from(id)).is_some_and(|owners| {
            let (era, count) = Self::parts(owners.fetch_add(0, Full));

            era == self.era() && count != 0
        })
    }

    /// Returns how many sessions descriptors have, or commands that have not ended.
    pub(crate) fn owned(&self) -> u32 {
        // CAST: At most `MAX_IDS`.
        (0..Self::MAX_IDS).filter(|id| self.is_owned(*id)).count() as u32
    }

    /// Notes that the device has lost all sessions. To be called while no queue submits commands.
    pub(crate) fn begin_era(&self) {
        Self::change(&self.ids, |era, _| {
            let next = era.wrapping_add(1);
            Some((next.max(FIRST_ERA), 0))
        });
    }

    /// Returns in which era a session is that is opened now.
    pub(crate) fn era(&self) -> u32 {
        Self::parts(self.ids.load(Acquire)).0
    }

    /// Counts a command that opens a session until [`Self::end_open`]. Returns in which era it may
    /// be sent.
    pub(crate) fn begin_open(&self) -> u32 {
        self.opens.fetch_add(1, Full);
        self.era()
    }

    /// Ends what [`Self::begin_open`] began.
    pub(crate) fn end_open(&self) {
        self.opens.fetch_sub(1, Full);
    }

    /// Returns whether a command that opens a session, and is counted, may be sent.
    pub(crate) fn may_open(&self) -> bool {
        // Fully ordered, as are the two accesses of `begin_hold()` and `opens()`: either the one
        // who opens sees that it is held back, or the other sees it.
        self.opens_held_back.fetch_add(0, Full) == 0
    }

    /// Returns how many commands that open a session have not ended.
    pub(crate) fn opens(&self) -> u32 {
        self.opens.fetch_add(0, Full)
    }

    /// Lets no command that opens a session be sent until [`Self::end_hold`].
    pub(crate) fn begin_hold(&self) {
        self.opens_held_back.fetch_add(1, Full);
    }

    /// Ends what [`Self::begin_hold`] began.
    pub(crate) fn end_hold(&self) {
        self.opens_held_back.fetch_sub(1, Full);
    }

    /// Notes that a command that opens or closes a session ended without a completion.
    pub(crate) fn set_unsure(&self) {
        self.unsure.store(true, Release);
    }

    /// Takes note that sessions which nobody knows of are about to be flushed.
    pub(crate) fn clear_unsure(&self) {
        self.unsure.xchg(false, Full);
    }

    /// Returns whether there may be a session that nobody knows of.
    pub(crate) fn is_unsure(&self) -> bool {
        self.unsure.load(Acquire)
    }
}
