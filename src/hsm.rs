// SPDX-License-Identifier: GPL-2.0

//! HSM commands.
//!
//! Documentation/device.rst 5.

use kernel::{
    device::Device,
    prelude::*,
    sizes::SZ_4K,
    sync::Arc,
    uaccess::UserPtr, //
};

use crate::{
    lockless::pair::ANY_ERA,
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
        Left,
        Purpose,
        Token, //
    },
    sys::trace,
    wire,
    wire::hsm::Sqe, //
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

    fn status(cqe: &[u64; 2]) -> u16 {
        wire::hsm::status(cqe)
    }

    fn trace(dev: &Device, cqe: &[u64; 2]) {
        let Completion { status, report, .. } = Completion::from(cqe);
        if let Some(session) = report.opened(status) {
            trace::session_open(dev, session.id);
        }
        if let Some(id) = report.closed() {
            trace::session_close(dev, id);
        }
    }

    fn era(held: &Held) -> u32 {
        match held {
            Held::Nothing => ANY_ERA,
            Held::User(token) => token.era(),
            Held::Opening(opening) => opening.era(),
            Held::Closing(closing) | Held::Flushing(closing, _) => closing.era(),
        }
    }

    fn bytes_of(_: &Held) -> usize {
        0
    }

    fn orphaned(orphans: &Arc<Orphans>, cqe: Option<&[u64; 2]>, held: Held) {
        let purpose = match &held {
            Held::Nothing | Held::User(_) => Purpose::Other,
            Held::Opening(_) => Purpose::Open,
            Held::Closing(closing) => Purpose::Close(closing.id()),
            Held::Flushing(closing, _) => Purpose::Flush(closing.id()),
        };
        let left = match cqe.map(Completion::from) {
            Some(Completion { status, report, .. }) => purpose.leaves(status, &report),
            None => purpose.leaves_unanswered(),
        };
        if let Left::Session(id) = left {
            let era = match Self::era(&held) {
                // A device may say that it has opened one for a command that did not ask for it.
                ANY_ERA => orphans.sessions().era(),
                era => era,
            };
            orphans.add(id, era);
        }
        // Not before: until it is noted the session must not be taken for nobody's.
        drop(held);
        // Not before: who flushes what nobody has forgets this first, and leaves out what has an
        // owner then.
        if left == Left::Unknown {
            orphans.sessions().set_unsure();
        }
    }
}

/// What goes with a HSM command for as long as the device has it.
pub(crate) enum Held {
    /// Nothing.
    Nothing,
    /// The session that it uses.
    User(Token),
    /// It opens a session.
    Opening(Opening),
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
        let header = Header::flush(closing.id());
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

// Documentation/device.rst 5.
#[kunit_tests(azihsm_hsm)]
mod tests {
    use super::*;
    use crate::{
        session::{
            Flow,
            Report, //
        },
        wire::by_hand::{
            bytes,
            words, //
        },
    };

    const REQUEST: u64 = 0x0000_0012_3456_7000;
    const RESPONSE: u64 = REQUEST + 0x2000;

    const HEADER: Header = Header {
        opcode: 0,
        src_len: 0x0e00,
        dst_len: 0x1000,
        flow: Flow::None,
        id: 0,
        id_valid: false,
    };

    // Lengths and addresses of a command with one page for each direction.
    const SRC: (usize, &[u8]) = (
        4,
        &[0x00, 0x0e, 0, 0, 0x00, 0x70, 0x56, 0x34, 0x12, 0, 0, 0],
    );
    const DST: (usize, &[u8]) = (
        24,
        &[0x00, 0x10, 0, 0, 0x00, 0x90, 0x56, 0x34, 0x12, 0, 0, 0],
    );

    #[test]
    fn entries_are_laid_out_as_documented() {
        let cases: [(Header, [u8; 64]); 9] = [
            (HEADER, bytes(&[SRC, DST])),
            (
                Header {
                    opcode: 2,
                    ..HEADER
                },
                bytes(&[(0, &[2]), SRC, DST]),
            ),
            (
                Header {
                    flow: Flow::Open,
                    id: 0x0102,
                    ..HEADER
                },
                bytes(&[SRC, DST, (44, &[0x01]), (48, &[0x02, 0x01])]),
            ),
            (
                Header {
                    flow: Flow::Close,
                    id: 7,
                    id_valid: true,
                    ..HEADER
                },
                bytes(&[SRC, DST, (44, &[0x06]), (48, &[7])]),
            ),
            (
                Header {
                    flow: Flow::InSession,
                    id: 7,
                    id_valid: true,
                    ..HEADER
                },
                bytes(&[SRC, DST, (44, &[0x07]), (48, &[7])]),
            ),
            // As much as two pages hold, each way.
            (
                Header {
                    src_len: 8192,
                    dst_len: 8192,
                    ..HEADER
                },
                bytes(&[
                    (4, &[0, 0x20, 0, 0]),
                    (8, &[0x00, 0x70, 0x56, 0x34, 0x12]),
                    (16, &[0x00, 0x80, 0x56, 0x34, 0x12]),
                    (24, &[0, 0x20, 0, 0]),
                    (28, &[0x00, 0x90, 0x56, 0x34, 0x12]),
                    (36, &[0x00, 0xa0, 0x56, 0x34, 0x12]),
                ]),
            ),
            // The second page begins with byte 4096.
            (
                Header {
                    src_len: 4096,
                    dst_len: 4097,
                    ..HEADER
                },
                bytes(&[
                    (4, &[0, 0x10, 0, 0]),
                    (8, &[0x00, 0x70, 0x56, 0x34, 0x12]),
                    (24, &[0x01, 0x10, 0, 0]),
                    (28, &[0x00, 0x90, 0x56, 0x34, 0x12]),
                    (36, &[0x00, 0xa0, 0x56, 0x34, 0x12]),
                ]),
            ),
            // A response may come whatever room there is (5.4, 5.6).
            (
                Header {
                    src_len: 0,
                    dst_len: 0,
                    ..HEADER
                },
                bytes(&[(28, &[0x00, 0x90, 0x56, 0x34, 0x12])]),
            ),
            // 5.6.
            (
                Header::flush(0x0102),
                bytes(&[
                    (0, &[1]),
                    (28, &[0x00, 0x90, 0x56, 0x34, 0x12]),
                    (44, &[0x06]),
                    (48, &[0x02, 0x01]),
                ]),
            ),
        ];
        for (header, bytes) in &cases {
            assert_eq!(header.sqe(REQUEST, RESPONSE).as_bytes(), bytes);
        }
    }

    #[test]
    fn addresses_have_64_bits() {
        let sqe = HEADER.sqe(0xffee_ddcc_bbaa_9000, 0x8877_6655_4433_2000);
        let expected: [u8; 64] = bytes(&[
            (4, &[0x00, 0x0e]),
            (8, &[0x00, 0x90, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]),
            (24, &[0x00, 0x10]),
            (28, &[0x00, 0x20, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]),
        ]);
        assert_eq!(sqe.as_bytes(), expected);
    }

    #[test]
    fn the_command_identifier_has_its_place() {
        let mut sqe = Sqe::default();
        Hsm::set_cid(&mut sqe, 0xbeef);
        let expected: [u8; 64] = bytes(&[(2, &[0xef, 0xbe])]);
        assert_eq!(sqe.as_bytes(), expected);
    }

    #[test]
    fn completions_are_read_as_documented() {
        const NONE: Report = Report {
            flow: Flow::None,
            id: None,
            app: None,
            closed: false,
        };
        // Flags, session, application, status; what is made of them.
        let cases = [
            (0x00, [0, 0], 0, [0, 0], 0, NONE),
            // A new session.
            (
                0x0d,
                [3, 0],
                9,
                [0x01, 0],
                0,
                Report {
                    flow: Flow::Open,
                    id: Some(3),
                    app: Some(9),
                    ..NONE
                },
            ),
            (
                0x05,
                [0x34, 0x12],
                9,
                [0x01, 0],
                0,
                Report {
                    flow: Flow::Open,
                    id: Some(0x1234),
                    ..NONE
                },
            ),
            (
                0x16,
                [3, 0],
                0,
                [0, 0],
                0,
                Report {
                    flow: Flow::Close,
                    id: Some(3),
                    closed: true,
                    ..NONE
                },
            ),
            (
                0x03,
                [3, 0],
                9,
                [0, 0],
                0,
                Report {
                    flow: Flow::InSession,
                    ..NONE
                },
            ),
            // Bits that say nothing.
            (0xe0, [3, 0], 9, [0, 0], 0, NONE),
            // Phase and status.
            (0x00, [0, 0], 0, [0x82, 0x01], 0xc1, NONE),
            (0x00, [0, 0], 0, [0x83, 0x01], 0xc1, NONE),
            (0x00, [0, 0], 0, [0x02, 0x00], 0x01, NONE),
            // [15:12] are not part of it.
            (0x00, [0, 0], 0, [0xff, 0xff], 0x7ff, NONE),
        ];
        for (flags, id, app, status_bytes, status, report) in &cases {
            // What is reserved, or filled in by hardware, is all ones.
            let cqe = words(&[
                (0, &[0x00, 0x0e, *flags, 0xff]),
                (4, id),
                (6, &[*app, 0xff]),
                (8, &[0xff; 4]),
                (12, &[0xef, 0xbe]),
                (14, status_bytes),
            ]);
            let completion = Completion {
                len: 0x0e00,
                status: *status,
                report: *report,
            };
            assert_eq!(Completion::from(&cqe), completion);
            assert_eq!(Hsm::cid(&cqe), 0xbeef);
            assert_eq!(Hsm::status(&cqe), *status);
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_documentation() {
        assert_eq!(MAX_SESSIONS, 8);
        // Two pages each way (abi.rst 6).
        assert_eq!(Hsm::SLOT_BYTES / 2, 8192);
    }
}
