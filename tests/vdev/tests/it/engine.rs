// SPDX-License-Identifier: GPL-2.0

//! The external engine, with a fake one behind the socket.

use crate::bench::AesResult;
use crate::bench::Bench;
use crate::bench::NSSR;
use crate::bench::SIGNATURE;
use azihsm_vdev::bytes::get_u16;
use azihsm_vdev::engine_socket::frame;
use azihsm_vdev::engine_socket::read_frame;
use azihsm_vdev::engine_socket::SocketEngine;
use serde_json::json;
use serde_json::Value;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use tempfile::TempDir;

/// A device with queues 1 and 256, and the engine's end of the socket.
struct Rig {
    bench: Bench,
    engine: UnixStream,
    _directory: TempDir,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut bench = Bench::new();
        let front = Arc::clone(&bench.front);
        let engine = SocketEngine::connect(&path, move || front.kick()).unwrap();
        bench.model.set_engine(Box::new(engine));
        let (engine, _) = listener.accept().unwrap();
        bench.enable();
        bench.create_pair(1, 16);
        bench.create_pair(256, 16);
        let mut rig = Self {
            bench,
            engine,
            _directory: directory,
        };
        assert_eq!(rig.request().0, json!({"op": "reset", "kind": "enable"}));
        rig
    }

    fn request(&mut self) -> (Value, Vec<u8>) {
        read_frame(&mut self.engine).unwrap()
    }

    fn reply(&mut self, header: &Value, data: &[u8]) {
        self.engine.write_all(&frame(header, &[data])).unwrap();
    }

    /// Waits, in the time of the host, for a completion.
    fn take(&mut self, queue: u16) -> Vec<u8> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            self.bench.step();
            if let Some(cqe) = self.bench.take(queue) {
                return cqe;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("no completion");
    }
}

#[test]
fn hsm_requests_go_to_the_engine() {
    let mut rig = Rig::new();
    let (sqe, destination) = rig.bench.hsm_sqe(b"request", 3, Some(5));
    rig.bench.submit(1, &sqe);
    rig.bench.step();
    let (header, message) = rig.request();
    assert_eq!(
        header,
        json!({"id": 1, "op": "hsm", "kind": 3, "session": 5})
    );
    assert_eq!(message, b"request");
    let reply = json!({"id": 1, "kind": 1, "session": 6, "app_id": 7, "closed": false});
    rig.reply(&reply, b"response");
    let cqe = rig.take(1);
    assert_eq!(get_u16(&cqe, 14) >> 1, 0);
    assert_eq!(get_u16(&cqe, 0), 8);
    assert_eq!((cqe[2], get_u16(&cqe, 4), cqe[6]), (1 | 4 | 8, 6, 7));
    assert_eq!(rig.bench.peek(destination, 8), b"response");
}

#[test]
fn flushes_and_errors_too() {
    let mut rig = Rig::new();
    let sqe = rig.bench.flush_sqe(4);
    rig.bench.submit(1, &sqe);
    rig.bench.step();
    let (header, _) = rig.request();
    assert_eq!(header, json!({"id": 1, "op": "flush", "session": 4}));
    rig.reply(&json!({"id": 1, "session": 4, "closed": true}), &[]);
    let cqe = rig.take(1);
    assert_eq!((cqe[2], get_u16(&cqe, 4)), (2 | 4 | 16, 4));
    let sqe = rig.bench.flush_sqe(4);
    rig.bench.submit(1, &sqe);
    rig.bench.step();
    rig.reply(&json!({"id": 2, "status": 7}), &[]);
    let cqe = rig.take(1);
    assert_eq!((cqe[2], get_u16(&cqe, 14) >> 1), (0, 7));
}

#[test]
fn gcm_goes_to_the_engine_without_padding() {
    let mut rig = Rig::new();
    let mut input = vec![0; 16];
    input.extend([0xaa; 5]);
    input.resize(32, 0);
    input.extend([0xbb; 16]);
    let mut command = rig.bench.aes(false, &input);
    let page = rig.bench.pages(1);
    rig.bench.poke(page, &[0xcc; 3]);
    command
        .gcm(8, 5, 32)
        .iv(&[1; 12])
        .tail(3, page, page + 16)
        .tag(&[2; 16])
        .decrypt();
    rig.bench.submit(256, &command.sqe);
    rig.bench.step();
    let (header, data) = rig.request();
    assert_eq!(
        header,
        json!({
            "id": 1, "op": "aes", "cipher": "gcm", "direction": "decrypt", "keys": [8, 0],
            "session": 0, "app_id": 1, "iv": format!("{}00000000", "01".repeat(12)),
            "tag": "02".repeat(16), "unit": 0, "aad": 5,
        })
    );
    assert_eq!(data, [&[0xaa; 5][..], &[0xbb; 16], &[0xcc; 3]].concat());
    let reply = json!({"id": 1, "fips": 1, "tag": "03".repeat(16), "iv": "04".repeat(12)});
    rig.reply(&reply, &[0xdd; 19]);
    let result = AesResult(rig.take(256));
    assert_eq!(result.codes(), (0, 0));
    assert_eq!(result.tag(), [3; 16]);
    assert_eq!(result.iv(), [4; 12]);
    assert_eq!(
        (result.tail(), result.bytes(), result.indicator()),
        (3, 48, 1)
    );
    assert_eq!(rig.bench.peek(command.destination + 32, 16), [0xdd; 16]);
    assert_eq!(rig.bench.peek(page + 16, 4), [0xdd, 0xdd, 0xdd, 0]);
}

#[test]
fn xts_goes_to_the_engine() {
    let mut rig = Rig::new();
    let mut command = rig.bench.aes(true, &[7; 1024]);
    command.keys(8, 9).tag(&[5; 16]);
    command.sqe[5] |= 1 << 6;
    rig.bench.submit(256, &command.sqe);
    rig.bench.step();
    let (header, data) = rig.request();
    assert_eq!(header["cipher"], json!("xts"));
    assert_eq!(header["keys"], json!([8, 9]));
    assert_eq!(header["unit"], json!(512));
    assert_eq!(header["iv"], json!("05".repeat(16)));
    assert_eq!(data, [7; 1024]);
    rig.reply(&json!({"id": 1}), &[8; 1024]);
    let result = AesResult(rig.take(256));
    assert_eq!((result.codes(), result.bytes()), ((0, 0), 1024));
    assert_eq!(rig.bench.peek(command.destination, 1024), [8; 1024]);
}

#[test]
fn answers_of_the_wrong_length_fail() {
    let mut rig = Rig::new();
    let mut command = rig.bench.aes(true, &[7; 32]);
    command.keys(8, 9);
    rig.bench.submit(256, &command.sqe);
    rig.bench.step();
    rig.reply(&json!({"id": 1}), &[8; 31]);
    assert_eq!(AesResult(rig.take(256)).codes(), (3, 0x11));
}

#[test]
fn an_engine_that_does_not_answer_is_given_up() {
    let mut rig = Rig::new();
    let (sqe, _) = rig.bench.hsm_sqe(b"request", 0, None);
    rig.bench.submit(1, &sqe);
    let command = rig.bench.aes(true, &[7; 32]);
    rig.bench.submit(256, &command.sqe);
    rig.bench.step();
    rig.bench.advance_ms(4_999);
    assert!(rig.bench.look(1).is_none());
    rig.bench.advance_ms(1);
    assert_eq!(get_u16(&rig.bench.take(1).unwrap(), 14) >> 1, 7);
    let result = AesResult(rig.bench.take(256).unwrap());
    assert_eq!(result.codes(), (3, 0xa));
    // A late answer finds nothing to do.
    rig.reply(&json!({"id": 1}), b"response");
    let sqe = rig.bench.flush_sqe(0);
    rig.bench.submit(1, &sqe);
    rig.bench.step();
    rig.reply(&json!({"id": 3}), &[]);
    assert_eq!(get_u16(&rig.take(1), 14) >> 1, 0);
}

#[test]
fn the_engine_hears_of_resets() {
    let mut rig = Rig::new();
    rig.bench.write32(NSSR, SIGNATURE);
    rig.bench.step();
    rig.bench.front.config_write(0x48, &[0, 0x80]);
    rig.bench.step();
    rig.bench.front.bus_reset();
    rig.bench.step();
    for kind in ["subsystem", "function", "bus"] {
        assert_eq!(rig.request().0["kind"], json!(kind));
    }
}
