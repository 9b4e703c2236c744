// SPDX-License-Identifier: GPL-2.0

//! Numbers of the device nodes.

use kernel::{
    prelude::*,
    sync::atomic::Atomic, //
};

use crate::lockless::tags;

/// Most nodes: 16 devices with a physical and 64 virtual functions each.
const MAX_NODES: usize = 16 * 65;

/// A bit by number.
static TAKEN: [Atomic<u64>; MAX_NODES.div_ceil(64)] =
    [const { Atomic::new(0) }; MAX_NODES.div_ceil(64)];

/// The number of a node, the lowest that was free. It is free again when this is dropped.
pub(crate) struct Number(usize);

impl Number {
    /// Takes a number.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there are none left.
    pub(crate) fn take() -> Result<Self> {
        Ok(Self(tags::take_lowest(&TAKEN).ok_or(ENOSPC)?))
    }

    /// Returns the number.
    pub(crate) fn get(&self) -> usize {
        self.0
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        tags::give(&TAKEN, self.0);
    }
}

#[kunit_tests(azihsm_number)]
mod tests {
    use super::*;

    // Devices may have numbers already, but none come or go while the module is loaded.
    #[test]
    fn numbers_are_the_lowest_that_are_free() -> Result {
        let first = Number::take()?;
        let second = Number::take()?;
        let third = Number::take()?;
        assert!(first.get() < second.get());
        assert!(second.get() < third.get());

        let free = second.get();
        drop(second);
        let again = Number::take()?;
        assert_eq!(again.get(), free);
        let next = Number::take()?;
        assert!(next.get() > third.get());
        Ok(())
    }

    #[test]
    fn there_are_as_many_as_nodes() {
        assert!(TAKEN.len() * 64 >= 16 * 65);
    }
}
