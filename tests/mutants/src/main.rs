// SPDX-License-Identifier: GPL-2.0
//! Breaks the driver on purpose, one rule at a time, and makes sure that a test
//! fails: one in a virtual machine, or one on the host.
//!
//! What is broken, and which tests are to notice, is in `mutants.toml`.

mod list;
mod rules;
mod run;
mod table;
mod verdict;

use anyhow::bail;
use anyhow::Result;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use list::By;
use list::List;
use run::Machine;
use run::Work;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use verdict::Verdict;

#[derive(Parser)]
#[command(about = "Breaks the azihsm driver on purpose and makes sure that a test fails")]
struct Arguments {
    /// The checkout.
    #[arg(long, default_value = ".")]
    source: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Prints all mutants, with what they break and the tests that are to notice.
    List,
    /// Runs the tests on the driver as it is, and then on all mutants.
    Run(Box<Run>),
}

#[derive(Args)]
struct Run {
    /// Only mutants whose name contains this; may be given more than once.
    #[arg(long)]
    only: Vec<String>,
    /// Only mutants that such tests are to notice; may be given more than once.
    #[arg(long, value_enum)]
    by: Vec<By>,
    /// How many may be built and run at once.
    #[arg(long, short, default_value_t = 2)]
    jobs: usize,
    /// Directory for what is built, and for logs; keep it short.
    #[arg(long, default_value = "/tmp/azihsm-mutants")]
    work: PathBuf,
    /// File for a table of what noticed each mutant.
    #[arg(long, default_value = "build/mutants.txt")]
    record: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// Runs the driver as it is, and then all mutants; returns whether all is well.
fn run(source: &Path, options: &Run, list: List) -> Result<bool> {
    let machine = &options.machine;
    let mutants: Vec<_> = list
        .mutants
        .into_iter()
        .filter(|mutant| {
            let Run { only, by, .. } = options;
            let is_named = only.is_empty() || only.iter().any(|text| mutant.name.contains(text));
            is_named && (by.is_empty() || by.contains(&mutant.by))
        })
        .collect();
    if mutants.is_empty() {
        bail!("there is no such mutant");
    }
    machine.check_names(&mutants)?;
    let work = Work::new(source, &options.work, machine);

    // Tests that fail anyway prove nothing.
    let mut sets: BTreeMap<(By, &[String]), BTreeSet<&str>> = BTreeMap::new();
    for mutant in &mutants {
        let tests = mutant.tests.iter().map(String::as_str);
        let set = sets.entry((mutant.by, &mutant.options)).or_default();
        set.extend(tests);
    }
    println!("the driver as it is:");
    let (mut passed, mut failed) = (0, 0);
    for ((by, options), tests) in sets {
        let tests: Vec<_> = tests.into_iter().map(str::to_owned).collect();
        let verdict = work.unchanged(by, &tests, options)?;
        let word = if verdict == Verdict::Survived {
            passed += 1;
            "ok"
        } else {
            failed += 1;
            "FAILED"
        };
        println!(
            "{word} - {by}, options: {:?}, tests: {} | {verdict}",
            options.join(" "),
            tests.len()
        );
    }
    if failed == 0 {
        println!("mutants, with the rule that each breaks and what noticed:");
        let queue = run::Queue::new(mutants, &options.record)?;
        let (work, queue) = (&work, &queue);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..options.jobs.max(1))
                .map(|number| scope.spawn(move || work.worker(number, queue)))
                .collect();
            for worker in workers {
                worker.join().expect("does not panic");
            }
        });
        let (caught, missed) = queue.totals();
        passed += caught;
        failed += missed;
    }
    println!("{passed} passed, {failed} failed");
    Ok(passed > 0 && failed == 0)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = (|| -> Result<bool> {
        let list = List::read(&arguments.source)?;
        list.check(&arguments.source)?;
        match &arguments.action {
            Action::List => {
                print!("{}", table::of(&list));
                Ok(true)
            }
            Action::Run(options) => run(&arguments.source, options, list),
        }
    })();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("azihsm-mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}
