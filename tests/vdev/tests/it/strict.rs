// SPDX-License-Identifier: GPL-2.0

//! Every rule of the strict mode fires when it is broken, and alone.

use crate::bench::descriptor;
use crate::bench::Bench;
use crate::bench::ACQ;
use crate::bench::AQA;
use crate::bench::ASQ;
use crate::bench::CC;
use crate::bench::CSTS;
use crate::bench::NSSR;
use crate::bench::PAGE;
use crate::bench::SIGNATURE;
use azihsm_vdev::bytes::get_u64;
use azihsm_vdev::bytes::put;
use azihsm_vdev::bytes::put_u16;
use azihsm_vdev::bytes::put_u32;
use azihsm_vdev::bytes::put_u64;
use azihsm_vdev::inject::Incident;
use azihsm_vdev::keys::KeyKind;
use azihsm_vdev::strict::Rule;
use azihsm_vdev::strict::Severity;

/// A way to break a rule, on a function with queues 1 and 256.
type Case = (Rule, &'static str, fn(&mut Bench));

/// Submits a flush with some bytes changed.
fn flush_with(bench: &mut Bench, change: impl FnOnce(&mut [u8; 64])) {
    let mut sqe = bench.flush_sqe(0);
    change(&mut sqe);
    bench.submit(1, &sqe);
}

/// Submits a generic HSM command with some bytes changed.
fn generic_with(bench: &mut Bench, change: impl FnOnce(&mut [u8; 64])) {
    let (mut sqe, _) = bench.hsm_sqe(&[0xff], 0, None);
    change(&mut sqe);
    bench.submit(1, &sqe);
}

/// Submits an admin command with some bytes changed.
fn admin_with(bench: &mut Bench, opcode: u8, change: impl FnOnce(&mut [u8; 64])) {
    let page = match opcode {
        0x06 => bench.pages(1),
        _ => 0,
    };
    let mut sqe = bench.admin_sqe(opcode, page, 0, 0);
    change(&mut sqe);
    bench.submit(0, &sqe);
}

/// Submits a GCM command with some bytes changed.
fn gcm_with(bench: &mut Bench, change: impl FnOnce(&mut [u8; 128])) {
    let key = bench.add_key(KeyKind::Gcm, 1);
    let mut command = bench.aes(false, &[0; 64]);
    command.gcm(key, 32, 32);
    change(&mut command.sqe);
    bench.submit(256, &command.sqe);
}

/// Submits an XTS command with some bytes changed.
fn xts_with(bench: &mut Bench, change: impl FnOnce(&mut [u8; 128])) {
    let first = bench.add_key(KeyKind::Xts, 1);
    let second = bench.add_key(KeyKind::Xts, 2);
    let mut command = bench.aes(true, &[0; 512]);
    command.keys(first, second);
    change(&mut command.sqe);
    bench.submit(256, &command.sqe);
}

/// Submits an XTS command whose source is described by these entries.
fn sgl_with(
    bench: &mut Bench,
    inline: impl FnOnce(u64) -> [u8; 16],
    entries: impl FnOnce(u64, u64) -> Vec<[u8; 16]>,
) {
    let list = bench.pages(2);
    let data = bench.pages(1);
    for (index, entry) in entries(list, data).iter().enumerate() {
        bench.poke(list + index as u64 * 16, entry);
    }
    let inline = inline(list);
    xts_with(bench, |sqe| put(sqe, 28, &inline));
}

fn one_block(_: u64, data: u64) -> Vec<[u8; 16]> {
    vec![descriptor(data, 512, 0)]
}

/// Creates a CQ 2 with these parameters.
fn create_cq_with(bench: &mut Bench, offset: u64, entries: u32, vector: u16) {
    let base = bench.pages(8) + offset;
    bench.create_cq(2, base, entries, Some(vector));
}

/// Pieces of this size that make up a source of 512 bytes.
fn pieces_of(bench: &mut Bench, size: u32) {
    let data = bench.pages(1);
    let pieces: Vec<_> = (0..512 / size)
        .map(|n| (data + u64::from(n * size), size))
        .collect();
    let list = bench.sgl(&pieces);
    xts_with(bench, |sqe| put(sqe, 28, &list));
}

const CASES: &[Case] = &[
    (Rule::DmaBusMasterOff, "fetch", |bench| {
        bench.bus_master(false);
        admin_with(bench, 0x0a, |_| {});
    }),
    (
        Rule::DmaAfterStopRequest,
        "response while stopping",
        |bench| {
            bench.model.options.latency.hsm = 1000;
            generic_with(bench, |_| {});
            bench.step();
            bench.write32(CC, 0);
            bench.bus_master(false);
            bench.step();
            bench.advance_ms(1);
        },
    ),
    (Rule::DmaUnmapped, "source", |bench| {
        generic_with(bench, |sqe| put_u64(sqe, 8, 1 << 40));
    }),
    (
        Rule::DmaUnmapped,
        "destination freed while the command runs",
        |bench| {
            bench.model.options.latency.hsm = 1000;
            let (sqe, destination) = bench.hsm_sqe(&[0xff], 0, None);
            bench.submit(1, &sqe);
            bench.step();
            bench.unmap(destination, PAGE);
            bench.advance_ms(1);
        },
    ),
    (Rule::MmioBadAccess, "narrow register read", |bench| {
        bench.front.bar_read(0, CSTS, &mut [0; 2]);
    }),
    (Rule::MmioBadAccess, "wide register write", |bench| {
        bench.write64(CC, 1);
    }),
    (Rule::MmioBadAccess, "odd register write", |bench| {
        bench.front.bar_write(0, CC, &[1, 0]);
    }),
    (Rule::MmioBadAccess, "unaligned register write", |bench| {
        bench.write32(CC + 2, 1);
    }),
    (Rule::MmioBadAccess, "wide doorbell", |bench| {
        bench.front.bar_write(2, 8, &[0; 8]);
    }),
    (Rule::MmioBadAccess, "unaligned doorbell", |bench| {
        bench.doorbell(10, 1);
    }),
    (Rule::MmioReadOnly, "CAP", |bench| bench.write32(0, 1)),
    (Rule::MmioReadOnly, "CSTS", |bench| bench.write32(CSTS, 1)),
    (Rule::MmioReserved, "read", |bench| {
        bench.read32(0x44);
    }),
    (Rule::MmioReserved, "write", |bench| bench.write32(0x100, 1)),
    (Rule::MmioUnusedRegister, "INTMS", |bench| {
        bench.write32(0x0c, 1);
    }),
    (Rule::CcReservedBits, "bit 1", |bench| bench.write32(CC, 3)),
    (Rule::CcShutdown, "SHN", |bench| bench.write32(CC, 0x4001)),
    (Rule::EnableNotAwaited, "off and on", |bench| {
        bench.write32(CC, 0);
        bench.write32(CC, 1);
    }),
    (Rule::EnableNotAwaited, "NSSR and off", |bench| {
        bench.write32(NSSR, SIGNATURE);
        bench.write32(CC, 0);
    }),
    (Rule::EnableNotAwaited, "given up too early", |bench| {
        bench.disable();
        bench.inject(r#"{"fault":"stuck_enable"}"#);
        bench.start_enable();
        bench.step();
        bench.advance_ms(9_999);
        bench.write32(CC, 0);
    }),
    (Rule::AdminRegistersWhileEnabled, "AQA", |bench| {
        bench.write32(AQA, 0);
    }),
    (Rule::AdminRegistersWhileEnabled, "ASQ", |bench| {
        bench.write64(ASQ, 0);
    }),
    (Rule::AdminRegistersWhileEnabled, "ACQ", |bench| {
        bench.write32(ACQ + 4, 0);
    }),
    (Rule::NssrSignature, "1", |bench| bench.write32(NSSR, 1)),
    (Rule::DoorbellWhileDisabled, "after disable", |bench| {
        bench.disable();
        bench.sq_doorbell(1, 1);
    }),
    (Rule::DoorbellWhileDisabled, "after NSSR", |bench| {
        bench.write32(NSSR, SIGNATURE);
        bench.step();
        bench.cq_doorbell(1, 1);
    }),
    (Rule::DoorbellWhileDisabled, "after FLR", |bench| {
        bench.front.config_write(0x48, &[0, 0x80]);
        bench.step();
        bench.bus_master(false);
        bench.sq_doorbell(0, 1);
    }),
    (Rule::DoorbellBeforeReady, "too early", |bench| {
        bench.disable();
        bench.model.options.latency.enable = 1000;
        bench.start_enable();
        bench.sq_doorbell(0, 1);
        bench.step();
        bench.advance_ms(1);
    }),
    (Rule::DoorbellRead, "read", |bench| {
        bench.front.bar_read(2, 0, &mut [0; 4]);
    }),
    (Rule::DoorbellMissingQueue, "SQ", |bench| {
        bench.sq_doorbell(2, 1)
    }),
    (Rule::DoorbellMissingQueue, "CQ", |bench| {
        bench.cq_doorbell(511, 1)
    }),
    (Rule::DoorbellAfterDeleteSq, "while draining", |bench| {
        bench.inject(r#"{"fault":"stall_delete_sq"}"#);
        admin_with(bench, 0x00, |sqe| put_u16(sqe, 40, 1));
        bench.step();
        bench.sq_doorbell(1, 1);
    }),
    (Rule::DoorbellOutOfRange, "SQ", |bench| {
        bench.sq_doorbell(1, 16)
    }),
    (Rule::DoorbellOutOfRange, "CQ", |bench| {
        bench.cq_doorbell(256, 16)
    }),
    (Rule::DoorbellOutOfRange, "reserved bits", |bench| {
        bench.sq_doorbell(1, 0x1_0001);
    }),
    (Rule::DoorbellSameValue, "SQ", |bench| {
        bench.sq_doorbell(1, 0)
    }),
    (Rule::DoorbellSameValue, "CQ", |bench| {
        bench.cq_doorbell(256, 0)
    }),
    (Rule::SqOverfill, "past the head", |bench| {
        bench.inject(r#"{"fault":"stop_fetch"}"#);
        bench.sq_doorbell(1, 9);
        bench.step();
        bench.sq_doorbell(1, 8);
    }),
    (
        Rule::SqOutstanding,
        "slots reused before completion",
        |bench| {
            bench.model.options.latency.aes = 1000;
            for _ in 0..15 {
                let command = bench.aes(true, &[0; 16]);
                bench.submit(256, &command.sqe);
            }
            bench.step();
            let command = bench.aes(true, &[0; 16]);
            bench.submit(256, &command.sqe);
        },
    ),
    (Rule::CqHeadPastTail, "empty CQ", |bench| {
        bench.cq_doorbell(1, 1)
    }),
    (Rule::CqOverflow, "no doorbell", |bench| {
        for _ in 0..16 {
            flush_with(bench, |_| {});
            bench.step();
        }
    }),
    (Rule::CqNotZeroed, "I/O CQ", |bench| {
        let base = bench.pages(1);
        bench.poke(base + 7 * 16 + 14, &[1]);
        bench.create_cq(2, base, 16, Some(1));
    }),
    (Rule::CqNotZeroed, "admin CQ", |bench| {
        bench.disable();
        bench.start_enable();
        let cq = bench.pairs[&0].cq;
        bench.poke(cq + 14, &[1]);
    }),
    (Rule::RingAlignment, "CQ", |bench| {
        create_cq_with(bench, 64, 16, 1)
    }),
    (Rule::RingAlignment, "SQ", |bench| {
        create_cq_with(bench, 0, 16, 1);
        let base = bench.pages(1) + 128;
        bench.create_sq(2, base, 8);
    }),
    (Rule::RingAlignment, "admin SQ", |bench| {
        bench.disable();
        bench.start_enable();
        bench.write32(CC, 0);
        bench.step();
        bench.strict.clear();
        let sq = bench.pairs[&0].sq;
        bench.write64(ASQ, sq + 64);
        bench.write32(CC, 1);
    }),
    (Rule::QueueSize, "CQ beyond MQES", |bench| {
        create_cq_with(bench, 0, 1025, 1);
    }),
    (Rule::QueueSize, "admin queue of one entry", |bench| {
        bench.disable();
        let (sq, cq) = (bench.pages(1), bench.pages(1));
        bench.write32(AQA, 0x000f_0000);
        bench.write64(ASQ, sq);
        bench.write64(ACQ, cq);
        bench.write32(CC, 1);
    }),
    (Rule::CqSmallerThanSq, "4 for 8", |bench| {
        create_cq_with(bench, 0, 4, 1);
        let base = bench.pages(1);
        bench.create_sq(2, base, 8);
    }),
    (Rule::CqIdMismatch, "CQ of another", |bench| {
        create_cq_with(bench, 0, 16, 1);
        let base = bench.pages(1);
        bench.admin_run(0x01, base, 2 | (15 << 16), 1 | (1 << 16));
    }),
    (Rule::DeleteCqBeforeSq, "wrong order", |bench| {
        admin_with(bench, 0x04, |sqe| put_u16(sqe, 40, 1));
    }),
    (Rule::CidReused, "two at a time", |bench| {
        bench.model.options.latency.aes = 1000;
        for _ in 0..2 {
            let mut command = bench.aes(true, &[0; 16]);
            put_u16(&mut command.sqe, 6, 7);
            bench.submit(256, &command.sqe);
        }
    }),
    (Rule::CidReused, "after a timeout", |bench| {
        bench.inject(r#"{"fault":"drop_completion","count":1}"#);
        for _ in 0..2 {
            flush_with(bench, |sqe| put_u16(sqe, 2, 7));
        }
    }),
    (Rule::SqePsdt, "admin", |bench| {
        admin_with(bench, 0x0a, |sqe| sqe[1] = 0x40)
    }),
    (Rule::SqePsdt, "HSM", |bench| {
        flush_with(bench, |sqe| sqe[1] = 0x80)
    }),
    (Rule::SqeReserved, "admin flags", |bench| {
        admin_with(bench, 0x0a, |sqe| sqe[1] = 1);
    }),
    (Rule::SqeReserved, "admin bytes", |bench| {
        admin_with(bench, 0x0a, |sqe| sqe[9] = 1);
    }),
    (Rule::SqeReserved, "admin PRP2", |bench| {
        admin_with(bench, 0x06, |sqe| sqe[33] = 16);
    }),
    (Rule::SqeReserved, "queue flags", |bench| {
        let base = bench.pages(1);
        bench.admin_run(0x05, base, 2 | (15 << 16), 5);
    }),
    (Rule::SqeReserved, "HSM session flags", |bench| {
        flush_with(bench, |sqe| sqe[44] |= 8);
    }),
    (Rule::SqeReserved, "HSM bytes", |bench| {
        flush_with(bench, |sqe| sqe[63] = 1)
    }),
    (Rule::SqeReserved, "AES dword 0", |bench| {
        xts_with(bench, |sqe| sqe[0] = 1)
    }),
    (Rule::SqeReserved, "AES attributes", |bench| {
        xts_with(bench, |sqe| sqe[5] |= 2);
    }),
    (Rule::SqeReserved, "GCM data unit", |bench| {
        gcm_with(bench, |sqe| sqe[5] |= 0x40);
    }),
    (Rule::SqeReserved, "AES byte 66", |bench| {
        xts_with(bench, |sqe| sqe[66] = 1)
    }),
    (Rule::SqeReserved, "XTS bytes", |bench| {
        xts_with(bench, |sqe| sqe[127] = 1)
    }),
    (Rule::SqeReserved, "GCM bytes", |bench| {
        gcm_with(bench, |sqe| sqe[110] = 1)
    }),
    (Rule::SqeUnusedField, "admin DW12", |bench| {
        admin_with(bench, 0x0a, |sqe| sqe[48] = 1);
    }),
    (Rule::SqeUnusedField, "admin PRP1", |bench| {
        admin_with(bench, 0x0a, |sqe| sqe[25] = 16);
    }),
    (Rule::SqeUnusedField, "flush length", |bench| {
        flush_with(bench, |sqe| sqe[4] = 1);
    }),
    (Rule::SqeUnusedField, "tail address without tail", |bench| {
        gcm_with(bench, |sqe| sqe[113] = 16);
    }),
    (Rule::SqeUnusedField, "descriptor without data", |bench| {
        gcm_with(bench, |sqe| {
            for offset in [24, 44, 72, 104] {
                put_u32(sqe, offset, 0);
            }
        });
    }),
    (Rule::AesType, "command", |bench| {
        xts_with(bench, |sqe| sqe[4] ^= 1 << 3)
    }),
    (Rule::AesType, "frame", |bench| {
        xts_with(bench, |sqe| sqe[64] = 0)
    }),
    (Rule::AesLengths, "destination", |bench| {
        let (page, list) = (bench.pages(1), bench.pages(1));
        bench.poke(list, &descriptor(page, 528, 0));
        xts_with(bench, |sqe| {
            put_u32(sqe, 44, 528);
            put(sqe, 48, &descriptor(list, 16, 3));
        });
    }),
    (Rule::AesLengths, "XTS of nothing", |bench| {
        xts_with(bench, |sqe| sqe[24..64].fill(0));
    }),
    (Rule::AesLengths, "tail", |bench| {
        gcm_with(bench, |sqe| sqe[109] = 1)
    }),
    (Rule::AesAadPadding, "AAD beyond its padding", |bench| {
        gcm_with(bench, |sqe| put_u32(sqe, 72, 33));
    }),
    (Rule::AesAadPadding, "AAD with too much padding", |bench| {
        gcm_with(bench, |sqe| put_u32(sqe, 72, 0));
    }),
    (Rule::AesLengths, "padding beyond the source", |bench| {
        gcm_with(bench, |sqe| {
            put_u32(sqe, 72, 96);
            put_u32(sqe, 104, 96);
        });
    }),
    (Rule::AesPrp, "PRP", |bench| {
        let page = bench.pages(2);
        xts_with(bench, |sqe| {
            sqe[4] &= !4;
            sqe[28..44].fill(0);
            sqe[48..64].fill(0);
            put_u64(sqe, 28, page);
            put_u64(sqe, 48, page + PAGE);
        });
    }),
    (Rule::PrpAlignment, "HSM source", |bench| {
        generic_with(bench, |sqe| {
            let source = get_u64(sqe, 8);
            put_u64(sqe, 8, source + 8);
        });
    }),
    (Rule::PrpAlignment, "HSM destination PRP2", |bench| {
        generic_with(bench, |sqe| put_u64(sqe, 36, 8));
    }),
    (Rule::PrpAlignment, "identify", |bench| {
        admin_with(bench, 0x06, |sqe| sqe[24] = 8);
    }),
    (Rule::PrpZero, "HSM source", |bench| {
        generic_with(bench, |sqe| put_u64(sqe, 8, 0));
    }),
    (Rule::PrpZero, "identify", |bench| {
        admin_with(bench, 0x06, |sqe| put_u64(sqe, 24, 0));
    }),
    (Rule::HsmDestinationZero, "generic", |bench| {
        generic_with(bench, |sqe| put_u64(sqe, 28, 0));
    }),
    (Rule::FlushDestinationZero, "flush", |bench| {
        flush_with(bench, |sqe| put_u64(sqe, 28, 0));
    }),
    (Rule::SglType, "bit bucket", |bench| {
        sgl_with(
            bench,
            |list| descriptor(list, 16, 3),
            |_, data| vec![descriptor(data, 512, 1)],
        );
    }),
    (Rule::SglReserved, "byte 12", |bench| {
        sgl_with(
            bench,
            |list| descriptor(list, 16, 3),
            |_, data| {
                let mut entry = descriptor(data, 512, 0);
                entry[12] = 1;
                vec![entry]
            },
        );
    }),
    (Rule::SglZeroLength, "data block", |bench| {
        sgl_with(
            bench,
            |list| descriptor(list, 32, 3),
            |_, data| vec![descriptor(data, 512, 0), descriptor(data, 0, 0)],
        );
    }),
    (Rule::SglInlineData, "in the SQE", |bench| {
        let data = bench.pages(1);
        xts_with(bench, |sqe| put(sqe, 28, &descriptor(data, 512, 0)));
    }),
    (Rule::SglSegmentAlignment, "8 bytes off", |bench| {
        sgl_with(bench, |list| descriptor(list + 8, 16, 3), one_block);
    }),
    (Rule::SglSegmentLength, "20 bytes", |bench| {
        sgl_with(bench, |list| descriptor(list, 20, 3), one_block);
    }),
    (
        Rule::SglSegmentCrossesPage,
        "last entry of a page",
        |bench| {
            sgl_with(bench, |list| descriptor(list + PAGE - 16, 32, 3), one_block);
        },
    ),
    (Rule::SglSegmentFirst, "nothing but a link", |bench| {
        sgl_with(
            bench,
            |list| descriptor(list, 16, 2),
            |list, _| vec![descriptor(list, 16, 3)],
        );
    }),
    (Rule::SglSegmentNotLast, "in the middle", |bench| {
        sgl_with(
            bench,
            |list| descriptor(list, 48, 2),
            |list, data| {
                let half = descriptor(data, 256, 0);
                vec![half, descriptor(list, 16, 3), half]
            },
        );
    }),
    (Rule::SglLastSegmentLinks, "last", |bench| {
        sgl_with(
            bench,
            |list| descriptor(list, 32, 3),
            |list, data| vec![descriptor(data, 256, 0), descriptor(list, 16, 3)],
        );
    }),
    (Rule::SglUnterminated, "no link", |bench| {
        sgl_with(bench, |list| descriptor(list, 16, 2), one_block);
    }),
    (Rule::SglLengthMismatch, "too little", |bench| {
        sgl_with(
            bench,
            |list| descriptor(list, 16, 3),
            |_, data| vec![descriptor(data, 496, 0)],
        );
    }),
    (Rule::SglLengthMismatch, "too much", |bench| {
        sgl_with(
            bench,
            |list| descriptor(list, 16, 3),
            |_, data| vec![descriptor(data, 513, 0)],
        );
    }),
    (Rule::SglFragmented, "pieces of 32", |bench| {
        pieces_of(bench, 32)
    }),
    (Rule::SglTooFragmented, "pieces of 16", |bench| {
        pieces_of(bench, 16)
    }),
];

#[test]
fn each_rule_fires() {
    for (rule, case, break_it) in CASES {
        let mut bench = Bench::running();
        bench.assert_clean();
        break_it(&mut bench);
        bench.step();
        let broken = bench.strict.violations();
        assert!(
            broken.iter().any(|violation| violation.rule == rule.name()),
            "{rule:?} ({case}) did not fire, but {broken:?}"
        );
    }
}

/// Rules that cannot be broken without another one.
fn comes_along(rule: Rule, other: &str) -> bool {
    match rule {
        Rule::DoorbellBeforeReady => other == Rule::DoorbellMissingQueue.name(),
        Rule::PrpZero => other == Rule::DmaUnmapped.name(),
        _ => false,
    }
}

#[test]
fn no_other_rule_fires() {
    for (rule, case, break_it) in CASES {
        let mut bench = Bench::running();
        break_it(&mut bench);
        bench.step();
        for violation in bench.strict.violations() {
            assert!(
                violation.rule == rule.name() || comes_along(*rule, violation.rule),
                "{rule:?} ({case}): {violation:?}"
            );
        }
    }
}

#[test]
fn every_rule_has_a_case() {
    for rule in Rule::ALL {
        assert!(
            *rule == Rule::VectorBeyondTable || CASES.iter().any(|(tested, ..)| tested == rule),
            "{rule:?}"
        );
    }
}

#[test]
fn a_vector_beyond_the_table_fires() {
    let mut bench = Bench::with_vectors(20);
    bench.enable();
    let base = bench.pages(1);
    assert_eq!(bench.create_cq(256, base, 16, Some(19)), 0);
    bench.assert_clean();
    assert_eq!(bench.create_cq(257, base, 16, Some(20)), 0);
    assert_eq!(bench.violations(), [Rule::VectorBeyondTable.name()]);
}

#[test]
fn names_are_unique_and_documented() {
    let readme = include_str!("../../README.md");
    let mut names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    for rule in Rule::ALL {
        let severity = match rule.severity() {
            Severity::Error => "error",
            Severity::Note => "note",
        };
        let row = format!("| `{}` | {severity} |", rule.name());
        assert!(readme.contains(&row), "no row {row}");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Rule::ALL.len());
}

#[test]
fn errors_and_notes_are_counted_apart() {
    let mut bench = Bench::running();
    flush_with(&mut bench, |sqe| put_u64(sqe, 28, 0));
    bench.step();
    assert_eq!((bench.strict.errors(), bench.strict.notes()), (0, 1));
    bench.sq_doorbell(2, 1);
    bench.step();
    assert_eq!((bench.strict.errors(), bench.strict.notes()), (1, 1));
    bench.strict.clear();
    assert_eq!((bench.strict.errors(), bench.strict.notes()), (0, 0));
}

#[test]
fn a_patient_driver_may_give_up_an_enable() {
    let mut bench = Bench::new();
    bench.inject(r#"{"fault":"stuck_enable"}"#);
    bench.start_enable();
    bench.step();
    bench.advance_ms(10_500);
    bench.write32(CC, 0);
    bench.step();
    bench.assert_clean();
}

#[test]
fn rings_of_an_enable_given_up_are_not_looked_at() {
    let mut bench = Bench::new();
    let id = bench.inject(r#"{"fault":"stuck_enable"}"#);
    bench.start_enable();
    bench.step();
    bench.advance_ms(10_500);
    bench.write32(CC, 0);
    bench.step();
    // The memory has become somebody else's.
    let cq = bench.pairs[&0].cq;
    bench.poke(cq, &[0xff; 256]);
    bench.model.faults.remove(id);
    bench.step();
    assert_eq!(bench.read32(CSTS), 0);
    bench.assert_clean();
}

#[test]
fn what_the_driver_cannot_know_is_no_violation() {
    // The firmware lost the queues, or the function was disabled from outside.
    for incident in [Incident::Crash, Incident::ForceDisable { groups: None }] {
        let mut bench = Bench::running();
        bench.model.incident(&incident);
        bench.step();
        for queue in [0, 1, 256] {
            bench.sq_doorbell(queue, 1);
            bench.cq_doorbell(queue, 1);
        }
        bench.step();
        bench.assert_clean();
    }
}

#[test]
fn a_cid_is_free_again_once_its_sq_is_deleted() {
    let mut bench = Bench::running();
    bench.inject(r#"{"fault":"drop_command","queue":1,"count":1}"#);
    flush_with(&mut bench, |sqe| put_u16(sqe, 2, 7));
    bench.step();
    assert_eq!(bench.admin_run(0x00, 0, 1, 0), (0, 0));
    let sq = bench.pairs[&1].sq;
    assert_eq!(bench.create_sq(1, sq, 16), 0);
    bench.pairs.get_mut(&1).unwrap().tail = 0;
    flush_with(&mut bench, |sqe| put_u16(sqe, 2, 7));
    bench.step();
    assert!(bench.take(1).is_some());
    bench.assert_clean();
}

#[test]
fn bar4_belongs_to_qemu() {
    let mut bench = Bench::running();
    bench.front.bar_write(4, 0, &[0; 4]);
    let mut data = [1; 8];
    bench.front.bar_read(4, 0x800, &mut data);
    assert_eq!(data, [0; 8]);
    bench.step();
    bench.assert_clean();
}
