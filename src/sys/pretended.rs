// SPDX-License-Identifier: GPL-2.0

//! Virtual functions that there are not, for tests. **No part of the driver that users have**: only
//! `make AZIHSM_TEST_PF=1` compiles this file.
//!
//! Virtual devices cannot do SR-IOV. One says by its subsystem identifier that it is to be taken for
//! a physical function, and how many virtual functions it has when it is found. The file
//! `test_numvfs` of the driver stands for the file `sriov_numvfs` of that function.

use core::ptr::null_mut;

use kernel::{
    bindings,
    device::{
        Core,
        DeviceContext, //
    },
    pci,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// High byte of the subsystem identifier; the low one is how many there are in the beginning.
const SUBSYSTEM: u16 = 0xaa00;

/// As many as the subsystem identifier says.
const AS_FOUND: u32 = u32::MAX;

/// How many virtual functions a function has, by the number of its bus.
static COUNTS: [Atomic<u32>; 256] = [const { Atomic::new(AS_FOUND) }; 256];

fn as_raw<Ctx: DeviceContext>(dev: &pci::Device<Ctx>) -> *mut bindings::pci_dev {
    // CAST: A `pci::Device` is a transparent `struct pci_dev`.
    core::ptr::from_ref(dev).cast_mut().cast()
}

fn place<Ctx: DeviceContext>(dev: &pci::Device<Ctx>) -> Option<&'static Atomic<u32>> {
    // SAFETY: The function is valid, and on a bus.
    let bus = unsafe { (*(*as_raw(dev)).bus).number };
    COUNTS.get(usize::from(bus))
}

/// Returns whether `dev` is to be taken for a physical function.
pub(crate) fn is_physical(dev: &pci::Device) -> bool {
    dev.subsystem_device_id() & 0xff00 == SUBSYSTEM
}

/// Returns how many virtual functions `dev` has now.
pub(crate) fn count(dev: &pci::Device) -> u16 {
    match place(dev).map(|count| count.load(Relaxed)) {
        _ if !is_physical(dev) => 0,
        None | Some(AS_FOUND) => dev.subsystem_device_id() & 0xff,
        // CAST: It was stored as a `u16`.
        Some(count) => count as u16,
    }
}

/// Returns whether any of them is in use by a virtual machine.
pub(super) fn are_assigned(_: &pci::Device<Core<'_>>) -> bool {
    false
}

/// Gives `dev` that many virtual functions.
///
/// # Errors
///
/// None.
pub(super) fn enable(dev: &pci::Device<Core<'_>>, count: u16) -> Result {
    if let Some(place) = place(dev) {
        place.store(u32::from(count), Relaxed);
    }
    Ok(())
}

/// Takes all virtual functions away.
pub(super) fn disable(dev: &pci::Device<Core<'_>>) {
    if let Some(place) = place(dev) {
        place.store(0, Relaxed);
    }
}

/// Something that is never written to.
#[repr(transparent)]
struct Constant<T>(T);

// SAFETY: Nobody writes to it.
unsafe impl<T> Sync for Constant<T> {}

#[allow(
    clippy::needless_update,
    reason = "kernels that check locks have more fields"
)]
static FILE: Constant<bindings::driver_attribute> = Constant(bindings::driver_attribute {
    attr: bindings::attribute {
        name: c"test_numvfs".as_ptr().cast(),
        mode: 0o200,
        ..pin_init::zeroed()
    },
    show: None,
    store: Some(store),
});

static FILES: Constant<[*mut bindings::attribute; 2]> =
    Constant([core::ptr::from_ref(&FILE.0.attr).cast_mut(), null_mut()]);

static GROUP: Constant<bindings::attribute_group> = Constant(bindings::attribute_group {
    __bindgen_anon_2: bindings::attribute_group__bindgen_ty_2 {
        attrs: FILES.0.as_ptr().cast_mut(),
    },
    ..pin_init::zeroed()
});

static GROUPS: Constant<[*const bindings::attribute_group; 2]> =
    Constant([&raw const GROUP.0, core::ptr::null()]);

/// The files of the driver.
pub(super) fn groups() -> *mut *const bindings::attribute_group {
    GROUPS.0.as_ptr().cast_mut()
}

/// Does what the PCI core does when a number is written to `sriov_numvfs`, to the first function that
/// is to be taken for a physical one.
///
/// # Safety
///
/// Only for [`FILE`].
unsafe extern "C" fn store(
    _: *mut bindings::device_driver,
    text: *const c_char,
    len: usize,
) -> isize {
    // SAFETY: The text has that length.
    let text = unsafe { core::slice::from_raw_parts(text.cast::<u8>(), len) };
    let wanted = core::str::from_utf8(text).map_or("", str::trim).parse();
    let Ok(wanted) = wanted else {
        return EINVAL.to_errno() as isize;
    };
    let mut pdev = null_mut();
    loop {
        // SAFETY: It is null or a reference, which this drops.
        pdev = unsafe { bindings::pci_get_device(0x1414, 0xc003, pdev) };

        // SAFETY: It is null or a reference.
        let Some(dev) = (unsafe { pdev.cast::<pci::Device<Core<'_>>>().as_ref() }) else {
            return ENODEV.to_errno() as isize;
        };
        if !is_physical(dev) {
            continue;
        }
        // SAFETY: The device is locked around looking at its driver and the callback of that.
        let result = unsafe {
            let mutex = &raw mut (*pdev).dev.mutex;
            bindings::mutex_lock(mutex);
            let result = configure(pdev, dev, wanted);
            bindings::mutex_unlock(mutex);
            bindings::pci_dev_put(pdev);
            result
        };
        // CAST: Lengths and errors fit.
        return match result {
            0.. => len as isize,
            error => error as isize,
        };
    }
}

/// # Safety
///
/// `pdev` must be `dev`, and locked.
unsafe fn configure(
    pdev: *mut bindings::pci_dev,
    dev: &pci::Device<Core<'_>>,
    wanted: u16,
) -> c_int {
    // SAFETY: By the safety requirement.
    let driver = unsafe { (*pdev).driver.as_ref() };
    let Some(callback) = driver.and_then(|driver| driver.sriov_configure) else {
        return ENOENT.to_errno();
    };
    let now = count(dev);
    if now == wanted {
        return 0;
    }
    if now != 0 && wanted != 0 {
        return EBUSY.to_errno();
    }
    // SAFETY: The function is bound to the driver, and locked.
    unsafe { callback(pdev, c_int::from(wanted)) }
}
