// SPDX-License-Identifier: GPL-2.0
//! User-space ABI of the azihsm driver, and a safe client for it.
//!
//! [`abi`] is the ABI itself, [`Device`] and [`Management`] are the two kinds
//! of nodes with slices instead of addresses, and [`raw`] is the bare system
//! call for whoever wants to send what the other two refuse to.

mod aad;
pub mod abi;
mod device;
mod error;
mod management;
mod nodes;
pub mod raw;

pub use aad::pad as pad_aad;
pub use device::AesReply;
pub use device::Device;
pub use device::Direction;
pub use device::Flow;
pub use device::GcmRequest;
pub use device::HsmReply;
pub use device::Info;
pub use device::ResetKind;
pub use device::XtsRequest;
pub use error::Error;
pub use error::Result;
pub use management::Management;
pub use nodes::hsm_nodes;
pub use nodes::management_nodes;
pub use rustix::io::Errno;
