// SPDX-License-Identifier: GPL-2.0
//! A queue pair whose device need not do as it should.
//!
//! A [`Script`] says what tasks, the interrupt handler, recovery and the device do one after another,
//! and, in the middle of that, what others do *meanwhile*: whenever the driver touches a ring or a
//! doorbell, and while a task waits for a permit.  The code is that of the driver, in `src/lockless`.
//!
//! The device keeps commands that it has got, completes them in any order or never, says that it
//! has completed what it has not, twice, too late or with a wrong phase, leaves entries out, and
//! writes to any place of the completion queue.  A [`Rig`] follows what the driver should make of
//! that (Documentation/architecture.rst 2):
//!
//! - a command ends once, by the first entry that the driver comes to which has its identifier while
//!   it is in flight; by being halted; or without having been sent;
//! - whoever waits for it has one signal, and finds that entry, word by word; what a waiter leaves
//!   behind is found by who cleans up, once;
//! - no entry that the driver comes to is passed over, and none of a device that does as it should
//!   is not come to; those that are for no command are counted,
//!   and do nothing else;
//! - no slot is given to two, and none is lost, nor a permit; those who wait for one get it;
//! - rings are written and read entry by entry, with the phase of the round, and only as far as a
//!   queue that is closed, or silent, may; entries are given back before commands end;
//! - a device that never stops does not keep the reaper.

use crate::lockless::pair::QueuePair;
use crate::lockless::pair::World;
use crate::lockless::pair::FIRST_ERA;
use crate::lockless::slot;
use crate::lockless::slot::Seat;
use crate::lockless::slot::Slot;
use crate::lockless::slot::Verdict;
use crate::lockless::tags::Line;
use crate::lockless::tags::Order;
use crate::lockless::tags::Permits;
use crate::lockless::tags::PLACES;
use crate::lockless::Waited;
use arbitrary::Arbitrary;
use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::AddAssign;
use std::rc::Rc;

/// What is done to a queue pair.
#[derive(Arbitrary, Clone, Debug)]
pub struct Script {
    /// Slots, less one; at most [`MAX_SLOTS`].
    pub slots: u8,
    /// One thing after another.
    pub steps: Vec<Step>,
}

const MAX_SLOTS: usize = 70;

/// One thing that is done.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Step {
    /// A task, the interrupt handler, or the device does this.
    Now(Event),
    /// The same, while something else is under way.
    Meanwhile(Event),
    /// As many tasks take a slot each and submit their commands.
    Crowd(u8),
    /// From here on it is recovery.  What may not be done now is not done.
    Drain,
    /// The opposite.
    Refill,
    /// Nothing is submitted any more.
    Close,
    /// The submission queue of a closed queue was deleted.
    EndSubmitted,
    /// No doorbell is rung any more.
    Silence,
    /// Waiters of a silent queue are told to leave.
    Evict,
    /// The device has forgotten a silent queue.
    Release,
    /// It knows of it again.
    Open,
    /// All that there is to aborting a queue.
    Abort,
    /// All that there is to resetting the device, which does not stop at once.
    Reset,
}

/// What is done while others do something.  Numbers choose among what there is.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Event {
    /// A task takes a slot.
    Take,
    /// It submits its command.
    Submit(u8),
    /// It gives the slot back instead.
    Discard(u8),
    /// It was woken.
    Collect(u8),
    /// It is being killed.
    Leave(u8),
    /// What is left of those is released.
    CleanUp,
    /// The interrupt handler.
    Reap,
    /// The monitor.
    Look,
    /// The device completes a command that it has.
    Complete(u8),
    /// It says that it has completed another one.
    Lie(Lie),
    /// It goes on without writing the entry.
    Skip,
    /// It writes to this place of the completion queue, with this phase.
    Scribble(u8, bool, Lie),
}

/// An entry that need not be for any command.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Lie {
    /// The tag, which may be too large.
    pub tag: u8,
    /// The generation, less that of the last command.
    pub generation: i8,
    /// Whether the phase is wrong.
    pub wrong_phase: bool,
}

/// How often something happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Commands that have completed, whether somebody waited for them or not.
    pub completed: u32,
    /// Those that were halted.
    pub halted: u32,
    /// Those that were not sent.
    pub not_sent: u32,
    /// Those that were left.
    pub left: u32,
    /// Waiters that were told to leave before their command had ended.
    pub evicted: u32,
    /// Entries that were for no command.
    pub stray: u32,
    /// Permits that were handed to somebody who waited.
    pub handed_over: u32,
    /// Permits that were withheld.
    pub withheld: u32,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.completed += more.completed;
        self.halted += more.halted;
        self.not_sent += more.not_sent;
        self.left += more.left;
        self.evicted += more.evicted;
        self.stray += more.stray;
        self.handed_over += more.handed_over;
        self.withheld += more.withheld;
    }
}

impl Script {
    /// Does it.
    ///
    /// # Panics
    ///
    /// If it is not as it should be.
    pub fn judge(&self) -> Tally {
        let rig = Rig::new(1 + usize::from(self.slots) % MAX_SLOTS);
        for step in &self.steps {
            rig.step(*step);
        }
        rig.finish();
        rig.now.tally.get()
    }
}

/// A completion queue entry.  The identifier and the phase are in the last word.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Entry([u64; 8]);

const PHASE: u64 = 1 << 48;

impl Entry {
    /// Makes one with a `number` in each of the other words.
    fn new(number: u64, cid: u16, phase: bool) -> Self {
        let mut words: [u64; 8] = std::array::from_fn(|index| number << 8 | index as u64);
        words[7] = u64::from(cid) | if phase { PHASE } else { 0 };
        Self(words)
    }

    fn cid(&self) -> u16 {
        self.0[7] as u16
    }

    fn phase(&self) -> bool {
        self.0[7] & PHASE != 0
    }
}

impl AsRef<[u64]> for Entry {
    fn as_ref(&self) -> &[u64] {
        &self.0
    }
}

/// Where a command should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Owned,
    Queued,
    InFlight,
    /// The reaper has come to this entry, and not ended the command yet.
    Answered(Entry),
    Completed(Entry),
    Halted,
    NotSent,
}

impl Stage {
    fn has_ended(self) -> bool {
        matches!(self, Self::Completed(_) | Self::Halted | Self::NotSent)
    }
}

#[derive(Clone, Copy, Debug)]
struct Command {
    /// What its waiter leaves behind.
    number: u64,
    cid: u16,
    stage: Stage,
    /// In which order it was submitted.
    serial: u64,
    /// Whether somebody waits for it.
    is_waited_for: bool,
    was_signalled: bool,
}

/// What the queue may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Open,
    Draining,
    Closed,
    Silent,
}

/// What slots have in common.
struct Now {
    mode: Cell<Mode>,
    is_evicting: Cell<bool>,
    launched: Cell<u64>,
    tally: Cell<Tally>,
}

impl Now {
    fn is_submitting(&self) -> bool {
        matches!(self.mode.get(), Mode::Open | Mode::Draining)
    }

    fn count(&self, count: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.get();
        count(&mut tally);
        self.tally.set(tally);
    }
}

struct Chair {
    slot: Slot,
    now: Rc<Now>,
    command: Cell<Option<Command>>,
    last_cid: Cell<u16>,
    /// Signals that were not consumed.
    signals: Cell<u32>,
    left_behind: Cell<Option<u64>>,
}

impl Chair {
    fn command(&self) -> Command {
        self.command.get().expect("the slot is free")
    }

    fn change(&self, change: impl FnOnce(&mut Command)) {
        let mut command = self.command();
        change(&mut command);
        self.command.set(Some(command));
    }

    fn turn(&self, stage: Stage) {
        self.change(|command| command.stage = stage);
    }
}

impl Seat for Chair {
    type Left = u64;

    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn signal(&self) {
        let mut command = self.command();
        assert!(command.is_waited_for, "a signal, and nobody waits");
        assert!(!command.was_signalled, "a second signal");
        if self.now.is_evicting.get() {
            assert!(!command.stage.has_ended() && command.stage != Stage::Owned);
        } else if command.stage == Stage::Queued {
            assert!(!self.now.is_submitting(), "not sent by a queue that sends");
            command.stage = Stage::NotSent;
        } else {
            assert!(command.stage.has_ended(), "{command:?}");
        }
        command.was_signalled = true;
        self.command.set(Some(command));
        self.signals.set(self.signals.get() + 1);
    }

    fn wait(&self) {
        assert_eq!(self.signals.replace(0), 1, "it would wait for ever");
    }

    fn leave_behind(&self, it: u64) {
        assert_eq!(self.left_behind.replace(Some(it)), None);
    }

    fn take_left_behind(&self) -> Option<u64> {
        self.left_behind.take()
    }
}

/// Those who wait for permits.
struct Room {
    order: RefCell<Order>,
    signals: [Cell<u32>; PLACES],
}

impl Room {
    fn new() -> Self {
        Self {
            order: RefCell::new(Order::new()),
            signals: Default::default(),
        }
    }
}

impl Line for Room {
    fn with_order<R>(&self, inside: impl FnOnce(&mut Order) -> R) -> R {
        inside(&mut self.order.borrow_mut())
    }

    fn signal(&self, place: usize) {
        self.signals[place].set(self.signals[place].get() + 1);
    }

    fn try_wait(&self, place: usize) -> bool {
        let signals = &self.signals[place];
        let some = signals.get() != 0;
        signals.set(signals.get() - u32::from(some));
        some
    }

    fn let_run(&self) {
        panic!("it would wait for ever");
    }
}

/// See the [module](self).
struct Rig {
    pair: QueuePair,
    permits: Permits,
    /// Permits that were handed over and not taken yet.
    room: Room,
    held: Cell<usize>,
    chairs: Vec<Chair>,
    now: Rc<Now>,
    numbers: Cell<u64>,
    meanwhile: RefCell<VecDeque<Event>>,
    /// How deep in the middle of the reaper this is.
    reaping: Cell<u32>,
    /// Whether the queue is as it was when new, and which of its commands may be halted.
    is_renewed: Cell<bool>,
    may_halt: Cell<bool>,
    /// Where the next submission queue entry goes, and whose were written since the last doorbell.
    sq_tail: Cell<u32>,
    written: RefCell<Vec<u16>>,
    /// Where the driver looks next, with which phase, and how far it has given entries back.
    cq_head: Cell<u32>,
    cq_phase: Cell<bool>,
    given_back: Cell<u32>,
    cq: Vec<Cell<Entry>>,
    /// Where the device writes next, with which phase; the commands that it has.
    cq_tail: Cell<u32>,
    tail_phase: Cell<bool>,
    device: RefCell<Vec<u16>>,
    /// Whether it has done as it should since the queue was new.
    is_honest: Cell<bool>,
    /// In this step: calls of the reaper, entries that it came to, and what others did meanwhile.
    calls: Cell<usize>,
    consumed: Cell<usize>,
    interruptions: Cell<usize>,
    stray: Cell<u64>,
    completed: Cell<u64>,
    last_completed: Cell<u64>,
    orphans: Cell<u32>,
}

impl Rig {
    fn new(slots: usize) -> Self {
        let now = Rc::new(Now {
            mode: Cell::new(Mode::Open),
            is_evicting: Cell::new(false),
            launched: Cell::new(0),
            tally: Cell::new(Tally::default()),
        });
        let permits = Permits::new();
        permits.add(slots as i32);
        Self {
            pair: QueuePair::new(slots).unwrap(),
            permits,
            room: Room::new(),
            held: Cell::new(0),
            chairs: (0..slots)
                .map(|tag| Chair {
                    slot: Slot::new(),
                    now: now.clone(),
                    command: Cell::new(None),
                    last_cid: Cell::new(tag as u16),
                    signals: Cell::new(0),
                    left_behind: Cell::new(None),
                })
                .collect(),
            now,
            numbers: Cell::new(0),
            meanwhile: RefCell::new(VecDeque::new()),
            reaping: Cell::new(0),
            is_renewed: Cell::new(true),
            may_halt: Cell::new(false),
            sq_tail: Cell::new(0),
            written: RefCell::new(Vec::new()),
            cq_head: Cell::new(0),
            cq_phase: Cell::new(true),
            given_back: Cell::new(0),
            cq: vec![Cell::default(); slots + 1],
            cq_tail: Cell::new(0),
            tail_phase: Cell::new(true),
            device: RefCell::new(Vec::new()),
            is_honest: Cell::new(true),
            calls: Cell::new(0),
            consumed: Cell::new(0),
            interruptions: Cell::new(0),
            stray: Cell::new(0),
            completed: Cell::new(0),
            last_completed: Cell::new(0),
            orphans: Cell::new(0),
        }
    }

    fn entries(&self) -> u32 {
        self.cq.len() as u32
    }

    fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// Does a step, and looks whether all is well behind it.
    fn step(&self, step: Step) {
        self.calls.set(0);
        self.consumed.set(0);
        self.interruptions.set(0);
        match step {
            Step::Now(event) => self.event(event),
            Step::Meanwhile(event) => self.meanwhile.borrow_mut().push_back(event),
            Step::Crowd(tasks) => {
                for _ in 0..usize::from(tasks) % MAX_SLOTS {
                    self.event(Event::Take);
                    self.event(Event::Submit(0));
                }
            }
            Step::Abort => {
                for step in [
                    Step::Close,
                    Step::EndSubmitted,
                    Step::Silence,
                    Step::Release,
                    Step::Open,
                ] {
                    self.recover(step);
                }
            }
            Step::Reset => {
                for step in [Step::Silence, Step::Evict, Step::Release, Step::Open] {
                    self.recover(step);
                }
            }
            step => self.recover(step),
        }
        self.check();
    }

    fn recover(&self, step: Step) {
        let mode = self.now.mode.get();
        let turn = |mode| {
            self.calls.set(self.calls.get() + 1);
            self.is_renewed.set(false);
            self.now.mode.set(mode);
        };
        match step {
            Step::Drain if self.now.is_submitting() => {
                turn(Mode::Draining);
                self.pair.drain(self);
            }
            Step::Refill => {
                if mode == Mode::Draining {
                    turn(Mode::Open);
                }
                self.pair.refill(self);
                self.permits.restore(&self.room);
            }
            Step::Close if self.now.is_submitting() => {
                turn(Mode::Closed);
                self.pair.close(self);
            }
            Step::EndSubmitted if mode == Mode::Closed => {
                self.device.borrow_mut().clear();
                self.sq_tail.set(0);
                self.end(QueuePair::end_submitted);
            }
            Step::Silence if mode != Mode::Silent => {
                turn(Mode::Silent);
                self.pair.silence(self);
            }
            Step::Evict if mode == Mode::Silent => {
                self.now.is_evicting.set(true);
                self.pair.evict(self.chairs.iter());
                self.now.is_evicting.set(false);
                assert!(self.pair.is_deserted());
                let mut commands = self.commands().filter(|(_, command)| {
                    command.is_waited_for && command.stage == Stage::InFlight
                });
                assert!(commands.all(|(_, command)| command.was_signalled));
            }
            Step::Release if mode == Mode::Silent => {
                self.device.borrow_mut().clear();
                self.sq_tail.set(0);
                self.cq_tail.set(0);
                self.tail_phase.set(true);
                self.is_honest.set(true);
                self.end(QueuePair::release);
                self.is_renewed.set(true);
            }
            Step::Open if self.is_renewed.get() && mode == Mode::Silent => {
                turn(Mode::Open);
                self.given_back.set(self.cq_head.get());
                self.pair.open(FIRST_ERA, self);
                assert!(!self.pair.is_deserted());
                self.permits.restore(&self.room);
            }
            _ => {}
        }
    }

    fn end(&self, end: impl FnOnce(&QueuePair, &Self)) {
        self.calls.set(self.calls.get() + 2);
        self.may_halt.set(true);
        end(&self.pair, self);
        self.may_halt.set(false);
        let mut stages = self.commands().map(|(_, command)| command.stage);
        assert!(!stages.any(|stage| stage == Stage::InFlight), "not ended");
    }

    fn event(&self, event: Event) {
        match event {
            Event::Take => {
                self.take();
            }
            // What the reaper has in its hands, and has not come to, is judged by what is there now.
            Event::Submit(_) if self.reaping.get() != 0 => {}
            Event::Submit(which) => {
                if let Some(tag) = self.find(which, |command| command.stage == Stage::Owned) {
                    let chair = &self.chairs[tag];
                    chair.change(|command| {
                        command.stage = Stage::Queued;
                        command.is_waited_for = true;
                    });
                    self.pair.submit(self, &chair.slot, tag, FIRST_ERA);
                }
            }
            Event::Discard(which) => {
                if let Some(tag) = self.find(which, |command| command.stage == Stage::Owned) {
                    self.free(tag);
                }
            }
            Event::Collect(which) => {
                let woken = |command: &Command| command.is_waited_for && command.was_signalled;
                if let Some(tag) = self.find(which, woken) {
                    assert_eq!(self.chairs[tag].signals.replace(0), 1);
                    self.conclude(tag, true);
                }
            }
            Event::Leave(which) => {
                if let Some(tag) = self.find(which, |command| command.is_waited_for) {
                    self.conclude(tag, false);
                }
            }
            Event::CleanUp => self.clean_up(),
            Event::Reap => {
                self.calls.set(self.calls.get() + 1);
                self.pair.reap(self);
            }
            Event::Look => {
                self.calls.set(self.calls.get() + 1);
                self.pair.look(self);
            }
            Event::Complete(which) => {
                let count = self.device.borrow().len();
                if let Some(index) = usize::from(which).checked_rem(count) {
                    let cid = self.device.borrow_mut().remove(index);
                    self.post(|number, phase| Entry::new(number, cid, phase));
                }
            }
            Event::Lie(lie) => {
                self.is_honest.set(false);
                let cid = self.cid(lie);
                self.post(|number, phase| Entry::new(number, cid, phase ^ lie.wrong_phase));
            }
            Event::Skip => {
                self.is_honest.set(false);
                self.advance_tail();
            }
            Event::Scribble(index, phase, lie) => {
                self.is_honest.set(false);
                let index = usize::from(index) % self.cq.len();
                self.cq[index].set(Entry::new(self.number(), self.cid(lie), phase));
            }
        }
    }

    /// Something else happens.
    fn interrupt(&self) {
        let event = self.meanwhile.borrow_mut().pop_front();
        if let Some(event) = event {
            self.interruptions.set(self.interruptions.get() + 1);
            self.event(event);
        }
    }

    fn interrupt_reaper(&self) {
        self.reaping.set(self.reaping.get() + 1);
        self.interrupt();
        self.reaping.set(self.reaping.get() - 1);
    }

    fn commands(&self) -> impl Iterator<Item = (usize, Command)> + '_ {
        let chairs = self.chairs.iter().enumerate();
        chairs.filter_map(|(tag, chair)| Some((tag, chair.command.get()?)))
    }

    /// Returns the tag of one of the commands that are `wanted`.
    fn find(&self, which: u8, wanted: impl Fn(&Command) -> bool) -> Option<usize> {
        let found = || self.commands().filter(|(_, command)| wanted(command));
        let index = usize::from(which).checked_rem(found().count())?;
        found().nth(index).map(|(tag, _)| tag)
    }

    /// Takes a slot, as a pool of one queue does.
    fn take(&self) -> Option<usize> {
        if !self.now.is_submitting() {
            assert!(!self.pair.is_submitting());
            return None;
        }
        let sleep = |place| loop {
            if self.room.try_wait(place) {
                self.now.count(|tally| tally.handed_over += 1);
                return Waited::Done;
            }
            if self.meanwhile.borrow().is_empty() {
                return Waited::Killed;
            }
            self.interrupt();
        };
        if self.permits.take(&self.room, sleep).is_err() {
            return None;
        }
        self.held.set(self.held.get() + 1);
        assert!(self.held.get() <= self.chairs.len(), "a permit too many");
        if self.now.mode.get() != Mode::Open {
            self.held.set(self.held.get() - 1);
            let seen = self.permits.restored();
            self.permits.withhold(seen, &self.room);
            self.now.count(|tally| tally.withheld += 1);
            return None;
        }
        let (tag, chair) = self.pair.take(self).expect("a permit, but no tag");
        assert!(chair.command.get().is_none(), "it is somebody else's");
        let cid = chair.slot.cid(tag);
        let next = chair.last_cid.get().wrapping_add(1 << 10);
        assert_eq!(chair.last_cid.replace(cid), cid.wrapping_sub(1 << 10));
        assert_eq!(slot::tag_of(next), tag);
        chair.command.set(Some(Command {
            number: self.number(),
            cid,
            stage: Stage::Owned,
            serial: 0,
            is_waited_for: false,
            was_signalled: false,
        }));
        Some(tag)
    }

    /// Frees a slot, which is the caller's.
    fn free(&self, tag: usize) {
        let chair = &self.chairs[tag];
        assert_eq!(chair.left_behind.get(), None);
        assert_eq!(chair.signals.get(), 0, "a signal is left");
        chair.command.set(None);
        self.pair.free(&chair.slot, tag);
        self.held.set(self.held.get() - 1);
        self.permits.give(&self.room);
    }

    /// A wait is over.
    fn conclude(&self, tag: usize, was_signalled: bool) {
        let chair = &self.chairs[tag];
        let command = chair.command();
        let left = self.pair.conclude(chair, command.number, was_signalled);
        if command.stage.has_ended() {
            assert_eq!(left, Some(command.number));
            self.collect(tag);
            self.free(tag);
        } else {
            assert_eq!(left, None, "it has not ended");
            assert_eq!(chair.left_behind.get(), Some(command.number));
            chair.change(|command| command.is_waited_for = false);
            self.now.count(|tally| {
                tally.left += 1;
                tally.evicted += u32::from(command.was_signalled);
            });
        }
    }

    /// Looks at what became of a command.
    fn collect(&self, tag: usize) {
        const NOTHING: [u64; 8] = [7; 8];

        let chair = &self.chairs[tag];
        let mut words = NOTHING;
        let verdict = chair.slot.collect(&mut words);
        let (wanted, of) = match chair.command().stage {
            Stage::Completed(entry) => (Verdict::Completed, entry.0),
            Stage::Halted => (Verdict::Halted, NOTHING),
            Stage::NotSent => (Verdict::NotSent, NOTHING),
            stage => panic!("{stage:?}"),
        };
        assert_eq!((verdict, words), (wanted, of));
        self.now.count(|tally| match verdict {
            Verdict::Completed => tally.completed += 1,
            Verdict::Halted => tally.halted += 1,
            Verdict::NotSent => tally.not_sent += 1,
        });
    }

    fn clean_up(&self) {
        self.pair.take_orphans(|tag| {
            let chair = &self.chairs[tag];
            let command = chair.command();
            assert!(!command.is_waited_for, "somebody waits for it");
            if command.stage == Stage::Queued {
                // There was nobody to be told.
                assert!(!self.now.is_submitting());
                chair.turn(Stage::NotSent);
            }
            self.orphans.set(self.orphans.get() - 1);
            self.collect(tag);
            assert_eq!(chair.take_left_behind(), Some(command.number));
            self.free(tag);
        });
    }

    /// Returns the identifier that the device claims.
    fn cid(&self, lie: Lie) -> u16 {
        let slots = self.chairs.len();
        let tag = usize::from(lie.tag) % (slots + 2);
        let last = match self.chairs.get(tag) {
            Some(chair) => chair.last_cid.get(),
            None if tag == slots => slots as u16,
            None => 0x3ff,
        };
        last.wrapping_add((i16::from(lie.generation) << 10) as u16)
    }

    fn post(&self, entry: impl FnOnce(u64, bool) -> Entry) {
        let entry = entry(self.number(), self.tail_phase.get());
        self.cq[self.cq_tail.get() as usize].set(entry);
        self.advance_tail();
    }

    fn advance_tail(&self) {
        self.cq_tail.set((self.cq_tail.get() + 1) % self.entries());
        if self.cq_tail.get() == 0 {
            self.tail_phase.set(!self.tail_phase.get());
        }
    }

    /// Most entries that the reaper comes to in a run.
    fn bound(&self) -> usize {
        self.chairs.len().next_multiple_of(8)
    }

    /// Asserts that all is as it should be while nothing is under way.
    fn check(&self) {
        assert_eq!(self.pair.take_stray(), self.stray.take());
        assert_eq!(self.pair.completed(), self.completed.get());
        assert_eq!(self.pair.submitted(), self.now.launched.get());
        assert_eq!(self.pair.is_idle(), self.commands().next().is_none());
        assert_eq!(self.pair.is_open(), self.now.mode.get() == Mode::Open);
        assert_eq!(self.pair.is_submitting(), self.now.is_submitting());
        assert_eq!(self.pair.is_silent(), self.now.mode.get() == Mode::Silent);
        assert!(self.written.borrow().is_empty(), "no doorbell");
        let (mut left, mut orphans) = (false, 0);
        for (tag, command) in self.commands() {
            let chair = &self.chairs[tag];
            let is_in_flight = command.stage == Stage::InFlight;
            assert_eq!(chair.slot.is_in_flight(), is_in_flight, "{command:?}");
            assert_eq!(chair.slot.under_way().is_some(), is_in_flight);
            if is_in_flight {
                let later = command.serial > self.last_completed.get();
                assert_eq!(self.pair.is_later(tag), later);
            }
            let is_left = !command.is_waited_for && command.stage != Stage::Owned;
            left |= is_left;
            orphans += u32::from(is_left && !is_in_flight);
            if command.is_waited_for {
                let has_ended = command.stage.has_ended();
                assert!(is_in_flight || has_ended && command.was_signalled);
                assert_eq!(chair.signals.get(), u32::from(command.was_signalled));
            }
        }
        assert_eq!(self.pair.has_abandoned(), left);
        assert_eq!(
            self.orphans.get(),
            orphans,
            "orphans that nobody is told of"
        );
        let may_have_more = self.consumed.get() >= self.bound();
        if self.calls.get() != 0 && self.interruptions.get() == 0 && !may_have_more {
            let next = self.cq[self.cq_head.get() as usize].get();
            assert_ne!(next.phase(), self.cq_phase.get(), "it was passed over");
            // What was completed as it should be is not lost.
            assert!(
                !self.is_honest.get() || self.cq_head == self.cq_tail,
                "lost"
            );
        }
    }

    /// The device is stopped, and everybody goes.
    fn finish(&self) {
        self.meanwhile.borrow_mut().clear();
        self.step(Step::Silence);
        self.step(Step::Release);
        for event in [Event::Discard(0), Event::Collect(0)] {
            for _ in &self.chairs {
                self.step(Step::Now(event));
            }
        }
        self.step(Step::Now(Event::CleanUp));
        assert!(self.commands().next().is_none(), "a slot is taken");
        assert_eq!(self.held.get(), 0);
        let mut places = self.room.signals.iter();
        assert!(places.all(|signals| signals.get() == 0), "a signal is left");
        // All tags are there, and as many permits.
        self.step(Step::Open);
        let all = self.chairs.len();
        for tag in 0..all {
            assert_eq!(self.take(), Some(tag), "a slot or a permit is lost");
        }
        assert_eq!(self.take(), None);
        assert!(self.pair.take(self).is_none(), "a slot too many");
        for tag in 0..all {
            self.free(tag);
        }
        assert!(self.pair.is_idle());
    }
}

impl World for Rig {
    type Seat = Chair;
    type Cqe = Entry;

    fn seat(&self, tag: usize) -> Option<&Chair> {
        self.chairs.get(tag)
    }

    fn cid(cqe: &Entry) -> u16 {
        cqe.cid()
    }

    fn read_cqe(&self, index: u32, phase: bool, to: &mut Entry) -> bool {
        let looked_for = (self.cq_head.get(), self.cq_phase.get());
        assert_eq!((index, phase), looked_for, "another entry");
        self.interrupt_reaper();
        let entry = self.cq[index as usize].get();
        *to = entry;
        if entry.phase() != phase {
            return false;
        }
        self.consumed.set(self.consumed.get() + 1);
        let most = self.calls.get() * self.bound();
        assert!(self.consumed.get() <= most, "the device keeps the reaper");
        self.cq_head.set((index + 1) % self.entries());
        if self.cq_head.get() == 0 {
            self.cq_phase.set(!phase);
        }
        let seat = self.chairs.get(slot::tag_of(entry.cid()));
        let command = seat.and_then(|chair| chair.command.get());
        match (seat, command) {
            (Some(chair), Some(command))
                if command.stage == Stage::InFlight && command.cid == entry.cid() =>
            {
                chair.turn(Stage::Answered(entry));
                if self.now.is_submitting() {
                    self.completed.set(self.completed.get() + 1);
                    self.last_completed.set(command.serial);
                }
            }
            _ => {
                self.stray.set(self.stray.get() + 1);
                self.now.count(|tally| tally.stray += 1);
            }
        }
        true
    }

    fn clear_cq(&self) {
        assert!(self.now.mode.get() == Mode::Silent && self.may_halt.get());
        for entry in &self.cq {
            entry.set(Entry::default());
        }
        self.cq_head.set(0);
        self.cq_phase.set(true);
    }

    fn write_sqe(&self, tag: usize, index: u32) {
        assert!(self.now.is_submitting(), "a command of a closed queue");
        assert_eq!(index, self.sq_tail.get(), "another entry");
        let command = self.chairs[tag].command();
        assert_eq!(command.stage, Stage::Queued);
        self.sq_tail.set((index + 1) % self.entries());
        self.written.borrow_mut().push(command.cid);
        self.interrupt();
    }

    fn ring_sq(&self, tail: u32) {
        assert!(self.now.is_submitting(), "a doorbell after closing");
        assert_eq!(tail, self.sq_tail.get());
        assert!(!self.written.borrow().is_empty(), "a doorbell for nothing");
        let written = self.written.take();
        self.device.borrow_mut().extend(written);
        self.interrupt();
    }

    fn ring_cq(&self, head: u32) {
        assert_ne!(self.now.mode.get(), Mode::Silent, "after silencing");
        assert_eq!(head, self.cq_head.get());
        self.given_back.set(head);
        self.interrupt_reaper();
    }

    fn disowned(&self) {
        self.orphans.set(self.orphans.get() + 1);
    }

    fn launching(seat: &Chair) {
        let serial = seat.now.launched.get() + 1;
        seat.now.launched.set(serial);
        seat.change(|command| {
            assert_eq!(command.stage, Stage::Queued);
            command.stage = Stage::InFlight;
            command.serial = serial;
        });
    }

    fn ending(&self, seat: &Chair, cid: u16, cqe: Option<&Entry>) {
        let command = seat.command();
        assert_eq!(cid, command.cid);
        match cqe {
            Some(entry) => {
                assert_eq!(command.stage, Stage::Answered(*entry));
                let is_silent = self.now.mode.get() == Mode::Silent;
                let given_back = self.given_back.get() == self.cq_head.get();
                assert!(is_silent || given_back, "it ends before there is room");
                seat.turn(Stage::Completed(*entry));
            }
            None => {
                assert!(self.may_halt.get(), "the device may have it");
                assert_eq!(command.stage, Stage::InFlight, "it ends twice");
                seat.turn(Stage::Halted);
            }
        }
    }
}
