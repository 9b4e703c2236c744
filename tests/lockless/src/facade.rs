// SPDX-License-Identifier: GPL-2.0
//! What `src/lockless` gets of the kernel, for the model checker.
//!
//! The atomics promise less than those of the kernel do: a read-modify-write that is [`Full`] is an
//! acquire and a release here, and orders no more than that; an exchange that fails orders nothing;
//! and there are no dependencies.  Fences on both sides would say more of what the kernel promises,
//! but the model checker has fences order all that other threads did before theirs, which no memory
//! model does: mistakes would hide behind that.

use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::AtomicI32;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering;
use std::convert::Infallible;

pub use loom::hint::spin_loop;

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

/// Without interrupts as with them any other thread may run at any time.
pub struct WithoutInterrupts;

pub fn without_interrupts() -> WithoutInterrupts {
    WithoutInterrupts
}

pub struct Relaxed;
pub struct Acquire;
pub struct Release;
pub struct Full;

pub trait LoadOrder {
    const ORDER: Ordering;
}

impl LoadOrder for Relaxed {
    const ORDER: Ordering = Ordering::Relaxed;
}

impl LoadOrder for Acquire {
    const ORDER: Ordering = Ordering::Acquire;
}

pub trait StoreOrder {
    const ORDER: Ordering;
}

impl StoreOrder for Relaxed {
    const ORDER: Ordering = Ordering::Relaxed;
}

impl StoreOrder for Release {
    const ORDER: Ordering = Ordering::Release;
}

pub trait RmwOrder {
    const ORDER: Ordering;
}

impl RmwOrder for Relaxed {
    const ORDER: Ordering = Ordering::Relaxed;
}

impl RmwOrder for Full {
    const ORDER: Ordering = Ordering::AcqRel;
}

/// What an [`Atomic`] can hold, and the atomic of the model checker that holds it.
pub trait Word: Sized + Copy {
    type Atomic;
    fn new(value: Self) -> Self::Atomic;
    fn load(atomic: &Self::Atomic, order: Ordering) -> Self;
    fn store(atomic: &Self::Atomic, value: Self, order: Ordering);
    fn swap(atomic: &Self::Atomic, value: Self, order: Ordering) -> Self;
    fn exchange(atomic: &Self::Atomic, old: Self, new: Self, order: Ordering)
        -> Result<Self, Self>;
}

/// A [`Word`] to which can be added.
pub trait Number: Word {
    fn add(atomic: &Self::Atomic, value: Self, order: Ordering) -> Self;
    fn sub(atomic: &Self::Atomic, value: Self, order: Ordering) -> Self;
}

pub struct Atomic<T: Word>(T::Atomic);

impl<T: Word> Atomic<T> {
    pub fn new(value: T) -> Self {
        Self(T::new(value))
    }

    pub fn load<O: LoadOrder>(&self, _: O) -> T {
        T::load(&self.0, O::ORDER)
    }

    pub fn store<O: StoreOrder>(&self, value: T, _: O) {
        T::store(&self.0, value, O::ORDER)
    }

    pub fn xchg<O: RmwOrder>(&self, value: T, _: O) -> T {
        T::swap(&self.0, value, O::ORDER)
    }

    pub fn cmpxchg<O: RmwOrder>(&self, old: T, new: T, _: O) -> Result<T, T> {
        T::exchange(&self.0, old, new, O::ORDER)
    }
}

impl<T: Number> Atomic<T> {
    pub fn fetch_add<O: RmwOrder>(&self, value: T, _: O) -> T {
        T::add(&self.0, value, O::ORDER)
    }

    pub fn fetch_sub<O: RmwOrder>(&self, value: T, _: O) -> T {
        T::sub(&self.0, value, O::ORDER)
    }
}

macro_rules! word {
    ($word:ty, $atomic:ty) => {
        impl Word for $word {
            type Atomic = $atomic;

            fn new(value: Self) -> $atomic {
                <$atomic>::new(value)
            }

            fn load(atomic: &$atomic, order: Ordering) -> Self {
                atomic.load(order)
            }

            fn store(atomic: &$atomic, value: Self, order: Ordering) {
                atomic.store(value, order)
            }

            fn swap(atomic: &$atomic, value: Self, order: Ordering) -> Self {
                atomic.swap(value, order)
            }

            fn exchange(
                atomic: &$atomic,
                old: Self,
                new: Self,
                order: Ordering,
            ) -> Result<Self, Self> {
                atomic.compare_exchange(old, new, order, Ordering::Relaxed)
            }
        }
    };
}

macro_rules! number {
    ($word:ty, $atomic:ty) => {
        word!($word, $atomic);

        impl Number for $word {
            fn add(atomic: &$atomic, value: Self, order: Ordering) -> Self {
                atomic.fetch_add(value, order)
            }

            fn sub(atomic: &$atomic, value: Self, order: Ordering) -> Self {
                atomic.fetch_sub(value, order)
            }
        }
    };
}

word!(bool, AtomicBool);
number!(u32, AtomicU32);
number!(i32, AtomicI32);
number!(u64, AtomicU64);
