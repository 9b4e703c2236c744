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
    /// Socket that QEMU connects to; may be repeated, for functions that share
    /// one device.
    #[arg(long, value_name = "PATH", required = true)]
    socket: Vec<PathBuf>,
    /// Socket for control commands.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// File that counters and violations are written to at the end.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Ends when the client disconnects.
    #[arg(long)]
    once: bool,
    /// Controller id of the first function: 0 is the physical function, N + 1
    /// virtual function N.
    #[arg(long, value_name = "ID", default_value_t = 0,
          value_parser = clap::value_parser!(u16).range(..i64::from(FUNCTIONS)))]
    controller: u16,
    /// Resource groups that the function begins with.
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(..=i64::from(GROUPS)))]
    groups: u8,
    /// Has a driver for tests take the first function for a physical one, with so
    /// many virtual ones in the beginning.
    #[arg(long, value_name = "N")]
    physical: Option<u8>,
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
    ensure!(
        arguments.bar0_size.is_power_of_two() && arguments.bar0_size >= BAR_SIZE,
        "the size of BAR 0 must be a power of two, and 4096 at least"
    );
    let clock = Arc::new(HostClock::start());
    let card = Arc::default();
    let devices: Arc<[Device]> = (arguments.controller..FUNCTIONS)
        .zip(&arguments.socket)
        .map(|(controller, _)| {
            let options = arguments.options(controller);
            Device::on(&card, clock.clone(), options, arguments.vectors)
        })
        .collect();
    ensure!(
        devices.len() == arguments.socket.len(),
        "more functions than a device has"
    );
    for (controller, device) in (arguments.controller..).zip(&*devices) {
        for text in &arguments.load_keys {
            let key =
                control::parse_key(text, controller).with_context(|| format!("bad key {text}"))?;
            device
                .model()
                .preload_key(key)
                .context("there is no room for that many keys")?;
        }
    }
    if let Some(functions) = arguments.physical {
        devices[0].model().set_physical(Some(functions));
    }
    if let Some(path) = &arguments.engine {
        let front = Arc::clone(&devices[0].front);
        let engine = SocketEngine::connect(path, move || front.kick())
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        devices[0].set_engine(Box::new(engine));
    }
    end_on_signal(Arc::clone(&devices), arguments.report.clone())?;
    if let Some(path) = &arguments.control {
        control::serve(Arc::clone(&devices), path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
    }
    let mut threads = Vec::new();
    for (socket, device) in arguments.socket.iter().zip(&*devices) {
        let transport = Transport::listen(socket, arguments.vectors, arguments.bar0_size)?;
        device.start()?;
        let mut device = device.clone();
        let once = arguments.once;
        threads.push(
            thread::Builder::new()
                .name("bus".into())
                .spawn(move || loop {
                    if let Err(error) = transport.serve(&mut device) {
                        log::error!("{error}");
                    }
                    device.disconnect();
                    if once {
                        return;
                    }
                })?,
        );
    }
    for thread in threads {
        ensure!(thread.join().is_ok(), "a function has failed");
    }
    finish(&devices, arguments.report.as_deref())
}

impl Arguments {
    fn options(&self, controller: u16) -> Options {
        Options {
            controller,
            groups: self.groups,
            latency: Latency {
                admin: self.admin_latency,
                hsm: self.hsm_latency,
                aes: self.aes_latency,
                ..Latency::default()
            },
            ..Options::default()
        }
    }
}

fn end_on_signal(devices: Arc<[Device]>, report: Option<PathBuf>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().next().is_some() {
                finish(&devices, report.as_deref());
            }
        })?;
    Ok(())
}

/// Writes the reports and ends; that of function N has `.N` behind its name, but
/// for the first.
fn finish(devices: &[Device], report: Option<&Path>) -> ! {
    for (number, device) in devices.iter().enumerate() {
        let Some(path) = report else {
            break;
        };
        let mut path = path.as_os_str().to_owned();
        if number != 0 {
            path.push(format!(".{number}"));
        }
        let path = Path::new(&path);
        if let Err(error) = write_report(device, path) {
            log::error!("cannot write {}: {error}", path.display());
            process::exit(1);
        }
    }
    let violations = devices.iter().any(|device| device.strict.errors() != 0);
    process::exit(if violations { EXIT_VIOLATIONS } else { 0 });
}
