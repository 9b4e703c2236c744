// SPDX-License-Identifier: GPL-2.0

//! AES commands.
//!
//! Documentation/device.rst 6. Up to [`MAX_BOUNCED`] bytes of data are copied through the memory of
//! the slot, more through that of [`bounce`](crate::bounce); if that is too little they are accessed
//! by the device in place.

use core::mem::{
    offset_of,
    size_of, //
};

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
use zerocopy_derive::Immutable;

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
        dwords,
        Scattered,
        Sgl, //
    }, //
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
        sqe.cid = cid.to_le();
    }

    fn cid(cqe: &[u64; 8]) -> u16 {
        // CAST: Takes the bits that the field has.
        (cqe[0] >> 16) as u16
    }

    fn has_failed(cqe: &[u64; 8]) -> bool {
        cqe[7] >> STATUS_SHIFT != 0
    }

    fn bytes_of(held: &Held) -> usize {
        held.data.bytes()
    }

    fn orphaned(_: &Arc<Orphans>, _: Option<&[u64; 8]>, _: Held) {}
}

/// A submission queue entry (6.1).
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Sqe {
    reserved0: u32,
    attributes: u16,
    cid: u16,
    session_id: u16,
    app_id: u8,
    reserved1: [u8; 13],
    src_len: u32,
    src: Sgl,
    dst_len: u32,
    dst: Sgl,
    frame_type: u8,
    reserved2: [u8; 3],
    key: u32,
    /// GCM: bytes of additional data. XTS: the tweak key.
    word72: u32,
    /// GCM: tag. XTS: tweak.
    block76: [u8; 16],
    iv: [u8; 12],
    aad_padded_len: u32,
    tail_src_len: u8,
    tail_dst_len: u8,
    reserved3: [u8; 2],
    tail_src: [u32; 2],
    tail_dst: [u32; 2],
}
static_assert!(size_of::<Sqe>() == 128);
static_assert!(offset_of!(Sqe, cid) == 6);
static_assert!(offset_of!(Sqe, src) == 28);
static_assert!(offset_of!(Sqe, dst) == 48);
static_assert!(offset_of!(Sqe, frame_type) == 64);
static_assert!(offset_of!(Sqe, key) == 68);
static_assert!(offset_of!(Sqe, iv) == 92);
static_assert!(offset_of!(Sqe, aad_padded_len) == 104);
static_assert!(offset_of!(Sqe, tail_src) == 112);

const ATTR_DECRYPT: u16 = 1 << 0;
const ATTR_SGL: u16 = 1 << 2;
const ATTR_TYPE_AES: u16 = 5 << 3;
const ATTR_XTS: u16 = 1 << 8;
const ATTR_DATA_UNIT_SHIFT: u32 = 14;
const FRAME_AES: u8 = 1;

/// "Queue deleted": the command was not executed (6.9).
const STATUS_QUEUE_DELETED: u16 = 7;

/// The status in the last word of a completion queue entry (6.2).
const STATUS_SHIFT: u32 = 49;

/// A completion queue entry (6.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Completion {
    pub(crate) tag: [u8; 16],
    pub(crate) iv: [u8; 12],
    /// Bytes of the tail that were written.
    pub(crate) tail_len: u32,
    /// Whether the device calls the operation approved.
    pub(crate) fips_approved: bool,
    /// Bytes that the engine processed.
    pub(crate) len: u32,
    pub(crate) error: u16,
    /// Status, 15 bits (6.9).
    pub(crate) status: u16,
}

impl From<&[u64; 8]> for Completion {
    fn from(words: &[u64; 8]) -> Self {
        // In memory order again.
        let mut bytes = [0; 64];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let mut tag = [0; 16];
        for (to, from) in tag.iter_mut().zip(&bytes[4..20]) {
            *to = *from;
        }
        let mut iv = [0; 12];
        for (to, from) in iv.iter_mut().zip(&bytes[20..32]) {
            *to = *from;
        }
        // CAST: Each takes the bits that the field has.
        Self {
            tag,
            iv,
            tail_len: (words[5] >> 32) as u32,
            fips_approved: words[6] as u32 != 0,
            len: (words[6] >> 32) as u32,
            error: (words[7] >> 32) as u16,
            status: (words[7] >> STATUS_SHIFT) as u16,
        }
    }
}

/// Who a command is for (6.7).
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) session: u16,
    pub(crate) app: u8,
}

/// The cipher of a command, with its parameters.
#[derive(Clone, Copy)]
pub(crate) enum Cipher {
    Gcm {
        key: u32,
        tag: [u8; 16],
        iv: [u8; 12],
        aad_len: u32,
        aad_padded_len: u32,
        /// Whether the last bytes of the text that do not fill a block go as a tail (6.6.2).
        tail: bool,
    },
    Xts {
        data_key: u32,
        tweak_key: u32,
        tweak: [u8; 16],
        /// Code of the data unit (6.1).
        data_unit: u16,
    },
}

/// What an AES command is to do.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) decrypt: bool,
    pub(crate) caller: Caller,
    pub(crate) cipher: Cipher,
    /// Bytes of data.
    pub(crate) len: u32,
}

impl Request {
    /// Returns how many of the last bytes go as a tail.
    fn tail_len(&self) -> u32 {
        match self.cipher {
            Cipher::Gcm { tail: true, .. } => self.len % 16,
            _ => 0,
        }
    }

    /// Returns how many bytes go through the engine, which are all but the tail.
    fn engine_len(&self) -> u32 {
        self.len - self.tail_len()
    }
}

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
    _session: Token,
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

    /// Writes the list of the half at `half`, which describes `parts`, and returns the descriptor
    /// for the list.
    fn list(&self, half: usize, parts: impl Iterator<Item = (DmaAddress, usize)>) -> Result<Sgl> {
        let start = half + MAX_BOUNCED;
        let mut count = 0;
        for (address, len) in parts {
            // CAST: Much less than that.
            let part = Sgl::data(address, len as u32);
            self.owned
                .buffer()
                .write(start + count * Sgl::BYTES, part.as_bytes())?;
            count += 1;
        }
        // CAST: Widening.
        let address = self.owned.buffer().dma_address() + start as u64;
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
        let src = self.owned.buffer().dma_address() + u64::from(offset - self.bounced);
        // CAST: Widening.
        Some([src, src + Self::RESPONSE as u64])
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
                    self.list(Self::RESPONSE, core::iter::once((dst, bytes)))?,
                ])
            }
            Data::Bounced(data) => Ok([
                self.list(0, data.addresses(Side::Source, bytes))?,
                self.list(Self::RESPONSE, data.addresses(Side::Destination, bytes))?,
            ]),
            Data::InPlace(data) => Ok([data.src.list(), data.dst.list()]),
        }
    }

    /// Makes the submission queue entry.
    fn sqe(&self, data: &Data) -> Sqe {
        let request = &self.request;
        let mut sqe = Sqe {
            session_id: request.caller.session.to_le(),
            app_id: request.caller.app,
            frame_type: FRAME_AES,
            ..Sqe::default()
        };
        let mut attributes = ATTR_SGL | ATTR_TYPE_AES;
        if request.decrypt {
            attributes |= ATTR_DECRYPT;
        }
        match request.cipher {
            Cipher::Gcm {
                key,
                tag,
                iv,
                aad_len,
                aad_padded_len,
                tail: _,
            } => {
                sqe.key = key.to_le();
                sqe.word72 = aad_len.to_le();
                sqe.block76 = tag;
                sqe.iv = iv;
                sqe.aad_padded_len = aad_padded_len.to_le();
            }
            Cipher::Xts {
                data_key,
                tweak_key,
                tweak,
                data_unit,
            } => {
                attributes |= ATTR_XTS | (data_unit & 3) << ATTR_DATA_UNIT_SHIFT;
                sqe.key = data_key.to_le();
                sqe.word72 = tweak_key.to_le();
                sqe.block76 = tweak;
            }
        }
        sqe.attributes = attributes.to_le();

        let engine_len = request.engine_len();
        sqe.src_len = engine_len.to_le();
        sqe.dst_len = engine_len.to_le();
        // Cannot fail: a list has its place at the end of each half.
        [sqe.src, sqe.dst] = self.lists(data).unwrap_or_default();

        let tail_len = request.tail_len();
        if tail_len != 0 {
            // It stands behind the rest on both sides; a buffer does not end within it. Cannot
            // fail: it is part of the data.
            let [src, dst] = self.addresses(data, engine_len).unwrap_or_default();
            sqe.tail_src = dwords(src);
            sqe.tail_dst = dwords(dst);
            // CAST: Less than 16.
            sqe.tail_src_len = tail_len as u8;
            sqe.tail_dst_len = tail_len as u8;
        }
        sqe
    }

    /// Sends the command and waits for its completion. When that has come the device is done with
    /// `data`, which is returned.
    ///
    /// # Errors
    ///
    /// See [`Lost`].
    pub(crate) fn run(
        mut self,
        session: Token,
        data: Data,
        patience: Patience,
    ) -> Result<(Self, Completion, Data), Lost> {
        let sqe = self.sqe(&data);
        let held = Held {
            _session: session,
            data,
        };

        // Even a failed command may have written (6.6.4).
        self.owned.soil_response(self.bounced_len());
        let (owned, cqe, held) = self.owned.run(sqe, held, patience)?;
        let completion = Completion::from(&cqe);
        if completion.status == STATUS_QUEUE_DELETED {
            return Err(Lost::Halted);
        }
        Ok((Self { owned, ..self }, completion, held.data))
    }

    /// Returns whether a successful completion says that all data was processed.
    pub(crate) fn is_whole(&self, completion: &Completion) -> bool {
        completion.len == self.request.engine_len()
            && completion.tail_len == self.request.tail_len()
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
