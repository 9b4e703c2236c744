// SPDX-License-Identifier: GPL-2.0

//! Binding to PCI functions.

use kernel::{
    device::Core,
    pci,
    prelude::*,
    str::CString,
    sync::Arc, //
};

use crate::{
    ctrl::{
        Ctrl,
        CtrlFamily, //
    },
    ioctl::File,
    number::Number,
    orphans::Orphans,
    sys,
    sys::{
        gate::Gate,
        live::Live,
        node::Node, //
    },
};

/// Device identifier of the functions (Documentation/device.rst 1.1).
const DEVICE_ID: u32 = 0xc003;

kernel::pci_device_table!(
    PCI_TABLE,
    <Azihsm as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(sys::pci::VENDOR_MICROSOFT, DEVICE_ID),
        ()
    )]
);

/// The driver.
pub(crate) struct Azihsm;

/// What a bound function has.
///
/// The fields are dropped in this order: nobody can open the node any more, then nobody is inside
/// and no interrupt comes, and only then is it certain that nothing is queued to be flushed.
pub(crate) struct Data<'bound> {
    node: Pin<KBox<Node<File>>>,
    live: Live<'bound, CtrlFamily>,
    _orphans: Stopped,
    _number: Number,
}

/// Stops flushing when it is dropped.
struct Stopped(Arc<Orphans>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl<'bound> Data<'bound> {
    fn new(dev: &'bound pci::Device<Core<'_>>) -> Result<Self> {
        let gate = Gate::<CtrlFamily>::new()?;
        let number = Number::take()?;
        let orphans = Stopped(Orphans::new(gate.clone())?);
        let ctrl = KBox::pin(Ctrl::new(dev, orphans.0.clone())?, GFP_KERNEL)?;
        let live = Live::new(ctrl, gate.clone())?;
        live.state().start()?;

        // Last: from here on there are callers.
        live.open();
        let name = CString::try_from_fmt(fmt!("azihsm{}", number.get()))?;
        let node = Node::new(name, dev.as_ref(), gate)?;
        let this = Self {
            node,
            live,
            _orphans: orphans,
            _number: number,
        };
        this.live.state().announce(this.node.name());
        Ok(this)
    }

    /// Turns new callers away, stops the device and ends what is under way.
    fn stop(&self) {
        self.node.remove();
        self.live.state().stop();
    }
}

impl pci::Driver for Azihsm {
    type IdInfo = ();
    type Data<'bound> = Data<'bound>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        dev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        Data::new(dev)
    }

    fn unbind<'bound>(_dev: &'bound pci::Device<Core<'_>>, this: Pin<&Self::Data<'bound>>) {
        this.stop();
    }
}

impl sys::pci::Driver for Azihsm {
    fn shutdown(this: Pin<&Data<'_>>) {
        this.stop();
    }
}
