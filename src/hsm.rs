// SPDX-License-Identifier: GPL-2.0

//! HSM commands.
//!
//! Documentation/device.rst 5.

use kernel::{
    prelude::*,
    sizes::SZ_4K,
    sync::Arc,
    uaccess::UserPtr, //
};

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
        Token, //
    },
    wire,
    wire::hsm::{
        Sqe,
        OPCODE_FLUSH_SESSION, //
    }, //
};

pub(crate) use crate::wire::hsm::{
    Completion,
    Header, //
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
        sqe.set_cid(cid);
    }

    fn cid(cqe: &[u64; 2]) -> u16 {
        wire::hsm::cid(cqe)
    }

    fn has_failed(cqe: &[u64; 2]) -> bool {
        wire::hsm::has_failed(cqe)
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

/// Sessions that the device can have, numbered from 0 (5.7).
pub(crate) const MAX_SESSIONS: u16 = 8;

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
        let sqe = header.sqe(request, response);

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
