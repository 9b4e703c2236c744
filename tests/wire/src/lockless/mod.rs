// SPDX-License-Identifier: GPL-2.0
//! The concurrent part of a queue pair, for one task that does everything in turn.

#[path = "../../../../src/lockless/combine.rs"]
pub mod combine;
mod facade;
#[path = "../../../../src/lockless/pair.rs"]
pub mod pair;
#[path = "../../../../src/lockless/slot.rs"]
pub mod slot;
#[path = "../../../../src/lockless/tags.rs"]
pub mod tags;

pub use facade::Waited;
