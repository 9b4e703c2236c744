// SPDX-License-Identifier: GPL-2.0
//! The concurrent part of the driver under a model checker.
//!
//! The files are those of the driver, in `src/lockless`; only [`facade`] is another one.  [`machine`]
//! puts a device, memory and tasks around them, in which each rule is checked that the driver relies
//! on, and [`scenarios`] says who does what.  The model checker runs a scenario again and again,
//! until it has seen all interleavings of the threads, and all values that the memory model lets a
//! load return.  Where that would take too long the number of preemptions is bounded, which the
//! scenario says.

#![cfg(test)]
#![deny(unsafe_code)]
// The threads of the model are coroutines of one thread.
#![allow(clippy::arc_with_non_send_sync)]
// What only the rest of the driver uses.
#![allow(dead_code)]
// As the driver is written, for which the kernel has other lints.
#![allow(clippy::precedence)]

#[path = "../../../src/lockless/combine.rs"]
mod combine;
mod facade;
mod machine;
#[path = "../../../src/lockless/pair.rs"]
mod pair;
mod scenarios;
#[path = "../../../src/lockless/sessions.rs"]
mod sessions;
#[path = "../../../src/lockless/slot.rs"]
mod slot;
#[path = "../../../src/lockless/tags.rs"]
mod tags;
#[path = "../../../src/lockless/users.rs"]
mod users;
