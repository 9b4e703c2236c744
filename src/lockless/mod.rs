// SPDX-License-Identifier: GPL-2.0

//! The part of queue pairs and of sessions that is concurrent, and nothing else.
//!
//! - [`slot`] has the states of a command, and [`tags`] says who has which slot;
//! - [`combine`] has one processor do the work of all;
//! - [`pair`] puts them together: submitting, reaping, leaving early, closing, ending;
//! - [`sessions`] says who has which session, and whether one may be opened;
//! - [`users`] counts the commands that use one.
//!
//! These files use no more than the `core` library and [`facade`]: what is done to memory, doorbells
//! and sleeping tasks is said by [`pair::World`] and [`pair::Seat`]. So they are compiled twice: into
//! the driver, and, with another facade, into `tests/lockless`, which has a model checker try all
//! interleavings, and all values that the memory model lets a load return.
//!
//! All memory ordering that they rely on is that of the atomics in here. What comes with
//! [`pair::Seat::signal`], that a waiter sees what was stored before, is used, too.

pub(crate) mod combine;
mod facade;
pub(crate) mod pair;
pub(crate) mod sessions;
pub(crate) mod slot;
pub(crate) mod tags;
pub(crate) mod users;

// What is concurrent is for the model checker; here one task at a time goes around all of it.
#[kernel::prelude::kunit_tests(azihsm_lockless)]
mod tests {
    use core::cell::Cell;

    use super::{
        combine::Combiner,
        pair::{
            QueuePair,
            World,
            ANY_ERA, //
        },
        slot::{
            tag_of,
            Ended,
            Phase,
            Seat,
            Slot,
            Verdict,
            MAX_TAGS, //
        },
        tags::{
            Line,
            Order,
            Permits,
            Tags,
            PLACES, //
        },
    };
    use crate::sys::completion::Waited;
    use kernel::prelude::*;

    #[test]
    fn tags_are_taken_from_the_lowest() -> Result {
        for count in [1, 2, 63, 64, 65, 128, 1023] {
            let tags = Tags::new(count)?;
            assert_eq!(tags.count(), count);
            assert!(tags.are_all_free());
            for tag in 0..count {
                assert_eq!(tags.take(), Some(tag));
                assert!(!tags.are_all_free());
            }
            assert_eq!(tags.take(), None);
            // One from either end and one between.
            for tag in [count - 1, 0, count / 2] {
                tags.give(tag);
                assert_eq!(tags.take(), Some(tag));
                assert_eq!(tags.take(), None);
            }
            for tag in (0..count).rev() {
                tags.give(tag);
            }
            assert!(tags.are_all_free());
        }
        let none = Tags::new(0)?;
        assert_eq!(none.take(), None);
        assert!(none.are_all_free());
        Ok(())
    }

    #[test]
    fn who_calls_the_work_meanwhile_has_it_run_again() {
        let combiner = Combiner::new();
        let mut runs = 0;
        assert!(combiner.run(|| runs += 1));
        assert_eq!(runs, 1);

        let (mut runs, mut were_run_here) = (0, 0);
        assert!(combiner.run(|| {
            runs += 1;
            if runs <= 3 {
                // Two calls are as good as one.
                for _ in 0..2 {
                    were_run_here += u32::from(combiner.run(|| were_run_here += 1));
                }
            }
        }));
        assert_eq!((runs, were_run_here), (4, 0));

        // Nobody is kept for good.
        let mut runs = 0;
        assert!(combiner.run(|| {
            runs += 1;
            combiner.run(|| {});
        }));
        assert_eq!(runs, 256);
        let mut runs = 0;
        combiner.run_here(|| runs += 1);
        assert_eq!(runs, 1);
    }

    /// Those who wait for permits, by what one task at a time does to them.
    struct Room {
        order: Cell<Order>,
        signals: [Cell<u32>; PLACES],
        /// How often somebody waited in vain.
        vain: Cell<u32>,
    }

    impl Room {
        fn new() -> Self {
            Self {
                order: Cell::new(Order::new()),
                signals: [const { Cell::new(0) }; PLACES],
                vain: Cell::new(0),
            }
        }
    }

    impl Line for Room {
        fn with_order<R>(&self, inside: impl FnOnce(&mut Order) -> R) -> R {
            let mut order = self.order.replace(Order::new());
            let result = inside(&mut order);
            self.order.set(order);
            result
        }

        fn signal(&self, place: usize) {
            self.signals[place].set(self.signals[place].get() + 1);
        }

        fn try_wait(&self, place: usize) -> bool {
            let signals = &self.signals[place];
            let some = signals.get() > 0;
            signals.set(signals.get() - u32::from(some));
            some
        }

        fn let_run(&self) {
            // Nobody else is there.
            self.vain.set(self.vain.get() + 1);
            assert!(self.vain.get() < 10);
        }
    }

    #[test]
    fn permits_that_are_withheld_come_back() {
        let (permits, room) = (Permits::new(), Room::new());
        let take = || permits.take(&room, |_| Waited::Killed);
        permits.add(2);
        let seen = permits.restored();
        assert_eq!((take(), take()), (Ok(()), Ok(())));
        assert_eq!(take(), Err(Waited::Killed));
        permits.withhold(seen, &room);
        assert_eq!(take(), Err(Waited::Killed));
        permits.restore(&room);
        assert_eq!((take(), take()), (Ok(()), Err(Waited::Killed)));
        // It was restored after it was looked at; nobody else has to look again for that.
        let restored = permits.restored();
        permits.withhold(seen, &room);
        assert_eq!((take(), take()), (Ok(()), Err(Waited::Killed)));
        assert_eq!(permits.restored(), restored);
    }

    #[test]
    fn permits_are_given_in_the_order_of_arrival() {
        // Each waits inside the one before, so all of them wait at once.
        fn wait(permits: &Permits, room: &Room, number: usize, most: usize) {
            let waited = permits.take(room, |place| {
                assert_eq!(place, number % PLACES);
                if number < most {
                    wait(permits, room, number + 1, most);
                }
                // Every third one gives up.
                match number % 3 {
                    0 => Waited::TimedOut,
                    _ => Waited::Done,
                }
            });
            assert_eq!(waited.is_err(), number % 3 == 0);
        }
        for most in [0, 1, 2, 5] {
            let (permits, room) = (Permits::new(), Room::new());
            wait(&permits, &room, 0, most);
            let called = || room.signals.iter().map(Cell::get);
            assert_eq!(called().sum::<u32>(), 0);
            // Those who gave up are skipped, and the others are called one after the other.
            for number in (0..=most).filter(|number| number % 3 != 0) {
                permits.give(&room);
                assert!(room.try_wait(number));
                assert_eq!(called().sum::<u32>(), 0);
            }
            permits.give(&room);
            assert_eq!(called().sum::<u32>(), 0);
            assert_eq!(permits.take(&room, |_| Waited::Killed), Ok(()));
            assert_eq!(permits.take(&room, |_| Waited::Killed), Err(Waited::Killed));
        }
    }

    #[test]
    fn a_slot_goes_around() {
        const CQE: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
        let slot = Slot::new();
        let signals = Cell::new(0);
        let signal = || signals.set(signals.get() + 1);
        let endings = Cell::new(0);
        let ending = || endings.set(endings.get() + 1);
        assert_eq!(slot.under_way(), None);
        for round in 0..130 {
            slot.take();
            let cid = slot.cid(5);
            assert_eq!(tag_of(cid), 5);
            // The generation is behind ten bits of tag.
            assert_eq!(u32::from(cid >> 10), (round + 1) % 64);
            assert_eq!(slot.under_way(), None);
            slot.queue();
            assert_eq!(slot.under_way(), Some(round + 1));
            // The device does not have it yet.
            assert_eq!(
                slot.end(Phase::InFlight, Some((cid, &CQE)), ending, signal),
                Ended::Stray
            );
            slot.launch();
            assert_eq!(slot.under_way(), Some(round + 1));
            assert!(slot.is_in_flight() && !slot.has_ended());
            // An old one, and one that is yet to come.
            for other in [cid.wrapping_sub(1 << 10), cid.wrapping_add(1 << 10)] {
                let ended = slot.end(Phase::InFlight, Some((other, &CQE)), ending, signal);
                assert_eq!(ended, Ended::Stray);
            }
            assert_eq!(signals.get(), round);
            assert_eq!(
                slot.end(Phase::InFlight, Some((cid, &CQE)), ending, signal),
                Ended::Woken
            );
            assert_eq!((signals.get(), endings.get()), (round + 1, round + 1));
            assert!(slot.has_ended());
            // The same once more.
            assert_eq!(
                slot.end(Phase::InFlight, Some((cid, &CQE)), ending, signal),
                Ended::Stray
            );
            let mut cqe = [0; 8];
            assert_eq!(slot.collect(&mut cqe), Verdict::Completed);
            assert_eq!(cqe, CQE);
            slot.release();
        }
    }

    #[test]
    fn a_slot_that_is_halted_says_whether_it_was_sent() {
        for (sent, verdict) in [(false, Verdict::NotSent), (true, Verdict::Halted)] {
            for (left, evicted, ended, signalled) in [
                (false, false, Ended::Woken, 1),
                (true, false, Ended::Orphaned, 0),
                (false, true, Ended::Woken, 1),
            ] {
                let signals = Cell::new(0);
                let signal = || signals.set(signals.get() + 1);
                let slot = Slot::new();
                slot.take();
                slot.queue();
                if sent {
                    slot.launch();
                }
                if left {
                    assert!(slot.abandon(false));
                }
                if evicted {
                    slot.evict(signal);
                    slot.evict(signal);
                }
                let phase = if sent { Phase::InFlight } else { Phase::Queued };
                assert_eq!(slot.end(phase, None, || {}, signal), ended);
                assert_eq!(signals.get(), signalled);
                // Too late.
                assert!(!slot.abandon(true));
                let mut cqe = [7; 8];
                assert_eq!(slot.collect(&mut cqe), verdict);
                assert_eq!(cqe, [7; 8]);
                slot.release();
            }
        }
    }

    #[test]
    fn tags_have_ten_bits() {
        assert_eq!(MAX_TAGS, 1024);
        let cases = [(0, 0), (1023, 1023), (1024, 0), (0xffff, 1023), (0x0401, 1)];
        for (cid, tag) in cases {
            assert_eq!(tag_of(cid), tag);
        }
    }

    const SLOTS: usize = 3;
    const ENTRIES: usize = SLOTS + 1;
    const ERA: u32 = 5;
    const PHASE: u64 = 1 << 48;

    /// A slot, and how often its waiter was woken.
    struct Chair {
        slot: Slot,
        signals: Cell<u32>,
        launches: Cell<u32>,
        left: Cell<Option<u32>>,
    }

    impl Seat for Chair {
        type Left = u32;

        fn slot(&self) -> &Slot {
            &self.slot
        }

        fn signal(&self) {
            self.signals.set(self.signals.get() + 1);
        }

        fn wait(&self) {}

        fn leave_behind(&self, it: u32) {
            self.left.set(Some(it));
        }

        fn take_left_behind(&self) -> Option<u32> {
            self.left.take()
        }
    }

    /// Rings and doorbells, and a device that does as it is told.
    struct Paper {
        chairs: [Chair; SLOTS],
        // Tags, as they were written.
        sq: [Cell<usize>; ENTRIES],
        sq_tail: Cell<u32>,
        sq_rings: Cell<u32>,
        cq: [Cell<u64>; ENTRIES],
        cq_head: Cell<u32>,
        cq_rings: Cell<u32>,
        orphans: Cell<u32>,
        // With a completion, and without one.
        endings: Cell<(u32, u32)>,
        // Where the device posts next, and with which phase.
        cq_tail: Cell<usize>,
        phase: Cell<u64>,
    }

    impl Paper {
        fn new() -> Self {
            Self {
                chairs: core::array::from_fn(|_| Chair {
                    slot: Slot::new(),
                    signals: Cell::new(0),
                    launches: Cell::new(0),
                    left: Cell::new(None),
                }),
                sq: [const { Cell::new(usize::MAX) }; ENTRIES],
                sq_tail: Cell::new(0),
                sq_rings: Cell::new(0),
                cq: [const { Cell::new(0) }; ENTRIES],
                cq_head: Cell::new(0),
                cq_rings: Cell::new(0),
                orphans: Cell::new(0),
                endings: Cell::new((0, 0)),
                cq_tail: Cell::new(0),
                phase: Cell::new(PHASE),
            }
        }

        fn post(&self, cid: u16) {
            if let Some(cqe) = self.cq.get(self.cq_tail.get()) {
                cqe.set(self.phase.get() | u64::from(cid));
            }
            self.cq_tail.set((self.cq_tail.get() + 1) % ENTRIES);
            if self.cq_tail.get() == 0 {
                self.phase.set(self.phase.get() ^ PHASE);
            }
        }
    }

    impl World for Paper {
        type Seat = Chair;
        type Cqe = [u64; 1];

        fn seat(&self, tag: usize) -> Option<&Chair> {
            self.chairs.get(tag)
        }

        fn cid(cqe: &[u64; 1]) -> u16 {
            cqe[0] as u16
        }

        fn read_cqe(&self, index: u32, phase: bool, to: &mut [u64; 1]) -> bool {
            let word = self.cq.get(index as usize).map_or(0, Cell::get);
            *to = [word];
            (word & PHASE != 0) == phase
        }

        fn launching(seat: &Chair) {
            seat.launches.set(seat.launches.get() + 1);
        }

        fn ending(&self, _: &Chair, _: u16, cqe: Option<&[u64; 1]>) {
            let (with, without) = self.endings.get();
            self.endings.set(match cqe {
                Some(_) => (with + 1, without),
                None => (with, without + 1),
            });
        }

        fn clear_cq(&self) {
            for word in &self.cq {
                word.set(0);
            }
        }

        fn write_sqe(&self, tag: usize, index: u32) {
            if let Some(entry) = self.sq.get(index as usize) {
                entry.set(tag);
            }
        }

        fn ring_sq(&self, tail: u32) {
            self.sq_tail.set(tail);
            self.sq_rings.set(self.sq_rings.get() + 1);
        }

        fn ring_cq(&self, head: u32) {
            self.cq_head.set(head);
            self.cq_rings.set(self.cq_rings.get() + 1);
        }

        fn disowned(&self) {
            self.orphans.set(self.orphans.get() + 1);
        }
    }

    #[test]
    fn both_rings_wrap() -> Result {
        let pair = QueuePair::new(SLOTS)?;
        let paper = Paper::new();
        // Through each ring twice and a half, one command at a time.
        for round in 0..10 {
            let (tag, chair) = pair.take(&paper).ok_or(EINVAL)?;
            assert_eq!(tag, 0);
            let cid = chair.slot.cid(tag);
            pair.submit(&paper, &chair.slot, tag, ANY_ERA);
            assert_eq!(paper.sq.get(round % ENTRIES).map(Cell::get), Some(tag));
            assert_eq!(paper.sq_tail.get() as usize, (round + 1) % ENTRIES);
            assert_eq!(paper.sq_rings.get() as usize, round + 1);

            // What is there from the round before is not taken for a completion.
            pair.reap(&paper);
            assert!(!chair.slot.has_ended());
            paper.post(cid);
            pair.reap(&paper);
            assert!(chair.slot.has_ended());
            assert_eq!(chair.signals.get() as usize, round + 1);
            assert_eq!(paper.cq_head.get() as usize, (round + 1) % ENTRIES);
            assert_eq!(paper.cq_rings.get() as usize, round + 1);
            assert_eq!(pair.completed() as usize, round + 1);
            assert_eq!(pair.submitted() as usize, round + 1);
            assert_eq!(chair.launches.get() as usize, round + 1);
            assert_eq!(paper.endings.get(), (chair.signals.get(), 0));
            let mut cqe = [0];
            assert_eq!(chair.slot.collect(&mut cqe), Verdict::Completed);
            assert_eq!(cqe[0] as u16, cid);
            pair.free(&chair.slot, tag);
            assert!(pair.is_idle());
        }
        assert_eq!(pair.take_stray(), 0);
        Ok(())
    }

    #[test]
    fn completions_come_in_any_order_with_one_doorbell() -> Result {
        let pair = QueuePair::new(SLOTS)?;
        let paper = Paper::new();
        for round in 0..5 {
            let mut cids = [0; SLOTS];
            for (tag, cid) in cids.iter_mut().enumerate() {
                let (taken, chair) = pair.take(&paper).ok_or(EINVAL)?;
                assert_eq!(taken, tag);
                *cid = chair.slot.cid(tag);
                pair.submit(&paper, &chair.slot, tag, ANY_ERA);
            }
            assert!(pair.take(&paper).is_none());
            for cid in cids.iter().rev() {
                paper.post(*cid);
            }
            pair.reap(&paper);
            assert_eq!(paper.cq_rings.get(), round + 1);
            for (tag, chair) in paper.chairs.iter().enumerate() {
                assert!(chair.slot.has_ended());
                chair.slot.collect(&mut [0]);
                pair.free(&chair.slot, tag);
            }
        }
        assert_eq!(pair.take_stray(), 0);
        Ok(())
    }

    #[test]
    fn a_completion_of_nothing_is_stray() -> Result {
        let pair = QueuePair::new(SLOTS)?;
        let paper = Paper::new();
        let (tag, chair) = pair.take(&paper).ok_or(EINVAL)?;
        let cid = chair.slot.cid(tag);
        pair.submit(&paper, &chair.slot, tag, ANY_ERA);
        // Another generation, a slot that is free, a slot that there is not.
        for wrong in [cid + 0x0400, cid + 1, 0x03ff] {
            paper.post(wrong);
            pair.reap(&paper);
        }
        assert!(!chair.slot.has_ended());
        assert_eq!((pair.take_stray(), pair.take_stray()), (3, 0));
        assert_eq!(pair.completed(), 0);
        // They took entries all the same.
        assert_eq!(paper.cq_head.get(), 3);
        paper.post(cid);
        pair.reap(&paper);
        assert!(chair.slot.has_ended());
        Ok(())
    }

    #[test]
    fn a_queue_that_is_closed_sends_nothing_and_starts_anew() -> Result {
        let pair = QueuePair::new(SLOTS)?;
        let paper = Paper::new();
        let (sent, first) = pair.take(&paper).ok_or(EINVAL)?;
        pair.submit(&paper, &first.slot, sent, ANY_ERA);
        let (_, second) = pair.take(&paper).ok_or(EINVAL)?;
        pair.silence(&paper);
        assert!(!pair.is_open() && !pair.is_submitting() && pair.is_silent());
        pair.submit(&paper, &second.slot, 1, ANY_ERA);
        assert_eq!(second.slot.collect(&mut [0]), Verdict::NotSent);
        assert_eq!((paper.sq_rings.get(), paper.cq_rings.get()), (1, 0));

        // Its waiter has left by then.
        assert_eq!(pair.conclude(first, 7, false), None);
        assert!(pair.has_abandoned());
        assert!(!first.slot.has_ended());
        pair.release(&paper);
        assert_eq!(paper.orphans.get(), 1);
        let mut orphan = None;
        pair.take_orphans(|tag| orphan = Some(tag));
        assert_eq!((orphan, first.take_left_behind()), (Some(sent), Some(7)));
        assert!(!pair.has_abandoned());
        assert_eq!(first.slot.collect(&mut [0]), Verdict::Halted);
        // What was not sent does not count.
        assert_eq!((paper.endings.get(), pair.submitted()), ((0, 1), 1));
        pair.free(&first.slot, 0);
        pair.free(&second.slot, 1);
        assert!(pair.is_idle());

        let start = pair.start();
        pair.open(ERA, &paper);
        assert!(pair.is_open() && pair.start() != start);
        let (tag, chair) = pair.take(&paper).ok_or(EINVAL)?;
        pair.submit(&paper, &chair.slot, tag, ANY_ERA);
        // From the first entry.
        assert_eq!((paper.sq_tail.get(), paper.sq_rings.get()), (1, 2));
        Ok(())
    }

    #[test]
    fn a_command_is_sent_in_its_era_only() -> Result {
        // The era of the command, that of the queue, whether it is sent.
        let cases = [
            (ANY_ERA, ERA, true),
            (ERA, ERA, true),
            (ERA, ERA + 1, false),
            (ERA + 1, ERA, false),
        ];
        for (bound, era, sent) in cases {
            let pair = QueuePair::new(SLOTS)?;
            let paper = Paper::new();
            pair.open(ERA, &paper);
            // Its owner has taken the slot long before.
            let (tag, chair) = pair.take(&paper).ok_or(EINVAL)?;
            pair.silence(&paper);
            pair.release(&paper);
            pair.open(era, &paper);
            pair.submit(&paper, &chair.slot, tag, bound);
            assert_eq!(
                (pair.submitted() == 1, paper.sq_rings.get() == 1),
                (sent, sent)
            );
            assert_eq!(chair.slot.has_ended(), !sent);
            if !sent {
                assert_eq!(chair.slot.collect(&mut [0]), Verdict::NotSent);
                pair.free(&chair.slot, tag);
                // The next command in the slot is another one's.
                let (tag, chair) = pair.take(&paper).ok_or(EINVAL)?;
                pair.submit(&paper, &chair.slot, tag, ANY_ERA);
                assert_eq!(paper.sq_tail.get(), 1);
            }
        }
        Ok(())
    }

    #[test]
    fn a_queue_that_drains_sends_but_is_not_open() -> Result {
        let pair = QueuePair::new(SLOTS)?;
        let paper = Paper::new();
        let (tag, chair) = pair.take(&paper).ok_or(EINVAL)?;
        pair.drain(&paper);
        assert!(!pair.is_open() && pair.is_submitting());
        pair.submit(&paper, &chair.slot, tag, ANY_ERA);
        assert_eq!(paper.sq_rings.get(), 1);
        assert!(pair.refill(&paper));
        assert!(pair.is_open());
        pair.close(&paper);
        assert!(!pair.refill(&paper));
        assert!(!pair.is_open() && !pair.is_submitting() && !pair.is_silent());
        Ok(())
    }
}
