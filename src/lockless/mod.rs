// SPDX-License-Identifier: GPL-2.0

//! The part of a queue pair that is concurrent, and nothing else.
//!
//! - [`slot`] has the states of a command, and [`tags`] says who has which slot;
//! - [`combine`] has one processor do the work of all;
//! - [`pair`] puts them together: submitting, reaping, leaving early, closing, ending.
//!
//! These files use no more than the `core` library and [`facade`]: what is done to memory, doorbells
//! and sleeping tasks is said by [`pair::World`] and [`pair::Seat`]. So they are compiled twice: into
//! the driver, and, with another facade, into `tests/lockless`, which has a model checker try all
//! interleavings, and all values that the memory model lets a load return.
//!
//! All memory ordering that they rely on is that of the atomics in here. What comes with
//! [`pair::Seat::signal`], that a waiter sees what was stored before, is used, too.

pub(crate) mod combine;
mod facade;
pub(crate) mod pair;
pub(crate) mod slot;
pub(crate) mod tags;
