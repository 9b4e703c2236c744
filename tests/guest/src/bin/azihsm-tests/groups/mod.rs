// SPDX-License-Identifier: GPL-2.0
//! The tests, by what they are about.

mod aes;
mod chaos;
mod fault;
mod hsm;
mod info;
mod life;
mod load;
mod matrix;
mod mgmt;
mod node;
mod recovery;
mod reset;
mod session;
mod soak;
mod starve;
mod stats;
mod steady;
mod trace;
pub mod unknown;
mod vfs;

use crate::runner::Test;

/// All tests.
pub fn all() -> Vec<Test> {
    [
        node::tests(),
        info::tests(),
        unknown::tests(),
        hsm::tests(),
        session::tests(),
        aes::tests(),
        reset::tests(),
        load::tests(),
        stats::tests(),
        steady::tests(),
        trace::tests(),
        fault::tests(),
        life::tests(),
        recovery::tests(),
        matrix::tests(),
        starve::tests(),
        mgmt::tests(),
        vfs::tests(),
        chaos::tests(),
        soak::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
