// SPDX-License-Identifier: GPL-2.0

//! HSM commands.
//!
//! Documentation/device.rst 5.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
    prelude::*,
    sizes::SZ_4K,
    sync::Arc,
    uaccess::UserPtr, //
};
use zerocopy_derive::Immutable;

use crate::{
    orphans::{
        Closing,
        HeldBack,
        Opening,
        Orphans, //
    },
    patience::Patience,
    queue::{
        Class,
        Lost,
        Owned, //
    },
    session::{
        Flow,
        Report,
        Token, //
    },
    sgl::dwords, //
};

/// The HSM queues.
pub(crate) struct Hsm;

impl Class for Hsm {
    type Sqe = Sqe;
    type Cqe = [u64; 2];
    type Token = Held;

    // Two pages for the request, two for the response.
    const SLOT_BYTES: usize = 4 * SZ_4K;

    fn set_cid(sqe: &mut Sqe, cid: u16) {
        sqe.cid = cid.to_le();
    }

    fn cid(cqe: &[u64; 2]) -> u16 {
        // CAST: Takes the bits that the field has.
        (cqe[1] >> 32) as u16
    }

    fn has_failed(cqe: &[u64; 2]) -> bool {
        cqe[1] >> STATUS_SHIFT & STATUS != 0
    }

    fn bytes_of(_: &Held) -> usize {
        0
    }

    fn orphaned(orphans: &Arc<Orphans>, cqe: Option<&[u64; 2]>, held: Held) {
        let orphan = match (cqe.map(Completion::from), &held) {
            (Some(completion), Held::Closing(closing)) => {
                let id = closing.id();
                (!completion.report.has_closed(id)).then_some(id)
            }
            (
                Some(Completion {
                    status: 0, report, ..
                }),
                Held::Flushing(closing, _),
            ) => {
                // Of a session that there is not it says neither.
                report.left_open(0).map(|_| closing.id())
            }
            (Some(_), Held::Flushing(..)) => {
                orphans.set_unsure();
                None
            }
            (Some(Completion { status, report, .. }), _) => report
                .opened(status)
                .map(|session| session.id)
                .or_else(|| report.left_open(status)),
            (None, Held::Nothing | Held::User(_)) => None,
            (None, _) => {
                orphans.set_unsure();
                None
            }
        };
        if let Some(id) = orphan {
            orphans.add(id);
        }
        // Not before: until it is noted the session must not be taken for nobody's.
        drop(held);
    }
}

/// What goes with a HSM command for as long as the device has it.
pub(crate) enum Held {
    /// Nothing.
    Nothing,
    /// The session that it uses.
    User(#[expect(dead_code, reason = "dropping it is what it is for")] Token),
    /// It opens a session.
    Opening(#[expect(dead_code, reason = "dropping it is what it is for")] Opening),
    /// It closes a session of its descriptor.
    Closing(Closing),
    /// It flushes a session that nobody has; if the device may not have it either, no other may be
    /// opened that may get its number.
    Flushing(
        Closing,
        #[expect(dead_code, reason = "dropping it is what it is for")] Option<HeldBack>,
    ),
}

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

/// Sessions that the device can have, numbered from 0 (5.7).
pub(crate) const MAX_SESSIONS: u16 = 8;

const OPCODE_FLUSH_SESSION: u16 = 1;

/// Session flags, of either kind of entry.
const SESSION_ID_VALID: u8 = 1 << 2;
const APP_ID_VALID: u8 = 1 << 3;
const SESSION_CLOSED: u8 = 1 << 4;

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
            status: (words[1] >> STATUS_SHIFT & STATUS) as u16,
            report: Report {
                flow: Flow::of(flags),
                id: (flags & SESSION_ID_VALID != 0).then_some(id),
                app: (flags & APP_ID_VALID != 0).then_some(app),
                closed: flags & SESSION_CLOSED != 0,
            },
        }
    }
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

/// A HSM command that has a slot.
pub(crate) struct Command<'a> {
    owned: Owned<'a, Hsm>,
}

impl<'a> Command<'a> {
    pub(crate) fn new(owned: Owned<'a, Hsm>) -> Self {
        Self { owned }
    }

    /// Copies the request, of `len` bytes, to where the device reads it.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be read, `EINVAL` if it does not fit.
    pub(crate) fn fill(&mut self, request: UserPtr, len: usize) -> Result {
        if len > Owned::<'_, Hsm>::RESPONSE {
            return Err(EINVAL);
        }
        self.owned.soil_request(len);
        self.owned.buffer().copy_from_user(0, request, len)
    }

    /// Sends the command and waits for its completion.
    ///
    /// # Errors
    ///
    /// See [`Lost`].
    pub(crate) fn run(
        mut self,
        header: &Header,
        held: Held,
        patience: Patience,
    ) -> Result<(Self, Completion), Lost> {
        let request = self.owned.buffer().dma_address();
        // CAST: Widening.
        let response = request + Owned::<'_, Hsm>::RESPONSE as u64;
        // CAST: Widening.
        let second_page = |first: u64, len: u32| match len as usize {
            ..=SZ_4K => [0; 2],
            _ => dwords(first + SZ_4K as u64),
        };
        let src_prp1 = match header.src_len {
            0 => [0; 2],
            _ => dwords(request),
        };

        // CAST: The discriminants are those of the field.
        let mut session_flags = header.flow as u8;
        if header.id_valid {
            session_flags |= SESSION_ID_VALID;
        }
        // The device writes to the first page of the response whatever `dst_len` is (5.4, 5.6).
        let sqe = Sqe {
            command: header.opcode.to_le(),
            src_len: header.src_len.to_le(),
            src_prp1,
            src_prp2: second_page(request, header.src_len),
            dst_len: header.dst_len.to_le(),
            dst_prp1: dwords(response),
            dst_prp2: second_page(response, header.dst_len),
            session_flags,
            session_id: header.id.to_le(),
            ..Sqe::default()
        };

        // Unless it says so the device may have written anything.
        self.owned.soil_response(SZ_4K);
        let (mut owned, cqe, _held) = self.owned.run(sqe, held, patience)?;
        let mut completion = Completion::from(&cqe);
        if completion.status == 0 {
            owned.soil_response(usize::from(completion.len));
        } else {
            // There is no response.
            completion.len = 0;
        }
        Ok((Self { owned }, completion))
    }

    /// Flushes a session: the device closes it, if there is one (5.6).
    ///
    /// # Errors
    ///
    /// See [`Lost`].
    pub(crate) fn flush(
        self,
        closing: Closing,
        held_back: Option<HeldBack>,
        patience: Patience,
    ) -> Result<Completion, Lost> {
        let header = Header {
            opcode: OPCODE_FLUSH_SESSION,
            src_len: 0,
            dst_len: 0,
            flow: Flow::Close,
            id: closing.id(),
            id_valid: true,
        };
        let held = Held::Flushing(closing, held_back);
        let (_, completion) = self.run(&header, held, patience)?;
        Ok(completion)
    }

    /// Copies the first `len` bytes of the response to user memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be written, `EINVAL` if there are not as many.
    pub(crate) fn copy_response(&self, to: UserPtr, len: usize) -> Result {
        if len > Owned::<'_, Hsm>::RESPONSE {
            return Err(EINVAL);
        }
        self.owned
            .buffer()
            .copy_to_user(Owned::<'_, Hsm>::RESPONSE, to, len)
    }
}
