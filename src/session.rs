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
    sync::Arc, //
};

use crate::{
    lockless::users,
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
    ///
    /// Returns whether the device may have a session by now of which nobody is going to learn:
    /// whoever ends a command that closes one takes its descriptor for the owner until here, and
    /// one that opens one is looked after for as long as it has not `ended`.
    pub(crate) fn lost(&mut self, flow: Flow, ended: bool) -> bool {
        match flow {
            Flow::None | Flow::InSession => return false,
            Flow::Open | Flow::Close => *self = Record::Empty,
        }
        flow == Flow::Close || ended
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

/// What a command that nobody waits for was to do with sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Nothing.
    Other,
    /// To open one.
    Open,
    /// To close this one.
    Close(u16),
    /// To flush this one.
    Flush(u16),
}

/// What the device may have because of such a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Left {
    /// Nothing that is nobody's.
    Nothing,
    /// This session, which is nobody's.
    Session(u16),
    /// Any.
    Unknown,
}

impl Purpose {
    /// Returns what a command has left that has completed so.
    pub(crate) fn leaves(self, status: u16, report: &Report) -> Left {
        let left = match self {
            Purpose::Close(id) => (!report.has_closed(id)).then_some(id),
            // Of a session that there is not the device says neither.
            Purpose::Flush(id) if status == 0 => report.left_open(status).map(|_| id),
            Purpose::Flush(_) => return Left::Unknown,
            // A device may say that it has opened one for a command that did not ask for it.
            Purpose::Other | Purpose::Open => report
                .opened(status)
                .map(|session| session.id)
                .or_else(|| report.left_open(status)),
        };
        left.map_or(Left::Nothing, Left::Session)
    }

    /// Returns what a command has left of which the device, which was reset, does not say how it
    /// has ended.
    pub(crate) fn leaves_unanswered(self) -> Left {
        match self {
            Purpose::Other => Left::Nothing,
            Purpose::Open | Purpose::Close(_) | Purpose::Flush(_) => Left::Unknown,
        }
    }
}

/// The commands under way that use the session of one descriptor.
#[pin_data]
pub(crate) struct Users {
    state: users::Users,
    #[pin]
    changed: Event,
    orphans: Arc<Orphans>,
}

impl Users {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(orphans: Arc<Orphans>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                state: users::Users::new(),
                changed <- Event::new(),
                orphans,
            }),
            GFP_KERNEL,
        )
    }

    /// Adds a user of the session, which is of `era`. To be called while the record is locked that
    /// admitted it.
    pub(crate) fn token(self: &Arc<Self>, era: u32) -> Token {
        self.state.enter();
        Token {
            users: self.clone(),
            era,
        }
    }

    /// Waits until there are no users, as `sleep` does.
    ///
    /// The record must be [`Record::Closing`], so that no more come, and one task waits at most.
    ///
    /// # Errors
    ///
    /// What `sleep` says, unless that is [`Waited::Done`].
    pub(crate) fn wait_idle(&self, mut sleep: impl FnMut(&Event) -> Waited) -> Result<(), Waited> {
        self.state.wait_idle(|| sleep(&self.changed))
    }

    /// Says that the descriptor is closed and `session` of `era` is to be flushed. Returns whether
    /// that may be done now; otherwise the last user sees to it, and is its owner until then.
    pub(crate) fn close(&self, session: u16, era: u32) -> bool {
        self.state.close(session, era)
    }
}

/// Stands for one command that uses a session.
pub(crate) struct Token {
    users: Arc<Users>,
    era: u32,
}

impl Token {
    /// Returns the era of the session.
    pub(crate) fn era(&self) -> u32 {
        self.era
    }
}

impl Drop for Token {
    /// May be called in any context.
    fn drop(&mut self) {
        let users = &self.users;
        let flush = |session, era| {
            users.orphans.add(session, era);
            users.orphans.sessions().lose_owner(session, era);
        };
        users.state.leave(flush, || users.changed.signal());
    }
}

// Documentation/abi.rst 3.2 and 4.3.
#[kunit_tests(azihsm_session)]
mod tests {
    use super::*;
    use crate::sys::gate::Gate;

    const MINE: Session = Session {
        id: 3,
        app: Some(9),
    };

    const RECORDS: [Record; 4] = [
        Record::Empty,
        Record::Opening,
        Record::Open(MINE),
        Record::Closing(MINE),
    ];

    const FLOWS: [Flow; 4] = [Flow::None, Flow::Open, Flow::Close, Flow::InSession];

    const NOTHING: Report = Report {
        flow: Flow::None,
        id: None,
        app: None,
        closed: false,
    };

    #[test]
    fn flows_are_the_low_bits() {
        for flags in 0..=u8::MAX {
            let flow = match flags % 4 {
                0 => Flow::None,
                1 => Flow::Open,
                2 => Flow::Close,
                _ => Flow::InSession,
            };
            assert_eq!(Flow::of(flags), flow);
            assert_eq!(flow as u8, flags % 4);
        }
    }

    #[test]
    fn commands_are_admitted_by_what_the_descriptor_has() {
        use Record::{
            Closing,
            Empty,
            Open,
            Opening, //
        };
        // What it has, the flow and the ID of the command; the extended status, what it has then.
        let cases = [
            (Empty, Flow::None, None, Ok(()), Empty),
            (Empty, Flow::Open, None, Ok(()), Opening),
            (Empty, Flow::Open, Some(3), Ok(()), Opening),
            (Empty, Flow::Close, Some(3), Err(12), Empty),
            (Empty, Flow::Close, None, Err(12), Empty),
            (Empty, Flow::InSession, Some(3), Err(12), Empty),
            (Opening, Flow::None, None, Ok(()), Opening),
            (Opening, Flow::Open, None, Err(11), Opening),
            (Opening, Flow::Close, Some(3), Err(12), Opening),
            (Opening, Flow::InSession, Some(3), Err(12), Opening),
            (Open(MINE), Flow::None, Some(4), Ok(()), Open(MINE)),
            (Open(MINE), Flow::Open, None, Err(11), Open(MINE)),
            (Open(MINE), Flow::Close, Some(3), Ok(()), Closing(MINE)),
            (Open(MINE), Flow::Close, Some(4), Err(14), Open(MINE)),
            (Open(MINE), Flow::Close, Some(0x0103), Err(14), Open(MINE)),
            (Open(MINE), Flow::Close, None, Err(14), Open(MINE)),
            (Open(MINE), Flow::InSession, Some(3), Ok(()), Open(MINE)),
            (Open(MINE), Flow::InSession, Some(4), Err(14), Open(MINE)),
            (Open(MINE), Flow::InSession, None, Err(14), Open(MINE)),
            (Closing(MINE), Flow::None, None, Ok(()), Closing(MINE)),
            (Closing(MINE), Flow::Open, None, Err(11), Closing(MINE)),
            (Closing(MINE), Flow::Close, Some(3), Err(12), Closing(MINE)),
            (
                Closing(MINE),
                Flow::InSession,
                Some(3),
                Err(12),
                Closing(MINE),
            ),
        ];
        for (before, flow, id, result, after) in cases {
            let mut record = before;
            assert_eq!(record.admit(flow, id), result);
            assert_eq!(record, after);
        }
    }

    #[test]
    fn an_open_is_recorded_as_the_device_says() {
        let opened = Report {
            flow: Flow::Open,
            id: Some(5),
            app: Some(7),
            closed: false,
        };
        let session = |app| Record::Open(Session { id: 5, app });
        let cases = [
            (0, opened, session(Some(7))),
            (
                0,
                Report {
                    app: None,
                    ..opened
                },
                session(None),
            ),
            // Closed says nothing of one that was opened.
            (
                0,
                Report {
                    closed: true,
                    ..opened
                },
                session(Some(7)),
            ),
            (0, Report { id: None, ..opened }, Record::Empty),
            (0, NOTHING, Record::Empty),
            (
                0,
                Report {
                    flow: Flow::InSession,
                    ..opened
                },
                Record::Empty,
            ),
            (
                0,
                Report {
                    flow: Flow::Close,
                    ..opened
                },
                Record::Empty,
            ),
            (
                0,
                Report {
                    flow: Flow::None,
                    ..opened
                },
                Record::Empty,
            ),
            (1, opened, Record::Empty),
            (0x7ff, opened, Record::Empty),
        ];
        for (status, report, after) in cases {
            let mut record = Record::Opening;
            record.completed(Flow::Open, status, &report);
            assert_eq!(record, after);
        }
    }

    #[test]
    fn a_close_is_recorded_as_the_device_says() {
        let closed = Report {
            flow: Flow::Close,
            id: Some(3),
            app: None,
            closed: true,
        };
        let open = Record::Open(MINE);
        let cases = [
            (0, closed, Record::Empty),
            // Any status (4.3).
            (7, closed, Record::Empty),
            (
                0,
                Report {
                    closed: false,
                    ..closed
                },
                open,
            ),
            (0, Report { id: None, ..closed }, open),
            (
                0,
                Report {
                    id: Some(4),
                    ..closed
                },
                open,
            ),
            (
                0,
                Report {
                    flow: Flow::InSession,
                    ..closed
                },
                open,
            ),
            (
                0,
                Report {
                    flow: Flow::None,
                    ..closed
                },
                open,
            ),
            (
                0,
                Report {
                    flow: Flow::Open,
                    ..closed
                },
                open,
            ),
            (7, NOTHING, open),
        ];
        for (status, report, after) in cases {
            let mut record = Record::Closing(MINE);
            record.completed(Flow::Close, status, &report);
            assert_eq!(record, after);
        }
    }

    #[test]
    fn other_commands_change_nothing() {
        for before in RECORDS {
            for flow in [Flow::None, Flow::InSession] {
                for told in FLOWS {
                    let report = Report {
                        flow: told,
                        id: Some(3),
                        app: Some(1),
                        closed: true,
                    };
                    let mut record = before;
                    record.completed(flow, 0, &report);
                    record.not_sent(flow);
                    assert!(!record.lost(flow, true));
                    assert_eq!(record, before);
                }
            }
        }
    }

    #[test]
    fn what_was_not_sent_changes_nothing() {
        let cases = [
            (Flow::Open, None, Record::Empty),
            (Flow::Close, Some(3), Record::Open(MINE)),
            (Flow::InSession, Some(3), Record::Open(MINE)),
        ];
        for (flow, id, before) in cases {
            let mut record = before;
            assert_eq!(record.admit(flow, id), Ok(()));
            record.not_sent(flow);
            assert_eq!(record, before);
        }
    }

    // 4.3: a close that fails with ABORTED empties the place.
    #[test]
    fn what_was_lost_leaves_nothing() {
        // The flow, whether it has ended; whether the device may have a session of nobody.
        let cases = [
            (Flow::Open, None, Record::Empty, false, false),
            (Flow::Open, None, Record::Empty, true, true),
            (Flow::Close, Some(3), Record::Open(MINE), false, true),
            (Flow::Close, Some(3), Record::Open(MINE), true, true),
        ];
        for (flow, id, before, ended, unsure) in cases {
            let mut record = before;
            assert_eq!(record.admit(flow, id), Ok(()));
            assert_eq!(record.lost(flow, ended), unsure);
            assert_eq!(record, Record::Empty);
        }
    }

    // Documentation/device.rst 5.5 and 5.6.
    #[test]
    fn who_nobody_waits_for_leaves_what_the_device_says() {
        use Left::{
            Nothing,
            Session,
            Unknown, //
        };
        use Purpose::{
            Close,
            Flush,
            Open,
            Other, //
        };
        let opened = Report {
            flow: Flow::Open,
            id: Some(5),
            app: Some(7),
            closed: false,
        };
        let closed = Report {
            flow: Flow::Close,
            id: Some(3),
            app: None,
            closed: true,
        };
        let left_open = Report {
            closed: false,
            ..closed
        };
        // What it was to do, the status and the report; what is left.
        let cases = [
            (Other, 0, NOTHING, Nothing),
            (Other, 1, NOTHING, Nothing),
            (Open, 0, opened, Session(5)),
            (Open, 0, Report { id: None, ..opened }, Nothing),
            (Open, 1, opened, Nothing),
            (Open, 0, NOTHING, Nothing),
            // One that nobody has asked for.
            (Other, 0, opened, Session(5)),
            (Other, 0, left_open, Session(3)),
            (Other, 1, left_open, Nothing),
            (Other, 0, closed, Nothing),
            (Close(3), 0, closed, Nothing),
            (Close(3), 7, closed, Nothing),
            (Close(4), 0, closed, Session(4)),
            (Close(3), 0, left_open, Session(3)),
            (Close(3), 7, left_open, Session(3)),
            (Close(3), 0, NOTHING, Session(3)),
            (Close(3), 0, opened, Session(3)),
            (Flush(3), 0, closed, Nothing),
            (Flush(3), 0, left_open, Session(3)),
            // Which one the device says does not matter.
            (Flush(4), 0, left_open, Session(4)),
            (Flush(3), 0, NOTHING, Nothing),
            (Flush(3), 1, closed, Unknown),
            (Flush(3), 1, left_open, Unknown),
            (Flush(3), 0x7ff, NOTHING, Unknown),
        ];
        for (purpose, status, report, left) in cases {
            assert_eq!(purpose.leaves(status, &report), left);
        }
        // What it was to do; what is left if the device does not say.
        let cases = [
            (Other, Nothing),
            (Open, Unknown),
            (Close(3), Unknown),
            (Flush(3), Unknown),
        ];
        for (purpose, left) in cases {
            assert_eq!(purpose.leaves_unanswered(), left);
        }
    }

    #[test]
    fn a_session_is_used_while_it_is_open() {
        let cases = [
            (Record::Empty, None, None),
            (Record::Opening, None, None),
            (Record::Open(MINE), Some(3), Some(MINE)),
            (Record::Closing(MINE), Some(3), None),
        ];
        for (record, id, session) in cases {
            assert_eq!(record.id(), id);
            assert_eq!(record.session(), session);
        }
        assert_eq!(Record::default(), Record::Empty);
    }

    // Documentation/device.rst 5.5: what makes an orphan of a command that nobody waited for.
    #[test]
    fn a_close_that_failed_leaves_the_session() {
        let failed = Report {
            flow: Flow::Close,
            id: Some(3),
            app: None,
            closed: false,
        };
        let cases = [
            (0, failed, Some(3)),
            (1, failed, None),
            (
                0,
                Report {
                    closed: true,
                    ..failed
                },
                None,
            ),
            (0, Report { id: None, ..failed }, None),
            (
                0,
                Report {
                    flow: Flow::Open,
                    ..failed
                },
                None,
            ),
            (0, NOTHING, None),
        ];
        for (status, report, left) in cases {
            assert_eq!(report.left_open(status), left);
        }
    }

    /// The users of a session whose device is not there.
    fn users() -> Result<(Arc<Users>, Arc<Orphans>)> {
        let orphans = Orphans::new(Gate::new()?)?;
        Ok((Users::new(orphans.clone())?, orphans))
    }

    #[test]
    fn a_close_waits_for_the_users() -> Result {
        let (users, orphans) = users()?;
        let era = orphans.sessions().era();
        let idle = |answer| users.wait_idle(|_| answer);
        // Nobody is asked to sleep.
        assert_eq!(idle(Waited::Killed), Ok(()));
        let first = users.token(era);
        let second = users.token(era);
        assert_eq!(idle(Waited::Killed), Err(Waited::Killed));
        drop(first);
        assert_eq!(idle(Waited::TimedOut), Err(Waited::TimedOut));

        // The last one leaves while somebody waits, and says so.
        let mut second = Some(second);
        let mut slept = 0;
        let result = users.wait_idle(|changed| {
            slept += 1;
            drop(second.take());
            changed.wait(1)
        });
        assert_eq!(result, Ok(()));
        assert_eq!(slept, 1);
        Ok(())
    }

    #[test]
    fn the_last_user_of_a_closed_descriptor_leaves_the_session() -> Result {
        let (users, orphans) = users()?;
        let era = orphans.sessions().era();
        orphans.sessions().gain_owner(3, era);
        let first = users.token(era);
        let second = users.token(era);
        assert!(!users.close(3, era));
        drop(first);
        assert!(orphans.sessions().is_owned(3));
        assert_eq!(orphans.sessions().take(3), None);
        drop(second);
        assert!(!orphans.sessions().is_owned(3));
        // The work finds no device, so that nobody else takes it.
        assert_eq!(orphans.sessions().take(3), Some(era));
        orphans.stop();
        Ok(())
    }

    #[test]
    fn without_users_a_session_is_flushed_at_once() -> Result {
        for session in [0, 3, u16::MAX] {
            let (users, orphans) = users()?;
            let era = orphans.sessions().era();
            drop(users.token(era));
            assert!(users.close(session, era));
            assert!(orphans.sessions().is_empty());
        }
        Ok(())
    }
}
