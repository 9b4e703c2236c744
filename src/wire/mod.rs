// SPDX-License-Identifier: GPL-2.0

//! What the driver and the device write to each other's memory, byte by byte, and nothing else.
//!
//! These files use no more than the `core` library, `zerocopy` and [`facade`]. So they are compiled
//! twice: into the driver, and, with another facade, into `tests/wire`, which holds them against
//! Documentation/device.rst with values that nobody has thought of.

pub(crate) mod admin;
pub(crate) mod aes;
mod facade;
pub(crate) mod hsm;
pub(crate) mod sgl;
