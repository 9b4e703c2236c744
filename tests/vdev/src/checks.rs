// SPDX-License-Identifier: GPL-2.0

//! Rules for SQ entries that the device itself does not enforce.
//!
//! See Documentation/device.rst, sections 4.1, 5.1 and 6.1.

use crate::bytes::get_u16;
use crate::bytes::get_u32;
use crate::bytes::get_u64;
use crate::bytes::get_u8;
use crate::bytes::is_zero;
use crate::queue::Class;
use crate::strict::Rule;

/// A broken rule and what exactly broke it.
pub type Finding = (Rule, String);

/// Everything that is wrong with an entry.
pub fn check_sqe(class: Class, sqe: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    match class {
        Class::Admin => check_admin(sqe, &mut findings),
        Class::Hsm => check_hsm(sqe, &mut findings),
        Class::Aes => check_aes(sqe, &mut findings),
    }
    findings
}

fn zero(sqe: &[u8], fields: &[(usize, usize)], rule: Rule, findings: &mut Vec<Finding>) {
    for (start, end) in fields {
        if !is_zero(sqe, *start..*end) {
            findings.push((rule, format!("bytes {start}..{end}")));
        }
    }
}

fn page_aligned(sqe: &[u8], fields: &[usize], findings: &mut Vec<Finding>) {
    for offset in fields {
        let address = get_u64(sqe, *offset);
        if address % 4096 != 0 {
            findings.push((Rule::PrpAlignment, format!("{address:#x} at byte {offset}")));
        }
    }
}

fn check_admin(sqe: &[u8], findings: &mut Vec<Finding>) {
    let opcode = get_u8(sqe, 0);
    let flags = get_u8(sqe, 1);
    if flags >> 6 != 0 {
        findings.push((Rule::SqePsdt, format!("{}", flags >> 6)));
    }
    if flags & 0x3f != 0 {
        findings.push((Rule::SqeReserved, format!("flags {flags:#x}")));
    }
    zero(
        sqe,
        &[(4, 16), (16, 24), (32, 40)],
        Rule::SqeReserved,
        findings,
    );
    let unused: &[(usize, usize)] = match opcode {
        0x00 | 0x04 => &[(24, 32), (42, 64)],
        0x01 | 0x05 => &[(48, 64)],
        0x06 => &[(44, 64)],
        0x09 => &[(24, 32), (41, 44), (48, 64)],
        0x0a => &[(24, 32), (41, 64)],
        0xc3 => &[(24, 32)],
        0xc4..=0xc7 => &[(24, 32), (44, 64)],
        0xc8 | 0xc9 => &[(44, 64)],
        _ => &[],
    };
    zero(sqe, unused, Rule::SqeUnusedField, findings);
    if matches!(opcode, 0x06 | 0xc8 | 0xc9) {
        page_aligned(sqe, &[24], findings);
        if get_u64(sqe, 24) == 0 {
            findings.push((Rule::PrpZero, "PRP1".into()));
        }
    }
    let flags = get_u16(sqe, 44);
    let reserved = match opcode {
        0x01 => !7,
        0x05 => !3,
        _ => 0,
    };
    if flags & reserved != 0 {
        findings.push((Rule::SqeReserved, format!("queue flags {flags:#x}")));
    }
}

fn check_hsm(sqe: &[u8], findings: &mut Vec<Finding>) {
    let opcode = get_u16(sqe, 0) & 0x3ff;
    let psdt = get_u16(sqe, 0) >> 14;
    if psdt != 0 {
        findings.push((Rule::SqePsdt, format!("{psdt}")));
    }
    let flags = get_u8(sqe, 44);
    if flags & !7 != 0 {
        findings.push((Rule::SqeReserved, format!("session flags {flags:#x}")));
    }
    zero(sqe, &[(45, 48), (50, 64)], Rule::SqeReserved, findings);
    page_aligned(sqe, &[8, 16, 28, 36], findings);
    if opcode == 1 {
        zero(sqe, &[(4, 8), (24, 28)], Rule::SqeUnusedField, findings);
        if get_u64(sqe, 28) == 0 {
            findings.push((Rule::FlushDestinationZero, "PRP1".into()));
        }
        return;
    }
    if get_u64(sqe, 28) == 0 {
        findings.push((Rule::HsmDestinationZero, "PRP1".into()));
    }
    if get_u32(sqe, 4) != 0 && get_u64(sqe, 8) == 0 {
        findings.push((Rule::PrpZero, "source PRP1".into()));
    }
}

fn check_aes(sqe: &[u8], findings: &mut Vec<Finding>) {
    let attributes = get_u16(sqe, 4);
    let xts = attributes & (1 << 8) != 0;
    let reserved = if xts { 0x3ec2 } else { 0xfec2 };
    if attributes & reserved != 0 {
        findings.push((Rule::SqeReserved, format!("attributes {attributes:#x}")));
    }
    if (attributes >> 3) & 7 != 5 {
        findings.push((
            Rule::AesType,
            format!("command type {}", (attributes >> 3) & 7),
        ));
    }
    if get_u8(sqe, 64) != 1 {
        findings.push((Rule::AesType, format!("frame type {}", get_u8(sqe, 64))));
    }
    zero(
        sqe,
        &[(0, 4), (11, 12), (12, 24), (65, 68)],
        Rule::SqeReserved,
        findings,
    );
    if attributes & (1 << 2) == 0 {
        findings.push((Rule::AesPrp, String::new()));
    }
    let source = get_u32(sqe, 24);
    let destination = get_u32(sqe, 44);
    if source != destination {
        findings.push((
            Rule::AesLengths,
            format!("source {source}, destination {destination}"),
        ));
    }
    if source == 0 {
        zero(sqe, &[(28, 44)], Rule::SqeUnusedField, findings);
    }
    if destination == 0 {
        zero(sqe, &[(48, 64)], Rule::SqeUnusedField, findings);
    }
    if xts {
        zero(sqe, &[(92, 128)], Rule::SqeReserved, findings);
        if source == 0 {
            findings.push((Rule::AesLengths, "nothing to do".into()));
        }
        return;
    }
    zero(sqe, &[(110, 112)], Rule::SqeReserved, findings);
    let tail = get_u8(sqe, 108);
    if tail != get_u8(sqe, 109) || tail > 15 {
        findings.push((
            Rule::AesLengths,
            format!("tail source {tail}, destination {}", get_u8(sqe, 109)),
        ));
    }
    if tail == 0 {
        zero(sqe, &[(112, 128)], Rule::SqeUnusedField, findings);
    }
    let aad = get_u32(sqe, 72);
    let padded = get_u32(sqe, 104);
    let detail = || format!("AAD {aad}, padded {padded}, source {source}");
    if padded > source {
        findings.push((Rule::AesLengths, detail()));
    }
    if aad > padded || padded - aad > 31 {
        findings.push((Rule::AesAadPadding, detail()));
    }
}
