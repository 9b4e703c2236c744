// SPDX-License-Identifier: GPL-2.0

//! Directories of files in debugfs.
//!
//! Missing upstream: an owner of the files of [`kernel::debugfs`]. Without one a file that is open
//! does not keep the module, but what is called when it is closed is found in the module.

use kernel::{
    bindings,
    prelude::*,
    seq_file::SeqFile,
    str::{
        CStrExt,
        CString, //
    },
};

#[cfg(CONFIG_DEBUG_FS)]
use kernel::bindings::{
    debugfs_create_dir,
    debugfs_create_file_full,
    debugfs_remove, //
};

use super::compat;

#[cfg(not(CONFIG_DEBUG_FS))]
use without::{
    debugfs_create_dir,
    debugfs_create_file_full,
    debugfs_remove, //
};

/// What C has in the places of these functions if the kernel has no debugfs.
#[cfg(not(CONFIG_DEBUG_FS))]
#[allow(clippy::missing_safety_doc)]
mod without {
    use core::ptr::null_mut;

    use kernel::{
        bindings::{
            dentry,
            file_operations, //
        },
        prelude::*,
    };

    pub(super) unsafe fn debugfs_create_dir(_: *const c_char, _: *mut dentry) -> *mut dentry {
        null_mut()
    }

    pub(super) unsafe fn debugfs_create_file_full(
        _: *const c_char,
        _: u16,
        _: *mut dentry,
        _: *mut c_void,
        _: *const c_void,
        _: *const file_operations,
    ) -> *mut dentry {
        null_mut()
    }

    pub(super) unsafe fn debugfs_remove(_: *mut dentry) {}
}

/// What a file says.
pub(crate) trait Show: Send + Sync + 'static {
    /// Writes it to `to`. May sleep, but must not wait for the directory to be removed.
    fn show(&self, to: &SeqFile);
}

/// Files of a directory below one of the root of debugfs, for root to read.
///
/// # Invariants
///
/// - `top` is what creating that directory returned, which may be an error, and was not removed.
/// - `files` has what is registered in it, and is not changed.
pub(crate) struct Directory<S> {
    top: *mut bindings::dentry,
    files: KVec<(CString, S)>,
}

// SAFETY: A directory may be removed by any task, and files be freed by any.
unsafe impl<S: Show> Send for Directory<S> {}

// SAFETY: There is nothing that can be done by a shared reference.
unsafe impl<S: Show> Sync for Directory<S> {}

impl<S: Show> Directory<S> {
    /// What serves a file, for as long as the module is there, which it is while one is open.
    const OPERATIONS: &'static bindings::file_operations = &bindings::file_operations {
        owner: compat::this_module(),
        open: Some(Self::open_callback),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };

    /// Makes the directory `name`, and `below` in it with `files` by their names. As is the custom
    /// of debugfs, nobody is told if that does not work.
    pub(crate) fn new(name: &CStr, below: &CStr, files: KVec<(CString, S)>) -> Self {
        // SAFETY: The names are strings, which are copied. An error is taken for a directory, in
        // which nothing can be created then.
        let (top, below) = unsafe {
            let top = debugfs_create_dir(name.as_char_ptr(), core::ptr::null_mut());
            (top, debugfs_create_dir(below.as_char_ptr(), top))
        };
        // INVARIANT: It was created just now; of `files`, nothing is registered yet.
        let this = Self { top, files };
        for (name, content) in &this.files {
            let content = core::ptr::from_ref(content).cast_mut().cast();

            // SAFETY: As above. `content` is on the heap: by the type invariant it stays where it
            // is until the destructor has removed the file. The operations expect just that, and
            // are there as long as the module.
            unsafe {
                debugfs_create_file_full(
                    name.as_char_ptr(),
                    0o400,
                    below,
                    content,
                    core::ptr::null(),
                    Self::OPERATIONS,
                )
            };
        }
        this
    }

    /// # Safety
    ///
    /// `inode` and `file` must be those of a file of such a directory that is being opened, which
    /// is not removed meanwhile.
    unsafe extern "C" fn open_callback(
        inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> c_int {
        // SAFETY: By the safety requirement both are valid, and the file has its content there,
        // which is what the other callback expects.
        unsafe { bindings::single_open(file, Some(Self::show_callback), (*inode).i_private) }
    }

    /// # Safety
    ///
    /// `file` must be what [`Self::open_callback`] has opened, and not be removed meanwhile.
    unsafe extern "C" fn show_callback(file: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: `file` is valid. It was opened with a pointer to a content, which stays valid
        // until the directory was removed, which waits for this to return; of removed files debugfs
        // calls nothing but `release`. Nothing changes in it meanwhile.
        let (content, file) = unsafe {
            let content = (*file).private.cast::<S>();
            (&*content, SeqFile::from_raw(file))
        };
        content.show(file);
        0
    }
}

impl<S> Drop for Directory<S> {
    fn drop(&mut self) {
        // Waits until nobody is in the functions of its files any more and lets nobody in but to
        // close them. The files are dropped after that.
        // SAFETY: By the type invariant it was not removed yet; errors are ignored.
        unsafe { debugfs_remove(self.top) };
    }
}
