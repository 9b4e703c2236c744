// SPDX-License-Identifier: GPL-2.0

//! What is left of those who had to leave: commands and sessions.
//!
//! A command is orphaned when its waiter leaves before the device is done with it. What it had is
//! released in a work item: that may sleep, and the completion is found in interrupt context.
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
        process,
        work, //
    },
    tags::Patience, //
};

/// See the [module](self).
#[pin_data]
pub(crate) struct Orphans {
    // A bit by session identifier: nobody has it.
    ids: Atomic<u64>,
    // By session identifier: how many descriptors have it. It may be two for a moment, when one
    // has just closed it.
    owners: [Atomic<u32>; Orphans::MAX_IDS as usize],
    gate: Arc<Gate<CtrlFamily>>,
    #[pin]
    flush: Work<Orphans, FLUSH>,
    #[pin]
    release: Work<Orphans, RELEASE>,
}

/// The work of flushing sessions, which takes as long as the device does.
const FLUSH: u64 = 0;
/// The work of releasing commands, for whose slots somebody may be waiting.
const RELEASE: u64 = 1;

impl_has_work! {
    impl HasWork<Self, FLUSH> for Orphans { self.flush }
    impl HasWork<Self, RELEASE> for Orphans { self.release }
}

impl WorkItem<RELEASE> for Orphans {
    type Pointer = Arc<Orphans>;

    fn run(this: Arc<Orphans>) {
        // A device that is going away does this itself.
        if this.gate.with(|ctrl| Ok(ctrl.release_orphans())) == Ok(true) {
            process::sleep_a_tick();
            this.release();
        }
    }
}

impl WorkItem<FLUSH> for Orphans {
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
                owners: [const { Atomic::new(0) }; Orphans::MAX_IDS as usize],
                gate,
                flush <- new_work!("azihsm_flush"),
                release <- new_work!("azihsm_release"),
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
        let _ = workqueue::system_long().enqueue::<Arc<Self>, FLUSH>(self.clone());
    }

    /// Has the orphaned commands of all queues released soon. May be called from any context.
    pub(crate) fn release(self: &Arc<Self>) {
        // As above.
        let _ = workqueue::system_highpri().enqueue::<Arc<Self>, RELEASE>(self.clone());
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

    /// Notes that a descriptor has the session `id`.
    pub(crate) fn gain_owner(&self, id: u16) {
        if let Some(owners) = self.owners.get(usize::from(id)) {
            owners.fetch_add(1, Full);
        }
    }

    /// Notes that a descriptor does not have the session `id` any more.
    pub(crate) fn lose_owner(&self, id: u16) {
        if let Some(owners) = self.owners.get(usize::from(id)) {
            owners.fetch_sub(1, Full);
        }
    }

    /// Returns whether a descriptor has the session `id`.
    pub(crate) fn is_owned(&self, id: u16) -> bool {
        self.owners
            .get(usize::from(id))
            .is_some_and(|owners| owners.load(Relaxed) != 0)
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

    /// Waits until the work that is under way has ended, and lets no other begin. To be called when
    /// the gate is closed and nobody adds to the set any more.
    pub(crate) fn stop(self: &Arc<Self>) {
        work::cancel::<_, RELEASE>(self);
        work::cancel::<_, FLUSH>(self);
    }
}
