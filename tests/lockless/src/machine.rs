// SPDX-License-Identifier: GPL-2.0
//! A queue pair with all that is around it: memory, a device, and tasks.
//!
//! Memory that belongs to one party at a time is in cells, which the model checker finds raced for
//! unless what happens in the model orders each access behind the last.  The device does what it
//! does in a thread of the model, and knows only what doorbells say; what it writes is seen as its
//! completions are.
//!
//! What is there only to be asserted is in the locks and atomics of the standard library: it
//! orders nothing in the model.

use crate::facade::Waited;
use crate::facade::PLACES;
use crate::pair::QueuePair;
use crate::pair::World;
use crate::slot::Seat;
use crate::slot::Slot;
use crate::slot::Verdict;
use crate::tags::Line;
use crate::tags::Order;
use crate::tags::Permits;
use loom::cell::Cell;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering;
use loom::sync::Condvar;
use loom::sync::Mutex;
use loom::thread::yield_now;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::AtomicU32 as Count;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;
use std::sync::Mutex as Record;

/// Counts signals, as a completion of the kernel does.
pub struct Event {
    signals: Mutex<u32>,
    some: Condvar,
}

impl Event {
    pub fn new() -> Self {
        Self {
            signals: Mutex::new(0),
            some: Condvar::new(),
        }
    }

    pub fn signal(&self) {
        *self.signals.lock().unwrap() += 1;
        self.some.notify_one();
    }

    pub fn wait(&self) {
        let mut signals = self.signals.lock().unwrap();
        while *signals == 0 {
            signals = self.some.wait(signals).unwrap();
        }
        *signals -= 1;
    }

    /// Waits for as short as can be: gives up unless there is a signal.
    pub fn try_wait(&self) -> bool {
        let mut signals = self.signals.lock().unwrap();
        let some = *signals != 0;
        *signals -= u32::from(some);
        some
    }
}

/// Those who wait for permits.
pub struct Room {
    order: Mutex<Order>,
    places: [Event; PLACES],
}

impl Room {
    pub fn new() -> Self {
        Self {
            order: Mutex::new(Order::new()),
            places: [(); PLACES].map(|()| Event::new()),
        }
    }

    /// Waits at `place`, or gives up unless there is a signal.
    pub fn sleep(&self, place: usize, patient: bool) -> Waited {
        if patient {
            self.places[place].wait();
        } else if !self.places[place].try_wait() {
            return Waited::TimedOut;
        }
        Waited::Done
    }

    /// Returns whether there is a signal that nobody has consumed, at any place.
    pub fn is_anybody_called(&self) -> bool {
        self.places.iter().any(Event::try_wait)
    }
}

impl Line for Room {
    fn with_order<R>(&self, inside: impl FnOnce(&mut Order) -> R) -> R {
        inside(&mut self.order.lock().unwrap())
    }

    fn signal(&self, place: usize) {
        self.places[place].signal();
    }

    fn try_wait(&self, place: usize) -> bool {
        self.places[place].try_wait()
    }

    fn let_run(&self) {
        yield_now();
    }
}

/// What goes with a command.  All of them must be gone in the end.
pub type Token = Arc<()>;

/// A slot with its memory.
pub struct Chair {
    slot: Slot,
    done: Event,
    /// Signals sent for the command, of which there must be no more than one.
    signals: Count,
    /// Whether the command was written to the submission queue.
    sent: AtomicBool,
    /// How many commands of the slot were submitted.
    launches: Count,
    /// How many of those have ended.
    ends: Count,
    left_behind: Cell<Option<Token>>,
    /// The memory of the slot.  The owner writes a number; the device answers with its double.
    memory: Cell<u64>,
}

impl Seat for Chair {
    type Left = Token;

    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn signal(&self) {
        assert_eq!(self.signals.fetch_add(1, SeqCst), 0, "a second signal");
        self.done.signal();
    }

    fn wait(&self) {
        self.done.wait();
    }

    fn leave_behind(&self, it: Token) {
        self.left_behind.set(Some(it));
    }

    fn take_left_behind(&self) -> Option<Token> {
        self.left_behind.take()
    }
}

/// A completion queue entry, or submission queue entry: the command identifier, and the phase.
#[derive(Clone, Copy, Default)]
pub struct Entry([u64; 1]);

impl AsRef<[u64]> for Entry {
    fn as_ref(&self) -> &[u64] {
        &self.0
    }
}

const PHASE: u64 = 1 << 16;

/// What the device knows.
#[derive(Default)]
struct Device {
    /// Where it fetches the next command, and posts the next completion.
    sq_head: u32,
    cq_tail: u32,
    /// Whether entries of the round before have the phase set.
    cq_turned: bool,
    /// Commands that it has, and whose memory it may access.
    commands: Vec<u16>,
}

/// See the [module](self).
pub struct Machine {
    pub pair: QueuePair,
    pub permits: Permits,
    room: Room,
    chairs: Vec<Chair>,
    prepared: Vec<Cell<u16>>,
    sq: Vec<Cell<u16>>,
    cq: Vec<AtomicU64>,
    /// The doorbells, and that one was rung.
    sq_tail: AtomicU32,
    cq_head: AtomicU32,
    rung: Event,
    interrupt: Event,
    /// Orphans wait for somebody to clean up.
    orphans: Event,
    device: Mutex<Device>,
    /// Tags that the device has commands for.
    in_device: Record<Vec<bool>>,
    /// Whether doorbells may be rung.
    may_submit: Record<bool>,
    may_consume: Record<bool>,
    done: AtomicBool,
    /// Submission doorbells.
    pub doorbells: Count,
    /// Permits that are held.
    held: AtomicI32,
    tokens: Token,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It was completed.
    Completed,
    /// The queue was closed before it was sent.
    NotSent,
    /// The device was stopped while it had it.
    Halted,
    /// Its waiter left.
    Left,
}

impl Machine {
    /// Makes a queue pair with `slots` slots.
    pub fn new(slots: usize) -> Arc<Self> {
        let permits = Permits::new();
        permits.add(slots as i32);
        Arc::new(Self {
            pair: QueuePair::new(slots).unwrap(),
            permits,
            room: Room::new(),
            chairs: (0..slots)
                .map(|_| Chair {
                    slot: Slot::new(),
                    done: Event::new(),
                    signals: Count::new(0),
                    sent: AtomicBool::new(false),
                    launches: Count::new(0),
                    ends: Count::new(0),
                    left_behind: Cell::new(None),
                    memory: Cell::new(0),
                })
                .collect(),
            prepared: (0..slots).map(|_| Cell::new(0)).collect(),
            sq: (0..=slots).map(|_| Cell::new(0)).collect(),
            cq: (0..=slots).map(|_| AtomicU64::new(0)).collect(),
            sq_tail: AtomicU32::new(0),
            cq_head: AtomicU32::new(0),
            rung: Event::new(),
            interrupt: Event::new(),
            orphans: Event::new(),
            device: Mutex::new(Device::default()),
            in_device: Record::new(vec![false; slots]),
            may_submit: Record::new(true),
            may_consume: Record::new(true),
            done: AtomicBool::new(false),
            doorbells: Count::new(0),
            held: AtomicI32::new(0),
            tokens: Arc::new(()),
        })
    }

    fn entries(&self) -> u32 {
        self.sq.len() as u32
    }

    /// Takes a permit, waiting for it, or giving up at once.
    pub fn take_permit(&self, patient: bool) -> bool {
        let sleep = |place| self.room.sleep(place, patient);
        let taken = self.permits.take(&self.room, sleep);
        if taken.is_ok() {
            let held = self.held.fetch_add(1, SeqCst);
            assert!(held < self.chairs.len() as i32, "more permits than tags");
        }
        taken.is_ok()
    }

    pub fn give_permit(&self) {
        self.held.fetch_sub(1, SeqCst);
        self.permits.give(&self.room);
    }

    /// Carries a command out, as an ioctl does.  A task that is being killed does not wait.
    pub fn command(&self, killed: bool) -> Fate {
        assert!(self.take_permit(true));
        self.run(killed)
    }

    /// The same if the queue may be closed, as a pool of one queue has it.  Who finds it closed comes
    /// back when it is open again, as the caller of an ioctl does.
    pub fn command_of_pool(&self) -> Fate {
        loop {
            while !self.pair.is_submitting() {
                yield_now();
            }
            assert!(self.take_permit(true));
            let restored = self.permits.restored();
            if self.pair.is_open() {
                return self.run(false);
            }
            self.held.fetch_sub(1, SeqCst);
            self.permits.withhold(restored, &self.room);
        }
    }

    /// A queue is opened, and permits are there for its tags again.
    pub fn open(&self) {
        self.pair.open(1, self);
        self.permits.restore(&self.room);
    }

    /// Carries out the command of somebody who has a permit.
    fn run(&self, killed: bool) -> Fate {
        let (tag, chair) = self.pair.take(self).expect("a permit, but no tag");
        assert!(!self.in_device.lock().unwrap()[tag], "the device has it");
        chair.signals.store(0, SeqCst);
        chair.sent.store(false, SeqCst);
        let cid = chair.slot.cid(tag);
        chair.memory.set(u64::from(cid));
        self.prepared[tag].set(cid);
        self.pair.submit(self, &chair.slot, tag, 1);

        if !killed {
            chair.done.wait();
        }
        if self
            .pair
            .conclude(chair, self.tokens.clone(), !killed)
            .is_none()
        {
            return Fate::Left;
        }
        let fate = self.collect(tag, cid);
        self.free(tag);
        fate
    }

    fn collect(&self, tag: usize, cid: u16) -> Fate {
        let chair = &self.chairs[tag];
        assert!(!self.in_device.lock().unwrap()[tag], "the device has it");
        let sent = chair.sent.load(SeqCst);
        let mut entry = Entry::default();
        match chair.slot.collect(&mut entry.0) {
            Verdict::Completed => {
                assert_eq!(entry.0[0] as u16, cid, "the completion of another command");
                assert_eq!(chair.memory.get(), u64::from(cid) * 2);
                Fate::Completed
            }
            Verdict::Halted => {
                assert!(sent, "it was never sent");
                Fate::Halted
            }
            Verdict::NotSent => {
                assert!(!sent, "the device may have carried it out");
                Fate::NotSent
            }
        }
    }

    fn free(&self, tag: usize) {
        let chair = &self.chairs[tag];
        chair.memory.set(0);
        self.pair.free(&chair.slot, tag);
        self.give_permit();
    }

    /// Does what is left of commands whose waiters have left.  Returns of how many.
    pub fn clean_up(&self) -> usize {
        let mut count = 0;
        self.pair.take_orphans(|tag| {
            count += 1;
            let chair = &self.chairs[tag];
            let cid = chair.slot.cid(tag);
            self.collect(tag, cid);
            let token = chair.take_left_behind();
            assert!(token.is_some(), "nothing was left behind");
            self.free(tag);
        });
        count
    }

    /// Waits for an orphan.
    pub fn wait_for_orphan(&self) {
        self.orphans.wait();
    }

    /// Waits for a doorbell.
    pub fn wait_for_doorbell(&self) {
        self.rung.wait();
    }

    /// The device fetches what the doorbell says.
    pub fn fetch(&self) {
        let mut device = self.device.lock().unwrap();
        let tail = self.sq_tail.load(Ordering::Acquire);
        while device.sq_head != tail {
            let cid = self.sq[device.sq_head as usize].get();
            device.sq_head = (device.sq_head + 1) % self.entries();
            let mut in_device = self.in_device.lock().unwrap();
            let has = &mut in_device[crate::slot::tag_of(cid)];
            assert!(!*has, "a command that the device has");
            *has = true;
            device.commands.push(cid);
        }
    }

    /// The device completes all that it has fetched, the last first.  Returns how many these are.
    pub fn complete(&self) -> usize {
        let mut device = self.device.lock().unwrap();
        let mut count = 0;
        while let Some(cid) = device.commands.pop() {
            let tag = crate::slot::tag_of(cid);
            let memory = &self.chairs[tag].memory;
            assert_eq!(memory.get(), u64::from(cid), "not the command's memory");
            memory.set(u64::from(cid) * 2);
            self.in_device.lock().unwrap()[tag] = false;
            self.post(&mut device, cid);
            count += 1;
        }
        count
    }

    /// The device posts a completion of a command that it may not have.
    pub fn complete_again(&self, cid: u16) {
        self.post(&mut self.device.lock().unwrap(), cid);
    }

    fn post(&self, device: &mut Device, cid: u16) {
        let next = (device.cq_tail + 1) % self.entries();
        let head = self.cq_head.load(Ordering::Acquire);
        assert_ne!(next, head, "no room for the completion");
        let phase = if device.cq_turned { 0 } else { PHASE };
        self.cq[device.cq_tail as usize].store(phase | u64::from(cid), Ordering::Release);
        device.cq_turned ^= next == 0;
        device.cq_tail = next;
    }

    /// The device fetches and completes, and the interrupt handler reaps, until as many commands
    /// have been completed as that.
    pub fn serve(&self, count: usize) {
        let mut completed = 0;
        while completed < count {
            self.wait_for_doorbell();
            self.fetch();
            completed += self.complete();
            self.pair.reap(self);
        }
    }

    /// The device fetches and completes as many commands as that, and the interrupt handler, which
    /// is in another thread, reaps as often.
    pub fn complete_and_interrupt(&self, count: usize) {
        let mut completed = 0;
        while completed < count {
            self.wait_for_doorbell();
            self.fetch();
            for _ in 0..self.complete() {
                completed += 1;
                self.interrupt.signal();
            }
        }
    }

    /// The interrupt handler, as often as that.
    pub fn handle_interrupts(&self, count: usize) {
        for _ in 0..count {
            self.interrupt.wait();
            self.pair.reap(self);
        }
    }

    /// The same as [`Self::serve`] until [`Self::close_down`].
    pub fn serve_open(&self) {
        while !self.done.load(SeqCst) {
            self.wait_for_doorbell();
            self.fetch();
            self.complete();
            self.pair.reap(self);
        }
    }

    /// Ends [`Self::serve_open`].
    pub fn close_down(&self) {
        self.done.store(true, SeqCst);
        self.rung.signal();
    }

    /// Nothing is submitted from here on.
    pub fn forbid_submitting(&self) {
        // For the model checker to see that this must be tried before and after each doorbell.
        self.sq_tail.load(Ordering::Relaxed);
        *self.may_submit.lock().unwrap() = false;
    }

    /// No doorbell is rung from here on.
    pub fn forbid_doorbells(&self) {
        self.forbid_submitting();
        self.cq_head.load(Ordering::Relaxed);
        *self.may_consume.lock().unwrap() = false;
    }

    /// The device forgets its submission queue, and all commands in it.
    pub fn delete_submissions(&self) {
        let mut device = self.device.lock().unwrap();
        device.commands.clear();
        device.sq_head = 0;
        self.sq_tail.store(0, Ordering::Release);
        self.in_device.lock().unwrap().fill(false);
    }

    /// The device forgets its completion queue, whose submission queue it has forgotten.
    pub fn delete_completions(&self) {
        let mut device = self.device.lock().unwrap();
        assert!(device.commands.is_empty(), "commands are left");
        *device = Device::default();
        self.cq_head.store(0, Ordering::Release);
    }

    /// The device is stopped: it forgets everything.
    pub fn stop(&self) {
        self.delete_submissions();
        self.delete_completions();
    }

    /// Doorbells may be rung again.
    pub fn allow_doorbells(&self) {
        *self.may_submit.lock().unwrap() = true;
        *self.may_consume.lock().unwrap() = true;
    }

    /// Tells waiters to leave.
    pub fn evict(&self) {
        self.pair.evict(self.chairs.iter());
    }

    /// Asserts that all is as it was when new, but for what was counted.
    pub fn assert_clean(&self) {
        assert!(self.pair.is_idle(), "a tag is taken");
        let launches: u32 = self
            .chairs
            .iter()
            .map(|chair| chair.launches.load(SeqCst))
            .sum();
        assert_eq!(self.pair.submitted(), launches.into(), "commands submitted");
        for chair in &self.chairs {
            let ends = chair.ends.load(SeqCst);
            assert_eq!(
                ends,
                chair.launches.load(SeqCst),
                "a command that has not ended"
            );
        }
        assert!(!self.pair.has_abandoned());
        assert_eq!(Arc::strong_count(&self.tokens), 1, "a token is left");
        assert_eq!(self.held.load(SeqCst), 0, "a permit is held");
        for chair in &self.chairs {
            assert!(!chair.done.try_wait(), "a signal is left");
        }
        assert!(!self.room.is_anybody_called(), "a signal is left");
        // Just as many permits as there are tags.
        for _ in &self.chairs {
            assert!(self.take_permit(false), "a permit is lost");
        }
        assert!(!self.take_permit(false), "a permit too many");
    }
}

impl World for Machine {
    type Seat = Chair;
    type Cqe = Entry;

    fn seat(&self, tag: usize) -> Option<&Chair> {
        self.chairs.get(tag)
    }

    fn cid(cqe: &Entry) -> u16 {
        cqe.0[0] as u16
    }

    fn read_cqe(&self, index: u32, phase: bool, to: &mut Entry) -> bool {
        let word = self.cq[index as usize].load(Ordering::Acquire);
        to.0 = [word];
        (word & PHASE != 0) == phase
    }

    fn clear_cq(&self) {
        for word in &self.cq {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn write_sqe(&self, tag: usize, index: u32) {
        self.chairs[tag].sent.store(true, SeqCst);
        self.sq[index as usize].set(self.prepared[tag].get());
    }

    fn ring_sq(&self, tail: u32) {
        self.sq_tail.store(tail, Ordering::Release);
        assert!(*self.may_submit.lock().unwrap(), "a doorbell after closing");
        self.doorbells.fetch_add(1, SeqCst);
        self.rung.signal();
    }

    fn ring_cq(&self, head: u32) {
        self.cq_head.store(head, Ordering::Release);
        assert!(
            *self.may_consume.lock().unwrap(),
            "a doorbell after silencing"
        );
    }

    fn disowned(&self) {
        self.orphans.signal();
    }

    fn launching(seat: &Chair) {
        seat.launches.fetch_add(1, SeqCst);
    }

    fn ending(&self, seat: &Chair, _: u16, _: Option<&Entry>) {
        let before = seat.ends.fetch_add(1, SeqCst);
        let launches = seat.launches.load(SeqCst);
        assert_eq!(
            before + 1,
            launches,
            "it ends twice, or without being submitted"
        );
    }
}
