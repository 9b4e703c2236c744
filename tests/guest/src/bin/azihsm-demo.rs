// SPDX-License-Identifier: GPL-2.0
//! Shows what the driver can do, the way an administrator would look at it.

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::reference;
use azihsm_uapi::hsm_nodes;
use azihsm_uapi::AesReply;
use azihsm_uapi::Device;
use azihsm_uapi::Direction;
use azihsm_uapi::GcmRequest;
use clap::Parser;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

/// Key of the encryption, which the virtual device is told.
const KEY: [u8; 32] = *b"a key that only a test would use";
const IV: [u8; 12] = *b"demo iv 0001";
const AAD: &[u8] = b"twenty bytes of data";
const TEXT: &[u8] = b"A text of forty-three bytes: not a multiple";

#[derive(Parser)]
#[command(about = "Shows what the azihsm driver can do")]
struct Arguments {
    /// How often each operation is timed.
    #[arg(long, default_value_t = 300)]
    runs: usize,
}

fn section(title: &str) {
    println!("\n{title}");
}

fn row(name: &str, value: impl std::fmt::Display) {
    println!("  {name:<22}{value}");
}

fn show_node(path: &Path) -> Result<()> {
    let mode = fs::metadata(path)?.mode() & 0o7777;
    row("node", path.display());
    row("mode", format!("{mode:04o}"));
    Ok(())
}

fn show_info(device: &Device) -> Result<()> {
    let info = device.info()?;
    row("PCI address", &info.pci);
    row("controller", info.controller);
    row("serial number", &info.serial);
    row("driver ABI", &info.driver);
    row("firmware", &info.firmware);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    row("kernel", kernel.trim());
    ensure!(!info.pci.is_empty(), "no PCI address");
    Ok(())
}

fn show_hsm(device: &Device) -> Result<()> {
    let (oldest, newest) = hsm::api_revisions(device)?;
    row(
        "API revisions",
        format!(
            "{}.{} to {}.{}",
            oldest.major, oldest.minor, newest.major, newest.minor
        ),
    );
    let kind = hsm::kind(device)?;
    row("kind", if kind.physical { "physical" } else { "virtual" });
    row("resource groups", kind.tables);
    row("FIPS approved", if kind.fips { "yes" } else { "no" });
    Ok(())
}

/// A GCM request with the key of the demonstration.
fn gcm(direction: Direction, session: Session, key: u32, text: &[u8]) -> GcmRequest<'_> {
    GcmRequest {
        direction,
        session: session.id,
        app: session.app,
        key,
        iv: IV,
        tag: [0; 16],
        aad: AAD,
        text,
    }
}

fn done(reply: AesReply) -> Result<AesReply> {
    ensure!(
        reply.status == 0,
        "device status {:#x}, error {:#x}",
        reply.status,
        reply.code
    );
    Ok(reply)
}

fn show_gcm(device: &Device, session: Session, key: u32) -> Result<()> {
    let sealed = done(device.aes_gcm(&gcm(Direction::Encrypt, session, key, TEXT))?)?;
    let (text, tag) = reference::gcm_encrypt(&KEY, IV, AAD, TEXT)?;
    ensure!(sealed.text == text, "another text than the reference");
    ensure!(sealed.tag == tag, "another tag than the reference");
    row(
        "encrypted",
        format!(
            "{} bytes and {} of AAD, as the reference does",
            TEXT.len(),
            AAD.len()
        ),
    );
    row("tag", hex::encode(sealed.tag));

    let mut request = gcm(Direction::Decrypt, session, key, &sealed.text);
    request.tag = sealed.tag;
    let opened = done(device.aes_gcm(&request)?)?;
    ensure!(opened.text == TEXT, "decryption yields another text");
    row("decrypted", "the same text");

    request.tag[0] ^= 1;
    let refused = device.aes_gcm(&request)?;
    ensure!(refused.status != 0, "a wrong tag was accepted");
    row(
        "wrong tag",
        format!(
            "refused, status {:#x} error {:#x}",
            refused.status, refused.code
        ),
    );
    Ok(())
}

/// Runs `operation` often and shows how long it takes.
fn time(name: &str, runs: usize, mut operation: impl FnMut() -> Result<()>) -> Result<()> {
    operation()?;
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = Instant::now();
        operation()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| {
        let index = (times.len() * percent / 100).min(times.len() - 1);
        micros(times[index])
    };
    println!(
        "  {name:<22}{:>10.1}{:>10.1}{:>10.1}",
        at(0),
        at(50),
        at(99)
    );
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn show(runs: usize) -> Result<()> {
    ensure!(runs > 0, "nothing to time");
    let path = hsm_nodes()?.into_iter().next().context("no HSM node")?;
    println!("Azure Integrated HSM");
    section("Device");
    show_node(&path)?;
    let device = Device::open(&path)?;
    show_info(&device)?;

    section("HSM");
    show_hsm(&device)?;
    let session = hsm::open_session(&device)?;
    row(
        "session",
        format!("opened, id {}, application {}", session.id, session.app),
    );

    section("AES-256-GCM");
    let key = Control::open(0)?.load_key(KeyKind::Gcm, &KEY, session)?;
    show_gcm(&device, session, key)?;

    section("Time, µs                   min    median       p99");
    time("device info", runs, || Ok(device.info().map(drop)?))?;
    time("GetApiRev", runs, || hsm::api_revisions(&device).map(drop))?;
    let text = [0x5a; 1024];
    time("GCM, 1 KiB", runs, || {
        let request = gcm(Direction::Encrypt, session, key, &text);
        done(device.aes_gcm(&request)?).map(drop)
    })?;

    hsm::close_session(&device, session.id)?;
    println!();
    row("session", "closed");
    Ok(())
}

fn main() -> ExitCode {
    match show(Arguments::parse().runs) {
        Ok(()) => {
            println!("\nOK");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}
