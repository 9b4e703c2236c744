// SPDX-License-Identifier: GPL-2.0

//! Device nodes whose name, mode and parent are known only at run time.
//!
//! Missing upstream: [`MiscDeviceOptions`] has a static name and nothing else, and what serves a
//! file cannot find out which node it was opened on.

use core::marker::PhantomData;

use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::to_result,
    fs,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    seq_file::SeqFile,
    str::{
        CStrExt,
        CString, //
    },
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
    types::Opaque, //
};

use super::compat;

/// What serves a file that is open on a [`Node`].
pub(crate) trait FileOps: Send + Sync + Sized + 'static {
    /// What all files of a node share.
    type Context: Send + Sync + 'static;

    /// Makes the state of a file that is being opened.
    ///
    /// # Errors
    ///
    /// Becomes that of `open()`.
    fn open(context: &Self::Context) -> Result<Pin<KBox<Self>>>;

    /// Serves an ioctl.
    ///
    /// # Errors
    ///
    /// Becomes that of `ioctl()`.
    fn ioctl(self: Pin<&Self>, cmd: u32, arg: usize) -> Result<isize>;

    /// Tells what there is to know of the file, for `/proc/<pid>/fdinfo`.
    fn describe(self: Pin<&Self>, to: &SeqFile);

    /// Called when the last descriptor of the file was closed.
    fn release(self: Pin<&Self>);
}

/// The miscdevice side of a [`FileOps`].
struct Misc<T>(PhantomData<T>);

#[vtable]
impl<T: FileOps> MiscDevice for Misc<T> {
    type Ptr = Pin<KBox<T>>;

    fn open(_file: &fs::File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let misc = Opaque::cast_from(misc.as_raw().cast_const());

        // SAFETY: `Misc<T>` is private to this module, which registers it in `Node<T>` only, so
        // `misc` is the field of one. The kernel keeps that registered while it calls this.
        let node = unsafe { &*kernel::container_of!(misc, Node<T>, misc) };
        T::open(&node.context)
    }

    fn ioctl(this: Pin<&T>, _file: &fs::File, cmd: u32, arg: usize) -> Result<isize> {
        this.ioctl(cmd, arg)
    }

    // Not `compat_ptr_ioctl()`, which is what is used if there is no method: the layouts that old
    // 32-bit headers gave these structures were never served.
    #[cfg(CONFIG_COMPAT)]
    fn compat_ioctl(_: Pin<&T>, _file: &fs::File, _cmd: u32, _arg: usize) -> Result<isize> {
        Err(ENOTTY)
    }

    fn show_fdinfo(this: Pin<&T>, to: &SeqFile, _file: &fs::File) {
        this.describe(to);
    }

    fn release(this: Self::Ptr, _file: &fs::File) {
        this.as_ref().release();
    }
}

/// A device node, `/dev/<name>`, that only root may open.
///
/// # Invariants
///
/// `misc` is registered if and only if `registered` is set, but for the time that
/// [`Node::remove`] takes.
#[pin_data(PinnedDrop)]
pub(crate) struct Node<T: FileOps> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    registered: Atomic<bool>,
    context: T::Context,
    // Read by the driver core for as long as `misc` is registered.
    name: CString,
}

// SAFETY: A `struct miscdevice` may be deregistered by any task; the context may be sent.
unsafe impl<T: FileOps> Send for Node<T> {}

// SAFETY: The registration is protected by the kernel's own lock; the context may be shared.
unsafe impl<T: FileOps> Sync for Node<T> {}

impl<T: FileOps> Node<T> {
    /// Makes the node `name` below `parent`.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there are no minor numbers left, `EEXIST` if the name is taken, `ENOMEM`.
    pub(crate) fn new(
        name: CString,
        parent: &Device<Bound>,
        context: T::Context,
    ) -> Result<Pin<KBox<Self>>> {
        let node = KBox::pin_init(
            pin_init!(Self {
                misc <- Opaque::ffi_init(|slot: *mut bindings::miscdevice| {
                    let mut misc = MiscDeviceOptions { name: c"azihsm" }.into_raw::<Misc<T>>();
                    misc.mode = 0o600;
                    compat::keep_module(&mut misc);

                    // SAFETY: `slot` is valid for writes.
                    unsafe { slot.write(misc) };
                }),
                // INVARIANT: Not registered yet.
                registered: Atomic::new(false),
                context,
                name,
            }),
            GFP_KERNEL,
        )?;

        let misc = node.misc.get();
        // SAFETY: Nobody else knows of the structure yet. The name lives as long as the node, and
        // the parent until after its driver's data, with the node in it, is dropped.
        unsafe {
            (*misc).name = node.name.as_char_ptr();
            (*misc).parent = core::ptr::from_ref(parent).cast_mut().cast();
        }
        // SAFETY: The structure is initialised, pinned, and deregistered before it is freed.
        to_result(unsafe { bindings::misc_register(misc) })?;
        // INVARIANT: Registered.
        node.registered.store(true, Relaxed);
        Ok(node)
    }

    /// Returns the name of the node.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// Removes the node; files that are open stay open.
    pub(crate) fn remove(&self) {
        // INVARIANT: Whoever clears the flag deregisters.
        if self.registered.xchg(false, Full) {
            // SAFETY: The flag was set, so the structure is registered, and it was cleared, so
            // this happens only once.
            unsafe { bindings::misc_deregister(self.misc.get()) };
        }
    }
}

#[pinned_drop]
impl<T: FileOps> PinnedDrop for Node<T> {
    fn drop(self: Pin<&mut Self>) {
        self.remove();
    }
}
