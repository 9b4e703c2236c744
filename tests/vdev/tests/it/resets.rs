// SPDX-License-Identifier: GPL-2.0

//! Sections 2.8, 2.9, 5.7, 7.7 and 7.9: what resets do to what.

use crate::bench::Bench;
use crate::bench::CC;
use crate::bench::CSTS;
use crate::bench::NSSR;
use crate::bench::SIGNATURE;
use azihsm_vdev::inject::Incident;
use azihsm_vdev::keys::KeyKind;
use azihsm_vdev::options::Options;
use serde_json::json;

/// What there is after a reset.
#[derive(Debug, PartialEq)]
struct Left {
    ready: bool,
    fatal: bool,
    enabled: bool,
    groups: u64,
    queues: usize,
    keys: usize,
    /// For each session, whether it needs renegotiation.
    sessions: Vec<bool>,
}

fn left(bench: &Bench) -> Left {
    let state = bench.model.state();
    let list = |name: &str| state[name].as_array().unwrap().clone();
    Left {
        ready: state["ready"] == json!(true),
        fatal: state["fatal"] == json!(true),
        enabled: state["enabled"] == json!(true),
        groups: state["groups"].as_u64().unwrap(),
        queues: list("queues").len(),
        keys: list("keys").len(),
        sessions: list("sessions")
            .iter()
            .map(|session| session["needs_renegotiation"] == json!(true))
            .collect(),
    }
}

/// A function with two sessions and a key.
fn busy(controller: u16) -> Bench {
    let mut bench = Bench::with_options(Options {
        controller,
        ..Options::default()
    });
    bench.enable();
    bench.create_pair(1, 16);
    bench.create_pair(256, 16);
    bench.open_session();
    bench.open_session();
    bench.add_key(KeyKind::Gcm, 1);
    bench
}

const LOST: Left = Left {
    ready: false,
    fatal: false,
    enabled: false,
    groups: 2,
    queues: 0,
    keys: 0,
    sessions: Vec::new(),
};

#[test]
fn disable() {
    let mut bench = busy(3);
    bench.write32(CC, 0);
    bench.step();
    let expected = Left {
        sessions: vec![true, true],
        ..LOST
    };
    assert_eq!(left(&bench), expected);
    bench.assert_clean();
}

#[test]
fn nssr() {
    let mut bench = busy(3);
    bench.write32(NSSR, SIGNATURE);
    bench.step();
    let expected = Left {
        enabled: true,
        sessions: vec![true, true],
        ..LOST
    };
    assert_eq!(left(&bench), expected);
    bench.assert_clean();
}

fn function_reset(bench: &mut Bench) {
    bench.front.config_write(0x48, &[0, 0x80]);
    bench.step();
    bench.bus_master(true);
}

#[test]
fn flr_of_a_virtual_function() {
    let mut bench = busy(3);
    function_reset(&mut bench);
    let expected = Left {
        sessions: vec![true, true],
        ..LOST
    };
    assert_eq!(left(&bench), expected);
    assert_eq!(bench.read32(0x24), 0);
    bench.enable();
    bench.create_pair(1, 16);
    assert_eq!(bench.open_session(), 2);
    bench.assert_clean();
}

#[test]
fn flr_of_the_physical_function() {
    let mut bench = busy(0);
    bench.admin_run(0xc3, 0, 4, 3);
    function_reset(&mut bench);
    let expected = Left { groups: 0, ..LOST };
    assert_eq!(left(&bench), expected);
    bench.enable();
    assert_eq!(bench.admin_run(0x0a, 0, 7, 0), (0x4002, 0));
    assert_eq!(bench.admin_run(0xc4, 0, 4, 0), (0, 0));
    assert_eq!(bench.admin_run(0xc3, 0, 0, 2), (0, 0));
    bench.create_pair(1, 16);
    assert_eq!(bench.open_session(), 0);
    bench.assert_clean();
}

#[test]
fn flr_stops_everything_at_once() {
    let mut bench = busy(3);
    bench.model.options.latency.hsm = 5000;
    let (sqe, destination) = bench.hsm_sqe(&[0xff], 0, None);
    bench.submit(1, &sqe);
    bench.step();
    bench.front.config_write(0x48, &[0, 0x80]);
    bench.step();
    bench.advance_ms(10);
    assert_eq!(bench.peek(destination, 1), [0]);
    bench.assert_clean();
}

#[test]
fn bus_reset_is_power_on() {
    for controller in [0, 3] {
        let mut bench = busy(controller);
        bench.front.bus_reset();
        bench.step();
        assert_eq!(left(&bench), LOST);
        bench.bus_master(true);
        bench.enable();
        bench.assert_clean();
    }
}

#[test]
fn preloaded_keys_come_back_with_power_on_only() {
    let mut bench = Bench::new();
    let key = azihsm_vdev::control::parse_key(&format!("gcm:{}:1", "11".repeat(32)), 0).unwrap();
    assert_eq!(bench.model.preload_key(key), Some(0));
    bench.enable();
    assert_eq!(left(&bench).keys, 1);
    bench.disable();
    assert_eq!(left(&bench).keys, 0);
    bench.front.bus_reset();
    bench.step();
    assert_eq!(left(&bench).keys, 1);
}

#[test]
fn a_crash_sets_cfs_and_loses_queues_and_keys() {
    let mut bench = busy(3);
    bench.model.incident(&Incident::Crash);
    bench.step();
    assert_eq!(bench.read32(CSTS), 3);
    let expected = Left {
        ready: true,
        fatal: true,
        enabled: true,
        sessions: vec![false, false],
        ..LOST
    };
    assert_eq!(left(&bench), expected);
    // The driver does not know yet, and that is not its fault.
    let sqe = bench.admin_sqe(0x0a, 0, 0xc2, 0);
    bench.submit(0, &sqe);
    bench.step();
    assert!(bench.look(0).is_none());
    bench.assert_clean();
    bench.disable();
    assert_eq!(left(&bench).sessions, [true, true]);
    bench.enable();
    bench.assert_clean();
}

#[test]
fn a_forced_disable_clears_en_and_rdy() {
    let mut bench = busy(3);
    bench
        .model
        .incident(&Incident::ForceDisable { groups: Some(0) });
    bench.step();
    assert_eq!(left(&bench), Left { groups: 0, ..LOST });
    // Doorbells until the driver notices are not its fault.
    bench.sq_doorbell(1, 7);
    bench.step();
    bench.assert_clean();
    bench
        .model
        .incident(&Incident::ForceDisable { groups: Some(1) });
    bench.enable();
    assert_eq!(left(&bench).groups, 1);
    bench.assert_clean();
}

#[test]
fn an_impactless_update_only_takes_time() {
    let mut bench = busy(3);
    bench.model.incident(&Incident::Pause { ms: 20_000 });
    let sqe = bench.flush_sqe(0);
    bench.submit(1, &sqe);
    assert_eq!(bench.step(), Some(20_000_000));
    bench.advance_ms(19_999);
    assert!(bench.look(1).is_none());
    bench.advance_ms(1);
    assert!(bench.look(1).is_some());
    assert_eq!(left(&bench).keys, 1);
    bench.assert_clean();
}

#[test]
fn a_device_that_is_gone_reads_all_ones() {
    let mut bench = busy(3);
    bench.model.incident(&Incident::Gone { on: true });
    assert_eq!(bench.read32(CSTS), u32::MAX);
    let mut id = [0; 4];
    bench.front.config_read(0, &mut id);
    assert_eq!(id, [0xff; 4]);
    bench.write32(CC, 0);
    bench.step();
    bench.model.incident(&Incident::Gone { on: false });
    bench.step();
    assert_eq!(left(&bench), LOST);
    // Coming back twice is no second reset.
    bench.bus_master(true);
    bench.enable();
    bench.model.incident(&Incident::Gone { on: false });
    bench.step();
    assert_eq!(bench.read32(CSTS), 1);
    bench.assert_clean();
}

#[test]
fn a_function_asks_to_retry_for_a_while() {
    let mut bench = busy(3);
    let identifier = |bench: &Bench| {
        let mut id = [0; 4];
        bench.front.config_read(0, &mut id);
        id
    };
    let usual = identifier(&bench);
    bench.model.incident(&Incident::Retry { ms: 5 });
    assert_eq!(identifier(&bench)[..2], [1, 0]);
    let mut command = [0; 2];
    bench.front.config_read(4, &mut command);
    assert_eq!(command, [0xff; 2]);
    assert_eq!(bench.read32(CSTS), u32::MAX);
    let before = left(&bench);
    bench.write32(CC, 0);
    bench.step();
    bench.advance_ms(4);
    assert_eq!(identifier(&bench)[..2], [1, 0]);
    bench.advance_ms(1);
    assert_eq!(identifier(&bench), usual);
    assert_eq!(bench.read32(CSTS), 1);
    assert_eq!(left(&bench), before);
    bench.assert_clean();
}

#[test]
fn a_device_that_is_not_reached_works_on() {
    let mut bench = busy(3);
    let sqe = bench.flush_sqe(7);
    bench.inject(r#"{"fault": "delay", "class": "hsm", "count": 1, "ms": 5}"#);
    bench.submit(1, &sqe);
    bench.step();
    bench.model.incident(&Incident::Unreachable { on: true });
    assert_eq!(bench.read32(CSTS), u32::MAX);
    let mut id = [0; 4];
    bench.front.config_read(0, &mut id);
    assert_eq!(id, [0xff; 4]);
    bench.write32(CC, 0);
    bench.bus_master(false);
    bench.advance_ms(5);
    assert!(bench.look(1).is_some());
    bench.model.incident(&Incident::Unreachable { on: false });
    bench.step();
    assert_eq!(bench.read32(CSTS), 1);
    // What it does with bus mastering off then is not the host's fault.
    bench.submit(1, &sqe);
    bench.step();
    assert_eq!(bench.violations(), ["dma-after-stop-request"]);
    assert_eq!(left(&bench).keys, 1);
}

/// Whoever enabled it may be gone.
#[test]
fn power_is_turned_off_and_on_under_a_driver() {
    let mut bench = Bench::running();
    bench.model.power_cycle().unwrap();
    bench.step();
    assert_eq!((bench.read32(CC), bench.read32(CSTS)), (0, 0));
    bench.enable();
    bench.assert_clean();
}
