// SPDX-License-Identifier: GPL-2.0

//! Section 2: registers and the state machine of the function.

use crate::bench::Bench;
use crate::bench::ACQ;
use crate::bench::AQA;
use crate::bench::ASQ;
use crate::bench::CC;
use crate::bench::CSTS;
use crate::bench::NSSR;
use crate::bench::SIGNATURE;

#[test]
fn values_after_power_on() {
    let bench = Bench::new();
    for (offset, value) in [
        (0x00, 0x1403_03ff),
        (0x04, 0x30),
        (0x08, 0x0001_0400),
        (CC, 0),
        (0x18, 3),
        (CSTS, 0),
        (NSSR, 0),
        (AQA, 0),
        (ASQ, 0),
        (ACQ, 0),
    ] {
        assert_eq!(bench.read32(offset), value, "{offset:#x}");
    }
    let mut cap = [0; 8];
    bench.front.bar_read(0, 0, &mut cap);
    assert_eq!(u64::from_le_bytes(cap), 0x30_1403_03ff);
    bench.assert_clean();
}

#[test]
fn ring_registers_take_one_or_two_accesses() {
    let mut bench = Bench::new();
    bench.write64(ASQ, 0x1_2345_6789_abff);
    assert_eq!(bench.read32(ASQ), 0x6789_abc0);
    assert_eq!(bench.read32(ASQ + 4), 0x1_2345);
    bench.write32(ACQ + 4, 7);
    bench.write32(ACQ, 0x5000);
    assert_eq!(bench.read32(ACQ), 0x5000);
    assert_eq!(bench.read32(ACQ + 4), 7);
    bench.write32(ACQ, 0x6000);
    assert_eq!(bench.read32(ACQ + 4), 7);
    bench.assert_clean();
}

#[test]
fn events_are_served_by_what_the_registers_hold_then() {
    // (RDY, EN) when the event is served, and RDY after it.
    let mut bench = Bench::new();
    bench.start_enable();
    assert_eq!(bench.read32(CSTS), 0, "nothing happens before the event");
    bench.step();
    assert_eq!(bench.read32(CSTS), 1, "(0, 1) enables");
    bench.write32(CC, 0);
    bench.write32(CC, 1);
    bench.step();
    assert_eq!(bench.read32(CSTS), 1, "(1, 1) does nothing");
    bench.admin_run(0x0a, 0, 0xc2, 0);
    bench.write32(CC, 0);
    bench.step();
    assert_eq!(bench.read32(CSTS), 0, "(1, 0) disables");
    bench.write32(CC, 1);
    bench.write32(CC, 0);
    bench.step();
    assert_eq!(bench.read32(CSTS), 0, "(0, 0) does nothing");
}

#[test]
fn nssr_leaves_en_set_and_needs_a_toggle() {
    let mut bench = Bench::ready();
    bench.write32(NSSR, SIGNATURE);
    bench.step();
    assert_eq!(bench.read32(CSTS), 0);
    assert_eq!(bench.read32(CC) & 1, 1);
    bench.write32(CC, 1);
    bench.step();
    assert_eq!(bench.read32(CSTS), 0, "EN over EN is no event");
    bench.write32(CC, 0);
    bench.step();
    bench.enable();
    bench.assert_clean();
}

#[test]
fn nssr_with_another_value_is_ignored() {
    let mut bench = Bench::ready();
    bench.write32(NSSR, 1);
    bench.step();
    assert_eq!(bench.read32(CSTS), 1);
}

#[test]
fn enable_events_are_served_before_nssr() {
    let mut bench = Bench::ready();
    bench.write32(NSSR, SIGNATURE);
    bench.write32(CC, 0);
    bench.step();
    // Disabled first, so that NSSR finds nothing to do.
    assert!(bench.model.counters()["disables"] == 1);
    assert!(bench.model.counters()["subsystem_resets"] == 0);
}

#[test]
fn ring_registers_survive_a_disable() {
    let mut bench = Bench::ready();
    let before = [AQA, ASQ, ACQ].map(|offset| bench.read32(offset));
    bench.disable();
    assert_eq!([AQA, ASQ, ACQ].map(|offset| bench.read32(offset)), before);
}

#[test]
fn an_hsm_command_in_execution_delays_the_disable() {
    let mut bench = Bench::running();
    bench.model.options.latency.hsm = 5000;
    let (sqe, destination) = bench.hsm_sqe(&[0xff], 0, None);
    bench.submit(1, &sqe);
    bench.step();
    bench.write32(CC, 0);
    bench.step();
    assert_eq!(bench.read32(CSTS), 1);
    bench.advance_ms(5);
    assert_eq!(bench.read32(CSTS), 0);
    assert!(bench.look(1).is_none(), "no CQE");
    assert_ne!(bench.peek(destination, 1), [0], "but a response");
    bench.assert_clean();
}

#[test]
fn aes_commands_end_with_the_disable_and_post_nothing() {
    let mut bench = Bench::running();
    bench.model.options.latency.aes = 5000;
    let command = bench.aes(true, &[0; 16]);
    bench.submit(256, &command.sqe);
    bench.step();
    bench.write32(CC, 0);
    bench.step();
    assert_eq!(bench.read32(CSTS), 0);
    bench.advance_ms(10);
    assert!(bench.look(256).is_none());
}

#[test]
fn a_function_without_groups_enables_and_identifies() {
    let mut bench = Bench::new();
    bench.model.set_groups(0).unwrap();
    bench.enable();
    let page = bench.pages(1);
    assert_eq!(bench.admin_run(0x06, page, 1, 0), (0, 0));
    assert_eq!(bench.admin_run(0x0a, 0, 0xc2, 0).0, 0x4002);
    assert_eq!(bench.create_cq(1, page, 16, None), 0x4007);
}
