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
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    workqueue,
    workqueue::{
        Work,
        WorkItem, //
    },
};

use crate::{
    ctrl::CtrlFamily,
    lockless::pair::FIRST_ERA,
    sys::{
        gate::Gate,
        process,
        work, //
    }, //
};

/// See the [module](self).
#[pin_data]
pub(crate) struct Orphans {
    // A bit by session identifier: the device has it, and nobody else. The era that this is for is
    // in the high half: how often the device has lost all sessions, plus one. Those of an earlier
    // era are no more.
    ids: Atomic<u64>,
    // By session identifier: how many descriptors have it, and commands that use or close it and
    // have not ended, in the low half. The era that this is for is in the high half.
    owners: [Atomic<u64>; Orphans::MAX_IDS as usize],
    // How many commands that open a session have not ended, or are about to be sent.
    opens: Atomic<u32>,
    // How many reasons there are to send none now.
    opens_held_back: Atomic<u32>,
    // Whether a command that opens or closes a session ended without a completion, so that the
    // device may have one that nobody knows of.
    unsure: Atomic<bool>,
    gate: Arc<Gate<CtrlFamily>>,
    #[pin]
    flush: Work<Orphans, FLUSH>,
    #[pin]
    release: Work<Orphans, RELEASE>,
}

/// How many eras later one may be to be taken for a later one: half of what there are.
const ERAS_AHEAD: u32 = u32::MAX / 2;

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
    /// Most identifiers that can be noted; the device has 8.
    const MAX_IDS: u16 = 32;

    /// Makes an empty set for the device behind `gate`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(gate: Arc<Gate<CtrlFamily>>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                ids: Atomic::new(Orphans::word(FIRST_ERA, 0)),
                owners: [const { Atomic::new(0) }; Orphans::MAX_IDS as usize],
                opens: Atomic::new(0),
                opens_held_back: Atomic::new(0),
                unsure: Atomic::new(false),
                gate,
                flush <- new_work!("azihsm_flush"),
                release <- new_work!("azihsm_release"),
            }),
            GFP_KERNEL,
        )
    }

    /// Puts a word together, of which `era` is the upper half.
    const fn word(era: u32, low: u32) -> u64 {
        // CAST: Widening.
        (era as u64) << 32 | low as u64
    }

    /// Takes a word apart.
    fn parts(word: u64) -> (u32, u32) {
        // CAST: Takes half of the bits each.
        ((word >> 32) as u32, word as u32)
    }

    /// Notes the session `id` of `era` and has it flushed soon. May be called from any context.
    ///
    /// An identifier that the device cannot have given is ignored.
    pub(crate) fn add(self: &Arc<Self>, id: u16, era: u32) {
        self.keep(id, era);
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

    /// Notes the session `id` of `era`, which nobody has any more. If the device has lost it the
    /// number may be that of another one.
    pub(crate) fn keep(&self, id: u16, era: u32) {
        if id < Self::MAX_IDS {
            self.change_ids(|now, ids| (now == era).then_some((era, ids | 1 << id)));
        }
    }

    /// Changes the identifiers, and their era, as `change` says. Returns the era from before that.
    fn change_ids(&self, change: impl Fn(u32, u32) -> Option<(u32, u32)>) -> Option<u32> {
        Self::change(&self.ids, change)
    }

    /// Changes a word, whose halves `change` gets, unless that returns `None`. Returns the upper half
    /// from before that.
    fn change(word: &Atomic<u64>, change: impl Fn(u32, u32) -> Option<(u32, u32)>) -> Option<u32> {
        let mut seen = word.load(Relaxed);
        loop {
            let (era, low) = Self::parts(seen);
            let (new_era, new_low) = change(era, low)?;
            match word.cmpxchg(seen, Self::word(new_era, new_low), Full) {
                Ok(_) => return Some(era),
                Err(now) => seen = now,
            }
        }
    }

    /// Notes that a descriptor has the session `id` of `era`.
    pub(crate) fn gain_owner(&self, id: u16, era: u32) {
        // One that is found out late to be of an earlier era has no owners that count.
        self.change_owners(
            id,
            |now, count| match era.wrapping_sub(now) {
                0 => count.checked_add(1),
                1..=ERAS_AHEAD => Some(1),
                _ => None,
            },
            era,
        );
    }

    /// Notes that a descriptor does not have the session `id` of `era` any more. If the device
    /// still has it, this was noted before by [`Self::keep`].
    pub(crate) fn lose_owner(&self, id: u16, era: u32) {
        // Nobody has one of an earlier era.
        self.change_owners(
            id,
            |now, count| (now == era).then(|| count.saturating_sub(1)),
            era,
        );
    }

    /// Changes the number of owners as `change` says, which gets the era that it is for. The new
    /// number is for `era`.
    fn change_owners(&self, id: u16, change: impl Fn(u32, u32) -> Option<u32>, era: u32) {
        if let Some(owners) = self.owners.get(usize::from(id)) {
            Self::change(owners, |now, count| Some((era, change(now, count)?)));
        }
    }

    /// Returns whether a descriptor has the session `id`, or a command that has not ended.
    pub(crate) fn is_owned(&self, id: u16) -> bool {
        self.owners.get(usize::from(id)).is_some_and(|owners| {
            let (era, count) = Self::parts(owners.fetch_add(0, Full));

            era == self.era() && count != 0
        })
    }

    /// Notes that the device has lost all sessions. To be called while no queue submits commands.
    pub(crate) fn begin_era(&self) {
        self.change_ids(|era, _| {
            let next = era.wrapping_add(1);
            Some((next.max(FIRST_ERA), 0))
        });
    }

    /// Returns in which era a session is that is opened now.
    pub(crate) fn era(&self) -> u32 {
        Self::parts(self.ids.load(Acquire)).0
    }

    /// Notes that a command which closes the session `id` of `era` is about to be sent.
    pub(crate) fn closing(self: &Arc<Self>, id: u16, era: u32) -> Closing {
        self.gain_owner(id, era);
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
        // Fully ordered, as are the two accesses of `hold_opens_back()` and `opens()`: either the
        // one who opens sees that it is held back, or the other sees it.
        (self.opens_held_back.fetch_add(0, Full) == 0).then_some(opening)
    }

    /// Returns how many commands that open a session have not ended.
    pub(crate) fn opens(&self) -> u32 {
        self.opens.fetch_add(0, Full)
    }

    /// Lets no command that opens a session be sent until the result is dropped.
    pub(crate) fn hold_opens_back(self: &Arc<Self>) -> HeldBack {
        self.opens_held_back.fetch_add(1, Full);
        HeldBack(self.clone())
    }

    /// Notes that a command that opens or closes a session ended without a completion.
    pub(crate) fn set_unsure(&self) {
        self.unsure.store(true, Release);
    }

    /// Takes note that sessions which nobody knows of are about to be flushed.
    pub(crate) fn clear_unsure(&self) {
        self.unsure.xchg(false, Full);
    }

    /// Returns whether there may be a session that nobody knows of.
    pub(crate) fn is_unsure(&self) -> bool {
        self.unsure.load(Acquire)
    }

    /// Returns whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.orphaned() == 0
    }

    /// Returns how many sessions descriptors have, or commands that have not ended.
    pub(crate) fn owned(&self) -> u32 {
        // CAST: At most `MAX_IDS`.
        (0..Self::MAX_IDS).filter(|id| self.is_owned(*id)).count() as u32
    }

    /// Returns how many sessions are known to have nobody.
    pub(crate) fn orphaned(&self) -> u32 {
        Self::parts(self.ids.load(Relaxed)).1.count_ones()
    }

    /// Takes the session `id`, if it was noted. Returns its era.
    pub(crate) fn take(&self, id: u16) -> Option<u32> {
        let bit = 1_u32.checked_shl(id.into())?;
        self.change_ids(|era, ids| (ids & bit != 0).then_some((era, ids & !bit)))
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
        self.orphans.lose_owner(self.id, self.era);
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
        orphans.opens.fetch_add(1, Full);
        Self {
            orphans: orphans.clone(),
            era: orphans.era(),
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
        self.orphans.opens.fetch_sub(1, Full);
    }
}

/// Keeps commands that open a session from being sent.
pub(crate) struct HeldBack(Arc<Orphans>);

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.0.opens_held_back.fetch_sub(1, Full);
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
        let era = orphans.era();
        for id in [0, 7, 31] {
            assert!(orphans.is_empty());
            orphans.keep(id, era);
            orphans.keep(id, era);
            assert!(!orphans.is_empty());
            assert_eq!(orphans.orphaned(), 1);
            assert_eq!(orphans.take(id ^ 1), None);
            assert_eq!(orphans.take(id), Some(era));
            assert_eq!(orphans.take(id), None);
        }
        Ok(())
    }

    // Its number may be that of somebody else's.
    #[test]
    fn a_session_of_an_earlier_era_is_not_noted() -> Result {
        let orphans = orphans()?;
        let old = orphans.era();
        orphans.keep(3, old);
        orphans.begin_era();
        assert!(orphans.is_empty());
        assert_eq!(orphans.take(3), None);
        orphans.keep(3, old);
        assert!(orphans.is_empty());
        orphans.keep(3, orphans.era());
        assert_eq!(orphans.take(3), Some(orphans.era()));
        Ok(())
    }

    // A device may say anything.
    #[test]
    fn a_session_that_cannot_be_is_not_noted() -> Result {
        let orphans = orphans()?;
        let era = orphans.era();
        for id in [32, 64, 128, u16::MAX] {
            orphans.keep(id, era);
            orphans.gain_owner(id, era);
            assert!(orphans.is_empty());
            assert_eq!(orphans.take(id), None);
            assert!(!orphans.is_owned(id));
        }
        Ok(())
    }

    #[test]
    fn owners_are_counted() -> Result {
        let orphans = orphans()?;
        let era = orphans.era();
        orphans.gain_owner(3, era);
        let closing = orphans.closing(3, era);
        assert_eq!((closing.id(), closing.era()), (3, era));
        assert!(orphans.is_owned(3));
        assert!(!orphans.is_owned(4));
        assert_eq!(orphans.owned(), 1);
        orphans.lose_owner(3, era);
        assert!(orphans.is_owned(3));
        drop(closing);
        assert!(!orphans.is_owned(3));
        // There is none to lose.
        orphans.lose_owner(3, era);
        orphans.gain_owner(3, era);
        assert!(orphans.is_owned(3));
        Ok(())
    }

    #[test]
    fn a_new_era_has_no_owners() -> Result {
        let orphans = orphans()?;
        orphans.gain_owner(3, orphans.era());
        let old = orphans.era();
        orphans.begin_era();
        assert!(orphans.era() != old);
        assert!(!orphans.is_owned(3));
        // One of the new era does not lose what one of the old one gives up.
        orphans.gain_owner(3, orphans.era());
        orphans.lose_owner(3, old);
        assert!(orphans.is_owned(3));
        orphans.lose_owner(3, orphans.era());
        assert!(!orphans.is_owned(3));
        // Nor does one that learns late of its session take it over.
        orphans.gain_owner(3, orphans.era());
        orphans.gain_owner(3, old);
        assert!(orphans.is_owned(3));
        orphans.lose_owner(3, old);
        assert!(orphans.is_owned(3));
        Ok(())
    }

    #[test]
    fn opens_are_counted_and_held_back() -> Result {
        let orphans = orphans()?;
        let Some(opening) = orphans.try_open() else {
            return Err(EINVAL);
        };
        let second = opening.clone();
        assert_eq!((orphans.opens(), second.era()), (2, opening.era()));
        let held_back = (orphans.hold_opens_back(), orphans.hold_opens_back());
        assert!(orphans.try_open().is_none());
        drop(held_back.0);
        assert!(orphans.try_open().is_none());
        drop(held_back.1);
        assert!(orphans.try_open().is_some());
        drop((opening, second));
        assert_eq!(orphans.opens(), 0);
        Ok(())
    }
}
