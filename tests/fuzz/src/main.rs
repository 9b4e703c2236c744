// SPDX-License-Identifier: GPL-2.0
//! Has a fuzzer look for values that what the driver reads and writes is wrong for.

#![no_main]

use azihsm_wire::judge::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(input) = Input::parse(bytes) {
        input.judge();
    }
});
