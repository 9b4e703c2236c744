// SPDX-License-Identifier: GPL-2.0

//! Section 3: queue mechanics.

use crate::bench::Bench;
use azihsm_vdev::bytes::get_u16;
use azihsm_vdev::keys::KeyKind;

#[test]
fn hardware_fields_of_an_admin_cqe() {
    let mut bench = Bench::ready();
    for turn in 0..40u16 {
        let sqe = bench.admin_sqe(0x0a, 0, 0xc2, 0);
        let cid = get_u16(&sqe, 2);
        let cqe = bench.run(0, &sqe);
        assert_eq!(get_u16(&cqe, 8), (turn + 1) % 16, "SQHD");
        assert_eq!(get_u16(&cqe, 10), 0, "SQID");
        assert_eq!(get_u16(&cqe, 12), cid, "CID");
        assert_eq!(get_u16(&cqe, 14), u16::from(turn / 16 % 2 == 0), "phase");
    }
    assert_eq!(bench.interrupts(), [0; 40]);
    bench.assert_clean();
}

#[test]
fn hardware_fields_of_io_cqes() {
    let mut bench = Bench::running();
    let sqe = bench.flush_sqe(3);
    let cqe = bench.run(1, &sqe);
    assert_eq!(get_u16(&cqe, 8), 1);
    assert_eq!(get_u16(&cqe, 10), 1);
    assert_eq!(get_u16(&cqe, 12), get_u16(&sqe, 2));
    let command = bench.aes(true, &[0; 16]);
    let cqe = bench.run(256, &command.sqe);
    assert_eq!(get_u16(&cqe, 0), get_u16(&command.sqe, 4));
    assert_eq!(get_u16(&cqe, 2), get_u16(&command.sqe, 6));
    assert_eq!(get_u16(&cqe, 56), 1);
    assert_eq!(get_u16(&cqe, 58), 256);
    assert_eq!(get_u16(&cqe, 62) & 1, 1);
}

#[test]
fn one_hsm_command_and_four_aes_commands_are_fetched_ahead() {
    let mut bench = Bench::running();
    bench.model.options.latency.hsm = 1000;
    bench.model.options.latency.aes = 1000;
    for _ in 0..6 {
        let sqe = bench.flush_sqe(3);
        bench.submit(1, &sqe);
        let command = bench.aes(true, &[0; 16]);
        bench.submit(256, &command.sqe);
    }
    bench.step();
    let state = bench.model.state();
    let head = |queue: u64| {
        state["queues"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["id"] == queue)
            .unwrap()["sq"]["head"]
            .clone()
    };
    assert_eq!(head(1), 1);
    assert_eq!(head(256), 4);
    // The first CQE tells how far fetching got, not how far completing got.
    bench.advance_ms(1);
    assert_eq!(get_u16(&bench.take(256).unwrap(), 56), 4);
}

#[test]
fn hsm_queues_work_side_by_side() {
    let mut bench = Bench::running();
    bench.create_pair(2, 16);
    bench.model.options.latency.hsm = 1000;
    for queue in [1, 2] {
        let sqe = bench.flush_sqe(3);
        bench.submit(queue, &sqe);
    }
    bench.step();
    bench.advance_ms(1);
    assert!(bench.take(1).is_some());
    assert!(bench.take(2).is_some());
}

#[test]
fn even_aes_queues_go_first() {
    let mut bench = Bench::running();
    bench.create_pair(257, 16);
    bench.model.options.latency.aes = 1000;
    for queue in [257, 256] {
        for _ in 0..4 {
            let command = bench.aes(true, &[0; 16]);
            bench.submit(queue, &command.sqe);
        }
    }
    // Three commands of the low queue came first; then the high one wins.
    bench.step();
    bench.advance_ms(1);
    bench.advance_ms(1);
    let count = |bench: &mut Bench, queue| {
        let mut count = 0;
        while bench.take(queue).is_some() {
            count += 1;
        }
        count
    };
    assert_eq!(count(&mut bench, 256), 3);
    assert_eq!(count(&mut bench, 257), 3);
}

#[test]
fn a_cq_without_interrupt_can_be_polled() {
    let mut bench = Bench::ready();
    bench.create_pair(1, 16);
    let (sq, cq) = (bench.pages(1), bench.pages(1));
    assert_eq!(bench.create_cq(2, cq, 16, None), 0);
    assert_eq!(bench.create_sq(2, sq, 16), 0);
    let mut pair = bench.pairs[&1];
    (pair.sq, pair.cq) = (sq, cq);
    bench.pairs.insert(2, pair);
    bench.interrupts();
    let sqe = bench.flush_sqe(3);
    bench.run(2, &sqe);
    assert_eq!(bench.interrupts(), [0; 0]);
}

#[test]
fn each_completion_raises_the_vector_of_its_cq() {
    let mut bench = Bench::running();
    bench.interrupts();
    for _ in 0..3 {
        let sqe = bench.flush_sqe(3);
        bench.run(1, &sqe);
    }
    let command = bench.aes(true, &[0; 16]);
    bench.run(256, &command.sqe);
    assert_eq!(bench.interrupts(), [1, 1, 1, 16]);
}

#[test]
fn a_cq_that_overflows_takes_no_more() {
    let mut bench = Bench::ready();
    let (sq, cq) = (bench.pages(1), bench.pages(1));
    assert_eq!(bench.create_cq(1, cq, 4, Some(1)), 0);
    assert_eq!(bench.create_sq(1, sq, 16), 0);
    bench.pairs.insert(
        1,
        crate::bench::Pair {
            sq,
            cq,
            entries: 16,
            tail: 0,
            head: 0,
            phase: true,
        },
    );
    for _ in 0..4 {
        let sqe = bench.flush_sqe(3);
        bench.submit(1, &sqe);
    }
    bench.step();
    bench.interrupts();
    bench.cq_doorbell(1, 3);
    let sqe = bench.flush_sqe(3);
    bench.submit(1, &sqe);
    bench.step();
    assert_eq!(bench.interrupts(), [0; 0], "offline for good");
    assert_eq!(bench.violations(), ["cq-smaller-than-sq", "cq-overflow"]);
}

#[test]
fn queues_are_found_again_after_they_were_deleted() {
    let mut bench = Bench::running();
    let key = bench.add_key(KeyKind::Gcm, 1);
    for _ in 0..3 {
        let mut command = bench.aes(false, &[0; 16]);
        command.gcm(key, 0, 0);
        assert_eq!(bench.run_aes(&command.sqe).codes(), (0, 0));
        assert_eq!(bench.admin_run(0x00, 0, 256, 0), (0, 0));
        assert_eq!(bench.admin_run(0x04, 0, 256, 0), (0, 0));
        bench.create_pair(256, 16);
    }
    bench.assert_clean();
}
