// SPDX-License-Identifier: GPL-2.0

//! Slots: the life of one command.
//!
//! A slot is what a tag stands for: the state of a command, its completion, and what [`Seat`] is
//! for, among that the memory that the device reads its request from and writes its response to.
//! It belongs to the slot and not to whoever waits for the command, who may have to leave before the
//! device is done.
//!
//! ```text
//!          take the tag          submit            pump            reaper
//!   Free ---------------> Owned --------> Queued ---------> InFlight -------> Done
//!    ^                     | ^                |                |               |
//!    |    give it back     | |                '----------------'---- halted -->|
//!    '---------------------' '-------------------------------------------------'
//!                                              the waiter
//! ```
//!
//! | state    | who may use the slot's memory | who moves it on                        |
//! |----------|-------------------------------|----------------------------------------|
//! | Free     | nobody                        | whoever takes the tag                  |
//! | Owned    | the owner of the tag          | the same                               |
//! | Queued   | nobody                        | the pump                               |
//! | InFlight | the device                    | the reaper, when the device is done    |
//! | Done     | nobody                        | the waiter                             |
//!
//! A waiter leaves early if its task is being killed, or if it is told to by the *evicted* mark, and
//! marks the slot *abandoned*. Whoever moves it to Done then wakes nobody, but has it made an
//! [orphan](super::pair::World::disowned).

use super::facade::{
    Acquire,
    Atomic,
    Full,
    Relaxed,
    Release, //
};

/// Most entries of a queue that tags have bits for in a command identifier.
pub(crate) const MAX_TAGS: usize = 1 << TAG_BITS;

const TAG_BITS: u32 = 10;

/// Generations that a command identifier tells apart.
const CID_GENERATIONS: u32 = 1 << (16 - TAG_BITS);

/// Where a command is. See the [module](self).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Phase {
    Free = 0,
    Owned = 1,
    Queued = 2,
    InFlight = 3,
    Done = 4,
}

/// The state word of a slot: phase, abandoned and evicted marks, and generation.
///
/// The generation is new each time the slot is used, and its low bits are part of the command
/// identifier. A completion that the device sends twice, or too late, is therefore not taken for
/// that of a later command in the same slot.
#[derive(Clone, Copy, Eq, PartialEq)]
struct State(u32);

impl State {
    const PHASE: u32 = 0x7;
    const ABANDONED: u32 = 1 << 3;
    const EVICTED: u32 = 1 << 4;
    const GENERATION_SHIFT: u32 = 8;

    fn is(self, phase: Phase) -> bool {
        // CAST: The discriminants are those of the word.
        self.0 & Self::PHASE == phase as u32
    }

    fn is_under_way(self) -> bool {
        self.is(Phase::InFlight) || self.is(Phase::Queued)
    }

    fn with(self, phase: Phase) -> Self {
        // CAST: As above.
        Self(self.0 & !Self::PHASE | phase as u32)
    }

    fn is_abandoned(self) -> bool {
        self.0 & Self::ABANDONED != 0
    }

    fn abandoned(self) -> Self {
        Self(self.0 | Self::ABANDONED)
    }

    fn is_evicted(self) -> bool {
        self.0 & Self::EVICTED != 0
    }

    fn evicted(self) -> Self {
        Self(self.0 | Self::EVICTED)
    }

    fn generation(self) -> u32 {
        self.0 >> Self::GENERATION_SHIFT
    }

    fn generation_of_cid(self) -> u32 {
        self.generation() % CID_GENERATIONS
    }

    fn next_use(self) -> Self {
        let generation = self.generation().wrapping_add(1);
        Self(generation << Self::GENERATION_SHIFT).with(Phase::Owned)
    }
}

/// Why a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Verdict {
    /// The device completed it; the completion queue entry was copied.
    Completed = 0,
    /// The queue was halted while the device had it.
    Halted,
    /// The queue was halted before the device had it.
    NotSent,
}

impl From<u32> for Verdict {
    fn from(word: u32) -> Self {
        match word {
            0 => Verdict::Completed,
            1 => Verdict::Halted,
            _ => Verdict::NotSent,
        }
    }
}

/// What became of an attempt to end a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// There is no such command.
    Stray,
    /// Its waiter was woken.
    Woken,
    /// Nobody waits any more; the slot is the caller's, who must see to it that it is collected
    /// and released.
    Orphaned,
}

/// Most 64-bit words of a completion queue entry, which is that of AES queues.
const CQE_WORDS: usize = 8;

/// What is around the state of a command.
pub(crate) trait Seat {
    /// What a waiter that leaves early leaves behind.
    type Left;

    /// Returns the state.
    fn slot(&self) -> &Slot;

    /// Wakes the waiter, now or when it comes to wait. Whatever was stored before is seen by it.
    fn signal(&self);

    /// Waits for a signal that is certain to come.
    fn wait(&self);

    /// Keeps `it` for whoever comes to [take it](Self::take_left_behind).
    fn leave_behind(&self, it: Self::Left);

    /// Returns what was left behind.
    fn take_left_behind(&self) -> Option<Self::Left>;
}

/// The state of one command. See the [module](self).
pub(crate) struct Slot {
    state: Atomic<u32>,
    verdict: Atomic<u32>,
    cqe: [Atomic<u64>; CQE_WORDS],
}

impl Slot {
    /// Makes a slot that is free.
    pub(crate) fn new() -> Self {
        Self {
            // CAST: The discriminants are those of the word.
            state: Atomic::new(Phase::Free as u32),
            verdict: Atomic::new(0),
            cqe: core::array::from_fn(|_| Atomic::new(0)),
        }
    }

    /// Acquire: whoever finds Done sees what was stored before the exchange that made it that.
    fn load(&self) -> State {
        State(self.state.load(Acquire))
    }

    /// Moves the slot from `from` to `to`, or returns what it is instead.
    ///
    /// Fully ordered if it is moved: what was stored before is seen by whoever finds `to`, and what
    /// those stored who made it `from` is seen here. An exchange that fails orders nothing, and need
    /// not: its result is only what the next one expects.
    fn exchange(&self, from: State, to: State) -> Result<(), State> {
        match self.state.cmpxchg(from.0, to.0, Full) {
            Ok(_) => Ok(()),
            Err(now) => Err(State(now)),
        }
    }

    /// Free -> Owned, by whoever took the tag.
    pub(crate) fn take(&self) {
        // Relaxed: taking the tag is fully ordered, and came after the last store to this.
        let state = State(self.state.load(Relaxed)).next_use();

        // The tag makes the caller the only one to write the word now. Relaxed: nobody looks at
        // the word for more than its phase until `queue()`.
        self.state.store(state.0, Relaxed);
    }

    /// Returns the command identifier, for the owner of the slot with this `tag`, and for the reaper
    /// while it ends the command.
    pub(crate) fn cid(&self, tag: usize) -> u16 {
        // Relaxed: the owner is the last who stored to it, and the reaper has acquired that.
        let generation = State(self.state.load(Relaxed)).generation_of_cid();

        // CAST: This has as many bits as a tag leaves, and tags are below `MAX_TAGS`.
        ((generation << TAG_BITS) as u16) | tag as u16
    }

    /// Owned -> Queued. What the owner wrote is seen by the pump, which finds the slot by its bit
    /// in the pending mask.
    ///
    /// Release: the monitor, which looks at all slots, may find Queued before the bit is set.
    pub(crate) fn queue(&self) {
        let state = State(self.state.load(Relaxed)).with(Phase::Queued);
        self.state.store(state.0, Release);
    }

    /// Queued -> InFlight, by the pump, which found the slot's bit in the pending mask.
    ///
    /// Only the marks can change meanwhile, so adding the difference is enough. Fully
    /// ordered: the doorbell, and with it the completion, comes later.
    pub(crate) fn launch(&self) {
        // CAST: The discriminants are those of the word.
        let step = Phase::InFlight as u32 - Phase::Queued as u32;
        self.state.fetch_add(step, Full);
    }

    /// `from` -> Done, by the only one who may move slots on from there; `signal` wakes the waiter.
    /// Before anybody can know that the command has ended, but when it is certain to, `ending` is
    /// called.
    ///
    /// With a completion queue entry the command must be the one that its `cid` names.
    pub(crate) fn end(
        &self,
        from: Phase,
        cqe: Option<(u16, &[u64])>,
        ending: impl FnOnce(),
        signal: impl FnOnce(),
    ) -> Ended {
        let mut state = self.load();
        if !state.is(from) {
            return Ended::Stray;
        }
        if let Some((cid, words)) = cqe {
            if u32::from(cid) >> TAG_BITS != state.generation_of_cid() {
                return Ended::Stray;
            }
            // Nobody else writes these: slots are moved on from `from` by one only. Relaxed: the
            // waiter reads them after it saw Done, which the fully ordered exchange below stores.
            for (to, word) in self.cqe.iter().zip(words) {
                to.store(*word, Relaxed);
            }
        }
        let verdict = match (cqe, from) {
            (Some(_), _) => Verdict::Completed,
            (None, Phase::Queued) => Verdict::NotSent,
            (None, _) => Verdict::Halted,
        };
        // CAST: The discriminants are those of the word. Relaxed: as above.
        self.verdict.store(verdict as u32, Relaxed);
        ending();

        // At most three times: the only other changes that can happen are that the waiter is told to
        // leave, and leaves.
        while let Err(now) = self.exchange(state, state.with(Phase::Done)) {
            state = now;
        }
        if state.is_abandoned() {
            return Ended::Orphaned;
        }
        // Whoever set the mark has signalled, or is about to: there is one signal for a command.
        if !state.is_evicted() {
            signal();
        }
        Ended::Woken
    }

    /// Tells the waiter, if there is one, to leave before the command has ended.
    pub(crate) fn evict(&self, signal: impl FnOnce()) {
        let mut state = self.load();
        while state.is_under_way() && !state.is_abandoned() && !state.is_evicted() {
            match self.exchange(state, state.evicted()) {
                Ok(()) => return signal(),
                Err(now) => state = now,
            }
        }
    }

    /// Returns whether the command has ended, for the waiter that consumed the signal. If it has
    /// not the waiter was told to leave.
    pub(crate) fn has_ended(&self) -> bool {
        self.load().is(Phase::Done)
    }

    /// The waiter leaves; `signalled` is whether it has consumed the signal. What it leaves behind
    /// it must have put there before: whoever finds the mark finds that, too. Returns whether it
    /// has left.
    ///
    /// If it cannot leave and has not consumed the signal it must wait for that, which is certain to
    /// come, and look again; if it has, the command has ended.
    pub(crate) fn abandon(&self, signalled: bool) -> bool {
        let mut state = self.load();
        while !state.is(Phase::Done) && (signalled || !state.is_evicted()) {
            match self.exchange(state, state.abandoned()) {
                Ok(()) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Done -> Owned, by the waiter, which consumed the signal, or for an orphaned command by the
    /// one who was left with it. Copies the completion queue entry, if there is one, to `cqe`.
    pub(crate) fn collect(&self, cqe: &mut [u64]) -> Verdict {
        // Relaxed: the signal, or the bit of the orphan, ordered all of this after the stores of
        // whoever ended the command, and nobody else looks at the slot until it is free.
        let state = self.load().with(Phase::Owned);
        self.state.store(state.0, Relaxed);

        let verdict = Verdict::from(self.verdict.load(Relaxed));
        if verdict == Verdict::Completed {
            for (word, from) in cqe.iter_mut().zip(&self.cqe) {
                *word = from.load(Relaxed);
            }
        }
        verdict
    }

    /// Returns a number for the command that is under way, whether anybody waits for it or not: it
    /// is another one for each of the next 16 million commands of the slot.
    pub(crate) fn under_way(&self) -> Option<u32> {
        // Relaxed: it tells commands apart, and nothing else of them is looked at.
        let state = State(self.state.load(Relaxed));

        state.is_under_way().then_some(state.generation())
    }

    /// Returns whether the device has the command.
    pub(crate) fn is_in_flight(&self) -> bool {
        // Relaxed: as above.
        State(self.state.load(Relaxed)).is(Phase::InFlight)
    }

    /// -> Free, by the owner, before giving the tag back.
    pub(crate) fn release(&self) {
        let state = State(self.state.load(Relaxed)).with(Phase::Free);

        // Relaxed: giving the tag back is fully ordered.
        let marks = State::ABANDONED | State::EVICTED;
        self.state.store(state.0 & !marks, Relaxed);
    }
}

/// Returns the tag in a command identifier, which need not be that of a slot.
pub(crate) fn tag_of(cid: u16) -> usize {
    usize::from(cid) & (MAX_TAGS - 1)
}
