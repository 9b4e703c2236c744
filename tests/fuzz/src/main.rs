// SPDX-License-Identifier: GPL-2.0
//! Has a fuzzer look for values that the driver is wrong for when it reads or writes them.

#![no_main]

use azihsm_wire::judge::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(input) = Input::parse(bytes) {
        input.judge();
    }
});
