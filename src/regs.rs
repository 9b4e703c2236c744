// SPDX-License-Identifier: GPL-2.0

//! Registers of the controller and doorbells.
//!
//! Documentation/device.rst 2 and 3.2.

use kernel::{
    device::Bound,
    io::{
        poll::read_poll_timeout,
        register,
        register::{
            FixedRegister,
            Register,
            RegisterArray, //
        },
    },
    pci,
    prelude::*,
    sizes::SZ_4K,
    time::Delta, //
};

use crate::sys::window::Window;

register! {
    /// Controller capabilities (2.2).
    pub(crate) CAP(u64) @ 0x00 {
        /// Ready timeout in units of 500 ms.
        31:24 to;
        /// Contiguous queues required.
        16:16 cqr => bool;
        /// Most entries of a queue, less one.
        15:0 mqes;
    }

    /// Controller configuration (2.4).
    pub(crate) CC(u32) @ 0x14 {
        /// Size of an AES completion queue entry, as log2.
        31:28 aes_cqes;
        /// Size of an AES submission queue entry, as log2.
        27:24 aes_sqes;
        /// Size of a HSM completion queue entry, as log2.
        23:20 iocqes;
        /// Size of a HSM submission queue entry, as log2.
        19:16 iosqes;
        /// Enable.
        0:0 en => bool;
    }

    /// Controller status (2.6).
    pub(crate) CSTS(u32) @ 0x1c {
        /// Controller fatal status.
        1:1 cfs => bool;
        /// Ready.
        0:0 rdy => bool;
    }

    /// Function reset (2.7).
    pub(crate) NSSR(u32) @ 0x20 {}

    /// Admin queue attributes (2.10).
    pub(crate) AQA(u32) @ 0x24 {
        /// Entries of the admin completion queue, less one.
        27:16 acqs;
        /// Entries of the admin submission queue, less one.
        11:0 asqs;
    }

    /// Bus address of the admin submission queue (2.10).
    pub(crate) ASQ(u64) @ 0x28 {}

    /// Bus address of the admin completion queue (2.10).
    pub(crate) ACQ(u64) @ 0x30 {}

    /// Tail of a submission queue, by queue number (3.2).
    pub(crate) SQ_TAIL(u32)[QUEUES, stride = 8] @ 0x0 {
        15:0 index;
    }

    /// Head of a completion queue, by queue number (3.2).
    pub(crate) CQ_HEAD(u32)[QUEUES, stride = 8] @ 0x4 {
        15:0 index;
    }
}

impl CAP {
    /// Returns how long the controller may take to become ready, or to stop (2.8.5).
    fn ready_timeout(self) -> Delta {
        // The device's own firmware takes 10 s; what it says may be anything.
        const MAX_UNITS: u8 = 60;

        let units = i64::from(u8::from(self.to()).min(MAX_UNITS));
        Delta::from_millis((units + 1) * 500)
    }
}

impl CC {
    /// Returns what enables the controller (2.4). The entry sizes are fixed, and are checked against
    /// what the device says of them before the first queue is made.
    fn enabled(self) -> Self {
        self.with_const_iosqes::<6>()
            .with_const_iocqes::<4>()
            .with_const_aes_sqes::<7>()
            .with_const_aes_cqes::<6>()
            .with_en(true)
    }
}

impl AQA {
    /// Returns the attributes of an admin queue of `size` entries per ring (2.10).
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such queue.
    fn of_size(size: u16) -> Result<Self> {
        let last = size.checked_sub(1).ok_or(EINVAL)?;
        AQA::zeroed().try_with_asqs(last)?.try_with_acqs(last)
    }
}

/// Queue numbers that have doorbells.
const QUEUES: usize = SZ_4K / 8;

/// What resets the function when it is written to [`NSSR`].
const NSSR_SIGNATURE: u32 = 0x4e56_4d65;

/// What a register reads as when the device is gone.
const ALL_ONES: u32 = u32::MAX;

/// The number of a queue that has doorbells.
///
/// # Invariants
///
/// Less than [`QUEUES`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct QueueId(u16);

impl QueueId {
    /// The admin queue.
    pub(crate) const ADMIN: Self = Self(0);
    /// The first HSM queue.
    pub(crate) const FIRST_HSM: u16 = 1;
    /// Most HSM queues that there can be (3.1).
    pub(crate) const MAX_HSM: u16 = 65;
    /// The first AES queue.
    pub(crate) const FIRST_AES: u16 = 256;
    /// Most AES queues that there can be (3.1).
    pub(crate) const MAX_AES: u16 = 130;

    /// Returns the number of the HSM queue `index`, from 0.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there can be no such queue.
    pub(crate) fn hsm(index: u16) -> Result<Self> {
        if index >= Self::MAX_HSM {
            return Err(EINVAL);
        }
        // INVARIANT: At most 65.
        Ok(Self(Self::FIRST_HSM + index))
    }

    /// Returns the number of the AES queue `index`, from 0.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there can be no such queue.
    pub(crate) fn aes(index: u16) -> Result<Self> {
        if index >= Self::MAX_AES {
            return Err(EINVAL);
        }
        // INVARIANT: At most 385.
        Ok(Self(Self::FIRST_AES + index))
    }

    /// Returns the number.
    pub(crate) fn get(self) -> u16 {
        self.0
    }

    /// Returns whether it is that of an AES queue.
    pub(crate) fn is_aes(self) -> bool {
        self.0 >= Self::FIRST_AES
    }
}

/// One of the 4 KiB windows of the function (1.1).
type Bar<'bound> = pci::Bar<'bound, SZ_4K>;

/// Maps the window `bar`.
///
/// # Errors
///
/// `ENODEV` unless it has exactly 4 KiB, `EBUSY` if somebody else has it, `ENOMEM`.
fn map<'bound>(
    dev: &'bound pci::Device<Bound>,
    bar: u32,
    name: &'static CStr,
) -> Result<Bar<'bound>> {
    check_size(dev, bar)?;
    dev.iomap_region_sized::<SZ_4K>(bar, name)
}

/// Checks that the window `bar` has exactly 4 KiB.
///
/// # Errors
///
/// `ENODEV` if it does not.
fn check_size(dev: &pci::Device<Bound>, bar: u32) -> Result {
    let len = dev.resource_len(bar)?;

    // CAST: Widening.
    if len != SZ_4K as u64 {
        dev_err!(dev, "BAR {bar} has {len} bytes, not {SZ_4K}\n");
        return Err(ENODEV);
    }
    Ok(())
}

/// How a controller is, as far as it says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Health {
    /// It is ready.
    Good,
    /// It is not ready.
    NotReady,
    /// It has a fault (2.9).
    Fault,
    /// It reads as all ones (2.6).
    Absent,
}

impl From<CSTS> for Health {
    fn from(csts: CSTS) -> Self {
        match csts.into_raw() {
            ALL_ONES => Health::Absent,
            _ if csts.cfs() => Health::Fault,
            _ if csts.rdy() => Health::Good,
            _ => Health::NotReady,
        }
    }
}

/// How a controller is stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stop {
    /// By disabling it (2.8.3).
    Disable,
    /// By resetting the function (2.8.4).
    Reset,
}

/// The registers of the controller, BAR 0.
pub(crate) type Registers<'bound> = RegistersOf<Bar<'bound>>;

/// Those in any window.
pub(crate) struct RegistersOf<W> {
    bar: W,
}

impl<'bound> Registers<'bound> {
    /// Maps the registers, and checks the window that the interrupt vectors are in.
    ///
    /// # Errors
    ///
    /// `ENODEV` unless each window has exactly 4 KiB, `EBUSY`, `ENOMEM`.
    pub(crate) fn new(dev: &'bound pci::Device<Bound>) -> Result<Self> {
        check_size(dev, 4)?;
        Ok(Self {
            bar: map(dev, 0, c"azihsm registers")?,
        })
    }
}

impl<W: Window> RegistersOf<W> {
    fn read<R: FixedRegister + From<u32>>(&self) -> R {
        self.bar.read_32(R::OFFSET).into()
    }

    fn write<R: FixedRegister + Into<u32>>(&self, value: R) {
        self.bar.write_32(R::OFFSET, value.into());
    }

    /// Returns the capabilities of the controller.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone.
    pub(crate) fn capabilities(&self) -> Result<CAP> {
        let cap = CAP::from_raw(self.bar.read_64(CAP::OFFSET)?);
        if cap.into_raw() == u64::MAX {
            return Err(ENODEV);
        }
        Ok(cap)
    }

    /// Returns how the controller is.
    pub(crate) fn health(&self) -> Health {
        Health::from(self.read::<CSTS>())
    }

    /// Returns whether the controller is ready, with a fault or without.
    pub(crate) fn is_ready(&self) -> bool {
        let csts = self.read::<CSTS>();
        csts.into_raw() != ALL_ONES && csts.rdy()
    }

    /// Returns how long the controller may take to become ready, or to stop (2.8.5).
    ///
    /// # Errors
    ///
    /// As [`Self::capabilities`].
    fn ready_timeout(&self) -> Result<Delta> {
        Ok(self.capabilities()?.ready_timeout())
    }

    /// Waits until the controller is ready, or until it is not, as long as `wanted` says so.
    ///
    /// Its fault status counts only while it starts: stopping clears it (2.8.5).
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `EIO` if the controller has a fault, `EINTR` if that is
    /// not wanted any more, `ETIMEDOUT`.
    fn wait_ready(&self, ready: bool, wanted: impl Fn() -> bool) -> Result {
        let timeout = self.ready_timeout()?;
        let is_over = |csts: &CSTS| csts.into_raw() == ALL_ONES || csts.rdy() == ready;
        let csts = read_poll_timeout(
            || Ok(self.read::<CSTS>()),
            |csts| is_over(csts) || !wanted(),
            Delta::from_millis(1),
            timeout,
        )
        .or_else(|error| {
            // This task may have been kept from looking in time.
            let csts = self.read::<CSTS>();
            is_over(&csts).then_some(csts).ok_or(error)
        })?;
        match csts.into_raw() {
            ALL_ONES => Err(ENODEV),
            _ if csts.rdy() != ready => Err(EINTR),
            _ if ready && csts.cfs() => Err(EIO),
            _ => Ok(()),
        }
    }

    /// Enables the controller with an admin queue of `size` entries per ring, and waits until it
    /// is ready. It must be disabled.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `EIO` if the controller has a fault, `ETIMEDOUT`.
    pub(crate) fn enable(&self, sq: u64, cq: u64, size: u16) -> Result {
        self.write(AQA::of_size(size)?);
        self.bar.write_64(ASQ::OFFSET, sq)?;
        self.bar.write_64(ACQ::OFFSET, cq)?;

        self.write(self.read::<CC>().enabled());
        // What it makes of being stopped before it has started is not known.
        self.wait_ready(true, || true)
    }

    /// Stops the controller, whatever its state, and waits until it has: it accesses no memory any
    /// more then. It is disabled as long as `wanted` says so; a reset always has its time.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone, `EINTR` if that is not wanted any more, `ETIMEDOUT`.
    pub(crate) fn stop(&self, how: Stop, wanted: impl Fn() -> bool) -> Result {
        let cc = self.read::<CC>();
        if cc.into_raw() == ALL_ONES {
            return Err(ENODEV);
        }
        // A reset of a controller that is not ready would come later, whatever it is by then.
        if how == Stop::Reset && self.read::<CSTS>().rdy() {
            self.write(NSSR::from_raw(NSSR_SIGNATURE));
            return self.wait_ready(false, || true);
        }
        if cc.en() {
            self.write(cc.with_en(false));
        }
        self.wait_ready(false, wanted)
    }
}

/// The doorbells, BAR 2.
pub(crate) type Doorbells<'bound> = DoorbellsOf<Bar<'bound>>;

/// Those in any window.
pub(crate) struct DoorbellsOf<W> {
    pub(crate) bar: W,
}

impl<'bound> Doorbells<'bound> {
    /// Maps the doorbells.
    ///
    /// # Errors
    ///
    /// `ENODEV` unless the window has exactly 4 KiB, `EBUSY`, `ENOMEM`.
    pub(crate) fn new(dev: &'bound pci::Device<Bound>) -> Result<Self> {
        Ok(Self {
            bar: map(dev, 2, c"azihsm doorbells")?,
        })
    }
}

impl<W: Window> DoorbellsOf<W> {
    #[inline(always)]
    fn ring<R: RegisterArray + Into<u32>>(&self, queue: QueueId, value: R) {
        let index = usize::from(queue.get());

        // By the invariant of `queue` there always is one.
        if index < R::SIZE {
            self.bar
                .write_32(R::OFFSET + index * R::STRIDE, value.into());
        }
    }

    /// Tells the device of the new tail of a submission queue.
    pub(crate) fn ring_sq(&self, queue: QueueId, tail: u32) {
        self.ring(queue, SQ_TAIL::from_raw(tail));
    }

    /// Tells the device of the new head of a completion queue.
    pub(crate) fn ring_cq(&self, queue: QueueId, head: u32) {
        self.ring(queue, CQ_HEAD::from_raw(head));
    }
}

#[kunit_tests(azihsm_regs)]
mod tests {
    use super::*;
    use crate::sys::window::fake::{
        Fake,
        Look,
        Look::{
            Finds,
            FindsLate, //
        },
        Write, //
    };
    use kernel::{
        io::register::Array,
        time::{
            Instant,
            Monotonic, //
        }, //
    };

    // What the device reads (2.2).
    const PRESENT_CAP: u64 = 0x0010_0000_1403_03ff;

    #[test]
    fn registers_are_where_the_device_has_them() {
        let offsets = [
            (CAP::OFFSET, 0x00),
            (CC::OFFSET, 0x14),
            (CSTS::OFFSET, 0x1c),
            (NSSR::OFFSET, 0x20),
            (AQA::OFFSET, 0x24),
            (ASQ::OFFSET, 0x28),
            (ACQ::OFFSET, 0x30),
        ];
        for (offset, documented) in offsets {
            assert_eq!(offset, documented);
        }
    }

    #[test]
    fn doorbells_are_8_bytes_apart() -> Result {
        let doorbell = |first, stride, queue: QueueId| first + stride * usize::from(queue.get());
        let sq = |queue| doorbell(SQ_TAIL::OFFSET, SQ_TAIL::STRIDE, queue);
        let cq = |queue| doorbell(CQ_HEAD::OFFSET, CQ_HEAD::STRIDE, queue);
        assert_eq!((sq(QueueId::ADMIN), cq(QueueId::ADMIN)), (0, 4));
        assert_eq!(QueueId::hsm(0).map(|id| (sq(id), cq(id))), Ok((8, 12)));
        assert_eq!(
            QueueId::aes(129).map(|id| (sq(id), cq(id))),
            Ok((3080, 3084))
        );
        for index in 0..QueueId::MAX_AES {
            let id = QueueId::aes(index)?;
            assert!(SQ_TAIL::try_at(usize::from(id.get())).is_some());
            assert!(CQ_HEAD::try_at(usize::from(id.get())).is_some());
        }
        Ok(())
    }

    #[test]
    fn doorbells_take_an_index_and_no_more() {
        assert_eq!(SQ_TAIL::from_raw(0x0123).into_raw(), 0x0123);
        assert_eq!(u16::from(CQ_HEAD::from_raw(0xc000_ffff).index()), 0xffff);
    }

    #[test]
    fn queues_have_the_numbers_of_their_class() {
        let hsm = [
            (0, Ok(1)),
            (64, Ok(65)),
            (65, Err(EINVAL)),
            (u16::MAX, Err(EINVAL)),
        ];
        for (index, id) in hsm {
            assert_eq!(QueueId::hsm(index).map(QueueId::get), id);
        }
        let aes = [
            (0, Ok(256)),
            (129, Ok(385)),
            (130, Err(EINVAL)),
            (u16::MAX, Err(EINVAL)),
        ];
        for (index, id) in aes {
            assert_eq!(QueueId::aes(index).map(QueueId::get), id);
        }
        assert_eq!(QueueId::ADMIN.get(), 0);
    }

    #[test]
    fn capabilities_are_read_as_documented() {
        let cap = CAP::from_raw(PRESENT_CAP);
        assert_eq!(u16::from(cap.mqes()), 1023);
        assert!(cap.cqr());
        assert_eq!(u8::from(cap.to()), 20);
        let others = CAP::from_raw(!(0xff << 24 | 1 << 16 | 0xffff));
        assert_eq!(u16::from(others.mqes()), 0);
        assert!(!others.cqr());
        assert_eq!(u8::from(others.to()), 0);
    }

    #[test]
    fn the_time_to_become_ready_is_bounded() {
        let cases = [
            (0u64, 500),
            (1, 1000),
            (20, 10_500),
            (60, 30_500),
            (255, 30_500),
        ];
        for (units, millis) in cases {
            let timeout = CAP::from_raw(units << 24).ready_timeout();
            assert_eq!(timeout.as_millis(), millis);
        }
    }

    #[test]
    fn enabling_sets_the_entry_sizes_and_leaves_the_rest_alone() {
        assert_eq!(CC::from_raw(0).enabled().into_raw(), 0x6746_0001);
        assert_eq!(CC::from_raw(0x1234_fffe).enabled().into_raw(), 0x6746_ffff);
        assert_eq!(
            CC::from_raw(0x6746_0001).with_en(false).into_raw(),
            0x6746_0000
        );
    }

    #[test]
    fn the_admin_queue_has_as_many_entries_as_it_says() {
        let cases = [
            (2, Ok(0x0001_0001)),
            (16, Ok(0x000f_000f)),
            (4096, Ok(0x0fff_0fff)),
        ];
        for (size, raw) in cases {
            assert_eq!(AQA::of_size(size).map(AQA::into_raw), raw);
        }
        for size in [0, 4097, u16::MAX] {
            assert!(AQA::of_size(size).is_err());
        }
    }

    #[test]
    fn the_status_says_how_the_controller_is() {
        let cases = [
            (0x0000_0000, Health::NotReady),
            (0x0000_0001, Health::Good),
            (0x0000_0002, Health::Fault),
            (0x0000_0003, Health::Fault),
            // Of no concern (2.6).
            (0x0000_003d, Health::Good),
            (0x0000_003c, Health::NotReady),
            (0xffff_fffe, Health::Fault),
            (0xffff_ffff, Health::Absent),
        ];
        for (raw, health) in cases {
            assert_eq!(Health::from(CSTS::from_raw(raw)), health);
        }
    }

    #[test]
    fn a_reset_takes_the_signature() {
        assert_eq!(NSSR::from_raw(NSSR_SIGNATURE).into_raw(), 0x4e56_4d65);
    }

    /// Returns registers with these values; `units` is how long they take to become ready.
    fn registers(units: u64, cc: u32, script: &[Look]) -> Result<RegistersOf<Fake<'_>>> {
        let bar = Fake::new(script)?;
        let cap = PRESENT_CAP & !(0xff << 24) | units << 24;
        // CAST: Takes half of the bits each.
        bar.set(0x00, cap as u32);
        bar.set(0x04, (cap >> 32) as u32);
        bar.set(0x14, cc);
        Ok(RegistersOf { bar })
    }

    fn write(looks_before: usize, offset: usize, value: u32) -> Write {
        Write {
            offset,
            bits: 32,
            value: value.into(),
            looks_before,
        }
    }

    fn write_64(looks_before: usize, offset: usize, value: u64) -> Write {
        Write {
            bits: 64,
            value,
            ..write(looks_before, offset, 0)
        }
    }

    #[test]
    fn a_device_that_is_gone_has_neither_capabilities_nor_health() -> Result {
        let there = registers(20, 0, &[Finds(1)])?;
        assert_eq!(there.capabilities()?.into_raw(), PRESENT_CAP);
        assert_eq!(there.health(), Health::Good);
        assert_eq!((there.bar.looks(), there.bar.strays()), (1, 0));

        let gone = registers(20, 0, &[Finds(ALL_ONES)])?;
        gone.bar.set(0x00, ALL_ONES);
        // Half of it may be.
        assert!(gone.capabilities().is_ok());
        gone.bar.set(0x04, ALL_ONES);
        assert_eq!(gone.capabilities().err(), Some(ENODEV));
        assert_eq!(gone.health(), Health::Absent);
        assert!(gone.bar.takes(&[]));
        Ok(())
    }

    // 2.8.2, and 2.8.5: what ends the wait, and how often it looks for that.
    #[test]
    fn enabling_waits_until_the_controller_is_ready() -> Result {
        const SQ: u64 = 0x0123_4567_89ab_c000;
        const CQ: u64 = 0xfedc_ba98_7654_3000;

        let cases: [(u32, &[Look], Result, usize); 9] = [
            (0, &[Finds(1)], Ok(()), 1),
            (0x3ff0, &[Finds(0), Finds(0), Finds(1)], Ok(()), 3),
            // Of no concern (2.6).
            (0, &[Finds(0x3c), Finds(0x3d)], Ok(()), 2),
            // A fault counts together with RDY.
            (0, &[Finds(2), Finds(1)], Ok(()), 2),
            (0, &[Finds(0), Finds(3)], Err(EIO), 2),
            (0, &[Finds(3)], Err(EIO), 1),
            (0, &[Finds(0), Finds(ALL_ONES)], Err(ENODEV), 2),
            (0, &[Finds(ALL_ONES)], Err(ENODEV), 1),
            (0, &[Finds(ALL_ONES), Finds(1)], Err(ENODEV), 1),
        ];
        for (cc, script, result, looks) in cases {
            let registers = registers(20, cc, script)?;
            assert_eq!(registers.enable(SQ, CQ, 16), result);
            assert_eq!((registers.bar.looks(), registers.bar.strays()), (looks, 0));
            // All of it before the first look.
            assert!(registers.bar.takes(&[
                write(0, 0x24, 0x000f_000f),
                write_64(0, 0x28, SQ),
                write_64(0, 0x30, CQ),
                write(0, 0x14, 0x6746_0001 | cc),
            ]));
            assert_eq!(
                (registers.bar.get(0x28), registers.bar.get(0x2c)),
                (0x89ab_c000, 0x0123_4567)
            );
            assert_eq!(
                (registers.bar.get(0x30), registers.bar.get(0x34)),
                (0x7654_3000, 0xfedc_ba98)
            );
        }
        Ok(())
    }

    #[test]
    fn a_queue_that_there_cannot_be_is_not_enabled() -> Result {
        for size in [0, 4097, u16::MAX] {
            let registers = registers(20, 0, &[Finds(1)])?;
            assert!(registers.enable(0, 0, size).is_err());
            assert!(registers.bar.takes(&[]));
        }
        Ok(())
    }

    #[test]
    fn a_device_that_is_gone_says_nothing_of_a_timeout() -> Result {
        let registers = registers(20, 1, &[Finds(0)])?;
        registers.bar.set(0x00, ALL_ONES);
        registers.bar.set(0x04, ALL_ONES);
        assert_eq!(registers.enable(0, 0, 16), Err(ENODEV));
        assert_eq!(registers.stop(Stop::Disable, || true), Err(ENODEV));
        assert_eq!(registers.bar.looks(), 0);
        Ok(())
    }

    // 2.8.5: (TO + 1) x 500 ms, and one more look then.
    #[test]
    fn waiting_ends_when_the_controller_should_be_ready() -> Result {
        for (units, millis) in [(0, 500), (1, 1000)] {
            for is_enabled in [true, false] {
                let script = [Finds(u32::from(!is_enabled))];
                let registers = registers(units, 1, &script)?;
                let start = Instant::<Monotonic>::now();
                let result = if is_enabled {
                    registers.enable(0, 0, 16)
                } else {
                    registers.stop(Stop::Disable, || true)
                };
                assert_eq!(result, Err(ETIMEDOUT));
                assert!(start.elapsed().as_millis() >= millis);
                assert!(registers.bar.looks() > 2);
            }
        }
        // Whoever was kept from looking looks once more.
        let late: [([Look; 2], Result); 4] = [
            ([FindsLate(0), Finds(1)], Ok(())),
            ([FindsLate(0), Finds(3)], Err(EIO)),
            ([FindsLate(0), Finds(ALL_ONES)], Err(ENODEV)),
            ([FindsLate(0), Finds(0)], Err(ETIMEDOUT)),
        ];
        for (script, result) in late {
            let registers = registers(0, 0, &script)?;
            assert_eq!(registers.enable(0, 0, 16), result);
            assert_eq!(registers.bar.looks(), 2);
        }
        Ok(())
    }

    #[test]
    fn stopping_waits_as_long_as_it_is_wanted() -> Result {
        let cases: [(&[Look], Result, usize); 4] = [
            (&[Finds(1), Finds(0)], Err(EINTR), 1),
            (&[Finds(2)], Ok(()), 1),
            (&[Finds(0)], Ok(()), 1),
            (&[Finds(ALL_ONES)], Err(ENODEV), 1),
        ];
        for (script, result, looks) in cases {
            let registers = registers(20, 0x6746_0001, script)?;
            assert_eq!(registers.stop(Stop::Disable, || false), result);
            assert_eq!((registers.bar.looks(), registers.bar.strays()), (looks, 0));
            assert!(registers.bar.takes(&[write(0, 0x14, 0x6746_0000)]));
        }
        // Whoever enables it next must not be hit by a reset that it has not come to yet.
        let registers = registers(20, 0x6746_0001, &[Finds(1), Finds(1), Finds(0)])?;
        assert_eq!(registers.stop(Stop::Reset, || false), Ok(()));
        assert_eq!(registers.bar.looks(), 3);
        Ok(())
    }

    // 2.8.3, 2.8.4.
    #[test]
    fn stopping_waits_until_the_controller_is_not_ready() -> Result {
        use Stop::{
            Disable,
            Reset, //
        };
        const ENABLED: u32 = 0x6746_0001;
        const CC: usize = 0x14;
        const NSSR: usize = 0x20;

        let disable = |looks_before| Some(write(looks_before, CC, 0x6746_0000));
        let reset = |looks_before| Some(write(looks_before, NSSR, 0x4e56_4d65));
        type Case<'a> = (Stop, u32, &'a [Look], Option<Write>, Result, usize);
        let cases: [Case<'_>; 14] = [
            (
                Disable,
                ENABLED,
                &[Finds(1), Finds(1), Finds(0)],
                disable(0),
                Ok(()),
                3,
            ),
            // It was not enabled, or not any more.
            (Disable, 0x6746_0000, &[Finds(1), Finds(0)], None, Ok(()), 2),
            (Disable, 0, &[Finds(0)], None, Ok(()), 1),
            // A fault means nothing now.
            (
                Disable,
                ENABLED,
                &[Finds(3), Finds(2)],
                disable(0),
                Ok(()),
                2,
            ),
            (
                Disable,
                ENABLED,
                &[Finds(1), Finds(ALL_ONES)],
                disable(0),
                Err(ENODEV),
                2,
            ),
            (Disable, ALL_ONES, &[Finds(0)], None, Err(ENODEV), 0),
            (
                Reset,
                ENABLED,
                &[Finds(1), Finds(1), Finds(0)],
                reset(1),
                Ok(()),
                3,
            ),
            (
                Reset,
                ENABLED,
                &[Finds(3), Finds(3), Finds(2)],
                reset(1),
                Ok(()),
                3,
            ),
            // It says that it is enabled after a reset, too.
            (Reset, ENABLED, &[Finds(0), Finds(0)], disable(1), Ok(()), 2),
            (
                Reset,
                ENABLED,
                &[Finds(0), Finds(1), Finds(0)],
                disable(1),
                Ok(()),
                3,
            ),
            (Reset, 0, &[Finds(0), Finds(0)], None, Ok(()), 2),
            (Reset, 0, &[Finds(1), Finds(0)], reset(1), Ok(()), 2),
            (
                Reset,
                ENABLED,
                &[Finds(1), Finds(ALL_ONES)],
                reset(1),
                Err(ENODEV),
                2,
            ),
            (Reset, ALL_ONES, &[Finds(0)], None, Err(ENODEV), 0),
        ];
        for (how, cc, script, written, result, looks) in cases {
            let registers = registers(20, cc, script)?;
            assert_eq!(registers.stop(how, || true), result);
            assert_eq!((registers.bar.looks(), registers.bar.strays()), (looks, 0));
            assert!(registers.bar.takes(written.as_slice()));
        }
        Ok(())
    }

    // 3.2.
    #[test]
    fn doorbells_ring_where_the_device_has_them() -> Result {
        let doorbells = DoorbellsOf {
            bar: Fake::new(&[])?,
        };
        let bar = &doorbells.bar;
        let cases = [
            (QueueId::ADMIN, 0x000, 0x004),
            (QueueId::hsm(0)?, 0x008, 0x00c),
            (QueueId::hsm(64)?, 0x208, 0x20c),
            (QueueId::aes(0)?, 0x800, 0x804),
            (QueueId::aes(129)?, 0xc08, 0xc0c),
        ];
        for (queue, sq, cq) in cases {
            for index in [0, 1, 15, 1023] {
                doorbells.ring_sq(queue, index);
                assert!(bar.takes(&[write(0, sq, index)]));
                doorbells.ring_cq(queue, index);
                assert!(bar.takes(&[write(0, cq, index)]));
            }
        }

        // Each has its own, and all others are left alone.
        let bar = Fake::new(&[])?;
        let doorbells = DoorbellsOf { bar };
        let hsm = (0..QueueId::MAX_HSM).map(QueueId::hsm);
        let aes = (0..QueueId::MAX_AES).map(QueueId::aes);
        for queue in Iterator::chain(hsm, aes) {
            let queue = queue?;
            doorbells.ring_sq(queue, u32::from(queue.get()));
            doorbells.ring_cq(queue, 0x8000 | u32::from(queue.get()));
        }
        for number in 0..512 {
            let there = matches!(number, 1..=65 | 256..=385);
            let expected = if there {
                (number, 0x8000 | number)
            } else {
                (0, 0)
            };
            let offset = 8 * number as usize;
            let found = (doorbells.bar.get(offset), doorbells.bar.get(offset + 4));
            assert_eq!(found, expected);
        }
        assert_eq!(doorbells.bar.strays(), 0);
        Ok(())
    }

    #[test]
    fn no_doorbell_is_outside_the_window() -> Result {
        let doorbells = DoorbellsOf {
            bar: Fake::new(&[])?,
        };
        let bar = &doorbells.bar;
        // As if there were such numbers.
        for number in 0..=u16::MAX {
            doorbells.ring_sq(QueueId(number), 7);
            doorbells.ring_cq(QueueId(number), 9);
            let writes = [
                write(0, 8 * usize::from(number), 7),
                write(0, 8 * usize::from(number) + 4, 9),
            ];
            let expected = if number < 512 { &writes[..] } else { &[] };
            assert!(bar.takes(expected));
        }
        assert_eq!(bar.strays(), 0);
        Ok(())
    }
}
