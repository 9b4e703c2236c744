// SPDX-License-Identifier: GPL-2.0

//! A device in service: its state, and what may call into it.
//!
//! Missing upstream: structures whose fields refer to one another.
//!
//! Interrupt handlers and open files refer to the state of the device, which owns the interrupt
//! vectors that the handlers are registered for. [`Live`] ties the three together and takes them
//! apart in the only sound order.

use kernel::{
    bindings,
    cpu,
    cpu::CpuId,
    cpumask::CpumaskVar,
    irq,
    prelude::*,
    sync::Arc,
    types::ForLt, //
};

use super::{
    compat,
    compat::{
        IrqRequest,
        IrqVector,
        Registration, //
    },
    gate::Gate, //
};

/// State that interrupt handlers work on.
pub(crate) trait Interrupts {
    /// Returns the number of interrupt vectors.
    fn vectors(&self) -> usize;

    /// Returns the interrupt vector `index` and the name of its handler.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is none.
    fn vector(&self, index: usize) -> Result<(IrqVector<'_>, &'static CStr)>;

    /// Returns whether the processor `cpu` had best handle the interrupts of the vector `index`.
    fn is_for(&self, index: usize, cpu: usize) -> bool;

    /// Handles an interrupt of the vector `index`, in interrupt context.
    fn interrupt(&self, index: usize) -> irq::IrqReturn;
}

/// The handler of one interrupt vector.
struct Handler<'a, T> {
    state: &'a T,
    index: usize,
}

impl<T: Interrupts + Sync> compat::Handler for Handler<'_, T> {
    fn handle(&self) -> irq::IrqReturn {
        self.state.interrupt(self.index)
    }
}

/// Has the interrupt `number` handled by one of the processors that `is_for` names, if there are any
/// and the machine lets it. Whoever administers the machine may change it.
///
/// Missing upstream: the affinity of interrupts.
///
/// # Errors
///
/// `ENOMEM`.
fn steer(number: u32, is_for: impl Fn(usize) -> bool) -> Result {
    let mut mask = CpumaskVar::new_zero(GFP_KERNEL)?;

    // CAST: Processor numbers are far below `usize::MAX`.
    for cpu in (0..cpu::nr_cpu_ids()).filter(|&cpu| is_for(cpu as usize)) {
        if let Some(cpu) = CpuId::from_u32(cpu) {
            mask.set(cpu);
        }
    }
    if !mask.empty() {
        // SAFETY: `mask` is a valid mask, which is only read, and not used after this returns. Any
        // number may be passed: that of no interrupt is refused. It fails if no processor of the
        // mask is online, for example, and then nothing has changed.
        let _ = unsafe { bindings::irq_set_affinity(number, mask.as_raw()) };
    }
    Ok(())
}

/// A handler that is registered.
type Registered<'a, T> = Pin<KBox<Registration<'a, Handler<'a, T>>>>;

/// See the [module](self).
///
/// # Invariants
///
/// - `state` is neither moved nor replaced until it is dropped.
/// - Nothing refers to `state` but `handlers`, callers inside `gate`, and borrows of `self`.
pub(super) struct Live<'bound, F: ForLt>
where
    F::Of<'bound>: Interrupts,
    for<'a> F::Of<'a>: Sync,
{
    gate: Arc<Gate<F>>,
    // Dropped before `state`, to which the handlers refer.
    handlers: KVec<Registered<'bound, F::Of<'bound>>>,
    state: Pin<KBox<F::Of<'bound>>>,
}

impl<'bound, F: ForLt> Live<'bound, F>
where
    F::Of<'bound>: Interrupts,
    for<'a> F::Of<'a>: Sync,
{
    /// Registers the handlers of `state`, which `gate` will lead to.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or what `request_irq()` says.
    ///
    /// # Safety
    ///
    /// The result must be dropped, and not leaked, before `'bound` ends.
    pub(super) unsafe fn new(state: Pin<KBox<F::Of<'bound>>>, gate: Arc<Gate<F>>) -> Result<Self> {
        // Handlers that are already registered are dropped first if a later step fails.
        let mut this = Self {
            gate,
            handlers: KVec::new(),
            state,
        };

        // SAFETY: `this.state` is pinned on the heap and, by the declaration order of the fields,
        // outlives `this.handlers`, which is the only place that this reference gets to. It may be
        // called `'bound` since `Live` itself does not outlive that.
        let state: &'bound F::Of<'bound> = unsafe { &*core::ptr::from_ref(&*this.state) };

        for index in 0..state.vectors() {
            let (vector, name) = state.vector(index)?;
            let request = IrqRequest::from(vector);
            let number = request.irq();

            // SAFETY: The registration goes into `this.handlers`, whose destructor runs by the
            // safety requirement of this function.
            let handler = unsafe {
                Registration::new(
                    request,
                    irq::Flags::TRIGGER_NONE,
                    name,
                    Ok(Handler { state, index }),
                )
            };
            let handler = KBox::pin_init(handler, GFP_KERNEL)?;
            this.handlers.push(handler, GFP_KERNEL)?;
            steer(number, |cpu| state.is_for(index, cpu))?;
        }
        Ok(this)
    }

    /// Lets callers through the gate, until `self` is dropped.
    pub(super) fn open(&self) {
        // SAFETY: By the safety requirement of `new()` the destructor runs before `'bound` ends. It
        // closes the gate, before `self.state` is dropped.
        unsafe { self.gate.open(&self.state) };
    }

    /// Returns the state of the device.
    pub(super) fn state(&self) -> &F::Of<'bound> {
        &self.state
    }
}

impl<'bound, F: ForLt> Drop for Live<'bound, F>
where
    F::Of<'bound>: Interrupts,
    for<'a> F::Of<'a>: Sync,
{
    fn drop(&mut self) {
        self.gate.close();
    }
}
