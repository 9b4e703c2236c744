// SPDX-License-Identifier: GPL-2.0

//! What the kernel has for [`super`]. The other one of this kind is in `tests/wire`.

pub(super) use kernel::{
    dma::DmaAddress,
    prelude::{
        static_assert,
        FromBytes,
        IntoBytes, //
    },
    sizes::SZ_4K, //
};

pub(super) use zerocopy_derive::Immutable;
