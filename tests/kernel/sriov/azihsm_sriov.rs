// SPDX-License-Identifier: GPL-2.0

//! The driver's way with SR-IOV, for a device that QEMU has: its 82576 network controller, which is
//! bound to and left alone. Only for tests.
//!
//! Virtual functions are bound as well. With `refused=1` what goes with having some fails, as making
//! a node may; with `assigned=1` they are as those that virtual machines use.
//!
//! QEMU's test device is bound, too: a neighbour that wants the bus reset for each error on the way
//! to it.

use core::marker::PhantomData;

use kernel::{
    bindings,
    device::Core,
    driver,
    driver::Registration,
    pci,
    prelude::*,
    types::Opaque, //
};

#[path = "../../../src/sys/sriov.rs"]
mod sriov;

kernel::pci_device_table!(
    TABLE,
    (),
    [
        (pci::DeviceId::from_id(pci::Vendor::INTEL, 0x10c9), ()),
        (pci::DeviceId::from_id(pci::Vendor::INTEL, 0x10ca), ()),
        (pci::DeviceId::from_id(pci::Vendor::REDHAT, 0x0005), ()),
    ]
);

/// Binds to a function and does nothing.
struct Driver;

impl pci::Driver for Driver {
    type IdInfo = ();
    type Data<'bound> = Driver;

    const ID_TABLE: pci::IdTable<()> = &TABLE;

    fn probe<'bound>(
        dev: &'bound pci::Device<Core<'_>>,
        _: Option<&'bound ()>,
    ) -> impl PinInit<Driver, Error> + 'bound {
        if !sriov::is_physical(dev) && module_parameters::assigned.value() != 0 {
            // SAFETY: The function is valid, and locked while it is probed.
            unsafe {
                (*as_raw(dev)).dev_flags |=
                    bindings::pci_dev_flags_PCI_DEV_FLAGS_ASSIGNED as bindings::pci_dev_flags_t;
            }
        }
        dev_info!(dev, "bound, {} virtual functions\n", sriov::count(dev));
        Ok(Driver)
    }

    fn unbind<'bound>(dev: &'bound pci::Device<Core<'_>>, _: Pin<&Driver>) {
        let taken = sriov::abandon(dev);
        dev_info!(dev, "unbound, all taken: {taken}\n");
    }
}

fn as_raw(dev: &pci::Device<Core<'_>>) -> *mut bindings::pci_dev {
    // CAST: A `pci::Device` is a transparent `struct pci_dev`.
    core::ptr::from_ref(dev).cast_mut().cast()
}

/// Registers a driver with callbacks that the kernel crate leaves out.
struct Adapter(PhantomData<Driver>);

// SAFETY: All of it is as for `pci::Adapter<Driver>`, to which everything is forwarded.
unsafe impl driver::DriverLayout for Adapter {
    type DriverType = <pci::Adapter<Driver> as driver::DriverLayout>::DriverType;
    type DriverData<'bound> = Driver;
    const DEVICE_DRIVER_OFFSET: usize =
        <pci::Adapter<Driver> as driver::DriverLayout>::DEVICE_DRIVER_OFFSET;
}

// SAFETY: Both are forwarded to `pci::Adapter<Driver>`.
unsafe impl driver::RegistrationOps for Adapter {
    unsafe fn register(
        pdrv: &Opaque<Self::DriverType>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        // SAFETY: The structure is not registered yet, so nobody else looks at it.
        unsafe {
            (*pdrv.get()).sriov_configure = Some(sriov_configure_callback);
            (*pdrv.get()).err_handler = ERROR_HANDLERS;
        }

        // SAFETY: By the safety requirements of this function.
        unsafe { <pci::Adapter<Driver> as driver::RegistrationOps>::register(pdrv, name, module) }
    }

    unsafe fn unregister(pdrv: &Opaque<Self::DriverType>) {
        // SAFETY: By the safety requirements of this function.
        unsafe { <pci::Adapter<Driver> as driver::RegistrationOps>::unregister(pdrv) }
    }
}

extern "C" fn sriov_configure_callback(pdev: *mut bindings::pci_dev, wanted: c_int) -> c_int {
    // SAFETY: The PCI core calls this with a valid function, bound to this driver, and holds the
    // device's lock meanwhile, which is what a `Core` stands for.
    let dev = unsafe { &*pdev.cast::<pci::Device<Core<'_>>>() };

    let result = u16::try_from(wanted)
        .map_err(Error::from)
        .and_then(|wanted| {
            sriov::configure(dev, wanted, |count| {
                dev_info!(dev, "following {count}, there are {}\n", sriov::count(dev));
                match module_parameters::refused.value() {
                    0 => Ok(()),
                    _ if count == 0 => Ok(()),
                    _ => Err(ENOSPC),
                }
            })
        });
    match result {
        Ok(count) => c_int::from(count),
        Err(error) => error.to_errno(),
    }
}

const ERROR_HANDLERS: &bindings::pci_error_handlers = &bindings::pci_error_handlers {
    error_detected: Some(error_detected_callback),
    slot_reset: Some(slot_reset_callback),
    ..pin_init::zeroed()
};

extern "C" fn error_detected_callback(
    _: *mut bindings::pci_dev,
    _: bindings::pci_channel_state_t,
) -> bindings::pci_ers_result_t {
    bindings::pci_ers_result_PCI_ERS_RESULT_NEED_RESET
}

extern "C" fn slot_reset_callback(_: *mut bindings::pci_dev) -> bindings::pci_ers_result_t {
    bindings::pci_ers_result_PCI_ERS_RESULT_RECOVERED
}

#[pin_data]
struct SriovModule {
    #[pin]
    registration: Registration<Adapter>,
}

impl kernel::InPlaceModule for SriovModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            registration <- Registration::new(
                <Self as kernel::ModuleMetadata>::NAME,
                module,
            ),
        })
    }
}

module! {
    type: SriovModule,
    name: "azihsm_sriov",
    authors: ["The azihsm authors"],
    description: "SR-IOV as the azihsm driver does it, for tests",
    license: "GPL",
    params: {
        refused: i32 {
            default: 0,
            description: "Whether what goes with virtual functions fails",
        },
        assigned: i32 {
            default: 0,
            description: "Whether virtual functions are in use by virtual machines",
        },
    },
}
