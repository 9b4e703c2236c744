// SPDX-License-Identifier: GPL-2.0

//! Slots: a command, its memory, and who waits for it.

use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

use crate::{
    lockless::slot,
    sys::{
        completion::Event,
        dma::Buffer,
        figure::Figure, //
    },
};

/// See the [module](self). A `T` is what a waiter that leaves early leaves behind.
#[pin_data]
#[repr(C)]
pub(crate) struct Slot<T> {
    state: slot::Slot,
    // When the command was submitted. Written by the pump, read by the reaper; between what both
    // of them touch anyway.
    launched_at: Figure,
    #[pin]
    done: Event,
    #[pin]
    left_behind: Mutex<Option<T>>,
    buffer: Buffer,
}

impl<T: Unpin> Slot<T> {
    /// Makes a free slot with the memory `buffer`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(buffer: Buffer) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                state: slot::Slot::new(),
                launched_at: Figure::new(0),
                done <- Event::new(),
                left_behind <- new_mutex!(None, "azihsm_left_behind"),
                buffer,
            }),
            GFP_KERNEL,
        )
    }

    /// Returns the memory of the slot, which is to be touched by its owner only.
    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// When the command was submitted, in the time of [`crate::sys::clock`].
    pub(crate) fn launched_at(&self) -> &Figure {
        &self.launched_at
    }

    /// Returns the bytes, as `bytes` says, of what a waiter has left behind; 0 if none has.
    pub(crate) fn look_left_behind(&self, bytes: impl FnOnce(&T) -> usize) -> usize {
        self.left_behind.lock().as_ref().map_or(0, bytes)
    }

    /// Signalled once for each command: when it has ended, or before if its waiter is to leave.
    pub(crate) fn done(&self) -> &Event {
        &self.done
    }
}

impl<T: Unpin> slot::Seat for Slot<T> {
    type Left = T;

    fn slot(&self) -> &slot::Slot {
        &self.state
    }

    fn signal(&self) {
        self.done.signal();
    }

    fn wait(&self) {
        self.done.wait_forever();
    }

    fn leave_behind(&self, it: T) {
        *self.left_behind.lock() = Some(it);
    }

    fn take_left_behind(&self) -> Option<T> {
        self.left_behind.lock().take()
    }
}
