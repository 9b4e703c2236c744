// SPDX-License-Identifier: GPL-2.0

//! AES commands.
//!
//! Documentation/device.rst 6. Up to [`MAX_BOUNCED`] bytes of data are copied through the memory of
//! the slot, more through that of [`bounce`](crate::bounce); if that is too little they are accessed
//! by the device in place.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma::{
        DataDirection,
        DmaAddress, //
    },
    prelude::*,
    sizes::{
        SZ_16K,
        SZ_4K, //
    },
    sync::Arc,
    uaccess::UserPtr, //
};

use crate::{
    bounce::{
        Bounced,
        Reserve,
        Side,
        MAX_BUFFERS, //
    },
    orphans::Orphans,
    patience::Patience,
    queue::{
        Class,
        Lost,
        Owned, //
    },
    session::Token,
    sgl::{
        Scattered,
        Sgl, //
    },
    sys::dma::Buffer,
    wire,
    wire::aes::Sqe, //
};

pub(crate) use crate::wire::aes::{
    Caller,
    Completion,
    Request, //
};

/// The AES queues.
pub(crate) struct Aes;

/// Most bytes of data that are copied through a slot. A list with their descriptors stands behind
/// them, in the last page of each half of a slot; those of other data that is copied are there, too.
const MAX_BOUNCED: usize = SZ_16K - SZ_4K;
static_assert!(MAX_BUFFERS * Sgl::BYTES <= SZ_4K);

impl Class for Aes {
    type Sqe = Sqe;
    type Cqe = [u64; 8];
    type Token = Held;

    const SLOT_BYTES: usize = 2 * SZ_16K;

    fn set_cid(sqe: &mut Sqe, cid: u16) {
        sqe.set_cid(cid);
    }

    fn cid(cqe: &[u64; 8]) -> u16 {
        wire::aes::cid(cqe)
    }

    fn status(cqe: &[u64; 8]) -> u16 {
        wire::aes::status(cqe)
    }

    fn era(held: &Held) -> u32 {
        held.session.era()
    }

    fn bytes_of(held: &Held) -> usize {
        held.data.bytes()
    }

    fn orphaned(_: &Arc<Orphans>, _: Option<&[u64; 8]>, _: Held) {}
}

/// "Queue deleted": the command was not executed (6.9).
const STATUS_QUEUE_DELETED: u16 = 7;

/// User memory that the engine reads and writes in place.
pub(crate) struct InPlace {
    src: Scattered,
    dst: Scattered,
}

/// Where the data of a command is.
pub(crate) enum Data {
    /// In the memory of the slot.
    Slot,
    /// In memory that it was copied to, and will be copied from.
    Bounced(Bounced),
    /// Where the user has it, but for the tail, which is in the memory of the slot.
    InPlace(InPlace),
}

impl Data {
    /// Returns how many bytes the device accesses, besides those of the slot.
    fn bytes(&self) -> usize {
        match self {
            Self::Slot => 0,
            Self::Bounced(bounced) => bounced.bytes(),
            Self::InPlace(InPlace { src, dst }) => src.bytes().saturating_add(dst.bytes()),
        }
    }

    /// Notes that the caller is told of the result, which must not be lost. Dropping the data may
    /// take long from then on ([`UserMemory::keep_written`]).
    ///
    /// [`UserMemory::keep_written`]: crate::sys::pin::UserMemory::keep_written
    fn keep_result(&mut self) {
        if let Self::InPlace(InPlace { dst, .. }) = self {
            dst.keep_written();
        }
    }

    /// Copies or pins what `request` needs, if that is too large for a slot.
    ///
    /// # Errors
    ///
    /// Those of [`Scattered::new`], and `EFAULT` if the data cannot be read.
    pub(crate) fn new(
        dev: &Device<Bound>,
        reserve: &Arc<Reserve>,
        request: &Request,
        src: UserPtr,
        dst: UserPtr,
    ) -> Result<Self> {
        // CAST: Widening.
        let len = request.len as usize;
        if len <= MAX_BOUNCED {
            return Ok(Self::Slot);
        }
        if let Some(bounced) = reserve.take(len) {
            bounced.fill(src)?;
            return Ok(Self::Bounced(bounced));
        }
        let len = request.engine_len();
        Ok(Self::InPlace(InPlace {
            src: Scattered::new(dev, src, len, DataDirection::ToDevice)?,
            dst: Scattered::new(dev, dst, len, DataDirection::FromDevice)?,
        }))
    }
}

/// What goes with an AES command for as long as the device has it.
pub(crate) struct Held {
    session: Token,
    data: Data,
}

/// An AES command that has a slot.
pub(crate) struct Command<'a> {
    owned: Owned<'a, Aes>,
    request: Request,
    /// First byte of the data that goes through the memory of the slot; what is before that goes
    /// another way.
    bounced: u32,
}

impl<'a> Command<'a> {
    const RESPONSE: usize = Owned::<'_, Aes>::RESPONSE;

    /// Makes a command, for which `data` has what is accessed in place.
    pub(crate) fn new(owned: Owned<'a, Aes>, request: Request, data: &Data) -> Self {
        let bounced = match data {
            Data::Slot => 0,
            Data::Bounced(_) => request.len,
            Data::InPlace(_) => request.engine_len(),
        };
        Self {
            owned,
            request,
            bounced,
        }
    }

    /// Returns how many bytes go through the memory of the slot.
    fn bounced_len(&self) -> usize {
        // CAST: Widening.
        (self.request.len - self.bounced) as usize
    }

    /// Copies the data, of which the user's is at `src`, to where the device reads it.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be read.
    pub(crate) fn fill(&mut self, src: UserPtr) -> Result {
        let len = self.bounced_len();

        self.owned.soil_request(len);
        // CAST: Widening.
        let src = src.wrapping_byte_add(self.bounced as usize);
        self.owned.buffer().copy_from_user(0, src, len)
    }

    /// Makes the submission queue entry.
    fn sqe(&self, data: &Data) -> Sqe {
        let places = Places {
            slot: self.owned.buffer(),
            request: &self.request,
            bounced: self.bounced,
        };
        places.sqe(data)
    }

    /// Sends the command and waits for its completion. When that has come the device is done with
    /// `data`, which is returned in front of the command: dropping it may take long, and the slot
    /// is to be free before.
    ///
    /// # Errors
    ///
    /// See [`Lost`].
    pub(crate) fn run(
        mut self,
        session: Token,
        data: Data,
        patience: Patience,
    ) -> Result<(Data, Completion, Self), Lost> {
        let sqe = self.sqe(&data);
        let held = Held { session, data };

        // Even a failed command may have written (6.6.4).
        self.owned.soil_response(self.bounced_len());
        let (owned, cqe, mut held) = self.owned.run(sqe, held, patience)?;
        let completion = Completion::from(&cqe);
        if completion.status == STATUS_QUEUE_DELETED {
            return Err(Lost::Halted);
        }
        held.data.keep_result();
        Ok((held.data, completion, Self { owned, ..self }))
    }

    /// Returns whether a successful completion says that all data was processed.
    pub(crate) fn is_whole(&self, completion: &Completion) -> bool {
        self.request.is_whole(completion)
    }

    /// Copies what the device did not write in place to the user's result at `dst`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be written.
    pub(crate) fn copy_result(&self, data: &Data, dst: UserPtr) -> Result {
        if let Data::Bounced(data) = data {
            return data.copy_result(dst);
        }
        // CAST: Widening.
        let dst = dst.wrapping_byte_add(self.bounced as usize);
        self.owned
            .buffer()
            .copy_to_user(Self::RESPONSE, dst, self.bounced_len())
    }
}

/// Where the data of a command that has a slot is, as its entry tells.
struct Places<'a> {
    slot: &'a Buffer,
    request: &'a Request,
    /// See [`Command`].
    bounced: u32,
}

impl Places<'_> {
    /// Writes the list of the half at `half`, which describes `parts`, and returns the descriptor
    /// for the list.
    fn list(&self, half: usize, parts: impl Iterator<Item = (DmaAddress, usize)>) -> Result<Sgl> {
        let start = half + MAX_BOUNCED;
        let mut count = 0;
        for (address, len) in parts {
            // CAST: Much less than that.
            let part = Sgl::data(address, len as u32);
            self.slot
                .write(start + count * Sgl::BYTES, part.as_bytes())?;
            count += 1;
        }
        // CAST: Widening.
        let address = self.slot.dma_address() + start as u64;
        Ok(Sgl::segment(address, count))
    }

    /// Returns the bus addresses of what stands at `offset` of the data, on both sides.
    fn addresses(&self, data: &Data, offset: u32) -> Option<[DmaAddress; 2]> {
        if let Data::Bounced(data) = data {
            // CAST: Widening.
            let offset = offset as usize;
            return Some([
                data.address(Side::Source, offset)?,
                data.address(Side::Destination, offset)?,
            ]);
        }
        let src = self.slot.dma_address() + u64::from(offset - self.bounced);
        // CAST: Widening.
        Some([src, src + Command::RESPONSE as u64])
    }

    /// Describes what goes through the engine, on both sides.
    fn lists(&self, data: &Data) -> Result<[Sgl; 2]> {
        let len = self.request.engine_len();
        // CAST: Widening.
        let bytes = len as usize;
        match data {
            _ if len == 0 => Ok([Sgl::default(); 2]),
            Data::Slot => {
                let [src, dst] = self.addresses(data, 0).ok_or(EINVAL)?;
                Ok([
                    self.list(0, core::iter::once((src, bytes)))?,
                    self.list(Command::RESPONSE, core::iter::once((dst, bytes)))?,
                ])
            }
            Data::Bounced(data) => Ok([
                self.list(0, data.addresses(Side::Source, bytes))?,
                self.list(Command::RESPONSE, data.addresses(Side::Destination, bytes))?,
            ]),
            Data::InPlace(data) => Ok([data.src.list(), data.dst.list()]),
        }
    }

    /// Makes the submission queue entry.
    fn sqe(&self, data: &Data) -> Sqe {
        // Neither fails: a list has its place at the end of each half, and the tail is part of the
        // data. It stands behind the rest on both sides; a buffer does not end within it.
        let lists = self.lists(data).unwrap_or_default();
        let tail = match self.request.tail_len() {
            0 => [0; 2],
            _ => self
                .addresses(data, self.request.engine_len())
                .unwrap_or_default(),
        };
        self.request.sqe(lists, tail)
    }
}

// Documentation/device.rst 6.
#[kunit_tests(azihsm_aes)]
mod tests {
    use super::*;
    use crate::{
        sys::dma::Nobody,
        wire::{
            aes::Cipher,
            by_hand::{
                bytes,
                words, //
            },
        }, //
    };

    const GCM: Cipher = Cipher::Gcm {
        key: 0x0403_0201,
        tag: [0x77; 16],
        iv: [0x69; 12],
        aad_len: 0x21,
        aad_padded_len: 0x40,
        tail: true,
    };

    const GCM_WITHOUT_TAIL: Cipher = Cipher::Gcm {
        key: 0x0403_0201,
        tag: [0x77; 16],
        iv: [0x69; 12],
        aad_len: 0x21,
        aad_padded_len: 0x40,
        tail: false,
    };

    const XTS: Cipher = Cipher::Xts {
        data_key: 0x0403_0201,
        tweak_key: 0x0807_0605,
        tweak: [0x74; 16],
        data_unit: 2,
    };

    fn request(cipher: Cipher, decrypt: bool, len: u32) -> Request {
        Request {
            decrypt,
            caller: Caller {
                session: 0x0205,
                app: 0x0a,
            },
            cipher,
            len,
        }
    }

    const LIST_BYTES: [&[u8]; 2] = [
        &[
            0x00, 0x30, 0x22, 0x11, 0x44, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0x30,
        ],
        &[
            0x00, 0x70, 0x66, 0x55, 0x88, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0x30,
        ],
    ];

    fn lists() -> [Sgl; 2] {
        [
            Sgl::segment(0x44_1122_3000, 1),
            Sgl::segment(0x88_5566_7000, 2),
        ]
    }

    const TAIL: [u64; 2] = [0x0102_0304_0506_0708, 0x1112_1314_1516_1718];

    #[test]
    fn gcm_entries_are_laid_out_as_documented() {
        let common: [(usize, &[u8]); 7] = [
            (8, &[0x05, 0x02, 0x0a]),
            (28, LIST_BYTES[0]),
            (48, LIST_BYTES[1]),
            (64, &[1]),
            (68, &[0x01, 0x02, 0x03, 0x04, 0x21, 0, 0, 0]),
            (76, &[0x77; 16]),
            (92, &[0x69; 12]),
        ];
        let with = |fields: &[(usize, &[u8])]| -> [u8; 128] {
            let mut all: [u8; 128] = bytes(&common);
            for (to, from) in all.iter_mut().zip(bytes::<128>(fields)) {
                *to |= from;
            }
            all
        };
        let cases: [(Request, [u8; 128]); 4] = [
            // Encryption, with a tail of 5 bytes.
            (
                request(GCM, false, 0x1015),
                with(&[
                    (4, &[0x2c, 0x00]),
                    (24, &[0x10, 0x10, 0, 0]),
                    (44, &[0x10, 0x10, 0, 0]),
                    (104, &[0x40, 0, 0, 0, 5, 5]),
                    (112, &[0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01]),
                    (120, &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]),
                ]),
            ),
            // Decryption of the same.
            (
                request(GCM, true, 0x1015),
                with(&[
                    (4, &[0x2d, 0x00]),
                    (24, &[0x10, 0x10, 0, 0]),
                    (44, &[0x10, 0x10, 0, 0]),
                    (104, &[0x40, 0, 0, 0, 5, 5]),
                    (112, &[0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01]),
                    (120, &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]),
                ]),
            ),
            // Nothing is left for a tail.
            (
                request(GCM, false, 0x1010),
                with(&[
                    (4, &[0x2c, 0x00]),
                    (24, &[0x10, 0x10, 0, 0]),
                    (44, &[0x10, 0x10, 0, 0]),
                    (104, &[0x40, 0, 0, 0]),
                ]),
            ),
            // The device cannot do tails, or was not asked to.
            (
                request(GCM_WITHOUT_TAIL, false, 0x1015),
                with(&[
                    (4, &[0x2c, 0x00]),
                    (24, &[0x15, 0x10, 0, 0]),
                    (44, &[0x15, 0x10, 0, 0]),
                    (104, &[0x40, 0, 0, 0]),
                ]),
            ),
        ];
        for (request, bytes) in &cases {
            assert_eq!(request.sqe(lists(), TAIL).as_bytes(), bytes);
        }
    }

    #[test]
    fn only_a_tail_leaves_lengths_and_lists_0() {
        let sqe = request(GCM, false, 15).sqe([Sgl::default(); 2], TAIL);
        let expected: [u8; 128] = bytes(&[
            (4, &[0x2c, 0x00]),
            (8, &[0x05, 0x02, 0x0a]),
            (64, &[1]),
            (68, &[0x01, 0x02, 0x03, 0x04, 0x21, 0, 0, 0]),
            (76, &[0x77; 16]),
            (92, &[0x69; 12]),
            (104, &[0x40, 0, 0, 0, 15, 15]),
            (112, &[0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01]),
            (120, &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]),
        ]);
        assert_eq!(sqe.as_bytes(), expected);
    }

    #[test]
    fn xts_entries_are_laid_out_as_documented() -> Result {
        let cases: [(u16, bool, [u8; 2]); 6] = [
            (0, false, [0x2c, 0x01]),
            (0, true, [0x2d, 0x01]),
            (1, false, [0x2c, 0x41]),
            (2, false, [0x2c, 0x81]),
            (3, false, [0x2c, 0xc1]),
            (3, true, [0x2d, 0xc1]),
        ];
        for (unit, decrypt, attributes) in cases {
            let Cipher::Xts {
                data_key,
                tweak_key,
                tweak,
                ..
            } = XTS
            else {
                return Err(EINVAL);
            };
            let cipher = Cipher::Xts {
                data_key,
                tweak_key,
                tweak,
                data_unit: unit,
            };
            let sqe = request(cipher, decrypt, 0x0102_0300).sqe(lists(), TAIL);
            let expected: [u8; 128] = bytes(&[
                (4, &attributes),
                (8, &[0x05, 0x02, 0x0a]),
                (24, &[0x00, 0x03, 0x02, 0x01]),
                (28, LIST_BYTES[0]),
                (44, &[0x00, 0x03, 0x02, 0x01]),
                (48, LIST_BYTES[1]),
                (64, &[1]),
                (68, &[0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08]),
                (76, &[0x74; 16]),
            ]);
            assert_eq!(sqe.as_bytes(), expected);
        }
        Ok(())
    }

    #[test]
    fn the_command_identifier_has_its_place() {
        let mut sqe = Sqe::default();
        Aes::set_cid(&mut sqe, 0xbeef);
        let expected: [u8; 128] = bytes(&[(6, &[0xef, 0xbe])]);
        assert_eq!(sqe.as_bytes(), expected);
    }

    #[test]
    fn the_tail_is_what_does_not_fill_a_block() {
        let cases = [
            (GCM, 1, 0, 1),
            (GCM, 15, 0, 15),
            (GCM, 16, 16, 0),
            (GCM, 17, 16, 1),
            (GCM, 0x00ff_ffff, 0x00ff_fff0, 15),
            (GCM, 16 << 20, 16 << 20, 0),
            (GCM_WITHOUT_TAIL, 17, 17, 0),
            (XTS, 17, 17, 0),
        ];
        for (cipher, len, engine, tail) in cases {
            let request = request(cipher, false, len);
            assert_eq!(request.engine_len(), engine);
            assert_eq!(request.tail_len(), tail);
        }
    }

    #[test]
    fn all_must_have_been_processed() {
        let cases = [
            (GCM, 0x1015, 0x1010, 5, true),
            (GCM, 0x1015, 0x1015, 5, false),
            (GCM, 0x1015, 0x1010, 0, false),
            (GCM, 0x1015, 0x1010, 6, false),
            (GCM, 0x1015, 0x1000, 5, false),
            (GCM, 0x1015, 0x1020, 5, false),
            (GCM, 0x1010, 0x1010, 0, true),
            (GCM_WITHOUT_TAIL, 0x1015, 0x1015, 0, true),
            (XTS, 0x1010, 0x1010, 0, true),
            (XTS, 0x1010, 0, 0, false),
        ];
        for (cipher, len, engine, tail, whole) in cases {
            let completion = Completion {
                tag: [0; 16],
                iv: [0; 12],
                tail_len: tail,
                fips_approved: false,
                len: engine,
                error: 0,
                status: 0,
            };
            assert_eq!(request(cipher, false, len).is_whole(&completion), whole);
        }
    }

    #[test]
    fn completions_are_read_as_documented() {
        // The service indicator, error and status; what is made of them.
        let cases: [(_, _, bool, u16, u16); 7] = [
            ([0, 0, 0, 0], [0, 0, 0x01, 0x00], false, 0, 0),
            ([1, 0, 0, 0], [0, 0, 0x00, 0x00], true, 0, 0),
            ([0, 0, 0, 0x80], [0, 0, 0x00, 0x00], true, 0, 0),
            ([0, 0, 0, 0], [0x2a, 0, 0x04, 0x00], false, 0x2a, 2),
            ([0, 0, 0, 0], [0x34, 0x12, 0x0f, 0x00], false, 0x1234, 7),
            ([0, 0, 0, 0], [0, 0, 0xff, 0xff], false, 0, 0x7fff),
            (
                [0, 0, 0, 0],
                [0xff, 0xff, 0x00, 0x80],
                false,
                0xffff,
                0x4000,
            ),
        ];
        let tag: [u8; 16] = core::array::from_fn(|index| 0x10 + index as u8);
        let iv: [u8; 12] = core::array::from_fn(|index| 0x30 + index as u8);
        for (indicator, end, fips_approved, error, status) in &cases {
            // What is reserved, or filled in by hardware, is all ones.
            let cqe = words(&[
                (0, &[0xff, 0xff]),
                (2, &[0xef, 0xbe]),
                (4, &tag),
                (20, &iv),
                (32, &[0xff; 12]),
                (44, &[0x0f, 0x02, 0x01, 0x03]),
                (48, indicator),
                (52, &[0x04, 0x03, 0x02, 0x01]),
                (56, &[0xff; 4]),
                (60, end),
            ]);
            let completion = Completion {
                tag,
                iv,
                tail_len: 0x0301_020f,
                fips_approved: *fips_approved,
                len: 0x0102_0304,
                error: *error,
                status: *status,
            };
            assert_eq!(Completion::from(&cqe), completion);
            assert_eq!(Aes::cid(&cqe), 0xbeef);
            assert_eq!(Aes::status(&cqe), *status);
        }
    }

    #[test]
    fn the_slot_holds_what_is_documented() {
        // abi.rst 5.2: data of more than 12 KiB takes another way.
        assert_eq!(MAX_BOUNCED, 12 << 10);
        assert_eq!(STATUS_QUEUE_DELETED, 7);
        // A list that begins behind the data does not cross a page.
        assert_eq!(MAX_BOUNCED % 4096, 0);
        assert!(MAX_BOUNCED + MAX_BUFFERS * 16 <= Aes::SLOT_BYTES / 2);
    }

    /// Returns the bytes of a descriptor.
    fn descriptor(address: u64, len: [u8; 4], kind: u8) -> [u8; 16] {
        let mut bytes = [0; 16];
        let parts = Iterator::chain(address.to_le_bytes().into_iter(), len);
        for (to, from) in bytes.iter_mut().zip(parts) {
            *to = from;
        }
        bytes[15] = kind;
        bytes
    }

    /// What an entry tells of the data: its length, the descriptors, the lengths and the addresses
    /// of the tail.
    struct Told {
        len: [u8; 4],
        lists: [[u8; 16]; 2],
        tail_lens: [u8; 2],
        tails: [u64; 2],
    }

    impl Told {
        /// Returns whether `sqe` tells that, and of no other command than the tests'.
        fn is_in(&self, sqe: &Sqe) -> bool {
            let [src, dst] = &self.lists;
            let [src_tail, dst_tail] = self.tails.map(u64::to_le_bytes);
            let expected: [u8; 128] = bytes(&[
                (24, &self.len),
                (28, src),
                (44, &self.len),
                (48, dst),
                (108, &self.tail_lens),
                (112, &src_tail),
                (120, &dst_tail),
            ]);
            let sqe = sqe.as_bytes();
            [24..64, 108..128]
                .into_iter()
                .all(|range| sqe.get(range.clone()) == expected.get(range))
        }
    }

    /// Returns whether the list at `offset` of `slot` is `descriptors`, and nothing behind them.
    fn is_list(slot: &Buffer, offset: usize, descriptors: &[[u8; 16]]) -> Result<bool> {
        let end = [[0; 16]];
        let mut found = [0; 16];
        for (index, descriptor) in Iterator::chain(descriptors.iter(), &end).enumerate() {
            slot.read(offset + index * 16, &mut found)?;
            if found != *descriptor {
                return Ok(false);
            }
        }
        Ok(true)
    }

    // A slot has 32 KiB: data, and its list behind 12 KiB; then the same for what the device writes.
    #[test]
    fn data_in_a_slot_is_described_by_lists_of_one() -> Result {
        let nobody = Nobody::new()?;
        let cases: [(_, _, [u8; 4], u8, [u64; 2]); 7] = [
            (XTS, 0x0010, [0x10, 0x00, 0, 0], 0, [0, 0]),
            (XTS, 0x3000, [0x00, 0x30, 0, 0], 0, [0, 0]),
            (GCM, 0x1010, [0x10, 0x10, 0, 0], 0, [0, 0]),
            (GCM, 0x0011, [0x10, 0x00, 0, 0], 1, [0x0010, 0x4010]),
            (GCM, 0x1015, [0x10, 0x10, 0, 0], 5, [0x1010, 0x5010]),
            (GCM, 0x2fff, [0xf0, 0x2f, 0, 0], 15, [0x2ff0, 0x6ff0]),
            (GCM_WITHOUT_TAIL, 0x1015, [0x15, 0x10, 0, 0], 0, [0, 0]),
        ];
        for (cipher, len, engine_len, tail_len, tails) in cases {
            let slot = Buffer::new(nobody.device(), 0x8000)?;
            let base = slot.dma_address();
            let places = Places {
                slot: &slot,
                request: &request(cipher, false, len),
                bounced: 0,
            };
            let told = Told {
                len: engine_len,
                lists: [
                    descriptor(base + 0x3000, [0x10, 0, 0, 0], 0x30),
                    descriptor(base + 0x7000, [0x10, 0, 0, 0], 0x30),
                ],
                tail_lens: [tail_len; 2],
                tails: tails.map(|at| if at == 0 { 0 } else { base + at }),
            };
            assert!(told.is_in(&places.sqe(&Data::Slot)));
            assert!(is_list(&slot, 0x3000, &[descriptor(base, engine_len, 0)])?);
            assert!(is_list(
                &slot,
                0x7000,
                &[descriptor(base + 0x4000, engine_len, 0)]
            )?);
        }
        Ok(())
    }

    #[test]
    fn a_tail_alone_is_described_by_no_list() -> Result {
        let nobody = Nobody::new()?;
        let slot = Buffer::new(nobody.device(), 0x8000)?;
        let base = slot.dma_address();
        for len in [1, 15] {
            let places = Places {
                slot: &slot,
                request: &request(GCM, true, len),
                bounced: 0,
            };
            let told = Told {
                len: [0; 4],
                lists: [[0; 16]; 2],
                // CAST: Less than 16.
                tail_lens: [len as u8; 2],
                tails: [base, base + 0x4000],
            };
            assert!(told.is_in(&places.sqe(&Data::Slot)));
            assert!(is_list(&slot, 0x3000, &[])?);
            assert!(is_list(&slot, 0x7000, &[])?);
        }
        Ok(())
    }

    // What goes through the engine is elsewhere.
    #[test]
    fn the_tail_of_data_in_place_begins_the_slot() -> Result {
        let nobody = Nobody::new()?;
        let slot = Buffer::new(nobody.device(), 0x8000)?;
        let base = slot.dma_address();
        for (len, engine_len) in [(0x3001, 0x3000), (0x00ff_ffff, 0x00ff_fff0)] {
            let places = Places {
                slot: &slot,
                request: &request(GCM, false, len),
                bounced: engine_len,
            };
            let found = places.addresses(&Data::Slot, engine_len);
            assert_eq!(found, Some([base, base + 0x4000]));
        }
        Ok(())
    }

    #[test]
    fn copied_data_is_described_buffer_by_buffer() -> Result {
        /// How many buffers, and how long the last part is; then where the tail is in which.
        type Case = (u32, [u8; 4], [u8; 4], usize, [u8; 4], u8, usize, u64);
        let cases: [Case; 5] = [
            (
                0x3010,
                [0x10, 0x30, 0, 0],
                [0x10, 0, 0, 0],
                1,
                [0x10, 0x30, 0, 0],
                0,
                0,
                0,
            ),
            (
                0x1_0007,
                [0, 0, 1, 0],
                [0x10, 0, 0, 0],
                1,
                [0, 0, 1, 0],
                7,
                1,
                0,
            ),
            (
                0x1_0010,
                [0x10, 0, 1, 0],
                [0x20, 0, 0, 0],
                2,
                [0x10, 0, 0, 0],
                0,
                0,
                0,
            ),
            (
                0x2_8005,
                [0, 0x80, 2, 0],
                [0x30, 0, 0, 0],
                3,
                [0, 0x80, 0, 0],
                5,
                2,
                0x8000,
            ),
            (
                0x11_0000,
                [0, 0, 0x11, 0],
                [0x10, 0x01, 0, 0],
                17,
                [0, 0, 1, 0],
                0,
                0,
                0,
            ),
        ];
        let nobody = Nobody::new()?;
        let reserve = Reserve::new(nobody.device(), 34)?;
        for (len, engine_len, list_len, count, last_len, tail_len, tail_in, tail_at) in cases {
            // CAST: Widening.
            let bounced = reserve.take(len as usize).ok_or(ENOMEM)?;
            let slot = Buffer::new(nobody.device(), 0x8000)?;
            let base = slot.dma_address();
            let mut lists = [[[0; 16]; 17]; 2];
            let mut tails = [0; 2];
            for ((list, tail), side) in lists
                .iter_mut()
                .zip(&mut tails)
                .zip([Side::Source, Side::Destination])
            {
                // The buffers themselves, whole.
                let buffers = || {
                    bounced
                        .addresses(side, 0x11_0000)
                        .map(|(address, _)| address)
                };
                for (index, (to, address)) in list.iter_mut().zip(buffers()).enumerate() {
                    let len = if index + 1 == count {
                        last_len
                    } else {
                        [0, 0, 1, 0]
                    };
                    *to = descriptor(address, len, 0);
                }
                if tail_len != 0 {
                    *tail = buffers().nth(tail_in).ok_or(EINVAL)? + tail_at;
                }
            }
            let request = request(GCM, false, len);
            let places = Places {
                slot: &slot,
                request: &request,
                bounced: len,
            };
            let told = Told {
                len: engine_len,
                lists: [
                    descriptor(base + 0x3000, list_len, 0x30),
                    descriptor(base + 0x7000, list_len, 0x30),
                ],
                tail_lens: [tail_len; 2],
                tails,
            };
            assert!(told.is_in(&places.sqe(&Data::Bounced(bounced))));
            for (list, offset) in lists.iter().zip([0x3000, 0x7000]) {
                assert!(is_list(&slot, offset, list.get(..count).ok_or(EINVAL)?)?);
            }
        }
        Ok(())
    }
}
