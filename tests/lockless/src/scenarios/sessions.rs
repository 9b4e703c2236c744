// SPDX-License-Identifier: GPL-2.0
//! Who has which session, as tasks, ends of commands and recovery change it at once.

use super::check;
use super::join;
use super::spawn;
use crate::facade::Waited;
use crate::machine::Event;
use crate::sessions::Sessions;
use crate::users::Users;
use loom::cell::Cell;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::Relaxed;
use loom::sync::Mutex;
use loom::thread::yield_now;
use std::sync::Arc;
use std::sync::Mutex as Record;

/// The session that all of this is about.
const ID: u16 = 3;

/// Commands in a session, of a descriptor, and what each of them touches.
struct Descriptor {
    users: Users,
    changed: Event,
    touched: [Cell<bool>; 2],
    /// Who is told to flush the session, of which era.
    flushes: Record<Vec<u32>>,
}

impl Descriptor {
    /// Makes one with two commands under way.
    fn new() -> Arc<Self> {
        let users = Users::new();
        users.enter();
        users.enter();
        Arc::new(Self {
            users,
            changed: Event::new(),
            touched: [Cell::new(false), Cell::new(false)],
            flushes: Record::new(Vec::new()),
        })
    }

    /// A command ends.
    fn leave(&self, index: usize) {
        self.touched[index].set(true);
        self.users.leave(
            |session, era| {
                assert_eq!(session, ID);
                self.flush(era);
            },
            || self.changed.signal(),
        );
    }

    /// All commands have ended, and what they did is seen.
    fn assert_all_ended(&self) {
        assert!(self.touched.iter().all(Cell::get), "one has not ended");
    }

    fn flush(&self, era: u32) {
        self.assert_all_ended();
        self.flushes.lock().unwrap().push(era);
    }
}

/// A session is closed when the commands in it have ended; who waits for that is woken.
#[test]
fn close_waits_for_users() {
    check(Some(3), || {
        let descriptor = Descriptor::new();
        let users = [0, 1].map(|index| spawn(&descriptor, move |it| it.leave(index)));
        let idle = descriptor.users.wait_idle(|| {
            descriptor.changed.wait();
            Waited::Done
        });
        assert_eq!(idle, Ok(()));
        descriptor.assert_all_ended();
        join(users);
        assert!(descriptor.flushes.lock().unwrap().is_empty());
    });
}

/// A descriptor is closed while the last commands in its session end: one of them, or who closes it,
/// flushes the session, when all have ended.
#[test]
fn last_user_of_closed_descriptor() {
    check(None, || {
        let descriptor = Descriptor::new();
        let users = [0, 1].map(|index| spawn(&descriptor, move |it| it.leave(index)));
        if descriptor.users.close(ID, 5) {
            descriptor.flush(5);
        }
        join(users);
        assert_eq!(*descriptor.flushes.lock().unwrap(), [5]);
    });
}

/// A device of which somebody has a session, and what the driver knows of that.
struct Known {
    sessions: Sessions,
    /// Whether the device has the session.  What it does orders nothing.
    is_open: AtomicBool,
}

impl Known {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            sessions: Sessions::new(),
            is_open: AtomicBool::new(false),
        })
    }

    /// Waits until no command that opens a session is under way; none can be sent.
    fn wait_for_opens(&self) {
        while self.sessions.opens() != 0 {
            yield_now();
        }
    }
}

/// Somebody opens a session while those that nobody knows of are flushed, whether the device has them
/// or not: either it is held back, or the session is somebody's.
#[test]
fn open_while_unowned_are_flushed() {
    check(None, || {
        let known = Known::new();
        let opener = spawn(&known, |known| {
            let era = known.sessions.begin_open();
            let may_open = known.sessions.may_open();
            if may_open {
                assert!(!known.is_open.swap(true, Relaxed));
                known.sessions.gain_owner(ID, era);
            }
            known.sessions.end_open();
            may_open
        });
        known.sessions.begin_hold();
        known.wait_for_opens();
        if !known.sessions.is_owned(ID) {
            known.is_open.swap(false, Relaxed);
        }
        known.sessions.end_hold();
        let has_opened = opener.join().unwrap();
        assert_eq!(known.sessions.is_owned(ID), has_opened);
        assert_eq!(known.is_open.load(Relaxed), has_opened, "flushed");
    });
}

/// Somebody gives a session up that cannot be flushed at once, while those are flushed that nobody
/// has.  The number of one that was flushed is not kept: it may be somebody else's when it is flushed
/// the next time.
#[test]
fn session_given_up_while_unowned_are_flushed() {
    check(None, || {
        let known = Known::new();
        known.sessions.gain_owner(ID, known.sessions.era());
        known.is_open.swap(true, Relaxed);
        let owner = spawn(&known, |known| {
            known.sessions.keep(ID, known.sessions.era());
            known.sessions.lose_owner(ID, known.sessions.era());
        });
        if !known.sessions.is_owned(ID) {
            known.sessions.take(ID);
            known.is_open.swap(false, Relaxed);
        }
        owner.join().unwrap();
        let is_open = known.is_open.load(Relaxed);
        let noted = known.sessions.take(ID);
        assert_eq!(noted.is_some(), is_open, "lost, or flushed twice");
        assert_eq!(known.sessions.take(ID), None);
    });
}

/// A command that closes a session ends without saying whether it has, as `Class::orphaned()` has it
/// end, while those are flushed that nobody has: the session is flushed, or there is a doubt left.
#[test]
fn doubt_is_not_lost() {
    check(None, || {
        let known = Known::new();
        let era = known.sessions.era();
        known.sessions.gain_owner(ID, era);
        known.is_open.swap(true, Relaxed);
        let ender = spawn(&known, move |known| {
            known.sessions.lose_owner(ID, era);
            known.sessions.set_unsure();
        });
        known.sessions.clear_unsure();
        if !known.sessions.is_owned(ID) {
            known.is_open.swap(false, Relaxed);
        }
        ender.join().unwrap();
        let is_open = known.is_open.load(Relaxed);
        assert!(!is_open || known.sessions.is_unsure());
    });
}

/// Two note and take a session at once: it is taken as often as it was noted.
#[test]
fn session_noted_is_taken_once() {
    check(None, || {
        let known = Known::new();
        let era = known.sessions.era();
        known.sessions.keep(ID, era);
        let takers = [1, 2].map(|other| {
            spawn(&known, move |known| {
                // Another one that is noted meanwhile.
                known.sessions.keep(ID + other, era);
                u32::from(known.sessions.take(ID).is_some())
            })
        });
        assert_eq!(join(takers).iter().sum::<u32>(), 1);
        for other in [1, 2] {
            assert_eq!(known.sessions.take(ID + other), Some(era));
        }
        assert!(known.sessions.is_empty());
    });
}

/// Two descriptors and a command have and give up a session at once: the number is right at the end.
#[test]
fn owners_are_counted() {
    check(Some(3), || {
        let known = Known::new();
        let era = known.sessions.era();
        let owners = [(); 2].map(|()| {
            spawn(&known, move |known| {
                known.sessions.gain_owner(ID, era);
                assert!(known.sessions.is_owned(ID));
                known.sessions.lose_owner(ID, era);
            })
        });
        known.sessions.gain_owner(ID, era);
        join(owners);
        assert!(known.sessions.is_owned(ID));
        known.sessions.lose_owner(ID, era);
        assert!(!known.sessions.is_owned(ID));
    });
}

/// The device loses its sessions and gives the number of one to the next who opens one, while the one
/// who had it learns of it late, or gives it up: neither is taken for what became of the new one.
#[test]
fn earlier_era_says_nothing() {
    check(None, || {
        let known = Known::new();
        let old = known.sessions.era();
        let late = spawn(&known, move |known| {
            known.sessions.gain_owner(ID, old);
            known.sessions.keep(ID, old);
            known.sessions.lose_owner(ID, old);
        });
        known.sessions.begin_era();
        let new = known.sessions.era();
        known.sessions.gain_owner(ID, new);
        assert!(known.sessions.is_owned(ID));
        late.join().unwrap();
        assert!(known.sessions.is_owned(ID));
        assert!(known.sessions.is_empty(), "it would be flushed");
        known.sessions.lose_owner(ID, new);
        assert!(!known.sessions.is_owned(ID));
    });
}

/// A device that is reset and loses its sessions.
struct Device {
    known: Arc<Known>,
    /// The era of the queue, if it submits commands.
    queue: Mutex<Option<u32>>,
}

impl Device {
    /// A task opens a session, which the condition of the device does not keep it from.  Returns the
    /// era, if it did.
    fn open(&self) -> Option<u32> {
        let Known { sessions, is_open } = &*self.known;
        let era = sessions.begin_open();
        let mut has_opened = false;
        if sessions.may_open() {
            let queue = self.queue.lock().unwrap();
            has_opened = *queue == Some(era);
            if has_opened {
                is_open.swap(true, Relaxed);
            }
            drop(queue);
            if has_opened {
                sessions.gain_owner(ID, era);
            }
        }
        sessions.end_open();
        has_opened.then_some(era)
    }

    /// The device is reset, as `Ctrl::reset()` does it, and has lost its sessions.
    fn reset(&self) {
        let Known { sessions, is_open } = &*self.known;
        *self.queue.lock().unwrap() = None;
        is_open.swap(false, Relaxed);
        sessions.begin_era();
        *self.queue.lock().unwrap() = Some(sessions.era());
        sessions.begin_hold();
        // Nothing is flushed if it takes too long.
        if sessions.opens() == 0 && !sessions.is_owned(ID) {
            is_open.swap(false, Relaxed);
        }
        sessions.end_hold();
    }
}

/// The device loses its sessions while somebody opens one.  That is of the time before, and nobody has
/// it any more, or of the time behind, and somebody has it.
#[test]
fn open_while_an_era_ends() {
    check(Some(3), || {
        let known = Known::new();
        let first = known.sessions.era();
        let device = Arc::new(Device {
            known,
            queue: Mutex::new(Some(first)),
        });
        let opener = spawn(&device, |device| device.open());
        device.reset();
        let era = opener.join().unwrap();
        let sessions = &device.known.sessions;
        let is_open = device.known.is_open.load(Relaxed);
        assert_eq!(is_open, sessions.is_owned(ID), "nobody's, or no more");
        assert_eq!(is_open, era == Some(sessions.era()));
    });
}
