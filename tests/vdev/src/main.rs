// SPDX-License-Identifier: GPL-2.0

//! Shows a virtual Azure Integrated HSM to QEMU.

#![forbid(unsafe_code)]

use anyhow::ensure;
use anyhow::Context;
use azihsm_vdev::clock::HostClock;
use azihsm_vdev::config_space::BAR_SIZE;
use azihsm_vdev::config_space::MAX_VECTORS;
use azihsm_vdev::control;
use azihsm_vdev::device::Device;
use azihsm_vdev::engine_socket::SocketEngine;
use azihsm_vdev::groups::FUNCTIONS;
use azihsm_vdev::groups::GROUPS;
use azihsm_vdev::options::Latency;
use azihsm_vdev::options::Options;
use azihsm_vdev::report::write_report;
use azihsm_vdev::transport::Transport;
use clap::Parser;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::thread;

/// Exit code if the driver broke a rule.
const EXIT_VIOLATIONS: i32 = 3;

/// A virtual Azure Integrated HSM, shown to QEMU through vfio-user.
#[derive(Parser)]
struct Arguments {
    /// Socket that QEMU connects to.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Socket for control commands.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// File that counters and violations are written to at the end.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Ends when the client disconnects.
    #[arg(long)]
    once: bool,
    /// Controller id: 0 is the physical function, N + 1 virtual function N.
    #[arg(long, value_name = "ID", default_value_t = 0,
          value_parser = clap::value_parser!(u16).range(..i64::from(FUNCTIONS)))]
    controller: u16,
    /// Resource groups that the function begins with.
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(..=i64::from(GROUPS)))]
    groups: u8,
    /// MSI-X vectors.
    #[arg(long, value_name = "N", default_value_t = MAX_VECTORS,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_VECTORS)))]
    vectors: u16,
    /// Bytes of BAR 0, a power of two; the device has 4096.
    #[arg(long, value_name = "BYTES", default_value_t = BAR_SIZE)]
    bar0_size: u32,
    /// Socket of an external engine, which executes HSM and AES commands.
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// AES key that is there from the beginning, KIND being gcm, gcm_approved
    /// or xts.
    #[arg(long = "load-key", value_name = "KIND:HEX:APP_ID")]
    load_keys: Vec<String>,
    /// Microseconds that an admin command takes.
    #[arg(long, value_name = "US", default_value_t = 0)]
    admin_latency: u64,
    /// Microseconds that an HSM command takes.
    #[arg(long, value_name = "US", default_value_t = 0)]
    hsm_latency: u64,
    /// Microseconds that an AES command takes.
    #[arg(long, value_name = "US", default_value_t = 0)]
    aes_latency: u64,
}

fn main() -> anyhow::Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    let options = Options {
        controller: arguments.controller,
        groups: arguments.groups,
        latency: Latency {
            admin: arguments.admin_latency,
            hsm: arguments.hsm_latency,
            aes: arguments.aes_latency,
            ..Latency::default()
        },
        ..Options::default()
    };
    let mut device = Device::new(Arc::new(HostClock::start()), options, arguments.vectors);
    for text in &arguments.load_keys {
        let key = control::parse_key(text, arguments.controller)
            .with_context(|| format!("bad key {text}"))?;
        device
            .model()
            .preload_key(key)
            .context("there is no room for that many keys")?;
    }
    if let Some(path) = &arguments.engine {
        let front = Arc::clone(&device.front);
        let engine = SocketEngine::connect(path, move || front.kick())
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        device.set_engine(Box::new(engine));
    }
    end_on_signal(&device, arguments.report.clone())?;
    if let Some(path) = &arguments.control {
        control::serve(Arc::new(device.clone()), path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
    }
    ensure!(
        arguments.bar0_size.is_power_of_two() && arguments.bar0_size >= BAR_SIZE,
        "the size of BAR 0 must be a power of two, and 4096 at least"
    );
    let transport = Transport::listen(&arguments.socket, arguments.vectors, arguments.bar0_size)?;
    device.start()?;
    loop {
        if let Err(error) = transport.serve(&mut device) {
            log::error!("{error}");
        }
        device.disconnect();
        if arguments.once {
            finish(&device, arguments.report.as_deref());
        }
    }
}

fn end_on_signal(device: &Device, report: Option<PathBuf>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    let device = device.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().next().is_some() {
                finish(&device, report.as_deref());
            }
        })?;
    Ok(())
}

/// Writes the report and ends.
fn finish(device: &Device, report: Option<&Path>) -> ! {
    if let Some(path) = report {
        if let Err(error) = write_report(device, path) {
            log::error!("cannot write {}: {error}", path.display());
            process::exit(1);
        }
    }
    let violations = device.strict.errors() != 0;
    process::exit(if violations { EXIT_VIOLATIONS } else { 0 });
}
