// SPDX-License-Identifier: GPL-2.0

//! Sessions that nobody has any more, and how the device is told.
//!
//! Documentation/architecture.rst 4 and Documentation/recovery.rst 5.

use kernel::{
    prelude::*,
    sync::atomic::Relaxed,
    time::Delta, //
};

use crate::{
    hsm,
    lockless::sessions::Sessions,
    orphans::{
        HeldBack,
        Opening, //
    },
    patience::Patience,
    queue::Lost,
    recovery::Condition,
    sys::{
        completion::Waited,
        process, //
    }, //
};

use super::Ctrl;

/// How long somebody waits for a session to be flushed: a device that does not answer holds up
/// neither closing a file, nor unbinding, nor recovery.
const FLUSH: Patience = Patience {
    timeout: Some(Delta::from_secs(1)),
    killable: false,
};

/// How often in a row flushing what nobody has may fail.
const MAX_FAILURES: u32 = 3;

/// How often in a row the device may refuse to flush a session until it is taken for one that does
/// not know the command (device.rst 5.6).
// CAST: Widening.
const MAX_REFUSALS: u32 = 3 * hsm::MAX_SESSIONS as u32;

impl Ctrl<'_> {
    /// Lets a command that opens a session be sent now, unless that has to wait. The result is to be
    /// kept until the descriptor knows of the session.
    ///
    /// # Errors
    ///
    /// The condition, if it is not [`Condition::Running`].
    pub(crate) fn try_open(&self) -> Result<Option<Opening>, Condition> {
        let opening = self.orphans().try_open();
        // Looked at after that: who changes the condition waits for those that are counted.
        match self.condition() {
            Condition::Running => Ok(opening),
            condition => Err(condition),
        }
    }

    /// Waits, for a second, until all commands that open a session have ended. To be called when no
    /// more can be sent.
    fn wait_for_opens(&self) -> Result<(), Lost> {
        let wait = FLUSH.start();
        while self.orphans().sessions().opens() != 0 {
            if wait.is_over() {
                return Err(Lost::Busy);
            }
            process::sleep_a_tick();
        }
        Ok(())
    }

    /// Flushes the sessions that are known to have nobody any more. Before somebody opens another,
    /// the device may have no room for one until this is done.
    pub(crate) fn flush_orphans(&self) {
        if self.orphans().sessions().is_empty() || !self.lock_flushing() {
            return;
        }
        // Each once: a device may say that it has not closed one.
        for id in 0..Sessions::MAX_IDS {
            let era = self.orphans().sessions().take(id);
            if era.is_some_and(|era| self.flush(id, era, true, None).is_err()) {
                break;
            }
        }
        self.flushing.signal();
    }

    /// The same for somebody who closes a descriptor: if the device did not answer the last time
    /// this is left to the monitor, so that who closes many waits for one of them only.
    pub(crate) fn flush_closed(&self) {
        if self.flush_stalled.load(Relaxed) {
            self.orphans().flush_soon();
        } else {
            self.flush_orphans();
        }
    }

    /// Waits until nobody flushes sessions, and keeps others from doing so until
    /// `self.flushing.signal()`.
    fn lock_flushing(&self) -> bool {
        FLUSH.start().for_event(&self.flushing) == Waited::Done
    }

    /// Flushes the session `id` of `era`, by whoever has locked flushing; `known` is whether the
    /// device is known to have it.
    ///
    /// # Errors
    ///
    /// See [`Lost`]. A flush that was not sent is tried again later; one that was is not, as the
    /// number may be somebody else's by then.
    fn flush(
        &self,
        id: u16,
        era: u32,
        known: bool,
        held_back: Option<HeldBack>,
    ) -> Result<(), Lost> {
        let closing = self.orphans().closing(id, era);
        let flushed = self
            .hsm
            .take(&self.doorbells, FLUSH)
            .and_then(|owned| hsm::Command::new(owned).flush(closing, held_back, FLUSH));
        let stalled = matches!(flushed, Err(Lost::Busy | Lost::TimedOut));
        self.flush_stalled.store(stalled, Relaxed);
        match flushed {
            Ok(completion) if completion.status != 0 => {
                // It may have closed it all the same, so nobody may be given the number meanwhile.
                if self.flush_refusals.load(Relaxed) < MAX_REFUSALS {
                    self.flush_refusals.fetch_add(1, Relaxed);
                    self.orphans().sessions().set_unsure();
                }
                Ok(())
            }
            Ok(completion) => {
                self.flush_refusals.store(0, Relaxed);
                if completion.report.left_open(0).is_some() {
                    self.orphans().sessions().keep(id, era);
                }
                Ok(())
            }
            Err(lost) => {
                match lost {
                    Lost::Halted => self.orphans().sessions().set_unsure(),
                    // Whoever ends the command sees to it.
                    _ if lost.was_sent() => {}
                    _ if known => self.orphans().sessions().keep(id, era),
                    // Or it would be taken for one that somebody opens meanwhile.
                    _ => {}
                }
                Err(lost)
            }
        }
    }

    /// Flushes all sessions but those that descriptors have, or commands that have not ended,
    /// whether the device has them or not. If this cannot be done now the worker tries it again.
    pub(super) fn flush_unowned(&self) {
        if !self.has_hsm() {
            return;
        }
        // Before looking, so that what ends from now on is looked at again.
        self.orphans().sessions().clear_unsure();
        match self.flush_each(
            |id| !self.orphans().sessions().is_owned(id),
            || self.is_leaving(),
        ) {
            Ok(()) => self.flush_failures.store(0, Relaxed),
            Err(lost) => {
                // A device that never does it is not asked for ever: it costs a queue abort.
                let failures = match lost.was_sent() {
                    true => self.flush_failures.fetch_add(1, Relaxed) + 1,
                    false => 0,
                };
                if failures < MAX_FAILURES {
                    self.orphans().sessions().set_unsure();
                } else {
                    self.orphans().sessions().clear_unsure();
                }
            }
        }
    }

    /// Flushes all sessions that the device can have, as nobody can use one any more.
    pub(super) fn flush_all(&self) {
        if !self.has_hsm() {
            return;
        }
        // Not more than this can be done.
        let _ = self.flush_each(|_| true, || false);
    }

    /// Flushes all sessions that `which` says, when none can be opened that has the number of one
    /// that the device does not have.
    ///
    /// # Errors
    ///
    /// See [`Lost`]: not all were flushed.
    fn flush_each(
        &self,
        which: impl Fn(u16) -> bool,
        give_up: impl Fn() -> bool,
    ) -> Result<(), Lost> {
        let _held_back = self.orphans().hold_opens_back();
        self.wait_for_opens()?;
        if !self.lock_flushing() {
            return Err(Lost::Busy);
        }
        let result = (0..hsm::MAX_SESSIONS)
            .filter(|id| which(*id))
            .try_for_each(|id| {
                if give_up() {
                    return Err(Lost::Refused);
                }
                let known = self.orphans().sessions().take(id);
                let era = known.unwrap_or_else(|| self.orphans().sessions().era());
                let held_back = self.orphans().hold_opens_back();
                self.flush(id, era, known.is_some(), Some(held_back))
            });
        self.flushing.signal();
        result
    }
}
