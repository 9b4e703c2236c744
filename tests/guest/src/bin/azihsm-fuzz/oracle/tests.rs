// SPDX-License-Identifier: GPL-2.0

use super::*;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;

const AT: u64 = 0x10_0000;
const BUFFER: u64 = 0x20_0000;
const READ_ONLY: u64 = 0x30_0000;
/// More than is ever copied.
const LONG: u64 = 0x100_0000;
const PAGE: u64 = 0x1000;

fn map() -> Map {
    let mut map = Map::default();
    map.add(0..1 << 32, Certainty::No, Certainty::No);
    for start in [AT, BUFFER] {
        map.add(start..start + 8 * PAGE, Certainty::Yes, Certainty::Yes);
    }
    map.add(READ_ONLY..READ_ONLY + PAGE, Certainty::Yes, Certainty::No);
    let long = LONG..LONG + u64::from(MAX_BOUNCED) + PAGE;
    map.add(long, Certainty::Yes, Certainty::Yes);
    map
}

fn hsm() -> HsmCmd {
    let mut cmd = HsmCmd::new_zeroed();
    cmd.hdr.size = 112;
    cmd.input.ctxt = 5;
    cmd.input.src = BUFFER;
    cmd.input.src_len = 13;
    cmd.input.dst = BUFFER + PAGE;
    cmd.input.dst_len = 100;
    cmd.output.ext = 77;
    cmd
}

fn gcm() -> AesCmd {
    let mut cmd = AesCmd::new_zeroed();
    cmd.hdr.size = 400;
    cmd.input.ctxt = 5;
    cmd.input.src = BUFFER;
    cmd.input.src_len = 64;
    cmd.input.dst = BUFFER + PAGE;
    cmd.input.dst_len = 70;
    cmd.input.frame_type = 1;
    cmd.input.short_app_id = APP;
    cmd
}

/// What is wrong with a call of the owner.
fn judged(number: u32, address: u64, before: &[u8], seen: &Seen) -> Judgement {
    let call = Call {
        number,
        who: Who::Owner,
        address,
        before: before.to_vec(),
        stable: true,
    };
    judge(&call, seen, &map(), &[0; 176])
}

fn findings(number: u32, before: &[u8], result: Result<i32, Errno>, after: &[u8]) -> Vec<Property> {
    let after = Some(after.to_vec());
    judged(number, AT, before, &Seen { result, after })
        .findings
        .into_iter()
        .map(|(property, _)| property)
        .collect()
}

/// What is wrong with a HSM command that ended like this.
fn hsm_ends(cmd: &HsmCmd, result: Result<i32, Errno>, out: abi::HsmOut) -> Vec<Property> {
    let mut after = *cmd;
    after.output = out;
    findings(abi::IOC_HSM_CMD, cmd.as_bytes(), result, after.as_bytes())
}

fn out(status: u32, byte_count: u32, code: u32) -> abi::HsmOut {
    abi::HsmOut {
        ctxt: 5,
        status,
        byte_count,
        ext: code,
        pad: 0,
    }
}

/// What is wrong with an AES command that ended like this.
fn aes_ends(
    cmd: &AesCmd,
    result: Result<i32, Errno>,
    change: impl FnOnce(&mut abi::AesOut),
) -> Vec<Property> {
    let mut after = *cmd;
    after.output = abi::AesOut::new_zeroed();
    after.output.ctxt = 5;
    change(&mut after.output);
    findings(abi::IOC_AES_GCM, cmd.as_bytes(), result, after.as_bytes())
}

const INVALID: Result<i32, Errno> = Err(Errno::INVAL);
const NONE: [Property; 0] = [];

#[test]
fn a_good_hsm_command_may_end_in_these_ways() {
    let cmd = hsm();
    for (result, out) in [
        (Ok(0), out(0, 100, 0)),
        (Ok(0), out(0xc1, 0, 0)),
        (Err(Errno::AGAIN), out(0, 0, ext::RECOVERING)),
        (Err(Errno::AGAIN), out(0, 0, ext::ABORTED)),
    ] {
        assert_eq!(hsm_ends(&cmd, result, out), NONE, "{result:?}");
    }
}

#[test]
fn a_good_hsm_command_ends_in_no_other_way() {
    let cmd = hsm();
    for (result, out) in [
        (Ok(1), out(0, 100, 0)),
        (Ok(0), out(0, 101, 0)),
        (Ok(0), out(0xc1, 1, 0)),
        (Ok(0), out(0x800, 0, 0)),
        (Ok(0), out(0, 10, 12)),
        (INVALID, out(0, 0, ext::HSM_SRC)),
        (INVALID, out(0, 0, ext::HSM_DST)),
        (INVALID, out(0, 0, 0)),
        (Err(Errno::AGAIN), out(0, 0, ext::HSM_NOT_READY)),
        (Err(Errno::AGAIN), out(0, 4, ext::ABORTED)),
        (Err(Errno::INTR), out(0, 0, ext::ABORTED)),
        (Err(Errno::IO), out(0, 0, 0)),
        (Err(Errno::FAULT), out(0, 0, 0)),
        (Err(Errno::BADRQC), out(0, 0, 0)),
    ] {
        assert_ne!(hsm_ends(&cmd, result, out), NONE, "{result:?} {out:?}");
    }
    let mut wrong = out(0, 10, 0);
    wrong.ctxt = 6;
    assert_eq!(hsm_ends(&cmd, Ok(0), wrong), [Property::Output]);
}

#[test]
fn the_first_row_decides() {
    let mut cmd = hsm();
    cmd.input.dst_len = 9000;
    cmd.input.opcode = 1;
    assert_eq!(hsm_ends(&cmd, INVALID, out(0, 0, ext::HSM_CMDSET)), NONE);
    for code in [ext::HSM_DST_LEN, ext::HSM_SESSION_LIMIT, 0] {
        let found = hsm_ends(&cmd, INVALID, out(0, 0, code));
        assert_eq!(found, [Property::Returns], "{code}");
    }
    assert_ne!(hsm_ends(&cmd, Ok(0), out(0, 0, 0)), NONE);
}

#[test]
fn sessions_are_checked_before_memory() {
    let mut cmd = hsm();
    cmd.input.session.flags = abi::FLOW_CLOSE;
    cmd.input.src = u64::MAX;
    for (code, good) in [
        (ext::HSM_NO_SESSION, true),
        (ext::HSM_SESSION_MISMATCH, true),
        (ext::HSM_SRC, false),
        (ext::HSM_SESSION_LIMIT, false),
    ] {
        let found = hsm_ends(&cmd, INVALID, out(0, 0, code));
        assert_eq!(found.is_empty(), good, "{code}");
    }
}

#[test]
fn a_response_that_cannot_be_written_may_be_lost_or_short() {
    let mut cmd = hsm();
    cmd.input.dst = BUFFER + 8 * PAGE - 20;
    assert_eq!(hsm_ends(&cmd, INVALID, out(0x7, 0, ext::HSM_DST)), NONE);
    assert_eq!(hsm_ends(&cmd, Ok(0), out(0, 20, 0)), NONE);
    assert_eq!(hsm_ends(&cmd, Ok(0), out(0, 21, 0)), [Property::Output]);
}

#[test]
fn a_request_that_cannot_be_read_is_not_carried_out() {
    let mut cmd = hsm();
    cmd.input.src = BUFFER + 8 * PAGE - 12;
    assert_eq!(hsm_ends(&cmd, INVALID, out(0, 0, ext::HSM_SRC)), NONE);
    assert_ne!(hsm_ends(&cmd, Ok(0), out(0, 10, 0)), NONE);
}

#[test]
fn the_structure_decides_first() {
    let mut small = hsm();
    small.hdr.size = 111;
    let end = 8 * PAGE + AT;
    for (address, cmd, errno) in [
        (AT, &small, Errno::INVAL),
        (end - 15, &hsm(), Errno::FAULT),
        (end - 16, &hsm(), Errno::FAULT),
        (end - 16, &small, Errno::INVAL),
        (end - 111, &hsm(), Errno::FAULT),
        (0, &hsm(), Errno::FAULT),
        (u64::MAX, &hsm(), Errno::FAULT),
        (READ_ONLY, &hsm(), Errno::FAULT),
    ] {
        for result in [Err(errno), Ok(0), Err(Errno::AGAIN)] {
            let seen = Seen {
                result,
                after: None,
            };
            let judgement = judged(abi::IOC_HSM_CMD, address, cmd.as_bytes(), &seen);
            let good = judgement.findings.is_empty();
            assert_eq!(good, result == Err(errno), "{address:#x} {result:?}");
            let carried_out = address == READ_ONLY;
            assert_eq!(judgement.allowed.is_empty(), !carried_out, "{address:#x}");
        }
    }
}

#[test]
fn what_may_be_written_is_known() {
    let cmd = hsm();
    let mut after = cmd;
    after.output = out(0, 30, 0);
    let seen = Seen {
        result: Ok(0),
        after: Some(after.as_bytes().to_vec()),
    };
    let judgement = judged(abi::IOC_HSM_CMD, AT, cmd.as_bytes(), &seen);
    let reply = BUFFER + PAGE;
    assert_eq!(judgement.allowed, [AT + 88..AT + 112, reply..reply + 30]);
    assert_eq!(judgement.reply, reply..reply + 100);
}

#[test]
fn a_good_aes_command_may_end_in_these_ways() {
    let cmd = gcm();
    let result = |code| aes_ends(&cmd, Err(Errno::AGAIN), |out| out.ext = code);
    assert_eq!(result(ext::RECOVERING), NONE);
    assert_eq!(result(ext::ABORTED), NONE);
    assert_ne!(result(ext::AES_DEVICE), NONE);
    let done = |count| {
        aes_ends(&cmd, Ok(0), |out| {
            out.byte_count = count;
            out.tag = [1; 16];
        })
    };
    assert_eq!(done(64), NONE);
    assert_ne!(done(63), NONE);
    assert_ne!(done(70), NONE);
    let refused = |count| {
        aes_ends(&cmd, Ok(0), |out| {
            out.result = 2;
            out.ext = 8;
            out.byte_count = count;
        })
    };
    assert_eq!(refused(0), NONE);
    assert_ne!(refused(64), NONE);
    let contradiction = aes_ends(&cmd, Err(Errno::IO), |out| out.ext = ext::AES_DEVICE);
    assert_ne!(contradiction, NONE);
}

#[test]
fn decryptions_tell_no_tag() {
    let mut cmd = gcm();
    cmd.input.op = abi::AES_DECRYPT;
    let done = |tag| {
        aes_ends(&cmd, Ok(0), |out| {
            out.byte_count = 64;
            out.tag = tag;
        })
    };
    assert_eq!(done([0; 16]), NONE);
    assert_eq!(done([1; 16]), [Property::Output]);
}

#[test]
fn aes_rows_are_in_order() {
    let set = |change: fn(&mut AesCmd)| {
        let mut cmd = gcm();
        change(&mut cmd);
        cmd
    };
    for (cmd, code) in [
        (set(|cmd| cmd.input.session_id = 8), 107),
        (set(|cmd| cmd.input.short_app_id = 2), 108),
        (set(|cmd| cmd.input.op = 2), 114),
        (set(|cmd| cmd.input.cipher = 1), 112),
        (set(|cmd| cmd.input.src_len = 0), 117),
        (set(|cmd| cmd.input.dst_len = 63), 117),
        (set(|cmd| cmd.input.params[32] = 65), 117),
        (set(|cmd| cmd.input.frame_type = 0), 113),
        (set(|cmd| cmd.input.src = 0), 101),
        (set(|cmd| cmd.input.dst = 1 << 63), 103),
        (
            set(|cmd| {
                cmd.input.src_len = (16 << 20) + 1;
                cmd.input.dst_len = u32::MAX;
            }),
            115,
        ),
        (set(|cmd| cmd.input.dst_len = (16 << 20) + 1), 116),
    ] {
        for other in 101..=118 {
            let found = aes_ends(&cmd, INVALID, |out| out.ext = other);
            // These depend on what others did with the descriptor.
            let session = matches!(other, ext::AES_NO_SESSION | ext::AES_SESSION_MISMATCH);
            assert_eq!(found.is_empty(), session || other == code, "{code} {other}");
        }
    }
}

#[test]
fn memory_of_aes_commands_is_seen_beforehand_only_in_place() {
    let mut cmd = gcm();
    cmd.input.dst = READ_ONLY;
    let fault = |cmd: &AesCmd| aes_ends(cmd, Err(Errno::FAULT), |out| out.ext = 100);
    let refused = |cmd: &AesCmd| aes_ends(cmd, Ok(0), |out| out.result = 1);
    assert_eq!(fault(&cmd), NONE);
    assert_eq!(refused(&cmd), NONE);
    // There may have been buffers, or not.
    cmd.input.src_len = 16384;
    cmd.input.dst_len = 16384;
    assert_eq!(fault(&cmd), NONE);
    assert_eq!(refused(&cmd), NONE);
    cmd.input.dst = BUFFER;
    assert_ne!(fault(&cmd), NONE);
    cmd.input.src = READ_ONLY;
    assert_eq!(fault(&cmd), NONE);
    cmd.input.src = LONG;
    cmd.input.src_len = MAX_BOUNCED + 16;
    cmd.input.dst_len = cmd.input.src_len;
    cmd.input.dst = READ_ONLY;
    assert_eq!(fault(&cmd), NONE);
    assert_ne!(refused(&cmd), NONE);
}

#[test]
fn resets_of_no_kind_are_refused() {
    let mut reset = Reset::new_zeroed();
    reset.hdr.size = 272;
    let ends = |kind, result, status| {
        let mut before = reset;
        before.kind = kind;
        let mut after = before;
        after.status = status;
        findings(abi::IOC_RESET, before.as_bytes(), result, after.as_bytes())
    };
    assert_eq!(ends(1, Ok(0), abi::RESET_OK), NONE);
    assert_eq!(ends(2, INVALID, abi::RESET_BUSY), NONE);
    assert_eq!(ends(3, INVALID, abi::RESET_BAD_TYPE), NONE);
    assert_ne!(ends(3, Ok(0), abi::RESET_OK), NONE);
    assert_ne!(ends(1, INVALID, abi::RESET_BAD_TYPE), NONE);
    assert_ne!(ends(1, Ok(0), abi::RESET_BUSY), NONE);
    assert_ne!(ends(1, Err(Errno::IO), abi::RESET_FAILED), NONE);
}

#[test]
fn info_is_always_the_same() {
    let mut before = DevInfo::new_zeroed();
    before.argsz = 176;
    before.pad = 9;
    let ends = |result, change: fn(&mut DevInfo)| {
        let mut after = before;
        change(&mut after);
        let (before, after) = (before.as_bytes(), after.as_bytes());
        findings(abi::IOC_DEV_INFO, before, result, after)
    };
    assert_eq!(ends(Ok(0), |info| info.entropy = [7; 32]), NONE);
    for change in [
        |info: &mut DevInfo| info.argsz = 177,
        |info: &mut DevInfo| info.pad = 0,
        |info: &mut DevInfo| info.serial = [b'x'; 33],
        |info: &mut DevInfo| info.reserved = [1; 17],
    ] {
        assert_eq!(ends(Ok(0), change), [Property::Output]);
    }
    assert_ne!(ends(INVALID, |_| {}), NONE);
}

#[test]
fn numbers_nobody_knows_have_one_end() {
    for (number, result, good) in [
        (0xc070_4202, Err(Errno::BADRQC), true),
        (0xc070_4202, Err(Errno::NOTTY), false),
        (0xc071_4203, Ok(0), false),
        (0x0000_5451, Ok(0), true),
    ] {
        let found = findings(number, &[0; 112], result, &[0; 112]);
        assert_eq!(found.is_empty(), good, "{number:#x} {result:?}");
    }
}

#[test]
fn others_are_turned_away_first() {
    let call = Call {
        number: 0xdead_beef,
        who: Who::Foreign,
        address: 0,
        before: Vec::new(),
        stable: true,
    };
    for (result, good) in [
        (Err(Errno::ACCESS), true),
        (Err(Errno::BADRQC), false),
        (Ok(0), false),
    ] {
        let seen = Seen {
            result,
            after: None,
        };
        let judgement = judge(&call, &seen, &map(), &[0; 176]);
        assert_eq!(judgement.findings.is_empty(), good, "{result:?}");
    }
}

#[test]
fn what_changes_meanwhile_still_ends_as_documented() {
    let call = Call {
        number: abi::IOC_AES_XTS,
        who: Who::Owner,
        address: AT,
        before: vec![0; 400],
        stable: false,
    };
    for (result, good) in [
        (Ok(0), true),
        (Err(Errno::NOMEM), true),
        (Err(Errno::INTR), false),
        (Err(Errno::IO), false),
    ] {
        let seen = Seen {
            result,
            after: None,
        };
        let judgement = judge(&call, &seen, &map(), &[0; 176]);
        assert_eq!(judgement.findings.is_empty(), good, "{result:?}");
    }
}
