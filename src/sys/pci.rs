// SPDX-License-Identifier: GPL-2.0

//! PCI functions.
//!
//! Missing upstream: vendors that `include/linux/pci_ids.h` does not name, undoing what enables a
//! function, and the callbacks of a driver other than `probe()` and `unbind()`.

use core::marker::PhantomData;

use kernel::{
    bindings,
    device::{
        Bound,
        Core,
        CoreInternal, //
    },
    dma::{
        Device as _,
        DmaMask, //
    },
    driver,
    error::to_result,
    pci,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
    types::{
        ForLt,
        Opaque, //
    },
};

use super::{
    compat,
    gate::Gate,
    live::{
        Interrupts,
        Live, //
    },
    sriov, //
};

/// Microsoft, as the vendor of a PCI function.
// SAFETY: A `Vendor` is a transparent `u16` with no invalid values.
pub(crate) const VENDOR_MICROSOFT: pci::Vendor =
    unsafe { core::mem::transmute::<u16, pci::Vendor>(0x1414) };

/// A function whose memory may be accessed and which, once it is told, may access ours.
///
/// Dropping it takes both back.
pub(crate) struct Enabled<'bound>(&'bound pci::Device<Bound>);

impl<'bound> Enabled<'bound> {
    /// Enables memory accesses of `dev`, which uses 64-bit bus addresses. To be called from
    /// [`Driver::probe`] only.
    ///
    /// # Errors
    ///
    /// `EIO` if the machine cannot do DMA with 64-bit masks, or what enabling the function says.
    pub(crate) fn new(dev: &'bound Probing<'_>) -> Result<Self> {
        let Probing(dev) = dev;
        dev.enable_device_mem()?;
        let this = Self(dev);

        // SAFETY: A `Probing` exists only while the function is being probed. Its users of the DMA
        // API come after this.
        unsafe { dev.dma_set_mask_and_coherent(DmaMask::new::<64>()) }?;

        // SAFETY: As above.
        unsafe { dev.dma_set_max_seg_size(u32::MAX) };

        // What is restored after a reset of the slot.
        // SAFETY: The function is valid, and nobody else saves its state while it is probed.
        to_result(unsafe { bindings::pci_save_state(this.as_raw()) })?;
        Ok(this)
    }

    /// Returns the function.
    pub(crate) fn dev(&self) -> &'bound pci::Device<Bound> {
        self.0
    }

    /// Makes the configuration what it was when the driver was bound, if the function has lost it,
    /// or if that cannot be told.
    pub(crate) fn restore(&self) {
        if !self.answers_memory() {
            restore_state(self.as_raw());
        }
    }

    /// Returns whether the function is known to have lost its configuration, and answers.
    pub(crate) fn has_lost_configuration(&self) -> bool {
        // SAFETY: The function is valid. The bit was set before the driver was bound, and stays;
        // its neighbours are written by the PCI core, with a load and a store of what has them all.
        let has_bit = unsafe { (*self.as_raw()).no_command_memory() } == 0;

        // Virtual functions do not have it.
        has_bit && !self.answers_memory()
    }

    /// Returns whether the function says that it answers at its addresses, or does not answer at
    /// all.
    fn answers_memory(&self) -> bool {
        let mut command = 0;

        // SAFETY: The function is valid.
        unsafe {
            bindings::pci_read_config_word(
                self.as_raw(),
                bindings::PCI_COMMAND as c_int,
                &mut command,
            )
        };
        // CAST: A bit of the word.
        command & bindings::PCI_COMMAND_MEMORY as u16 != 0
    }

    /// Switches bus mastering on.
    pub(crate) fn set_master(&self) {
        // SAFETY: The function is valid and enabled.
        unsafe { bindings::pci_set_master(self.as_raw()) };
    }

    /// Switches bus mastering off: the function cannot start DMA any more.
    pub(crate) fn clear_master(&self) {
        // SAFETY: The function is valid.
        unsafe { bindings::pci_clear_master(self.as_raw()) };
    }

    /// Restores messages, if interrupts are by messages and the function has forgotten that, as a
    /// virtual one has when its physical one was reset: the PCI core sees to that one only.
    pub(crate) fn restore_interrupts(&self) {
        let pdev = self.as_raw();
        let mut control = 0;

        // SAFETY: The function is valid, and where its capability is does not change.
        unsafe {
            let place = c_int::from((*pdev).msix_cap) + bindings::PCI_MSIX_FLAGS as c_int;
            bindings::pci_read_config_word(pdev, place, &mut control);
        }
        // CAST: A bit of the word.
        if control & bindings::PCI_MSIX_FLAGS_ENABLE as u16 == 0 {
            // SAFETY: The function is valid. What has been set up is written, if anything has, under
            // the lock of those who set up more or less. If an interrupt is moved to another
            // processor at that very moment it may be lost, as when the PCI core restores it, and
            // its queue is looked at by the monitor.
            unsafe { bindings::pci_restore_msi_state(pdev) };
        }
    }

    /// Returns whether the function is there, as far as configuration accesses tell.
    ///
    /// One that is being reset may not answer yet, or ask to try again later, and may access memory
    /// nevertheless, which `pci_device_is_present()` does not say. So this waits for it, and sleeps.
    pub(crate) fn is_present(&self) -> bool {
        let began = Instant::<Monotonic>::now();
        // How often it did not answer in a row.
        let mut silent = 0;
        loop {
            match self.answer() {
                Answer::Ready => return true,
                Answer::Unplugged => return false,
                Answer::Nothing => silent += 1,
                Answer::Later if began.elapsed() > NOT_READY => return true,
                Answer::Later => silent = 0,
            }
            if silent > SILENT {
                return false;
            }
            fsleep(LOOK_AGAIN);
        }
    }

    /// Asks the function whether it is there; of a virtual one the physical one is asked, too.
    fn answer(&self) -> Answer {
        let read = |pdev, place: u32| {
            let mut word = 0;
            // SAFETY: The function is valid, and so is its physical one as long as it is.
            let error = unsafe { bindings::pci_read_config_word(pdev, place as c_int, &mut word) };
            (error == 0).then_some(word)
        };
        // First, as software is told only of this one that it should be read later.
        match read(self.answering(), bindings::PCI_VENDOR_ID) {
            None => return Answer::Unplugged,
            // Nobody has that identifier.
            Some(u16::MAX) => return Answer::Nothing,
            Some(RETRY) => return Answer::Later,
            Some(_) => {}
        }
        match read(self.as_raw(), bindings::PCI_COMMAND) {
            None => Answer::Unplugged,
            Some(u16::MAX) => Answer::Later,
            Some(_) => Answer::Ready,
        }
    }

    /// Returns the function that has a vendor identifier: a virtual one's reads as all ones.
    fn answering(&self) -> *mut bindings::pci_dev {
        let pdev = self.as_raw();

        #[cfg(CONFIG_PCI_IOV)]
        // SAFETY: The function is valid. What kind it is does not change, and the neighbours of that
        // bit are written with a load and a store of what has them all. A virtual function has, and
        // holds a reference to, a physical one.
        unsafe {
            if (*pdev).is_virtfn() != 0 {
                return (*pdev).__bindgen_anon_1.physfn;
            }
        }
        pdev
    }

    /// Waits for what the function has begun to read, and resets it through the bus, after which it
    /// does nothing more. Returns whether that worked. To be called only while the driver is bound,
    /// unbound, or shut down.
    pub(crate) fn reset_function(&self) -> bool {
        let pdev = self.as_raw();

        // SAFETY: The function is valid. The driver core has the device locked around the callbacks
        // that this is called from.
        let reset = unsafe {
            bindings::pci_wait_for_pending_transaction(pdev);
            bindings::__pci_reset_function_locked(pdev) == 0
        };
        if reset {
            // What was saved before: it may not have answered since.
            restore_state(pdev);
        }
        self.clear_master();
        reset
    }

    fn as_raw(&self) -> *mut bindings::pci_dev {
        // CAST: A `pci::Device` is a transparent `struct pci_dev`.
        core::ptr::from_ref(self.0).cast_mut().cast()
    }
}

impl Drop for Enabled<'_> {
    fn drop(&mut self) {
        // SAFETY: The function is valid and was enabled once by `Self::new()`.
        unsafe { bindings::pci_disable_device(self.as_raw()) };
    }
}

/// Restores the configuration of a function from what was saved, and keeps that.
fn restore_state(pdev: *mut bindings::pci_dev) {
    // SAFETY: Callers have a function that is valid, and bound to the driver, which alone saves and
    // restores its state then; the PCI core does while it resets the function or has it sleep, and
    // the driver does not touch it meanwhile.
    unsafe {
        (*pdev).set_state_saved(1);
        bindings::pci_restore_state(pdev);
        (*pdev).set_state_saved(1);
    }
}

/// How a function answers configuration accesses.
enum Answer {
    /// As it should.
    Ready,
    /// It asks to try again later, or a virtual function does not answer that has a physical one.
    Later,
    /// It does not.
    Nothing,
    /// The way to it is not there any more, as the PCI core or the host bridge knows.
    Unplugged,
}

/// How long it is until the function is asked again.
const LOOK_AGAIN: Delta = Delta::from_millis(10);

/// How often in a row a function that is being reset may be asked and not answer, in whatever way:
/// for a second.
const SILENT: u32 = 100;

/// How long one is waited for that asks to try again later.
const NOT_READY: Delta = Delta::from_secs(10);

/// What is read as the vendor identifier of such a function, if its root port tells (Request Retry
/// Status).
const RETRY: u16 = 0x0001;

/// Why a driver is to leave a function alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Hold {
    /// The PCI core resets the function.
    FunctionReset = 1 << 0,
    /// There is an error on the way to it.
    LinkError = 1 << 1,
    /// The machine sleeps.
    Sleep = 1 << 2,
}

/// A function that is being probed.
#[repr(transparent)]
pub(crate) struct Probing<'a>(pci::Device<Core<'a>>);

/// A PCI driver whose functions have a state that interrupts and open files lead to.
pub(crate) trait Driver: Sized + 'static
where
    for<'a> <Self::State as ForLt>::Of<'a>: Interrupts + Send + Sync,
{
    /// The family of states of a bound function.
    type State: ForLt;

    /// What makes it known to users. It is dropped before the state.
    type Service: Send + Sync + 'static;

    /// The functions that the driver is for.
    const ID_TABLE: pci::IdTable<()>;

    /// Makes the state of `dev`, to which `gate` will lead.
    ///
    /// # Errors
    ///
    /// Becomes that of binding.
    fn probe<'bound>(
        dev: &'bound Probing<'_>,
        gate: &Arc<Gate<Self::State>>,
    ) -> Result<<Self::State as ForLt>::Of<'bound>>;

    /// Begins to serve users, now that interrupts are handled and `gate` is open.
    ///
    /// # Errors
    ///
    /// Becomes that of binding.
    fn serve(
        state: &<Self::State as ForLt>::Of<'_>,
        gate: &Arc<Gate<Self::State>>,
    ) -> Result<Self::Service>;

    /// Does what goes with a physical function having `count` virtual ones, now that it has, or none
    /// any more.
    ///
    /// # Errors
    ///
    /// Becomes that of giving it virtual functions, which are then taken away again.
    fn follow(
        state: &<Self::State as ForLt>::Of<'_>,
        service: &Self::Service,
        count: u16,
    ) -> Result;

    /// Turns new users away and ends what is under way, before unbinding. There are no virtual
    /// functions any more, except for those that virtual machines use. Is called if binding failed
    /// after [`Driver::serve`], too.
    fn unbind(state: &<Self::State as ForLt>::Of<'_>, service: &Self::Service);

    /// Stops the device, and does not touch it until [`Driver::resume`] for the same reason.
    fn pause(state: &<Self::State as ForLt>::Of<'_>, reason: Hold);

    /// Starts the device, unless there is another reason not to, or `reason` was none.
    fn resume(state: &<Self::State as ForLt>::Of<'_>, reason: Hold);

    /// Turns users away and ends what is under way, as [`Self::unbind`] does, but waits for nothing
    /// that only users want: the machine is switched off, restarted, or starts another kernel.
    /// [`Self::unbind`] may follow or not.
    fn shutdown(state: &<Self::State as ForLt>::Of<'_>, service: &Self::Service);
}

/// What a bound function has. The fields are dropped in this order.
pub(crate) struct Data<'bound, T: Driver>
where
    for<'a> <T::State as ForLt>::Of<'a>: Interrupts + Send + Sync,
{
    service: T::Service,
    live: Live<'bound, T::State>,
    unbound: Atomic<bool>,
}

impl<T: Driver> Drop for Data<'_, T>
where
    for<'a> <T::State as ForLt>::Of<'a>: Interrupts + Send + Sync,
{
    /// If the function could not be bound after all there may be callers already.
    fn drop(&mut self) {
        if !self.unbound.load(Relaxed) {
            T::unbind(self.live.state(), &self.service);
        }
    }
}

/// The kernel crate's side of a [`Driver`].
pub(crate) struct Inner<T>(PhantomData<T>);

impl<T: Driver> pci::Driver for Inner<T>
where
    for<'a> <T::State as ForLt>::Of<'a>: Interrupts + Send + Sync,
{
    type IdInfo = ();
    type Data<'bound> = Data<'bound, T>;

    const ID_TABLE: pci::IdTable<()> = T::ID_TABLE;

    fn probe<'bound>(
        dev: &'bound pci::Device<Core<'_>>,
        _info: compat::IdInfo<'bound>,
    ) -> impl PinInit<Data<'bound, T>, Error> + 'bound {
        // CAST: `Probing` is a transparent `pci::Device`.
        let dev = core::ptr::from_ref(dev).cast::<Probing<'_>>();

        // SAFETY: As above, and the lifetime is the same.
        let dev: &'bound Probing<'_> = unsafe { &*dev };
        probe::<T>(dev)
    }

    fn unbind<'bound>(dev: &'bound pci::Device<Core<'_>>, this: Pin<&Data<'bound, T>>) {
        if !sriov::abandon(dev) {
            dev_warn!(dev, "virtual machines use virtual functions, which stay\n");
        }
        T::unbind(this.live.state(), &this.service);
        // Relaxed: it is looked at when nobody else has it any more.
        this.unbound.store(true, Relaxed);
    }
}

fn probe<'bound, T: Driver>(dev: &'bound Probing<'_>) -> Result<Data<'bound, T>>
where
    for<'a> <T::State as ForLt>::Of<'a>: Interrupts + Send + Sync,
{
    let gate = Gate::<T::State>::new()?;
    let state = KBox::pin(T::probe(dev, &gate)?, GFP_KERNEL)?;

    // SAFETY: It is dropped at the end of this function or becomes private data of the driver,
    // which the driver core drops when it is unbound.
    let live = unsafe { Live::new(state, gate.clone()) }?;
    live.open();
    let service = T::serve(live.state(), &gate)?;
    Ok(Data {
        service,
        live,
        unbound: Atomic::new(false),
    })
}

/// Registers a [`Driver`] as [`pci::Adapter`] does, with the callbacks that that one leaves out.
pub(crate) struct Adapter<T: Driver>(PhantomData<T>)
where
    for<'a> <T::State as ForLt>::Of<'a>: Interrupts + Send + Sync;

// SAFETY: All of it is as for `pci::Adapter<Inner<T>>`, to which everything is forwarded.
unsafe impl<T: Driver> driver::DriverLayout for Adapter<T>
where
    for<'a> <T::State as ForLt>::Of<'a>: Interrupts + Send + Sync,
{
    type DriverType = <pci::Adapter<Inner<T>> as driver::DriverLayout>::DriverType;
    type DriverData<'bound> = Data<'bound, T>;
    const DEVICE_DRIVER_OFFSET: usize =
        <pci::Adapter<Inner<T>> as driver::DriverLayout>::DEVICE_DRIVER_OFFSET;
}

// SAFETY: Both are forwarded to `pci::Adapter<Inner<T>>`.
unsafe impl<T: Driver> driver::RegistrationOps for Adapter<T>
where
    for<'a> <T::State as ForLt>::Of<'a>: Interrupts + Send + Sync,
{
    unsafe fn register(
        pdrv: &Opaque<Self::DriverType>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        // SAFETY: The structure is not registered yet, so nobody else looks at it.
        unsafe {
            let pdrv = pdrv.get();
            (*pdrv).shutdown = Some(Self::shutdown_callback);
            (*pdrv).sriov_configure = Some(Self::sriov_configure_callback);
            #[cfg(azihsm_test_pf)]
            {
                (*pdrv).groups = super::pretended::groups();
            }
            (*pdrv).err_handler = Self::ERROR_HANDLERS;
            (*pdrv).driver.pm = Self::PM_OPS;
        }

        // SAFETY: By the safety requirements of this function. `pci::Adapter` sets the callbacks
        // that it knows and leaves the others alone.
        unsafe { <pci::Adapter<Inner<T>> as driver::RegistrationOps>::register(pdrv, name, module) }
    }

    unsafe fn unregister(pdrv: &Opaque<Self::DriverType>) {
        // SAFETY: By the safety requirements of this function.
        unsafe { <pci::Adapter<Inner<T>> as driver::RegistrationOps>::unregister(pdrv) }
    }
}

impl<T: Driver> Adapter<T>
where
    for<'a> <T::State as ForLt>::Of<'a>: Interrupts + Send + Sync,
{
    /// What the PCI core calls around resets of the function, and about errors on the way to it.
    const ERROR_HANDLERS: &'static bindings::pci_error_handlers = &bindings::pci_error_handlers {
        error_detected: Some(Self::error_detected_callback),
        mmio_enabled: Some(Self::mmio_enabled_callback),
        slot_reset: Some(Self::slot_reset_callback),
        reset_prepare: Some(Self::reset_prepare_callback),
        reset_done: Some(Self::reset_done_callback),
        resume: Some(Self::error_resume_callback),
        cor_error_detected: None,
    };

    /// The machine sleeps, with or without saving its memory to disk; or an image of it is made.
    const PM_OPS: &'static bindings::dev_pm_ops = &bindings::dev_pm_ops {
        suspend: Some(Self::suspend_callback),
        resume: Some(Self::resume_callback),
        freeze: Some(Self::suspend_callback),
        thaw: Some(Self::resume_callback),
        poweroff: Some(Self::suspend_callback),
        restore: Some(Self::resume_callback),
        ..pin_init::zeroed()
    };

    /// Calls `inside` with the state of the function.
    ///
    /// # Safety
    ///
    /// `pdev` must be a function that is bound to this driver and stays so meanwhile.
    unsafe fn with_data(pdev: *mut bindings::pci_dev, inside: impl FnOnce(&Data<'_, T>)) {
        // SAFETY: By the safety requirement.
        let dev = unsafe { &*pdev.cast::<pci::Device<CoreInternal<'_>>>() };

        // SAFETY: By the safety requirement; while the driver is bound its data is set and has this
        // type.
        inside(unsafe { dev.as_ref().drvdata_borrow::<Data<'_, T>>() }.get_ref());
    }

    fn pause(pdev: *mut bindings::pci_dev, reason: Hold) {
        // SAFETY: The PCI core calls the callbacks that use this with a valid function, bound to
        // this driver, and holds the device's lock meanwhile.
        unsafe { Self::with_data(pdev, |data| T::pause(data.live.state(), reason)) };
    }

    fn resume(pdev: *mut bindings::pci_dev, reason: Hold) {
        // SAFETY: As above.
        unsafe { Self::with_data(pdev, |data| T::resume(data.live.state(), reason)) };
    }

    extern "C" fn shutdown_callback(pdev: *mut bindings::pci_dev) {
        // SAFETY: As above.
        unsafe { Self::with_data(pdev, |data| T::shutdown(data.live.state(), &data.service)) };
    }

    extern "C" fn sriov_configure_callback(pdev: *mut bindings::pci_dev, wanted: c_int) -> c_int {
        let mut result = Err(EINVAL);

        // SAFETY: The PCI core calls this with a valid function, bound to this driver, and holds the
        // device's lock meanwhile, which is what a `Core` stands for.
        let dev = unsafe { &*pdev.cast::<pci::Device<Core<'_>>>() };

        // SAFETY: As above.
        unsafe {
            Self::with_data(pdev, |data| {
                result = u16::try_from(wanted)
                    .map_err(Error::from)
                    .and_then(|wanted| {
                        sriov::configure(dev, wanted, |count| {
                            T::follow(data.live.state(), &data.service, count)
                        })
                    });
            })
        };
        match result {
            Ok(count) => c_int::from(count),
            Err(error) => error.to_errno(),
        }
    }

    extern "C" fn reset_prepare_callback(pdev: *mut bindings::pci_dev) {
        Self::pause(pdev, Hold::FunctionReset);
    }

    extern "C" fn reset_done_callback(pdev: *mut bindings::pci_dev) {
        Self::resume(pdev, Hold::FunctionReset);
    }

    extern "C" fn error_detected_callback(
        pdev: *mut bindings::pci_dev,
        state: bindings::pci_channel_state_t,
    ) -> bindings::pci_ers_result_t {
        match state {
            bindings::pci_channel_io_normal => bindings::pci_ers_result_PCI_ERS_RESULT_CAN_RECOVER,
            bindings::pci_channel_io_frozen => {
                Self::pause(pdev, Hold::LinkError);
                bindings::pci_ers_result_PCI_ERS_RESULT_NEED_RESET
            }
            _ => {
                // It will find that there is nothing.
                Self::resume(pdev, Hold::LinkError);
                bindings::pci_ers_result_PCI_ERS_RESULT_DISCONNECT
            }
        }
    }

    extern "C" fn mmio_enabled_callback(_: *mut bindings::pci_dev) -> bindings::pci_ers_result_t {
        bindings::pci_ers_result_PCI_ERS_RESULT_RECOVERED
    }

    extern "C" fn slot_reset_callback(pdev: *mut bindings::pci_dev) -> bindings::pci_ers_result_t {
        // An error that was none of this device's may make another driver want the bus reset, which
        // nobody is told of before. Nobody else must touch the device from here on, either way.
        Self::pause(pdev, Hold::LinkError);
        restore_state(pdev);
        bindings::pci_ers_result_PCI_ERS_RESULT_RECOVERED
    }

    extern "C" fn error_resume_callback(pdev: *mut bindings::pci_dev) {
        Self::resume(pdev, Hold::LinkError);
    }

    fn pci_dev(dev: *mut bindings::device) -> *mut bindings::pci_dev {
        // SAFETY: The PCI bus calls the callbacks that use this with the device of a function.
        unsafe { kernel::container_of!(dev, bindings::pci_dev, dev) }
    }

    extern "C" fn suspend_callback(dev: *mut bindings::device) -> c_int {
        Self::pause(Self::pci_dev(dev), Hold::Sleep);
        0
    }

    extern "C" fn resume_callback(dev: *mut bindings::device) -> c_int {
        Self::resume(Self::pci_dev(dev), Hold::Sleep);
        0
    }
}
