// SPDX-License-Identifier: GPL-2.0
//! Lists, describes, tests and resets Azure Integrated HSMs; see azihsmctl(1).

mod bench;
pub mod cli;
mod commands;
mod counters;
mod error;
mod hsm;
mod machine;
mod selftest;
mod sessions;
mod show;

pub use commands::run;
pub use error::Error;
pub use machine::Machine;
