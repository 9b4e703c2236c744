// SPDX-License-Identifier: GPL-2.0

//! The envelope that requests to the HSM and its responses travel in.
//!
//! A message is one [`Value`]: a tree of maps, integers of an explicit width,
//! booleans and byte strings, big-endian throughout.  [`Request`] and
//! [`Response`] are the two shapes such a tree takes on the wire.  See
//! Documentation/device.rst, appendix B.
//!
//! No input makes this crate panic.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod envelope;
mod operation;
mod value;

pub use envelope::Request;
pub use envelope::RequestHeader;
pub use envelope::Response;
pub use envelope::ResponseHeader;
pub use envelope::Revision;
pub use operation::Operation;
pub use operation::SessionKind;
pub use operation::Status;
pub use value::Error;
pub use value::Value;
pub use value::MAX_DEPTH;
