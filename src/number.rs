// SPDX-License-Identifier: GPL-2.0

//! Numbers of the device nodes.

use kernel::{
    prelude::*,
    sync::atomic::Atomic, //
};

use crate::lockless::tags;

/// Most nodes: 16 devices with a physical and 64 virtual functions each.
const MAX_NODES: usize = 16 * 65;

/// Numbers of one kind of node: a bit by number.
pub(crate) struct Series([Atomic<u64>; MAX_NODES.div_ceil(64)]);

impl Series {
    const fn new() -> Self {
        Self([const { Atomic::new(0) }; MAX_NODES.div_ceil(64)])
    }
}

/// Those of HSM nodes.
pub(crate) static HSM: Series = Series::new();

/// Those of management nodes.
pub(crate) static MANAGEMENT: Series = Series::new();

/// The number of a node, the lowest that was free. It is free again when this is dropped.
pub(crate) struct Number {
    of: &'static Series,
    number: usize,
}

impl Number {
    /// Takes a number of the series.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there are none left.
    pub(crate) fn take(of: &'static Series) -> Result<Self> {
        let number = tags::take_lowest(&of.0).ok_or(ENOSPC)?;

        Ok(Self { of, number })
    }

    /// Returns the number.
    pub(crate) fn get(&self) -> usize {
        self.number
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        tags::give(&self.of.0, self.number);
    }
}

#[kunit_tests(azihsm_number)]
mod tests {
    use super::*;

    // Devices may have numbers already, but none come or go while the module is loaded.
    #[test]
    fn numbers_are_the_lowest_that_are_free() -> Result {
        let first = Number::take(&HSM)?;
        let second = Number::take(&HSM)?;
        let third = Number::take(&HSM)?;
        assert!(first.get() < second.get());
        assert!(second.get() < third.get());

        let free = second.get();
        drop(second);
        let other = Number::take(&MANAGEMENT)?;
        let again = Number::take(&HSM)?;
        assert_eq!(again.get(), free);
        assert!(other.get() <= first.get());
        let next = Number::take(&HSM)?;
        assert!(next.get() > third.get());
        Ok(())
    }

    #[test]
    fn there_are_as_many_as_nodes() {
        assert!(HSM.0.len() * 64 >= 16 * 65);
    }
}
