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

use crate::{
    orphans::Orphans,
    patience::Patience,
    queue::{
        Class,
        Lost,
        Pool,
        QueuePair, //
    },
    regs::Doorbells,
    wire::admin::{
        queue_count,
        Completion,
        Feature,
        Sqe,
        IDENTIFY_LEN, //
    },
};

pub(crate) use crate::wire::admin::Identify;

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
        sqe.set_cid(cid);
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
            sqe = sqe.with_page(address);
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
        self.send(Sqe::identify(), Some(&mut page))?;
        Identify::parse(&page).map_err(Failure::Nonsense)
    }

    fn feature(&self, feature: Feature) -> Result<u32, Failure> {
        self.send(Sqe::feature(feature), None)
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
        let sqe = Sqe::create_cq(
            queue.id().get(),
            queue.size(),
            queue.cq_address(),
            queue.vector(),
        );
        self.send(sqe, None)?;
        Ok(())
    }

    fn create_sq<C: Class>(&self, queue: &QueuePair<C>) -> Result<(), Failure> {
        let sqe = Sqe::create_sq(queue.id().get(), queue.size(), queue.sq_address());
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
        self.send(Sqe::delete_sq(queue.id().get()), None)?;
        Ok(())
    }

    /// Makes the device forget the completion queue of `queue`, whose submission queue it has
    /// forgotten (4.8).
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn delete_cq<C: Class>(&self, queue: &QueuePair<C>) -> Result<(), Failure> {
        self.send(Sqe::delete_cq(queue.id().get()), None)?;
        Ok(())
    }
}
