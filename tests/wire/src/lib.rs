// SPDX-License-Identifier: GPL-2.0
//! What the driver and the device write to each other's memory, and what callers ask of the driver,
//! with values that nobody has thought of.
//!
//! The files are those of the driver, in `src/wire` and `src/lockless`; only their facades are
//! others.  [`queue`] has what becomes of commands whatever the device does.  [`device`] and
//! [`caller`] are the other sides: they take entries, lists and commands apart, and put completions
//! together, from bytes and by the tables of Documentation/device.rst and Documentation/abi.rst
//! alone.  What has to be so is in [`judge`]; values come from
//! the properties in here, and from a fuzzer in `tests/fuzz`.

#![deny(unsafe_code)]
// As the driver is written, for which the kernel has other lints.
#![allow(clippy::precedence)]

// What only the rest of the driver uses.
#[allow(dead_code)]
#[path = "../../../src/wire/admin.rs"]
mod admin;
#[allow(dead_code)]
#[path = "../../../src/wire/aes.rs"]
mod aes;
mod caller;
mod device;
mod facade;
#[allow(dead_code)]
#[path = "../../../src/wire/hsm.rs"]
mod hsm;
pub mod judge;
#[allow(dead_code)]
mod lockless;
#[cfg(test)]
mod properties;
pub mod queue;
#[allow(dead_code)]
#[path = "../../../src/wire/request.rs"]
mod request;
#[allow(dead_code)]
#[path = "../../../src/wire/ring.rs"]
mod ring;
#[allow(dead_code)]
#[path = "../../../src/wire/sgl.rs"]
mod sgl;
#[allow(dead_code)]
#[path = "../../../src/wire/uapi.rs"]
mod uapi;
