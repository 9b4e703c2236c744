// SPDX-License-Identifier: GPL-2.0

//! Queue pairs: a submission queue, the completion queue of the same number, and their slots.
//!
//! The rings are allocated once and are as large as there are slots plus one, so neither can
//! overflow: the submission queue head that the device reports is not needed, and not believed.
//!
//! Neither submitting nor completing takes a lock: that part is in [`lockless`](crate::lockless).
//! This one gives it memory, doorbells and tasks that sleep. Only those who wait for a slot have a
//! lock, for their order.

use core::mem::size_of;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma::{
        Coherent,
        DmaAddress, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Jiffies,
        Monotonic, //
    },
};

use crate::{
    account::{
        Account,
        Figures,
        BUCKETS, //
    },
    lockless::{
        pair,
        pair::ANY_ERA,
        slot,
        slot::{
            Seat,
            Verdict, //
        }, //
    },
    orphans::Orphans,
    params,
    patience::{
        Patience,
        Permits,
        Wait, //
    },
    regs::{
        Doorbells,
        DoorbellsOf,
        QueueId, //
    },
    slot::Slot,
    sys::{
        clock,
        compat,
        completion::Waited,
        dma::Buffer,
        figure::Figure,
        process,
        trace,
        window::Window, //
    },
    wire::ring,
};

/// A class of queues: what its entries are, and what its slots have.
///
/// Entry sizes are those of Documentation/device.rst 3.1. In all completion queue entries the last
/// 16 bits hold the phase and the status; where the command identifier is differs.
pub(crate) trait Class: Send + Sync + 'static {
    /// A submission queue entry.
    type Sqe: zerocopy::IntoBytes + zerocopy::Immutable + Copy;

    /// A completion queue entry, as 64-bit words.
    type Cqe: Copy + Default + AsRef<[u64]> + AsMut<[u64]>;

    /// What goes with a command for as long as the device has it. Dropping it may sleep.
    type Token: Send + Unpin;

    /// Bytes of DMA memory of a slot: one half for what the device reads, one for what it writes.
    const SLOT_BYTES: usize;

    /// Puts the command identifier into an entry.
    fn set_cid(sqe: &mut Self::Sqe, cid: u16);

    /// Returns the command identifier of a completion queue entry.
    fn cid(cqe: &Self::Cqe) -> u16;

    /// Returns the status of a completion queue entry, which is 0 unless the command failed.
    fn status(cqe: &Self::Cqe) -> u16;

    /// Traces what a completion queue entry says besides.
    fn trace(_: &Device, _: &Self::Cqe) {}

    /// Returns the era of the session that a command uses, opens or closes: in another one the
    /// number is that of somebody else. [`ANY_ERA`] if it has none.
    fn era(_: &Self::Token) -> u32 {
        ANY_ERA
    }

    /// Returns how many bytes of memory that the device accesses go with a command, besides those
    /// of its slot.
    fn bytes_of(token: &Self::Token) -> usize;

    /// Called for a command whose waiter has left, with its completion, if it has one, and what
    /// went with it.
    fn orphaned(orphans: &Arc<Orphans>, cqe: Option<&Self::Cqe>, token: Self::Token);
}

/// How a waiter finds out that its command has completed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Notify {
    /// By interrupt, on this MSI-X vector. The monitor looks now and then, so that a lost interrupt
    /// costs less than a lost command.
    Vector(u16),
    /// By looking on each timer tick.
    Poll,
}

/// How long somebody who waits for a slot relies on others.
const ALONE_AFTER_MS: u32 = 250;

/// The same in ticks.
fn slice() -> Jiffies {
    msecs_to_jiffies(ALONE_AFTER_MS).max(1)
}

/// How long the command of a slot has been seen under way.
///
/// A device that takes commands one after another works on those before it first, so the time
/// counts from the last completion of the queue, unless that was of a later command.
struct Watch {
    /// The command, see [`Slot::under_way`], plus one; 0 if there was none.
    command: Atomic<u32>,
    age_ms: Atomic<u32>,
}

impl Watch {
    fn new() -> Self {
        Self {
            command: Atomic::new(0),
            age_ms: Atomic::new(0),
        }
    }

    fn is_for(&self, under_way: Option<u32>) -> bool {
        under_way.is_some_and(|command| command + 1 == self.command.load(Relaxed))
    }

    /// Looks at a slot after `passed_ms`; `waits` is whether the command waits for earlier ones, of
    /// which some have completed meanwhile.
    fn look(&self, under_way: Option<u32>, passed_ms: u32, waits: bool) {
        if self.is_for(under_way) && !waits {
            let age = self.age_ms.load(Relaxed);
            self.age_ms.store(age.saturating_add(passed_ms), Relaxed);
        } else {
            self.age_ms.store(0, Relaxed);
            let command = under_way.map_or(0, |command| command + 1);
            self.command.store(command, Relaxed);
        }
    }
}

/// See the [module](self).
pub(crate) struct QueuePair<C: Class> {
    dev: ARef<Device>,
    id: QueueId,
    notify: Notify,
    // How long who has submitted a command looks for its completion before going to sleep.
    spin: Option<Delta>,
    orphans: Arc<Orphans>,
    pair: pair::QueuePair,
    permits: Arc<Permits>,
    slots: KVec<Pin<KBox<Slot<C::Token>>>>,
    // Entries of `sq` by tag. The device is not told of it.
    prepared: Buffer,
    sq: Buffer,
    // Words of the entries.
    cq: Coherent<[u64]>,
    // By tag. Used by the monitor, and by who has its clocks begin anew.
    watches: KVec<Watch>,
    // How many commands had been completed when the monitor looked last.
    completed_at_watch: Atomic<u64>,
    // How often the queue was aborted since it had completed so many commands.
    aborts: Atomic<u32>,
    completed_at_abort: Atomic<u64>,
    account: Account,
    // What is counted when there is trouble.
    all_aborts: Atomic<u64>,
    timed_out: Atomic<u64>,
    // Written by the monitor: completions per second, and what that is measured by.
    per_second: Figure,
    completed_at_measure: Figure,
    since_measure_ms: Figure,
}

/// A queue pair with the doorbells of its device.
struct At<'a, C: Class, W> {
    queue: &'a QueuePair<C>,
    doorbells: &'a DoorbellsOf<W>,
}

impl<C: Class, W: Window> pair::World for At<'_, C, W> {
    type Seat = Slot<C::Token>;
    type Cqe = C::Cqe;

    fn seat(&self, tag: usize) -> Option<&Slot<C::Token>> {
        self.queue.slots.get(tag).map(|slot| &**slot)
    }

    fn cid(cqe: &C::Cqe) -> u16 {
        C::cid(cqe)
    }

    fn read_cqe(&self, index: u32, phase: bool, to: &mut C::Cqe) -> bool {
        // Does not fail: `index` is one of the ring's.
        let word =
            |index| u64::from_le(compat::read_word(&self.queue.cq, index).unwrap_or_default());

        ring::read(index, phase, to.as_mut(), word, compat::dma_read_barrier)
    }

    fn clear_cq(&self) {
        let cq = &self.queue.cq;
        for index in 0..cq.len() {
            // Cannot fail: it is an index of the ring.
            let _ = compat::write_word(cq, index, 0);
        }
    }

    fn write_sqe(&self, tag: usize, index: u32) {
        let len = size_of::<C::Sqe>();

        // Cannot fail: there is a place for each tag, and `index` is one of the ring's.
        let _ =
            self.queue
                .prepared
                .copy_to(tag * len, &self.queue.sq, ring::start(index, len), len);
    }

    fn ring_sq(&self, tail: u32) {
        // Ordered after the entries, as all MMIO writes are after memory writes.
        self.doorbells.ring_sq(self.queue.id, tail);
    }

    fn ring_cq(&self, head: u32) {
        self.doorbells.ring_cq(self.queue.id, head);
    }

    fn disowned(&self) {
        self.queue.orphans.release();
    }

    fn launching(seat: &Slot<C::Token>) {
        seat.launched_at().set(clock::now());
    }

    fn ending(&self, seat: &Slot<C::Token>, cid: u16, cqe: Option<&C::Cqe>) {
        let account = &self.queue.account;
        let (dev, id) = (&self.queue.dev, self.queue.id.get());
        match cqe {
            Some(cqe) => {
                let status = C::status(cqe);
                let ns = account.completed(seat.launched_at().get(), status != 0);
                trace::complete(dev, id, cid, status, ns);
                C::trace(dev, cqe);
            }
            None => {
                account.aborted();
                trace::cancel(dev, id, cid);
            }
        }
    }
}

impl<C: Class> QueuePair<C> {
    /// 64-bit words of a completion queue entry.
    const CQE_WORDS: usize = size_of::<C::Cqe>() / size_of::<u64>();

    /// Allocates a queue pair with `size` entries. The device is not told of it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and `EINVAL` unless `size` is 2 to [`slot::MAX_TAGS`].
    pub(crate) fn new(
        dev: &Device<Bound>,
        id: QueueId,
        size: u16,
        notify: Notify,
        permits: Arc<Permits>,
        orphans: Arc<Orphans>,
    ) -> Result<Self> {
        let entries = usize::from(size);
        if !(2..=slot::MAX_TAGS).contains(&entries) {
            return Err(EINVAL);
        }
        let count = entries - 1;

        let mut slots = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let buffer = Buffer::new(dev, C::SLOT_BYTES)?;
            slots.push(Slot::new(buffer)?, GFP_KERNEL)?;
        }
        let mut watches = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            watches.push(Watch::new(), GFP_KERNEL)?;
        }
        Ok(Self {
            dev: dev.into(),
            id,
            notify,
            spin: params::poll(),
            orphans,
            pair: pair::QueuePair::new(count)?,
            permits,
            slots,
            prepared: Buffer::new(dev, count * size_of::<C::Sqe>())?,
            sq: Buffer::new(dev, entries * size_of::<C::Sqe>())?,
            cq: Coherent::zeroed_slice(dev, entries * Self::CQE_WORDS, GFP_KERNEL)?,
            watches,
            completed_at_watch: Atomic::new(0),
            aborts: Atomic::new(0),
            completed_at_abort: Atomic::new(0),
            account: Account::new(),
            all_aborts: Atomic::new(0),
            timed_out: Atomic::new(0),
            per_second: Figure::new(0),
            completed_at_measure: Figure::new(0),
            since_measure_ms: Figure::new(0),
        })
    }

    fn at<'a, W>(&'a self, doorbells: &'a DoorbellsOf<W>) -> At<'a, C, W> {
        At {
            queue: self,
            doorbells,
        }
    }

    /// Returns the number of the queue.
    pub(crate) fn id(&self) -> QueueId {
        self.id
    }

    /// Returns the number of entries of either ring.
    pub(crate) fn size(&self) -> u16 {
        // CAST: `new()` got it as a `u16`.
        (self.slots.len() + 1) as u16
    }

    /// Returns the MSI-X vector of the completion queue, if it has one.
    pub(crate) fn vector(&self) -> Option<u16> {
        match self.notify {
            Notify::Vector(vector) => Some(vector),
            Notify::Poll => None,
        }
    }

    /// Returns the bus address of the submission queue.
    pub(crate) fn sq_address(&self) -> DmaAddress {
        self.sq.dma_address()
    }

    /// Returns the bus address of the completion queue.
    pub(crate) fn cq_address(&self) -> DmaAddress {
        compat::dma_address(&self.cq)
    }

    /// Returns how many completions were not those of any command, since it was last asked.
    pub(crate) fn take_stray(&self) -> u64 {
        self.pair.take_stray()
    }

    /// Returns whether no command is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.pair.is_idle()
    }

    /// Consumes what the device has completed. May be called from any context.
    pub(crate) fn reap(&self, doorbells: &Doorbells<'_>) {
        self.pair.reap(&self.at(doorbells));
    }

    /// Releases what orphaned commands had, and frees their slots. May sleep.
    ///
    /// Returns whether it must be called again soon: there are commands which nobody waits for, and
    /// nobody would be told that they have ended.
    pub(crate) fn release_orphans(&self, doorbells: &Doorbells<'_>) -> bool {
        // Of a queue that is silent all is known.
        let is_polled = self.notify == Notify::Poll && !self.pair.is_silent();
        if is_polled && self.pair.has_abandoned() {
            self.reap(doorbells);
        }
        self.pair.take_orphans(|tag| {
            if let Some(slot) = self.slots.get(tag) {
                self.discard(slot, tag);
            }
        });
        is_polled && self.pair.has_abandoned()
    }

    fn discard(&self, slot: &Slot<C::Token>, tag: usize) {
        let mut cqe = C::Cqe::default();
        let verdict = slot.slot().collect(cqe.as_mut());
        let token = slot.take_left_behind();

        // Cannot fail: it is the size of the buffer.
        let _ = slot.buffer().clear(0, C::SLOT_BYTES);
        self.free(slot, tag);
        if let Some(token) = token {
            let cqe = (verdict == Verdict::Completed).then_some(&cqe);
            C::orphaned(&self.orphans, cqe, token);
        }
    }

    /// Frees a slot, which is the caller's.
    fn free(&self, slot: &Slot<C::Token>, tag: usize) {
        self.pair.free(slot.slot(), tag);
        self.permits.give();
    }

    /// Takes a slot, if one is free; the caller has a permit.
    fn try_take<'a>(&'a self, doorbells: &'a Doorbells<'a>) -> Option<Owned<'a, C>> {
        let (tag, _) = self.pair.take(&self.at(doorbells))?;
        let slot = self.slots.get(tag)?;

        // INVARIANT: The tag was taken, and the permit is the caller's.
        Some(Owned {
            queue: self,
            doorbells,
            slot,
            tag,
            dirty: [0; 2],
        })
    }

    /// Has the queue avoided, so that the commands in it are not joined by others.
    pub(crate) fn drain(&self, doorbells: &Doorbells<'_>) {
        self.pair.drain(&self.at(doorbells));
    }

    /// Has a queue used again if it was drained.
    pub(crate) fn refill(&self, doorbells: &Doorbells<'_>) {
        if self.pair.refill(&self.at(doorbells)) {
            self.permits.restore();
        }
    }

    /// Closes the queue: once this returns nothing is submitted any more, and what was not
    /// submitted yet has ended.
    pub(crate) fn close(&self, doorbells: &Doorbells<'_>) {
        self.pair.close(&self.at(doorbells));
    }

    /// Closes the queue, and once this returns rings no doorbell any more.
    pub(crate) fn silence(&self, doorbells: &Doorbells<'_>) {
        self.pair.silence(&self.at(doorbells));
    }

    /// Ends all commands of a closed queue, now that the device has deleted its submission queue;
    /// those that it completed before keep their completion.
    pub(crate) fn end_submitted(&self, doorbells: &Doorbells<'_>) {
        self.pair.end_submitted(&self.at(doorbells));
    }

    /// Makes the rings of a silent queue as they were when new, now that the device has forgotten
    /// both. No command must be left.
    pub(crate) fn renew(&self, doorbells: &Doorbells<'_>) {
        self.pair.release(&self.at(doorbells));
    }

    /// Ends all commands of a silent queue, now that the device does not access their memory any
    /// more; those that it completed before keep their completion. The rings are as they were when
    /// new then.
    pub(crate) fn release(&self, doorbells: &Doorbells<'_>) {
        self.aborts.store(0, Relaxed);
        self.renew(doorbells);
    }

    /// Lets the queue take commands again, or for the first time. The device must know of it, or be
    /// told before there is a command.
    pub(crate) fn open(&self, doorbells: &Doorbells<'_>) {
        self.pair
            .open(self.orphans.sessions().era(), &self.at(doorbells));
        self.permits.restore();
    }

    /// Returns a number for the time since the queue was opened last.
    pub(crate) fn start(&self) -> u32 {
        self.pair.start()
    }

    /// Tells those who poll a queue to leave, and their slots with the device, unless the queue was
    /// opened again since [`Self::start`] was `start`.
    pub(crate) fn desert(&self, start: u32) {
        self.pair.desert(start);
    }

    /// Takes [`Self::desert`] back.
    pub(crate) fn recall(&self) {
        self.pair.recall();
    }

    /// Tells all waiters of a queue that is silent to leave, and their slots with the device.
    pub(crate) fn evict(&self) {
        self.pair.evict(self.slots.iter().map(|slot| &**slot));
    }

    /// Returns how many commands are left to the device for good, until it has stopped.
    pub(crate) fn quarantined(&self) -> usize {
        match self.pair.is_deserted() {
            true => self.under_way(),
            false => 0,
        }
    }

    /// Returns how many commands have not ended, whether anybody waits for them or not.
    pub(crate) fn under_way(&self) -> usize {
        let states = self.slots.iter().map(|slot| slot.slot());
        states.filter(|state| state.under_way().is_some()).count()
    }

    /// Takes note of how long commands have been under way, `passed_ms` after the last time, and
    /// completes those that could have been already. Returns whether one has been for `limit_ms`.
    ///
    /// To be called by one task at a time.
    pub(crate) fn watch(&self, passed_ms: u32, limit_ms: u32, doorbells: &Doorbells<'_>) -> bool {
        if self.is_idle() {
            return false;
        }
        let completed = self.pair.completed();
        let advanced = self.completed_at_watch.xchg(completed, Relaxed) != completed;
        let mut old = false;
        for (tag, (slot, watch)) in self.slots.iter().zip(&self.watches).enumerate() {
            let waits = advanced && self.pair.is_later(tag);
            watch.look(slot.slot().under_way(), passed_ms, waits);
            old |= watch.age_ms.load(Relaxed) != 0;
        }
        if old {
            self.pair.look(&self.at(doorbells));
        }
        self.is_overdue(limit_ms)
    }

    /// Returns whether a command has been under way for `limit_ms`, as far as was noted.
    pub(crate) fn is_overdue(&self, limit_ms: u32) -> bool {
        self.overdue(limit_ms).next().is_some()
    }

    fn overdue(&self, limit_ms: u32) -> impl Iterator<Item = &Watch> {
        let watched = self.slots.iter().zip(&self.watches);
        let overdue = watched.filter(move |(slot, watch)| {
            watch.age_ms.load(Relaxed) >= limit_ms && watch.is_for(slot.slot().under_way())
        });
        overdue.map(|(_, watch)| watch)
    }

    /// Has the clocks of all commands begin anew.
    pub(crate) fn forgive(&self) {
        for watch in &self.watches {
            watch.age_ms.store(0, Relaxed);
        }
    }

    /// Takes note of those commands that have been under way for `limit_ms`, as something is about to
    /// be done about them.
    pub(crate) fn count_overdue(&self, limit_ms: u32) {
        let overdue = self.overdue(limit_ms).count();
        // CAST: Widening.
        self.timed_out.fetch_add(overdue as u64, Relaxed);
        if overdue != 0 {
            // CAST: There are not as many slots.
            trace::timeout(&self.dev, self.id.get(), overdue as u32);
        }
    }

    /// Measures completions per second over a second or a little more, `passed_ms` after the last
    /// call. To be called by one task at a time.
    pub(crate) fn measure(&self, passed_ms: u32) {
        const WINDOW_MS: u64 = 1_000;

        let since_ms = self.since_measure_ms.get().wrapping_add(passed_ms.into());
        if since_ms < WINDOW_MS {
            self.since_measure_ms.set(since_ms);
            return;
        }
        let completed = self.account.completions();
        let more = completed.wrapping_sub(self.completed_at_measure.get());
        let per_second = more.saturating_mul(1_000).checked_div(since_ms);
        self.per_second.set(per_second.unwrap_or(0));
        self.completed_at_measure.set(completed);
        self.since_measure_ms.set(0);
    }

    /// Returns what is known of the queue.
    pub(crate) fn figures(&self) -> Figures {
        let states = self.slots.iter().map(|slot| slot.slot());
        let pending = states.filter(|state| state.is_in_flight()).count();
        Figures {
            submitted: self.pair.submitted(),
            // CAST: Widening.
            pending: pending as u64,
            aborts: self.all_aborts.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            per_second: self.per_second.get(),
            // CAST: Widening.
            quarantined: self.quarantined_bytes() as u64,
            ..self.account.figures()
        }
    }

    /// Returns how many bytes are left to the device for good, until it has stopped.
    fn quarantined_bytes(&self) -> usize {
        if !self.pair.is_deserted() {
            return 0;
        }
        let slots = self.slots.iter();
        let quarantined = slots.filter(|slot| slot.slot().under_way().is_some());
        quarantined
            .map(|slot| {
                slot.look_left_behind(C::bytes_of)
                    .saturating_add(C::SLOT_BYTES)
            })
            .fold(0, usize::saturating_add)
    }

    /// Returns how many commands took how long.
    pub(crate) fn histogram(&self) -> [u64; BUCKETS] {
        self.account.histogram()
    }

    /// Counts an abort of the queue that begins.
    pub(crate) fn begin_abort(&self) {
        self.all_aborts.fetch_add(1, Relaxed);
        trace::abort(&self.dev, self.id.get());
    }

    /// Counts an abort of the queue. Returns how many there were in a row, without a completion
    /// between.
    pub(crate) fn count_abort(&self) -> u32 {
        let completed = self.pair.completed();
        if self.completed_at_abort.xchg(completed, Relaxed) != completed {
            self.aborts.store(0, Relaxed);
        }
        self.aborts.fetch_add(1, Relaxed) + 1
    }
}

/// Why a command has no completion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lost {
    /// No slot was free in time. The command was not sent.
    Busy,
    /// The task was being killed before there was a slot. The command was not sent.
    Interrupted,
    /// The device did not complete it in time. Its slot stays with the device.
    TimedOut,
    /// The device does not answer any more. The slot stays with the device.
    Deserted,
    /// The waiting task is being killed. Its slot stays with the device.
    Killed,
    /// The queues are closed. The command was not sent.
    Refused,
    /// The queue was closed while the command was under way. The device does not use its slot any
    /// more, but may have carried it out.
    Halted,
}

impl Lost {
    /// Returns whether the device may have carried the command out, or may do so still.
    pub(crate) fn was_sent(self) -> bool {
        matches!(
            self,
            Lost::TimedOut | Lost::Deserted | Lost::Killed | Lost::Halted
        )
    }
}

/// A slot of a queue that nobody else uses.
///
/// Dropping it clears what is marked secret and frees the slot.
///
/// # Invariants
///
/// The holder has a permit and has taken `tag` of `queue`, whose slot is `slot`.
pub(crate) struct Owned<'a, C: Class> {
    queue: &'a QueuePair<C>,
    doorbells: &'a Doorbells<'a>,
    slot: &'a Slot<C::Token>,
    tag: usize,
    // How much of each half is to be cleared.
    dirty: [usize; 2],
}

impl<C: Class> Owned<'_, C> {
    /// Offset of the half that the device writes to.
    pub(crate) const RESPONSE: usize = C::SLOT_BYTES / 2;

    /// Returns the DMA memory of the slot.
    pub(crate) fn buffer(&self) -> &Buffer {
        self.slot.buffer()
    }

    /// Marks the first `len` bytes of the half that the device reads as secret, and no more.
    pub(crate) fn soil_request(&mut self, len: usize) {
        self.dirty[0] = len.min(Self::RESPONSE);
    }

    /// Marks the first `len` bytes of the half that the device writes as secret, and no more.
    pub(crate) fn soil_response(&mut self, len: usize) {
        self.dirty[1] = len.min(Self::RESPONSE);
    }

    /// Submits `sqe` and waits for its completion. The device, or the caller, has `token` until
    /// the command has ended; if it was completed it is returned.
    ///
    /// # Errors
    ///
    /// See [`Lost`]; the slot is gone then, and is freed when the device is done with it.
    pub(crate) fn run(
        self,
        mut sqe: C::Sqe,
        token: C::Token,
        patience: Patience,
    ) -> Result<(Self, C::Cqe, C::Token), Lost> {
        let cid = self.slot.slot().cid(self.tag);
        C::set_cid(&mut sqe, cid);
        // Cannot fail: there is a place for each tag.
        self.prepare(sqe).map_err(|_| Lost::Refused)?;
        trace::submit(&self.queue.dev, self.queue.id.get(), cid);
        let world = self.queue.at(self.doorbells);
        let (slot, era) = (self.slot.slot(), C::era(&token));
        self.queue.pair.submit(&world, slot, self.tag, era);
        self.wait(token, patience)
    }

    /// Stores `sqe` for the pump.
    fn prepare(&self, sqe: C::Sqe) -> Result {
        self.queue
            .prepared
            .write(self.tag * size_of::<C::Sqe>(), sqe.as_bytes())
    }

    fn wait(self, token: C::Token, patience: Patience) -> Result<(Self, C::Cqe, C::Token), Lost> {
        let wait = patience.start();
        let waited = match self.queue.notify {
            Notify::Vector(_) if self.spin() => Waited::Done,
            Notify::Vector(_) => wait.for_event(self.slot.done()),
            Notify::Poll => self.poll(&wait),
        };
        let (signalled, lost) = match waited {
            Waited::Done => (true, Lost::Deserted),
            Waited::Killed => (false, Lost::Killed),
            Waited::TimedOut if self.queue.pair.is_deserted() => (false, Lost::Deserted),
            Waited::TimedOut => (false, Lost::TimedOut),
        };
        let Some(token) = self.queue.pair.conclude(self.slot, token, signalled) else {
            if self.queue.notify == Notify::Poll {
                self.queue.orphans.release();
            }
            // The slot is freed by whoever ends the command.
            core::mem::forget(self);
            return Err(lost);
        };
        let mut cqe = C::Cqe::default();
        match self.slot.slot().collect(cqe.as_mut()) {
            Verdict::Completed => Ok((self, cqe, token)),
            Verdict::Halted => Err(Lost::Halted),
            Verdict::NotSent => Err(Lost::Refused),
        }
    }

    /// Looks for the completion as long as the administrator wants that done. Returns whether the
    /// command has ended; its signal is consumed then.
    fn spin(&self) -> bool {
        let Some(limit) = self.queue.spin else {
            return false;
        };
        let begin: Instant<Monotonic> = Instant::now();
        while begin.elapsed() < limit {
            self.queue.reap(self.doorbells);
            if self.slot.done().try_wait() {
                return true;
            }
            core::hint::spin_loop();
        }
        false
    }

    /// Waits for the command on a queue that has no interrupt.
    fn poll(&self, wait: &Wait) -> Waited {
        loop {
            self.queue.pair.look(&self.queue.at(self.doorbells));
            if self.slot.done().try_wait() {
                return Waited::Done;
            }
            if wait.is_killed() {
                return Waited::Killed;
            }
            if wait.is_over() || self.queue.pair.is_deserted() {
                return Waited::TimedOut;
            }
            process::sleep_a_tick();
        }
    }
}

impl<C: Class> Drop for Owned<'_, C> {
    fn drop(&mut self) {
        // Cannot fail: each is at most half of the buffer.
        let _ = self.buffer().clear(0, self.dirty[0]);
        let _ = self.buffer().clear(Self::RESPONSE, self.dirty[1]);
        self.queue.free(self.slot, self.tag);
    }
}

/// The queue pairs of one class.
pub(crate) struct Pool<C: Class> {
    queues: KVec<QueuePair<C>>,
    permits: Arc<Permits>,
}

impl<C: Class> Pool<C> {
    /// Makes a pool without queues.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            queues: KVec::new(),
            permits: Permits::new()?,
        })
    }

    /// Adds a queue; the parameters are those of [`QueuePair::new`].
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn add(
        &mut self,
        dev: &Device<Bound>,
        id: QueueId,
        size: u16,
        notify: Notify,
        orphans: Arc<Orphans>,
    ) -> Result {
        let queue = QueuePair::new(dev, id, size, notify, self.permits.clone(), orphans)?;
        let count = i32::from(size.saturating_sub(1));
        self.queues.push(queue, GFP_KERNEL)?;
        self.permits.add(count);
        Ok(())
    }

    /// Gives the queues up without freeing their memory, which the device may still access.
    pub(crate) fn leak(&mut self) {
        core::mem::forget(core::mem::take(&mut self.queues));
    }

    /// Returns the queues.
    pub(crate) fn queues(&self) -> &[QueuePair<C>] {
        &self.queues
    }

    /// Takes a slot of the queue that suits the current processor best, waiting for one if need be.
    ///
    /// # Errors
    ///
    /// `Busy`, `Interrupted`, or `Refused`, which is also if there are no queues.
    pub(crate) fn take<'a>(
        &'a self,
        doorbells: &'a Doorbells<'a>,
        patience: Patience,
    ) -> Result<Owned<'a, C>, Lost> {
        if self.is_closed() {
            return Err(Lost::Refused);
        }
        let wait = patience.start();
        loop {
            self.take_permit(doorbells, &wait)?;
            let restored = self.permits.restored();
            // There is one: tags are given back before permits. It may take more than one look if
            // others take and give meanwhile.
            loop {
                if let Some(owned) = self.try_take(doorbells) {
                    return Ok(owned);
                }
                if !self.queues.iter().all(|queue| queue.pair.is_open()) {
                    break;
                }
                core::hint::spin_loop();
            }
            // Those that are free are slots of a queue that is being drained or aborted.
            self.permits.withhold(restored);
            if self.is_closed() {
                return Err(Lost::Refused);
            }
        }
    }

    /// Waits for a permit.
    ///
    /// # Errors
    ///
    /// Those of [`Self::take`].
    fn take_permit(&self, doorbells: &Doorbells<'_>, wait: &Wait) -> Result<(), Lost> {
        let mut closed = false;
        self.permits
            .take(|called| loop {
                match wait.wait(called, slice()) {
                    Waited::TimedOut if self.is_closed() => {
                        closed = true;
                        break Waited::TimedOut;
                    }
                    Waited::TimedOut if wait.is_over() => break Waited::TimedOut,
                    // Nobody may be waiting for those who hold the slots.
                    Waited::TimedOut => {
                        for queue in &self.queues {
                            queue.reap(doorbells);
                        }
                    }
                    waited => break waited,
                }
            })
            .map_err(|waited| match waited {
                Waited::Killed => Lost::Interrupted,
                _ if closed => Lost::Refused,
                _ => Lost::Busy,
            })
    }

    /// Returns whether there is no queue that takes commands.
    fn is_closed(&self) -> bool {
        !self.queues.iter().any(|queue| queue.pair.is_submitting())
    }

    /// Returns the index of the queue that `cpu` submits to first, if there are any.
    fn home(&self, cpu: usize) -> Option<usize> {
        cpu.checked_rem(self.queues.len())
    }

    /// Returns the MSI-X vector of the queue that `cpu` submits to first, if it has one.
    pub(crate) fn home_vector(&self, cpu: usize) -> Option<u16> {
        self.queues.get(self.home(cpu)?)?.vector()
    }

    /// Takes a slot, if one is free: of an idle queue if there is one, counting from that of the
    /// current processor, else of any.
    fn try_take<'a>(&'a self, doorbells: &'a Doorbells<'a>) -> Option<Owned<'a, C>> {
        let home = self.home(crate::sys::this_cpu())?;
        let (before, from_home) = self.queues.split_at_checked(home)?;
        let in_order =
            || Iterator::chain(from_home.iter(), before).filter(|queue| queue.pair.is_open());

        let idle = in_order()
            .filter(|queue| queue.is_idle())
            .find_map(|queue| queue.try_take(doorbells));
        idle.or_else(|| in_order().find_map(|queue| queue.try_take(doorbells)))
    }
}

#[kunit_tests(azihsm_queue)]
mod tests {
    use super::*;
    use crate::{
        admin::Admin,
        aes::Aes,
        hsm::Hsm,
        lockless::slot::Seat,
        sys::{
            dma::Nobody,
            gate::Gate,
            window::fake::Fake, //
        },
    };

    fn age(watch: &Watch) -> u32 {
        watch.age_ms.load(Relaxed)
    }

    #[test]
    fn a_command_ages_from_when_it_is_first_seen() {
        let watch = Watch::new();
        watch.look(Some(7), 500, false);
        assert_eq!(age(&watch), 0);
        watch.look(Some(7), 500, false);
        watch.look(Some(7), 250, false);
        assert_eq!(age(&watch), 750);
        assert!(watch.is_for(Some(7)));
    }

    #[test]
    fn another_command_begins_anew() {
        let watch = Watch::new();
        watch.look(Some(7), 500, false);
        watch.look(Some(7), 500, false);
        watch.look(Some(8), 500, false);
        assert_eq!(age(&watch), 0);
        assert!(!watch.is_for(Some(7)));
    }

    #[test]
    fn a_slot_without_a_command_does_not_age() {
        let watch = Watch::new();
        watch.look(None, 500, false);
        watch.look(None, 500, false);
        assert_eq!(age(&watch), 0);
        assert!(!watch.is_for(None));
        assert!(!watch.is_for(Some(0)));
        watch.look(Some(0), 500, false);
        watch.look(Some(0), 500, false);
        assert_eq!(age(&watch), 500);
    }

    #[test]
    fn a_command_that_waits_for_earlier_ones_does_not_age() {
        let watch = Watch::new();
        watch.look(Some(7), 500, false);
        watch.look(Some(7), 500, false);
        watch.look(Some(7), 500, true);
        assert_eq!(age(&watch), 0);
        watch.look(Some(7), 500, false);
        assert_eq!(age(&watch), 500);
    }

    #[test]
    fn ages_do_not_wrap() {
        let watch = Watch::new();
        watch.look(Some(7), 0, false);
        watch.look(Some(7), u32::MAX, false);
        watch.look(Some(7), u32::MAX, false);
        assert_eq!(age(&watch), u32::MAX);
    }

    #[test]
    fn what_was_lost_may_have_been_sent() {
        let cases = [
            (Lost::Busy, false),
            (Lost::Interrupted, false),
            (Lost::Refused, false),
            (Lost::TimedOut, true),
            (Lost::Deserted, true),
            (Lost::Killed, true),
            (Lost::Halted, true),
        ];
        for (lost, was_sent) in cases {
            assert_eq!(lost.was_sent(), was_sent);
        }
    }

    /// What is where, in bytes (device.rst 3.1, 3.2, 4.2, 5.3, 6.2).
    struct Layout {
        queue: QueueId,
        sq_tail: usize,
        cq_head: usize,
        sqe_bytes: usize,
        cqe_bytes: usize,
        cid: usize,
    }

    /// Has the device post an entry at `place`, all of whose words tell of `number`. Returns it.
    fn post<C: Class>(
        queue: &QueuePair<C>,
        layout: &Layout,
        place: usize,
        number: usize,
        cid: u16,
        phase: bool,
    ) -> Result<C::Cqe> {
        let mut cqe = C::Cqe::default();
        let words = cqe.as_mut();
        for (index, word) in words.iter_mut().enumerate() {
            *word = (number << 4 | index) as u64;
        }
        if let Some(word) = words.get_mut(layout.cid / 8) {
            // Only there it is in the way.
            *word &= !(0xffff << (layout.cid % 8 * 8));
            *word |= u64::from(cid) << (layout.cid % 8 * 8);
        }
        if let Some(word) = words.last_mut() {
            *word |= u64::from(phase) << 48;
        }
        for (index, word) in words.iter().enumerate() {
            let index = place * layout.cqe_bytes / 8 + index;
            compat::write_word(&queue.cq, index, word.to_le())?;
        }
        Ok(cqe)
    }

    /// Returns whether the entry at `place` of the submission queue tells of `number`.
    fn is_submitted<C: Class>(
        queue: &QueuePair<C>,
        layout: &Layout,
        place: usize,
        number: usize,
    ) -> Result<bool> {
        let mut entry = [0; 128];
        let entry = entry.get_mut(..layout.sqe_bytes).ok_or(EINVAL)?;
        queue.sq.read(place * layout.sqe_bytes, entry)?;
        Ok(entry
            .chunks_exact(4)
            .all(|part| part == (number as u32).to_le_bytes()))
    }

    /// Prepares the entry of `tag`, which will tell of `number`.
    fn prepare<C: Class>(
        queue: &QueuePair<C>,
        layout: &Layout,
        tag: usize,
        number: usize,
    ) -> Result {
        for offset in (0..layout.sqe_bytes).step_by(4) {
            let offset = tag * layout.sqe_bytes + offset;
            queue
                .prepared
                .write(offset, &(number as u32).to_le_bytes())?;
        }
        Ok(())
    }

    /// Goes around both rings of a queue, with a device that does as it is told.
    fn go_around<C: Class>(layout: &Layout, entries: u16) -> Result {
        let nobody = Nobody::new()?;
        let queue = QueuePair::<C>::new(
            nobody.device(),
            layout.queue,
            entries,
            Notify::Poll,
            Permits::new()?,
            Orphans::new(Gate::new()?)?,
        )?;
        let doorbells = DoorbellsOf {
            bar: Fake::new(&[])?,
        };
        let (at, pair, bar) = (queue.at(&doorbells), &queue.pair, &doorbells.bar);
        let entries = usize::from(entries);

        // One at a time, twice and a half.
        let alone = entries * 5 / 2;
        for number in 0..alone {
            let (place, next) = (number % entries, (number + 1) % entries);
            let (tag, seat) = pair.take(&at).ok_or(EINVAL)?;
            assert_eq!(tag, 0);
            prepare(&queue, layout, tag, number)?;
            pair.submit(&at, seat.slot(), tag, ANY_ERA);
            assert!(is_submitted(&queue, layout, place, number)?);
            assert_eq!(bar.get(layout.sq_tail) as usize, next);

            // What was there is not taken for a completion, nor is what has the phase of that.
            pair.reap(&at);
            assert!(!seat.slot().has_ended());
            let phase = number / entries % 2 == 0;
            let cid = seat.slot().cid(tag);
            post(&queue, layout, place, number, cid, !phase)?;
            pair.reap(&at);
            assert!(!seat.slot().has_ended());
            let posted = post(&queue, layout, place, number, cid, phase)?;
            pair.reap(&at);
            assert!(seat.slot().has_ended());
            assert_eq!(bar.get(layout.cq_head) as usize, next);

            let mut cqe = C::Cqe::default();
            assert!(seat.slot().collect(cqe.as_mut()) == Verdict::Completed);
            assert!(cqe.as_ref() == posted.as_ref());
            pair.free(seat.slot(), tag);
        }

        // As many as there can be, completed in the opposite order.
        let mut seats = KVec::with_capacity(entries - 1, GFP_KERNEL)?;
        for index in 0..entries - 1 {
            let (tag, seat) = pair.take(&at).ok_or(EINVAL)?;
            assert_eq!(tag, index);
            prepare(&queue, layout, tag, alone + index)?;
            pair.submit(&at, seat.slot(), tag, ANY_ERA);
            seats.push(seat, GFP_KERNEL)?;
        }
        assert!(pair.take(&at).is_none());
        let end = alone + entries - 1;
        assert_eq!(bar.get(layout.sq_tail) as usize, end % entries);
        for (index, (tag, seat)) in seats.iter().enumerate().rev().enumerate() {
            let (sent, done) = (alone + tag, alone + index);
            assert!(is_submitted(&queue, layout, sent % entries, sent)?);
            let (cid, phase) = (seat.slot().cid(tag), done / entries % 2 == 0);
            post(&queue, layout, done % entries, sent, cid, phase)?;
        }
        pair.reap(&at);
        assert_eq!(bar.get(layout.cq_head) as usize, end % entries);
        for (tag, seat) in seats.iter().enumerate() {
            let mut cqe = C::Cqe::default();
            assert!(seat.slot().has_ended());
            assert!(seat.slot().collect(cqe.as_mut()) == Verdict::Completed);
            // The first word has the number; in that of an AES queue the identifier is above it.
            let number = cqe.as_ref().first().map(|word| word & 0xffff);
            assert_eq!(number, Some(((alone + tag) << 4 & 0xffff) as u64));
            pair.free(seat.slot(), tag);
        }
        assert!(pair.is_idle());
        assert_eq!((pair.take_stray(), bar.strays()), (0, 0));

        // The ring ends where the last entry does.
        assert_eq!(queue.cq.len() * 8, entries * layout.cqe_bytes);
        pair::World::clear_cq(&at);
        for index in 0..queue.cq.len() {
            assert_eq!(compat::read_word(&queue.cq, index), Ok(0));
        }
        Ok(())
    }

    const SIZES: [u16; 3] = [2, 16, 1024];

    #[test]
    fn the_admin_queue_goes_around() -> Result {
        let layout = Layout {
            queue: QueueId::ADMIN,
            sq_tail: 0,
            cq_head: 4,
            sqe_bytes: 64,
            cqe_bytes: 16,
            cid: 12,
        };
        for entries in SIZES {
            go_around::<Admin>(&layout, entries)?;
        }
        Ok(())
    }

    #[test]
    fn hsm_queues_go_around() -> Result {
        let layout = Layout {
            queue: QueueId::hsm(64)?,
            sq_tail: 520,
            cq_head: 524,
            sqe_bytes: 64,
            cqe_bytes: 16,
            cid: 12,
        };
        for entries in SIZES {
            go_around::<Hsm>(&layout, entries)?;
        }
        Ok(())
    }

    #[test]
    fn aes_queues_go_around() -> Result {
        let layout = Layout {
            queue: QueueId::aes(129)?,
            sq_tail: 3080,
            cq_head: 3084,
            sqe_bytes: 128,
            cqe_bytes: 64,
            cid: 2,
        };
        for entries in SIZES {
            go_around::<Aes>(&layout, entries)?;
        }
        Ok(())
    }
}
