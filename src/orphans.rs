// SPDX-License-Identifier: GPL-2.0

//! What is left of those who had to leave: commands and sessions.
//!
//! A command is orphaned when its waiter leaves before the device is done with it. What it had is
//! released in a work item: that may sleep, and the completion is found in interrupt context.
//!
//! A session is orphaned when the process that opened it is killed before it learns of it, or when
//! it cannot be flushed as its descriptor is closed. The device has only 8, and keeps them across
//! resets: each that is forgotten is one less for good (Documentation/device.rst 5.7).

use kernel::{
    impl_has_work, new_work,
    prelude::*,
    sync::Arc,
    workqueue,
    workqueue::{
        Work,
        WorkItem, //
    },
};

use crate::{
    ctrl::CtrlFamily,
    lockless::sessions::Sessions,
    sys::{
        gate::Gate,
        process,
        work, //
    }, //
};

/// See the [module](self).
#[pin_data]
pub(crate) struct Orphans {
    sessions: Sessions,
    gate: Arc<Gate<CtrlFamily>>,
    #[pin]
    flush: Work<Orphans, FLUSH>,
    #[pin]
    release: Work<Orphans, RELEASE>,
}

/// The work of flushing sessions, which takes as long as the device does.
const FLUSH: u64 = 0;
/// The work of releasing commands, for whose slots somebody may be waiting.
const RELEASE: u64 = 1;

impl_has_work! {
    impl HasWork<Self, FLUSH> for Orphans { self.flush }
    impl HasWork<Self, RELEASE> for Orphans { self.release }
}

impl WorkItem<RELEASE> for Orphans {
    type Pointer = Arc<Orphans>;

    fn run(this: Arc<Orphans>) {
        // A device that is going away does this itself.
        if this.gate.with(|ctrl| Ok(ctrl.release_orphans())) == Ok(true) {
            process::sleep_a_tick();
            this.release();
        }
    }
}

impl WorkItem<FLUSH> for Orphans {
    type Pointer = Arc<Orphans>;

    fn run(this: Arc<Orphans>) {
        // Without a device there is nothing to flush.
        let _ = this.gate.with(|ctrl| {
            ctrl.flush_orphans();
            Ok(())
        });
    }
}

impl Orphans {
    /// Makes an empty set for the device behind `gate`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(gate: Arc<Gate<CtrlFamily>>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                sessions: Sessions::new(),
                gate,
                flush <- new_work!("azihsm_flush"),
                release <- new_work!("azihsm_release"),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns who has which session. Commands that open one are counted, and held back, by
    /// [`Opening`] and [`HeldBack`].
    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Notes the session `id` of `era` and has it flushed soon. May be called from any context.
    pub(crate) fn add(self: &Arc<Self>, id: u16, era: u32) {
        self.sessions.keep(id, era);
        self.flush_soon();
    }

    /// Has all sessions flushed that were noted. May be called from any context.
    pub(crate) fn flush_soon(self: &Arc<Self>) {
        // If it is queued already, it will see those that are there now, too.
        let _ = workqueue::system_long().enqueue::<Arc<Self>, FLUSH>(self.clone());
    }

    /// Has the orphaned commands of all queues released soon. May be called from any context.
    pub(crate) fn release(self: &Arc<Self>) {
        // As above.
        let _ = workqueue::system_highpri().enqueue::<Arc<Self>, RELEASE>(self.clone());
    }

    /// Notes that a command which closes the session `id` of `era` is about to be sent.
    pub(crate) fn closing(self: &Arc<Self>, id: u16, era: u32) -> Closing {
        self.sessions.gain_owner(id, era);
        Closing {
            orphans: self.clone(),
            id,
            era,
        }
    }

    /// Notes that a command which opens a session is about to be sent, unless something holds it
    /// back.
    pub(crate) fn try_open(self: &Arc<Self>) -> Option<Opening> {
        let opening = Opening::new(self);
        self.sessions.may_open().then_some(opening)
    }

    /// Lets no command that opens a session be sent until the result is dropped.
    pub(crate) fn hold_opens_back(self: &Arc<Self>) -> HeldBack {
        self.sessions.begin_hold();
        HeldBack(self.clone())
    }

    /// Waits until the work that is under way has ended, and lets no other begin. To be called when
    /// the gate is closed and nobody adds to the set any more.
    pub(crate) fn stop(self: &Arc<Self>) {
        work::cancel::<_, RELEASE>(self);
        work::cancel::<_, FLUSH>(self);
    }
}

/// Stands for a command that closes a session and has not ended.
pub(crate) struct Closing {
    orphans: Arc<Orphans>,
    id: u16,
    era: u32,
}

impl Closing {
    /// Returns the session.
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Returns the era of the session.
    pub(crate) fn era(&self) -> u32 {
        self.era
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.orphans.sessions.lose_owner(self.id, self.era);
    }
}

/// Stands for a command that opens a session and has not ended, or whose descriptor has not learned
/// of it.
pub(crate) struct Opening {
    orphans: Arc<Orphans>,
    era: u32,
}

impl Opening {
    fn new(orphans: &Arc<Orphans>) -> Self {
        let era = orphans.sessions.begin_open();
        Self {
            orphans: orphans.clone(),
            era,
        }
    }

    /// Returns in which era the command is sent.
    pub(crate) fn era(&self) -> u32 {
        self.era
    }
}

impl Clone for Opening {
    fn clone(&self) -> Self {
        let mut clone = Self::new(&self.orphans);
        clone.era = self.era;
        clone
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.orphans.sessions.end_open();
    }
}

/// Keeps commands that open a session from being sent.
pub(crate) struct HeldBack(Arc<Orphans>);

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.0.sessions.end_hold();
    }
}

#[kunit_tests(azihsm_orphans)]
mod tests {
    use super::*;

    fn orphans() -> Result<Arc<Orphans>> {
        Orphans::new(Gate::new()?)
    }

    #[test]
    fn what_is_noted_is_taken_once() -> Result {
        let orphans = orphans()?;
        let sessions = orphans.sessions();
        let era = sessions.era();
        for id in [0, 7, 31] {
            assert!(sessions.is_empty());
            sessions.keep(id, era);
            sessions.keep(id, era);
            assert!(!sessions.is_empty());
            assert_eq!(sessions.orphaned(), 1);
            assert_eq!(sessions.take(id ^ 1), None);
            assert_eq!(sessions.take(id), Some(era));
            assert_eq!(sessions.take(id), None);
        }
        Ok(())
    }

    // Its number may be that of somebody else's.
    #[test]
    fn a_session_of_an_earlier_era_is_not_noted() -> Result {
        let orphans = orphans()?;
        let sessions = orphans.sessions();
        let old = sessions.era();
        sessions.keep(3, old);
        sessions.begin_era();
        assert!(sessions.is_empty());
        assert_eq!(sessions.take(3), None);
        sessions.keep(3, old);
        assert!(sessions.is_empty());
        sessions.keep(3, sessions.era());
        assert_eq!(sessions.take(3), Some(sessions.era()));
        Ok(())
    }

    // A device may say anything.
    #[test]
    fn a_session_that_cannot_be_is_not_noted() -> Result {
        let orphans = orphans()?;
        let sessions = orphans.sessions();
        let era = sessions.era();
        for id in [32, 64, 128, u16::MAX] {
            sessions.keep(id, era);
            sessions.gain_owner(id, era);
            assert!(sessions.is_empty());
            assert_eq!(sessions.take(id), None);
            assert!(!sessions.is_owned(id));
        }
        Ok(())
    }

    #[test]
    fn owners_are_counted() -> Result {
        let orphans = orphans()?;
        let sessions = orphans.sessions();
        let era = sessions.era();
        sessions.gain_owner(3, era);
        let closing = orphans.closing(3, era);
        assert_eq!((closing.id(), closing.era()), (3, era));
        assert!(sessions.is_owned(3));
        assert!(!sessions.is_owned(4));
        assert_eq!(sessions.owned(), 1);
        sessions.lose_owner(3, era);
        assert!(sessions.is_owned(3));
        drop(closing);
        assert!(!sessions.is_owned(3));
        // There is none to lose.
        sessions.lose_owner(3, era);
        sessions.gain_owner(3, era);
        assert!(sessions.is_owned(3));
        Ok(())
    }

    #[test]
    fn a_new_era_has_no_owners() -> Result {
        let orphans = orphans()?;
        let sessions = orphans.sessions();
        sessions.gain_owner(3, sessions.era());
        let old = sessions.era();
        sessions.begin_era();
        assert!(sessions.era() != old);
        assert!(!sessions.is_owned(3));
        // One of the new era does not lose what one of the old one gives up.
        sessions.gain_owner(3, sessions.era());
        sessions.lose_owner(3, old);
        assert!(sessions.is_owned(3));
        sessions.lose_owner(3, sessions.era());
        assert!(!sessions.is_owned(3));
        // Nor does one that learns late of its session take it over.
        sessions.gain_owner(3, sessions.era());
        sessions.gain_owner(3, old);
        assert!(sessions.is_owned(3));
        sessions.lose_owner(3, old);
        assert!(sessions.is_owned(3));
        Ok(())
    }

    #[test]
    fn opens_are_counted_and_held_back() -> Result {
        let orphans = orphans()?;
        let sessions = orphans.sessions();
        let Some(opening) = orphans.try_open() else {
            return Err(EINVAL);
        };
        let second = opening.clone();
        assert_eq!((sessions.opens(), second.era()), (2, opening.era()));
        let held_back = (orphans.hold_opens_back(), orphans.hold_opens_back());
        assert!(orphans.try_open().is_none());
        drop(held_back.0);
        assert!(orphans.try_open().is_none());
        drop(held_back.1);
        assert!(orphans.try_open().is_some());
        drop((opening, second));
        assert_eq!(sessions.opens(), 0);
        Ok(())
    }
}
