// SPDX-License-Identifier: GPL-2.0
//! What `src/wire` gets of the kernel, on the host.

pub use zerocopy::FromBytes;
pub use zerocopy::Immutable;
pub use zerocopy::IntoBytes;

pub type DmaAddress = u64;

pub const SZ_4K: usize = 4096;

macro_rules! static_assert {
    ($condition:expr) => {
        const _: () = assert!($condition);
    };
}
pub(super) use static_assert;
