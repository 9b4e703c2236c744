// SPDX-License-Identifier: GPL-2.0

//! Sections 4 and 8: admin commands.

use crate::bench::Bench;
use azihsm_vdev::bytes::get_u16;
use azihsm_vdev::bytes::get_u32;
use azihsm_vdev::bytes::get_u64;
use azihsm_vdev::migration::CONTEXT_SIZE;
use azihsm_vdev::options::Options;

fn virtual_function() -> Bench {
    let mut bench = Bench::with_options(Options {
        controller: 5,
        ..Options::default()
    });
    bench.enable();
    bench
}

#[test]
fn identify_writes_102_bytes() {
    let mut bench = virtual_function();
    let page = bench.pages(1);
    bench.poke(page, &[0xee; 4096]);
    // CNS and controller id do not matter.
    assert_eq!(bench.admin_run(0x06, page, 0x0007_00c0, 0), (0, 0));
    let data = bench.peek(page, 4096);
    assert!(data[102..].iter().all(|byte| *byte == 0xee));
    assert_eq!(get_u16(&data, 0), 0x1414);
    assert_eq!(get_u16(&data, 2), 0x1414);
    assert_eq!(&data[4..20], b"VDEV000000000001");
    assert_eq!(&data[36..44], b"vdev-1.0");
    assert_eq!(data[72], 13);
    assert_eq!(get_u16(&data, 74), 5);
    assert_eq!(data[77..79], [0x66, 0x44]);
    assert_eq!(get_u16(&data, 80), 2);
    assert_eq!(data[82..85], [13, 0x77, 0x66]);
    assert_eq!(get_u16(&data, 86), 4);
    assert_eq!(get_u64(&data, 88), 1);
    assert_eq!(get_u32(&data, 96), 0x0001_0400);
    assert_eq!(data[100..102], [1, 0]);
    bench.assert_clean();
}

#[test]
fn identify_to_unreachable_memory_is_a_transfer_error() {
    let mut bench = Bench::ready();
    assert_eq!(bench.admin_run(0x06, 1 << 40, 1, 0), (0x4004, 0));
}

#[test]
fn unknown_opcodes_are_invalid() {
    let mut bench = Bench::ready();
    for opcode in [0x02, 0x03, 0x07, 0x08, 0x0b, 0x80, 0xc0, 0xc2, 0xca, 0xff] {
        assert_eq!(bench.admin_run(opcode, 0, 0, 0).0, 0x4001, "{opcode:#x}");
    }
}

#[test]
fn features() {
    let mut bench = Bench::ready();
    let mut virtual_one = virtual_function();
    for (opcode, feature, expected) in [
        (0x0a, 0x07, (0, 0x0001_0001)),
        (0x09, 0x07, (0, 0x0001_0001)),
        (0x0a, 0xc1, (0, 0x0003_0003)),
        (0x09, 0xc1, (0, 0x0003_0003)),
        (0x0a, 0xc2, (0, 1)),
        (0x09, 0xc2, (0x4001, 0)),
        (0x0a, 0x01, (0x4001, 0)),
        (0x09, 0x01, (0x4001, 0)),
    ] {
        assert_eq!(bench.admin_run(opcode, 0, feature, 0), expected);
        assert_eq!(virtual_one.admin_run(opcode, 0, feature, 0), expected);
    }
    bench.model.set_groups(65).unwrap();
    assert_eq!(bench.admin_run(0x0a, 0, 0x07, 0), (0, 0x0040_0040));
    assert_eq!(bench.admin_run(0x0a, 0, 0xc1, 0), (0, 0x0081_0081));
    for (count, told) in [(0, 0xffff_ffff), (1, 0), (7, 0x0006_0006)] {
        bench.model.options.aes_queues = Some(count);
        assert_eq!(bench.admin_run(0x0a, 0, 0x07, 0), (0, 0x0040_0040));
        assert_eq!(bench.admin_run(0x0a, 0, 0xc1, 0), (0, told));
    }
    bench.model.set_groups(0).unwrap();
    for feature in [0x07, 0xc1, 0xc2, 0x01] {
        assert_eq!(bench.admin_run(0x0a, 0, feature, 0), (0x4002, 0));
    }
}

/// Fields of Create CQ: id, zero-based size, flags, vector.
type CreateCq = (u32, u32, u32, u32);

#[test]
fn create_cq_checks_in_order() {
    let mut bench = Bench::ready();
    let base = bench.pages(1);
    let table: [(CreateCq, u16); 22] = [
        // Each check fails although the later ones would fail too.
        ((0, 0, 2, 99), 0x4007),
        ((0, 0, 3, 99), 0x4102),
        ((0, 15, 3, 99), 0x4101),
        ((66, 15, 3, 99), 0x4108),
        ((66, 15, 3, 1), 0x4101),
        ((3, 15, 3, 1), 0x4007),
        // Vectors of each class.
        ((1, 15, 3, 0), 0x4108),
        ((1, 15, 3, 16), 0x4108),
        ((256, 15, 3, 15), 0x4108),
        ((256, 15, 3, 32), 0x4108),
        ((1, 15, 1, 99), 0),
        ((2, 15, 3, 15), 0),
        ((256, 15, 3, 16), 0),
        ((257, 15, 3, 31), 0),
        // Ids that no function can have, and ids beyond this function's count.
        ((255, 15, 1, 0), 0x4101),
        ((386, 15, 1, 0), 0x4101),
        ((65535, 15, 1, 0), 0x4101),
        ((65, 15, 1, 0), 0x4007),
        ((385, 15, 1, 0), 0x4007),
        ((260, 15, 1, 0), 0x4007),
        ((259, 1, 1, 0), 0),
        // It exists already.
        ((1, 15, 1, 0), 0x4007),
    ];
    for ((queue, size, flags, vector), status) in table {
        let dw10 = queue | (size << 16);
        let dw11 = flags | (vector << 16);
        assert_eq!(
            bench.admin_run(0x05, base, dw10, dw11),
            (status, 0),
            "queue {queue} size {size} flags {flags} vector {vector}"
        );
    }
}

/// Fields of Create SQ: id, zero-based size, flags, CQ id.
type CreateSq = (u32, u32, u32, u32);

#[test]
fn create_sq_checks_in_order() {
    let mut bench = Bench::ready();
    let base = bench.pages(1);
    for queue in [1, 256] {
        assert_eq!(bench.create_cq(queue, base, 16, None), 0);
    }
    let table: [(CreateSq, u16); 18] = [
        ((0, 0, 0, 0), 0x4007),
        ((0, 0, 1, 0), 0x4102),
        ((0, 15, 1, 0), 0x4100),
        ((0, 15, 1, 66), 0x4101),
        ((66, 15, 1, 66), 0x4101),
        ((66, 15, 1, 3), 0x4007),
        ((66, 15, 1, 2), 0x4007),
        ((66, 15, 1, 1), 0x4101),
        ((386, 15, 1, 1), 0x4101),
        ((3, 15, 1, 1), 0x4007),
        ((260, 15, 1, 1), 0x4007),
        // The priority does not matter.
        ((1, 15, 7, 1), 0),
        ((1, 15, 1, 1), 0x4007),
        ((256, 15, 3, 256), 0),
        ((256, 15, 3, 256), 0x4007),
        ((257, 15, 1, 257), 0x4007),
        // Another CQ is accepted.
        ((2, 15, 1, 1), 0),
        ((1, 15, 1, 386), 0x4101),
    ];
    for ((queue, size, flags, completions), status) in table {
        let dw10 = queue | (size << 16);
        let dw11 = flags | (completions << 16);
        assert_eq!(
            bench.admin_run(0x01, base, dw10, dw11),
            (status, 0),
            "queue {queue} size {size} flags {flags} CQ {completions}"
        );
    }
}

#[test]
fn deletions_check_in_order() {
    let mut bench = Bench::running();
    for (opcode, queue, status) in [
        (0x00, 0, 0x4101),
        (0x00, 66, 0x4101),
        (0x00, 386, 0x4101),
        (0x00, 3, 0x4007),
        (0x00, 2, 0x4007),
        (0x04, 0, 0x4101),
        (0x04, 66, 0x4101),
        (0x04, 3, 0x4007),
        (0x04, 2, 0x4007),
        (0x04, 1, 0x410c),
        (0x00, 1, 0),
        (0x00, 1, 0x4007),
        (0x04, 1, 0),
        (0x04, 1, 0x4007),
    ] {
        assert_eq!(
            bench.admin_run(opcode, 0, queue, 0),
            (status, 0),
            "opcode {opcode:#x} queue {queue}"
        );
    }
}

#[test]
fn delete_sq_waits_for_the_hsm_command_that_is_executed() {
    let mut bench = Bench::running();
    bench.model.options.latency.hsm = 5000;
    for _ in 0..3 {
        let sqe = bench.flush_sqe(3);
        bench.submit(1, &sqe);
    }
    bench.step();
    let sqe = bench.admin_sqe(0x00, 0, 1, 0);
    bench.submit(0, &sqe);
    bench.step();
    assert!(bench.look(0).is_none());
    bench.advance_ms(5);
    assert!(bench.take(0).is_some());
    // The command that was executed completes, the others vanish.
    assert!(bench.take(1).is_some());
    assert!(bench.take(1).is_none());
    bench.assert_clean();
}

#[test]
fn delete_sq_ends_the_aes_commands_in_the_engine_with_status_7() {
    let mut bench = Bench::running();
    bench.model.options.latency.aes = 5000;
    for _ in 0..6 {
        let command = bench.aes(true, &[0; 16]);
        bench.submit(256, &command.sqe);
    }
    bench.step();
    let sqe = bench.admin_sqe(0x00, 0, 256, 0);
    bench.submit(0, &sqe);
    bench.step();
    assert!(bench.take(0).is_some());
    for _ in 0..3 {
        let cqe = bench.take(256).unwrap();
        assert_eq!(get_u16(&cqe, 62) >> 1, 7);
        assert_eq!(get_u16(&cqe, 60), 0);
    }
    // One was fetched but not started, two were not even fetched.
    assert!(bench.take(256).is_none());
    bench.assert_clean();
}

#[test]
fn the_cq_goes_on_when_its_sq_is_created_again() {
    let mut bench = Bench::running();
    let sqe = bench.flush_sqe(3);
    bench.run(1, &sqe);
    assert_eq!(bench.admin_run(0x00, 0, 1, 0), (0, 0));
    let sq = bench.pairs[&1].sq;
    assert_eq!(bench.create_sq(1, sq, 16), 0);
    bench.pairs.get_mut(&1).unwrap().tail = 0;
    let sqe = bench.flush_sqe(3);
    let cqe = bench.run(1, &sqe);
    assert_eq!(get_u16(&cqe, 8), 1, "SQHD starts over");
    bench.assert_clean();
}

#[test]
fn set_resource_count_checks_in_order() {
    let mut bench = Bench::ready();
    for (controller, count, expected) in [
        (0, 66, (0x4002, 0)),
        (65, 1, (0x4002, 0)),
        (65, 66, (0x4002, 0)),
        (1, 64, (0x4007, 0)),
        (1, 0, (0, 0)),
        (1, 3, (0, 0)),
        // Unchanged: the count; changed: zero.
        (1, 3, (0, 3)),
        (64, 60, (0, 0)),
        (64, 61, (0x4007, 0)),
        (64, 60, (0, 60)),
        (1, 0, (0, 0)),
        (2, 3, (0, 0)),
    ] {
        assert_eq!(
            bench.admin_run(0xc3, 0, controller, count),
            expected,
            "controller {controller} count {count}"
        );
    }
    for (controller, expected) in [
        (0, (0, 2)),
        (1, (0, 0)),
        (2, (0, 3)),
        (64, (0, 60)),
        (65, (0x4002, 0)),
    ] {
        assert_eq!(bench.admin_run(0xc4, 0, controller, 0), expected);
    }
    bench.assert_clean();
}

#[test]
fn resource_counts_on_a_virtual_function() {
    let mut bench = virtual_function();
    assert_eq!(bench.admin_run(0xc3, 0, 5, 66), (0x4001, 0));
    assert_eq!(bench.admin_run(0xc4, 0, 5, 0), (0, 2));
    assert_eq!(bench.admin_run(0xc4, 0, 65, 0), (0x4002, 0));
}

#[test]
fn the_physical_function_changes_its_own_count() {
    let mut bench = Bench::ready();
    assert_eq!(bench.admin_run(0xc3, 0, 0, 5), (0, 0));
    assert_eq!(bench.admin_run(0x0a, 0, 0x07, 0), (0, 0x0004_0004));
    assert_eq!(bench.admin_run(0xc3, 0, 0, 0), (0, 0));
    assert_eq!(bench.admin_run(0x0a, 0, 0x07, 0), (0x4002, 0));
}

#[test]
fn migration_commands() {
    let mut bench = Bench::ready();
    let page = bench.pages(3);
    bench.admin_run(0xc3, 0, 1, 3);
    for opcode in 0xc5..=0xc9 {
        assert_eq!(bench.admin_run(opcode, page, 65, 0).0, 0x4002);
        assert_eq!(bench.admin_run(opcode, page, 0, 0).0, 0x4007);
    }
    for opcode in [0xc5, 0xc6, 0xc7, 0xc8, 0xc9] {
        let page = if opcode < 0xc8 { 0 } else { page };
        assert_eq!(bench.admin_run(opcode, page, 1, 0), (0, 0));
    }
    assert_eq!(get_u32(&bench.peek(page, 8), 4), 3);
    // Another count, or a bit that flipped.
    assert_eq!(bench.admin_run(0xc9, page, 2, 0).0, 0x4007);
    let last = page + CONTEXT_SIZE as u64 - 5;
    bench.poke(last, &[1]);
    assert_eq!(bench.admin_run(0xc9, page, 1, 0).0, 0x4007);
    for opcode in [0xc8, 0xc9] {
        assert_eq!(bench.admin_run(opcode, 1 << 40, 1, 0).0, 0x4004);
    }
    let mut bench = virtual_function();
    for opcode in 0xc5..=0xc9 {
        assert_eq!(bench.admin_run(opcode, 0, 1, 0).0, 0x4002);
    }
}
