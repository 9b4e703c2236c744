// SPDX-License-Identifier: GPL-2.0

//! Queue pairs: a submission queue, the completion queue of the same number, and their slots.
//!
//! The rings are allocated once and are as large as there are slots plus one, so neither can
//! overflow: the submission queue head that the device reports is not needed, and not believed.
//!
//! Neither submitting nor completing takes a lock; see [`crate::slot`] for who owns what, and
//! [`Combiner`] for how one processor does the work of all.

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
    io::{
        io_project,
        io_read,
        Io, //
    },
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed, //
        },
        barrier::{
            dma_mb,
            Read, //
        },
        Arc, //
    },
    time::{
        msecs_to_jiffies,
        Jiffies, //
    },
};

use crate::{
    combine::Combiner,
    regs::{
        Doorbells,
        QueueId, //
    },
    slot::{
        self,
        CqeWords,
        Ended,
        Phase,
        Slot,
        Verdict,
        CQE_WORDS, //
    },
    sys::{
        completion::Waited,
        dma::Buffer,
        process, //
    },
    tags::{
        Patience,
        TagWaiters,
        Tags, //
    },
};

/// A class of queues: what its entries are, and what its slots have.
///
/// Entry sizes are those of Documentation/device.rst 3.1. In all completion queue entries the last
/// 16 bits hold the phase and the status, and the last but one dword ends with 16 bits of queue
/// number; where the command identifier is differs.
pub(crate) trait Class: Send + Sync + 'static {
    /// A submission queue entry.
    type Sqe: zerocopy::FromBytes
        + zerocopy::IntoBytes
        + kernel::transmute::FromBytes
        + kernel::transmute::AsBytes
        + Copy
        + Send
        + Sync;

    /// What is shared by all queues of the class, for [`Class::orphaned`].
    type Context: Send + Sync;

    /// 64-bit words of a completion queue entry, at most [`CQE_WORDS`].
    const CQE_WORDS: usize;

    /// Bytes of DMA memory of a slot.
    const SLOT_BYTES: usize;

    /// Puts the command identifier into an entry.
    fn set_cid(sqe: &mut Self::Sqe, cid: u16);

    /// Returns the command identifier of a completion queue entry.
    fn cid(cqe: &CqeWords) -> u16;

    /// Called, maybe in interrupt context, with the completion of a command whose waiter has left.
    fn orphaned(context: &Self::Context, cqe: &CqeWords);
}

/// How a waiter finds out that its command has completed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Notify {
    /// By interrupt, on this MSI-X vector. The waiter looks for itself now and then, so that a lost
    /// interrupt costs less than a lost command.
    Vector(u16),
    /// By looking on each timer tick.
    Poll,
}

/// How long a waiter relies on interrupts alone.
const INTERRUPT_LOST_AFTER_MS: u32 = 250;

/// See the [module](self).
pub(crate) struct QueuePair<C: Class> {
    id: QueueId,
    notify: Notify,
    context: C::Context,
    tags: Tags,
    waiters: Arc<TagWaiters>,
    slots: KVec<Pin<KBox<Slot>>>,
    // Entries of `sq` by tag. The device is not told of it.
    prepared: Coherent<[C::Sqe]>,
    // A bit by tag: the entry in `prepared` is to be submitted.
    pending: KVec<Atomic<u64>>,
    pump: Combiner,
    sq: Coherent<[C::Sqe]>,
    // Used by the pump only.
    sq_tail: Atomic<u32>,
    reaper: Combiner,
    // Words of the entries.
    cq: Coherent<[u64]>,
    // Both used by the reaper only.
    cq_head: Atomic<u32>,
    cq_phase: Atomic<bool>,
    halted: Atomic<bool>,
    released: Atomic<bool>,
    stray: Atomic<u64>,
}

impl<C: Class> QueuePair<C> {
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
        waiters: Arc<TagWaiters>,
        context: C::Context,
    ) -> Result<Self> {
        const { assert!(C::CQE_WORDS <= CQE_WORDS) };

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
        let mut pending = KVec::with_capacity(count.div_ceil(64), GFP_KERNEL)?;
        for _ in 0..count.div_ceil(64) {
            pending.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self {
            id,
            notify,
            context,
            tags: Tags::new(count)?,
            waiters,
            slots,
            prepared: Coherent::zeroed_slice(dev, count, GFP_KERNEL)?,
            pending,
            pump: Combiner::new(),
            sq: Coherent::zeroed_slice(dev, entries, GFP_KERNEL)?,
            sq_tail: Atomic::new(0),
            reaper: Combiner::new(),
            cq: Coherent::zeroed_slice(dev, entries * C::CQE_WORDS, GFP_KERNEL)?,
            cq_head: Atomic::new(0),
            cq_phase: Atomic::new(true),
            halted: Atomic::new(false),
            released: Atomic::new(false),
            stray: Atomic::new(0),
        })
    }

    /// Returns the number of the queue.
    pub(crate) fn id(&self) -> QueueId {
        self.id
    }

    /// Returns the number of entries of either ring.
    pub(crate) fn size(&self) -> u16 {
        // CAST: `new()` got it as a `u16`.
        self.sq.len() as u16
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
        self.cq.dma_address()
    }

    /// Returns how many completions were not those of any command, since it was last asked.
    pub(crate) fn take_stray(&self) -> u64 {
        self.stray.xchg(0, Relaxed)
    }

    /// Takes a slot, if one is free.
    pub(crate) fn try_take<'a>(&'a self, doorbells: &'a Doorbells<'a>) -> Option<Owned<'a, C>> {
        let tag = self.tags.take()?;
        match self.slots.get(tag) {
            Some(slot) => {
                slot.take();
                Some(Owned {
                    queue: self,
                    doorbells,
                    slot,
                    tag,
                    dirty: [0; 2],
                })
            }
            None => None,
        }
    }

    /// Returns whether no command is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.tags.are_all_free()
    }

    /// Consumes what the device has completed. May be called from any context.
    pub(crate) fn reap(&self, doorbells: &Doorbells<'_>) {
        self.reaper.run(|| self.reap_locked(doorbells));
    }

    /// The work of the reaper.
    ///
    /// # Ordering
    ///
    /// The device writes the phase of an entry last. It is read first; the barrier keeps the other
    /// reads behind it.
    fn reap_locked(&self, doorbells: &Doorbells<'_>) {
        let entries = u32::from(self.size());
        let mut head = self.cq_head.load(Relaxed);
        let mut phase = self.cq_phase.load(Relaxed);
        let first = head;

        // No more than the ring holds, so that a device which keeps filling it cannot keep us.
        for _ in 0..entries {
            // CAST: An index into the ring.
            let Some(cqe) = self.read_cqe(head as usize, phase) else {
                break;
            };
            head += 1;
            if head == entries {
                head = 0;
                phase = !phase;
            }
            let cid = C::cid(&cqe);
            let tag = slot::tag_of(cid);
            let ended = match self.slots.get(tag) {
                Some(slot) => slot.end(Phase::InFlight, Some((cid, &cqe))),
                None => Ended::Stray,
            };
            match ended {
                Ended::Woken => {}
                Ended::Orphaned => {
                    C::orphaned(&self.context, &cqe);
                    self.discard(tag);
                }
                Ended::Stray => {
                    self.stray.fetch_add(1, Relaxed);
                }
            }
        }
        if head != first {
            self.cq_head.store(head, Relaxed);
            self.cq_phase.store(phase, Relaxed);
            if !self.halted.load(Acquire) {
                doorbells.ring_cq(self.id, head);
            }
        }
        if self.released.load(Acquire) {
            self.end_all(Phase::InFlight);
        }
    }

    /// Copies the entry `index` if its phase is `phase`.
    fn read_cqe(&self, index: usize, phase: bool) -> Option<CqeWords> {
        let start = index * C::CQE_WORDS;
        let last = start + C::CQE_WORDS - 1;
        let word = |index: usize| -> Result<u64> {
            let cq = &self.cq;
            Ok(u64::from_le(io_read!(cq, [try: index])))
        };

        if (word(last).ok()? >> 48 & 1 != 0) != phase {
            return None;
        }
        dma_mb(Read);

        let mut words = CqeWords::default();
        for (index, to) in words.iter_mut().take(C::CQE_WORDS).enumerate() {
            *to = word(start + index).ok()?;
        }
        Some(words)
    }

    /// Clears and frees the slot of a command that nobody waits for.
    fn discard(&self, tag: usize) {
        if let Some(slot) = self.slots.get(tag) {
            // Cannot fail: it is the size of the buffer.
            let _ = slot.buffer().clear(0, C::SLOT_BYTES);
            slot.release();
            self.tags.give(tag);
            self.waiters.wake();
        }
    }

    /// Ends all commands in `phase` without a completion.
    fn end_all(&self, phase: Phase) {
        for tag in 0..self.slots.len() {
            self.end_halted(tag, phase);
        }
    }

    fn end_halted(&self, tag: usize, phase: Phase) {
        if let Some(slot) = self.slots.get(tag) {
            if slot.end(phase, None) == Ended::Orphaned {
                self.discard(tag);
            }
        }
    }

    /// The work of the pump: submits what is pending, with one doorbell for all of it.
    fn pump_locked(&self, doorbells: &Doorbells<'_>) {
        let halted = self.halted.load(Acquire);
        let entries = u32::from(self.size());
        let first = self.sq_tail.load(Relaxed);
        let mut tail = first;

        for (index, word) in self.pending.iter().enumerate() {
            if word.load(Relaxed) == 0 {
                continue;
            }
            let mut mask = word.xchg(0, Full);
            while mask != 0 {
                // CAST: Less than 64.
                let tag = index * 64 + mask.trailing_zeros() as usize;
                mask &= mask - 1;
                if halted {
                    self.end_halted(tag, Phase::Queued);
                } else if self.write_sqe(tag, tail).is_ok() {
                    tail = if tail + 1 == entries { 0 } else { tail + 1 };
                }
            }
        }
        if tail != first {
            self.sq_tail.store(tail, Relaxed);
            // Ordered after the entries, as all MMIO writes are after memory writes.
            doorbells.ring_sq(self.id, tail);
        }
    }

    /// Copies the prepared entry of `tag` to the ring at `index`.
    ///
    /// # Errors
    ///
    /// Either is out of range, which tags and indices of the queue are not.
    fn write_sqe(&self, tag: usize, index: u32) -> Result {
        let slot = self.slots.get(tag).ok_or(EINVAL)?;
        let (prepared, sq) = (&self.prepared, &self.sq);
        // CAST: An index into the ring.
        let index = index as usize;

        let sqe = io_project!(prepared, [try: tag]).copy_read();
        io_project!(sq, [try: index]).copy_write(sqe);
        slot.launch();
        Ok(())
    }

    /// Halts the queue: once this returns no doorbell is rung any more, and what was not submitted
    /// yet has ended.
    pub(crate) fn halt(&self, doorbells: &Doorbells<'_>) {
        self.halted.xchg(true, Full);
        self.pump.run(|| self.pump_locked(doorbells));
        self.pump.wait_idle();
        self.reaper.run(|| self.reap_locked(doorbells));
        self.reaper.wait_idle();
    }

    /// Ends all commands of a halted queue, now that the device does not access their memory any
    /// more; those that it completed before keep their completion.
    pub(crate) fn release(&self, doorbells: &Doorbells<'_>) {
        self.released.xchg(true, Full);
        self.reaper.run(|| self.reap_locked(doorbells));
        self.reaper.wait_idle();
    }
}

/// Why a command has no completion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lost {
    /// The device did not complete it in time. Its slot stays with the device.
    TimedOut,
    /// The waiting task is being killed. As above.
    Killed,
    /// The queue was halted. If it had a slot, the device does not use it any more.
    Halted,
}

/// A slot of a queue that nobody else uses.
///
/// Dropping it clears what was marked dirty and frees the slot.
///
/// # Invariants
///
/// The holder has taken `tag` of `queue`, whose slot is `slot`.
pub(crate) struct Owned<'a, C: Class> {
    queue: &'a QueuePair<C>,
    doorbells: &'a Doorbells<'a>,
    slot: &'a Slot,
    tag: usize,
    // First byte and length of what is to be cleared, from the start and from the middle.
    dirty: [usize; 2],
}

impl<'a, C: Class> Owned<'a, C> {
    /// Returns the DMA memory of the slot: two halves, for what the device reads and for what it
    /// writes.
    pub(crate) fn buffer(&self) -> &Buffer {
        self.slot.buffer()
    }

    /// Offset of the half that the device writes to.
    pub(crate) const RESPONSE: usize = C::SLOT_BYTES / 2;

    /// Marks the first `len` bytes of the half that the device reads as secret.
    pub(crate) fn soil_request(&mut self, len: usize) {
        self.dirty[0] = self.dirty[0].max(len.min(Self::RESPONSE));
    }

    /// Marks the first `len` bytes of the half that the device writes as secret.
    pub(crate) fn soil_response(&mut self, len: usize) {
        self.dirty[1] = self.dirty[1].max(len.min(Self::RESPONSE));
    }

    /// Submits `sqe` and waits for its completion.
    ///
    /// # Errors
    ///
    /// See [`Lost`]; the slot is gone then, and is freed when the device is done with it.
    pub(crate) fn run(self, mut sqe: C::Sqe, patience: Patience) -> Result<(Self, CqeWords), Lost> {
        C::set_cid(&mut sqe, self.slot.cid(self.tag));
        if self.prepare(sqe).is_err() {
            return Err(Lost::Halted);
        }
        self.slot.queue();
        if let Some(word) = self.queue.pending.get(self.tag / 64) {
            // The bit is clear: it is set by the owner of the tag only, once.
            word.fetch_add(1 << (self.tag % 64), Full);
        }
        self.queue
            .pump
            .run(|| self.queue.pump_locked(self.doorbells));
        self.wait(patience)
    }

    /// Stores `sqe` for the pump.
    fn prepare(&self, sqe: C::Sqe) -> Result {
        let (prepared, tag) = (&self.queue.prepared, self.tag);

        io_project!(prepared, [try: tag]).copy_write(sqe);
        Ok(())
    }

    fn wait(self, patience: Patience) -> Result<(Self, CqeWords), Lost> {
        let mut left = patience.timeout;
        let lost = loop {
            let (waited, spent) = match self.queue.notify {
                Notify::Vector(_) => {
                    let slice = msecs_to_jiffies(INTERRUPT_LOST_AFTER_MS).clamp(1, left.max(1));
                    (patience.wait(self.slot.done(), slice), slice)
                }
                Notify::Poll => (self.poll(patience), 1),
            };
            match waited {
                Waited::Done => break None,
                Waited::Killed => break Some(Lost::Killed),
                Waited::TimedOut => {}
            }
            // An interrupt may have been lost.
            self.queue.reap(self.doorbells);
            left = left.saturating_sub(spent);
            if left == 0 {
                break Some(Lost::TimedOut);
            }
        };
        if let Some(lost) = lost {
            if self.slot.abandon() {
                // The slot is freed by whoever ends the command.
                core::mem::forget(self);
                return Err(lost);
            }
            // It ended at the last moment: the signal is there or on its way.
            while self.slot.done().wait(Jiffies::MAX) != Waited::Done {}
        }
        match self.slot.collect() {
            (Verdict::Completed, cqe) => Ok((self, cqe)),
            (Verdict::Halted, _) => Err(Lost::Halted),
        }
    }

    /// Waits for a tick, without relying on interrupts.
    fn poll(&self, patience: Patience) -> Waited {
        self.queue.reap(self.doorbells);
        if self.slot.done().try_wait() {
            return Waited::Done;
        }
        process::sleep_a_tick();
        if patience.killable && process::is_killed() {
            return Waited::Killed;
        }
        Waited::TimedOut
    }
}

impl<C: Class> Drop for Owned<'_, C> {
    fn drop(&mut self) {
        // Cannot fail: each is at most half of the buffer.
        let _ = self.buffer().clear(0, self.dirty[0]);
        let _ = self.buffer().clear(Self::RESPONSE, self.dirty[1]);
        self.slot.release();
        self.queue.tags.give(self.tag);
        self.queue.waiters.wake();
    }
}

/// The queue pairs of one class.
pub(crate) struct Pool<C: Class> {
    queues: KVec<QueuePair<C>>,
    waiters: Arc<TagWaiters>,
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
            waiters: TagWaiters::new()?,
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
        context: C::Context,
    ) -> Result {
        let queue = QueuePair::new(dev, id, size, notify, self.waiters.clone(), context)?;
        self.queues.push(queue, GFP_KERNEL)?;
        Ok(())
    }

    /// Returns the queues.
    pub(crate) fn queues(&self) -> &[QueuePair<C>] {
        &self.queues
    }

    /// Takes a slot of the queue that suits the current processor best, waiting for one if need be.
    ///
    /// # Errors
    ///
    /// See [`Lost`]; `Halted` if there are no queues.
    pub(crate) fn take<'a>(
        &'a self,
        doorbells: &'a Doorbells<'a>,
        patience: Patience,
    ) -> Result<Owned<'a, C>, Lost> {
        if let Some(owned) = self.try_take(doorbells) {
            return Ok(owned);
        }
        if self.queues.is_empty() {
            return Err(Lost::Halted);
        }
        let mut left = patience.timeout;
        let slice = msecs_to_jiffies(INTERRUPT_LOST_AFTER_MS).max(1);
        self.waiters
            .wait(
                || {
                    for queue in &self.queues {
                        queue.reap(doorbells);
                        if queue.halted.load(Acquire) {
                            return Some(Err(Lost::Halted));
                        }
                    }
                    self.try_take(doorbells).map(Ok)
                },
                |freed| match patience.wait(freed, slice) {
                    Waited::TimedOut if left > slice => {
                        left -= slice;
                        Waited::Done
                    }
                    waited => waited,
                },
            )
            .map_err(|waited| match waited {
                Waited::Killed => Lost::Killed,
                _ => Lost::TimedOut,
            })?
    }

    /// Takes a slot, if one is free: of an idle queue if there is one, counting from that of the
    /// current processor, else of any.
    fn try_take<'a>(&'a self, doorbells: &'a Doorbells<'a>) -> Option<Owned<'a, C>> {
        let count = self.queues.len();
        let home = crate::sys::this_cpu().checked_rem(count)?;
        let (before, from_home) = self.queues.split_at_checked(home)?;
        let in_order = || Iterator::chain(from_home.iter(), before);

        let idle_first = Iterator::chain(in_order().filter(|queue| queue.is_idle()), in_order());
        idle_first
            .into_iter()
            .find_map(|queue| queue.try_take(doorbells))
    }
}

const _: () = assert!(size_of::<CqeWords>() == 64);
