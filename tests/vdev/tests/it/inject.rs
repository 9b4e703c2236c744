// SPDX-License-Identifier: GPL-2.0

//! Every fault does what it says.

use crate::bench::Bench;
use crate::bench::CC;
use crate::bench::CSTS;
use azihsm_vdev::bytes::get_u16;
use azihsm_vdev::bytes::get_u32;
use azihsm_vdev::bytes::put_u16;
use azihsm_vdev::inject::Incident;
use azihsm_vdev::keys::KeyKind;

/// Runs a flush of an unknown session with a CID.
fn submit_flush(bench: &mut Bench, cid: u16) {
    let mut sqe = bench.flush_sqe(3);
    put_u16(&mut sqe, 2, cid);
    bench.submit(1, &sqe);
    bench.step();
}

fn cid_of(cqe: &[u8]) -> u16 {
    get_u16(cqe, 12)
}

#[test]
fn drop_completion_executes_the_command() {
    let mut bench = Bench::running();
    bench.open_session();
    bench.inject(r#"{"fault":"drop_completion","queue":1,"count":1}"#);
    let sqe = bench.flush_sqe(0);
    bench.submit(1, &sqe);
    bench.step();
    assert!(bench.look(1).is_none());
    assert_eq!(bench.open_session(), 0);
}

#[test]
fn drop_command_does_not_execute_it() {
    let mut bench = Bench::running();
    bench.open_session();
    bench.inject(r#"{"fault":"drop_command","queue":1,"count":1}"#);
    let sqe = bench.flush_sqe(0);
    bench.submit(1, &sqe);
    bench.step();
    assert!(bench.look(1).is_none());
    assert_eq!(bench.open_session(), 1);
}

#[test]
fn delay_holds_the_queue_up() {
    let mut bench = Bench::running();
    bench.inject(r#"{"fault":"delay","queue":1,"count":1,"ms":7000}"#);
    submit_flush(&mut bench, 1);
    submit_flush(&mut bench, 2);
    bench.advance_ms(6_999);
    assert!(bench.look(1).is_none());
    bench.advance_ms(1);
    assert_eq!(cid_of(&bench.take(1).unwrap()), 1);
    assert_eq!(cid_of(&bench.take(1).unwrap()), 2);
    bench.assert_clean();
}

#[test]
fn reorder_waits_for_others_or_for_time() {
    let mut bench = Bench::running();
    bench.inject(r#"{"fault":"reorder","queue":1,"count":1,"after":2}"#);
    for cid in 1..=4 {
        submit_flush(&mut bench, cid);
    }
    let order: Vec<_> = (0..4).map(|_| cid_of(&bench.take(1).unwrap())).collect();
    assert_eq!(order, [2, 3, 1, 4]);
    bench.inject(r#"{"fault":"reorder","queue":1,"count":1,"ms":50}"#);
    submit_flush(&mut bench, 5);
    assert!(bench.look(1).is_none());
    bench.advance_ms(50);
    assert_eq!(cid_of(&bench.take(1).unwrap()), 5);
    bench.assert_clean();
}

#[test]
fn duplicate_completion() {
    let mut bench = Bench::running();
    bench.inject(r#"{"fault":"duplicate_completion","count":1}"#);
    submit_flush(&mut bench, 9);
    assert_eq!(cid_of(&bench.take(1).unwrap()), 9);
    assert_eq!(cid_of(&bench.take(1).unwrap()), 9);
    assert!(bench.take(1).is_none());
}

#[test]
fn fields_of_a_cqe() {
    let mut bench = Bench::running();
    for (fault, offset, expected) in [
        (
            r#"{"fault":"corrupt_cqe","offset":13,"xor":128,"count":1}"#,
            12,
            0x8009,
        ),
        (
            r#"{"fault":"corrupt_cqe","offset":99,"xor":1,"count":1}"#,
            12,
            9,
        ),
        (r#"{"fault":"wrong_cid","cid":4711,"count":1}"#, 12, 4711),
        (r#"{"fault":"wrong_cid","count":1}"#, 12, !9),
        (r#"{"fault":"wrong_sqhd","sqhd":999,"count":1}"#, 8, 999),
        (r#"{"fault":"cqe_length","length":5000,"count":1}"#, 0, 5000),
        (r#"{"fault":"cqe_session","session":6,"count":1}"#, 4, 6),
        (r#"{"fault":"cqe_session","flags":29,"count":1}"#, 2, 29),
        (r#"{"fault":"cqe_session","app_id":77,"count":1}"#, 6, 77),
        (
            r#"{"fault":"status","status":5,"count":1}"#,
            14,
            (5 << 1) | 1,
        ),
    ] {
        bench.inject(fault);
        submit_flush(&mut bench, 9);
        let cqe = bench.take(1).unwrap();
        assert_eq!(
            get_u16(&cqe, offset) & !u16::from(offset == 14),
            expected & !u16::from(offset == 14),
            "{fault}"
        );
    }
    bench.assert_clean();
}

#[test]
fn wrong_phase_hides_a_completion() {
    let mut bench = Bench::running();
    bench.inject(r#"{"fault":"wrong_phase","count":1}"#);
    submit_flush(&mut bench, 9);
    assert!(bench.look(1).is_none());
    submit_flush(&mut bench, 10);
    let cq = bench.pairs[&1].cq;
    assert_eq!(cid_of(&bench.peek(cq, 16)), 9);
    assert_eq!(cid_of(&bench.peek(cq + 16, 16)), 10);
}

#[test]
fn status_with_and_without_execution() {
    let mut bench = Bench::running();
    let first = bench.add_key(KeyKind::Xts, 1);
    let second = bench.add_key(KeyKind::Xts, 2);
    for (execute, moved) in [(false, false), (true, true)] {
        bench.inject(&format!(
            r#"{{"fault":"status","class":"aes","status":3,"error":13,"execute":{execute},"count":1}}"#
        ));
        let mut command = bench.aes(true, &[0; 16]);
        command.keys(first, second);
        assert_eq!(bench.run_aes(&command.sqe).codes(), (3, 13));
        assert_eq!(bench.peek(command.destination, 16) != [0; 16], moved);
    }
}

#[test]
fn admin_status_for_one_opcode() {
    let mut bench = Bench::ready();
    bench.inject(r#"{"fault":"status","class":"admin","opcode":5,"status":16391}"#);
    let page = bench.pages(1);
    assert_eq!(bench.create_cq(1, page, 16, None), 0x4007);
    assert_eq!(bench.admin_run(0x0a, 0, 0xc2, 0), (0, 1));
}

#[test]
fn identify_data() {
    let mut bench = Bench::ready();
    bench.inject(r#"{"fault":"identify","offset":100,"data":"0102030405","count":1}"#);
    let page = bench.pages(1);
    bench.admin_run(0x06, page, 1, 0);
    assert_eq!(bench.peek(page + 100, 4), [1, 2, 0, 0]);
    bench.admin_run(0x06, page, 1, 0);
    assert_eq!(bench.peek(page + 100, 4), [1, 0, 0, 0]);
}

#[test]
fn stall_delete_sq_for_a_while_or_until_cleared() {
    let mut bench = Bench::running();
    bench.inject(r#"{"fault":"stall_delete_sq","queue":1,"ms":500}"#);
    let sqe = bench.admin_sqe(0x00, 0, 1, 0);
    bench.submit(0, &sqe);
    bench.step();
    bench.advance_ms(499);
    assert!(bench.look(0).is_none());
    bench.advance_ms(1);
    assert!(bench.take(0).is_some());
    let id = bench.inject(r#"{"fault":"stall_delete_sq"}"#);
    let sqe = bench.admin_sqe(0x00, 0, 256, 0);
    bench.submit(0, &sqe);
    bench.step();
    bench.advance_ms(100_000);
    assert!(bench.look(0).is_none());
    assert!(bench.model.faults.remove(id));
    bench.step();
    assert!(bench.take(0).is_some());
}

#[test]
fn interrupts_that_are_lost_or_out_of_nowhere() {
    let mut bench = Bench::running();
    bench.interrupts();
    bench.inject(r#"{"fault":"drop_interrupt","vector":1,"count":1}"#);
    submit_flush(&mut bench, 1);
    assert!(bench.take(1).is_some());
    assert_eq!(bench.interrupts(), [0; 0]);
    submit_flush(&mut bench, 2);
    assert_eq!(bench.interrupts(), [1]);
    let spurious = |vector| Incident::SpuriousInterrupt { vector };
    bench.model.incident(&spurious(31));
    bench.model.incident(&spurious(32));
    assert_eq!(bench.interrupts(), [31]);
}

#[test]
fn slow_transitions() {
    let mut bench = Bench::new();
    bench.inject(r#"{"fault":"slow_enable","ms":300,"count":1}"#);
    bench.inject(r#"{"fault":"slow_disable","ms":200,"count":1}"#);
    bench.start_enable();
    bench.step();
    bench.advance_ms(299);
    assert_eq!(bench.read32(CSTS), 0);
    bench.advance_ms(1);
    assert_eq!(bench.read32(CSTS), 1);
    bench.write32(CC, 0);
    bench.step();
    bench.advance_ms(199);
    assert_eq!(bench.read32(CSTS), 1);
    bench.advance_ms(1);
    assert_eq!(bench.read32(CSTS), 0);
    bench.assert_clean();
}

#[test]
fn stuck_transitions_end_when_cleared() {
    let mut bench = Bench::new();
    let id = bench.inject(r#"{"fault":"stuck_enable"}"#);
    bench.start_enable();
    bench.step();
    bench.advance_ms(60_000);
    assert_eq!(bench.read32(CSTS), 0);
    bench.model.faults.remove(id);
    bench.step();
    assert_eq!(bench.read32(CSTS), 1);
    let id = bench.inject(r#"{"fault":"stuck_disable"}"#);
    bench.write32(CC, 0);
    bench.step();
    bench.advance_ms(60_000);
    assert_eq!(bench.read32(CSTS), 1);
    bench.model.faults.remove(id);
    bench.step();
    assert_eq!(bench.read32(CSTS), 0);
}

#[test]
fn enables_that_fail() {
    let mut bench = Bench::new();
    bench.inject(r#"{"fault":"fail_enable","count":1}"#);
    bench.start_enable();
    bench.step();
    bench.advance_ms(60_000);
    assert_eq!(bench.read32(CSTS), 0);
    bench.write32(CC, 0);
    bench.step();
    bench.inject(r#"{"fault":"dead_admin_queue","count":1}"#);
    bench.enable();
    let sqe = bench.admin_sqe(0x0a, 0, 0xc2, 0);
    bench.submit(0, &sqe);
    bench.step();
    assert!(bench.look(0).is_none());
    bench.disable();
    bench.enable();
    bench.assert_clean();
}

#[test]
fn ones_are_read_behind_an_enable() {
    let mut bench = Bench::new();
    bench.inject(r#"{"fault":"vanish_enabled","reads":2,"count":1}"#);
    bench.start_enable();
    bench.step();
    for status in [u32::MAX, u32::MAX, 1] {
        assert_eq!(bench.read32(CSTS), status);
    }
    bench.disable();
    bench.enable();
    bench.assert_clean();
}

#[test]
fn stop_fetch() {
    let mut bench = Bench::running();
    bench.inject(r#"{"fault":"stop_fetch","queue":1}"#);
    submit_flush(&mut bench, 1);
    assert!(bench.look(1).is_none());
    let command = bench.aes(true, &[0; 16]);
    assert_eq!(get_u32(&bench.run(256, &command.sqe), 52), 0);
    bench.model.faults.clear();
    bench.step();
    assert!(bench.look(1).is_some());
}
