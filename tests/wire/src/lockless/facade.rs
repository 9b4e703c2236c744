// SPDX-License-Identifier: GPL-2.0
//! What `src/lockless` gets of the kernel, for one task that does everything in turn: how accesses
//! are ordered makes no difference to it.  That is for the model checker, see `tests/lockless`.

use std::cell::Cell;
use std::convert::Infallible;

/// How a wait ended, as in the driver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waited {
    Done,
    TimedOut,
    Killed,
}

/// So few that some share one.
pub const PLACES: usize = 2;

pub type Result<T, E = Infallible> = std::result::Result<T, E>;

pub type List<T> = Vec<T>;

pub fn list<T>(count: usize, make: impl FnMut(usize) -> T) -> Result<List<T>> {
    Ok((0..count).map(make).collect())
}

pub struct WithoutInterrupts;

pub fn without_interrupts() -> WithoutInterrupts {
    WithoutInterrupts
}

pub fn spin_loop() {
    panic!("there is nobody to wait for");
}

pub struct Relaxed;
pub struct Acquire;
pub struct Release;
pub struct Full;

pub struct Atomic<T>(Cell<T>);

impl<T: Copy> Atomic<T> {
    pub fn new(value: T) -> Self {
        Self(Cell::new(value))
    }

    pub fn load<O>(&self, _: O) -> T {
        self.0.get()
    }

    pub fn store<O>(&self, value: T, _: O) {
        self.0.set(value);
    }

    pub fn xchg<O>(&self, value: T, _: O) -> T {
        self.0.replace(value)
    }
}

impl<T: Copy + PartialEq> Atomic<T> {
    pub fn cmpxchg<O>(&self, old: T, new: T, _: O) -> Result<T, T> {
        let now = self.0.get();
        if now != old {
            return Err(now);
        }
        self.0.set(new);
        Ok(now)
    }
}

macro_rules! number {
    ($($word:ty),+) => {$(
        impl Atomic<$word> {
            pub fn fetch_add<O>(&self, value: $word, _: O) -> $word {
                self.0.replace(self.0.get().wrapping_add(value))
            }

            pub fn fetch_sub<O>(&self, value: $word, _: O) -> $word {
                self.0.replace(self.0.get().wrapping_sub(value))
            }
        }
    )+};
}
number!(u32, i32, u64);
