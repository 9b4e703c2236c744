// SPDX-License-Identifier: GPL-2.0

//! Directories of files in sysfs, and what is told of a device besides.
//!
//! Missing upstream: sysfs attributes, and uevents.

use core::ptr::NonNull;

use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::to_result,
    prelude::*,
    str::{
        CStrExt,
        CString,
        Formatter, //
    },
};

use super::compat;

/// What a file says.
pub(crate) trait Show: Send + Sync + 'static {
    /// Writes it to `to`, in less than 80 bytes. May sleep, but must not wait for the device to be
    /// unbound.
    ///
    /// # Errors
    ///
    /// Becomes that of `read()`.
    fn show(&self, to: &mut Formatter<'_>) -> Result;
}

/// A file that all may read and none may write.
///
/// Its first field is what the kernel knows of it.
#[repr(C)]
struct File<S> {
    attribute: bindings::kobj_attribute,
    content: S,
}

impl<S: Show> File<S> {
    fn new(name: &'static CStr, content: S) -> Self {
        let mut attribute: bindings::kobj_attribute = pin_init::zeroed();
        attribute.attr.name = name.as_char_ptr();
        attribute.attr.mode = 0o444;
        #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
        {
            attribute.attr.key = kernel::static_lock_class!().as_ptr();
        }
        compat::set_show(&mut attribute, Some(Self::show_callback));
        Self { attribute, content }
    }

    /// # Safety
    ///
    /// `attribute` must be that of a file, which stays registered, and `page` a page to write to.
    unsafe extern "C" fn show_callback(
        _: *mut bindings::kobject,
        attribute: *mut bindings::kobj_attribute,
        page: *mut c_char,
    ) -> isize {
        // SAFETY: The kernel calls this with an attribute that was registered with it. That is done
        // by `Directory<S>` only, with those of its own files, so `attribute` is the first field of
        // a `File<S>`, and stays valid until the directory was removed, which waits for this to
        // return. Nothing changes in it meanwhile.
        let this = unsafe { &*attribute.cast::<Self>() };

        let mut text = [0; 80];
        let mut formatter = Formatter::new(&mut text);
        if let Err(error) = this.content.show(&mut formatter) {
            // CAST: Widening.
            return error.to_errno() as isize;
        }
        let written = formatter.bytes_written().min(text.len());

        // SAFETY: `page` is a page, of which nobody else knows yet, and larger than `text`.
        unsafe { core::ptr::copy_nonoverlapping(text.as_ptr(), page.cast::<u8>(), written) };
        // CAST: At most 80.
        written as isize
    }
}

/// Sets the list of attributes of `group`, which ends with a null pointer.
fn set_attributes(group: &mut bindings::attribute_group, list: *mut *mut bindings::attribute) {
    group.__bindgen_anon_2.attrs = list;
}

/// Files of a directory below a [`Directory`], or of that itself if they have no name.
pub(crate) struct Group<S> {
    name: Option<CString>,
    files: KVec<File<S>>,
}

impl<S: Show> Group<S> {
    /// Makes a group without files.
    pub(crate) fn new(name: Option<CString>) -> Self {
        Self {
            name,
            files: KVec::new(),
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn add(&mut self, name: &'static CStr, content: S) -> Result {
        Ok(self.files.push(File::new(name, content), GFP_KERNEL)?)
    }

    /// Registers the files below `directory`.
    ///
    /// # Safety
    ///
    /// `directory` must be a valid directory, and must be removed before `self` is changed, or its
    /// files freed. `self` may be moved: the files are on the heap.
    unsafe fn register(&mut self, directory: NonNull<bindings::kobject>) -> Result {
        // The kernel keeps pointers to the attributes, but neither the list nor the group.
        let mut list = KVec::with_capacity(self.files.len() + 1, GFP_KERNEL)?;
        for file in self.files.iter_mut() {
            list.push(core::ptr::from_mut(file).cast(), GFP_KERNEL)?;
        }
        list.push(core::ptr::null_mut(), GFP_KERNEL)?;

        let mut group: bindings::attribute_group = pin_init::zeroed();
        if let Some(name) = &self.name {
            group.name = name.as_char_ptr();
        }
        set_attributes(&mut group, list.as_mut_ptr());
        // SAFETY: `directory` is valid, as is all of the group, of whose list each element is the
        // first field of an attribute and of a file; by the safety requirement these stay valid and
        // as they are for as long as they are registered. `File::new()` initialised them.
        to_result(unsafe { bindings::sysfs_create_group(directory.as_ptr(), &group) })
    }
}

/// A directory of a device, with files.
///
/// # Invariants
///
/// - `object` is a directory that was added by this, and not removed.
/// - `groups` has what is registered in it, and is not changed.
pub(crate) struct Directory<S> {
    object: NonNull<bindings::kobject>,
    groups: KVec<Group<S>>,
}

// SAFETY: A directory may be removed by any task, and files be freed by any.
unsafe impl<S: Show> Send for Directory<S> {}

// SAFETY: There is nothing that can be done by a shared reference.
unsafe impl<S: Show> Sync for Directory<S> {}

impl<S: Show> Directory<S> {
    /// Makes the directory `name` of `device`.
    ///
    /// # Errors
    ///
    /// `EEXIST` if there is such a file, `ENOMEM`.
    pub(crate) fn new(
        device: &Device<Bound>,
        name: &'static CStr,
        groups: KVec<Group<S>>,
    ) -> Result<Self> {
        // CAST: A `Device` is a transparent `struct device`.
        let device: *mut bindings::device = core::ptr::from_ref(device).cast_mut().cast();

        // SAFETY: The device is valid and, as it is bound, has a directory. The new one keeps a
        // reference to it.
        let object = unsafe {
            bindings::kobject_create_and_add(name.as_char_ptr(), &raw mut (*device).kobj)
        };
        // From here on the destructor removes it if a step fails.
        // INVARIANT: It was added; no group is registered yet.
        let mut this = Self {
            object: NonNull::new(object).ok_or(ENOMEM)?,
            groups,
        };
        for group in this.groups.iter_mut() {
            // SAFETY: The directory is valid by the type invariant. The destructor removes it
            // before the groups are dropped, and by the type invariant they do not change.
            unsafe { group.register(this.object) }?;
        }
        Ok(this)
    }
}

impl<S> Drop for Directory<S> {
    fn drop(&mut self) {
        let object = self.object.as_ptr();

        // Removing a directory removes all that is in it, and of each file waits until nobody is in
        // its function any more and lets nobody in: whoever has it open is told that there is no
        // such device. The groups are dropped after that.
        // SAFETY: By the type invariant the directory was added and not removed, and the reference
        // to it is dropped only here. What frees it is in the kernel, not in this module.
        unsafe {
            bindings::kobject_del(object);
            bindings::kobject_put(object);
        }
    }
}

/// Most variables of an event.
const MAX_VARIABLES: usize = 3;

/// Tells user space that `device` has changed, and how: each of `variables` is `NAME=value`. May
/// sleep. Nobody need listen, and more than [`MAX_VARIABLES`] are not told.
pub(crate) fn tell_change(device: &Device<Bound>, variables: &[&CStr]) {
    let mut pointers = [core::ptr::null_mut(); MAX_VARIABLES + 1];
    for (to, variable) in pointers.iter_mut().take(MAX_VARIABLES).zip(variables) {
        *to = variable.as_char_ptr().cast_mut();
    }
    // CAST: A `Device` is a transparent `struct device`.
    let device: *mut bindings::device = core::ptr::from_ref(device).cast_mut().cast();

    // SAFETY: The device is valid. The list ends with a null pointer, and its strings are copied.
    unsafe {
        bindings::kobject_uevent_env(
            &raw mut (*device).kobj,
            bindings::kobject_action_KOBJ_CHANGE,
            pointers.as_mut_ptr(),
        )
    };
}
