// SPDX-License-Identifier: GPL-2.0
//! A physical function and virtual ones, all at once (`Documentation/device.rst`,
//! 8.4 and 8.5).

use crate::check_eq;
use crate::crowd::Class;
use crate::crowd::Crowd;
use crate::crowd::Plan;
use crate::groups::mgmt::NODE;
use crate::health;
use crate::health::figure;
use crate::runner::Env;
use crate::runner::Test;
use crate::stamp;
use crate::stamp::Outcome;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::pci;
use azihsm_mbor::Operation;
use azihsm_mbor::Status;
use azihsm_uapi::Flow;
use azihsm_uapi::Management;
use azihsm_uapi::ResetKind;
use serde_json::json;
use std::fs;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long threads may take to come back, and a function to recover.
const BACK: Duration = Duration::from_secs(30);

/// Virtual functions of the test that has them all under load.
const ALL: usize = 8;

/// What the driver says of functions that are taken away.
const ODD: &[&str] = &["azihsm"];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    let test = |name: &str, body: fn(&Env) -> Result<()>| {
        Test::new(format!("vfs/{name}"), move |env: &Env| {
            let result = body(env);
            let taken = pci::set_virtual(0);
            result.and(taken)
        })
    };
    vec![
        test("physical-function-comes-back-from-flr", flr)
            .card(2)
            .may_warn(ODD)
            .takes(5)
            .spoils(),
        test("one-of-eight-is-reset-taken-and-given-back", one_of_eight)
            .card(ALL)
            .may_warn(ODD)
            .takes(15)
            .seconds(240)
            .spoils(),
        test("eight-come-and-go", come_and_go)
            .card(ALL)
            .may_warn(ODD)
            .takes(10)
            .seconds(120)
            .spoils(),
        test("migrated-sessions-are-renegotiated", migrated).card(2),
        test("migrated-twice-and-stopped-between", migrated_and_stopped)
            .card(2)
            .may_warn(ODD)
            .takes(3),
    ]
}

fn management(count: u16) -> Result<Management> {
    pci::set_virtual(count)?;
    Ok(Management::open(NODE)?)
}

/// A number that the driver counts of the function.
fn counter(env: &Env, name: &str) -> Result<u64> {
    let file = pci::directory(&env.address()?).join("azihsm").join(name);
    Ok(fs::read_to_string(file)?.trim().parse()?)
}

/// Waits until the driver says that the function is in that state.
fn wait_state(env: &Env, wanted: &str) -> Result<()> {
    let begin = Instant::now();
    let file = pci::directory(&env.address()?).join("azihsm/state");
    loop {
        let state = fs::read_to_string(&file)?;
        if state.trim() == wanted {
            return Ok(());
        }
        ensure!(begin.elapsed() < BACK, "it is {}", state.trim());
        thread::sleep(Duration::from_millis(20));
    }
}

/// The reset takes the groups of all functions.  The physical one takes its own
/// again; the others get theirs from whoever manages them.
fn flr(env: &Env) -> Result<()> {
    let node = management(2)?;
    let begin = Instant::now();
    pci::reset(&env.address()?)?;
    health::wait_serving(env, BACK)?;
    figure(
        "function level reset of the physical function",
        begin.elapsed(),
    );
    check_eq!(env.control()?.state()?["groups"], 1, "its groups");
    health::check_well(env)?;
    for vf in 0..2 {
        check_eq!(node.resource_groups(vf)?, 0, "groups of a virtual function");
        node.set_resource_groups(vf, 2)?;
    }
    for number in [1, 2] {
        health::wait_serving(&env.of(number), BACK)?;
        health::check_well(&env.of(number))?;
    }
    Ok(())
}

fn one_of_eight(env: &Env) -> Result<()> {
    let node = management(ALL as u16)?;
    let functions: Vec<Env> = (1..=ALL).map(|number| env.of(number)).collect();
    let crowds: Vec<Crowd> = functions
        .iter()
        .map(|function| Crowd::start(function, Plan::FEW))
        .collect::<Result<_>>()?;
    for crowd in &crowds {
        crowd.wait_answers(20, BACK)?;
    }
    let chosen = 3;
    let (function, crowd) = (&functions[chosen], &crowds[chosen]);
    let others = || (0..ALL).filter(|&number| number != chosen);

    function.open()?.reset(ResetKind::Controller)?;
    crowd.rekey(function)?;
    crowd.wait_answers(20, BACK)?;

    let begin = Instant::now();
    node.set_resource_groups(chosen as u16, 0)?;
    wait_state(function, "dead")?;
    figure(
        "a function without groups is known to be dead",
        begin.elapsed(),
    );
    for number in others() {
        crowds[number].wait_answers(20, BACK)?;
    }

    let begin = Instant::now();
    node.set_resource_groups(chosen as u16, 2)?;
    wait_state(function, "running")?;
    figure("a function that was given groups runs", begin.elapsed());
    crowd.rekey(function)?;
    crowd.wait_answers(20, BACK)?;
    for number in others() {
        crowds[number].wait_answers(20, BACK)?;
    }

    for (number, (crowd, function)) in crowds.into_iter().zip(&functions).enumerate() {
        let tally = crowd.stop_in_company(function, BACK)?;
        println!("# virtual function {number}: {tally}");
        if number == chosen {
            continue;
        }
        tally.check(|_: Class, outcome| outcome == Outcome::Done)?;
        check_eq!(counter(function, "global/total_lvl1_aborts")?, 0, "aborts");
        check_eq!(counter(function, "global/total_lvl2_aborts")?, 0, "resets");
    }
    // Commands are held back for that, which must not take as long as a timeout: when nobody
    // is busy any more.
    functions.iter().try_for_each(health::check_well)
}

/// Each virtual function is taken away, and given back with another number of
/// groups, before its driver is bound.
fn come_and_go(env: &Env) -> Result<()> {
    let node = management(ALL as u16)?;
    for vf in 0..ALL {
        let function = env.of(vf + 1);
        let address = function.address()?;
        pci::unbind(&address)?;
        node.set_resource_groups(vf as u16, 0)?;
        ensure!(
            pci::bind(&address).is_err(),
            "it can be bound without groups"
        );
        let count = 1 + vf as u16 % 3;
        node.set_resource_groups(vf as u16, count)?;
        pci::bind(&address)?;
        check_eq!(function.address()?, address, "function of the node");
        check_eq!(hsm::kind(&function.open()?)?.tables, count as u8, "groups");
    }
    for vf in 0..ALL {
        health::check_well(&env.of(vf + 1))?;
    }
    Ok(())
}

fn status_in_session(
    device: &azihsm_uapi::Device,
    operation: Operation,
    id: u16,
) -> Result<Status> {
    let request = hsm::plain(operation, Some(id));
    Ok(hsm::exchange(device, Flow::InSession(id), &request)?
        .header
        .status)
}

/// A virtual machine that goes on elsewhere sees sessions that need renegotiation,
/// and no keys; nothing else has changed.
fn migrated(env: &Env) -> Result<()> {
    let env = &env.of(1);
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let entropy = device.info()?.entropy;
    env.control()?.inject(json!({ "fault": "migrate" }))?;
    check_eq!(
        status_in_session(&device, hsm::IN_SESSION, session.id)?,
        Status::SESSION_NEEDS_RENEGOTIATION,
        "status in a session of before"
    );
    check_eq!(
        status_in_session(&device, Operation::REOPEN_SESSION, session.id)?,
        Status::SUCCESS,
        "reopening a session of before"
    );
    hsm::use_session(&device, session.id)?;
    check_eq!(device.info()?.entropy, entropy, "entropy");
    // A session that nobody renegotiates ends with its descriptor all the same.
    let other = env.open()?;
    hsm::open_session(&other)?;
    env.control()?.inject(json!({ "fault": "migrate" }))?;
    drop((device, other));
    health::check_well(env)
}

/// The source stops the function as it saves it: whoever looks then sees it not
/// ready, and resets it.
fn migrated_and_stopped(env: &Env) -> Result<()> {
    let env = &env.of(1);
    let crowd = Crowd::start(env, Plan::FEW)?;
    crowd.wait_busy()?;
    let entropy = env.open()?.info()?.entropy;
    env.control()?.inject(json!({ "fault": "migrate" }))?;
    env.control()?.inject(json!({ "fault": "force_disable" }))?;
    let begin = Instant::now();
    while env.open()?.info()?.entropy == entropy {
        ensure!(begin.elapsed() < BACK, "no new entropy");
        thread::sleep(Duration::from_millis(20));
    }
    health::wait_serving(env, BACK)?;
    env.control()?.inject(json!({ "fault": "migrate" }))?;
    crowd.rekey(env)?;
    crowd.wait_answers(20, BACK)?;
    let tally = crowd
        .stop_in_company(env, BACK)
        .context("after it was back")?;
    println!("# {tally}");
    tally.check(|class, outcome| match outcome {
        Outcome::Done | Outcome::Aborted | Outcome::Recovering | Outcome::NoSession => true,
        Outcome::Refused(status, code) => class == Class::Aes && stamp::is_lost_key(status, code),
        _ => false,
    })?;
    health::check_well(env)
}
