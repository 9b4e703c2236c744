// SPDX-License-Identifier: GPL-2.0

//! Ioctls of the HSM node.
//!
//! Documentation/abi.rst 3. The checks are in the order that is laid down there.

use core::mem::size_of;

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
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
    queue::Lost,
    session::{
        Flow,
        Record, //
    },
    sys::{
        gate::Gate,
        node::FileOps,
        process::Process, //
    },
    uapi,
    uapi::{
        AesCmd,
        AesIn,
        DevInfo,
        Hdr,
        HsmCmd,
        HsmIn, //
    },
};

/// An open file of the HSM node.
#[pin_data]
pub(crate) struct File {
    gate: Arc<Gate<CtrlFamily>>,
    owner: Process,
    #[pin]
    record: Mutex<Record>,
}

impl FileOps for File {
    type Context = Arc<Gate<CtrlFamily>>;

    fn open(gate: &Self::Context) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self {
                gate: gate.clone(),
                owner: Process::current()?,
                record <- new_mutex!(Record::default(), "azihsm_record"),
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
                uapi::IOC_AES_GCM => this.aes_cmd(ctrl, arg, uapi::AES_GCM),
                uapi::IOC_AES_XTS => this.aes_cmd(ctrl, arg, uapi::AES_XTS),
                _ => Err(EBADRQC),
            }
        })?;
        Ok(0)
    }

    fn release(self: Pin<&Self>) {
        let Some(session) = self.record.lock().session() else {
            return;
        };
        // Without the device there is nobody to tell.
        let _ = self.gate.with(|ctrl| {
            ctrl.flush(session.id);
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
            Lost::TimedOut => Self::new(EAGAIN, uapi::EXT_ABORTED),
            Lost::Killed => Self::new(EINTR, uapi::EXT_ABORTED),
            Lost::Halted => Self::new(ENODEV, uapi::EXT_ABORTED),
        }
    }
}

/// Returns a view of `len` bytes of user memory at `address`.
fn user(address: u64, len: u32) -> UserSlice {
    // CAST: Addresses have 64 bits here, as the pointers of callers that are let in do. The length
    // is widened.
    UserSlice::new(UserPtr::from_addr(address as usize), len as usize)
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
fn read_sized<T: FromBytes>(arg: usize) -> Result<T> {
    let read = |len| UserSlice::new(UserPtr::from_addr(arg), len).reader();

    let hdr: Hdr = read(size_of::<Hdr>()).read()?;
    // CAST: Widening.
    if (hdr.size as usize) < size_of::<T>() {
        return Err(EINVAL);
    }
    read(size_of::<T>()).read()
}

/// Writes the part `out` of a structure at `arg`, at its `offset`.
///
/// # Errors
///
/// `EFAULT`.
fn write_at<T: AsBytes>(arg: usize, offset: usize, out: &T) -> Result {
    UserSlice::new(UserPtr::from_addr(arg.wrapping_add(offset)), size_of::<T>())
        .writer()
        .write(out)
}

/// Device info (abi.rst 3.3).
fn dev_info(ctrl: &Ctrl<'_>, arg: usize) -> Result {
    // The last byte is padding that the driver has never touched.
    const LEN: usize = size_of::<DevInfo>() - 1;
    let slice = || UserSlice::new(UserPtr::from_addr(arg), LEN);

    let mut bytes = [0; LEN];
    slice().reader().read_slice(&mut bytes)?;
    let [a, b, c, d, ..] = bytes;
    let argsz = u32::from_ne_bytes([a, b, c, d]);
    // CAST: Widening.
    if (argsz as usize) < size_of::<DevInfo>() {
        return Err(EINVAL);
    }
    let info = DevInfo {
        argsz,
        ..*ctrl.info()
    };
    slice()
        .writer()
        .write_slice(AsBytes::as_bytes(&info).get(..LEN).ok_or(EINVAL)?)
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
        write_at(arg, core::mem::offset_of!(HsmCmd, out), &cmd.out)?;
        result.map_err(|failure| failure.error)
    }

    fn hsm_run(&self, ctrl: &Ctrl<'_>, cmd: &mut HsmCmd) -> Result<(), Failure> {
        let input = &cmd.input;
        check_hsm(input)?;

        let flow = Flow::of(input.session.flags);
        let id = (input.session.flags & uapi::SESSION_ID_VALID != 0).then_some(input.session.id);
        if flow == Flow::Open {
            ctrl.make_room_for_session();
        }
        self.record
            .lock()
            .admit(flow, id)
            .map_err(Failure::invalid)?;

        let sent = self.hsm_send(ctrl, input, flow, id);
        let mut record = self.record.lock();
        let (command, completion) = match sent {
            Ok(completed) => completed,
            Err(failure) => {
                record.withdrawn(flow);
                return Err(failure);
            }
        };
        record.completed(flow, id, completion.status, &completion.report);
        drop(record);

        let len = u32::from(completion.len).min(input.dst_len);
        cmd.out.status = u32::from(completion.status);
        // CAST: Widening.
        command
            .copy_response(&mut user(input.dst, len).writer(), len as usize)
            .map_err(|_| Failure::invalid(uapi::EXT_HSM_DST))?;
        cmd.out.byte_count = len;
        Ok(())
    }

    fn hsm_send<'a>(
        &self,
        ctrl: &'a Ctrl<'a>,
        input: &HsmIn,
        flow: Flow,
        id: Option<u16>,
    ) -> Result<(hsm::Command<'a>, hsm::Completion), Failure> {
        if !is_user(input.src, input.src_len) {
            return Err(Failure::invalid(uapi::EXT_HSM_SRC));
        }
        if !is_user(input.dst, input.dst_len) {
            return Err(Failure::invalid(uapi::EXT_HSM_DST));
        }
        let patience = ctrl.patience();
        let mut command = hsm::Command::new(ctrl.hsm().take(ctrl.doorbells(), patience)?);
        // CAST: Widening.
        command
            .fill(
                &mut user(input.src, input.src_len).reader(),
                input.src_len as usize,
            )
            .map_err(|_| Failure::invalid(uapi::EXT_HSM_SRC))?;

        // Without a session the fields are 0.
        let id = if flow == Flow::None { None } else { id };
        Ok(command.run(
            input.opcode,
            input.src_len,
            input.dst_len,
            flow,
            id,
            patience,
        )?)
    }

    /// AES command (abi.rst 3.5).
    fn aes_cmd(&self, ctrl: &Ctrl<'_>, arg: usize, cipher: u8) -> Result {
        let mut cmd: AesCmd = read_sized(arg)?;
        cmd.out = uapi::AesOut::new(cmd.input.ctxt);
        let result = self.aes_run(ctrl, &mut cmd, cipher);
        if let Err(failure) = &result {
            cmd.out.ext = failure.ext;
        }
        write_at(arg, core::mem::offset_of!(AesCmd, out), &cmd.out)?;
        result.map_err(|failure| failure.error)
    }

    /// Checks that the session of an AES command is that of the descriptor.
    fn aes_caller(&self, input: &AesIn) -> Result<aes::Caller, Failure> {
        let session = self
            .record
            .lock()
            .session()
            .ok_or(Failure::invalid(uapi::EXT_AES_NO_SESSION))?;
        let app = session.app.ok_or(Failure::invalid(uapi::EXT_AES_NO_APP))?;
        if input.session_id != session.id {
            return Err(Failure::invalid(uapi::EXT_AES_SESSION_MISMATCH));
        }
        if input.short_app_id != app {
            return Err(Failure::invalid(uapi::EXT_AES_APP_MISMATCH));
        }
        Ok(aes::Caller {
            session: session.id,
            app,
        })
    }

    fn aes_run(&self, ctrl: &Ctrl<'_>, cmd: &mut AesCmd, cipher: u8) -> Result<(), Failure> {
        let input = &cmd.input;
        if ctrl.aes().queues().is_empty() {
            return Err(Failure::invalid(uapi::EXT_AES_NO_QUEUES));
        }
        let caller = self.aes_caller(input)?;
        let cipher = check_aes(input, cipher, ctrl.gcm_unaligned())?;
        let decrypt = input.op == uapi::AES_DECRYPT;

        let patience = ctrl.patience();
        let owned = ctrl.aes().take(ctrl.doorbells(), patience)?;
        let mut command = aes::Command::new(owned, input.src_len)
            .map_err(|_| Failure::invalid(uapi::EXT_AES_SRC_LEN))?;
        command
            .fill(&mut user(input.src, input.src_len).reader())
            .map_err(|error| Failure::new(error, uapi::EXT_AES_SRC))?;
        let (command, completion) = command.run(decrypt, caller, &cipher, patience)?;

        let out = &mut cmd.out;
        if completion.status != 0 {
            out.result = u32::from(completion.status);
            out.ext = u32::from(completion.error);
            return Ok(());
        }
        if !command.is_whole(&completion) {
            return Err(Failure::new(EIO, uapi::EXT_AES_DEVICE));
        }
        command
            .copy_result(&mut user(input.dst, input.src_len).writer())
            .map_err(|error| Failure::new(error, uapi::EXT_AES_DST))?;
        out.byte_count = input.src_len;
        out.fips_approved = u8::from(completion.fips_approved);
        // The tag of a decryption would tell how to forge one.
        if !decrypt && matches!(cipher, aes::Cipher::Gcm { .. }) {
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
    if input.dst_len < input.src_len
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
