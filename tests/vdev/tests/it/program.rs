// SPDX-License-Identifier: GPL-2.0

//! The program itself, with a vfio-user client in place of QEMU.

use crate::bench::ACQ;
use crate::bench::AQA;
use crate::bench::ASQ;
use crate::bench::CC;
use crate::bench::CSTS;
use serde_json::Value;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use tempfile::TempDir;
use vfio_bindings::bindings::vfio::VFIO_IRQ_SET_ACTION_TRIGGER;
use vfio_bindings::bindings::vfio::VFIO_IRQ_SET_DATA_EVENTFD;
use vfio_bindings::bindings::vfio::VFIO_IRQ_SET_DATA_NONE;
use vfio_user::Client;

const PATIENCE: Duration = Duration::from_secs(20);
const CONFIG: u32 = 7;
const MSIX: u32 = 2;
/// Where the guest's memory is, on the bus and in its file.
const MEMORY: u64 = 0x10_0000;
const SIZE: u64 = 0x1_0000;

/// A running program and its files.
struct Program {
    child: Child,
    directory: TempDir,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let child = Command::new(env!("CARGO_BIN_EXE_azihsm-vdev"))
            .arg("--socket")
            .arg(path("hsm.sock"))
            .arg("--control")
            .arg(path("control.sock"))
            .arg("--report")
            .arg(path("report.json"))
            .args(arguments)
            .env("RUST_LOG", "off")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn connect(&self) -> Client {
        let socket = self.path("hsm.sock");
        eventually(|| Client::new(&socket).ok())
    }

    fn ask(&self, request: &str) -> Value {
        let socket = self.path("control.sock");
        let mut stream = eventually(|| UnixStream::connect(&socket).ok());
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Waits for the end: the exit code and the report.
    fn finish(mut self) -> (Option<i32>, Value) {
        let status = eventually(|| self.child.try_wait().unwrap());
        let report = std::fs::read_to_string(self.path("report.json")).unwrap();
        (status.code(), serde_json::from_str(&report).unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries something until it works.
fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(start.elapsed() < PATIENCE, "it took too long");
        thread::sleep(Duration::from_millis(5));
    }
}

fn read32(client: &mut Client, region: u32, offset: u64) -> u32 {
    let mut data = [0; 4];
    client.region_read(region, offset, &mut data).unwrap();
    u32::from_le_bytes(data)
}

fn write32(client: &mut Client, region: u32, offset: u64, value: u32) {
    client
        .region_write(region, offset, &value.to_le_bytes())
        .unwrap();
}

/// Enables the function with memory of 64 KiB at [`MEMORY`].
fn enable(client: &mut Client) -> File {
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(SIZE).unwrap();
    client.dma_map(0, MEMORY, SIZE, memory.as_raw_fd()).unwrap();
    write32(client, CONFIG, 4, 6);
    write32(client, 0, AQA, 0x000f_000f);
    for (offset, ring) in [(ASQ, MEMORY), (ACQ, MEMORY + 0x1000)] {
        client.region_write(0, offset, &ring.to_le_bytes()).unwrap();
    }
    write32(client, 0, CC, 1);
    eventually(|| (read32(client, 0, CSTS) == 1).then_some(()));
    memory
}

/// An identify command with this CID, whose page is at `MEMORY + 0x2000`.
fn identify(memory: &File, slot: u64, cid: u16) {
    let mut sqe = [0; 64];
    sqe[0] = 6;
    sqe[2..4].copy_from_slice(&cid.to_le_bytes());
    sqe[24..32].copy_from_slice(&(MEMORY + 0x2000).to_le_bytes());
    memory.write_all_at(&sqe, slot * 64).unwrap();
}

#[test]
fn a_client_sees_the_device() {
    let program = Program::start(&["--once", "--vectors", "20"]);
    let mut client = program.connect();
    for (region, size) in [
        (0, 4096),
        (1, 0),
        (2, 4096),
        (4, 4096),
        (6, 0),
        (CONFIG, 4096),
    ] {
        assert_eq!(client.region(region).unwrap().size, size);
    }
    assert_eq!(client.get_irq_info(MSIX).unwrap().count, 20);
    assert_eq!(read32(&mut client, CONFIG, 0), 0xc003_1414);
    // Not before it is told to.
    assert_eq!(read32(&mut client, 0, 0), u32::MAX);
    write32(&mut client, CONFIG, 4, 2);
    assert_eq!(read32(&mut client, 0, 0), 0x1403_03ff);
    drop(client);
    let (code, report) = program.finish();
    assert_eq!(code, Some(0));
    assert_eq!(report["counters"]["mmio_reads"], 2);
}

#[test]
fn commands_interrupts_and_resets() {
    let key = format!("gcm:{}:1", "00".repeat(32));
    let program = Program::start(&["--once", "--load-key", &key]);
    let mut client = program.connect();
    let memory = enable(&mut client);
    let (mut event, other) = UnixStream::pair().unwrap();
    event.set_read_timeout(Some(PATIENCE)).unwrap();
    let trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
    let flags = VFIO_IRQ_SET_DATA_EVENTFD | trigger;
    client
        .set_irqs(MSIX, flags, 0, 1, &[other.as_raw_fd()])
        .unwrap();
    identify(&memory, 0, 0x1234);
    write32(&mut client, 2, 0, 1);
    let mut signal = [0; 8];
    event.read_exact(&mut signal).unwrap();
    assert_eq!(u64::from_ne_bytes(signal), 1);
    let mut cqe = [0; 16];
    memory.read_exact_at(&mut cqe, 0x1000).unwrap();
    assert_eq!(cqe[8..], [1, 0, 0, 0, 0x34, 0x12, 1, 0]);
    let mut page = [0; 2];
    memory.read_exact_at(&mut page, 0x2000).unwrap();
    assert_eq!(page, [0x14, 0x14]);

    // A vector that nobody listens to is pending.
    let flags = VFIO_IRQ_SET_DATA_NONE | trigger;
    client.set_irqs(MSIX, flags, 0, 0, &[]).unwrap();
    identify(&memory, 1, 0x1235);
    write32(&mut client, 2, 4, 1);
    write32(&mut client, 2, 0, 2);
    eventually(|| (read32(&mut client, 4, 0x800) == 1).then_some(()));

    let state = program.ask(r#"{"cmd":"state"}"#);
    assert_eq!(state["ready"], true);
    assert_eq!(state["dma"]["regions"], 1);
    assert_eq!(state["keys"].as_array().unwrap().len(), 1);

    client.reset().unwrap();
    write32(&mut client, CONFIG, 4, 2);
    assert_eq!(read32(&mut client, 0, CSTS), 0);
    client.dma_unmap(MEMORY, SIZE).unwrap();
    let state = program.ask(r#"{"cmd":"state"}"#);
    assert_eq!(state["dma"]["regions"], 0);
    drop(client);
    let (code, report) = program.finish();
    assert_eq!(code, Some(0));
    assert_eq!(report["counters"]["commands"]["admin"], 2);
}

#[test]
fn broken_rules_make_the_exit_code() {
    let program = Program::start(&["--once"]);
    let mut client = program.connect();
    let memory = enable(&mut client);
    identify(&memory, 0, 1);
    client.dma_unmap(MEMORY, SIZE).unwrap();
    write32(&mut client, 2, 0, 1);
    eventually(|| {
        let reply = program.ask(r#"{"cmd":"violations"}"#);
        (reply["errors"] == 1).then_some(())
    });
    drop(client);
    let (code, report) = program.finish();
    assert_eq!(code, Some(3));
    assert_eq!(report["violations"][0]["rule"], "dma-unmapped");
}

#[test]
fn the_next_client_finds_the_device_at_power_on() {
    let program = Program::start(&[]);
    let mut client = program.connect();
    enable(&mut client);
    drop(client);
    let mut client = program.connect();
    write32(&mut client, CONFIG, 4, 2);
    assert_eq!(read32(&mut client, 0, CSTS), 0);
    let state = eventually(|| {
        let state = program.ask(r#"{"cmd":"state"}"#);
        (state["enabled"] == false).then_some(state)
    });
    assert_eq!(state["dma"]["regions"], 0);
    enable(&mut client);
}

#[test]
fn a_signal_ends_the_program_with_a_report() {
    let program = Program::start(&[]);
    let _client = program.connect();
    let kill = format!("kill -TERM {}", program.child.id());
    assert!(Command::new("sh")
        .arg("-c")
        .arg(kill)
        .status()
        .unwrap()
        .success());
    let (code, report) = program.finish();
    assert_eq!(code, Some(0));
    assert_eq!(report["errors"], 0);
}

#[test]
fn bad_arguments_are_refused() {
    for arguments in [
        &["--load-key", "gcm:00:1"][..],
        &["--groups", "66"],
        &["--controller", "65"],
        &["--vectors", "0"],
        &["--engine", "/nonexistent/engine.sock"],
    ] {
        let mut program = Program::start(arguments);
        let status = eventually(|| program.child.try_wait().unwrap());
        assert!(matches!(status.code(), Some(1 | 2)), "{arguments:?}");
    }
}
