// SPDX-License-Identifier: GPL-2.0

//! Admin commands.
//!
//! Documentation/device.rst 4.

use kernel::{
    prelude::*,
    sizes::SZ_4K,
    sync::Arc,
    time::Delta, //
};
use zerocopy_derive::Immutable;

use crate::{
    orphans::Orphans,
    patience::Patience,
    queue::{
        Class,
        Lost,
        Pool,
        QueuePair, //
    },
    regs::Doorbells, //
};

/// How long an admin command may take (4.13).
pub(crate) const TIMEOUT: Delta = Delta::from_secs(30);

/// Entries of either ring of the admin queue.
pub(crate) const ENTRIES: u16 = 16;

/// The admin queue.
pub(crate) struct Admin;

impl Class for Admin {
    type Sqe = Sqe;
    type Cqe = [u64; 2];
    type Token = ();

    // The half that the device writes takes the identify page.
    const SLOT_BYTES: usize = 2 * SZ_4K;

    fn set_cid(sqe: &mut Sqe, cid: u16) {
        sqe.cid = cid.to_le();
    }

    fn cid(cqe: &[u64; 2]) -> u16 {
        Completion::from(cqe).cid
    }

    fn has_failed(cqe: &[u64; 2]) -> bool {
        Completion::from(cqe).status != 0
    }

    fn bytes_of((): &()) -> usize {
        0
    }

    fn orphaned(_: &Arc<Orphans>, _: Option<&[u64; 2]>, (): ()) {}
}

/// A submission queue entry (4.1).
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Sqe {
    opcode: u8,
    flags: u8,
    cid: u16,
    reserved: [u32; 5],
    prp1: u64,
    prp2: u64,
    dw10: u32,
    dw11: u32,
    dw12: [u32; 4],
}
static_assert!(size_of::<Sqe>() == 64);
static_assert!(core::mem::offset_of!(Sqe, prp1) == 24);
static_assert!(core::mem::offset_of!(Sqe, dw10) == 40);

/// A completion queue entry (4.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Completion {
    /// Result of the command.
    pub(crate) dw0: u32,
    /// Command identifier.
    pub(crate) cid: u16,
    /// Status, 15 bits (4.3).
    pub(crate) status: u16,
}

impl From<&[u64; 2]> for Completion {
    fn from(words: &[u64; 2]) -> Self {
        // CAST: Each takes the bits that the field has.
        Self {
            dw0: words[0] as u32,
            cid: (words[1] >> 32) as u16,
            status: (words[1] >> 49) as u16,
        }
    }
}

/// Opcodes (4.4 to 4.9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Opcode {
    DeleteSq = 0x00,
    CreateSq = 0x01,
    DeleteCq = 0x04,
    CreateCq = 0x05,
    Identify = 0x06,
    GetFeatures = 0x0a,
}

/// Features (4.9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
enum Feature {
    HsmQueues = 0x07,
    AesQueues = 0xc1,
    Firmware = 0xc2,
}

/// Bit of the firmware feature: AES-GCM of text that is not a multiple of 16 bytes (6.6.2).
const FIRMWARE_GCM_UNALIGNED: u32 = 1 << 0;

/// "Invalid field", which is what features of a function without resource groups answer (4.3).
const STATUS_INVALID_FIELD: u16 = 0x4002;

/// Why an admin command failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// The device refused it with this status (4.3).
    Status(u16),
    /// There is no completion.
    Lost(Lost),
    /// The device answered with nonsense.
    Nonsense(&'static str),
}

impl Failure {
    /// Returns whether the function has no resource groups, if this is why a feature failed.
    pub(crate) fn is_no_groups(self) -> bool {
        self == Failure::Status(STATUS_INVALID_FIELD)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Status(_) | Failure::Nonsense(_) => EIO,
            Failure::Lost(Lost::Busy | Lost::TimedOut | Lost::Deserted) => ETIMEDOUT,
            Failure::Lost(Lost::Interrupted | Lost::Killed) => EINTR,
            Failure::Lost(Lost::Refused | Lost::Halted) => ENODEV,
        }
    }
}

impl kernel::fmt::Display for Failure {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        match self {
            Failure::Status(status) => f.write_fmt(fmt!("status {status:#06x}")),
            Failure::Lost(Lost::Busy | Lost::TimedOut | Lost::Deserted) => {
                f.write_str("no completion in time")
            }
            Failure::Lost(Lost::Interrupted | Lost::Killed) => f.write_str("interrupted"),
            Failure::Lost(Lost::Refused | Lost::Halted) => f.write_str("controller stopped"),
            Failure::Nonsense(what) => f.write_str(what),
        }
    }
}

/// Bytes of the identify page (4.4).
pub(crate) const IDENTIFY_LEN: usize = 102;

/// The identify page, as far as it is of interest (4.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Identify {
    /// Controller identifier: 0 is the physical function, n + 1 the virtual function n.
    pub(crate) controller: u16,
    /// Serial number, any bytes.
    pub(crate) serial: [u8; 32],
    /// Firmware revision, any bytes.
    pub(crate) firmware: [u8; 32],
}

impl Identify {
    /// Parses an identify page.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn parse(page: &[u8; IDENTIFY_LEN]) -> Result<Self, &'static str> {
        const SERIAL: usize = 4;
        const FIRMWARE: usize = 36;
        const CONTROLLER: usize = 74;
        // Offset and log2 of the size that the driver uses, which the low nibble must be.
        const ENTRY_SIZES: [(usize, u8, &str); 4] = [
            (77, 6, "HSM SQE size is not 64 bytes"),
            (78, 4, "HSM CQE size is not 16 bytes"),
            (83, 7, "AES SQE size is not 128 bytes"),
            (84, 6, "AES CQE size is not 64 bytes"),
        ];
        const MAX_CONTROLLER: u16 = 64;

        for (offset, log2, what) in ENTRY_SIZES {
            if page[offset] & 0xf != log2 {
                return Err(what);
            }
        }
        let controller = u16::from_le_bytes([page[CONTROLLER], page[CONTROLLER + 1]]);
        if controller > MAX_CONTROLLER {
            return Err("controller identifier is above 64");
        }
        let mut this = Self {
            controller,
            serial: [0; 32],
            firmware: [0; 32],
        };
        for (to, from) in this.serial.iter_mut().zip(&page[SERIAL..]) {
            *to = *from;
        }
        for (to, from) in this.firmware.iter_mut().zip(&page[FIRMWARE..]) {
            *to = *from;
        }
        Ok(this)
    }
}

/// Sends admin commands.
pub(crate) struct Sender<'a> {
    pub(crate) pool: &'a Pool<Admin>,
    pub(crate) doorbells: &'a Doorbells<'a>,
    pub(crate) patience: Patience,
}

impl Sender<'_> {
    /// Sends `sqe` and returns the result of the command. With `page` the first bytes of what the
    /// device wrote are copied there.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    fn send(&self, mut sqe: Sqe, page: Option<&mut [u8]>) -> Result<u32, Failure> {
        let owned = self
            .pool
            .take(self.doorbells, self.patience)
            .map_err(Failure::Lost)?;
        if page.is_some() {
            // CAST: Widening.
            let address = owned.buffer().dma_address() + SZ_4K as u64;
            sqe.prp1 = address.to_le();
        }
        let (owned, cqe, ()) = owned.run(sqe, (), self.patience).map_err(Failure::Lost)?;
        let completion = Completion::from(&cqe);
        if completion.status != 0 {
            return Err(Failure::Status(completion.status));
        }
        if let Some(page) = page {
            owned
                .buffer()
                .read(SZ_4K, page)
                .map_err(|_| Failure::Nonsense("page too large"))?;
        }
        Ok(completion.dw0)
    }

    /// Identifies the controller.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn identify(&self) -> Result<Identify, Failure> {
        let mut page = [0; IDENTIFY_LEN];
        let sqe = Sqe {
            opcode: Opcode::Identify as u8,
            dw10: 1u32.to_le(),
            ..Sqe::default()
        };
        self.send(sqe, Some(&mut page))?;
        Identify::parse(&page).map_err(Failure::Nonsense)
    }

    fn feature(&self, feature: Feature) -> Result<u32, Failure> {
        let sqe = Sqe {
            opcode: Opcode::GetFeatures as u8,
            dw10: (feature as u32).to_le(),
            ..Sqe::default()
        };
        self.send(sqe, None)
    }

    /// Returns how many HSM queue pairs the function may have, at most `most`.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn hsm_queues(&self, most: u16) -> Result<u16, Failure> {
        match queue_count(self.feature(Feature::HsmQueues)?, most) {
            0 => Err(Failure::Nonsense("there are none")),
            count => Ok(count),
        }
    }

    /// Returns how many AES queue pairs the function may have, at most `most`.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn aes_queues(&self, most: u16) -> Result<u16, Failure> {
        Ok(queue_count(self.feature(Feature::AesQueues)?, most))
    }

    /// Returns whether the device takes AES-GCM text that is not a multiple of 16 bytes.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn gcm_unaligned(&self) -> Result<bool, Failure> {
        Ok(self.feature(Feature::Firmware)? & FIRMWARE_GCM_UNALIGNED != 0)
    }

    /// Makes the device use `queue`: the completion queue first, then the submission queue.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn create<C: Class>(&self, queue: &QueuePair<C>) -> Result<(), Failure> {
        self.create_cq(queue)?;
        self.create_sq(queue)
    }

    /// Makes the device use the completion queue of `queue`.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn create_cq<C: Class>(&self, queue: &QueuePair<C>) -> Result<(), Failure> {
        const INTERRUPTS: u32 = 1 << 1;

        let interrupts = match queue.vector() {
            Some(vector) => INTERRUPTS | u32::from(vector) << 16,
            None => 0,
        };
        let sqe = Sqe {
            opcode: Opcode::CreateCq as u8,
            prp1: queue.cq_address().to_le(),
            dw10: id_and_size(queue).to_le(),
            dw11: (interrupts | PHYSICALLY_CONTIGUOUS).to_le(),
            ..Sqe::default()
        };
        self.send(sqe, None)?;
        Ok(())
    }

    fn create_sq<C: Class>(&self, queue: &QueuePair<C>) -> Result<(), Failure> {
        let id = u32::from(queue.id().get());
        let sqe = Sqe {
            opcode: Opcode::CreateSq as u8,
            prp1: queue.sq_address().to_le(),
            dw10: id_and_size(queue).to_le(),
            dw11: (id << 16 | PHYSICALLY_CONTIGUOUS).to_le(),
            ..Sqe::default()
        };
        self.send(sqe, None)?;
        Ok(())
    }

    /// Makes the device forget the submission queue of `queue`. When this succeeds it is done with
    /// the memory of all commands in it (4.7).
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn delete_sq<C: Class>(&self, queue: &QueuePair<C>) -> Result<(), Failure> {
        let sqe = Sqe {
            opcode: Opcode::DeleteSq as u8,
            dw10: u32::from(queue.id().get()).to_le(),
            ..Sqe::default()
        };
        self.send(sqe, None)?;
        Ok(())
    }

    /// Makes the device forget the completion queue of `queue`, whose submission queue it has
    /// forgotten (4.8).
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn delete_cq<C: Class>(&self, queue: &QueuePair<C>) -> Result<(), Failure> {
        let sqe = Sqe {
            opcode: Opcode::DeleteCq as u8,
            dw10: u32::from(queue.id().get()).to_le(),
            ..Sqe::default()
        };
        self.send(sqe, None)?;
        Ok(())
    }
}

/// Queues are not scattered (4.5, 4.6).
const PHYSICALLY_CONTIGUOUS: u32 = 1 << 0;

/// Encodes the number of a queue, and its last entry (4.5, 4.6).
fn id_and_size<C: Class>(queue: &QueuePair<C>) -> u32 {
    let last = u32::from(queue.size().saturating_sub(1));

    last << 16 | u32::from(queue.id().get())
}

/// Decodes the result of a queue count feature (4.9): both counts are less one, in 16 bits, so that
/// all ones are none.
fn queue_count(dw0: u32, most: u16) -> u16 {
    // CAST: Each takes the bits that the field has.
    let (sqs, cqs) = (dw0 as u16, (dw0 >> 16) as u16);
    sqs.wrapping_add(1).min(cqs.wrapping_add(1)).min(most)
}
