// SPDX-License-Identifier: GPL-2.0

//! Queue pairs: how commands get to the device and their completions back.
//!
//! Neither submitting nor completing takes a lock; see [`slot`] for who owns what, and [`Combiner`]
//! for how one processor does the work of all.
//!
//! What is used by the pump only, or by the reaper only, is accessed Relaxed here: each run of either
//! is ordered behind the one before it by the [`Combiner`].

use super::{
    combine::Combiner,
    facade::{
        list,
        Acquire,
        Atomic,
        Full,
        List,
        Relaxed,
        Result, //
    },
    slot::{
        self,
        Ended,
        Phase,
        Seat,
        Slot, //
    },
    tags::Tags, //
};

/// Completions that are consumed with one doorbell.
const BATCH: usize = 8;

/// The era of a command that may be submitted in any; no queue is in it.
pub(crate) const ANY_ERA: u32 = 0;

/// The era of a queue that is new.
pub(crate) const FIRST_ERA: u32 = ANY_ERA + 1;

/// A number that a start of a queue does not have, before it was started for the 2^32nd time.
const NO_START: u32 = 0;

/// What a queue pair does to the world around it. None of it may sleep.
pub(crate) trait World {
    /// What is around a slot.
    type Seat: Seat;

    /// A completion queue entry.
    type Cqe: Copy + Default + AsRef<[u64]>;

    /// Returns what is around the slot of `tag`, if there is such a slot.
    fn seat(&self, tag: usize) -> Option<&Self::Seat>;

    /// Returns the command identifier of an entry.
    fn cid(cqe: &Self::Cqe) -> u16;

    /// Copies the completion queue entry `index`, if its phase is `phase`; returns whether it is.
    /// The phase must have been read before the rest.
    fn read_cqe(&self, index: u32, phase: bool, to: &mut Self::Cqe) -> bool;

    /// Clears the completion queue.
    fn clear_cq(&self);

    /// Writes the submission queue entry of `tag` to `index` of the ring.
    fn write_sqe(&self, tag: usize, index: u32);

    /// Tells the device how far the submission queue is filled, after what is in it.
    fn ring_sq(&self, tail: u32);

    /// Tells the device how far the completion queue has been read, after it has been read.
    fn ring_cq(&self, head: u32);

    /// Says that there is an orphan, see [`QueuePair::take_orphans`].
    fn disowned(&self);

    /// Takes note that the command of `seat` is about to be submitted. Called by the pump.
    fn launching(seat: &Self::Seat);

    /// Takes note that the command of `seat` with this identifier, which was submitted, is about to
    /// end, by a completion if there is one. Called by the reaper.
    fn ending(&self, seat: &Self::Seat, cid: u16, cqe: Option<&Self::Cqe>);
}

/// What a queue does with the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
enum Mode {
    /// It takes commands.
    Open = 0,
    /// It submits the commands that it has, but is avoided by others.
    Draining,
    /// It submits none, but gives completion queue entries back.
    Closed,
    /// It rings no doorbell.
    Silent,
}

/// What is to be ended of a queue that is not open, as the device is done with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
enum Ending {
    Nothing = 0,
    /// The submission queue: the completion queue lives on.
    Submissions = 1,
    /// Both queues.
    Both = 2,
}

/// See the [module](self).
pub(crate) struct QueuePair {
    tags: Tags,
    // A bit by tag: the entry of the slot is to be submitted.
    pending: List<Atomic<u64>>,
    // A bit by tag: the command has ended, and nobody waits for it.
    orphaned: List<Atomic<u64>>,
    // How many commands nobody waits for, whether they have ended or not.
    abandoned: Atomic<u32>,
    pump: Combiner,
    // Used by the pump only.
    sq_tail: Atomic<u32>,
    reaper: Combiner,
    // Both used by the reaper only.
    cq_head: Atomic<u32>,
    cq_phase: Atomic<bool>,
    mode: Atomic<u32>,
    ending: Atomic<u32>,
    // How often the queue was started, and the start of which waiters are told to leave.
    starts: Atomic<u32>,
    deserted: Atomic<u32>,
    // Changes while the queue is silent only.
    era: Atomic<u32>,
    // By tag: the era in which the command may be submitted. Written by the owner of the slot.
    eras: List<Atomic<u32>>,
    // By tag: the number of the command in the order of submission. Written by the pump only.
    serials: List<Atomic<u32>>,
    // How many commands were submitted. Written by the pump only.
    submitted: Atomic<u64>,
    // How many commands were completed while the queue was open, and the last one's number.
    // Written by the reaper only; others get a hint.
    completed: Atomic<u64>,
    last_completed: Atomic<u32>,
    stray: Atomic<u64>,
}

impl QueuePair {
    /// Makes a queue pair with `count` slots and one more entry in either ring.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(count: usize) -> Result<Self> {
        let mask = || list(count.div_ceil(64), |_| Atomic::new(0));

        Ok(Self {
            tags: Tags::new(count)?,
            pending: mask()?,
            orphaned: mask()?,
            abandoned: Atomic::new(0),
            pump: Combiner::new(),
            sq_tail: Atomic::new(0),
            reaper: Combiner::new(),
            cq_head: Atomic::new(0),
            cq_phase: Atomic::new(true),
            // CAST: The discriminants are those of the words.
            mode: Atomic::new(Mode::Open as u32),
            ending: Atomic::new(Ending::Nothing as u32),
            starts: Atomic::new(NO_START + 1),
            deserted: Atomic::new(NO_START),
            era: Atomic::new(FIRST_ERA),
            eras: list(count, |_| Atomic::new(ANY_ERA))?,
            serials: list(count, |_| Atomic::new(0))?,
            submitted: Atomic::new(0),
            completed: Atomic::new(0),
            last_completed: Atomic::new(0),
            stray: Atomic::new(0),
        })
    }

    /// Returns the number of entries of either ring.
    fn entries(&self) -> u32 {
        // CAST: At most `MAX_TAGS`.
        self.tags.count() as u32 + 1
    }

    /// Returns how many completions were not those of any command, since it was last asked.
    pub(crate) fn take_stray(&self) -> u64 {
        // Relaxed: it is a number and stands for nothing else.
        self.stray.xchg(0, Relaxed)
    }

    /// Returns whether the queue takes commands.
    pub(crate) fn is_open(&self) -> bool {
        self.is_mode(Mode::Open)
    }

    /// Returns whether the queue submits commands.
    pub(crate) fn is_submitting(&self) -> bool {
        self.is_open() || self.is_mode(Mode::Draining)
    }

    /// Returns whether the queue rings no doorbell.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_mode(Mode::Silent)
    }

    /// Acquire: who finds the queue open sees what was done before it was opened. In a run of the
    /// pump or the reaper the [`Combiner`] would be enough, see [`Self::set_mode`].
    fn is_mode(&self, mode: Mode) -> bool {
        // CAST: The discriminants are those of the word.
        self.mode.load(Acquire) == mode as u32
    }

    fn is_ending(&self, ending: Ending) -> bool {
        // CAST: As above. Acquire: as above.
        self.ending.load(Acquire) == ending as u32
    }

    /// Returns whether no command is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.tags.are_all_free()
    }

    /// Returns how many commands were submitted.
    pub(crate) fn submitted(&self) -> u64 {
        // Relaxed: it is a number and stands for nothing else.
        self.submitted.load(Relaxed)
    }

    /// Returns how many commands were completed while the queue was open.
    pub(crate) fn completed(&self) -> u64 {
        self.completed.load(Relaxed)
    }

    /// Returns whether the command of `tag` was submitted after the one that was completed last.
    pub(crate) fn is_later(&self, tag: usize) -> bool {
        let last = self.last_completed.load(Relaxed);
        let serial = self.serials.get(tag).map(|serial| serial.load(Relaxed));
        serial.is_some_and(|serial| serial.wrapping_sub(last) < u32::MAX / 2)
    }

    /// Takes a slot, if one is free. Whoever has a permit finds one.
    pub(crate) fn take<'a, W: World>(&self, world: &'a W) -> Option<(usize, &'a W::Seat)> {
        let tag = self.tags.take()?;
        let seat = world.seat(tag)?;

        seat.slot().take();
        Some((tag, seat))
    }

    /// Returns whether the command of `tag`, which is pending, may be submitted in the era of the
    /// queue.
    fn is_of_this_era(&self, tag: usize) -> bool {
        let bound = self.eras.get(tag).map_or(ANY_ERA, |era| era.load(Relaxed));
        bound == ANY_ERA || bound == self.era.load(Relaxed)
    }

    /// Frees the slot of `tag`, which is the caller's. It has to give a permit back after that.
    pub(crate) fn free(&self, slot: &Slot, tag: usize) {
        slot.release();
        self.tags.give(tag);
    }

    /// Submits the command of `tag`, which is the caller's until then, and waited for from then on;
    /// in `era` only: once the queue was opened in another one the command ends without being
    /// submitted, however long ago it was let in.
    pub(crate) fn submit<W: World>(&self, world: &W, slot: &Slot, tag: usize, era: u32) {
        if let Some(bound) = self.eras.get(tag) {
            // Relaxed: the pump reads it once the command is pending.
            bound.store(era, Relaxed);
        }
        slot.queue();
        if let Some(word) = self.pending.get(tag / 64) {
            // The bit is clear: it is set by the owner of the tag only, once. Fully ordered, as is
            // taking the bits: the pump sees what the owner of the slot did.
            word.fetch_add(1 << (tag % 64), Full);
        }
        self.pump(world);
    }

    /// Has what is pending submitted.
    fn pump<W: World>(&self, world: &W) {
        self.pump.run(|| self.pump_locked(world));
    }

    /// Consumes what the device has completed. May be called from any context.
    pub(crate) fn reap<W: World>(&self, world: &W) {
        self.reaper.run(|| self.reap_locked(world));
    }

    /// Does what may have been left undone: an interrupt may have been lost, or a call of the pump.
    pub(crate) fn look<W: World>(&self, world: &W) {
        self.pump(world);
        self.reap(world);
    }

    /// Called when a wait for the command of `seat` is over; `signalled` is whether it consumed the
    /// signal. Unless the command has ended, in which case `token` is returned, the waiter leaves,
    /// and leaves `token` behind.
    pub(crate) fn conclude<S: Seat>(
        &self,
        seat: &S,
        mut token: S::Left,
        mut signalled: bool,
    ) -> Option<S::Left> {
        while !(signalled && seat.slot().has_ended()) {
            // Relaxed: it says whether to look for orphans, and is set before there can be one.
            self.abandoned.fetch_add(1, Relaxed);
            seat.leave_behind(token);
            if seat.slot().abandon(signalled) {
                // The slot is freed by whoever ends the command.
                return None;
            }
            self.abandoned.fetch_sub(1, Relaxed);
            // Nobody takes it but for an abandoned command.
            token = seat.take_left_behind()?;

            // It ended at the last moment: the signal is there or on its way.
            if !signalled {
                seat.wait();
                signalled = true;
            }
        }
        Some(token)
    }

    /// The work of the reaper.
    ///
    /// The doorbell gives entries back before their commands end: a slot that is free again may
    /// have its next completion at once, for which the device must know of room.
    fn reap_locked<W: World>(&self, world: &W) {
        let entries = self.entries();
        let mut head = self.cq_head.load(Relaxed);
        let mut phase = self.cq_phase.load(Relaxed);

        // No more than the ring holds, so that a device which keeps filling it cannot keep us.
        for _ in 0..self.tags.count().div_ceil(BATCH) {
            let mut batch = [W::Cqe::default(); BATCH];
            let mut count = 0;
            for cqe in &mut batch {
                if !world.read_cqe(head, phase, cqe) {
                    break;
                }
                count += 1;
                head += 1;
                if head == entries {
                    head = 0;
                    phase = !phase;
                }
            }
            if count == 0 {
                break;
            }
            self.cq_head.store(head, Relaxed);
            self.cq_phase.store(phase, Relaxed);
            if !self.is_mode(Mode::Silent) {
                world.ring_cq(head);
            }
            for cqe in batch.iter().take(count) {
                self.complete(world, cqe);
            }
            if count < BATCH {
                break;
            }
        }
        if !self.is_ending(Ending::Nothing) {
            self.end_all(world, Phase::InFlight);
        }
        if self.is_ending(Ending::Both) {
            world.clear_cq();
            self.cq_head.store(0, Relaxed);
            self.cq_phase.store(true, Relaxed);
        }
    }

    /// Ends the command that `cqe` is for.
    fn complete<W: World>(&self, world: &W, cqe: &W::Cqe) {
        let cid = W::cid(cqe);
        let tag = slot::tag_of(cid);
        // Before it ends, after which there may be another command in the slot. Relaxed: it was
        // stored before the slot was in flight.
        let serial = self.serials.get(tag).map(|serial| serial.load(Relaxed));
        let ended = match world.seat(tag) {
            Some(seat) => seat.slot().end(
                Phase::InFlight,
                Some((cid, cqe.as_ref())),
                || world.ending(seat, cid, Some(cqe)),
                || seat.signal(),
            ),
            None => Ended::Stray,
        };
        match ended {
            Ended::Woken => {}
            Ended::Orphaned => self.disown(world, tag),
            Ended::Stray => {
                self.stray.fetch_add(1, Relaxed);
                return;
            }
        }
        // Those that deleting the queue ends say nothing of how it does.
        if self.is_submitting() {
            let completed = self.completed.load(Relaxed);
            self.completed.store(completed + 1, Relaxed);
            if let Some(serial) = serial {
                self.last_completed.store(serial, Relaxed);
            }
        }
    }

    /// Leaves the slot of a command that has ended, and that nobody waits for, to
    /// [`Self::take_orphans`].
    fn disown<W: World>(&self, world: &W, tag: usize) {
        if let Some(word) = self.orphaned.get(tag / 64) {
            // The bit is clear: a command ends once. Fully ordered, as is taking the bits: who does
            // sees what the command has, and how it ended.
            word.fetch_add(1 << (tag % 64), Full);
            world.disowned();
        }
    }

    /// Calls `discard` for each slot of a command that has ended, and that nobody waits for. It is
    /// the caller's from then on, to be collected and [freed](Self::free).
    pub(crate) fn take_orphans(&self, mut discard: impl FnMut(usize)) {
        for (index, word) in self.orphaned.iter().enumerate() {
            let mut mask = word.xchg(0, Full);
            while mask != 0 {
                // CAST: Less than 64.
                let tag = index * 64 + mask.trailing_zeros() as usize;
                mask &= mask - 1;
                self.abandoned.fetch_sub(1, Relaxed);
                discard(tag);
            }
        }
    }

    /// Returns whether there are commands that nobody waits for. Relaxed: those who are not seen are
    /// about to say so, see [`Self::conclude`].
    pub(crate) fn has_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed) != 0
    }

    /// Ends all commands in `phase` without a completion.
    fn end_all<W: World>(&self, world: &W, phase: Phase) {
        for tag in 0..self.tags.count() {
            self.end_halted(world, tag, phase);
        }
    }

    fn end_halted<W: World>(&self, world: &W, tag: usize, phase: Phase) {
        let Some(seat) = world.seat(tag) else {
            return;
        };
        let ending = || {
            if phase == Phase::InFlight {
                world.ending(seat, seat.slot().cid(tag), None);
            }
        };
        if seat.slot().end(phase, None, ending, || seat.signal()) == Ended::Orphaned {
            self.disown(world, tag);
        }
    }

    /// The work of the pump: submits what is pending, with one doorbell for all of it.
    fn pump_locked<W: World>(&self, world: &W) {
        let submitting = self.is_submitting();
        let entries = self.entries();
        let first = self.sq_tail.load(Relaxed);
        let mut tail = first;

        for (index, word) in self.pending.iter().enumerate() {
            // Relaxed: each bit was set before a call of the pump, which this run is behind.
            if word.load(Relaxed) == 0 {
                continue;
            }
            let mut mask = word.xchg(0, Full);
            while mask != 0 {
                // CAST: Less than 64.
                let tag = index * 64 + mask.trailing_zeros() as usize;
                mask &= mask - 1;
                if submitting && self.is_of_this_era(tag) {
                    self.launch(world, tag, tail);
                    tail = if tail + 1 == entries { 0 } else { tail + 1 };
                } else {
                    self.end_halted(world, tag, Phase::Queued);
                }
            }
        }
        if !self.is_ending(Ending::Nothing) {
            self.sq_tail.store(0, Relaxed);
        } else if tail != first {
            self.sq_tail.store(tail, Relaxed);
            world.ring_sq(tail);
        }
    }

    /// Writes the entry of `tag` to the ring at `index`; the device is about to be told.
    fn launch<W: World>(&self, world: &W, tag: usize, index: u32) {
        world.write_sqe(tag, index);
        if let (Some(seat), Some(serial)) = (world.seat(tag), self.serials.get(tag)) {
            let submitted = self.submitted.load(Relaxed).wrapping_add(1);
            self.submitted.store(submitted, Relaxed);
            // CAST: Takes the lower half.
            serial.store(submitted as u32, Relaxed);
            W::launching(seat);
            seat.slot().launch();
        }
    }

    /// Has the pump and the reaper run once here: whatever was stored before is seen by all runs
    /// that are not over when this returns.
    fn settle<W: World>(&self, world: &W) {
        self.reaper.run_here(|| self.reap_locked(world));
        self.pump.run_here(|| self.pump_locked(world));
    }

    /// Fully ordered, so that the store is before the runs of [`Self::settle`] begin.
    fn set_mode<W: World>(&self, mode: Mode, world: &W) {
        // CAST: The discriminants are those of the word.
        self.mode.xchg(mode as u32, Full);
        self.settle(world);
    }

    /// Ends all commands of a queue that is not open, and resets what `ending` says. Fully ordered:
    /// as above.
    fn end<W: World>(&self, ending: Ending, world: &W) {
        // CAST: The discriminants are those of the word.
        self.ending.xchg(ending as u32, Full);
        self.settle(world);
        // CAST: As above.
        self.ending.xchg(Ending::Nothing as u32, Full);
        // Once this has run nobody is still at ending it.
        self.settle(world);
    }

    /// Has the queue avoided, so that the commands in it are not joined by others.
    pub(crate) fn drain<W: World>(&self, world: &W) {
        self.set_mode(Mode::Draining, world);
    }

    /// Has a queue used again if it was drained; returns whether it was.
    pub(crate) fn refill<W: World>(&self, world: &W) -> bool {
        let drained = self.is_mode(Mode::Draining);
        if drained {
            self.set_mode(Mode::Open, world);
        }
        drained
    }

    /// Closes the queue: once this returns nothing is submitted any more, and what was not
    /// submitted yet has ended.
    pub(crate) fn close<W: World>(&self, world: &W) {
        self.set_mode(Mode::Closed, world);
    }

    /// Closes the queue, and once this returns rings no doorbell any more.
    pub(crate) fn silence<W: World>(&self, world: &W) {
        self.set_mode(Mode::Silent, world);
    }

    /// Ends all commands of a closed queue, now that the device has deleted its submission queue;
    /// those that it completed before keep their completion.
    pub(crate) fn end_submitted<W: World>(&self, world: &W) {
        self.end(Ending::Submissions, world);
    }

    /// Ends all commands of a silent queue, now that the device does not access their memory any
    /// more; those that it completed before keep their completion. The rings are as they were when
    /// new then.
    pub(crate) fn release<W: World>(&self, world: &W) {
        self.end(Ending::Both, world);
    }

    /// Lets the queue take commands again, or for the first time, in `era`, which may be another one
    /// only if the queue was silent. The device must know of the queue, or be told before there is a
    /// command.
    pub(crate) fn open<W: World>(&self, era: u32, world: &W) {
        // Relaxed: the pump reads it once it has found the queue open. No run is left that did so
        // before the queue was silent.
        self.era.store(era, Relaxed);
        self.starts.fetch_add(1, Full);
        self.set_mode(Mode::Open, world);
    }

    /// Returns a number for the time since the queue was opened last. Acquire: what is looked at
    /// behind it is of that time or later.
    pub(crate) fn start(&self) -> u32 {
        self.starts.load(Acquire)
    }

    /// Tells those who poll a queue to leave, and their slots with the device, unless the queue was
    /// opened again since [`Self::start`] was `start`. Fully ordered, though nothing needs that.
    pub(crate) fn desert(&self, start: u32) {
        self.deserted.xchg(start, Full);
    }

    /// Takes [`Self::desert`] back.
    pub(crate) fn recall(&self) {
        self.deserted.xchg(NO_START, Full);
    }

    /// Tells all waiters of a queue that is silent to leave, and their slots with the device.
    /// These are at `seats`.
    pub(crate) fn evict<'a, S: Seat + 'a>(&self, seats: impl Iterator<Item = &'a S>) {
        self.desert(self.start());
        for seat in seats {
            seat.slot().evict(|| seat.signal());
        }
    }

    /// Returns whether those who poll the queue are told to leave. Acquire: as [`Self::start`].
    pub(crate) fn is_deserted(&self) -> bool {
        self.deserted.load(Acquire) == self.start()
    }
}
