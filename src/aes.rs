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
    wire,
    wire::aes::{
        Completion,
        Sqe, //
    },
};

pub(crate) use crate::wire::aes::{
    Caller,
    Cipher,
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

    fn has_failed(cqe: &[u64; 8]) -> bool {
        wire::aes::has_failed(cqe)
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
