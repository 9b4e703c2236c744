// SPDX-License-Identifier: GPL-2.0
//! The parts by themselves, in every way that there is.

use super::check;
use super::join;
use super::spawn;
use crate::combine::Combiner;
use crate::facade::Acquire;
use crate::facade::Atomic;
use crate::facade::Relaxed;
use crate::facade::Release;
use crate::machine::Event;
use crate::machine::Room;
use crate::slot::Ended;
use crate::slot::Phase;
use crate::slot::Slot;
use crate::slot::Verdict;
use crate::tags::Permits;
use crate::tags::Tags;
use loom::cell::Cell;
use std::sync::Arc;

/// Work that looks at what its callers stored.
struct Shared {
    combiner: Combiner,
    stored: [Atomic<u32>; 3],
    // Only one at a time works.
    seen: Cell<[u32; 3]>,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            combiner: Combiner::new(),
            stored: [(); 3].map(|()| Atomic::new(0)),
            seen: Cell::new([0; 3]),
        })
    }

    fn work(&self) {
        let mut seen = self.seen.get();
        for (seen, stored) in seen.iter_mut().zip(&self.stored) {
            *seen = stored.load(Relaxed);
        }
        self.seen.set(seen);
    }
}

/// What is stored before a call is seen by a run that comes after it, whoever does that.
#[test]
fn combiner_sees_all_that_was_stored_before_a_call() {
    check(Some(3), || {
        let shared = Shared::new();
        let callers = [0, 1, 2].map(|index: usize| {
            spawn(&shared, move |shared| {
                shared.stored[index].store(1, Relaxed);
                shared.combiner.run(|| shared.work())
            })
        });
        let runs = join(callers);
        assert!(runs.contains(&true));
        assert_eq!(shared.seen.get(), [1; 3]);
    });
}

/// A call that insists on working itself comes after all runs that may have missed what it stored.
#[test]
fn combiner_run_here_is_behind_other_runs() {
    check(Some(3), || {
        let shared = Shared::new();
        let other = spawn(&shared, |shared| {
            shared.combiner.run(|| shared.work());
        });
        shared.stored[0].store(1, Relaxed);
        let mut ran = false;
        shared.combiner.run_here(|| {
            ran = true;
            shared.work();
        });
        assert!(ran);
        other.join().unwrap();
        assert_eq!(shared.seen.get()[0], 1);
    });
}

/// A tag is held by one at a time, who sees what the one before did.
#[test]
fn tags_are_held_by_one() {
    struct Shared(Tags, [Cell<u32>; 2]);

    check(Some(3), || {
        let shared = Arc::new(Shared(Tags::new(2).unwrap(), [Cell::new(0), Cell::new(0)]));
        let holders = [(); 3].map(|()| {
            spawn(&shared, |Shared(tags, cells)| {
                let Some(tag) = tags.take() else { return 0 };
                cells[tag].set(cells[tag].get() + 1);
                tags.give(tag);
                1
            })
        });
        let taken: u32 = join(holders).iter().sum();
        let Shared(tags, cells) = &*shared;
        assert!(tags.are_all_free());
        assert_eq!(cells[0].get() + cells[1].get(), taken);
    });
}

/// A permit, and something that only its holder touches.
struct Place {
    permits: Permits,
    room: Room,
    cell: Cell<u32>,
}

impl Place {
    fn new() -> Arc<Self> {
        let permits = Permits::new();
        permits.add(1);
        Arc::new(Self {
            permits,
            room: Room::new(),
            cell: Cell::new(0),
        })
    }

    fn take(&self, patient: bool) -> bool {
        let sleep = |place| self.room.sleep(place, patient);
        self.permits.take(&self.room, sleep).is_ok()
    }

    fn give(&self) {
        self.permits.give(&self.room);
    }

    fn use_it(&self, patient: bool) -> bool {
        if !self.take(patient) {
            return false;
        }
        self.cell.set(self.cell.get() + 1);
        self.give();
        true
    }

    fn assert_one_is_free(&self) {
        assert!(self.take(false), "the permit is lost");
        assert!(!self.take(false), "there is a second one");
        assert!(!self.room.is_anybody_called(), "a signal is left");
        // Nor is anybody skipped who should not be.
        let next = self.permits.take(&self.room, |place| {
            self.give();
            self.room.sleep(place, false)
        });
        assert_eq!(next, Ok(()), "somebody else was called");
    }
}

/// One who gives up as it is handed the permit neither keeps it from others nor doubles it: there
/// was such a driver.
#[test]
fn permit_of_one_who_gives_up() {
    check(Some(3), || {
        let room = Place::new();
        let impatient = spawn(&room, |room| room.use_it(false));
        let patient = spawn(&room, |room| room.use_it(true));
        let used = u32::from(room.use_it(true));
        assert!(patient.join().unwrap());
        let used = used + 1 + u32::from(impatient.join().unwrap());
        assert_eq!(room.cell.get(), used);
        room.assert_one_is_free();
    });
}

/// Two may give up at once.
#[test]
fn permits_of_two_who_give_up() {
    check(Some(3), || {
        let room = Place::new();
        let impatient = [(); 2].map(|()| spawn(&room, |room| room.use_it(false)));
        assert!(room.use_it(true));
        let used = join(impatient).into_iter().filter(|used| *used).count() as u32;
        assert_eq!(room.cell.get(), used + 1);
        room.assert_one_is_free();
    });
}

/// Who finds no tag for a permit withholds it while a queue is opened, which has tags again: nobody
/// has to open another one for it to be free.
#[test]
fn permit_withheld_as_a_queue_is_opened() {
    check(Some(3), || {
        let room = Place::new();
        let holder = spawn(&room, |room| {
            assert!(room.take(true));
            let seen = room.permits.restored();
            room.permits.withhold(seen, &room.room);
            seen
        });
        room.permits.restore(&room.room);
        if holder.join().unwrap() != 0 {
            // It found the queue open, and no tag.
            room.permits.restore(&room.room);
        }
        room.assert_one_is_free();
    });
}

/// A permit that is withheld goes to who waits for it.
#[test]
fn permit_restored_to_one_who_waits() {
    check(Some(3), || {
        let room = Place::new();
        assert!(room.take(true));
        room.permits.withhold(room.permits.restored(), &room.room);
        let patient = spawn(&room, |room| room.use_it(true));
        let openers = spawn(&room, |room| {
            room.permits.restore(&room.room);
        });
        room.permits.restore(&room.room);
        openers.join().unwrap();
        assert!(patient.join().unwrap());
        room.assert_one_is_free();
    });
}

/// What is given to one who waits cannot be had by who gave it and asks for it again.
#[test]
fn permit_is_for_who_came_first() {
    check(Some(3), || {
        let room = Place::new();
        assert!(room.take(true));
        let came = Arc::new(Atomic::new(false));
        let waits = Arc::clone(&came);
        let first = spawn(&room, move |room| {
            let sleep = |place| {
                waits.store(true, Release);
                room.room.sleep(place, true)
            };
            assert!(room.permits.take(&room.room, sleep).is_ok());
            room.cell.set(room.cell.get() + 1);
            room.give();
        });
        let was_there = came.load(Acquire);
        room.give();
        if room.take(false) {
            assert!(
                !was_there || room.cell.get() == 1,
                "the first one was overtaken"
            );
            room.give();
        }
        first.join().unwrap();
        room.assert_one_is_free();
    });
}

/// Of three who wait at two places one gives up: the others have their turns.
#[test]
fn permits_of_those_who_share_a_place() {
    check(Some(2), || {
        let room = Place::new();
        assert!(room.take(true));
        let others = [true, true, false].map(|patient| {
            spawn(&room, move |room| {
                let used = room.use_it(patient);
                assert!(used || !patient);
                u32::from(used)
            })
        });
        room.give();
        let used: u32 = join(others).iter().sum();
        assert_eq!(room.cell.get(), used);
        room.assert_one_is_free();
    });
}

/// One who is about to leave when a call for it was decided on, which another one gets who waits at
/// the same place, can leave: it need not wait for a permit that nobody may ever give.
#[test]
fn permit_of_one_who_leaves_in_vain() {
    check(Some(3), || {
        let room = Place::new();
        assert!(room.take(true));
        let leaves = spawn(&room, |room| room.use_it(false));
        let other = spawn(&room, |room| {
            let mut has_it = room.take(false);
            if !has_it {
                // The second number behind the first one has its place.
                has_it = room.take(true);
            }
            has_it
        });
        room.give();
        // Nobody gives it back before that.
        leaves.join().unwrap();
        assert!(other.join().unwrap());
        room.give();
        room.assert_one_is_free();
    });
}

/// A command that the device has.
struct Command {
    slot: Slot,
    done: Event,
    signals: Atomic<u32>,
    left: Cell<bool>,
}

impl Command {
    fn new() -> Arc<Self> {
        let this = Self {
            slot: Slot::new(),
            done: Event::new(),
            signals: Atomic::new(0),
            left: Cell::new(false),
        };
        this.slot.take();
        this.slot.queue();
        this.slot.launch();
        Arc::new(this)
    }

    fn signal(&self) {
        self.signals.fetch_add(1, Relaxed);
        self.done.signal();
    }

    fn end(&self) -> Ended {
        let cid = self.slot.cid(0);
        let ended = self
            .slot
            .end(Phase::InFlight, Some((cid, &[7])), || (), || self.signal());
        if ended == Ended::Orphaned {
            assert!(self.left.get(), "nothing was left behind");
            self.collect();
        }
        ended
    }

    fn collect(&self) {
        let mut words = [0];
        assert_eq!(self.slot.collect(&mut words), Verdict::Completed);
        assert_eq!(words, [7]);
        self.slot.release();
    }

    /// Waits, or leaves at once if the task is being killed.  Returns whether it left.
    fn wait(&self, killed: bool) -> bool {
        let mut signalled = !killed;
        if signalled {
            self.done.wait();
        }
        while !(signalled && self.slot.has_ended()) {
            self.left.set(true);
            if self.slot.abandon(signalled) {
                return true;
            }
            if !signalled {
                self.done.wait();
                signalled = true;
            }
        }
        self.collect();
        false
    }
}

/// A command ends, its waiter is told to leave, and is being killed or not, all at once: it has one
/// signal, and one who collects it.
#[test]
fn command_ends_as_its_waiter_leaves() {
    for killed in [false, true] {
        check(Some(3), move || {
            let command = Command::new();
            let reaper = spawn(&command, |command| command.end());
            let worker = spawn(&command, |command| {
                command.slot.evict(|| command.signal());
            });
            let left = command.wait(killed);
            worker.join().unwrap();
            let ended = reaper.join().unwrap();
            assert_eq!(ended == Ended::Orphaned, left);
            assert_eq!(command.slot.under_way(), None);
            // Nobody consumed that of one who left before it was told to.
            let signals = command.signals.load(Relaxed);
            assert!(signals <= 1, "{signals} signals");
            assert!(!command.done.try_wait(), "a signal is left");
        });
    }
}

/// A completion that comes twice, or with the generation of an earlier use, ends nothing.
#[test]
fn stale_completion_ends_nothing() {
    check(Some(3), || {
        let command = Command::new();
        let cid = command.slot.cid(0);
        let stale = spawn(&command, move |command| {
            // Once the command has ended by the first one; what is in the slot then is another.
            command.done.wait();
            command.collect();
            command.slot.take();
            command.slot.queue();
            command.slot.launch();
            command.slot.end(
                Phase::InFlight,
                Some((cid, &[8])),
                || (),
                || {
                    command.signal();
                },
            )
        });
        assert_eq!(command.end(), Ended::Woken);
        assert_eq!(stale.join().unwrap(), Ended::Stray);
        assert!(command.slot.under_way().is_some());
    });
}
