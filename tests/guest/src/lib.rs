// SPDX-License-Identifier: GPL-2.0
//! What the guest's programs share.

#![deny(unsafe_code)]

pub mod control;
pub mod hsm;
pub mod interrupts;
pub mod kmsg;
pub mod mark;
pub mod module;
pub mod monitor;
pub mod pci;
pub mod reference;
pub mod served;
pub mod sys;
pub mod trace;
pub mod vectors;
pub mod vmstat;
