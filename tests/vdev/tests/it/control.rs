// SPDX-License-Identifier: GPL-2.0

//! The control protocol, and the whole device over its real parts.

use azihsm_vdev::clock::ManualClock;
use azihsm_vdev::control::answer;
use azihsm_vdev::control::parse_key;
use azihsm_vdev::control::serve;
use azihsm_vdev::device::Device;
use azihsm_vdev::dma::Access;
use azihsm_vdev::options::Options;
use azihsm_vdev::report::write_report;
use azihsm_vdev::strict::Rule;
use proptest::prelude::*;
use serde_json::json;
use serde_json::Value;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

fn device() -> Device {
    Device::new(Arc::new(ManualClock::default()), Options::default(), 32)
}

fn ask(device: &Device, request: &Value) -> Value {
    answer(device, &request.to_string()).unwrap()
}

fn error(device: &Device, line: &str) -> String {
    let reply = answer(device, line).unwrap();
    assert_eq!(reply["ok"], json!(false), "{line}");
    reply["error"].as_str().unwrap().to_string()
}

#[test]
fn lines_are_trimmed_and_empty_ones_ignored() {
    let device = device();
    for line in ["", "\r", "  \r\n"] {
        assert_eq!(answer(&device, line), None);
    }
    let reply = answer(&device, "{\"cmd\":\"ping\"}\r\n");
    assert_eq!(reply, Some(json!({"ok": true})));
}

#[test]
fn bad_input_is_answered_with_a_sentence() {
    let device = device();
    for line in [
        "nonsense",
        "[]",
        "7",
        "{}",
        r#"{"cmd":7}"#,
        r#"{"cmd":"nonsense"}"#,
        r#"{"cmd":"load_key","kind":"gcm","key":"00","app_id":1}"#,
        r#"{"cmd":"load_key","kind":"rsa","key":"00","app_id":1}"#,
        r#"{"cmd":"delete_key","key_id":5}"#,
        r#"{"cmd":"set","option":"nonsense","value":1}"#,
        r#"{"cmd":"set","option":"fips","value":256}"#,
        r#"{"cmd":"set","option":"fips","value":"a"}"#,
        r#"{"cmd":"set","option":"groups","value":66}"#,
        r#"{"cmd":"set","option":"controller","value":65}"#,
        r#"{"cmd":"set","option":"serial","value":"hex:00"}"#,
        r#"{"cmd":"inject"}"#,
        r#"{"cmd":"inject","fault":"nonsense"}"#,
        r#"{"cmd":"inject","fault":"delay","ms":1,"millis":1}"#,
        r#"{"cmd":"inject","fault":"pause","ms":1,"millis":1}"#,
        r#"{"cmd":"inject","fault":"stop_fetch","class":"fast"}"#,
        r#"{"cmd":"inject","fault":"identify","offset":0,"data":"zz"}"#,
        r#"{"cmd":"clear_faults","id":3}"#,
        r#"{"cmd":"set","option":"aes_queues","value":-1}"#,
        r#"{"cmd":"memory","address":0}"#,
        r#"{"cmd":"memory","address":0,"length":16}"#,
    ] {
        assert!(!error(&device, line).is_empty());
    }
    assert!(error(&device, r#"{"cmd":"inject","fault":"delay"}"#).contains("ms"));
    assert!(error(&device, r#"{"cmd":"inject","fault":"pause"}"#).contains("ms"));
    assert!(error(&device, r#"{"cmd":"inject","fault":"x"}"#).contains('x'));
}

#[test]
fn keys_are_loaded_and_deleted() {
    let device = device();
    let load = json!({
        "cmd": "load_key", "kind": "gcm_approved", "key": "ab".repeat(32),
        "app_id": 3, "session": 2,
    });
    for id in (0..7).chain(8..15) {
        assert_eq!(ask(&device, &load), json!({"ok": true, "key_id": id}));
    }
    assert_eq!(ask(&device, &load)["ok"], json!(false));
    let state = ask(&device, &json!({"cmd": "state"}));
    assert_eq!(
        state["keys"][7],
        json!({"key_id": 8, "kind": "gcm_approved", "owner": 0, "app_id": 3, "session": 2})
    );
    let delete = json!({"cmd": "delete_key", "key_id": 8});
    assert_eq!(ask(&device, &delete), json!({"ok": true}));
    assert_eq!(ask(&device, &load)["key_id"], json!(8));
}

#[test]
fn keys_of_the_command_line() {
    let hex = "01".repeat(32);
    let key = parse_key(&format!("xts:{hex}:200"), 4).unwrap();
    assert_eq!((key.app_id, key.owner, key.bytes), (200, 4, [1; 32]));
    for text in ["", "xts", "xts:00:1", "xts:zz:1"] {
        assert!(parse_key(text, 0).is_err());
    }
    assert!(parse_key(&format!("xts:{hex}:256"), 0).is_err());
    assert!(parse_key(&format!("xts:{hex}:1:2"), 0).is_err());
    assert!(parse_key(&format!("aes:{hex}:1"), 0).is_err());
}

#[test]
fn options_are_set() {
    let device = device();
    for (option, value) in [
        ("admin_latency_us", json!(1)),
        ("hsm_latency_us", json!(2)),
        ("aes_latency_us", json!(3)),
        ("enable_latency_us", json!(4)),
        ("disable_latency_us", json!(5)),
        ("engine_timeout_us", json!(6)),
        ("serial", json!("abc")),
        ("firmware", json!(format!("hex:{}", "ff".repeat(32)))),
        ("svn", json!(7)),
        ("hsm_sqe_size", json!(8)),
        ("hsm_cqe_size", json!(9)),
        ("aes_sqe_size", json!(10)),
        ("aes_cqe_size", json!(11)),
        ("app_id", json!(12)),
        ("fips", json!(13)),
        ("features", json!(0)),
        ("aes_queues", json!(3)),
        ("aes_queues", json!(null)),
        ("provisioned", json!(false)),
        ("cap_to", json!(2)),
        ("fwcap", json!(1)),
        ("vs", json!(0x10000)),
        ("controller", json!(9)),
        ("groups", json!(65)),
    ] {
        let set = json!({"cmd": "set", "option": option, "value": value});
        assert_eq!(ask(&device, &set), json!({"ok": true}), "{option}");
    }
    let model = device.model();
    let options = &model.options;
    assert_eq!(options.latency.disable, 5);
    assert_eq!(&options.identity.serial[..4], b"abc\0");
    assert_eq!(options.identity.firmware, [0xff; 32]);
    assert_eq!(options.app_id, 12);
    assert!(!options.provisioned);
    assert_eq!(options.aes_queues, None);
    drop(model);
    let state = ask(&device, &json!({"cmd": "state"}));
    assert_eq!(state["controller"], json!(9));
    assert_eq!(state["groups"], json!(65));
    assert_eq!(state["registers"]["vs"], json!(0x10000));
    assert_eq!(state["registers"]["fwcap"], json!(1));
    assert_eq!(state["registers"]["cap"], json!(0x30_0203_03ffu64));
}

#[test]
fn memory_is_shown_and_searched() {
    let device = device();
    let mut file = tempfile::tempfile().unwrap();
    let mut content = vec![0; 2 << 20];
    content[5000..5004].copy_from_slice(b"here");
    file.write_all(&content).unwrap();
    let access = Access {
        read: true,
        write: true,
    };
    device
        .memory
        .map(0x10_0000, 2 << 20, access, file, 0)
        .unwrap();
    let memory = |address: u64, length: u64, search: Option<&str>| {
        let mut request = json!({"cmd": "memory", "address": address, "length": length});
        if let Some(search) = search {
            request["search"] = json!(search);
        }
        ask(&device, &request)
    };
    assert_eq!(
        memory(0x10_0000 + 4999, 6, None),
        json!({"ok": true, "data": "006865726500"})
    );
    let here = Some("68657265");
    assert_eq!(memory(0x10_0000, 8192, here)["offset"], json!(5000));
    assert_eq!(memory(0x10_0000, 5003, here)["offset"], json!(null));
    assert_eq!(memory(0x10_0000, 1 << 20, here)["offset"], json!(5000));
    for (address, length, search) in [
        (0x10_0000, 4097, None),
        (0x10_0000, (1 << 20) + 1, here),
        (0x10_0000, 16, Some("")),
        (0x10_0000, 16, Some("zz")),
        (0, 16, here),
        (0x30_0000 - 8, 16, None),
    ] {
        assert_eq!(memory(address, length, search)["ok"], json!(false));
    }
}

#[test]
fn violations_are_told_and_cleared() {
    let device = device();
    device.strict.record(Rule::DoorbellRead, "offset 0");
    device.strict.record(Rule::AesPrp, "");
    let reply = ask(&device, &json!({"cmd": "violations"}));
    assert_eq!(reply["errors"], json!(1));
    assert_eq!(reply["notes"], json!(1));
    assert_eq!(
        reply["violations"][0],
        json!({"time": 0, "rule": "doorbell-read", "severity": "error", "detail": "offset 0"})
    );
    ask(&device, &json!({"cmd": "clear_violations"}));
    let reply = ask(&device, &json!({"cmd": "violations"}));
    assert_eq!(
        reply,
        json!({"ok": true, "violations": [], "errors": 0, "notes": 0})
    );
}

#[test]
fn counters_are_told_and_reset() {
    let device = device();
    device.front.config_write(4, &[2, 0]);
    device.front.bar_read(0, 0x1c, &mut [0; 4]);
    device.front.bar_write(2, 8, &[0; 4]);
    let reply = ask(&device, &json!({"cmd": "counters"}));
    let counters = &reply["counters"];
    assert_eq!(counters["mmio_reads"], json!(1));
    assert_eq!(counters["mmio_writes"], json!(1));
    assert_eq!(counters["sq_doorbells"], json!(1));
    for name in [
        "interrupts",
        "dma_read_bytes",
        "dma_write_bytes",
        "cq_doorbells",
    ] {
        assert_eq!(counters[name], json!(0), "{name}");
    }
    assert_eq!(
        counters["commands"],
        json!({"admin": 0, "hsm": 0, "aes": 0})
    );
    ask(&device, &json!({"cmd": "reset_counters"}));
    let reply = ask(&device, &json!({"cmd": "counters"}));
    assert_eq!(reply["counters"]["mmio_reads"], json!(0));
}

#[test]
fn faults_are_listed_with_their_hits() {
    let device = device();
    let reply = ask(
        &device,
        &json!({"cmd": "inject", "fault": "delay", "ms": 5, "queue": 1, "count": 3, "skip": 1}),
    );
    assert_eq!(reply, json!({"ok": true, "id": 1}));
    device.model().faults.plan(1, 0);
    device.model().faults.plan(1, 0);
    let reply = ask(&device, &json!({"cmd": "faults"}));
    assert_eq!(
        reply["faults"],
        json!([{
            "id": 1, "fault": "delay", "ms": 5, "queue": 1, "class": null, "opcode": null,
            "count": 2, "skip": 0, "hits": 1,
        }])
    );
    ask(&device, &json!({"cmd": "inject", "fault": "stop_fetch"}));
    ask(&device, &json!({"cmd": "clear_faults", "id": 1}));
    assert_eq!(device.model().faults.list().len(), 1);
    ask(&device, &json!({"cmd": "clear_faults"}));
    assert!(device.model().faults.list().is_empty());
    let reply = ask(&device, &json!({"cmd": "inject", "fault": "gone"}));
    assert_eq!(reply, json!({"ok": true, "id": 0}));
    assert!(device.front.gone());
    device.disconnect();
    assert!(!device.front.gone());
}

#[test]
fn the_log_is_told() {
    let device = device();
    ask(&device, &json!({"cmd": "inject", "fault": "crash"}));
    let reply = ask(&device, &json!({"cmd": "log", "lines": 1}));
    assert_eq!(reply["log"], json!(["0: Crash"]));
}

#[test]
fn any_number_of_clients() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    // A socket that was left behind is replaced.
    std::fs::write(&path, "").unwrap();
    serve(Arc::from([device()]), &path).unwrap();
    let mut clients: Vec<_> = (0..3)
        .map(|_| BufReader::new(UnixStream::connect(&path).unwrap()))
        .collect();
    for client in &mut clients {
        client
            .get_mut()
            .write_all(b"\r\n{\"cmd\":\"ping\"}\nnonsense\n")
            .unwrap();
    }
    for client in &mut clients {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"ok\":true}\n");
        line.clear();
        client.read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"error\":"));
    }
}

#[test]
fn functions_of_a_device_are_asked_by_number() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let card = Arc::default();
    let function = |controller| {
        let options = Options {
            controller,
            groups: 2 + controller as u8,
            ..Options::default()
        };
        Device::on(&card, Arc::new(ManualClock::default()), options, 32)
    };
    serve([0, 1, 2].map(function).into(), &path).unwrap();
    let mut client = BufReader::new(UnixStream::connect(&path).unwrap());
    let mut ask = |mut request: Value, function: usize| -> Value {
        request["function"] = json!(function);
        let line = format!("{request}\n");
        client.get_mut().write_all(line.as_bytes()).unwrap();
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    };
    let state = json!({"cmd": "state"});
    for function in 0..3 {
        let state = ask(state.clone(), function);
        assert_eq!(state["controller"], json!(function));
        assert_eq!(state["groups"], json!(2 + function));
    }
    assert_eq!(ask(state.clone(), 3)["ok"], json!(false));
    // The groups are those of the whole device: 63 of 65 are not free.
    let set = |count| json!({"cmd": "set", "option": "groups", "value": count});
    assert_eq!(ask(set(63), 1)["ok"], json!(false));
    assert_eq!(ask(set(59), 1)["ok"], json!(true));
    assert_eq!(ask(state.clone(), 1)["groups"], json!(59));
    assert_eq!(ask(state, 2)["groups"], json!(4));
    // It is what it was in the beginning again.
    assert_eq!(ask(json!({"cmd": "power_cycle"}), 1)["ok"], json!(true));
    assert_eq!(ask(json!({"cmd": "state"}), 1)["groups"], json!(3));
}

#[test]
fn the_report_holds_counters_and_violations() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.json");
    let device = device();
    device.strict.record(Rule::DoorbellRead, "");
    write_report(&device, &path).unwrap();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(report["errors"], json!(1));
    assert_eq!(report["violations"][0]["rule"], json!("doorbell-read"));
    assert_eq!(report["counters"]["interrupts"], json!(0));
}

proptest! {
    #[test]
    fn no_line_panics(line in ".{0,200}") {
        answer(&device(), &line);
    }

    #[test]
    fn no_fault_panics(
        name in "delay|reorder|corrupt_cqe|identify|wrong_sqhd|pause|force_disable|spurious_interrupt",
        number in any::<u64>(),
    ) {
        let device = device();
        let mut request = match name.as_str() {
            "delay" | "pause" => json!({"ms": number}),
            "reorder" => json!({"after": number as u32, "ms": number}),
            "corrupt_cqe" => json!({"offset": number, "xor": 1}),
            "identify" => json!({"offset": number, "data": "0000"}),
            "wrong_sqhd" => json!({"sqhd": number as u16}),
            "force_disable" => json!({"groups": number as u8}),
            _ => json!({"vector": number as u16}),
        };
        request["cmd"] = json!("inject");
        request["fault"] = json!(name);
        request["skip"] = json!(number);
        request["count"] = json!(number);
        prop_assert_eq!(&ask(&device, &request)["ok"], &json!(true));
        device.model().step();
    }
}
