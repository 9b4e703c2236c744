// SPDX-License-Identifier: GPL-2.0

//! Sessions that the device holds open for nobody.
//!
//! A session is orphaned when the process that opened it is killed before it learns of it, or when
//! it cannot be flushed as its descriptor is closed. The device has only 8, and keeps them across
//! resets: each that is forgotten is one less for good (Documentation/device.rst 5.7).

use kernel::{
    impl_has_work, new_work,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    },
    workqueue,
    workqueue::{
        Work,
        WorkItem, //
    },
};

use crate::{
    ctrl::CtrlFamily,
    sys::{
        gate::Gate,
        work, //
    },
    tags::Patience, //
};

/// See the [module](self).
#[pin_data]
pub(crate) struct Orphans {
    // A bit by session identifier.
    ids: Atomic<u64>,
    gate: Arc<Gate<CtrlFamily>>,
    #[pin]
    flush: Work<Orphans>,
}

impl_has_work! {
    impl HasWork<Self> for Orphans { self.flush }
}

impl WorkItem for Orphans {
    type Pointer = Arc<Orphans>;

    fn run(this: Arc<Orphans>) {
        // Without a device there is nothing to flush.
        let _ = this.gate.with(|ctrl| {
            let patience = Patience {
                killable: false,
                ..ctrl.patience()
            };
            ctrl.flush_orphans(patience);
            Ok(())
        });
    }
}

impl Orphans {
    /// Most identifiers that can be noted; the device has 8.
    const MAX_IDS: u16 = 64;

    /// Makes an empty set for the device behind `gate`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(gate: Arc<Gate<CtrlFamily>>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                ids: Atomic::new(0),
                gate,
                flush <- new_work!("azihsm_orphans"),
            }),
            GFP_KERNEL,
        )
    }

    /// Notes the session `id` and has it flushed soon. May be called from any context.
    ///
    /// An identifier that the device cannot have given is ignored.
    pub(crate) fn add(self: &Arc<Self>, id: u16) {
        self.keep(id);
        // If it is queued already, it will see this one, too.
        let _ = workqueue::system_long().enqueue(self.clone());
    }

    /// Notes the session `id`, which could not be flushed now.
    pub(crate) fn keep(&self, id: u16) {
        if id >= Self::MAX_IDS {
            return;
        }
        let mut ids = self.ids.load(Relaxed);
        while let Err(now) = self.ids.cmpxchg(ids, ids | 1 << id, Full) {
            ids = now;
        }
    }

    /// Returns whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.load(Relaxed) == 0
    }

    /// Takes all of them.
    pub(crate) fn take(&self) -> impl Iterator<Item = u16> {
        let ids = self.ids.xchg(0, Full);
        (0..Self::MAX_IDS).filter(move |id| ids & 1 << id != 0)
    }

    /// Waits until a flush that is under way has ended, and lets no other begin. To be called when
    /// the gate is closed and nobody adds to the set any more.
    pub(crate) fn stop(self: &Arc<Self>) {
        work::cancel(self);
    }
}
