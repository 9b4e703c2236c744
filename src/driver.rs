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
    management::Management,
    number,
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

/// What is shown of a function, its node, unless it has no resource groups, and that for its virtual
/// functions.
pub(crate) struct Service {
    _stats: Stats,
    hsm: Option<Hsm>,
    management: Pin<KBox<Management>>,
}

/// The node of a HSM, and its number, which is free again when that is gone.
struct Hsm {
    node: Pin<KBox<Node<File>>>,
    _number: Number,
}

impl Hsm {
    /// Makes the node `name` of the HSM behind `gate`, which is `ctrl`.
    ///
    /// # Errors
    ///
    /// Those of [`Node::new`].
    fn new(
        ctrl: &Ctrl<'_>,
        gate: &Arc<Gate<CtrlFamily>>,
        name: CString,
        number: Number,
    ) -> Result<Self> {
        let context = Context::new(gate.clone(), ctrl.orphans().clone());

        Ok(Self {
            node: Node::new(name, ctrl.device(), context)?,
            _number: number,
        })
    }
}

impl Service {
    /// Removes the nodes; files that are open stay open.
    fn remove_nodes(&self) {
        if let Some(hsm) = &self.hsm {
            hsm.node.remove();
        }
        self.management.close();
    }
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

        let management = Management::new(gate.clone())?;
        // Another driver may have left it some.
        management.follow(ctrl, ctrl.virtual_functions())?;
        // Once there is this node there may be a caller whose command the device may lose: nothing
        // fails here after that. Those of the management node do not wait for ever.
        let (stats, hsm) = if ctrl.has_hsm() {
            let number = Number::take(&number::HSM)?;
            let name = CString::try_from_fmt(fmt!("azihsm{}", number.get()))?;
            let stats = Stats::new(ctrl, gate, Some(&name))?;
            (stats, Some(Hsm::new(ctrl, gate, name, number)?))
        } else {
            (Stats::new(ctrl, gate, None)?, None)
        };
        ctrl.announce(hsm.as_ref().map(|hsm| hsm.node.name()));
        Ok(Service {
            _stats: stats,
            hsm,
            management,
        })
    }

    fn follow(ctrl: &Ctrl<'_>, service: &Service, count: u16) -> Result {
        service.management.follow(ctrl, count)
    }

    fn unbind(ctrl: &Ctrl<'_>, service: &Service) {
        service.remove_nodes();
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
        service.remove_nodes();
        ctrl.stop();
    }
}
