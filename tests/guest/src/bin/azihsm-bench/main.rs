// SPDX-License-Identifier: GPL-2.0
//! Measures what operations of the driver cost, next to what they would cost
//! with the least of drivers.
//!
//! What it finds is printed as one JSON object per line; `azihsm-vm bench` makes
//! tables of them.

mod module;
mod operation;
mod run;

use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::mark;
use clap::Parser;
use clap::ValueEnum;
use module::Loaded;
use operation::Scene;
use run::Run;
use serde_json::json;
use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum What {
    /// Each operation some times, for the plugin of QEMU that counts.
    Counts,
    /// As many as possible in some time, by several threads.
    Times,
}

#[derive(Parser)]
#[command(about = "Measures the azihsm driver")]
struct Arguments {
    /// What to measure.
    what: What,
    /// The module with the least of drivers.
    #[arg(long)]
    floor: PathBuf,
    /// Driver to measure; may be given more than once.
    #[arg(long)]
    module: Vec<PathBuf>,
    /// Parameters of the second driver.
    #[arg(long, default_value = "")]
    parameters: CString,
    /// How often each operation is counted.
    #[arg(long, default_value_t = 150)]
    runs: usize,
    /// Milliseconds for each slice of an operation and a number of threads.
    #[arg(long, default_value_t = 20)]
    time: u64,
    /// Microseconds that the device takes for each command.
    #[arg(long, default_value_t = 0)]
    latency: u64,
    /// Only operations with this in their names, and the floors.
    #[arg(long, default_value = "")]
    filter: String,
}

/// Passes the addresses of functions on to the plugin.
fn pass_symbols(of: &str, module: &Loaded) -> Result<()> {
    let all = fs::read_to_string("/proc/kallsyms")?;
    let mut functions = format!("module {of} {}\n", module.text()?);
    for line in all.lines() {
        let kind = line.split(' ').nth(1);
        if kind.is_some_and(|kind| matches!(kind, "t" | "T" | "w" | "W")) {
            functions.push_str(line);
            functions.push('\n');
        }
    }
    mark::pass(functions.as_bytes());
    Ok(())
}

fn measure(arguments: &Arguments, run: &mut Run, name: &str, scene: &Scene) -> Result<()> {
    for kind in scene.kinds() {
        if !kind.is_floor() && !kind.name().contains(&arguments.filter) {
            continue;
        }
        match arguments.what {
            What::Counts => run.count(name, scene, kind, arguments.runs)?,
            What::Times => run.time(name, scene, kind, Duration::from_millis(arguments.time))?,
        }
    }
    Ok(())
}

fn with_module(
    arguments: &Arguments,
    run: &mut Run,
    name: &str,
    file: &Path,
    parameters: &CStr,
) -> Result<()> {
    let loaded = Loaded::new(file, parameters)?;
    let scene = if file == arguments.floor {
        Scene::floor()
    } else {
        Scene::driver()?
    };
    if arguments.what == What::Counts {
        pass_symbols(name, &loaded)?;
    }
    measure(arguments, run, name, &scene)?;
    drop(scene);
    loaded.unload()
}

fn bench(arguments: &Arguments) -> Result<()> {
    let mut control = Control::open(0)?;
    for option in ["hsm_latency_us", "aes_latency_us"] {
        control.set(option, &json!(arguments.latency))?;
    }
    let mut run = Run::new(control);
    with_module(arguments, &mut run, "floor", &arguments.floor, c"")?;
    for (index, file) in arguments.module.iter().enumerate() {
        let name = file.file_stem().context("module without a name")?;
        let parameters = match index {
            0 => c"",
            _ => &arguments.parameters,
        };
        with_module(
            arguments,
            &mut run,
            &name.to_string_lossy(),
            file,
            parameters,
        )
        .with_context(|| format!("{}", file.display()))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}
