// SPDX-License-Identifier: GPL-2.0

//! Entries of AES queues.
//!
//! Documentation/device.rst 6.

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
        IntoBytes, //
    },
    sgl::{
        dwords,
        Sgl, //
    },
};

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

impl Sqe {
    /// Puts the command identifier in.
    pub(crate) fn set_cid(&mut self, cid: u16) {
        self.cid = cid.to_le();
    }
}

const ATTR_DECRYPT: u16 = 1 << 0;
const ATTR_SGL: u16 = 1 << 2;
const ATTR_TYPE_AES: u16 = 5 << 3;
const ATTR_XTS: u16 = 1 << 8;
const ATTR_DATA_UNIT_SHIFT: u32 = 14;
const FRAME_AES: u8 = 1;

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
            status: status(words),
        }
    }
}

/// Returns the command identifier of a completion queue entry.
pub(crate) fn cid(words: &[u64; 8]) -> u16 {
    // CAST: Takes the bits that the field has.
    (words[0] >> 16) as u16
}

/// Returns the status of a completion queue entry, 0 if it has none.
pub(crate) fn status(words: &[u64; 8]) -> u16 {
    // CAST: Takes the bits that the field has.
    (words[7] >> STATUS_SHIFT) as u16
}

/// Who a command is for (6.7).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) session: u16,
    pub(crate) app: u8,
}

/// The cipher of a command, with its parameters.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) decrypt: bool,
    pub(crate) caller: Caller,
    pub(crate) cipher: Cipher,
    /// Bytes of data.
    pub(crate) len: u32,
}

impl Request {
    /// Returns how many of the last bytes go as a tail.
    pub(crate) fn tail_len(&self) -> u32 {
        match self.cipher {
            Cipher::Gcm { tail: true, .. } => self.len % 16,
            _ => 0,
        }
    }

    /// Returns how many bytes go through the engine, which are all but the tail.
    pub(crate) fn engine_len(&self) -> u32 {
        self.len - self.tail_len()
    }

    /// Returns whether a successful completion says that all data was processed.
    pub(crate) fn is_whole(&self, completion: &Completion) -> bool {
        completion.len == self.engine_len() && completion.tail_len == self.tail_len()
    }

    /// Makes the submission queue entry. The `lists` and the addresses of the `tail` are those of
    /// the source and of the destination.
    pub(crate) fn sqe(&self, lists: [Sgl; 2], tail: [DmaAddress; 2]) -> Sqe {
        let mut sqe = Sqe {
            session_id: self.caller.session.to_le(),
            app_id: self.caller.app,
            frame_type: FRAME_AES,
            ..Sqe::default()
        };
        let mut attributes = ATTR_SGL | ATTR_TYPE_AES;
        if self.decrypt {
            attributes |= ATTR_DECRYPT;
        }
        match self.cipher {
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

        let engine_len = self.engine_len();
        sqe.src_len = engine_len.to_le();
        sqe.dst_len = engine_len.to_le();
        [sqe.src, sqe.dst] = lists;

        let tail_len = self.tail_len();
        if tail_len != 0 {
            let [src, dst] = tail;
            sqe.tail_src = dwords(src);
            sqe.tail_dst = dwords(dst);
            // CAST: Less than 16.
            sqe.tail_src_len = tail_len as u8;
            sqe.tail_dst_len = tail_len as u8;
        }
        sqe
    }
}
