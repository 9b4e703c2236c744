// SPDX-License-Identifier: GPL-2.0

//! Work items that can be taken back, or hurried.
//!
//! Missing upstream: waiting for a work item, and changing the time of a delayed one. One that is
//! still queued when its module is unloaded would run code that is gone.

use kernel::{
    bindings,
    sync::Arc,
    workqueue::{
        HasDelayedWork,
        HasWork,
        Work,
        WorkItem, //
    },
};

/// Returns the work item of `item`.
fn raw<T, const ID: u64>(item: &Arc<T>) -> *mut bindings::work_struct
where
    T: HasWork<T, ID> + WorkItem<ID, Pointer = Arc<T>>,
{
    let item = Arc::as_ptr(item).cast_mut();

    // SAFETY: `item` is valid, so the work item in it is.
    unsafe { Work::raw_get(T::raw_get_work(item)) }
}

/// Returns the delayed work item of `item`.
fn raw_delayed<T, const ID: u64>(item: &Arc<T>) -> *mut bindings::delayed_work
where
    T: HasDelayedWork<T, ID> + WorkItem<ID, Pointer = Arc<T>>,
{
    let work = raw::<T, ID>(item);

    // SAFETY: By the safety requirements of `HasDelayedWork` it is the field of a `delayed_work`.
    unsafe { kernel::container_of!(work, bindings::delayed_work, work) }
}

/// Drops the reference that queueing `item` gave away.
///
/// # Safety
///
/// `item` was queued, and will not run for that.
unsafe fn drop_queued<T>(item: &Arc<T>) {
    // SAFETY: Queueing gave it away by `Arc::into_raw()`, and by the safety requirement of this
    // function nobody else will take it back.
    drop(unsafe { Arc::from_raw(Arc::as_ptr(item)) });
}

/// Takes `item` off its queue, or waits until it has run. It must not be queued again meanwhile.
pub(crate) fn cancel<T, const ID: u64>(item: &Arc<T>)
where
    T: HasWork<T, ID> + WorkItem<ID, Pointer = Arc<T>> + Send + Sync + 'static,
{
    // SAFETY: The work item is initialised; callers may sleep.
    if unsafe { bindings::cancel_work_sync(raw::<T, ID>(item)) } {
        // SAFETY: It was queued and was taken off.
        unsafe { drop_queued(item) };
    }
}

/// Takes the delayed `item` off its queue, or waits until it has run, and keeps it from being
/// queued again, even by itself.
pub(crate) fn disable_delayed<T, const ID: u64>(item: &Arc<T>)
where
    T: HasDelayedWork<T, ID> + WorkItem<ID, Pointer = Arc<T>> + Send + Sync + 'static,
{
    // SAFETY: The work item is initialised; callers may sleep.
    if unsafe { bindings::disable_delayed_work_sync(raw_delayed::<T, ID>(item)) } {
        // SAFETY: It was queued and was taken off.
        unsafe { drop_queued(item) };
    }
}

/// Has the delayed `item` run as soon as possible, whether it was queued or not. May be called from
/// any context, but not after [`disable_delayed`]: a reference would be lost.
pub(crate) fn hurry<T, const ID: u64>(item: &Arc<T>)
where
    T: HasDelayedWork<T, ID> + WorkItem<ID, Pointer = Arc<T>> + Send + Sync + 'static,
{
    // For the queue, if it is not queued yet.
    let _ = Arc::into_raw(item.clone());

    // CAST: `WORK_CPU_UNBOUND`, a small number.
    let cpu = bindings::wq_misc_consts_WORK_CPU_UNBOUND as i32;

    // SAFETY: The work item is initialised and, by `HasDelayedWork`, made for `T::Pointer`, of
    // which the queue has one. The system's queues are always there.
    let was_queued = unsafe {
        bindings::mod_delayed_work_on(cpu, bindings::system_long_wq, raw_delayed::<T, ID>(item), 0)
    };
    if was_queued {
        // SAFETY: It was queued before and has the reference of that; this one is too many.
        unsafe { drop_queued(item) };
    }
}
