// SPDX-License-Identifier: GPL-2.0

//! The session of a descriptor.
//!
//! Documentation/abi.rst 4 and Documentation/device.rst 5.5.
//!
//! The device gives the number of a closed session to the next client that opens one. A command
//! that is carried out after its session was closed would therefore be carried out in the session
//! of somebody else. So a session is closed, or flushed, only when no command that uses it is under
//! way, not even one that nobody waits for any more: each has a [`Token`] until it has ended.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    },
};

use crate::{
    orphans::Orphans,
    sys::completion::{
        Event,
        Waited, //
    },
    uapi, //
};

pub(crate) use crate::wire::hsm::{
    Flow,
    Report,
    Session, //
};

/// What a descriptor knows of its session; it may have one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Record {
    /// It has none.
    #[default]
    Empty,
    /// A command that opens one is under way, and keeps others from opening a second.
    Opening,
    /// It has this one.
    Open(Session),
    /// It has this one, which a command is about to close.
    Closing(Session),
}

impl Record {
    /// Checks that a command may be sent now. One that opens or closes a session reserves the
    /// record.
    ///
    /// Whoever gets `Ok` for [`Flow::Open`] or [`Flow::Close`] must call one of
    /// [`Self::completed`], [`Self::not_sent`] and [`Self::lost`].
    ///
    /// # Errors
    ///
    /// The extended status (abi.rst 3.2).
    pub(crate) fn admit(&mut self, flow: Flow, id: Option<u16>) -> Result<(), u32> {
        match (flow, *self) {
            (Flow::None, _) => {}
            (Flow::Open, Record::Empty) => *self = Record::Opening,
            (Flow::Open, _) => return Err(uapi::EXT_HSM_SESSION_LIMIT),
            (Flow::Close | Flow::InSession, Record::Open(session)) => {
                if id != Some(session.id) {
                    return Err(uapi::EXT_HSM_SESSION_MISMATCH);
                }
                if flow == Flow::Close {
                    *self = Record::Closing(session);
                }
            }
            (Flow::Close | Flow::InSession, _) => return Err(uapi::EXT_HSM_NO_SESSION),
        }
        Ok(())
    }

    /// Takes note of a command that was admitted and has completed.
    pub(crate) fn completed(&mut self, flow: Flow, status: u16, report: &Report) {
        match (flow, *self) {
            (Flow::Open, _) => {
                *self = match report.opened(status) {
                    Some(session) => Record::Open(session),
                    None => Record::Empty,
                };
            }
            (Flow::Close, Record::Closing(session)) => {
                *self = if report.has_closed(session.id) {
                    Record::Empty
                } else {
                    Record::Open(session)
                };
            }
            _ => {}
        }
    }

    /// Takes note of a command that was admitted and not sent after all.
    pub(crate) fn not_sent(&mut self, flow: Flow) {
        match (flow, *self) {
            (Flow::Open, _) => *self = Record::Empty,
            (Flow::Close, Record::Closing(session)) => *self = Record::Open(session),
            _ => {}
        }
    }

    /// Takes note of a command that was sent and has no completion. If one comes, and says that a
    /// session was opened or not closed, that is an orphan; if none can come, because the device
    /// was reset, the session is flushed with those that nobody has.
    pub(crate) fn lost(&mut self, flow: Flow) {
        if matches!(flow, Flow::Open | Flow::Close) {
            *self = Record::Empty;
        }
    }

    /// Returns the number of the session, whether it may be used or not.
    pub(crate) fn id(&self) -> Option<u16> {
        match self {
            Record::Open(session) | Record::Closing(session) => Some(session.id),
            _ => None,
        }
    }

    /// Returns the session, if it may be used.
    pub(crate) fn session(&self) -> Option<Session> {
        match self {
            Record::Open(session) => Some(*session),
            _ => None,
        }
    }
}

/// The commands under way that use the session of one descriptor.
#[pin_data]
pub(crate) struct Users {
    // The number of tokens in the low half. The high half is not 0 once the descriptor is closed;
    // it is the session to flush, plus one.
    state: Atomic<u64>,
    // The era of that session. Written before the high half is.
    era: Atomic<u32>,
    #[pin]
    changed: Event,
    waiting: Atomic<bool>,
    orphans: Arc<Orphans>,
}

impl Users {
    const COUNT: u64 = u32::MAX as u64;
    const FLUSH_SHIFT: u32 = 32;

    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(orphans: Arc<Orphans>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                state: Atomic::new(0),
                era: Atomic::new(0),
                changed <- Event::new(),
                waiting: Atomic::new(false),
                orphans,
            }),
            GFP_KERNEL,
        )
    }

    /// Adds a user. To be called while the record is locked that admitted it.
    pub(crate) fn token(self: &Arc<Self>) -> Token {
        self.state.fetch_add(1, Full);
        Token(self.clone())
    }

    /// Waits until there are no users, as `sleep` does.
    ///
    /// The record must be [`Record::Closing`], so that no more come, and one task waits at most.
    ///
    /// # Errors
    ///
    /// What `sleep` says, unless that is [`Waited::Done`].
    pub(crate) fn wait_idle(&self, mut sleep: impl FnMut(&Event) -> Waited) -> Result<(), Waited> {
        // Fully ordered against the load below, as are the user's two accesses: either it sees
        // this or the count is seen to be 0.
        self.waiting.xchg(true, Full);
        let result = loop {
            if self.state.fetch_add(0, Full) & Self::COUNT == 0 {
                break Ok(());
            }
            match sleep(&self.changed) {
                Waited::Done => {}
                waited => break Err(waited),
            }
        };
        self.waiting.store(false, Relaxed);
        result
    }

    /// Says that the descriptor is closed and `session` of `era` is to be flushed. Returns whether that may
    /// be done now; otherwise the last user sees to it, and is its owner until then.
    pub(crate) fn close(&self, session: u16, era: u32) -> bool {
        self.era.store(era, Relaxed);
        let flush = (u64::from(session) + 1) << Self::FLUSH_SHIFT;
        self.state.fetch_add(flush, Full) & Self::COUNT == 0
    }
}

/// Stands for one command that uses a session.
pub(crate) struct Token(Arc<Users>);

impl Drop for Token {
    /// May be called in any context.
    fn drop(&mut self) {
        let users = &self.0;
        let before = users.state.fetch_sub(1, Full);

        // CAST: Takes the upper half.
        if let (1, Some(session)) = (
            before & Users::COUNT,
            ((before >> Users::FLUSH_SHIFT) as u32).checked_sub(1),
        ) {
            // CAST: `close()` got it as a `u16`.
            let session = session as u16;
            users.orphans.add(session);
            users.orphans.lose_owner(session, users.era.load(Relaxed));
        }
        if users.waiting.load(Relaxed) {
            users.changed.signal();
        }
    }
}
