// SPDX-License-Identifier: GPL-2.0

//! Entries of HSM queues.
//!
//! Documentation/device.rst 5.

use core::mem::{
    offset_of,
    size_of, //
};

use super::{
    facade::{
        static_assert,
        DmaAddress,
        FromBytes,
        Immutable,
        IntoBytes,
        SZ_4K, //
    },
    sgl::dwords, //
};

/// A submission queue entry (5.1). Addresses are not aligned to their size.
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Sqe {
    /// Opcode, command set and PSDT.
    command: u16,
    cid: u16,
    src_len: u32,
    src_prp1: [u32; 2],
    src_prp2: [u32; 2],
    dst_len: u32,
    dst_prp1: [u32; 2],
    dst_prp2: [u32; 2],
    session_flags: u8,
    reserved0: [u8; 3],
    session_id: u16,
    reserved1: [u8; 14],
}
static_assert!(size_of::<Sqe>() == 64);
static_assert!(offset_of!(Sqe, dst_prp1) == 28);
static_assert!(offset_of!(Sqe, session_flags) == 44);
static_assert!(offset_of!(Sqe, session_id) == 48);

impl Sqe {
    /// Puts the command identifier in.
    pub(crate) fn set_cid(&mut self, cid: u16) {
        self.cid = cid.to_le();
    }
}

/// Opcode of a command that closes a session, whoever has it (5.6).
const OPCODE_FLUSH_SESSION: u16 = 1;

/// Session flags, of either kind of entry.
const SESSION_ID_VALID: u8 = 1 << 2;
const APP_ID_VALID: u8 = 1 << 3;
const SESSION_CLOSED: u8 = 1 << 4;

/// What a command means for the session of its descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Flow {
    None = 0,
    Open = 1,
    Close = 2,
    InSession = 3,
}

impl Flow {
    /// Returns the flow in the low bits of session flags.
    pub(crate) fn of(flags: u8) -> Self {
        match flags & 3 {
            1 => Flow::Open,
            2 => Flow::Close,
            3 => Flow::InSession,
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

    /// Returns the session that a command has closed, if it has.
    pub(crate) fn closed(&self) -> Option<u16> {
        match self {
            Self {
                flow: Flow::Close,
                id,
                closed: true,
                ..
            } => *id,
            _ => None,
        }
    }

    /// Returns whether a command has closed the session `id`.
    pub(crate) fn has_closed(&self, id: u16) -> bool {
        self.closed() == Some(id)
    }

    /// Returns the session that a command should have closed but has not.
    pub(crate) fn left_open(&self, status: u16) -> Option<u16> {
        match self {
            Self {
                flow: Flow::Close,
                id,
                closed: false,
                ..
            } if status == 0 => *id,
            _ => None,
        }
    }
}

/// The status in the last word of a completion queue entry (5.2).
const STATUS_SHIFT: u32 = 49;
const STATUS: u64 = 0x7ff;

/// A completion queue entry (5.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Completion {
    /// Bytes of the response, as the device says.
    pub(crate) len: u16,
    /// Status, 11 bits (5.8).
    pub(crate) status: u16,
    /// What became of the session.
    pub(crate) report: Report,
}

impl From<&[u64; 2]> for Completion {
    fn from(words: &[u64; 2]) -> Self {
        // CAST: Each takes the bits that the field has.
        let flags = (words[0] >> 16) as u8;
        let id = (words[0] >> 32) as u16;
        let app = (words[0] >> 48) as u8;
        Self {
            len: words[0] as u16,
            status: status(words),
            report: Report {
                flow: Flow::of(flags),
                id: (flags & SESSION_ID_VALID != 0).then_some(id),
                app: (flags & APP_ID_VALID != 0).then_some(app),
                closed: flags & SESSION_CLOSED != 0,
            },
        }
    }
}

/// Returns the command identifier of a completion queue entry.
pub(crate) fn cid(words: &[u64; 2]) -> u16 {
    // CAST: Takes the bits that the field has.
    (words[1] >> 32) as u16
}

/// Returns the status of a completion queue entry, 0 if it has none.
pub(crate) fn status(words: &[u64; 2]) -> u16 {
    // CAST: Takes the bits that the field has.
    (words[1] >> STATUS_SHIFT & STATUS) as u16
}

/// What a HSM command says of itself, besides its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) opcode: u16,
    /// Bytes of the request.
    pub(crate) src_len: u32,
    /// Room for the response in bytes.
    pub(crate) dst_len: u32,
    pub(crate) flow: Flow,
    /// Session identifier, which is sent in any case.
    pub(crate) id: u16,
    /// Whether the session identifier is one.
    pub(crate) id_valid: bool,
}

impl Header {
    /// That of a command that flushes the session `id`, with no request and no room for a response
    /// (5.6).
    pub(crate) fn flush(id: u16) -> Self {
        Self {
            opcode: OPCODE_FLUSH_SESSION,
            src_len: 0,
            dst_len: 0,
            flow: Flow::Close,
            id,
            id_valid: true,
        }
    }

    /// Makes the submission queue entry. The request is at `request` and the response goes to
    /// `response`, each in as many pages as it needs, one behind the other.
    pub(crate) fn sqe(&self, request: DmaAddress, response: DmaAddress) -> Sqe {
        // CAST: Widening.
        let second_page = |first: u64, len: u32| match len as usize {
            ..=SZ_4K => [0; 2],
            _ => dwords(first + SZ_4K as u64),
        };
        let src_prp1 = match self.src_len {
            0 => [0; 2],
            _ => dwords(request),
        };

        // CAST: The discriminants are those of the field.
        let mut session_flags = self.flow as u8;
        if self.id_valid {
            session_flags |= SESSION_ID_VALID;
        }
        // The device writes to the first page of the response whatever `dst_len` is (5.4, 5.6).
        Sqe {
            command: self.opcode.to_le(),
            src_len: self.src_len.to_le(),
            src_prp1,
            src_prp2: second_page(request, self.src_len),
            dst_len: self.dst_len.to_le(),
            dst_prp1: dwords(response),
            dst_prp2: second_page(response, self.dst_len),
            session_flags,
            session_id: self.id.to_le(),
            ..Sqe::default()
        }
    }
}
