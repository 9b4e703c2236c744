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
    pci,
    prelude::*,
    types::Opaque, //
};

/// Microsoft, as the vendor of a PCI function.
// SAFETY: A `Vendor` is a transparent `u16` with no invalid values.
pub(crate) const VENDOR_MICROSOFT: pci::Vendor =
    unsafe { core::mem::transmute::<u16, pci::Vendor>(0x1414) };

/// A function whose memory may be accessed and which may access ours.
///
/// Dropping it takes both back.
pub(crate) struct Enabled<'bound>(&'bound pci::Device<Bound>);

impl<'bound> Enabled<'bound> {
    /// Enables memory accesses and bus mastering of `dev`, which uses 64-bit bus addresses.
    ///
    /// # Errors
    ///
    /// `EIO` if the machine cannot do DMA with 64-bit masks, or what enabling the function says.
    pub(crate) fn new(dev: &'bound pci::Device<Core<'_>>) -> Result<Self> {
        dev.enable_device_mem()?;
        let this = Self(dev);
        dev.set_master();

        // SAFETY: This is called from `probe()`, before there are users of the DMA API.
        unsafe { dev.dma_set_mask_and_coherent(DmaMask::new::<64>()) }?;
        Ok(this)
    }

    /// Returns the function.
    pub(crate) fn dev(&self) -> &'bound pci::Device<Bound> {
        self.0
    }

    /// Switches bus mastering off: the function cannot start DMA any more.
    pub(crate) fn clear_master(&self) {
        // SAFETY: The function is valid.
        unsafe { bindings::pci_clear_master(self.as_raw()) };
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

/// A PCI driver that is told of shutdown, too.
pub(crate) trait Driver: pci::Driver {
    /// Called before the machine is switched off, is restarted, or starts another kernel. No
    /// other callback follows.
    fn shutdown<'bound>(this: Pin<&Self::Data<'bound>>);
}

/// Registers a [`Driver`] as [`pci::Adapter`] does, with the callbacks that that one leaves out.
pub(crate) struct Adapter<T: Driver>(PhantomData<T>);

// SAFETY: All of it is as for `pci::Adapter<T>`, to which everything is forwarded.
unsafe impl<T: Driver> driver::DriverLayout for Adapter<T> {
    type DriverType = <pci::Adapter<T> as driver::DriverLayout>::DriverType;
    type DriverData<'bound> = T::Data<'bound>;
    const DEVICE_DRIVER_OFFSET: usize =
        <pci::Adapter<T> as driver::DriverLayout>::DEVICE_DRIVER_OFFSET;
}

// SAFETY: Both are forwarded to `pci::Adapter<T>`.
unsafe impl<T: Driver> driver::RegistrationOps for Adapter<T> {
    unsafe fn register(
        pdrv: &Opaque<Self::DriverType>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        // SAFETY: The structure is not registered yet, so nobody else looks at it.
        unsafe { (*pdrv.get()).shutdown = Some(Self::shutdown_callback) };

        // SAFETY: By the safety requirements of this function. `pci::Adapter` sets the callbacks
        // that it knows and leaves the others alone.
        unsafe { <pci::Adapter<T> as driver::RegistrationOps>::register(pdrv, name, module) }
    }

    unsafe fn unregister(pdrv: &Opaque<Self::DriverType>) {
        // SAFETY: By the safety requirements of this function.
        unsafe { <pci::Adapter<T> as driver::RegistrationOps>::unregister(pdrv) }
    }
}

impl<T: Driver> Adapter<T> {
    extern "C" fn shutdown_callback(pdev: *mut bindings::pci_dev) {
        // SAFETY: The PCI core calls this with a valid function, bound to this driver, and holds
        // the device's lock meanwhile.
        let dev = unsafe { &*pdev.cast::<pci::Device<CoreInternal<'_>>>() };

        // SAFETY: As above; the driver is bound, so its data is set and has this type.
        let data = unsafe { dev.as_ref().drvdata_borrow::<T::Data<'_>>() };
        T::shutdown(data);
    }
}
