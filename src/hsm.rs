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
    uaccess::UserSliceReader, //
};
use zerocopy_derive::Immutable;

use crate::{
    orphans::Orphans,
    queue::{
        Class,
        Lost,
        Owned, //
    },
    session::{
        Flow,
        Report, //
    },
    slot::CqeWords,
    sys::impl_wire,
    tags::Patience, //
};

/// The HSM queues.
pub(crate) struct Hsm;

impl Class for Hsm {
    type Sqe = Sqe;
    type Context = Arc<Orphans>;

    const CQE_WORDS: usize = 2;
    // Two pages for the request, two for the response.
    const SLOT_BYTES: usize = 4 * SZ_4K;

    fn set_cid(sqe: &mut Sqe, cid: u16) {
        sqe.cid = cid.to_le();
    }

    fn cid(cqe: &CqeWords) -> u16 {
        // CAST: Takes the bits that the field has.
        (cqe[1] >> 32) as u16
    }

    fn orphaned(orphans: &Arc<Orphans>, cqe: &CqeWords) {
        let completion = Completion::from(cqe);
        if let Some(session) = completion.report.opened(completion.status) {
            orphans.add(session.id);
        }
    }
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
impl_wire!(Sqe);
static_assert!(size_of::<Sqe>() == 64);
static_assert!(offset_of!(Sqe, dst_prp1) == 28);
static_assert!(offset_of!(Sqe, session_flags) == 44);
static_assert!(offset_of!(Sqe, session_id) == 48);

const OPCODE_FLUSH_SESSION: u16 = 1;

/// Session flags, of either kind of entry.
const SESSION_ID_VALID: u8 = 1 << 2;
const APP_ID_VALID: u8 = 1 << 3;
const SESSION_CLOSED: u8 = 1 << 4;

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

impl From<&CqeWords> for Completion {
    fn from(words: &CqeWords) -> Self {
        const STATUS: u64 = 0x7ff;

        // CAST: Each takes the bits that the field has.
        let flags = (words[0] >> 16) as u8;
        let id = (words[0] >> 32) as u16;
        let app = (words[0] >> 48) as u8;
        Self {
            len: words[0] as u16,
            status: (words[1] >> 49 & STATUS) as u16,
            report: Report {
                flow: Flow::of(flags),
                id: (flags & SESSION_ID_VALID != 0).then_some(id),
                app: (flags & APP_ID_VALID != 0).then_some(app),
                closed: flags & SESSION_CLOSED != 0,
            },
        }
    }
}

/// Splits an address into the dwords of an entry.
fn dwords(address: u64) -> [u32; 2] {
    // CAST: Takes half of the bits each.
    [(address as u32).to_le(), ((address >> 32) as u32).to_le()]
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
    pub(crate) fn fill(&mut self, request: &mut UserSliceReader, len: usize) -> Result {
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
        self,
        opcode: u16,
        src_len: u32,
        dst_len: u32,
        flow: Flow,
        session: Option<u16>,
        patience: Patience,
    ) -> Result<(Self, Completion), Lost> {
        let request = self.owned.buffer().dma_address();
        // CAST: Widening.
        let response = request + Owned::<'_, Hsm>::RESPONSE as u64;
        let second_page = |first: u64, len: u32| match len as usize {
            ..=SZ_4K => [0; 2],
            // CAST: Widening.
            _ => dwords(first + SZ_4K as u64),
        };

        // The device writes to the first page of the response whatever `dst_len` is (5.4, 5.6).
        let sqe = Sqe {
            command: opcode.to_le(),
            src_len: src_len.to_le(),
            src_prp1: if src_len == 0 {
                [0; 2]
            } else {
                dwords(request)
            },
            src_prp2: second_page(request, src_len),
            dst_len: dst_len.to_le(),
            dst_prp1: dwords(response),
            dst_prp2: second_page(response, dst_len),
            // CAST: The discriminants are those of the field.
            session_flags: flow as u8
                | if session.is_some() {
                    SESSION_ID_VALID
                } else {
                    0
                },
            session_id: session.unwrap_or(0).to_le(),
            ..Sqe::default()
        };
        let (mut owned, cqe) = self.owned.run(sqe, patience)?;
        let completion = Completion::from(&cqe);

        // After an error nothing is known of what the device wrote.
        owned.soil_response(match completion.status {
            0 => usize::from(completion.len),
            _ => SZ_4K,
        });
        Ok((Self { owned }, completion))
    }

    /// Flushes the session `id`: the device closes it, if there is one (5.6).
    ///
    /// # Errors
    ///
    /// See [`Lost`].
    pub(crate) fn flush(self, id: u16, patience: Patience) -> Result<Completion, Lost> {
        let (_, completion) =
            self.run(OPCODE_FLUSH_SESSION, 0, 0, Flow::Close, Some(id), patience)?;
        Ok(completion)
    }

    /// Copies the first `len` bytes of the response to user memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be written, `EINVAL` if there are not as many.
    pub(crate) fn copy_response(
        &self,
        to: &mut kernel::uaccess::UserSliceWriter,
        len: usize,
    ) -> Result {
        if len > Owned::<'_, Hsm>::RESPONSE {
            return Err(EINVAL);
        }
        self.owned
            .buffer()
            .copy_to_user(Owned::<'_, Hsm>::RESPONSE, to, len)
    }
}
