// SPDX-License-Identifier: GPL-2.0
//! What the driver and the device write to each other's memory, with values that nobody has thought
//! of.
//!
//! The files are those of the driver, in `src/wire`; only [`facade`] is another one.  [`device`] is
//! the other side: it takes entries and lists apart, and puts completions together, from bytes and by
//! the tables of Documentation/device.rst alone.

#![cfg(test)]
// What only the rest of the driver uses.
#![allow(dead_code)]

#[path = "../../../src/wire/admin.rs"]
mod admin;
#[path = "../../../src/wire/aes.rs"]
mod aes;
mod device;
mod facade;
#[path = "../../../src/wire/hsm.rs"]
mod hsm;
mod properties;
#[path = "../../../src/wire/sgl.rs"]
mod sgl;
