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

    fn status(cqe: &[u64; 2]) -> u16 {
        Completion::from(cqe).status
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

/// The physical function, as the controller that resource groups are for (8.2).
pub(crate) const PHYSICAL: u16 = 0;

/// Resource groups of the whole device (8.1).
const ALL_GROUPS: u32 = 65;

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

    /// Gives the function `controller` that many resource groups. A virtual function is disabled by
    /// that, even if it has as many.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn set_resource_count(&self, controller: u16, count: u16) -> Result<(), Failure> {
        // What the command returns depends on whether anything has changed.
        self.send(Sqe::set_resource_count(controller, count), None)?;
        Ok(())
    }

    /// Returns how many resource groups the function `controller` has.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub(crate) fn resource_count(&self, controller: u16) -> Result<u16, Failure> {
        match self.send(Sqe::get_resource_count(controller), None)? {
            // CAST: It is small.
            count @ 0..=ALL_GROUPS => Ok(count as u16),
            _ => Err(Failure::Nonsense("more resource groups than there are")),
        }
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

// Documentation/device.rst 4.
#[kunit_tests(azihsm_admin)]
mod tests {
    use super::*;
    use crate::wire::by_hand::{
        bytes,
        words, //
    };

    const RING: u64 = 0x1122_3344_5566_7000;
    const RING_BYTES: &[u8] = &[0x00, 0x70, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11];

    #[test]
    fn entries_are_laid_out_as_documented() {
        let cases: [(Sqe, [u8; 64]); 15] = [
            (
                Sqe::identify().with_page(RING),
                bytes(&[(0, &[0x06]), (24, RING_BYTES), (40, &[1, 0, 0, 0])]),
            ),
            (
                Sqe::feature(Feature::HsmQueues),
                bytes(&[(0, &[0x0a]), (40, &[0x07])]),
            ),
            (
                Sqe::feature(Feature::AesQueues),
                bytes(&[(0, &[0x0a]), (40, &[0xc1])]),
            ),
            (
                Sqe::feature(Feature::Firmware),
                bytes(&[(0, &[0x0a]), (40, &[0xc2])]),
            ),
            (
                Sqe::create_cq(0x0181, 16, RING, Some(0x1f)),
                bytes(&[
                    (0, &[0x05]),
                    (24, RING_BYTES),
                    (40, &[0x81, 0x01, 15, 0]),
                    (44, &[0x03, 0, 0x1f, 0]),
                ]),
            ),
            (
                Sqe::create_cq(1, 1024, RING, Some(0)),
                bytes(&[
                    (0, &[0x05]),
                    (24, RING_BYTES),
                    (40, &[1, 0, 0xff, 0x03]),
                    (44, &[0x03, 0, 0, 0]),
                ]),
            ),
            (
                Sqe::create_cq(1, 2, RING, None),
                bytes(&[
                    (0, &[0x05]),
                    (24, RING_BYTES),
                    (40, &[1, 0, 1, 0]),
                    (44, &[0x01, 0, 0, 0]),
                ]),
            ),
            (
                Sqe::create_sq(0x0102, 1024, RING),
                bytes(&[
                    (0, &[0x01]),
                    (24, RING_BYTES),
                    (40, &[0x02, 0x01, 0xff, 0x03]),
                    (44, &[0x01, 0, 0x02, 0x01]),
                ]),
            ),
            (
                Sqe::delete_sq(0x0181),
                bytes(&[(0, &[0x00]), (40, &[0x81, 0x01, 0, 0])]),
            ),
            (
                Sqe::delete_cq(0x0181),
                bytes(&[(0, &[0x04]), (40, &[0x81, 0x01, 0, 0])]),
            ),
            (
                Sqe::set_resource_count(PHYSICAL, 1),
                bytes(&[(0, &[0xc3]), (44, &[1])]),
            ),
            (
                Sqe::set_resource_count(64, 65),
                bytes(&[(0, &[0xc3]), (40, &[64]), (44, &[65])]),
            ),
            // What is too much is for the device to refuse.
            (
                Sqe::set_resource_count(0x1234, 0xffff),
                bytes(&[(0, &[0xc3]), (40, &[0x34, 0x12]), (44, &[0xff, 0xff])]),
            ),
            (
                Sqe::get_resource_count(0x1234),
                bytes(&[(0, &[0xc4]), (40, &[0x34, 0x12])]),
            ),
            // The device refuses it; it must not become one of 65536.
            (
                Sqe::create_sq(1, 0, 0),
                bytes(&[(0, &[0x01]), (40, &[1, 0, 0, 0]), (44, &[0x01, 0, 1, 0])]),
            ),
        ];
        for (sqe, bytes) in &cases {
            assert_eq!(sqe.as_bytes(), bytes);
        }
    }

    #[test]
    fn the_command_identifier_has_its_place() {
        let mut sqe = Sqe::default();
        Admin::set_cid(&mut sqe, 0xbeef);
        let expected: [u8; 64] = bytes(&[(2, &[0xef, 0xbe])]);
        assert_eq!(sqe.as_bytes(), expected);
    }

    #[test]
    fn completions_are_read_as_documented() {
        // What is reserved, or filled in by hardware, is all ones.
        let cqe = |status: [u8; 2]| {
            words(&[
                (0, &[0x78, 0x56, 0x34, 0x12]),
                (4, &[0xff; 8]),
                (12, &[0xef, 0xbe]),
                (14, &status),
            ])
        };
        let cases = [
            ([0x00, 0x00], 0x0000),
            ([0x01, 0x00], 0x0000),
            ([0x02, 0x00], 0x0001),
            ([0x05, 0x80], 0x4002),
            ([0x0e, 0x80], 0x4007),
            ([0xff, 0xff], 0x7fff),
        ];
        for (bytes, status) in cases {
            let cqe = cqe(bytes);
            let completion = Completion {
                dw0: 0x1234_5678,
                cid: 0xbeef,
                status,
            };
            assert_eq!(Completion::from(&cqe), completion);
            assert_eq!(Admin::cid(&cqe), 0xbeef);
            assert_eq!(Admin::status(&cqe), status);
        }
    }

    #[test]
    fn a_queue_count_is_the_smaller_half_plus_1() {
        let cases = [
            (0x0000_0000, 65, 1),
            (0x0003_0003, 65, 4),
            (0x0040_0001, 65, 2),
            (0x0001_0040, 65, 2),
            (0x0040_0040, 65, 65),
            (0x0041_0041, 65, 65),
            (0x0081_0081, 130, 130),
            (0xfffe_fffe, 130, 130),
            (0xffff_ffff, 65, 0),
            (0xffff_0003, 65, 0),
            (0x0003_ffff, 65, 0),
        ];
        for (dw0, most, count) in cases {
            assert_eq!(queue_count(dw0, most), count);
        }
    }

    /// The identify page of 4.4, of the controller with the given bytes.
    fn page(controller: [u8; 2]) -> [u8; IDENTIFY_LEN] {
        bytes(&[
            (0, &[0x14, 0x14, 0x14, 0x14]),
            (4, &[0x53; 32]),
            (36, &[0x46; 32]),
            (72, &[13]),
            (74, &controller),
            (77, &[0x66, 0x44]),
            (80, &[2]),
            (82, &[13, 0x77, 0x66]),
            (86, &[4]),
            (96, &[0x00, 0x04, 0x01, 0x00, 1]),
        ])
    }

    #[test]
    fn the_identify_page_is_read_as_documented() {
        let mut page = page([0x40, 0]);
        // The first and the last byte of either string.
        for (offset, byte) in [(4, 1), (35, 2), (36, 3), (67, 4)] {
            if let Some(to) = page.get_mut(offset) {
                *to = byte;
            }
        }
        let mut serial = [0x53; 32];
        (serial[0], serial[31]) = (1, 2);
        let mut firmware = [0x46; 32];
        (firmware[0], firmware[31]) = (3, 4);
        let identify = Identify {
            controller: 64,
            serial,
            firmware,
        };
        assert_eq!(Identify::parse(&page), Ok(identify));
    }

    #[test]
    fn a_controller_has_an_identifier_up_to_64() {
        let cases = [
            ([0, 0], Some(0)),
            ([1, 0], Some(1)),
            ([64, 0], Some(64)),
            ([65, 0], None),
            ([0, 1], None),
            ([0xff, 0xff], None),
        ];
        for (bytes, controller) in cases {
            let identify = Identify::parse(&page(bytes)).ok();
            assert_eq!(identify.map(|identify| identify.controller), controller);
        }
    }

    #[test]
    fn entries_of_another_size_are_refused() {
        for (offset, size) in [(77, 6), (78, 4), (83, 7), (84, 6)] {
            for byte in 0..=u8::MAX {
                let mut page = page([0, 0]);
                if let Some(to) = page.get_mut(offset) {
                    *to = byte;
                }
                // The high nibble is the smallest size, which may be any.
                assert_eq!(Identify::parse(&page).is_ok(), byte % 16 == size);
            }
        }
    }

    #[test]
    fn failures_have_an_error() {
        let cases = [
            (Failure::Status(0x4007), EIO),
            (Failure::Nonsense(""), EIO),
            (Failure::Lost(Lost::Busy), ETIMEDOUT),
            (Failure::Lost(Lost::TimedOut), ETIMEDOUT),
            (Failure::Lost(Lost::Deserted), ETIMEDOUT),
            (Failure::Lost(Lost::Interrupted), EINTR),
            (Failure::Lost(Lost::Killed), EINTR),
            (Failure::Lost(Lost::Refused), ENODEV),
            (Failure::Lost(Lost::Halted), ENODEV),
        ];
        for (failure, error) in cases {
            assert_eq!(Error::from(failure), error);
            assert!(!failure.is_no_groups());
        }
        assert!(Failure::Status(0x4002).is_no_groups());
        assert!(!Failure::Status(0x0002).is_no_groups());
    }

    #[test]
    fn the_queue_is_that_of_the_documentation() {
        assert_eq!(ENTRIES, 16);
        assert_eq!(IDENTIFY_LEN, 102);
        assert_eq!(FIRMWARE_GCM_UNALIGNED, 1);
        // A page for the identify page, on its own.
        assert!(Admin::SLOT_BYTES / 2 >= 4096);
    }
}
