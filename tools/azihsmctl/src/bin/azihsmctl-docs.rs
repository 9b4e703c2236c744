// SPDX-License-Identifier: GPL-2.0
//! Makes the manual pages and the shell completions of azihsmctl, for its packages.

use azihsmctl::cli::Cli;
use clap::CommandFactory;
use clap::Parser;
use clap_complete::Shell;
use std::fs;
use std::io;
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Makes the manual pages and the shell completions of azihsmctl")]
struct Arguments {
    /// Where to put them.
    directory: PathBuf,
}

fn main() -> io::Result<()> {
    let Arguments { directory } = Arguments::parse();
    fs::create_dir_all(&directory)?;
    clap_mangen::generate_to(Cli::command(), &directory)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Cli::command(), "azihsmctl", &directory)?;
    }
    Ok(())
}
