// SPDX-License-Identifier: GPL-2.0
//! Loads a module, for scripts, as the tests do.

use anyhow::Result;
use azihsm_guest::module;
use clap::Parser;
use std::ffi::CString;
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Loads a module")]
struct Arguments {
    /// The module.
    file: PathBuf,
    /// Its parameters.
    parameters: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let parameters = CString::new(arguments.parameters.join(" "))?;
    module::load_with(&arguments.file, &parameters)
}
