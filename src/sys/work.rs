// SPDX-License-Identifier: GPL-2.0

//! Work items that can be taken back.
//!
//! Missing upstream: waiting for a work item. One that is still queued when its module is unloaded
//! would run code that is gone.

use kernel::{
    bindings,
    sync::Arc,
    workqueue::{
        HasWork,
        Work,
        WorkItem, //
    },
};

/// Takes `item` off its queue, or waits until it has run. It must not be queued again meanwhile.
pub(crate) fn cancel<T, const ID: u64>(item: &Arc<T>)
where
    T: HasWork<T, ID> + WorkItem<ID, Pointer = Arc<T>> + Send + Sync + 'static,
{
    let raw = Arc::as_ptr(item).cast_mut();

    // SAFETY: `item` is valid, so the work item in it is.
    let work = unsafe { Work::raw_get(T::raw_get_work(raw)) };

    // SAFETY: The work item is initialised; callers may sleep.
    if unsafe { bindings::cancel_work_sync(work) } {
        // SAFETY: It was queued and now will not run, so the reference that queueing it gave away
        // by `Arc::into_raw()` comes back to us.
        drop(unsafe { Arc::from_raw(raw.cast_const()) });
    }
}
