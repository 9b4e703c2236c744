// SPDX-License-Identifier: GPL-2.0

//! Tags: which slots of a queue are in use, and permits to take one.

use super::facade::{
    list,
    Acquire,
    Atomic,
    Full,
    List,
    Relaxed,
    Result,
    Waited, //
};

/// Takes the lowest bit of `words` that is clear, which the caller then holds.
///
/// Fully ordered, as [`give`] is: everything that the last holder of a bit did happens before what
/// the next one does.
pub(crate) fn take_lowest(words: &[Atomic<u64>]) -> Option<usize> {
    for (index, word) in words.iter().enumerate() {
        // Relaxed, as is an exchange that fails: see `Permits::take()`.
        let mut taken = word.load(Relaxed);
        while taken != u64::MAX {
            let bit = taken.trailing_ones();
            match word.cmpxchg(taken, taken | (1 << bit), Full) {
                // CAST: Less than 64.
                Ok(_) => return Some(index * 64 + bit as usize),
                Err(now) => taken = now,
            }
        }
    }
    None
}

/// Gives back the bit `number` of `words`, which the caller holds.
pub(crate) fn give(words: &[Atomic<u64>], number: usize) {
    if let Some(word) = words.get(number / 64) {
        // The bit is set, so that subtracting it clears it and no other.
        word.fetch_sub(1 << (number % 64), Full);
    }
}

/// A set of tags, `0..count`, taken and given back without a lock.
///
/// # Invariants
///
/// A bit is set while somebody holds the tag, or if it is `count` or more.
pub(crate) struct Tags {
    words: List<Atomic<u64>>,
    count: usize,
}

impl Tags {
    /// Makes a set of `count` tags, none of which is taken.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(count: usize) -> Result<Self> {
        let words = list(count.div_ceil(64), |index| {
            Atomic::new(Self::unused(count, index))
        })?;
        // INVARIANT: Just the bits from `count` on are set.
        Ok(Self { words, count })
    }

    /// Returns the bits of the word `index` that are no tags of a set of `count`.
    fn unused(count: usize, index: usize) -> u64 {
        match count.saturating_sub(index * 64) {
            valid @ 0..64 => u64::MAX << valid,
            _ => 0,
        }
    }

    /// Returns how many tags there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Takes the lowest tag that is free.
    pub(crate) fn take(&self) -> Option<usize> {
        // INVARIANT: The bit was clear, so nobody held the tag; the caller does now.
        take_lowest(&self.words)
    }

    /// Gives `tag` back, which the caller holds.
    pub(crate) fn give(&self, tag: usize) {
        // INVARIANT: The caller does not hold the tag any more.
        give(&self.words, tag);
    }

    /// Returns whether no tag is taken, at a time that is not long ago: nothing is ordered by it.
    pub(crate) fn are_all_free(&self) -> bool {
        let mut words = self.words.iter().enumerate();
        words.all(|(index, word)| word.load(Relaxed) == Self::unused(self.count, index))
    }
}

/// Permits to take a tag of one of several queues, as many as there are tags.
///
/// Whoever holds a permit finds a free tag, unless that is of a queue that takes no commands for a
/// while: a permit too many is withheld meanwhile, so that nobody has to look for a tag now and
/// then while others, who come at the right moment, find one. Permits are given out in the order in
/// which they are asked for: somebody who does not have to wait cannot take that of somebody who
/// does.
///
/// # Invariants
///
/// `free` is the number of permits that nobody holds, less the number of those who are waiting
/// and for whom no signal was sent. `withheld` permits are held by nobody and not free.
pub(crate) struct Permits {
    free: Atomic<i32>,
    withheld: Atomic<u32>,
    restored: Atomic<u32>,
}

impl Permits {
    /// Makes a set without permits.
    pub(crate) fn new() -> Self {
        Self {
            free: Atomic::new(0),
            withheld: Atomic::new(0),
            restored: Atomic::new(0),
        }
    }

    /// Adds `count` permits; nobody may be waiting. Fully ordered, see [`Self::give`].
    pub(crate) fn add(&self, count: i32) {
        self.free.fetch_add(count, Full);
    }

    /// Gives a permit back: to nobody, or by `signal` to one of those who wait.
    ///
    /// Fully ordered: whoever gets the permit, from the word or by the signal, sees that the tag was
    /// given back before it.
    pub(crate) fn give(&self, signal: impl FnOnce()) {
        // INVARIANT: Either one more is free, or one waiter less is without a signal.
        if self.free.fetch_add(1, Full) < 0 {
            signal();
        }
    }

    /// Returns a number that is another one after each [`Self::restore`]. Acquire: what is looked at
    /// behind it is of that time or later.
    pub(crate) fn restored(&self) -> u32 {
        self.restored.load(Acquire)
    }

    /// Keeps the caller's permit, for which there was no tag after [`Self::restored`] was `seen`,
    /// from everybody until it is restored the next time. `signal` is as in [`Self::give`].
    ///
    /// Fully ordered, as are the two accesses of [`Self::restore`]: either that one finds the
    /// permit, or it is seen here. Then all look for tags once more, but that is no reason for
    /// anybody to do so again: two could keep each other at it for ever.
    pub(crate) fn withhold(&self, seen: u32, signal: impl FnMut()) {
        self.withheld.fetch_add(1, Full);
        if self.restored.fetch_add(0, Full) != seen {
            self.give_withheld(signal);
        }
    }

    /// Gives back all permits that are withheld, now that there are tags for them.
    pub(crate) fn restore(&self, signal: impl FnMut()) {
        self.restored.fetch_add(1, Full);
        self.give_withheld(signal);
    }

    fn give_withheld(&self, mut signal: impl FnMut()) {
        for _ in 0..self.withheld.xchg(0, Full) {
            self.give(&mut signal);
        }
    }

    /// Takes a permit. If there is none `sleep` waits for a signal, and gives up when it likes to;
    /// `consume` waits for one that is certain to come.
    ///
    /// Fully ordered, see [`Self::give`].
    ///
    /// # Errors
    ///
    /// What `sleep` says, unless that is [`Waited::Done`].
    pub(crate) fn take(
        &self,
        sleep: impl FnOnce() -> Waited,
        consume: impl FnOnce(),
    ) -> Result<(), Waited> {
        // INVARIANT: Either one less is free, or one waiter more is without a signal.
        if self.free.fetch_sub(1, Full) > 0 {
            return Ok(());
        }
        let waited = sleep();
        if waited == Waited::Done {
            return Ok(());
        }
        // Relaxed, as is an exchange that fails: the value only has to be one that it had, and the
        // exchange that succeeds finds out whether it still has it.
        let mut free = self.free.load(Relaxed);
        while free < 0 {
            // INVARIANT: One waiter less is without a signal.
            match self.free.cmpxchg(free, free + 1, Full) {
                Ok(_) => return Err(waited),
                Err(now) => free = now,
            }
        }
        // All waiters have been sent a signal, so one is for us. It must be consumed, or the next to
        // wait would have a permit that nobody gave; with it comes the permit.
        consume();
        Ok(())
    }
}
