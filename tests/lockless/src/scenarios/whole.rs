// SPDX-License-Identifier: GPL-2.0
//! Queue pairs as a whole.

use super::check;
use super::commands;
use super::join;
use super::spawn;
use crate::machine::Fate;
use crate::machine::Machine;
use std::sync::atomic::Ordering::SeqCst;

/// One who submits, and the reaper.
#[test]
fn one_submitter() {
    check(None, || {
        let machine = Machine::new(1);
        let submitter = commands::<1>(&machine);
        machine.serve(1);
        assert_eq!(join(submitter), [Fate::Completed]);
        machine.assert_clean();
    });
}

/// Two who submit at once, and the reaper.  There is never more than one doorbell for a command.
#[test]
fn two_submitters() {
    check(Some(3), || {
        let machine = Machine::new(2);
        let submitters = commands::<2>(&machine);
        machine.serve(2);
        assert_eq!(join(submitters), [Fate::Completed; 2]);
        assert!(machine.doorbells.load(SeqCst) <= 2);
        machine.assert_clean();
    });
}

/// Two who submit, and have one slot: one waits for the other.  The completion queue has room for one
/// completion, so its doorbell must have been rung when the slot is free: the device does not wait
/// for the interrupt handler.
#[test]
fn two_submitters_for_one_slot() {
    check(Some(2), || {
        let machine = Machine::new(1);
        let submitters = commands::<2>(&machine);
        let handler = spawn(&machine, |machine| machine.handle_interrupts(2));
        machine.complete_and_interrupt(2);
        assert_eq!(join(submitters), [Fate::Completed; 2]);
        handler.join().unwrap();
        machine.assert_clean();
    });
}

/// Three who submit, with two slots.
#[test]
fn three_submitters() {
    check(Some(1), || {
        let machine = Machine::new(2);
        let submitters = commands::<3>(&machine);
        machine.serve(3);
        assert_eq!(join(submitters), [Fate::Completed; 3]);
        machine.assert_clean();
    });
}

/// Two reap at once: the interrupt handler, and the monitor.
#[test]
fn two_reapers() {
    check(Some(3), || {
        let machine = Machine::new(1);
        let submitter = commands::<1>(&machine);
        let monitor = spawn(&machine, |machine| machine.pair.look(machine));
        machine.serve(1);
        assert_eq!(join(submitter), [Fate::Completed]);
        monitor.join().unwrap();
        machine.assert_clean();
    });
}

/// A waiter is killed while another one waits for the slot: that is freed once, when the device is
/// done with it.
#[test]
fn killed() {
    check(Some(3), || {
        let machine = Machine::new(1);
        let killed = spawn(&machine, |machine| {
            let fate = machine.command(true);
            if fate == Fate::Left {
                machine.wait_for_orphan();
                assert_eq!(machine.clean_up(), 1);
            }
            fate
        });
        let other = spawn(&machine, |machine| machine.command(false));
        machine.serve(2);
        assert!([Fate::Left, Fate::Completed].contains(&killed.join().unwrap()));
        assert_eq!(other.join().unwrap(), Fate::Completed);
        machine.assert_clean();
    });
}

/// A waiter is killed, and somebody looks for orphans who was not told of one: it finds none, or all
/// that goes with it.
#[test]
fn orphan_found_by_chance() {
    check(Some(3), || {
        let machine = Machine::new(1);
        let killed = spawn(&machine, |machine| machine.command(true));
        let finder = spawn(&machine, |machine| machine.clean_up());
        machine.serve(1);
        let has_left = killed.join().unwrap() == Fate::Left;
        let found = finder.join().unwrap();
        if has_left {
            machine.wait_for_orphan();
        }
        assert_eq!(found + machine.clean_up(), usize::from(has_left));
        machine.assert_clean();
    });
}

/// The worker aborts the queue, step by step as `Ctrl::abort()` does.
fn abort(machine: &Machine) {
    machine.pair.close(machine);
    machine.forbid_submitting();
    machine.delete_submissions();
    machine.pair.end_submitted(machine);
    machine.pair.silence(machine);
    machine.forbid_doorbells();
    machine.delete_completions();
    machine.pair.release(machine);
    machine.allow_doorbells();
    machine.open();
}

/// The queue is aborted while somebody submits; then it works as before.
#[test]
fn aborted() {
    check(Some(2), || {
        let machine = Machine::new(1);
        let submitter = spawn(&machine, |machine| machine.command_of_pool());
        let worker = spawn(&machine, abort);
        // The device does what it comes to, and the handler.
        machine.fetch();
        machine.complete();
        machine.pair.reap(&*machine);
        worker.join().unwrap();
        let under_way = spawn(&machine, |machine| machine.serve_open());
        submitter.join().unwrap();
        assert_eq!(machine.command(false), Fate::Completed);
        machine.close_down();
        under_way.join().unwrap();
        machine.assert_clean();
    });
}

/// The device is reset while somebody submits; it does not answer, waiters are told to leave, it
/// does stop after all, and works as before.
#[test]
fn reset() {
    check(Some(3), || {
        let machine = Machine::new(1);
        let submitter = spawn(&machine, |machine| {
            let fate = machine.command(false);
            if fate == Fate::Left {
                machine.wait_for_orphan();
                assert_eq!(machine.clean_up(), 1);
            }
            fate
        });
        let worker = spawn(&machine, |machine| {
            machine.pair.silence(machine);
            machine.forbid_doorbells();
            machine.evict();
            machine.stop();
            machine.pair.release(machine);
            machine.allow_doorbells();
            machine.pair.open(1, machine);
        });
        machine.fetch();
        machine.complete();
        machine.pair.reap(&*machine);
        worker.join().unwrap();
        let under_way = spawn(&machine, |machine| machine.serve_open());
        submitter.join().unwrap();
        machine.close_down();
        under_way.join().unwrap();
        machine.assert_clean();
    });
}
