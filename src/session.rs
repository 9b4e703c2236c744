// SPDX-License-Identifier: GPL-2.0

//! The session of a descriptor.
//!
//! Documentation/abi.rst 4 and Documentation/device.rst 5.5.

use kernel::prelude::*;

use crate::uapi;

/// What a command means for the session of its descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Flow {
    None = uapi::FLOW_NONE,
    Open = uapi::FLOW_OPEN,
    Close = uapi::FLOW_CLOSE,
    InSession = uapi::FLOW_IN_SESSION,
}

impl Flow {
    /// Returns the flow in the low bits of session flags.
    pub(crate) fn of(flags: u8) -> Self {
        match flags & uapi::FLOW_MASK {
            uapi::FLOW_OPEN => Flow::Open,
            uapi::FLOW_CLOSE => Flow::Close,
            uapi::FLOW_IN_SESSION => Flow::InSession,
            _ => Flow::None,
        }
    }
}

/// A session that the device gave to a descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Session {
    pub(crate) id: u16,
    /// Short application identifier, for AES commands.
    pub(crate) app: Option<u8>,
}

/// What a completed command says of sessions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Report {
    pub(crate) flow: Flow,
    pub(crate) id: Option<u16>,
    pub(crate) app: Option<u8>,
    pub(crate) closed: bool,
}

impl Report {
    /// Returns the session that a command has opened, if it has.
    pub(crate) fn opened(&self, status: u16) -> Option<Session> {
        match self {
            Self {
                flow: Flow::Open,
                id: Some(id),
                app,
                ..
            } if status == 0 => Some(Session { id: *id, app: *app }),
            _ => None,
        }
    }
}

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
}

impl Record {
    /// Checks that a command may be sent now, and reserves the record if it opens a session.
    ///
    /// Whoever gets `Ok` for [`Flow::Open`] must call either [`Self::completed`] or
    /// [`Self::withdrawn`].
    ///
    /// # Errors
    ///
    /// The extended status (abi.rst 3.2).
    pub(crate) fn admit(&mut self, flow: Flow, id: Option<u16>) -> Result<(), u32> {
        match (flow, *self) {
            (Flow::None, _) => Ok(()),
            (Flow::Open, Record::Empty) => {
                *self = Record::Opening;
                Ok(())
            }
            (Flow::Open, _) => Err(uapi::EXT_HSM_SESSION_LIMIT),
            (Flow::Close | Flow::InSession, Record::Open(session)) => {
                if id == Some(session.id) {
                    Ok(())
                } else {
                    Err(uapi::EXT_HSM_SESSION_MISMATCH)
                }
            }
            (Flow::Close | Flow::InSession, _) => Err(uapi::EXT_HSM_NO_SESSION),
        }
    }

    /// Takes note of a command that was admitted and has completed.
    pub(crate) fn completed(&mut self, flow: Flow, id: Option<u16>, status: u16, report: &Report) {
        match (flow, *self) {
            (Flow::Open, _) => {
                *self = match report.opened(status) {
                    Some(session) => Record::Open(session),
                    None => Record::Empty,
                };
            }
            (Flow::Close, Record::Open(session)) => {
                let same_flow = status != 0 || report.flow == Flow::Close;
                if same_flow && report.id.is_some() && report.closed && id == Some(session.id) {
                    *self = Record::Empty;
                }
            }
            _ => {}
        }
    }

    /// Takes note of a command that was admitted and has no completion.
    pub(crate) fn withdrawn(&mut self, flow: Flow) {
        if flow == Flow::Open {
            *self = Record::Empty;
        }
    }

    /// Returns the session.
    pub(crate) fn session(&self) -> Option<Session> {
        match self {
            Record::Open(session) => Some(*session),
            _ => None,
        }
    }
}
