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
        dma::Buffer, //
    },
};

/// See the [module](self). A `T` is what a waiter that leaves early leaves behind.
#[pin_data]
pub(crate) struct Slot<T> {
    state: slot::Slot,
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
