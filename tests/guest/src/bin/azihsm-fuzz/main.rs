// SPDX-License-Identifier: GPL-2.0
//! Throws calls of all kinds at the node of the driver, most of them wrong in
//! one way or another, from processes that come and go, and makes sure of
//! properties that hold for every one of them (see [`shared::PROPERTIES`]), and
//! that the driver serves meanwhile and afterwards.
//!
//! What each call is depends on the seed, on its number, and on the sessions and
//! keys that there are; how it ends also on what others do at the same time.

mod chaos;
mod dice;
mod map;
mod oracle;
mod player;
mod probe;
mod raw;
mod request;
mod shared;
mod supervisor;
mod workers;
mod world;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::SystemTime;

/// The node.
pub const NODE: &str = "/dev/azihsm0";

#[derive(Parser)]
#[command(about = "Throws anything at the azihsm driver; results are in TAP version 14")]
struct Arguments {
    /// The module.
    #[arg(long, default_value = "/lib/azihsm.ko")]
    module: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// What the calls are; the time decides if it is missing.
    #[arg(long)]
    seed: Option<u64>,
    /// Processes that issue calls; one more passes descriptors on.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=15))]
    callers: u8,
    /// Only the worker with this number, to find out what it does.
    #[arg(long)]
    only: Option<usize>,
}

/// A number that is another one each time.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| {
            u64::from(time.subsec_nanos()) ^ (time.as_secs() << 32)
        })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = supervisor::Settings {
        module: arguments.module,
        time: Duration::from_secs(arguments.seconds),
        seed: arguments.seed.unwrap_or_else(now),
        callers: usize::from(arguments.callers),
        only: arguments.only,
    };
    match supervisor::run(&settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("Bail out! {error:#}");
            ExitCode::FAILURE
        }
    }
}
