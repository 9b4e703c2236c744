// SPDX-License-Identifier: GPL-2.0
//! Who does what at once.

mod parts;
mod sessions;
mod whole;

use crate::machine::Machine;
use loom::model::Builder;
use loom::thread;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Runs `scenario` in every way that there is, or, if a number of `preemptions` is said, in all those
/// with no more: a preemption is a change to another thread while the one before could go on.
fn check(preemptions: Option<usize>, scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    let runs = AtomicUsize::new(0);
    let runs = Arc::new(runs);
    let counted = runs.clone();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    println!("{} runs", runs.load(Ordering::Relaxed));
}

fn spawn<S: 'static, T: 'static>(
    shared: &Arc<S>,
    run: impl FnOnce(&S) -> T + 'static,
) -> thread::JoinHandle<T> {
    let shared = shared.clone();
    thread::spawn(move || run(&shared))
}

/// Waits for the end of threads that must not have failed.
fn join<T>(threads: impl IntoIterator<Item = thread::JoinHandle<T>>) -> Vec<T> {
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

/// Commands of waiters that stay, as threads.
fn commands<const N: usize>(
    machine: &Arc<Machine>,
) -> [thread::JoinHandle<crate::machine::Fate>; N] {
    [(); N].map(|_| spawn(machine, |machine| machine.command(false)))
}
