// SPDX-License-Identifier: GPL-2.0

//! Binding to PCI functions.

use kernel::{
    pci,
    prelude::*,
    str::CString,
    sync::Arc, //
};

use crate::{
    ctrl::{
        Ctrl,
        CtrlFamily,
        Helpers, //
    },
    ioctl::{
        Context,
        File, //
    },
    number::Number,
    orphans::Orphans,
    recovery::Recovery,
    stats::Stats,
    sys,
    sys::{
        gate::Gate,
        node::Node,
        pci::{
            Hold,
            Probing, //
        }, //
    },
};

/// Device identifier of the functions (Documentation/device.rst 1.1).
const DEVICE_ID: u32 = 0xc003;

sys::compat::pci_device_table!(
    PCI_TABLE,
    pci::DeviceId::from_id(sys::pci::VENDOR_MICROSOFT, DEVICE_ID)
);

/// The driver.
pub(crate) struct Azihsm;

/// The node of a function, and what is shown of it. The number is free again when both are gone.
pub(crate) struct Service {
    _stats: Stats,
    node: Pin<KBox<Node<File>>>,
    _number: Number,
}

impl sys::pci::Driver for Azihsm {
    type State = CtrlFamily;
    type Service = Service;

    const ID_TABLE: pci::IdTable<()> = &PCI_TABLE;

    fn probe<'bound>(
        dev: &'bound Probing<'_>,
        gate: &Arc<Gate<CtrlFamily>>,
    ) -> Result<Ctrl<'bound>> {
        let helpers = Helpers {
            orphans: Orphans::new(gate.clone())?,
            recovery: Recovery::new(gate.clone())?,
        };
        Ctrl::new(dev, helpers)
    }

    fn serve(ctrl: &Ctrl<'_>, gate: &Arc<Gate<CtrlFamily>>) -> Result<Service> {
        ctrl.start()?;

        let number = Number::take()?;
        let name = CString::try_from_fmt(fmt!("azihsm{}", number.get()))?;
        let stats = Stats::new(ctrl, gate, &name)?;
        let context = Context::new(gate.clone(), ctrl.orphans().clone());
        let node = Node::new(name, ctrl.device(), context)?;
        ctrl.announce(node.name());
        Ok(Service {
            _stats: stats,
            node,
            _number: number,
        })
    }

    fn unbind(ctrl: &Ctrl<'_>, service: &Service) {
        service.node.remove();
        ctrl.retire();
        ctrl.stop();
    }

    fn pause(ctrl: &Ctrl<'_>, reason: Hold) {
        ctrl.pause(reason);
    }

    fn resume(ctrl: &Ctrl<'_>, reason: Hold) {
        ctrl.resume(reason);
    }

    fn shutdown(ctrl: &Ctrl<'_>, service: &Service) {
        service.node.remove();
        ctrl.stop();
    }
}
