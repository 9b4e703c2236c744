// SPDX-License-Identifier: GPL-2.0
//! Issuing calls, one after the other, and looking at what comes of each.

use crate::dice::Dice;
use crate::oracle::judge;
use crate::oracle::Call;
use crate::oracle::Judgement;
use crate::oracle::Seen;
use crate::oracle::Who;
use crate::oracle::MAX_COPIED;
use crate::oracle::OF_THE_KERNEL;
use crate::request::Known;
use crate::request::Made;
use crate::request::Maker;
use crate::request::Yield;
use crate::request::GCM_KEY;
use crate::request::XTS_KEYS;
use crate::shared::name_of;
use crate::shared::Deed;
use crate::shared::End;
use crate::shared::Kind as Ioctl;
use crate::shared::Property;
use crate::shared::Shared;
use crate::shared::PROPERTIES;
use crate::world::Kind;
use crate::world::World;
use crate::NODE;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::reference;
use azihsm_guest::sys;
use azihsm_guest::sys::PAGE;
use azihsm_mbor::Operation;
use azihsm_mbor::Response;
use azihsm_mbor::Status;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::abi::AesCmd;
use azihsm_uapi::abi::AesIn;
use azihsm_uapi::abi::AesOut;
use azihsm_uapi::abi::HsmCmd;
use azihsm_uapi::Errno;
use nix::fcntl::open;
use nix::fcntl::OFlag;
use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::stat::Mode;
use nix::unistd::Whence;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;
use zerocopy::FromBytes;

/// A command that took so long may have been given up, and its memory may still
/// be written to by the device.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// Longest message that a pipe takes at once.
const MESSAGE: usize = 3800;

/// What every process of a run has.
#[derive(Debug)]
pub struct Run {
    pub seed: u64,
    pub shared: &'static Shared,
    /// Long data that never changes.
    pub constant: File,
    /// Where findings go: one line each, which begins with the number of the
    /// property.
    pub findings: File,
    /// What the device said about itself.
    pub info: Vec<u8>,
}

/// An open node, and the session it has as far as known.
#[derive(Debug)]
pub struct Descriptor {
    fd: OwnedFd,
    /// Identifier plus one, and application.
    session: AtomicU32,
}

impl Descriptor {
    /// Opens the node in one way or another.
    pub fn open(dice: &mut Dice) -> Result<Self> {
        let how = dice.pick(&[OFlag::O_RDWR, OFlag::O_RDONLY, OFlag::O_WRONLY]);
        let more = dice.pick(&[OFlag::empty(), OFlag::O_NONBLOCK, OFlag::O_CLOEXEC]);
        let fd = open(NODE, how | more, Mode::empty()).context(NODE)?;
        Ok(fd.into())
    }

    /// Another descriptor of the same file, that knows the same.
    pub fn duplicate(&self) -> Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            session: AtomicU32::new(self.session.load(Relaxed)),
        })
    }

    /// Its number, which nobody closes any more.
    pub fn into_raw(self) -> RawFd {
        self.fd.into_raw_fd()
    }

    fn session(&self) -> Option<(u16, u8)> {
        let word = self.session.load(Relaxed);
        let id = (word >> 8).checked_sub(1)?;
        Some((id as u16, word as u8))
    }

    fn set_session(&self, session: Option<hsm::Session>) {
        let word = session.map_or(0, |session| {
            ((u32::from(session.id) + 1) << 8) | u32::from(session.app)
        });
        self.session.store(word, Relaxed);
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self {
            fd,
            session: AtomicU32::new(0),
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// See the [module](self).
pub struct Player<'a> {
    run: &'a Run,
    /// Which worker it is of, and which of its threads.
    worker: usize,
    thread: usize,
    /// What distinguishes its current call from all others.
    path: Vec<usize>,
    /// What that call is, and what else happens until the next.
    pub dice: Dice,
    world: World,
    /// Where the last structure is, if it has to be cleared away.
    last: Option<(usize, usize)>,
}

impl<'a> Player<'a> {
    /// The player of a thread; `life` says how many workers, and in those
    /// players, there were at its place before.
    pub fn new(run: &'a Run, worker: usize, life: &[usize], thread: usize) -> Result<Self> {
        let path = [&[worker], life, &[thread, 0]].concat();
        Ok(Self {
            run,
            worker,
            thread,
            dice: Dice::new(run.seed, &path),
            path,
            world: World::new(thread, &run.constant)?,
            last: None,
        })
    }

    /// The memory that its calls point to.
    pub fn world(&self) -> &World {
        &self.world
    }

    fn report(&self, property: Property, text: &str) {
        let line = format!("{} call {:?}: {text}", property as usize, self.path);
        let mut line = line.replace('\n', " ");
        line.truncate(MESSAGE);
        line.push('\n');
        // If nobody reads any more there is nothing to be said.
        if (&self.run.findings).write_all(line.as_bytes()).is_err() {
            self.run.shared.note(Deed::Lost);
        }
    }

    /// Takes note of a property that was looked at, and says so if it does not
    /// hold.
    pub fn expect(&self, property: Property, good: bool, what: impl FnOnce() -> String) {
        debug_assert_eq!(PROPERTIES[property as usize].0, property);
        self.run.shared.checked(property);
        if !good {
            self.report(property, &what());
        }
    }

    /// Makes a call on a descriptor, of any kind.
    pub fn play(&mut self, descriptor: &Descriptor, who: Who) -> Result<()> {
        // That other calls of its were different does not change this one.
        if let Some(number) = self.path.last_mut() {
            *number += 1;
        }
        self.dice = Dice::new(self.run.seed, &self.path);
        // Without a session AES does not get far.
        let (hsm, aes) = match descriptor.session() {
            Some(_) => (350, 250),
            None => (750, 50),
        };
        let choice = self.dice.weigh(&[
            (hsm, 0),
            (aes, 1),
            (aes, 2),
            (20, 3),
            (8, 4),
            (60, 5),
            (20, 6),
            (20, 7),
        ]);
        match choice {
            6 => self.operation(descriptor),
            7 => self.compat(descriptor),
            _ => self.ioctl(descriptor, who, choice),
        }
    }

    /// Where to put a structure of `size` bytes: its address, and in which kind
    /// of memory and where in there that is, if it is in any.
    fn place(&mut self, size: usize) -> (u64, Option<(Kind, usize)>) {
        let dice = &mut self.dice;
        let end = Kind::Argument.size();
        let (kind, offset) = match dice.below(40) {
            0 => (Kind::Argument, end - dice.below(size)),
            1 => (Kind::ReadOnly, dice.below(PAGE)),
            2 | 3 => (Kind::Racing, dice.below(4 * PAGE)),
            4 => (Kind::WriteOnly, dice.below(PAGE)),
            5 => (Kind::Short, 3 * PAGE - dice.below(size)),
            6 => {
                let nothing = self.world.address(Kind::Nothing);
                let places = [0, 8, nothing, 1 << 63, u64::MAX - 100, 0x7fff_ffff_eff0];
                return (dice.pick(&places), None);
            }
            7..=12 => (Kind::Argument, end - size),
            13..=16 => (Kind::Argument, PAGE - dice.below(size)),
            _ => (Kind::Argument, dice.below(end - size)),
        };
        let address = self.world.address(kind) + offset as u64;
        (address, Some((kind, offset)))
    }

    fn ioctl(&mut self, descriptor: &Descriptor, who: Who, choice: u32) -> Result<()> {
        // What the last call used; now nothing is written there.
        if let Some((offset, len)) = self.last.take() {
            self.world.refill(Kind::Argument, offset, len)?;
        }
        let size = match choice {
            0 => size_of::<HsmCmd>(),
            1 | 2 => size_of::<AesCmd>(),
            3 => size_of::<abi::DevInfo>(),
            _ => size_of::<abi::Reset>(),
        };
        let (address, place) = self.place(size);
        let shared = self.run.shared;
        let mut maker = Maker {
            dice: &mut self.dice,
            world: &mut self.world,
            known: Known {
                session: descriptor.session(),
                keys: [0, 1, 2, 3].map(|number| shared.key(number)),
            },
            argument: address,
        };
        let made = match choice {
            0 => maker.hsm()?,
            1 => maker.gcm()?,
            2 => maker.xts()?,
            3 => maker.info(),
            4 => maker.reset(),
            _ => maker.number(),
        };
        if let Some((kind, offset)) = place {
            self.world.write(kind, offset, &made.bytes)?;
            if kind == Kind::Argument {
                self.last = Some((offset, made.bytes.len()));
            }
        }
        let call = Call {
            number: made.number,
            who,
            address,
            before: made.bytes.clone(),
            stable: !matches!(place, Some((Kind::Racing, _))),
        };
        if !call.stable {
            shared.note(Deed::Raced);
        }

        shared.begin(self.worker, self.thread);
        let start = Instant::now();
        let result = sys::submit_at(descriptor, call.number, call.address);
        let time = start.elapsed();
        shared.end(self.worker, self.thread);

        let after = if call.stable {
            self.world.read(address, call.before.len())
        } else {
            None
        };
        let seen = Seen { result, after };
        let judgement = judge(&call, &seen, self.world.map(), &self.run.info);
        let kind = match who {
            Who::Owner => Ioctl::of(call.number),
            Who::Foreign => Ioctl::Foreign,
        };
        shared.count(kind, judgement.end);
        if matches!(judgement.end.ext, ext::HSM_NO_SESSION | ext::AES_NO_SESSION) {
            descriptor.set_session(None);
        }
        let carried_out = seen.result.is_ok() && !judgement.end.refused;
        if carried_out && who == Who::Owner {
            if let Err(error) = self.learn(descriptor, &made, &seen) {
                self.report(
                    Property::Results,
                    &format!("{error:#}: {}", show(&call, &seen)),
                );
            }
        }
        self.conclude(&call, &seen, judgement)?;
        if result == Err(Errno::AGAIN) && time > GIVEN_UP {
            self.world.renew()?;
        }
        Ok(())
    }

    /// Looks at what was written, and reports what is wrong.
    fn conclude(&mut self, call: &Call, seen: &Seen, judgement: Judgement) -> Result<()> {
        let shared = self.run.shared;
        let Judgement {
            findings,
            checked,
            allowed,
            reply,
            ..
        } = judgement;
        for property in checked {
            shared.checked(property);
        }
        for (property, text) in findings {
            self.report(property, &format!("{text}: {}", show(call, seen)));
        }
        let mut wrong = self.world.check(&allowed)?;
        let large = self.world.address(Kind::LargeTarget);
        if !call.stable {
            // Nobody knows whether it was written to; now it is not.
            self.world.check_large(&(0..u64::MAX))?;
        } else if (large..large + Kind::LargeTarget.size() as u64).contains(&reply.start) {
            let written = allowed
                .iter()
                .find(|range| range.contains(&reply.start))
                .cloned();
            let written = written.unwrap_or(reply.start..reply.start);
            wrong = self.world.check_large(&written)?.or(wrong);
        }
        let silent = |address: &u64| allowed.is_empty() || reply.contains(address);
        let property = if wrong.as_ref().is_some_and(silent) || allowed.is_empty() {
            Property::NotWritten
        } else {
            Property::Untouched
        };
        self.expect(property, wrong.is_none(), || {
            let address = wrong.unwrap_or(0);
            format!("{address:#x} was written: {}", show(call, seen))
        });
        Ok(())
    }

    /// Looks at the answer of a command that was carried out, and learns from
    /// it.
    fn learn(&self, descriptor: &Descriptor, made: &Made, seen: &Seen) -> Result<()> {
        let Some(after) = &seen.after else {
            return Ok(());
        };
        match Ioctl::of(made.number) {
            Ioctl::Hsm => {
                let cmd = HsmCmd::read_from_bytes(after).ok().context("size")?;
                self.learn_hsm(descriptor, made, &cmd)
            }
            Ioctl::Gcm | Ioctl::Xts => {
                let cmd = AesCmd::read_from_bytes(after).ok().context("size")?;
                if cmd.output.result != 0 {
                    return Ok(());
                }
                if cmd.input.src_len > MAX_COPIED {
                    self.run.shared.note(Deed::InPlace);
                }
                self.learn_aes(made, &cmd)
            }
            _ => Ok(()),
        }
    }

    fn learn_hsm(&self, descriptor: &Descriptor, made: &Made, cmd: &HsmCmd) -> Result<()> {
        // The structure itself may be what the response was written to.
        let before = HsmCmd::read_from_bytes(&made.bytes).ok().context("size")?;
        let input = before.input;
        if cmd.output.status != 0 {
            return Ok(());
        }
        let count = cmd.output.byte_count;
        let cut_off = count == input.dst_len;
        let tampered = matches!(made.yields, Yield::Anything);
        let Some(bytes) = self.world.read(input.dst, count as usize) else {
            return Ok(());
        };
        let structure = self.world.address(Kind::Argument);
        let overlaps = (structure..structure + Kind::Argument.size() as u64).contains(&input.dst);
        if cut_off || tampered || overlaps {
            return Ok(());
        }
        self.run.shared.checked(Property::Results);
        let response = Response::decode(&bytes)
            .with_context(|| format!("response {}", hex::encode(&bytes)))?;
        let good = response.header.status == Status::SUCCESS;
        match input.session.flags & 3 {
            abi::FLOW_OPEN if good => {
                self.run.shared.note(Deed::Opened);
                descriptor.set_session(hsm::session_of(&response).ok());
            }
            abi::FLOW_CLOSE if good => descriptor.set_session(None),
            _ => {}
        }
        if let Yield::ResponseTo(request) = &made.yields {
            let (asked, answered) = (&request.header, &response.header);
            ensure!(
                asked.operation == answered.operation && asked.session == answered.session,
                "{answered:?} is no answer to {asked:?}"
            );
            let always = matches!(
                asked.operation,
                Operation::GET_API_REV | Operation::GET_DEVICE_INFO
            );
            ensure!(!always || good, "{asked:?} was answered by {answered:?}");
        }
        Ok(())
    }

    fn learn_aes(&self, made: &Made, cmd: &AesCmd) -> Result<()> {
        let AesCmd { input, output, .. } = cmd;
        match &made.yields {
            Yield::Gcm {
                decrypt,
                aad,
                padded,
                text,
            } => {
                self.run.shared.checked(Property::Results);
                let result = self.result(input, *padded, text.len())?;
                check_gcm(*decrypt, input, output, aad, text, &result)
            }
            Yield::Xts {
                decrypt,
                unit,
                tweak,
                text,
            } => {
                self.run.shared.checked(Property::Results);
                let result = self.result(input, 0, text.len())?;
                let (plain, cipher) = if *decrypt {
                    (&result, text)
                } else {
                    (text, &result)
                };
                let [one, other] = &XTS_KEYS;
                let fits = |(data, key)| {
                    reference::xts_encrypt(data, key, *unit, *tweak, plain) == *cipher
                };
                // A reset may have changed which key is which.
                let good = [(one, other), (other, one)].into_iter().any(fits);
                ensure!(good, "wrong result of XTS");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The result of an AES command.
    fn result(&self, input: &AesIn, from: usize, len: usize) -> Result<Vec<u8>> {
        self.world
            .read(input.dst + from as u64, len)
            .context("result out of reach")
    }

    /// Makes a system call other than ioctl.
    fn operation(&mut self, descriptor: &Descriptor) -> Result<()> {
        let mut bytes = [0; 64];
        let len = self.dice.between(1, bytes.len());
        let fd = descriptor.as_fd();
        let (what, result, expected) = match self.dice.below(6) {
            0 => {
                let result = nix::unistd::read(fd, &mut bytes[..len]).map(|_| ());
                ("read", result, Some(&[Errno::INVAL, Errno::BADF][..]))
            }
            1 => {
                let result = nix::unistd::write(fd, &bytes[..len]).map(|_| ());
                ("write", result, Some(&[Errno::INVAL, Errno::BADF][..]))
            }
            2 => {
                let whence = self.dice.pick(&[
                    Whence::SeekSet,
                    Whence::SeekCur,
                    Whence::SeekEnd,
                    Whence::SeekData,
                    Whence::SeekHole,
                ]);
                let result = nix::unistd::lseek(fd, self.dice.any(), whence).map(|_| ());
                ("lseek", result, Some(&[Errno::SPIPE][..]))
            }
            3 => {
                // Only those who may write may map shared memory for that.
                let file = File::from(descriptor.fd.try_clone()?);
                let result = sys::map_shared(&file);
                ("mmap", result, Some(&[Errno::NODEV, Errno::ACCESS][..]))
            }
            4 => {
                let events = PollFlags::POLLIN | PollFlags::POLLOUT;
                let mut set = [PollFd::new(fd, events)];
                let ready = poll(&mut set, PollTimeout::from(2000_u16));
                let good = ready == Ok(1) && set[0].revents() == Some(events);
                // A signal may have been faster.
                let good = good || ready == Err(nix::errno::Errno::EINTR);
                self.expect(Property::Operations, good, || {
                    format!("poll: {ready:?} {:?}", set[0].revents())
                });
                ("poll", Ok(()), None)
            }
            _ => {
                // Nobody says what these do; they do no harm.
                let _ = nix::unistd::fsync(fd);
                let _ = nix::unistd::ftruncate(fd, self.dice.any());
                let _ = nix::sys::stat::fstat(fd);
                ("others", Ok(()), None)
            }
        };
        let result = result.map_err(|error| Errno::from_raw_os_error(error as i32));
        if let Some(expected) = expected {
            let good = result.is_err_and(|error| expected.contains(&error));
            self.expect(Property::Operations, good, || {
                format!("{what}: {}", name_of(result.map(|()| 0)))
            });
        }
        self.run.shared.count(Ioctl::Other, End::plain(&result));
        Ok(())
    }

    /// Makes a call the way a 32-bit program does.
    fn compat(&mut self, descriptor: &Descriptor) -> Result<()> {
        let known = [
            abi::IOC_HSM_CMD,
            abi::IOC_DEV_INFO,
            abi::IOC_RESET,
            abi::IOC_AES_GCM,
            abi::IOC_AES_XTS,
        ];
        let mut number = self.dice.pick(&known);
        if self.dice.one_in(2) {
            number = self.dice.near(number);
        }
        if OF_THE_KERNEL.contains(&number) {
            return Ok(());
        }
        // Nothing is that low.
        let argument = self.dice.any::<u16>();
        let fd = descriptor.fd.as_raw_fd() as u32;
        let result = match sys::ioctl32(fd, number, u32::from(argument)) {
            errno @ ..0 => Err(Errno::from_raw_os_error(-errno)),
            value => Ok(value),
        };
        self.run.shared.count(Ioctl::Compat, End::plain(&result));
        self.expect(Property::Foreign, result == Err(Errno::NOTTY), || {
            format!("32-bit {number:#x}: {}", name_of(result))
        });
        Ok(())
    }
}

/// A call and its end, for whoever has to find out what went wrong.
fn show(call: &Call, seen: &Seen) -> String {
    let after = seen.after.as_ref().map_or("?".to_owned(), |after| {
        let changed = after
            .iter()
            .zip(&call.before)
            .position(|(after, before)| after != before);
        match changed {
            Some(at) => format!("from {at} on {}", hex::encode(&after[at..])),
            None => "unchanged".to_owned(),
        }
    });
    format!(
        "{:?} ioctl {:#x} at {:#x}: {}; before {}; after {after}",
        call.who,
        call.number,
        call.address,
        name_of(seen.result),
        hex::encode(&call.before)
    )
}

fn check_gcm(
    decrypt: bool,
    input: &AesIn,
    output: &AesOut,
    aad: &[u8],
    text: &[u8],
    result: &[u8],
) -> Result<()> {
    let params = abi::Gcm::read_from_bytes(&input.params)
        .ok()
        .context("size")?;
    let (plain, cipher, iv, tag) = if decrypt {
        (result, text, params.iv, params.tag)
    } else {
        (text, result, output.iv, output.tag)
    };
    let (expected, its_tag) = reference::gcm_encrypt(&GCM_KEY, iv, aad, plain)?;
    ensure!(expected == cipher, "wrong text of GCM");
    ensure!(its_tag == tag, "wrong tag of GCM");
    Ok(())
}

/// The ends that have to be seen for a run to mean anything: each row of the
/// tables that a caller can bring about.
pub fn must_be_seen() -> Vec<(Ioctl, End)> {
    let end = |errno, ext, refused| End {
        errno,
        ext,
        refused,
    };
    let mut ends = Vec::new();
    for kind in [Ioctl::Hsm, Ioctl::Gcm, Ioctl::Xts] {
        ends.push((kind, end(None, 0, false)));
        ends.push((kind, end(None, 0, true)));
    }
    for kind in [
        Ioctl::Hsm,
        Ioctl::Gcm,
        Ioctl::Xts,
        Ioctl::Reset,
        Ioctl::Info,
    ] {
        ends.push((kind, end(Some(Errno::FAULT), 0, false)));
        ends.push((kind, end(Some(Errno::INVAL), 0, false)));
    }
    for code in [
        ext::HSM_CMDSET,
        ext::HSM_SRC_LEN,
        ext::HSM_DST_LEN,
        ext::HSM_SRC,
        ext::HSM_DST,
        ext::HSM_SESSION_LIMIT,
        ext::HSM_NO_SESSION,
        ext::HSM_SESSION_MISMATCH,
    ] {
        ends.push((Ioctl::Hsm, end(Some(Errno::INVAL), code, false)));
    }
    for (kind, own) in [(Ioctl::Gcm, ext::AES_GCM), (Ioctl::Xts, ext::AES_XTS)] {
        for code in [
            ext::AES_SRC,
            ext::AES_DST,
            ext::AES_SESSION_MISMATCH,
            ext::AES_APP_MISMATCH,
            ext::AES_NO_SESSION,
            ext::AES_CIPHER,
            ext::AES_FRAME_TYPE,
            ext::AES_OP,
            own,
        ] {
            ends.push((kind, end(Some(Errno::INVAL), code, false)));
        }
        ends.push((kind, end(Some(Errno::FAULT), ext::AES_NOMEM, false)));
    }
    ends.extend([
        (Ioctl::Info, end(None, 0, false)),
        (Ioctl::Reset, end(None, 0, false)),
        (
            Ioctl::Reset,
            end(Some(Errno::INVAL), abi::RESET_BAD_TYPE, false),
        ),
        (Ioctl::Unknown, end(Some(Errno::BADRQC), 0, false)),
        (Ioctl::Foreign, end(Some(Errno::ACCESS), 0, false)),
        (Ioctl::Compat, end(Some(Errno::NOTTY), 0, false)),
    ]);
    ends
}
