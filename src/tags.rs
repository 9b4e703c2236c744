// SPDX-License-Identifier: GPL-2.0

//! Tags: which slots of a queue are in use.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        Delta,
        Instant,
        Jiffies,
        Monotonic, //
    },
};

use crate::sys::{
    completion::{
        Event,
        Waited,
        FOREVER, //
    },
    process, //
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

/// Permits to take a tag of one of several queues, as many as there are tags.
///
/// Whoever holds a permit finds a free tag, unless that is of a queue that takes no commands for a
/// while: a permit too many is withheld meanwhile, so that nobody has to look for a tag now and
/// then while others, who come at the right moment, find one. Permits are given out in the order in which they are
/// asked for: somebody who does not have to wait cannot take that of somebody who does.
///
/// # Invariants
///
/// `free` is the number of permits that nobody holds, less the number of those who are waiting
/// and for whom no signal was sent. `withheld` permits are held by nobody and not free.
#[pin_data]
pub(crate) struct Permits {
    free: Atomic<i32>,
    withheld: Atomic<u32>,
    restored: Atomic<u32>,
    #[pin]
    handed_over: Event,
}

impl Permits {
    /// Makes a set without permits.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                free: Atomic::new(0),
                withheld: Atomic::new(0),
                restored: Atomic::new(0),
                handed_over <- Event::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Adds `count` permits; nobody may be waiting.
    pub(crate) fn add(&self, count: i32) {
        self.free.fetch_add(count, Full);
    }

    /// Gives a permit back. May be called from any context.
    pub(crate) fn give(&self) {
        // INVARIANT: Either one more is free, or one waiter less is without a signal.
        if self.free.fetch_add(1, Full) < 0 {
            self.handed_over.signal();
        }
    }

    /// Returns a number that is another one after each [`Self::restore`].
    pub(crate) fn restored(&self) -> u32 {
        self.restored.load(Acquire)
    }

    /// Keeps the caller's permit, for which there was no tag after [`Self::restored`] was `seen`,
    /// from everybody until it is restored the next time.
    pub(crate) fn withhold(&self, seen: u32) {
        self.withheld.fetch_add(1, Full);
        // Fully ordered, as are the two accesses of `restore()`: either that one finds it, or it is
        // seen here.
        if self.restored.fetch_add(0, Full) != seen {
            self.restore();
        }
    }

    /// Gives back all permits that are withheld, now that there are tags for them.
    pub(crate) fn restore(&self) {
        self.restored.fetch_add(1, Full);
        for _ in 0..self.withheld.xchg(0, Full) {
            self.give();
        }
    }

    /// Takes a permit, waiting for it as `sleep` does if there is none.
    ///
    /// # Errors
    ///
    /// What `sleep` says, unless that is [`Waited::Done`].
    pub(crate) fn take(&self, sleep: impl FnOnce(&Event) -> Waited) -> Result<(), Waited> {
        // INVARIANT: Either one less is free, or one waiter more is without a signal.
        if self.free.fetch_sub(1, Full) > 0 {
            return Ok(());
        }
        let waited = sleep(&self.handed_over);
        if waited == Waited::Done {
            return Ok(());
        }
        let mut free = self.free.load(Relaxed);
        while free < 0 {
            // INVARIANT: One waiter less is without a signal.
            match self.free.cmpxchg(free, free + 1, Full) {
                Ok(_) => return Err(waited),
                Err(now) => free = now,
            }
        }
        // All waiters have been sent a signal, so one is for us. Take it: that is as well.
        while self.handed_over.wait(FOREVER) != Waited::Done {}
        Ok(())
    }
}

/// How long, and how, somebody is ready to wait.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// The longest time; none waits until it is over.
    pub(crate) timeout: Option<Delta>,
    /// Whether the wait ends when the task is killed.
    pub(crate) killable: bool,
}

impl Patience {
    /// Begins to wait.
    pub(crate) fn start(self) -> Wait {
        Wait {
            killable: self.killable,
            limit: self.timeout.map(|timeout| (Instant::now(), timeout)),
        }
    }
}

/// A wait that has begun.
pub(crate) struct Wait {
    killable: bool,
    limit: Option<(Instant<Monotonic>, Delta)>,
}

impl Wait {
    /// Returns whether the wait ends now because the task is being killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.killable && process::is_killed()
    }

    /// Returns whether the time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.limit
            .is_some_and(|(since, timeout)| since.elapsed() >= timeout)
    }

    /// Waits for `event` until the time is over, give or take a second.
    pub(crate) fn for_event(&self, event: &Event) -> Waited {
        // In ticks: about a second.
        const SLICE: Jiffies = 256;

        // Without a limit there is nothing to look at meanwhile, and no timer is needed.
        let slice = self.limit.map_or(FOREVER, |_| SLICE);
        loop {
            match self.wait(event, slice) {
                Waited::TimedOut if !self.is_over() => {}
                waited => return waited,
            }
        }
    }

    /// Waits for `event` for `slice`, which may be longer than what is left of the time.
    pub(crate) fn wait(&self, event: &Event, slice: Jiffies) -> Waited {
        if self.killable {
            event.wait_killable(slice)
        } else {
            event.wait(slice)
        }
    }
}
