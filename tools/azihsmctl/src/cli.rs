// SPDX-License-Identifier: GPL-2.0
//! The command line.

use azihsm_uapi::ResetKind;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

/// Lists, describes, tests and resets Azure Integrated HSMs.
///
/// A DEVICE is named by its number (0), its name (azihsm0), its node (/dev/azihsm0)
/// or its PCI address (0000:01:00.0).  It may be left out if there is only one.
///
/// What a command prints for people may change; with --json it prints one JSON
/// document, or with --watch one in each line, to which fields are only ever added.
#[derive(Debug, Parser)]
#[command(name = "azihsmctl", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit status:
  0  done
  1  it did not work, or a test failed
  2  the command line is wrong
  3  there is no such HSM
  4  not permitted: be root, or a member of the group azihsm";

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the HSMs of this machine
    List,
    /// Tell what an HSM is
    Info(Target),
    /// Show what the driver has counted
    Stats(Stats),
    /// Show who has an HSM open, and which sessions they have
    ///
    /// Of processes of others only root is told.
    Sessions(Target),
    /// Test an HSM without changing anything
    ///
    /// Commands are sent that need no session and change nothing: sessions and keys
    /// of others are left alone.
    Selftest(SelfTest),
    /// Measure how fast an HSM answers, without changing anything
    ///
    /// The commands are those of selftest, as many as can be sent: others who use the HSM
    /// have to share it meanwhile.
    Bench(Bench),
    /// Reset an HSM: ends the work of all its users, and erases their keys
    Reset(Reset),
}

/// Which HSM.
#[derive(Args, Debug)]
pub struct Target {
    /// The HSM; may be left out if there is only one
    pub device: Option<String>,
}

/// How to show counters.
#[derive(Args, Debug)]
pub struct Stats {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
    /// Go on, and show what changes every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub watch: Option<u32>,
}

/// How to test.
#[derive(Args, Debug)]
pub struct SelfTest {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
    /// How many commands to send in a row, and by each of several threads at a time
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
}

/// How to measure.
#[derive(Args, Debug)]
pub struct Bench {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
    /// How many threads are to send commands at a time, one number after the other
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 2, 4, 8],
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Vec<u32>,
    /// How many seconds for each of them, for each kind of command
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
}

/// How to reset.
#[derive(Args, Debug)]
pub struct Reset {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
    /// In which way
    #[arg(long, value_enum, default_value_t = Kind::Controller)]
    pub kind: Kind,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// The ways to reset.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Kind {
    /// Disable the controller and enable it again
    Controller,
    /// By the register NSSR, which resets this function only
    Subsystem,
}

impl From<Kind> for ResetKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Controller => Self::Controller,
            Kind::Subsystem => Self::Subsystem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use super::Command;
    use super::Kind;
    use clap::CommandFactory;
    use clap::Parser;

    fn parse(words: &[&str]) -> Result<Cli, clap::error::ErrorKind> {
        let words = ["azihsmctl"].iter().chain(words);
        Cli::try_parse_from(words).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_may_stand_before_and_after_the_command() {
        assert!(parse(&["--json", "list"]).unwrap().json);
        assert!(parse(&["list", "--json"]).unwrap().json);
        assert!(!parse(&["list"]).unwrap().json);
    }

    #[test]
    fn watch_takes_a_time_or_none() {
        let watch = |words: &[&str]| match parse(words).unwrap().command {
            Command::Stats(stats) => (stats.watch, stats.target.device),
            other => panic!("{other:?}"),
        };
        assert_eq!(watch(&["stats"]), (None, None));
        assert_eq!(watch(&["stats", "--watch"]), (Some(1), None));
        assert_eq!(watch(&["stats", "--watch=5"]), (Some(5), None));
        // Not the time.
        assert_eq!(
            watch(&["stats", "--watch", "1"]),
            (Some(1), Some("1".into()))
        );
        let error = parse(&["stats", "--watch=0"]).unwrap_err();
        assert_eq!(error, clap::error::ErrorKind::ValueValidation);
    }

    #[test]
    fn bench_takes_numbers_of_threads() {
        let threads = |words: &[&str]| match parse(words).unwrap().command {
            Command::Bench(bench) => (bench.threads, bench.target.device),
            other => panic!("{other:?}"),
        };
        assert_eq!(threads(&["bench"]), (vec![1, 2, 4, 8], None));
        assert_eq!(
            threads(&["bench", "--threads", "3,16", "1"]),
            (vec![3, 16], Some("1".into()))
        );
    }

    #[test]
    fn a_reset_is_that_of_the_controller_and_asks() {
        let reset = |words: &[&str]| match parse(words).unwrap().command {
            Command::Reset(reset) => (reset.kind, reset.yes),
            other => panic!("{other:?}"),
        };
        assert_eq!(reset(&["reset"]), (Kind::Controller, false));
        assert_eq!(
            reset(&["reset", "--kind", "subsystem", "-y"]),
            (Kind::Subsystem, true)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        use clap::error::ErrorKind;
        for (words, kind) in [
            (&[][..], ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            (&["frobnicate"], ErrorKind::InvalidSubcommand),
            (&["list", "azihsm0"], ErrorKind::UnknownArgument),
            (&["info", "a", "b"], ErrorKind::UnknownArgument),
            (&["selftest", "--count", "0"], ErrorKind::ValueValidation),
            (&["reset", "--kind", "hard"], ErrorKind::InvalidValue),
            (&["bench", "--threads", "0"], ErrorKind::ValueValidation),
            (&["bench", "--seconds", "0"], ErrorKind::ValueValidation),
        ] {
            assert_eq!(parse(words).unwrap_err(), kind, "{words:?}");
        }
    }
}
