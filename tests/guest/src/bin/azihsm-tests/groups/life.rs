// SPDX-License-Identifier: GPL-2.0
//! Loading, unloading, binding, unbinding and removal (`Documentation/abi.rst`,
//! 1.4), and what they leave behind.

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use crate::usage::check_no_growth;
use crate::usage::Usage;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::kmsg::KernelLog;
use azihsm_guest::module;
use azihsm_guest::pci;
use azihsm_guest::sys;
use azihsm_uapi::abi;
use azihsm_uapi::hsm_nodes;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use azihsm_uapi::Flow;
use serde_json::json;
use std::cell::RefCell;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// The longest that unbinding may take when the device is well.
const SOON: Duration = Duration::from_secs(5);

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("life/unload-is-refused-while-open", unload_while_open),
        Test::new("life/unload-and-load", unload_and_load),
        Test::new("life/unload-is-quick", unload_is_quick),
        Test::new("life/unbind-takes-the-node-away", unbind_node),
        Test::new("life/unbind-with-open-descriptors", unbind_open),
        Test::new("life/unbind-with-a-session", unbind_session),
        Test::new("life/unbind-with-commands-in-flight", unbind_in_flight).takes(4),
        Test::new("life/unbind-under-load", unbind_under_load)
            .takes(2)
            .seconds(120),
        Test::new(
            "life/unload-after-unbind-with-open-descriptors",
            unload_after_unbind,
        ),
        Test::new("life/bind-gives-the-same-number", bind_number).takes(2),
        Test::new("life/driver-override", driver_override),
        Test::new("life/remove-and-rescan", remove),
        Test::new("life/remove-with-open-descriptors", remove_open),
        Test::new("life/two-devices-are-apart", two_devices).devices(2),
        Test::new("life/two-devices-reuse-the-lowest-number", two_numbers).devices(2),
        Test::new("life/hundred-loads-leak-nothing", |env: &Env| {
            no_leak(env, cycle_module)
        })
        .takes(28)
        .seconds(600),
        Test::new("life/hundred-binds-leak-nothing", |env: &Env| {
            no_leak(env, cycle_binding)
        })
        .long()
        .seconds(600),
        Test::new("life/thousand-descriptors-leak-nothing", descriptors_leak).seconds(300),
    ]
}

fn check_gone(device: &Device) -> Result<()> {
    let gone = Err(Errno::NODEV);
    let numbers = [
        abi::IOC_HSM_CMD,
        abi::IOC_DEV_INFO,
        abi::IOC_AES_GCM,
        abi::IOC_AES_XTS,
        0xdead_beef,
    ];
    for number in numbers {
        check_eq!(sys::submit_at(device, number, 0), gone, "ioctl {number:#x}");
    }
    check_eq!(
        device.info().map_err(|error| error.errno).err(),
        Some(Errno::NODEV),
        "info"
    );
    Ok(())
}

fn check_well(env: &Env) -> Result<()> {
    let device = env.open()?;
    hsm::api_revisions(&device)?;
    let session = hsm::open_session(&device)?;
    hsm::close_session(&device, session.id)
}

fn unload_while_open(env: &Env) -> Result<()> {
    let device = env.open()?;
    let refused = [nix::errno::Errno::EBUSY, nix::errno::Errno::EAGAIN];
    let error = module::unload().err().context("unloaded while in use")?;
    ensure!(refused.contains(&error), "{error}");
    device.info()?;
    drop(device);
    module::unload().context("delete_module after close")?;
    env.load()
}

fn unload_and_load(env: &Env) -> Result<()> {
    module::unload().context("delete_module")?;
    ensure!(!module::is_loaded(), "still there");
    check_eq!(hsm_nodes()?.len(), 0, "nodes");
    ensure!(
        !Path::new("/sys/bus/pci/drivers/azihsm").exists(),
        "driver still there"
    );
    env.load()?;
    check_eq!(hsm_nodes()?.len(), env.devices, "nodes");
    check_well(env)
}

fn unload_is_quick(env: &Env) -> Result<()> {
    check_well(env)?;
    let start = Instant::now();
    module::unload().context("delete_module")?;
    let time = start.elapsed();
    env.load()?;
    ensure!(time < SOON, "it took {time:?}");
    Ok(())
}

fn unbind_node(env: &Env) -> Result<()> {
    let address = env.address()?;
    pci::unbind(&address)?;
    ensure!(
        !Path::new("/dev/azihsm0").exists(),
        "the node is still there"
    );
    check_eq!(pci::driver(&address), None, "driver");
    pci::bind(&address)?;
    check_well(env)
}

fn unbind_open(env: &Env) -> Result<()> {
    let address = env.address()?;
    let devices = [env.open()?, env.open()?];
    hsm::api_revisions(&devices[0])?;
    pci::unbind(&address)?;
    for device in &devices {
        check_gone(device)?;
    }
    pci::bind(&address)?;
    // Back again, but not for those.
    for device in devices {
        check_gone(&device)?;
        drop(device);
    }
    check_well(env)
}

fn unbind_session(env: &Env) -> Result<()> {
    let address = env.address()?;
    let device = env.open()?;
    hsm::open_session(&device)?;
    pci::unbind(&address)?;
    check_gone(&device)?;
    // Who binds it next may not know of any session.
    check_eq!(
        env.control()?.sessions()?,
        Vec::<u64>::new(),
        "sessions in the device that nobody drives"
    );
    pci::bind(&address)?;
    drop(device);
    check_eq!(
        env.control()?.sessions()?,
        Vec::<u64>::new(),
        "sessions in the device"
    );
    Ok(())
}

fn unbind_in_flight(env: &Env) -> Result<()> {
    let address = env.address()?;
    env.control()?
        .inject(json!({ "fault": "delay", "class": "hsm", "ms": 3000 }))?;
    let device = env.open()?;
    thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut response = [0; 1024];
                    device.hsm_command(Flow::None, &hsm::get_api_rev(), &mut response)
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        pci::unbind(&address)?;
        ensure!(
            start.elapsed() < SOON,
            "unbinding took {:?}",
            start.elapsed()
        );
        for handle in threads {
            let result = handle.join().expect("does not panic");
            let errno = result.err().map(|error| error.errno);
            check_eq!(errno, Some(Errno::NODEV), "command in flight");
        }
        Ok(())
    })?;
    check_gone(&device)?;
    env.control()?.clear_faults()?;
    pci::bind(&address)?;
    check_well(env)
}

fn unbind_under_load(env: &Env) -> Result<()> {
    for _ in 0..5 {
        let address = env.address()?;
        thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| -> Result<usize> {
                        let device = env.open()?;
                        let mut count = 0;
                        loop {
                            let mut response = [0; 1024];
                            let request = hsm::get_api_rev();
                            match device.hsm_command(Flow::None, &request, &mut response) {
                                Ok(_) => count += 1,
                                Err(error) => {
                                    check_eq!(error.errno, Errno::NODEV, "command");
                                    return Ok(count);
                                }
                            }
                        }
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(300));
            pci::unbind(&address)?;
            let mut count = 0;
            for handle in threads {
                count += handle.join().expect("does not panic")?;
            }
            ensure!(count > 0, "no command succeeded before");
            Ok(())
        })?;
        pci::bind(&address)?;
        check_well(env)?;
    }
    Ok(())
}

fn unload_after_unbind(env: &Env) -> Result<()> {
    let address = env.address()?;
    let device = env.open()?;
    pci::unbind(&address)?;
    ensure!(
        module::unload().is_err(),
        "unloaded with an open descriptor"
    );
    check_gone(&device)?;
    drop(device);
    env.reload()?;
    check_well(env)
}

fn bind_number(env: &Env) -> Result<()> {
    let address = env.address()?;
    for _ in 0..10 {
        pci::unbind(&address)?;
        pci::bind(&address)?;
        check_eq!(env.address()?, address, "function of azihsm0");
        check_eq!(hsm_nodes()?.len(), env.devices, "nodes");
    }
    Ok(())
}

fn driver_override(env: &Env) -> Result<()> {
    let address = env.address()?;
    pci::unbind(&address)?;
    pci::set_override(&address, "none")?;
    pci::probe(&address)?;
    check_eq!(pci::driver(&address), None, "driver");
    pci::set_override(&address, "azihsm")?;
    pci::probe(&address)?;
    check_eq!(pci::driver(&address).as_deref(), Some("azihsm"), "driver");
    pci::set_override(&address, "")?;
    check_well(env)
}

fn remove(env: &Env) -> Result<()> {
    let address = env.address()?;
    for _ in 0..3 {
        pci::remove(&address)?;
        ensure!(!pci::functions()?.contains(&address), "still there");
        check_eq!(hsm_nodes()?.len(), env.devices - 1, "nodes");
        pci::rescan()?;
        check_eq!(env.address()?, address, "function of azihsm0");
        check_well(env)?;
    }
    Ok(())
}

fn remove_open(env: &Env) -> Result<()> {
    let address = env.address()?;
    let device = env.open()?;
    hsm::open_session(&device)?;
    pci::remove(&address)?;
    check_gone(&device)?;
    drop(device);
    pci::rescan()?;
    check_well(env)
}

fn two_devices(env: &Env) -> Result<()> {
    let (first, second) = (env.open_node(0)?, env.open_node(1)?);
    let session = hsm::open_session(&first)?;
    let other = hsm::open_session(&second)?;
    pci::unbind(&pci::of_node("azihsm0")?)?;
    check_gone(&first)?;
    hsm::use_session(&second, other.id)?;
    hsm::close_session(&second, other.id)?;
    drop((first, session));
    check_eq!(hsm_nodes()?.len(), 1, "nodes");
    drop(second);
    env.reload()
}

fn two_numbers(env: &Env) -> Result<()> {
    let addresses = [pci::of_node("azihsm0")?, pci::of_node("azihsm1")?];
    for address in &addresses {
        pci::unbind(address)?;
    }
    check_eq!(hsm_nodes()?.len(), 0, "nodes");
    for (number, address) in addresses.iter().rev().enumerate() {
        pci::bind(address)?;
        check_eq!(
            pci::of_node(&format!("azihsm{number}"))?,
            *address,
            "function"
        );
    }
    env.reload()
}

fn cycle_module(env: &Env, _: &str) -> Result<()> {
    module::unload().context("delete_module")?;
    env.load()
}

fn cycle_binding(_: &Env, address: &str) -> Result<()> {
    pci::unbind(address)?;
    pci::bind(address)
}

/// Repeats `cycle` a hundred times and more.
fn no_leak(env: &Env, cycle: fn(&Env, &str) -> Result<()>) -> Result<()> {
    let address = env.address()?;
    let log = RefCell::new(KernelLog::end()?);
    ensure!(
        Usage::measure()?.interrupts > 0,
        "the driver uses no interrupts"
    );
    check_no_growth(10, 25, || {
        cycle(env, &address)?;
        check_well(env)?;
        for message in log.borrow_mut().read_about_driver()? {
            ensure!(message.is_harmless(), "{}", message.text);
            ensure!(message.bad_word().is_none(), "{}", message.text);
        }
        Ok(())
    })
}

fn descriptors_leak(env: &Env) -> Result<()> {
    check_no_growth(50, 250, || {
        let device = env.open()?;
        hsm::open_session(&device)?;
        hsm::api_revisions(&device)?;
        Ok(())
    })
}
