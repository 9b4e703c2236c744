// SPDX-License-Identifier: GPL-2.0

//! Tags: which slots of a queue are in use.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    },
    time::Jiffies, //
};

use crate::sys::completion::{
    Event,
    Waited, //
};

/// Takes the lowest bit of `words` that is clear, which the caller then holds.
///
/// Fully ordered, as [`give`] is: everything that the last holder of a bit did happens before what
/// the next one does.
pub(crate) fn take_lowest(words: &[Atomic<u64>]) -> Option<usize> {
    for (index, word) in words.iter().enumerate() {
        let mut taken = word.load(Relaxed);
        while taken != u64::MAX {
            let bit = taken.trailing_ones();
            match word.cmpxchg(taken, taken | 1 << bit, Full) {
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
    words: KVec<Atomic<u64>>,
    count: usize,
}

impl Tags {
    /// Makes a set of `count` tags, none of which is taken.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(count: usize) -> Result<Self> {
        let mut words = KVec::with_capacity(count.div_ceil(64), GFP_KERNEL)?;
        for index in 0..count.div_ceil(64) {
            words.push(Atomic::new(Self::unused(count, index)), GFP_KERNEL)?;
        }
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

    /// Returns whether no tag is taken.
    pub(crate) fn are_all_free(&self) -> bool {
        let mut words = self.words.iter().enumerate();
        words.all(|(index, word)| word.load(Relaxed) == Self::unused(self.count, index))
    }
}

/// Tasks that wait for a tag of one of several queues.
#[pin_data]
pub(crate) struct TagWaiters {
    waiting: Atomic<u32>,
    #[pin]
    freed: Event,
}

impl TagWaiters {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                waiting: Atomic::new(0),
                freed <- Event::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Wakes one waiter, if there is one. To be called after a tag was given back.
    ///
    /// # Ordering
    ///
    /// A waiter counts itself before it tries for a tag one last time, and here the tag is given
    /// back before the count is read. All four are fully ordered, so either the waiter gets the
    /// tag or it is counted here.
    pub(crate) fn wake(&self) {
        if self.waiting.load(Relaxed) != 0 {
            self.freed.signal();
        }
    }

    /// Repeats `attempt` as long as it gives nothing, sleeping until a tag was given back.
    ///
    /// A signal may be left over from an earlier waiter that did not need it; then `attempt` is
    /// made once more for nothing.
    pub(crate) fn wait<T>(
        &self,
        mut attempt: impl FnMut() -> Option<T>,
        mut sleep: impl FnMut(&Event) -> Waited,
    ) -> Result<T, Waited> {
        self.waiting.fetch_add(1, Full);
        let result = loop {
            if let Some(value) = attempt() {
                break Ok(value);
            }
            match sleep(&self.freed) {
                Waited::Done => {}
                ended => break Err(ended),
            }
        };
        self.waiting.fetch_sub(1, Full);
        result
    }
}

/// How long, and how, somebody is ready to wait.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// The longest time.
    pub(crate) timeout: Jiffies,
    /// Whether the wait ends when the task is killed.
    pub(crate) killable: bool,
}

impl Patience {
    /// Waits for `event`, at most for `longest`.
    pub(crate) fn wait(&self, event: &Event, longest: Jiffies) -> Waited {
        let timeout = longest.min(self.timeout);
        if self.killable {
            event.wait_killable(timeout)
        } else {
            event.wait(timeout)
        }
    }
}
