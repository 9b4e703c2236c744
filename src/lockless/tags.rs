// SPDX-License-Identifier: GPL-2.0

//! Tags: which slots of a queue are in use, and permits to take one.

pub(crate) use super::facade::PLACES;

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

/// In which order those who wait get permits: each draws a number when it comes, and the numbers are
/// called one after the other.
///
/// A number is called by a signal at its place, which is that of all numbers that are the same modulo
/// [`PLACES`]. Who has not woken up until as many more were drawn may find its signal consumed by one
/// of those, and has the next that comes there.
///
/// # Invariants
///
/// At each place, the numbers that were drawn and not called, less `left`, are as many as those who
/// wait there, less the signals there.
pub(crate) struct Order {
    drawn: u32,
    called: u32,
    /// How many have left each place before they were called.
    left: [u32; PLACES],
}

// A number that wraps around has the place that it would have had.
const _: () = assert!(PLACES.is_power_of_two());

impl Order {
    pub(crate) fn new() -> Self {
        Self {
            drawn: 0,
            called: 0,
            left: [0; PLACES],
        }
    }

    /// Returns the place of `number`.
    fn place(number: u32) -> usize {
        // CAST: Widening.
        number as usize % PLACES
    }

    /// Draws a number, and returns its place.
    fn draw(&mut self) -> usize {
        let place = Self::place(self.drawn);
        // INVARIANT: One more number, and one more who waits.
        self.drawn = self.drawn.wrapping_add(1);
        place
    }

    /// Calls the next number, and returns its place. Somebody must be waiting.
    fn call(&mut self) -> usize {
        loop {
            let place = Self::place(self.called);
            // INVARIANT: There will be a signal, or one who left is skipped.
            self.called = self.called.wrapping_add(1);
            match &mut self.left[place] {
                0 => return place,
                left => *left -= 1,
            }
        }
    }

    /// One who waits at `place` leaves.
    fn leave(&mut self, place: usize) {
        // INVARIANT: One less waits.
        self.left[place % PLACES] += 1;
    }
}

/// Those who wait for permits.
pub(crate) trait Line {
    /// Calls `inside` with the order, which nobody else has meanwhile.
    fn with_order<R>(&self, inside: impl FnOnce(&mut Order) -> R) -> R;

    /// Adds a signal at `place`, less than [`PLACES`].
    fn signal(&self, place: usize);

    /// Consumes a signal at `place` if there is one.
    fn try_wait(&self, place: usize) -> bool;

    /// Has others run, who are about to call somebody.
    fn let_run(&self);
}

/// Permits to take a tag of one of several queues, as many as there are tags.
///
/// Whoever holds a permit finds a free tag, unless that is of a queue that takes no commands for a
/// while: a permit too many is withheld meanwhile, so that nobody has to look for a tag now and
/// then while others, who come at the right moment, find one. Permits are given out in the order in
/// which they are asked for: those who wait are called in their [`Order`], and who gives a permit
/// cannot have it back before the one who was called has woken up.
///
/// # Invariants
///
/// `free` is the number of permits that nobody holds, less the number of those who are waiting
/// and for whom no call was decided on. It becomes negative only while the order is held, in which
/// they all have drawn then. `withheld` permits are held by nobody and not free.
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

    /// Gives a permit back: to nobody, or to the first of those who wait.
    ///
    /// Fully ordered: whoever gets the permit, from the word or by the signal, sees that the tag was
    /// given back before it.
    pub(crate) fn give(&self, line: &impl Line) {
        // INVARIANT: Either one more is free, or it is decided that one of those who wait is called.
        if self.free.fetch_add(1, Full) < 0 {
            // The signal is there before anybody looks at the order again.
            line.with_order(|order| line.signal(order.call()));
        }
    }

    /// Returns a number that is another one after each [`Self::restore`]. Acquire: what is looked at
    /// behind it is of that time or later.
    pub(crate) fn restored(&self) -> u32 {
        self.restored.load(Acquire)
    }

    /// Keeps the caller's permit, for which there was no tag after [`Self::restored`] was `seen`,
    /// from everybody until it is restored the next time.
    ///
    /// Fully ordered, as are the two accesses of [`Self::restore`]: either that one finds the
    /// permit, or it is seen here. Then all look for tags once more, but that is no reason for
    /// anybody to do so again: two could keep each other at it for ever.
    pub(crate) fn withhold(&self, seen: u32, line: &impl Line) {
        self.withheld.fetch_add(1, Full);
        if self.restored.fetch_add(0, Full) != seen {
            self.give_withheld(line);
        }
    }

    /// Gives back all permits that are withheld, now that there are tags for them.
    pub(crate) fn restore(&self, line: &impl Line) {
        self.restored.fetch_add(1, Full);
        self.give_withheld(line);
    }

    fn give_withheld(&self, line: &impl Line) {
        for _ in 0..self.withheld.xchg(0, Full) {
            self.give(line);
        }
    }

    /// Takes a permit. If there is none `sleep` waits for a signal at the place that it is given,
    /// and gives up when it likes to.
    ///
    /// Fully ordered, see [`Self::give`].
    ///
    /// # Errors
    ///
    /// What `sleep` says, unless that is [`Waited::Done`].
    pub(crate) fn take(
        &self,
        line: &impl Line,
        sleep: impl FnOnce(usize) -> Waited,
    ) -> Result<(), Waited> {
        // Relaxed, as is an exchange that fails: the value only has to be one that it had, and the
        // exchange that succeeds finds out whether it still has it.
        let mut free = self.free.load(Relaxed);
        while free > 0 {
            // INVARIANT: One less is free.
            match self.free.cmpxchg(free, free - 1, Full) {
                Ok(_) => return Ok(()),
                Err(now) => free = now,
            }
        }
        // INVARIANT: Either one less is free, or one more waits, who has drawn a number before
        // anybody can call one for it.
        let drawn = line.with_order(|order| {
            let is_free = self.free.fetch_sub(1, Full) > 0;
            (!is_free).then(|| order.draw())
        });
        let Some(place) = drawn else {
            return Ok(());
        };
        match sleep(place) {
            Waited::Done => Ok(()),
            waited => self.give_up(line, place, waited),
        }
    }

    /// Leaves `place`, where the caller waits for a permit, unless it gets one.
    fn give_up(&self, line: &impl Line, place: usize, waited: Waited) -> Result<(), Waited> {
        loop {
            let left = line.with_order(|order| {
                if line.try_wait(place) {
                    return Some(Ok(()));
                }
                // Relaxed, as in `take()`.
                let mut free = self.free.load(Relaxed);
                while free < 0 {
                    // INVARIANT: One waiter less, for whom no call was decided on.
                    match self.free.cmpxchg(free, free + 1, Full) {
                        Ok(_) => {
                            order.leave(place);
                            return Some(Err(waited));
                        }
                        Err(now) => free = now,
                    }
                }
                None
            });
            if let Some(left) = left {
                return left;
            }
            // As many as wait now are about to be called. Should another one get the signal then,
            // it is somebody's turn who may leave.
            line.let_run();
        }
    }
}
