// SPDX-License-Identifier: GPL-2.0

//! Tests of the device against its documentation, without QEMU.
//!
//! Each module follows a section of Documentation/device.rst.

#![forbid(unsafe_code)]

mod admin;
mod aes;
mod bench;
mod control;
mod engine;
mod hsm;
mod inject;
mod program;
mod property;
mod queues;
mod registers;
mod resets;
mod strict;
