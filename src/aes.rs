// SPDX-License-Identifier: GPL-2.0

//! AES commands.
//!
//! Documentation/device.rst 6. Data is copied through the memory of the slot, at most
//! [`MAX_LEN`] bytes each way.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
    prelude::*,
    sizes::SZ_16K,
    uaccess::UserPtr, //
};
use zerocopy_derive::Immutable;

use crate::{
    queue::{
        Class,
        Lost,
        Owned, //
    },
    session::Token,
    sys::impl_wire,
    tags::Patience, //
};

/// The AES queues.
pub(crate) struct Aes;

/// Bytes of a list with one descriptor, which stands at the end of each half of a slot.
const LIST_BYTES: usize = size_of::<Sgl>();

/// Most bytes of data that a slot has room for in each direction.
pub(crate) const MAX_LEN: usize = SZ_16K - LIST_BYTES;

impl Class for Aes {
    type Sqe = Sqe;
    type Cqe = [u64; 8];
    type Context = ();
    type Token = Token;

    const SLOT_BYTES: usize = 2 * SZ_16K;

    fn set_cid(sqe: &mut Sqe, cid: u16) {
        sqe.cid = cid.to_le();
    }

    fn cid(cqe: &[u64; 8]) -> u16 {
        // CAST: Takes the bits that the field has.
        (cqe[0] >> 16) as u16
    }

    fn orphaned((): &(), _: &[u64; 8]) {}
}

/// A scatter gather list descriptor (6.4.1).
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
struct Sgl {
    address: [u32; 2],
    len: u32,
    reserved: [u8; 3],
    kind: u8,
}
static_assert!(size_of::<Sgl>() == 16);

impl Sgl {
    const DATA: u8 = 0 << 4;
    const LAST_SEGMENT: u8 = 3 << 4;

    fn new(kind: u8, address: u64, len: u32) -> Self {
        Self {
            // CAST: Takes half of the bits each.
            address: [(address as u32).to_le(), ((address >> 32) as u32).to_le()],
            len: len.to_le(),
            reserved: [0; 3],
            kind,
        }
    }
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
impl_wire!(Sqe);
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
            status: (words[7] >> 49) as u16,
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

/// An AES command that has a slot.
pub(crate) struct Command<'a> {
    owned: Owned<'a, Aes>,
    len: u32,
}

impl<'a> Command<'a> {
    const RESPONSE: usize = Owned::<'_, Aes>::RESPONSE;

    /// Makes a command on `len` bytes of data.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are more than [`MAX_LEN`].
    pub(crate) fn new(owned: Owned<'a, Aes>, len: u32) -> Result<Self> {
        // CAST: Widening.
        if len as usize > MAX_LEN {
            return Err(EINVAL);
        }
        Ok(Self { owned, len })
    }

    /// Copies the data to where the device reads it.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be read.
    pub(crate) fn fill(&mut self, from: UserPtr) -> Result {
        // CAST: Widening.
        let len = self.len as usize;

        self.owned.soil_request(len);
        self.owned.buffer().copy_from_user(0, from, len)
    }

    /// Writes the list of the half at `half`, whose only descriptor is for its first `len` bytes,
    /// and returns the descriptor for the list.
    fn list(&self, half: usize, len: u32) -> Result<Sgl> {
        // CAST: Widening.
        let address = self.owned.buffer().dma_address() + half as u64;
        let data = Sgl::new(Sgl::DATA, address, len);
        self.owned.buffer().write(half + MAX_LEN, data.as_bytes())?;

        // CAST: Both are small constants.
        Ok(Sgl::new(
            Sgl::LAST_SEGMENT,
            address + MAX_LEN as u64,
            LIST_BYTES as u32,
        ))
    }

    /// Sends the command and waits for its completion.
    ///
    /// # Errors
    ///
    /// See [`Lost`].
    pub(crate) fn run(
        mut self,
        decrypt: bool,
        caller: Caller,
        cipher: &Cipher,
        token: Token,
        patience: Patience,
    ) -> Result<(Self, Completion), Lost> {
        let mut sqe = Sqe {
            session_id: caller.session.to_le(),
            app_id: caller.app,
            frame_type: FRAME_AES,
            ..Sqe::default()
        };
        let mut attributes = ATTR_SGL | ATTR_TYPE_AES;
        if decrypt {
            attributes |= ATTR_DECRYPT;
        }
        let mut tail_len = 0;
        match cipher {
            Cipher::Gcm {
                key,
                tag,
                iv,
                aad_len,
                aad_padded_len,
                tail,
            } => {
                sqe.key = key.to_le();
                sqe.word72 = aad_len.to_le();
                sqe.block76 = *tag;
                sqe.iv = *iv;
                sqe.aad_padded_len = aad_padded_len.to_le();
                if *tail {
                    tail_len = self.len % 16;
                }
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
                sqe.block76 = *tweak;
            }
        }
        sqe.attributes = attributes.to_le();

        let engine_len = self.len - tail_len;
        if engine_len != 0 {
            // Neither can fail: a list has its place at the end of each half.
            sqe.src = self.list(0, engine_len).unwrap_or_default();
            sqe.dst = self.list(Self::RESPONSE, engine_len).unwrap_or_default();
            sqe.src_len = engine_len.to_le();
            sqe.dst_len = engine_len.to_le();
        }
        if tail_len != 0 {
            // The tail stands right behind the rest, on both sides.
            // CAST: Widening.
            let src = self.owned.buffer().dma_address() + u64::from(engine_len);
            let dst = src + Self::RESPONSE as u64;
            sqe.tail_src = Sgl::new(0, src, 0).address;
            sqe.tail_dst = Sgl::new(0, dst, 0).address;
            // CAST: Less than 16.
            sqe.tail_src_len = tail_len as u8;
            sqe.tail_dst_len = tail_len as u8;
        }

        // Even a failed command may have written (6.6.4).
        // CAST: Widening.
        self.owned.soil_response(self.len as usize);
        let (owned, cqe) = self.owned.run(sqe, token, patience)?;
        let len = self.len;
        Ok((Self { owned, len }, Completion::from(&cqe)))
    }

    /// Returns whether a successful completion says that all data was processed.
    pub(crate) fn is_whole(&self, completion: &Completion) -> bool {
        completion.len.checked_add(completion.tail_len) == Some(self.len)
    }

    /// Copies the result to user memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be written.
    pub(crate) fn copy_result(&self, to: UserPtr) -> Result {
        // CAST: Widening.
        self.owned
            .buffer()
            .copy_to_user(Self::RESPONSE, to, self.len as usize)
    }
}
