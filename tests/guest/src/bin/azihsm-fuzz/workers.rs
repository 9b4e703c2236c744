// SPDX-License-Identifier: GPL-2.0
//! What the worker processes do.

use crate::chaos::Chaos;
use crate::dice::Dice;
use crate::oracle::Who;
use crate::player::Descriptor;
use crate::player::Player;
use crate::player::Run;
use crate::raw;
use crate::shared::name_of;
use crate::shared::Property;
use crate::shared::THREADS;
use crate::world::Kind;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::sys;
use azihsm_guest::sys::Child;
use azihsm_guest::sys::Memory;
use azihsm_uapi::abi;
use azihsm_uapi::abi::HsmCmd;
use azihsm_uapi::Errno;
use azihsm_uapi::Flow;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::socket::recvmsg;
use nix::sys::socket::sendmsg;
use nix::sys::socket::socketpair;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::UnixAddr;
use std::fs::OpenOptions;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use zerocopy::FromZeros;

/// Threads of a worker that issue calls, and descriptors they have between them.
const CALLERS: usize = 2;
const DESCRIPTORS: usize = 2;

/// Calls of a child that nobody kills.
const FEW: usize = 6;

/// How long a child that comes to an end on its own may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of the player of the worker that passes descriptors on, and of those
/// of its children.
const PARENT: usize = 0;
const CHILD: usize = 1;

/// Some threads that issue calls on the same descriptors, while others change
/// the memory that these calls point to.
pub fn call(run: &Run, worker: usize, life: usize) -> Result<()> {
    sys::count_alarms()?;
    let mut dice = Dice::new(run.seed, &[worker, life, THREADS]);
    let descriptors: Vec<_> = (0..DESCRIPTORS)
        .map(|_| Descriptor::open(&mut dice).map(|descriptor| Mutex::new(Arc::new(descriptor))))
        .collect::<Result<_>>()?;
    let mut players = (0..CALLERS)
        .map(|thread| Player::new(run, worker, &[life], thread))
        .collect::<Result<Vec<_>>>()?;
    let places = players
        .iter()
        .map(|player| player.world().address(Kind::Racing))
        .collect();
    let mut chaos = Chaos::new(dice, places)?;
    thread::scope(|scope| {
        let threads: Vec<_> = players
            .iter_mut()
            .map(|player| scope.spawn(|| take_turns(run, player, &descriptors)))
            .collect();
        // Signals to the process are for those who are in calls.
        SigSet::from(Signal::SIGALRM).thread_block()?;
        while !run.shared.is_over() && threads.iter().all(|thread| !thread.is_finished()) {
            chaos.step();
        }
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("does not panic"))
    })
}

/// Issues calls until it is over.
fn take_turns(
    run: &Run,
    player: &mut Player<'_>,
    descriptors: &[Mutex<Arc<Descriptor>>],
) -> Result<()> {
    while !run.shared.is_over() {
        let place = &descriptors[player.dice.below(descriptors.len())];
        let descriptor = place.lock().expect("nobody panics").clone();
        player.play(&descriptor, Who::Owner)?;
        let next = match player.dice.below(200) {
            0..=2 => Descriptor::open(&mut player.dice)?,
            3 => descriptor.duplicate()?,
            _ => continue,
        };
        // Whoever is last to use the old one closes it, without keeping others
        // from the new one.
        let old = mem::replace(&mut *place.lock().expect("nobody panics"), Arc::new(next));
        drop((old, descriptor));
    }
    Ok(())
}

/// Descriptors that are passed on, inherited, closed early, and whose processes
/// are killed.
pub fn pass_on(run: &Run, worker: usize, life: usize) -> Result<()> {
    let mut player = Player::new(run, worker, &[life], PARENT)?;
    let mut child = 0;
    while !run.shared.is_over() {
        child += 1;
        let life = [life, child];
        match player.dice.below(16) {
            0..=2 => inherit(run, worker, &life, &mut player)?,
            3..=5 => send(run, worker, &life, &mut player)?,
            6..=10 => kill(run, worker, &life, &mut player)?,
            11 | 12 => close_early(&mut player)?,
            13 => reopen(&mut player)?,
            _ => {
                let descriptor = Descriptor::open(&mut player.dice)?;
                for _ in 0..FEW {
                    player.play(&descriptor, Who::Owner)?;
                }
            }
        }
    }
    Ok(())
}

/// The exit code of a child.
fn code(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            println!("# {error:#}");
            1
        }
    }
}

/// Waits for a child that should come to an end.
fn join(player: &Player<'_>, mut child: Child) -> Result<()> {
    let code = child.wait(PATIENCE)?;
    player.expect(Property::Ends, code == Some(0), || {
        format!("a child ended with {code:?}")
    });
    Ok(())
}

/// A child inherits a descriptor, and may be the last to have it.
fn inherit(run: &Run, worker: usize, life: &[usize], player: &mut Player<'_>) -> Result<()> {
    let descriptor = Descriptor::open(&mut player.dice)?;
    for _ in 0..player.dice.below(3) {
        player.play(&descriptor, Who::Owner)?;
    }
    let child = Child::run(|| {
        code((|| {
            let mut player = Player::new(run, worker, life, CHILD)?;
            for _ in 0..FEW {
                player.play(&descriptor, Who::Foreign)?;
            }
            Ok(())
        })())
    })?;
    if player.dice.one_in(2) {
        player.play(&descriptor, Who::Owner)?;
    }
    drop(descriptor);
    join(player, child)
}

/// A child receives a descriptor.
fn send(run: &Run, worker: usize, life: &[usize], player: &mut Player<'_>) -> Result<()> {
    let (here, there) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::empty(),
    )?;
    let child = Child::run(|| {
        code((|| {
            // Or else there is no end to waiting if the parent is killed.
            nix::unistd::close(here.as_raw_fd())?;
            let descriptor = Descriptor::from(receive(&there)?);
            let mut player = Player::new(run, worker, life, CHILD)?;
            for _ in 0..FEW {
                player.play(&descriptor, Who::Foreign)?;
            }
            Ok(())
        })())
    })?;
    let descriptor = Descriptor::open(&mut player.dice)?;
    if player.dice.one_in(2) {
        player.play(&descriptor, Who::Owner)?;
    }
    let passed = [descriptor.as_fd().as_raw_fd()];
    let message = [ControlMessage::ScmRights(&passed)];
    sendmsg::<UnixAddr>(
        here.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &message,
        MsgFlags::empty(),
        None,
    )?;
    // While it is in nobody's hands, or another's.
    drop(descriptor);
    join(player, child)
}

fn receive(socket: &OwnedFd) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            let descriptor = descriptors.first().context("no descriptor")?;
            return Ok(sys::adopt(*descriptor));
        }
    }
    anyhow::bail!("no descriptor arrived")
}

/// A child with descriptors of its own is killed in the middle.
fn kill(run: &Run, worker: usize, life: &[usize], player: &mut Player<'_>) -> Result<()> {
    let mut child = Child::run(|| {
        code((|| {
            let mut player = Player::new(run, worker, life, CHILD)?;
            let descriptor = Descriptor::open(&mut player.dice)?;
            // Should its parent be killed first it ends on its own.
            for _ in 0..1000 {
                if run.shared.is_over() {
                    break;
                }
                player.play(&descriptor, Who::Owner)?;
            }
            Ok(())
        })())
    })?;
    thread::sleep(Duration::from_micros(player.dice.between(0, 60_000) as u64));
    child.kill()?;
    let code = child.wait(PATIENCE)?;
    run.shared.end(worker, CHILD);
    // It may have been faster.
    player.expect(Property::Ends, matches!(code, Some(-9 | 0)), || {
        format!("a child that was killed ended with {code:?}")
    });
    Ok(())
}

/// A thread closes a descriptor while another one uses it.
fn close_early(player: &mut Player<'_>) -> Result<()> {
    let descriptor = Descriptor::open(&mut player.dice)?;
    let flow = player.dice.pick(&[Flow::None, Flow::Open]);
    let request = match flow {
        Flow::Open => hsm::open_request(),
        _ => hsm::get_api_rev(),
    };
    let source = Memory::with(&request)?;
    let target = Memory::new(2)?;
    let mut cmd = HsmCmd::new_zeroed();
    cmd.hdr.size = size_of::<HsmCmd>() as u32;
    cmd.input.session = flow.into();
    cmd.input.src = source.address(0);
    cmd.input.src_len = request.len() as u32;
    cmd.input.dst = target.address(0);
    cmd.input.dst_len = target.size() as u32;
    let pause = Duration::from_micros(player.dice.pick(&[0, 20, 100, 500]));

    let number = descriptor.into_raw();
    let result = thread::scope(|scope| {
        let caller = scope.spawn(|| sys::submit(raw::borrow(number), abi::IOC_HSM_CMD, &mut cmd));
        thread::sleep(pause);
        // Nobody else in this process opens anything meanwhile.
        let _ = nix::unistd::close(number);
        caller.join().expect("does not panic")
    });
    let good = matches!(result, Ok(0) | Err(Errno::BADF | Errno::AGAIN));
    player.expect(Property::Returns, good, || {
        format!("descriptor closed meanwhile: {}", name_of(result))
    });
    Ok(())
}

/// A descriptor is opened once more by way of itself.
fn reopen(player: &mut Player<'_>) -> Result<()> {
    let descriptor = Descriptor::open(&mut player.dice)?;
    player.play(&descriptor, Who::Owner)?;
    let path = format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd());
    let other = OpenOptions::new().read(true).write(true).open(&path);
    let other = Descriptor::from(OwnedFd::from(other.context(path)?));
    drop(descriptor);
    for _ in 0..FEW {
        player.play(&other, Who::Owner)?;
    }
    Ok(())
}
