// SPDX-License-Identifier: GPL-2.0

//! Virtual functions of a physical one.
//!
//! Missing upstream: all of SR-IOV but how many virtual functions there may be.
//!
//! This file uses the kernel crate only: `tests/kernel/sriov` compiles it into another driver, for
//! a device that QEMU has.

use kernel::{
    device::Core,
    pci,
    prelude::*, //
};

#[cfg(not(azihsm_test_pf))]
use calls as functions;

#[cfg(azihsm_test_pf)]
use super::pretended as functions;

pub(crate) use functions::{
    count,
    is_physical, //
};

/// What the PCI core does.
#[cfg(not(azihsm_test_pf))]
mod calls {
    use kernel::{
        bindings,
        device::{
            Core,
            DeviceContext, //
        },
        error::to_result,
        pci,
        prelude::*, //
    };

    fn as_raw<Ctx: DeviceContext>(dev: &pci::Device<Ctx>) -> *mut bindings::pci_dev {
        // CAST: A `pci::Device` is a transparent `struct pci_dev`.
        core::ptr::from_ref(dev).cast_mut().cast()
    }

    /// Returns whether `dev` is a physical function that may have virtual ones.
    pub(crate) fn is_physical(dev: &pci::Device) -> bool {
        // CAST: A small constant.
        let capability = bindings::PCI_EXT_CAP_ID_SRIOV as c_int;

        // SAFETY: The function is valid.
        unsafe { bindings::pci_find_ext_capability(as_raw(dev), capability) != 0 }
    }

    /// Returns how many virtual functions `dev` has now.
    #[cfg(CONFIG_PCI_IOV)]
    pub(crate) fn count(dev: &pci::Device) -> u16 {
        // SAFETY: The function is valid.
        let count = unsafe { bindings::pci_num_vf(as_raw(dev)) };
        u16::try_from(count).unwrap_or(0)
    }

    /// Returns whether any of them is in use by a virtual machine, so that it must not be taken away.
    #[cfg(CONFIG_PCI_IOV)]
    pub(super) fn are_assigned(dev: &pci::Device<Core<'_>>) -> bool {
        // SAFETY: The function is valid.
        unsafe { bindings::pci_vfs_assigned(as_raw(dev)) != 0 }
    }

    /// Gives `dev` that many virtual functions, to which drivers are bound before this returns.
    ///
    /// # Errors
    ///
    /// What the PCI core says.
    #[cfg(CONFIG_PCI_IOV)]
    pub(super) fn enable(dev: &pci::Device<Core<'_>>, count: u16) -> Result {
        // SAFETY: The function is valid, and its device is locked.
        to_result(unsafe { bindings::pci_enable_sriov(as_raw(dev), c_int::from(count)) })
    }

    /// Takes all virtual functions away, from which drivers are unbound before this returns.
    #[cfg(CONFIG_PCI_IOV)]
    pub(super) fn disable(dev: &pci::Device<Core<'_>>) {
        // SAFETY: As above.
        unsafe { bindings::pci_disable_sriov(as_raw(dev)) };
    }

    /// Returns how many virtual functions `dev` has now: this kernel gives it none.
    #[cfg(not(CONFIG_PCI_IOV))]
    pub(crate) fn count(_: &pci::Device) -> u16 {
        0
    }

    /// Returns whether any of them is in use by a virtual machine.
    #[cfg(not(CONFIG_PCI_IOV))]
    pub(super) fn are_assigned(_: &pci::Device<Core<'_>>) -> bool {
        false
    }

    /// Gives `dev` virtual functions.
    ///
    /// # Errors
    ///
    /// `ENODEV`.
    #[cfg(not(CONFIG_PCI_IOV))]
    pub(super) fn enable(_: &pci::Device<Core<'_>>, _: u16) -> Result {
        to_result(-(bindings::ENODEV as c_int))
    }

    /// Takes all virtual functions away.
    #[cfg(not(CONFIG_PCI_IOV))]
    pub(super) fn disable(_: &pci::Device<Core<'_>>) {}
}

/// Gives `dev` as many virtual functions as are `wanted`, or takes all away, and has `follow` do what
/// goes with having that many. Returns how many there are. The PCI core does not ask for a number
/// while there is another.
///
/// # Errors
///
/// `EBUSY` if one is in use by a virtual machine, else what the PCI core or `follow` say; the
/// function then has as many as before.
pub(crate) fn configure(
    dev: &pci::Device<Core<'_>>,
    wanted: u16,
    follow: impl FnOnce(u16) -> Result,
) -> Result<u16> {
    if wanted == 0 {
        if functions::are_assigned(dev) {
            return Err(EBUSY);
        }
        functions::disable(dev);
        follow(0)?;
    } else {
        functions::enable(dev, wanted)?;
        follow(wanted).inspect_err(|_| functions::disable(dev))?;
    }
    Ok(wanted)
}

/// Takes all virtual functions of `dev` away, whose driver is being unbound. Returns whether that
/// could be done: those that virtual machines use stay.
pub(crate) fn abandon(dev: &pci::Device<Core<'_>>) -> bool {
    if count(dev) == 0 {
        return true;
    }
    if functions::are_assigned(dev) {
        return false;
    }
    functions::disable(dev);
    true
}
