// SPDX-License-Identifier: GPL-2.0
//! Tests of the driver, from inside the guest.
//!
//! Each test covers one rule and runs in a process of its own.  After each the
//! kernel log, the rules of the device and the sessions that were left behind
//! are looked at, so that a failure is that of the test which caused it.

mod crowd;
mod groups;
mod health;
mod runner;
mod scene;
mod stamp;
mod usage;

use clap::Parser;
use runner::part_of;
use runner::Env;
use runner::Runner;
use runner::Test;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Tests the azihsm driver; results are in TAP version 14")]
struct Arguments {
    /// Lists the tests instead of running them.
    #[arg(long)]
    list: bool,
    /// Only the tests of this group; may be given more than once.
    #[arg(long)]
    group: Vec<String>,
    /// Only the tests whose name contains this; may be given more than once.
    #[arg(long)]
    filter: Vec<String>,
    /// Long tests, too.
    #[arg(long)]
    long: bool,
    /// Only this part of the tests, from 0.
    #[arg(long, default_value_t = 0, requires = "parts")]
    part: usize,
    /// How many parts there are.
    #[arg(long, default_value_t = 1)]
    parts: usize,
    /// The module.
    #[arg(long, default_value = "/lib/azihsm.ko")]
    module: PathBuf,
    /// MSI-X vectors of each device.
    #[arg(long, default_value_t = 32)]
    vectors: usize,
    /// Devices.
    #[arg(long, default_value_t = 1)]
    devices: usize,
    /// What random tests draw from; if missing, something new each time.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seconds the tests of group soak run for.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Asks for device info on this descriptor and ends with its errno; tests
    /// run themselves this way to see what becomes of descriptors.
    #[arg(long, hide = true)]
    ask: Option<i32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(descriptor) = arguments.ask {
        return groups::unknown::ask(descriptor);
    }
    let env = Env {
        module: arguments.module,
        vectors: arguments.vectors,
        devices: arguments.devices,
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..)),
        seconds: arguments.seconds,
        number: 0,
    };
    let matches = |test: &Test| {
        let groups = &arguments.group;
        let filters = &arguments.filter;
        (groups.is_empty() || groups.iter().any(|group| test.is_in(group)))
            && (filters.is_empty() || filters.iter().any(|text| test.name().contains(text)))
    };
    let mut tests = groups::all();
    tests.retain(|test| {
        test.applies_to(&env) && matches(test) && (arguments.long || test.is_short())
    });
    let tests = part_of(tests, arguments.part, arguments.parts);
    if arguments.list {
        for test in &tests {
            println!("{}", test.name());
        }
        return ExitCode::SUCCESS;
    }
    match Runner::new(env) {
        Ok(mut runner) => {
            let code = runner.run(&tests);
            match runner.leave_busy() {
                Ok(()) => code,
                Err(error) => {
                    println!("# commands cannot be left under way: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            println!("Bail out! {error:#}");
            ExitCode::FAILURE
        }
    }
}
