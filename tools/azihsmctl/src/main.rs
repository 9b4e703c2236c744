// SPDX-License-Identifier: GPL-2.0
//! The program azihsmctl.

use azihsmctl::cli::Cli;
use azihsmctl::run;
use azihsmctl::Machine;
use clap::Parser;
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Cli::parse(), &Machine::default(), &mut io::stdout()) {
        Err(error) if !error.is_broken_pipe() => {
            eprintln!("azihsmctl: {error}");
            error.status().into()
        }
        _ => ExitCode::SUCCESS,
    }
}
