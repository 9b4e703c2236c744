// SPDX-License-Identifier: GPL-2.0
//! What `src/lockless` gets of the kernel, for the model checker.
//!
//! The atomics promise no more than those of the kernel do, and where the memory model of C11, which
//! is the checker's, cannot say the same, less:
//!
//! - a read-modify-write that is [`Full`] has fences on both sides, as in the kernel;
//! - an exchange that is [`Full`] has one behind it, and only if it succeeds, since it must not order
//!   anything if it fails; as to what is before it, it is a release;
//! - there are no dependencies, which order accesses in the kernel, too.

use loom::sync::atomic::fence;
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
    const FENCES: bool;
}

impl RmwOrder for Relaxed {
    const ORDER: Ordering = Ordering::Relaxed;
    const FENCES: bool = false;
}

impl RmwOrder for Full {
    const ORDER: Ordering = Ordering::AcqRel;
    const FENCES: bool = true;
}

/// Does `access`, which always succeeds.
fn fenced<T, O: RmwOrder>(_: O, access: impl FnOnce(Ordering) -> T) -> T {
    if O::FENCES {
        fence(Ordering::SeqCst);
    }
    let value = access(O::ORDER);
    if O::FENCES {
        fence(Ordering::SeqCst);
    }
    value
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

    pub fn xchg<O: RmwOrder>(&self, value: T, order: O) -> T {
        fenced(order, |order| T::swap(&self.0, value, order))
    }

    pub fn cmpxchg<O: RmwOrder>(&self, old: T, new: T, _: O) -> Result<T, T> {
        let was = T::exchange(&self.0, old, new, O::ORDER)?;
        if O::FENCES {
            fence(Ordering::SeqCst);
        }
        Ok(was)
    }
}

impl<T: Number> Atomic<T> {
    pub fn fetch_add<O: RmwOrder>(&self, value: T, order: O) -> T {
        fenced(order, |order| T::add(&self.0, value, order))
    }

    pub fn fetch_sub<O: RmwOrder>(&self, value: T, order: O) -> T {
        fenced(order, |order| T::sub(&self.0, value, order))
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
