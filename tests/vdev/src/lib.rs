// SPDX-License-Identifier: GPL-2.0

//! A virtual Azure Integrated HSM.
//!
//! The device has two sides.  The [`front`] is what the bus sees: it answers
//! every access at once and turns what it sets off into events.  The [`model`]
//! is everything behind it: queues, engines and resets; it works through the
//! events on a thread of its own.  [`device`] joins the two, [`transport`]
//! shows them to QEMU, and [`control`] to the tests.
//!
//! Section numbers are those of Documentation/device.rst.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod admin;
pub mod aes;
pub mod bus;
pub mod bytes;
pub mod card;
pub mod checks;
pub mod clock;
mod completion;
pub mod config_space;
pub mod control;
pub mod counters;
pub mod data;
pub mod device;
pub mod dma;
pub mod engine;
pub mod engine_socket;
mod execution;
mod fetch;
pub mod front;
pub mod gcm;
pub mod groups;
pub mod hsm;
pub mod inject;
pub mod intr;
pub mod keys;
pub mod migration;
pub mod model;
pub mod options;
pub mod queue;
pub mod registers;
pub mod report;
mod reset;
pub mod sessions;
mod state;
pub mod strict;
pub mod transport;
pub mod xts;
