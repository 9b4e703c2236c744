// SPDX-License-Identifier: GPL-2.0

//! What differs between the kernels that the driver is built for, all of it.
//!
//! The rest of the driver is written for the newest one. What an older kernel has not, or has in
//! another way, is here, as the newest has it; `Kbuild` sets `linux_7_2` for 7.2. When that is not
//! to be supported any more the module for it goes, and who uses the other one can do without.

#[cfg(linux_7_2)]
pub(crate) use linux_7_2::*;

#[cfg(not(linux_7_2))]
pub(crate) use newest::*;

/// What the kernel crate has, with little in between.
#[cfg(not(linux_7_2))]
mod newest {
    use kernel::{
        bindings,
        device::Bound,
        dma::{
            Coherent,
            DmaAddress, //
        },
        io::{
            io_project,
            io_read,
            Io, //
        },
        module_param::ModuleParamAccess,
        pci,
        prelude::*,
        ptr::KnownSize,
        sync::barrier, //
    };

    pub(crate) use kernel::{
        interrupt::local_interrupt_disable,
        irq::{
            Handler,
            IrqRequest,
            Registration, //
        },
        pci::{
            IrqVector,
            IrqVectorRegistration, //
        },
        prelude::module,
        sync::Srcu, //
    };

    /// What goes with the match of a function.
    pub(crate) type IdInfo<'a> = Option<&'a ()>;

    /// Allocates at least one and at most `most` MSI-X vectors.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there are none.
    pub(crate) fn msix_vectors(
        dev: &pci::Device<Bound>,
        most: u32,
    ) -> Result<IrqVectorRegistration<'_>> {
        dev.alloc_irq_vectors(1, most, pci::IrqTypes::default().with(pci::IrqType::MsiX))
    }

    /// Returns the bus address of `memory`.
    pub(crate) fn dma_address<T: KnownSize + ?Sized>(memory: &Coherent<T>) -> DmaAddress {
        memory.dma_address()
    }

    /// Reads the word `index`, once.
    ///
    /// # Errors
    ///
    /// `ERANGE` if there is none.
    pub(crate) fn read_word(words: &Coherent<[u64]>, index: usize) -> Result<u64> {
        Ok(io_read!(words, [try: index]))
    }

    /// Writes the word `index`.
    ///
    /// # Errors
    ///
    /// `ERANGE` if there is none.
    pub(crate) fn write_word(words: &Coherent<[u64]>, index: usize, value: u64) -> Result {
        io_project!(words, [try: index]).copy_write(value);
        Ok(())
    }

    /// Keeps what is read of DMA memory later behind what was read of it before.
    pub(crate) fn dma_read_barrier() {
        barrier::dma_mb(barrier::Read);
    }

    /// Returns the value of a module parameter.
    pub(crate) fn value<T: Copy>(parameter: &ModuleParamAccess<T>) -> T {
        parameter.value()
    }

    /// Returns the value of a module parameter that is a flag.
    pub(crate) fn flag(parameter: &ModuleParamAccess<bool>) -> bool {
        parameter.value()
    }

    /// Returns the error of a call that there is not.
    pub(crate) fn bad_request() -> Error {
        EBADRQC
    }

    type ShowCallback = unsafe extern "C" fn(
        *mut bindings::kobject,
        *mut bindings::kobj_attribute,
        *mut c_char,
    ) -> isize;

    /// Sets the function that shows `attribute`.
    pub(crate) fn set_show(attribute: &mut bindings::kobj_attribute, show: Option<ShowCallback>) {
        attribute.__bindgen_anon_1.show = show;
    }

    /// Returns what the kernel knows this module by, which is null if it is built in.
    pub(crate) const fn this_module() -> *mut bindings::module {
        kernel::module::this_module::<crate::LocalModule>().as_ptr()
    }

    /// Keeps the module while a file is open on the node.
    pub(crate) fn keep_module(_: &mut bindings::miscdevice) {
        // The kernel crate has seen to it.
    }

    /// Declares a table of PCI functions without anything that goes with them.
    macro_rules! pci_device_table {
        ($name:ident, $($id:expr),+) => {
            kernel::pci_device_table!($name, (), [$(($id, ())),+]);
        };
    }
    pub(crate) use pci_device_table;
}

/// The same for 7.2, whose kernel crate has less.
///
/// Only for x86-64, and for kernels without lock debugging, which is what there are packages of.
#[cfg(linux_7_2)]
mod linux_7_2 {
    use core::marker::{
        PhantomData,
        PhantomPinned, //
    };

    use kernel::{
        bindings,
        device::Bound,
        dma::{
            Coherent,
            DmaAddress, //
        },
        error::to_result,
        irq::{
            Flags,
            IrqReturn, //
        },
        module_param::ModuleParamAccess,
        pci,
        prelude::*,
        ptr::KnownSize,
        sync::{
            LockClassKey,
            SetOnce, //
        },
        types::{
            NotThreadSafe,
            Opaque, //
        },
    };

    #[cfg(not(CONFIG_X86_64))]
    compile_error!("azihsm: kernels before 7.3 are supported on x86-64 only");

    #[cfg(any(CONFIG_DEBUG_SPINLOCK, CONFIG_DEBUG_LOCK_ALLOC))]
    compile_error!("azihsm: kernels before 7.3 are supported without lock debugging only");

    /// What goes with the match of a function.
    pub(crate) type IdInfo<'a> = &'a ();

    /// See `kernel::interrupt::LocalInterruptDisabled`.
    pub(crate) struct LocalInterruptDisabled {
        lock: bindings::raw_spinlock,
        flags: usize,
        _not_send: NotThreadSafe,
    }

    /// See `kernel::interrupt::local_interrupt_disable()`.
    ///
    /// What disables interrupts is inline, and has no helper. A lock that nobody else knows of does
    /// it, too.
    #[inline]
    pub(crate) fn local_interrupt_disable() -> LocalInterruptDisabled {
        // A lock that is not held is all zeroes.
        let mut lock: bindings::raw_spinlock = pin_init::zeroed();

        // SAFETY: The lock is valid and not held. Nothing refers to it while it is held, since
        // nobody waits for it, so it may be moved.
        let flags = unsafe { bindings::_raw_spin_lock_irqsave(&mut lock) };
        LocalInterruptDisabled {
            lock,
            flags,
            _not_send: NotThreadSafe,
        }
    }

    impl Drop for LocalInterruptDisabled {
        #[inline]
        fn drop(&mut self) {
            // SAFETY: It was taken when `self` was made, on this processor.
            unsafe { bindings::_raw_spin_unlock_irqrestore(&mut self.lock, self.flags) };
        }
    }

    /// See `kernel::pci::IrqVectorRegistration`.
    ///
    /// # Invariants
    ///
    /// `dev` has `len` vectors.
    pub(crate) struct IrqVectorRegistration<'a> {
        dev: &'a pci::Device<Bound>,
        len: usize,
    }

    /// See `kernel::pci::IrqVector`.
    pub(crate) struct IrqVector<'a> {
        irq: c_uint,
        _of: PhantomData<&'a IrqVectorRegistration<'a>>,
    }

    /// See `kernel::irq::IrqRequest`.
    pub(crate) type IrqRequest<'a> = IrqVector<'a>;

    impl IrqVector<'_> {
        /// Returns the number of the interrupt.
        pub(crate) fn irq(&self) -> c_uint {
            self.irq
        }
    }

    impl IrqVectorRegistration<'_> {
        /// Returns how many there are.
        pub(crate) fn len(&self) -> usize {
            self.len
        }

        /// Returns the vector `index`.
        ///
        /// # Errors
        ///
        /// `EINVAL` if there is none.
        pub(crate) fn index(&self, index: usize) -> Result<IrqVector<'_>> {
            let index = u32::try_from(index)?;

            // SAFETY: The function is valid.
            let irq = unsafe { bindings::pci_irq_vector(as_raw(self.dev), index) };
            to_result(irq)?;
            Ok(IrqVector {
                // CAST: It is not negative.
                irq: irq as c_uint,
                _of: PhantomData,
            })
        }
    }

    impl Drop for IrqVectorRegistration<'_> {
        fn drop(&mut self) {
            // SAFETY: By the type invariant. Handlers borrow from `self`.
            unsafe { bindings::pci_free_irq_vectors(as_raw(self.dev)) };
        }
    }

    fn as_raw(dev: &pci::Device<Bound>) -> *mut bindings::pci_dev {
        // CAST: A `pci::Device` is a transparent `struct pci_dev`.
        core::ptr::from_ref(dev).cast_mut().cast()
    }

    /// Allocates at least one and at most `most` MSI-X vectors.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there are none.
    pub(crate) fn msix_vectors(
        dev: &pci::Device<Bound>,
        most: u32,
    ) -> Result<IrqVectorRegistration<'_>> {
        // SAFETY: The function is valid.
        let count = unsafe {
            bindings::pci_alloc_irq_vectors(as_raw(dev), 1, most, bindings::PCI_IRQ_MSIX)
        };
        to_result(count)?;

        // INVARIANT: It has `count` vectors.
        // CAST: It is not negative.
        Ok(IrqVectorRegistration {
            dev,
            len: count as usize,
        })
    }

    /// See the one of 7.3 in `kernel::irq`.
    pub(crate) trait Handler: Sync {
        /// Handles the interrupt, in interrupt context.
        fn handle(&self) -> IrqReturn;
    }

    /// See the one of 7.3 in `kernel::irq`.
    ///
    /// # Invariants
    ///
    /// The handler of `irq` is `handle::<T>()`, called with a pointer to `handler`.
    #[pin_data(PinnedDrop)]
    pub(crate) struct Registration<'a, T: Handler> {
        irq: c_uint,
        #[pin]
        handler: T,
        #[pin]
        _pin: PhantomPinned,
        _vector: PhantomData<IrqVector<'a>>,
    }

    impl<'a, T: Handler> Registration<'a, T> {
        /// Has `handler` called for interrupts of `vector`. There are no flags that anybody needs.
        ///
        /// # Safety
        ///
        /// The result must be dropped, and not leaked, before `'a` and what `T` borrows end.
        pub(crate) unsafe fn new(
            vector: IrqVector<'a>,
            _flags: Flags,
            name: &'static CStr,
            handler: Result<T>,
        ) -> impl PinInit<Self, Error> {
            let IrqVector { irq: number, .. } = vector;
            try_pin_init!(&this in Self {
                irq: number,
                handler: handler?,
                _pin: PhantomPinned,
                _vector: PhantomData,
                // INVARIANT: That is what this registers.
                _: {
                    // SAFETY: The handler is initialized and stays where it is until the destructor
                    // has taken it back.
                    to_result(unsafe {
                        bindings::request_irq(
                            number,
                            Some(handle::<T>),
                            0,
                            name.as_char_ptr(),
                            (&raw mut (*this.as_ptr()).handler).cast(),
                        )
                    })?;
                },
            })
        }
    }

    #[pinned_drop]
    impl<T: Handler> PinnedDrop for Registration<'_, T> {
        fn drop(self: Pin<&mut Self>) {
            let handler = core::ptr::from_ref(&self.handler).cast_mut();

            // SAFETY: By the type invariant. This waits for handlers that are running.
            unsafe { bindings::free_irq(self.irq, handler.cast()) };
        }
    }

    /// # Safety
    ///
    /// Only for [`Registration`].
    unsafe extern "C" fn handle<T: Handler>(_: i32, handler: *mut c_void) -> c_uint {
        // SAFETY: By the type invariant of `Registration`, which lives until this is not called any
        // more.
        unsafe { &*handler.cast::<T>() }.handle() as c_uint
    }

    /// See `kernel::sync::Srcu`.
    ///
    /// # Invariants
    ///
    /// `inner` is initialized.
    #[pin_data(PinnedDrop)]
    pub(crate) struct Srcu {
        #[pin]
        inner: Opaque<bindings::srcu_struct>,
    }

    /// A reader.
    pub(crate) struct Guard<'a> {
        srcu: &'a Srcu,
        index: c_int,
        _not_send: NotThreadSafe,
    }

    // SAFETY: Any thread may use it.
    unsafe impl Send for Srcu {}

    // SAFETY: Any number of threads may use it at once.
    unsafe impl Sync for Srcu {}

    impl Srcu {
        /// Makes one. Only kernels with lock debugging look at its name and class.
        ///
        /// # Errors
        ///
        /// `ENOMEM`.
        pub(crate) fn new(
            _name: &'static CStr,
            _key: Pin<&'static LockClassKey>,
        ) -> impl PinInit<Self, Error> {
            try_pin_init!(Self {
                inner <- Opaque::try_ffi_init(|inner| {
                    // SAFETY: There is memory for it at `inner`.
                    to_result(unsafe { bindings::init_srcu_struct(inner) })
                }),
            })
        }

        /// Begins to read.
        pub(crate) fn read_lock(&self) -> Guard<'_> {
            // SAFETY: By the type invariant.
            let index = unsafe { bindings::__srcu_read_lock(self.inner.get()) };
            Guard {
                srcu: self,
                index,
                _not_send: NotThreadSafe,
            }
        }

        /// Waits for all who have begun to read.
        pub(crate) fn synchronize(&self) {
            // SAFETY: By the type invariant.
            unsafe { bindings::synchronize_srcu(self.inner.get()) };
        }
    }

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            // SAFETY: The index is that of this reader.
            unsafe { bindings::__srcu_read_unlock(self.srcu.inner.get(), self.index) };
        }
    }

    #[pinned_drop]
    impl PinnedDrop for Srcu {
        fn drop(self: Pin<&mut Self>) {
            // SAFETY: By the type invariant. There are no readers, who borrow it, and no callbacks,
            // which it has no function for.
            unsafe { bindings::cleanup_srcu_struct(self.inner.get()) };
        }
    }

    /// Returns the bus address of `memory`.
    pub(crate) fn dma_address<T: KnownSize + ?Sized>(memory: &Coherent<T>) -> DmaAddress {
        memory.dma_handle()
    }

    /// Reads the word `index`, once.
    ///
    /// # Errors
    ///
    /// `ERANGE` if there is none.
    pub(crate) fn read_word(words: &Coherent<[u64]>, index: usize) -> Result<u64> {
        Ok(kernel::dma_read!(words, [try: index]))
    }

    /// Writes the word `index`.
    ///
    /// # Errors
    ///
    /// `ERANGE` if there is none.
    pub(crate) fn write_word(words: &Coherent<[u64]>, index: usize, value: u64) -> Result {
        kernel::dma_write!(words, [try: index], value);
        Ok(())
    }

    /// Keeps what is read of DMA memory later behind what was read of it before.
    ///
    /// On x86-64 that is what orders reads between processors, too.
    pub(crate) fn dma_read_barrier() {
        kernel::sync::barrier::smp_rmb();
    }

    /// Returns the value of a module parameter.
    pub(crate) fn value<T: Copy>(parameter: &ModuleParamAccess<T>) -> T {
        *parameter.value()
    }

    /// Returns the value of a module parameter that is a flag.
    pub(crate) fn flag(parameter: &ModuleParamAccess<i32>) -> bool {
        *parameter.value() != 0
    }

    /// Returns the error of a call that there is not.
    pub(crate) fn bad_request() -> Error {
        // CAST: A small constant.
        Error::from_errno(-(bindings::EBADRQC as c_int))
    }

    /// What serves open files.
    struct Operations(bindings::file_operations);

    // SAFETY: Nobody writes to it.
    unsafe impl Send for Operations {}

    // SAFETY: As above.
    unsafe impl Sync for Operations {}

    type ShowCallback = unsafe extern "C" fn(
        *mut bindings::kobject,
        *mut bindings::kobj_attribute,
        *mut c_char,
    ) -> isize;

    /// Sets the function that shows `attribute`.
    pub(crate) fn set_show(attribute: &mut bindings::kobj_attribute, show: Option<ShowCallback>) {
        attribute.show = show;
    }

    /// Returns what the kernel knows this module by, which is null if it is built in.
    pub(crate) const fn this_module() -> *mut bindings::module {
        crate::THIS_MODULE.as_ptr()
    }

    /// Keeps the module while a file is open on the node.
    ///
    /// The kernel crate leaves the owner of the operations out, so they are copied, to where they
    /// are for as long as the module is.
    pub(crate) fn keep_module(misc: &mut bindings::miscdevice) {
        // One for each kind of node that the driver has.
        static OPERATIONS: [SetOnce<Operations>; 2] = [const { SetOnce::new() }; 2];

        // SAFETY: They are those of the kernel crate, which are there forever.
        let mut operations = unsafe { misc.fops.read() };
        operations.owner = this_module();
        for place in &OPERATIONS {
            place.populate(Operations(operations));
            let Operations(kept) = loop {
                // Another device, which came first, may be at it still.
                if let Some(kept) = place.as_ref() {
                    break kept;
                }
                core::hint::spin_loop();
            };
            if is_same(kept, &operations) {
                misc.fops = kept;
                return;
            }
        }
    }

    /// Returns whether both serve one kind of node.
    fn is_same(one: &bindings::file_operations, other: &bindings::file_operations) -> bool {
        let serves = |operations: &bindings::file_operations| {
            operations.unlocked_ioctl.map(|ioctl| ioctl as usize)
        };
        serves(one) == serves(other)
    }

    /// Declares a table of PCI functions without anything that goes with them.
    macro_rules! pci_device_table {
        ($name:ident, $($id:expr),+) => {
            kernel::pci_device_table!($name, MODULE_TABLE, (), [$(($id, ())),+]);
        };
    }
    pub(crate) use pci_device_table;

    /// Declares the module. There are no boolean parameters: those that are become numbers.
    macro_rules! module {
        (type: $type:tt, name: $name:tt, authors: $authors:tt, description: $description:tt,
         license: $license:tt, params: { $($params:tt)* },) => {
            $crate::sys::compat::module!(
                [type: $type, name: $name, authors: $authors, description: $description,
                 license: $license,]
                [] $($params)*
            );
        };
        ($head:tt [$($done:tt)*]
         $name:ident: bool { default: true, $($rest:tt)* }, $($more:tt)*) => {
            $crate::sys::compat::module!(
                $head [$($done)* $name: i32 { default: 1, $($rest)* },] $($more)*
            );
        };
        ($head:tt [$($done:tt)*]
         $name:ident: bool { default: false, $($rest:tt)* }, $($more:tt)*) => {
            $crate::sys::compat::module!(
                $head [$($done)* $name: i32 { default: 0, $($rest)* },] $($more)*
            );
        };
        ($head:tt [$($done:tt)*] $name:ident: $type:ident $rest:tt, $($more:tt)*) => {
            $crate::sys::compat::module!(
                $head [$($done)* $name: $type $rest,] $($more)*
            );
        };
        ([$($head:tt)*] [$($done:tt)*]) => {
            kernel::prelude::module! { $($head)* params: { $($done)* }, }
        };
    }
    pub(crate) use module;
}
