// SPDX-License-Identifier: GPL-2.0

//! Ioctls of the HSM node.
//!
//! Documentation/abi.rst 3. The checks are in the order that is laid down there.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
    new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Arc,
        Mutex, //
    },
    time::Jiffies,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use crate::{
    aes,
    ctrl::{
        Ctrl,
        CtrlFamily, //
    },
    hsm,
    orphans::{
        Opening,
        Orphans, //
    },
    patience::Patience,
    queue::Lost,
    recovery::{
        Condition,
        NotServed,
        Outcome, //
    },
    regs::Stop,
    session::{
        Flow,
        Record,
        Token,
        Users, //
    },
    sys::{
        compat,
        completion::Waited,
        gate::Gate,
        node::FileOps,
        process,
        process::Process, //
    },
    uapi,
    uapi::{
        AesCmd,
        AesIn,
        DevInfo,
        Hdr,
        Headed,
        HsmCmd,
        HsmIn, //
    },
    wire::request::{
        check_aes,
        check_caller,
        check_hsm,
        covers,
        header,
        is_user,
        set_done, //
    },
};

/// What all files of a node share.
pub(crate) struct Context {
    gate: Arc<Gate<CtrlFamily>>,
    orphans: Arc<Orphans>,
}

impl Context {
    pub(crate) fn new(gate: Arc<Gate<CtrlFamily>>, orphans: Arc<Orphans>) -> Self {
        Self { gate, orphans }
    }
}

/// What the commands of a file look at one after another.
#[derive(Default)]
struct Desk {
    record: Record,
    // How many commands were completed, and AES commands begun.
    hsm_commands: u64,
    aes_commands: u64,
}

/// An open file of the HSM node.
#[pin_data]
pub(crate) struct File {
    gate: Arc<Gate<CtrlFamily>>,
    owner: Process,
    #[pin]
    desk: Mutex<Desk>,
    // In which era of the device the session of the record was opened.
    era: Atomic<u32>,
    users: Arc<Users>,
    orphans: Arc<Orphans>,
}

impl FileOps for File {
    type Context = Context;

    fn open(context: &Context) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self {
                gate: context.gate.clone(),
                owner: Process::current()?,
                desk <- new_mutex!(Desk::default(), "azihsm_record"),
                era: Atomic::new(0),
                users: Users::new(context.orphans.clone())?,
                orphans: context.orphans.clone(),
            }),
            GFP_KERNEL,
        )
    }

    fn ioctl(self: Pin<&Self>, cmd: u32, arg: usize) -> Result<isize> {
        let this = self.get_ref();

        this.gate.with(|ctrl| {
            if !this.owner.is_current() {
                return Err(EACCES);
            }
            match cmd {
                uapi::IOC_HSM_CMD => this.hsm_cmd(ctrl, arg),
                uapi::IOC_DEV_INFO => dev_info(ctrl, arg),
                uapi::IOC_RESET => reset(ctrl, arg),
                uapi::IOC_AES_GCM => this.aes_cmd(ctrl, arg, uapi::AES_GCM),
                uapi::IOC_AES_XTS => this.aes_cmd(ctrl, arg, uapi::AES_XTS),
                _ => Err(compat::bad_request()),
            }
        })?;
        Ok(0)
    }

    fn describe(self: Pin<&Self>, to: &SeqFile) {
        let desk = self.lock_desk();
        if let Some(session) = desk.record.session() {
            seq_print!(to, "azihsm-session:\t{}\n", session.id);
        }
        seq_print!(to, "azihsm-hsm-commands:\t{}\n", desk.hsm_commands);
        seq_print!(to, "azihsm-aes-commands:\t{}\n", desk.aes_commands);
    }

    fn release(self: Pin<&Self>) {
        let Some(session) = self.lock_desk().record.session() else {
            return;
        };
        let era = self.era.load(Relaxed);
        if !self.users.close(session.id, era) {
            // Commands that nobody waits for use it still.
            return;
        }
        self.orphans.sessions().keep(session.id, era);
        self.orphans.sessions().lose_owner(session.id, era);
        // Without the device there is nobody to tell.
        let _ = self.gate.with(|ctrl| {
            ctrl.flush_closed();
            Ok(())
        });
    }
}

/// Why a command failed: the error of the ioctl and the extended status.
struct Failure {
    error: Error,
    ext: u32,
}

impl Failure {
    fn new(error: Error, ext: u32) -> Self {
        Self { error, ext }
    }

    fn invalid(ext: u32) -> Self {
        Self::new(EINVAL, ext)
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Busy | Lost::TimedOut | Lost::Deserted | Lost::Halted => {
                Self::new(EAGAIN, uapi::EXT_ABORTED)
            }
            Lost::Refused => Self::new(EAGAIN, uapi::EXT_RECOVERING),
            Lost::Interrupted | Lost::Killed => Self::new(EINTR, uapi::EXT_ABORTED),
        }
    }
}

/// Checks that the controller takes commands; `not_ready` is the extended status if it is dead.
fn check_condition(condition: Condition, not_ready: u32) -> Result<(), Failure> {
    match condition {
        Condition::Running => Ok(()),
        Condition::Recovering => Err(Failure::new(EAGAIN, uapi::EXT_RECOVERING)),
        Condition::Dead => Err(Failure::new(EAGAIN, not_ready)),
        Condition::Absent | Condition::Gone => Err(Failure::new(ENODEV, 0)),
    }
}

/// A HSM command that has no completion.
struct NotCompleted {
    /// Whether the device may have carried it out, or may do so still.
    was_sent: bool,
    /// Whether it has ended.
    has_ended: bool,
    failure: Failure,
}

impl From<Failure> for NotCompleted {
    fn from(failure: Failure) -> Self {
        Self {
            was_sent: false,
            has_ended: true,
            failure,
        }
    }
}

impl From<Lost> for NotCompleted {
    fn from(lost: Lost) -> Self {
        Self {
            was_sent: lost.was_sent(),
            has_ended: lost == Lost::Halted,
            failure: lost.into(),
        }
    }
}

/// Returns the pointer for an address in a structure.
fn user(address: u64) -> UserPtr {
    // CAST: Addresses have 64 bits here, as the pointers of callers that are let in do.
    UserPtr::from_addr(address as usize)
}

/// Reads a structure that begins with a header and may be larger than the driver knows.
///
/// # Errors
///
/// `EFAULT`, and `EINVAL` if the caller knows less of it.
fn read_sized<T: FromBytes + Headed>(arg: usize) -> Result<T> {
    let read = |len| UserSlice::new(UserPtr::from_addr(arg), len).reader();

    // In one go; only what the caller does not have all of is looked at in detail.
    let whole = read(size_of::<T>()).read::<T>();
    let size = match &whole {
        Ok(whole) => whole.hdr().size,
        Err(_) => read(size_of::<Hdr>()).read::<Hdr>()?.size,
    };
    if !covers::<T>(size) {
        return Err(EINVAL);
    }
    whole
}

/// Finishes an ioctl: writes its output `out` to `offset` of the structure at `arg`, and returns
/// `result`.
///
/// # Errors
///
/// `ENODEV` if something failed and the device is gone, whatever failed; nothing is written then.
/// `EFAULT` if it cannot be written, else the error of `result`.
pub(crate) fn finish<T: AsBytes>(
    ctrl: &Ctrl<'_>,
    arg: usize,
    offset: usize,
    out: &T,
    result: Result,
) -> Result {
    if result.is_err() && matches!(ctrl.condition(), Condition::Absent | Condition::Gone) {
        return Err(ENODEV);
    }
    UserSlice::new(UserPtr::from_addr(arg.wrapping_add(offset)), size_of::<T>())
        .writer()
        .write(out)?;
    result
}

/// Device info (abi.rst 3.3).
pub(crate) fn dev_info(ctrl: &Ctrl<'_>, arg: usize) -> Result {
    // The last byte is padding that the driver has never touched.
    const LEN: usize = size_of::<DevInfo>() - 1;
    let slice = || UserSlice::new(UserPtr::from_addr(arg), LEN);

    let [a, b, c, d, ..] = slice().reader().read::<[u8; LEN]>()?;
    let argsz = u32::from_ne_bytes([a, b, c, d]);
    if !covers::<DevInfo>(argsz) {
        return Err(EINVAL);
    }
    let info = DevInfo {
        argsz,
        ..ctrl.info()
    };
    let bytes = AsBytes::as_bytes(&info).first_chunk::<LEN>();
    slice().writer().write(bytes.ok_or(EINVAL)?)
}

/// Reset (abi.rst 3.4).
fn reset(ctrl: &Ctrl<'_>, arg: usize) -> Result {
    let request: uapi::Reset = read_sized(arg)?;
    let how = reset_kind(ctrl.condition(), request.kind);
    let (result, status) = reset_result(how.map(|how| ctrl.request_reset(how)));
    finish(ctrl, arg, offset_of!(uapi::Reset, status), &status, result)
}

/// Returns how the controller is to be stopped, or the status.
fn reset_kind(condition: Condition, kind: u32) -> Result<Stop, u32> {
    match kind {
        _ if condition == Condition::Dead => Err(uapi::RESET_BAD_STATE),
        uapi::RESET_SUBSYSTEM => Ok(Stop::Reset),
        uapi::RESET_CONTROLLER => Ok(Stop::Disable),
        _ => Err(uapi::RESET_BAD_TYPE),
    }
}

/// Returns what the ioctl returns for what became of a reset, or for the status without one, and the
/// status.
fn reset_result(outcome: Result<Result<Outcome, NotServed>, u32>) -> (Result, u32) {
    match outcome {
        Ok(Ok(Outcome::Done)) => (Ok(()), uapi::RESET_OK),
        Ok(Ok(Outcome::Failed)) => (Err(EIO), uapi::RESET_FAILED),
        Ok(Ok(Outcome::BadState)) => (Err(EINVAL), uapi::RESET_BAD_STATE),
        Ok(Ok(Outcome::Refused)) => (Err(EINVAL), uapi::RESET_UNSUPPORTED),
        Ok(Err(NotServed::TimedOut)) => (Err(EINVAL), uapi::RESET_BUSY),
        Ok(Err(NotServed::Killed)) => (Err(EINTR), uapi::RESET_BUSY),
        Ok(Err(NotServed::NoMemory)) => (Err(ENOMEM), uapi::RESET_FAILED),
        Err(status) => (Err(EINVAL), status),
    }
}

impl File {
    /// HSM command (abi.rst 3.2).
    fn hsm_cmd(&self, ctrl: &Ctrl<'_>, arg: usize) -> Result {
        let mut cmd: HsmCmd = read_sized(arg)?;
        cmd.out = uapi::HsmOut::new(cmd.input.ctxt);
        let result = self.hsm_run(ctrl, &mut cmd);
        if let Err(failure) = &result {
            cmd.out.ext = failure.ext;
        }
        let result = result.map_err(|failure| failure.error);
        finish(ctrl, arg, offset_of!(HsmCmd, out), &cmd.out, result)
    }

    fn hsm_run(&self, ctrl: &Ctrl<'_>, cmd: &mut HsmCmd) -> Result<(), Failure> {
        let input = &cmd.input;
        check_condition(ctrl.condition(), uapi::EXT_HSM_NOT_READY)?;
        check_hsm(input).map_err(Failure::invalid)?;

        let flow = Flow::of(input.session.flags);
        let held = self.admit(flow, &input.session)?;
        // Kept until the descriptor knows of its session.
        let mut opening = None;
        let sent = self.hsm_send(ctrl, input, flow, held, &mut opening);
        if let Some(opening) = &opening {
            // Nobody else looks at it while the record says that a session is being opened.
            self.era.store(opening.era(), Relaxed);
        }
        let concluded = self.conclude(flow, sent);
        drop(opening);
        let (command, completion) = concluded?;

        let len = u32::from(completion.len).min(input.dst_len);
        cmd.out.status = u32::from(completion.status);
        // CAST: Widening.
        command
            .copy_response(user(input.dst), len as usize)
            .map_err(|_| Failure::invalid(uapi::EXT_HSM_DST))?;
        cmd.out.byte_count = len;
        Ok(())
    }

    /// Locks the record, which has no session if the device has lost it.
    fn lock_desk(&self) -> Guard<'_, Desk, MutexBackend> {
        let mut desk = self.desk.lock();
        if desk.record.session().is_some()
            && self.era.load(Relaxed) != self.orphans.sessions().era()
        {
            desk.record = Record::Empty;
        }
        desk
    }

    /// Takes note of what became of a command, which was admitted.
    fn conclude<'a>(
        &self,
        flow: Flow,
        sent: Result<(hsm::Command<'a>, hsm::Completion), NotCompleted>,
    ) -> Result<(hsm::Command<'a>, hsm::Completion), Failure> {
        let mut desk = self.desk.lock();
        if sent.is_ok() {
            desk.hsm_commands = desk.hsm_commands.wrapping_add(1);
        }
        let record = &mut desk.record;
        let before = record.id();
        let mut unsure = false;
        let result = match sent {
            Ok((command, completion)) => {
                record.completed(flow, completion.status, &completion.report);
                Ok((command, completion))
            }
            Err(NotCompleted {
                was_sent,
                has_ended,
                failure,
            }) => {
                if was_sent {
                    unsure = record.lost(flow, has_ended);
                } else {
                    record.not_sent(flow);
                }
                Err(failure)
            }
        };
        let after = record.id();
        if before != after {
            let era = self.era.load(Relaxed);
            if let Some(id) = after {
                self.orphans.sessions().gain_owner(id, era);
            }
            if let Some(id) = before {
                self.orphans.sessions().lose_owner(id, era);
            }
        }
        if unsure {
            self.orphans.sessions().set_unsure();
        }
        result
    }

    /// Checks that a command fits the session of the descriptor, and returns what it is to hold.
    fn admit(&self, flow: Flow, session: &uapi::Session) -> Result<hsm::Held, Failure> {
        let id = (session.flags & uapi::SESSION_ID_VALID != 0).then_some(session.id);
        let mut desk = self.lock_desk();

        desk.record.admit(flow, id).map_err(Failure::invalid)?;
        let era = self.era.load(Relaxed);
        Ok(match flow {
            Flow::InSession => hsm::Held::User(self.users.token(era)),
            Flow::Close => hsm::Held::Closing(self.orphans.closing(session.id, era)),
            Flow::None | Flow::Open => hsm::Held::Nothing,
        })
    }

    fn hsm_send<'a>(
        &self,
        ctrl: &'a Ctrl<'a>,
        input: &HsmIn,
        flow: Flow,
        mut held: hsm::Held,
        opening: &mut Option<Opening>,
    ) -> Result<(hsm::Command<'a>, hsm::Completion), NotCompleted> {
        let patience = ctrl.patience();
        match flow {
            Flow::Open => ctrl.flush_orphans(),
            Flow::Close => self.wait_for_users(ctrl, patience)?,
            Flow::None | Flow::InSession => {}
        }
        if !is_user(input.src, input.src_len) {
            return Err(Failure::invalid(uapi::EXT_HSM_SRC).into());
        }
        if !is_user(input.dst, input.dst_len) {
            return Err(Failure::invalid(uapi::EXT_HSM_DST).into());
        }
        let command = loop {
            let owned = ctrl.hsm().take(ctrl.doorbells(), patience)?;
            let mut command = hsm::Command::new(owned);
            // CAST: Widening.
            command
                .fill(user(input.src), input.src_len as usize)
                .map_err(|_| Failure::invalid(uapi::EXT_HSM_SRC))?;
            if flow != Flow::Open {
                break command;
            }
            // Not before the copy, for which the user may be to blame if it takes long.
            let begun = ctrl.try_open().or_else(|condition| {
                check_condition(condition, uapi::EXT_HSM_NOT_READY).map(|()| None)
            })?;
            if let Some(begun) = begun {
                held = hsm::Held::Opening(begun.clone());
                *opening = Some(begun);
                break command;
            }
            // What it is held back for needs slots.
            drop(command);
            if process::is_killed() {
                return Err(Lost::Interrupted.into());
            }
            process::sleep_a_tick();
        };

        Ok(command.run(&header(input, flow), held, patience)?)
    }

    /// Waits until no command uses the session any more, which is about to be closed, as long as
    /// commands can end.
    fn wait_for_users(&self, ctrl: &Ctrl<'_>, patience: Patience) -> Result<(), Lost> {
        // In ticks.
        const SLICE: Jiffies = 64;

        let wait = patience.start();
        self.users
            .wait_idle(|changed| loop {
                match wait.wait(changed, SLICE) {
                    Waited::TimedOut if ctrl.condition() == Condition::Running => {}
                    waited => break waited,
                }
            })
            .map_err(|waited| match waited {
                Waited::Killed => Lost::Interrupted,
                _ => Lost::Refused,
            })
    }

    /// AES command (abi.rst 3.5).
    fn aes_cmd(&self, ctrl: &Ctrl<'_>, arg: usize, cipher: u8) -> Result {
        let mut cmd: AesCmd = read_sized(arg)?;
        cmd.out = uapi::AesOut::new(cmd.input.ctxt);
        let result = self.aes_run(ctrl, &mut cmd, cipher);
        if let Err(failure) = &result {
            cmd.out.ext = failure.ext;
        }
        let result = result.map_err(|failure| failure.error);
        finish(ctrl, arg, offset_of!(AesCmd, out), &cmd.out, result)
    }

    /// Checks that the session of an AES command is that of the descriptor, and makes the command
    /// a user of it.
    fn aes_caller(&self, input: &AesIn) -> Result<(aes::Caller, Token), Failure> {
        let mut desk = self.lock_desk();
        let session = desk
            .record
            .session()
            .ok_or(Failure::invalid(uapi::EXT_AES_NO_SESSION))?;
        let caller = check_caller(session, input).map_err(Failure::invalid)?;
        desk.aes_commands = desk.aes_commands.wrapping_add(1);
        Ok((caller, self.users.token(self.era.load(Relaxed))))
    }

    fn aes_run(&self, ctrl: &Ctrl<'_>, cmd: &mut AesCmd, cipher: u8) -> Result<(), Failure> {
        let input = &cmd.input;
        check_condition(ctrl.condition(), uapi::EXT_AES_DEVICE)?;
        if ctrl.aes().queues().is_empty() {
            return Err(Failure::invalid(uapi::EXT_AES_NO_QUEUES));
        }
        let (caller, token) = self.aes_caller(input)?;
        let request = aes::Request {
            cipher: check_aes(input, cipher, ctrl.gcm_unaligned()).map_err(Failure::invalid)?,
            decrypt: input.op == uapi::AES_DECRYPT,
            caller,
            len: input.src_len,
        };
        let (src, dst) = (user(input.src), user(input.dst));
        let no_memory = |error| Failure::new(error, uapi::EXT_AES_NOMEM);

        let patience = ctrl.patience();
        let reserve = ctrl.aes_reserve();
        let data = aes::Data::new(ctrl.device(), reserve, &request, src, dst).map_err(no_memory)?;
        let owned = ctrl.aes().take(ctrl.doorbells(), patience)?;
        let mut command = aes::Command::new(owned, request, &data);
        command.fill(src).map_err(no_memory)?;
        let (data, completion, command) = command.run(token, data, patience)?;

        let out = &mut cmd.out;
        if completion.status != 0 {
            out.result = u32::from(completion.status);
            out.ext = u32::from(completion.error);
            return Ok(());
        }
        if !command.is_whole(&completion) {
            return Err(Failure::new(EIO, uapi::EXT_AES_DEVICE));
        }
        command.copy_result(&data, dst).map_err(no_memory)?;
        set_done(out, input, &request, &completion);
        Ok(())
    }
}

// Documentation/abi.rst 3 and 4.
#[kunit_tests(azihsm_ioctl)]
mod tests {
    use super::*;
    use crate::{
        session::Session,
        uapi::AesOut,
        wire::{
            aes::Cipher,
            request::{
                check_gcm,
                check_xts, //
            },
        },
    };
    use zerocopy::FromZeros;

    fn hsm(change: impl FnOnce(&mut HsmIn)) -> HsmIn {
        let mut input = HsmIn::new_zeroed();
        input.src = 0x1000;
        input.src_len = 10;
        input.dst = 0x2000;
        input.dst_len = 4096;
        change(&mut input);
        input
    }

    /// A command for XTS with 4096 bytes, in one unit.
    fn xts(change: impl FnOnce(&mut AesIn)) -> AesIn {
        let mut input = AesIn::new_zeroed();
        input.cipher = 1;
        input.src = 0x1000;
        input.src_len = 4096;
        input.dst = 0x2000;
        input.dst_len = 4096;
        input.frame_type = 1;
        input.session_id = 3;
        input.short_app_id = 9;
        change(&mut input);
        input
    }

    /// The parameters of GCM, as the structure has them.
    fn params(aad_len: u32, aad_padded_len: u32, unaligned: u8) -> [u8; 44] {
        crate::wire::by_hand::bytes(&[
            (0, &[0x04, 0x03, 0x02, 0x01]),
            (4, &[0x77; 16]),
            (20, &[0x69; 12]),
            (32, &aad_len.to_le_bytes()),
            (36, &aad_padded_len.to_le_bytes()),
            (40, &[unaligned]),
        ])
    }

    fn gcm(src_len: u32, dst_len: u32, params: [u8; 44]) -> AesIn {
        xts(|input| {
            input.cipher = 0;
            input.src_len = src_len;
            input.dst_len = dst_len;
            input.params = params;
        })
    }

    #[test]
    fn user_memory_ends_where_the_kernel_begins() {
        let cases = [
            (0, 0, true),
            (0, u32::MAX, true),
            (0x7fff_ffff_ffff_ffff, 0, true),
            (0x7fff_ffff_ffff_fffe, 1, true),
            (0x7fff_ffff_ffff_ffff, 1, false),
            (0x8000_0000_0000_0000, 0, false),
            (0x8000_0000_0000_0000, 1, false),
            (0xffff_ffff_ffff_ffff, 0, false),
            (0xffff_ffff_ffff_ffff, 1, false),
            (0xffff_ffff_ffff_ffff, 2, false),
            (0xffff_ffff_0000_0000, u32::MAX, false),
        ];
        for (address, len, ok) in cases {
            assert_eq!(is_user(address, len), ok);
        }
    }

    // 3.2, rows 6 to 11.
    #[test]
    fn what_a_hsm_command_says_is_checked_in_order() {
        let cases = [
            (hsm(|_| {}), None),
            (hsm(|input| input.opcode = 2), None),
            (hsm(|input| input.opcode = 1), Some(2)),
            (hsm(|input| input.opcode = 3), Some(2)),
            (hsm(|input| input.opcode = 0x100), Some(2)),
            (hsm(|input| input.cmdset = 1), Some(2)),
            (hsm(|input| input.cmdset = 0x100), Some(2)),
            (hsm(|input| input.src_len = 8192), None),
            (hsm(|input| input.src_len = 8193), Some(3)),
            (hsm(|input| input.src_len = u32::MAX), Some(3)),
            (hsm(|input| input.dst_len = 8192), None),
            (hsm(|input| input.dst_len = 8193), Some(4)),
            (hsm(|input| input.src_len = 0), Some(5)),
            (hsm(|input| input.src = 0), Some(5)),
            (hsm(|input| (input.src, input.src_len) = (0, 0)), None),
            (hsm(|input| input.dst_len = 0), Some(7)),
            (hsm(|input| input.dst = 0), Some(7)),
            (hsm(|input| (input.dst, input.dst_len) = (0, 0)), None),
            // The first that is wrong counts.
            (
                hsm(|input| (input.cmdset, input.src_len) = (1, 8193)),
                Some(2),
            ),
            (
                hsm(|input| (input.opcode, input.src_len) = (1, 8193)),
                Some(2),
            ),
            (
                hsm(|input| (input.src_len, input.dst_len) = (8193, 8193)),
                Some(3),
            ),
            (hsm(|input| (input.src, input.dst_len) = (0, 8193)), Some(4)),
            (hsm(|input| (input.src, input.dst) = (0, 0)), Some(5)),
        ];
        for (input, failure) in &cases {
            assert_eq!(check_hsm(input).err(), *failure);
        }
    }

    // 3.2: the flow goes as it is; the ID goes with all but none.
    #[test]
    fn the_device_is_told_of_the_session() {
        let cases = [
            (0x00, Flow::None, 0, false),
            (0x04, Flow::None, 0, false),
            (0x01, Flow::Open, 0x0102, false),
            (0x05, Flow::Open, 0x0102, true),
            (0x02, Flow::Close, 0x0102, false),
            (0x06, Flow::Close, 0x0102, true),
            (0x03, Flow::InSession, 0x0102, false),
            (0x07, Flow::InSession, 0x0102, true),
            (0xff, Flow::InSession, 0x0102, true),
            (0xf8, Flow::None, 0, false),
        ];
        for (flags, flow, id, id_valid) in cases {
            let input = hsm(|input| {
                input.opcode = 2;
                input.session.flags = flags;
                input.session.id = 0x0102;
            });
            let header = header(&input, Flow::of(flags));
            assert_eq!(header.opcode, 2);
            assert_eq!((header.src_len, header.dst_len), (10, 4096));
            assert_eq!((header.flow, header.id), (flow, id));
            assert_eq!(header.id_valid, id_valid);
        }
    }

    // 3.5, rows 8 to 10.
    #[test]
    fn an_aes_command_names_the_session_of_its_descriptor() {
        let session = |app| Session { id: 3, app };
        let cases = [
            (session(Some(9)), 3, 9, None),
            (session(None), 3, 9, Some(110)),
            (session(None), 4, 8, Some(110)),
            (session(Some(9)), 4, 9, Some(107)),
            (session(Some(9)), 4, 8, Some(107)),
            (session(Some(9)), 0x0103, 9, Some(107)),
            (session(Some(9)), 3, 8, Some(108)),
            (session(Some(0)), 3, 0, None),
        ];
        for (session, id, app, failure) in cases {
            let input = xts(|input| {
                input.session_id = id;
                input.short_app_id = app;
            });
            let caller = check_caller(session, &input);
            if let Ok(caller) = &caller {
                assert_eq!((caller.session, caller.app), (id, app));
            }
            assert_eq!(caller.err(), failure);
        }
    }

    // 3.5, rows 11 to 23.
    #[test]
    fn what_an_aes_command_says_is_checked_in_order() {
        const MIB_16: u32 = 16 << 20;
        const KERNEL: u64 = 1 << 63;
        let cases = [
            (xts(|_| {}), None),
            (xts(|input| input.op = 1), None),
            (xts(|input| input.op = 2), Some(114)),
            (xts(|input| input.op = 0xff), Some(114)),
            (xts(|input| input.cipher = 0), Some(112)),
            (xts(|input| input.cipher = 2), Some(112)),
            (xts(|input| input.dst_len = 4095), Some(118)),
            (xts(|input| input.frame_type = 0), Some(113)),
            (xts(|input| input.frame_type = 2), Some(113)),
            (xts(|input| input.src = 0), Some(101)),
            (xts(|input| input.src = KERNEL), Some(101)),
            (xts(|input| input.src = KERNEL - 4095), Some(101)),
            (xts(|input| input.src = KERNEL - 4097), None),
            (xts(|input| input.dst = 0), Some(103)),
            (xts(|input| input.dst = KERNEL), Some(103)),
            (
                xts(|input| (input.src_len, input.dst_len) = (MIB_16, MIB_16)),
                None,
            ),
            (
                xts(|input| (input.src_len, input.dst_len) = (MIB_16 + 1, MIB_16 + 1)),
                Some(115),
            ),
            (xts(|input| input.dst_len = MIB_16), None),
            (xts(|input| input.dst_len = MIB_16 + 1), Some(116)),
            // The first that is wrong counts.
            (xts(|input| (input.op, input.cipher) = (2, 2)), Some(114)),
            (
                xts(|input| (input.cipher, input.dst_len) = (2, 0)),
                Some(112),
            ),
            (
                xts(|input| (input.dst_len, input.frame_type) = (0, 0)),
                Some(118),
            ),
            (
                xts(|input| (input.frame_type, input.src) = (0, 0)),
                Some(113),
            ),
            (xts(|input| (input.src, input.dst) = (0, 0)), Some(101)),
            (
                xts(|input| (input.dst, input.dst_len) = (0, MIB_16 + 1)),
                Some(103),
            ),
        ];
        for (input, failure) in &cases {
            assert_eq!(check_aes(input, 1, true).err(), *failure);
        }
    }

    // 3.5, rows 13 and 14.
    #[test]
    fn xts_takes_whole_data_units() {
        let cases = [
            (0, 1, 1, true),
            (0, 16, 16, true),
            (0, 17, 17, true),
            (0, 16, 15, false),
            (0, 16, 17, true),
            (0, 0, 0, false),
            (1, 512, 512, true),
            (1, 1024, 1024, true),
            (1, 511, 511, false),
            (1, 513, 513, false),
            (2, 4096, 4096, true),
            (2, 8192, 8192, true),
            (2, 4095, 4096, false),
            (2, 512, 512, false),
            (3, 8192, 8192, true),
            (3, 16384, 16384, true),
            (3, 4096, 4096, false),
            (3, 8193, 8193, false),
            (4, 8192, 8192, false),
            (0x0101, 512, 512, false),
            (u16::MAX, 8192, 8192, false),
        ];
        for (unit, src_len, dst_len, ok) in cases {
            let input = xts(|input| {
                input.src_len = src_len;
                input.dst_len = dst_len;
                input.params = crate::wire::by_hand::bytes(&[
                    (0, &unit.to_le_bytes()),
                    (4, &[0x04, 0x03, 0x02, 0x01]),
                    (8, &[0x08, 0x07, 0x06, 0x05]),
                    (12, &[0x74; 16]),
                ]);
            });
            let cipher = check_xts(&input);
            assert_eq!(cipher.is_some(), ok);
            if let Some(cipher) = cipher {
                let passed_on = matches!(
                    cipher,
                    Cipher::Xts {
                        data_key: 0x0102_0304,
                        tweak_key: 0x0506_0708,
                        tweak: [0x74, .., 0x74],
                        data_unit,
                    } if data_unit == unit
                );
                assert!(passed_on);
            }
        }
    }

    // 3.5, rows 15 to 18. Lengths; with and without unaligned mode.
    #[test]
    fn gcm_lengths_fit_together() {
        let cases = [
            // Length, room, AAD, padded AAD; in unaligned mode; otherwise.
            (16, 16, 0, 0, true, true),
            (0, 0, 0, 0, false, false),
            (0, 16, 0, 0, false, false),
            (17, 17, 0, 0, true, true),
            (16, 15, 0, 0, false, false),
            (16, 17, 0, 0, true, true),
            // AAD without any text.
            (32, 32, 1, 32, true, true),
            (32, 32, 32, 32, true, true),
            (33, 33, 32, 32, true, true),
            // AAD that is longer than the source, padded or not.
            (32, 32, 33, 32, false, false),
            (31, 31, 1, 32, false, false),
            (32, 32, 32, 64, false, false),
            (32, 32, u32::MAX, u32::MAX, false, false),
            // Padding that is none; for the device to refuse, otherwise.
            (64, 64, 33, 32, false, true),
            (64, 64, 1, 0, false, true),
            (64, 64, 1, 16, false, true),
            (64, 64, 1, 33, false, true),
            (64, 64, 33, 64, true, true),
            (64, 64, 1, 64, true, true),
        ];
        for (src_len, dst_len, aad, padded, in_unaligned, otherwise) in cases {
            for (unaligned, can, mode, ok) in [
                (1, true, true, in_unaligned),
                (0x80, true, true, in_unaligned),
                (0, true, false, otherwise),
                (1, false, false, otherwise),
                (0, false, false, otherwise),
            ] {
                let input = gcm(src_len, dst_len, params(aad, padded, unaligned));
                let cipher = check_gcm(&input, can);
                assert_eq!(cipher.is_some(), ok);
                let Some(cipher) = cipher else {
                    continue;
                };
                let passed_on = matches!(
                    cipher,
                    Cipher::Gcm {
                        key: 0x0102_0304,
                        tag: [0x77, .., 0x77],
                        iv: [0x69, .., 0x69],
                        aad_len,
                        aad_padded_len,
                        tail,
                    } if aad_len == aad && aad_padded_len == padded && tail == mode
                );
                assert!(passed_on);
            }
        }
        // By its own extended status.
        let input = gcm(0, 0, params(0, 0, 1));
        assert_eq!(check_aes(&input, 0, true).err(), Some(117));
    }

    // 3.5: only a successful GCM encryption fills in tag and IV.
    #[test]
    fn a_tag_is_that_of_an_encryption() -> Result {
        let completion = aes::Completion {
            tag: [0x11; 16],
            iv: [0x22; 12],
            tail_len: 0,
            fips_approved: true,
            len: 4096,
            error: 0,
            status: 0,
        };
        let caller = || aes::Caller { session: 3, app: 9 };
        let cases = [
            (0, false, true),
            (0, true, false),
            (1, false, false),
            (1, true, false),
        ];
        for (number, decrypt, has_tag) in cases {
            let input = match number {
                0 => gcm(4096, 8192, params(0, 0, 0)),
                _ => xts(|input| input.dst_len = 8192),
            };
            let request = aes::Request {
                decrypt,
                caller: caller(),
                cipher: check_aes(&input, number, true).map_err(|_| EINVAL)?,
                len: 4096,
            };
            let mut out = AesOut::new(0x1234);
            set_done(&mut out, &input, &request, &completion);
            assert_eq!((out.ctxt, out.result, out.ext), (0x1234, 0, 0));
            assert_eq!(out.byte_count, 4096);
            assert_eq!(out.fips_approved, 1);
            assert_eq!(out.tag, if has_tag { [0x11; 16] } else { [0; 16] });
            assert_eq!(out.iv, if has_tag { [0x22; 12] } else { [0; 12] });
        }
        Ok(())
    }

    // 3.4.
    #[test]
    fn a_reset_is_of_type_1_or_2() {
        for condition in [Condition::Running, Condition::Recovering, Condition::Absent] {
            assert_eq!(reset_kind(condition, 1), Ok(Stop::Reset));
            assert_eq!(reset_kind(condition, 2), Ok(Stop::Disable));
            for kind in [0, 3, 0x0100_0001, u32::MAX] {
                assert_eq!(reset_kind(condition, kind), Err(4));
            }
        }
        for kind in [0, 1, 2, 3] {
            assert_eq!(reset_kind(Condition::Dead, kind), Err(2));
        }
    }

    #[test]
    fn a_reset_says_what_became_of_it() {
        let cases = [
            (Ok(Ok(Outcome::Done)), Ok(()), 0),
            (Ok(Ok(Outcome::Failed)), Err(EIO), 3),
            (Ok(Ok(Outcome::BadState)), Err(EINVAL), 2),
            (Ok(Ok(Outcome::Refused)), Err(EINVAL), 6),
            (Ok(Err(NotServed::TimedOut)), Err(EINVAL), 1),
            (Ok(Err(NotServed::Killed)), Err(EINTR), 1),
            (Ok(Err(NotServed::NoMemory)), Err(ENOMEM), 3),
            (Err(4), Err(EINVAL), 4),
            (Err(2), Err(EINVAL), 2),
        ];
        for (outcome, result, status) in cases {
            assert_eq!(reset_result(outcome), (result, status));
        }
    }

    // 3.2 and 3.5, rows 4 and 5; 3.1, row 2.
    #[test]
    fn a_controller_that_takes_no_commands_says_so() {
        let cases = [
            (Condition::Running, None),
            (Condition::Recovering, Some((EAGAIN, 0x0400_0001))),
            (Condition::Dead, Some((EAGAIN, 10))),
            (Condition::Absent, Some((ENODEV, 0))),
            (Condition::Gone, Some((ENODEV, 0))),
        ];
        for (condition, failure) in cases {
            let result = check_condition(condition, 10).err();
            assert_eq!(result.map(|failure| (failure.error, failure.ext)), failure);
        }
    }

    // 3.8: RECOVERING says that the device has not carried it out, ABORTED that it may have.
    #[test]
    fn a_command_without_completion_has_an_error() {
        let cases = [
            (Lost::Busy, EAGAIN, 0x0400_0002, false, false),
            (Lost::TimedOut, EAGAIN, 0x0400_0002, true, false),
            (Lost::Deserted, EAGAIN, 0x0400_0002, true, false),
            (Lost::Halted, EAGAIN, 0x0400_0002, true, true),
            (Lost::Refused, EAGAIN, 0x0400_0001, false, false),
            (Lost::Interrupted, EINTR, 0x0400_0002, false, false),
            (Lost::Killed, EINTR, 0x0400_0002, true, false),
        ];
        for (lost, error, ext, was_sent, has_ended) in cases {
            let lost = NotCompleted::from(lost);
            assert_eq!((lost.failure.error, lost.failure.ext), (error, ext));
            assert_eq!((lost.was_sent, lost.has_ended), (was_sent, has_ended));
        }
        let failed = NotCompleted::from(Failure::invalid(5));
        assert_eq!((failed.failure.error, failed.failure.ext), (EINVAL, 5));
        assert_eq!((failed.was_sent, failed.has_ended), (false, true));
    }
}
