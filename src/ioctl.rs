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
        self.orphans.keep(session.id);
        self.orphans.lose_owner(session.id, era);
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

/// Returns whether `len` bytes at `address` may be user memory at all.
fn is_user(address: u64, len: u32) -> bool {
    // The kernel's half of the address space has the highest bit set.
    address
        .checked_add(u64::from(len))
        .is_some_and(|end| end >> 63 == 0)
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
    // CAST: Widening.
    if (size as usize) < size_of::<T>() {
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
fn finish<T: AsBytes>(
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
fn dev_info(ctrl: &Ctrl<'_>, arg: usize) -> Result {
    // The last byte is padding that the driver has never touched.
    const LEN: usize = size_of::<DevInfo>() - 1;
    let slice = || UserSlice::new(UserPtr::from_addr(arg), LEN);

    let [a, b, c, d, ..] = slice().reader().read::<[u8; LEN]>()?;
    let argsz = u32::from_ne_bytes([a, b, c, d]);
    // CAST: Widening.
    if (argsz as usize) < size_of::<DevInfo>() {
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
    let how: Result<Stop, u32> = match request.kind {
        _ if ctrl.condition() == Condition::Dead => Err(uapi::RESET_BAD_STATE),
        uapi::RESET_SUBSYSTEM => Ok(Stop::Reset),
        uapi::RESET_CONTROLLER => Ok(Stop::Disable),
        _ => Err(uapi::RESET_BAD_TYPE),
    };
    let (result, status) = match how.map(|how| ctrl.request_reset(how)) {
        Ok(Ok(Outcome::Done)) => (Ok(()), uapi::RESET_OK),
        Ok(Ok(Outcome::Failed)) => (Err(EIO), uapi::RESET_FAILED),
        Ok(Ok(Outcome::BadState)) => (Err(EINVAL), uapi::RESET_BAD_STATE),
        Ok(Ok(Outcome::Refused)) => (Err(EINVAL), uapi::RESET_UNSUPPORTED),
        Ok(Err(NotServed::TimedOut)) => (Err(EINVAL), uapi::RESET_BUSY),
        Ok(Err(NotServed::Killed)) => (Err(EINTR), uapi::RESET_BUSY),
        Ok(Err(NotServed::NoMemory)) => (Err(ENOMEM), uapi::RESET_FAILED),
        Err(status) => (Err(EINVAL), status),
    };
    finish(ctrl, arg, offset_of!(uapi::Reset, status), &status, result)
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
        check_hsm(input)?;

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
        if desk.record.session().is_some() && self.era.load(Relaxed) != self.orphans.era() {
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
                unsure = was_sent && has_ended && matches!(flow, Flow::Open | Flow::Close);
                if was_sent {
                    record.lost(flow);
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
                self.orphans.gain_owner(id, era);
            }
            if let Some(id) = before {
                self.orphans.lose_owner(id, era);
            }
        }
        if unsure {
            self.orphans.set_unsure();
        }
        result
    }

    /// Checks that a command fits the session of the descriptor, and returns what it is to hold.
    fn admit(&self, flow: Flow, session: &uapi::Session) -> Result<hsm::Held, Failure> {
        let id = (session.flags & uapi::SESSION_ID_VALID != 0).then_some(session.id);
        let mut desk = self.lock_desk();

        desk.record.admit(flow, id).map_err(Failure::invalid)?;
        Ok(match flow {
            Flow::InSession => hsm::Held::User(self.users.token()),
            Flow::Close => hsm::Held::Closing(self.orphans.closing(session.id)),
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

        let header = hsm::Header {
            opcode: input.opcode,
            src_len: input.src_len,
            dst_len: input.dst_len,
            flow,
            // Without a session both fields are 0.
            id: match flow {
                Flow::None => 0,
                _ => input.session.id,
            },
            id_valid: flow != Flow::None && input.session.flags & uapi::SESSION_ID_VALID != 0,
        };
        Ok(command.run(&header, held, patience)?)
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
        let app = session.app.ok_or(Failure::invalid(uapi::EXT_AES_NO_APP))?;
        if input.session_id != session.id {
            return Err(Failure::invalid(uapi::EXT_AES_SESSION_MISMATCH));
        }
        if input.short_app_id != app {
            return Err(Failure::invalid(uapi::EXT_AES_APP_MISMATCH));
        }
        let caller = aes::Caller {
            session: session.id,
            app,
        };
        desk.aes_commands = desk.aes_commands.wrapping_add(1);
        Ok((caller, self.users.token()))
    }

    fn aes_run(&self, ctrl: &Ctrl<'_>, cmd: &mut AesCmd, cipher: u8) -> Result<(), Failure> {
        let input = &cmd.input;
        check_condition(ctrl.condition(), uapi::EXT_AES_DEVICE)?;
        if ctrl.aes().queues().is_empty() {
            return Err(Failure::invalid(uapi::EXT_AES_NO_QUEUES));
        }
        let (caller, token) = self.aes_caller(input)?;
        let request = aes::Request {
            cipher: check_aes(input, cipher, ctrl.gcm_unaligned())?,
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
        let (command, completion, data) = command.run(token, data, patience)?;

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
        out.byte_count = input.src_len;
        out.fips_approved = u8::from(completion.fips_approved);
        // The tag of a decryption would tell how to forge one.
        if !request.decrypt && matches!(request.cipher, aes::Cipher::Gcm { .. }) {
            out.tag = completion.tag;
            out.iv = completion.iv;
        }
        Ok(())
    }
}

/// Checks what a HSM command says of itself.
fn check_hsm(input: &HsmIn) -> Result<(), Failure> {
    // CAST: A small constant.
    const MAX_LEN: u32 = uapi::HSM_MAX_LEN as u32;
    let checks = [
        (input.cmdset != 0, uapi::EXT_HSM_CMDSET),
        // The device flushes sessions by opcode 1, whoever they belong to.
        (
            !matches!(input.opcode, uapi::HSM_OP_MBOR | uapi::HSM_OP_TBOR),
            uapi::EXT_HSM_CMDSET,
        ),
        (input.src_len > MAX_LEN, uapi::EXT_HSM_SRC_LEN),
        (input.dst_len > MAX_LEN, uapi::EXT_HSM_DST_LEN),
        ((input.src_len == 0) != (input.src == 0), uapi::EXT_HSM_SRC),
        ((input.dst_len == 0) != (input.dst == 0), uapi::EXT_HSM_DST),
    ];
    match checks.iter().find(|(wrong, _)| *wrong) {
        Some((_, ext)) => Err(Failure::invalid(*ext)),
        None => Ok(()),
    }
}

/// Checks what an AES command says of itself, and returns its cipher.
fn check_aes(input: &AesIn, cipher: u8, gcm_unaligned: bool) -> Result<aes::Cipher, Failure> {
    let check = |ok: bool, ext: u32| {
        if ok {
            Ok(())
        } else {
            Err(Failure::invalid(ext))
        }
    };

    check(
        matches!(input.op, uapi::AES_ENCRYPT | uapi::AES_DECRYPT),
        uapi::EXT_AES_OP,
    )?;
    check(input.cipher == cipher, uapi::EXT_AES_CIPHER)?;
    let cipher = match cipher {
        uapi::AES_XTS => check_xts(input).ok_or(Failure::invalid(uapi::EXT_AES_XTS))?,
        _ => check_gcm(input, gcm_unaligned).ok_or(Failure::invalid(uapi::EXT_AES_GCM))?,
    };
    check(
        input.frame_type == uapi::AES_FRAME,
        uapi::EXT_AES_FRAME_TYPE,
    )?;
    check(
        input.src != 0 && input.src_len != 0 && is_user(input.src, input.src_len),
        uapi::EXT_AES_SRC,
    )?;
    check(
        input.dst != 0 && input.dst_len != 0 && is_user(input.dst, input.dst_len),
        uapi::EXT_AES_DST,
    )?;
    check(input.src_len <= uapi::AES_MAX_LEN, uapi::EXT_AES_SRC_LEN)?;
    check(input.dst_len <= uapi::AES_MAX_LEN, uapi::EXT_AES_DST_LEN)?;
    Ok(cipher)
}

fn check_xts(input: &AesIn) -> Option<aes::Cipher> {
    let params = input.xts();
    let unit = match params.data_unit {
        0 => input.src_len,
        1 => 512,
        2 => 4096,
        3 => 8192,
        _ => return None,
    };
    let whole_units = input.src_len.checked_rem(unit)? == 0;
    if input.dst_len < input.src_len || !whole_units {
        return None;
    }
    Some(aes::Cipher::Xts {
        data_key: params.data_key_id,
        tweak_key: params.tweak_key_id,
        tweak: params.tweak,
        data_unit: params.data_unit,
    })
}

fn check_gcm(input: &AesIn, gcm_unaligned: bool) -> Option<aes::Cipher> {
    let params = input.gcm();
    let tail = gcm_unaligned && params.unaligned != 0;
    let padding_ok = params.aad_padded_len >= params.aad_len && params.aad_padded_len % 32 == 0;
    if input.src_len == 0
        || input.dst_len < input.src_len
        || params.aad_len > input.src_len
        || params.aad_padded_len > input.src_len
        || (tail && !padding_ok)
    {
        return None;
    }
    Some(aes::Cipher::Gcm {
        key: params.key_id,
        tag: params.tag,
        iv: params.iv,
        aad_len: params.aad_len,
        aad_padded_len: params.aad_padded_len,
        tail,
    })
}
