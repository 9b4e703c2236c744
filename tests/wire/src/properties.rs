// SPDX-License-Identifier: GPL-2.0
//! What holds for all values.

use crate::admin;
use crate::aes;
use crate::device;
use crate::device::Fields;
use crate::hsm;
use crate::sgl;
use proptest::array::uniform12;
use proptest::array::uniform16;
use proptest::array::uniform32;
use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// Writes a list as the driver does, and returns its descriptor, and the memory that it is in.
fn list(pieces: &[(u64, u32)]) -> (sgl::Sgl, device::Memory) {
    let address = |index: usize| 0x10_0000_0000 + 0x3000 * index as u64;
    let mut memory: device::Memory = (0..sgl::segments(pieces.len()))
        // What was there before is not taken for a part of it.
        .map(|index| (address(index), [0xee; 4096]))
        .collect();
    let mut parts = pieces.iter();
    sgl::write_list(
        pieces.len(),
        || parts.next().copied().ok_or("there are no more pieces"),
        |index| Ok(address(index)),
        |segment, offset, descriptor| {
            let segment = memory.get_mut(&address(segment)).ok_or("no such segment")?;
            segment[offset..offset + 16].copy_from_slice(descriptor.as_bytes());
            Ok(())
        },
    )
    .unwrap();
    assert!(parts.next().is_none());
    (sgl::Sgl::segment(address(0), pieces.len()), memory)
}

#[test]
fn lists_of_every_length_around_a_segment() {
    for count in (1..4)
        .chain(253..258)
        .chain(508..514)
        .chain(763..768)
        .chain([4097])
    {
        let pieces: Vec<_> = (0..count).map(|n| (n << 12, n as u32 + 1)).collect();
        let (descriptor, memory) = list(&pieces);
        assert_eq!(device::follow(&memory, descriptor.as_bytes()), pieces);
    }
}

fn flow() -> impl Strategy<Value = hsm::Flow> {
    prop_oneof![
        Just(hsm::Flow::None),
        Just(hsm::Flow::Open),
        Just(hsm::Flow::Close),
        Just(hsm::Flow::InSession),
    ]
}

fn gcm() -> impl Strategy<Value = aes::Cipher> {
    let bytes = (uniform16(any::<u8>()), uniform12(any::<u8>()));
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>());
    (bytes, numbers).prop_map(|((tag, iv), (key, aad_len, aad_padded_len, tail))| {
        aes::Cipher::Gcm {
            key,
            tag,
            iv,
            aad_len,
            aad_padded_len,
            tail,
        }
    })
}

fn xts() -> impl Strategy<Value = aes::Cipher> {
    let numbers = (any::<u32>(), any::<u32>(), 0..4u16);
    (uniform16(any::<u8>()), numbers).prop_map(|(tweak, (data_key, tweak_key, data_unit))| {
        aes::Cipher::Xts {
            data_key,
            tweak_key,
            tweak,
            data_unit,
        }
    })
}

fn request() -> impl Strategy<Value = aes::Request> {
    let caller = (any::<u16>(), any::<u8>());
    let len = prop_oneof![1..64u32, 1..=16u32 << 20];
    (any::<bool>(), caller, prop_oneof![gcm(), xts()], len).prop_map(
        |(decrypt, (session, app), cipher, len)| aes::Request {
            decrypt,
            caller: aes::Caller { session, app },
            cipher,
            len,
        },
    )
}

/// A half of a queue count, the ends of the range now and then.
fn half() -> impl Strategy<Value = u16> {
    prop_oneof![any::<u16>(), Just(0), Just(u16::MAX)]
}

proptest! {
    #[test]
    fn lists_hold_their_pieces(pieces in vec(any::<(u64, u32)>(), 1..1100)) {
        let (descriptor, memory) = list(&pieces);
        prop_assert_eq!(device::follow(&memory, descriptor.as_bytes()), pieces);
    }

    #[test]
    fn hsm_entries_say_what_they_are_to(
        opcode in 0..1u16 << 10,
        lens in (0..=8192u32, 0..=8192u32),
        flow in flow(),
        session in any::<(u16, bool)>(),
        pages in (0..1u64 << 51, 0..1u64 << 51),
        cid in any::<u16>(),
    ) {
        let (request, response) = (pages.0 << 12, pages.1 << 12);
        let header = hsm::Header {
            opcode,
            src_len: lens.0,
            dst_len: lens.1,
            flow,
            id: session.0,
            id_valid: session.1,
        };
        let mut sqe = header.sqe(request, response);
        sqe.set_cid(cid);
        let sqe = sqe.as_bytes();
        device::assert_rest_is_zero(sqe, &[(0, 45), (48, 2)]);
        let command = sqe.at(0, 4);
        prop_assert_eq!(command & 0x3ff, u64::from(opcode));
        // Command set and PSDT.
        prop_assert_eq!(command >> 10 & 0x3f, 0);
        prop_assert_eq!(command >> 16, u64::from(cid));
        prop_assert_eq!(sqe.at(4, 4), u64::from(lens.0));
        prop_assert_eq!(sqe.at(24, 4), u64::from(lens.1));
        let second = |first: u64, len: u32| if len > 4096 { first + 4096 } else { 0 };
        prop_assert_eq!(sqe.at(8, 8), if lens.0 == 0 { 0 } else { request });
        prop_assert_eq!(sqe.at(16, 8), second(request, lens.0));
        prop_assert_eq!(sqe.at(28, 8), response);
        prop_assert_eq!(sqe.at(36, 8), second(response, lens.1));
        let number = match flow {
            hsm::Flow::None => 0,
            hsm::Flow::Open => 1,
            hsm::Flow::Close => 2,
            hsm::Flow::InSession => 3,
        };
        prop_assert_eq!(sqe.at(44, 1), number | u64::from(session.1) << 2);
        prop_assert_eq!(sqe.at(48, 2), u64::from(session.0));
    }

    #[test]
    fn any_hsm_completion_is_read(bytes in uniform16(any::<u8>())) {
        let words = device::words(&bytes);
        let completion = hsm::Completion::from(&words);
        prop_assert_eq!(u64::from(completion.len), bytes.at(0, 2));
        let status = bytes.at(14, 2) >> 1 & 0x7ff;
        prop_assert_eq!(u64::from(completion.status), status);
        prop_assert_eq!(u64::from(hsm::status(&words)), status);
        prop_assert_eq!(u64::from(hsm::cid(&words)), bytes.at(12, 2));
        let (flags, report) = (bytes[2], completion.report);
        prop_assert_eq!(report.flow as u8, flags & 3);
        let id = (flags & 4 != 0).then_some(bytes.at(4, 2));
        prop_assert_eq!(report.id.map(u64::from), id);
        prop_assert_eq!(report.app, (flags & 8 != 0).then_some(bytes[6]));
        prop_assert_eq!(report.closed, flags & 16 != 0);
        // A session is opened, or closed, by what says so only.
        let opened = report.opened(completion.status);
        prop_assert_eq!(opened.is_some(), status == 0 && flags & 7 == 5);
        if let Some(opened) = opened {
            prop_assert_eq!((Some(opened.id), opened.app), (report.id, report.app));
        }
        let has_closed = (0..=u16::MAX).find(|id| report.has_closed(*id));
        prop_assert_eq!(has_closed, if flags & 0x17 == 0x16 { report.id } else { None });
    }

    #[test]
    fn aes_entries_say_what_they_are_to(
        request in request(),
        lists in any::<[(u64, usize); 2]>(),
        tail in any::<[u64; 2]>(),
        cid in any::<u16>(),
    ) {
        let lists = lists.map(|(address, count)| sgl::Sgl::segment(address, count));
        let mut sqe = request.sqe(lists, tail);
        sqe.set_cid(cid);
        let sqe = sqe.as_bytes();
        prop_assert_eq!(sqe.at(6, 2), u64::from(cid));
        prop_assert_eq!(sqe.at(8, 2), u64::from(request.caller.session));
        prop_assert_eq!(sqe[10], request.caller.app);
        prop_assert_eq!(&sqe[28..44], lists[0].as_bytes());
        prop_assert_eq!(&sqe[48..64], lists[1].as_bytes());
        prop_assert_eq!(sqe[64], 1);
        let attributes = sqe.at(4, 2);
        prop_assert_eq!(attributes & 1 != 0, request.decrypt);
        // Reserved, SGL, command type.
        prop_assert_eq!(attributes & 0xfe, 0x2c);
        prop_assert_eq!(attributes >> 9 & 0x1f, 0);
        let common = [(4, 7), (24, 41)];
        let mut tail_len = 0;
        match request.cipher {
            aes::Cipher::Gcm { key, tag, iv, aad_len, aad_padded_len, tail } => {
                device::assert_rest_is_zero(sqe, &[common[0], common[1], (68, 42), (112, 16)]);
                prop_assert_eq!(attributes >> 8, 0);
                prop_assert_eq!(sqe.at(68, 4), u64::from(key));
                prop_assert_eq!(sqe.at(72, 4), u64::from(aad_len));
                prop_assert_eq!(&sqe[76..92], &tag);
                prop_assert_eq!(&sqe[92..104], &iv);
                prop_assert_eq!(sqe.at(104, 4), u64::from(aad_padded_len));
                if tail {
                    tail_len = request.len & 15;
                }
            }
            aes::Cipher::Xts { data_key, tweak_key, tweak, data_unit } => {
                device::assert_rest_is_zero(sqe, &[common[0], common[1], (68, 24)]);
                prop_assert_eq!(attributes >> 8, 1 | u64::from(data_unit) << 6);
                prop_assert_eq!(sqe.at(68, 4), u64::from(data_key));
                prop_assert_eq!(sqe.at(72, 4), u64::from(tweak_key));
                prop_assert_eq!(&sqe[76..92], &tweak);
            }
        }
        // 6.6.2.
        let engine_len = request.len - tail_len;
        prop_assert_eq!(sqe.at(24, 4), u64::from(engine_len));
        prop_assert_eq!(sqe.at(44, 4), u64::from(engine_len));
        if tail_len != 0 {
            prop_assert_eq!(engine_len % 16, 0);
            prop_assert_eq!((sqe.at(108, 1), sqe.at(109, 1)), (tail_len.into(), tail_len.into()));
            prop_assert_eq!([sqe.at(112, 8), sqe.at(120, 8)], tail);
        } else {
            prop_assert_eq!((sqe.at(108, 4), sqe.at(112, 8), sqe.at(120, 8)), (0, 0, 0));
        }
    }

    #[test]
    fn any_aes_completion_is_read(halves in [uniform32(any::<u8>()), uniform32(any::<u8>())]) {
        let bytes = halves.concat();
        let words = device::words(&bytes);
        let completion = aes::Completion::from(&words);
        prop_assert_eq!(&completion.tag, &bytes[4..20]);
        prop_assert_eq!(&completion.iv, &bytes[20..32]);
        prop_assert_eq!(u64::from(completion.tail_len), bytes.at(44, 4));
        prop_assert_eq!(completion.fips_approved, bytes[48..52] != [0; 4]);
        prop_assert_eq!(u64::from(completion.len), bytes.at(52, 4));
        prop_assert_eq!(u64::from(completion.error), bytes.at(60, 2));
        prop_assert_eq!(u64::from(completion.status), bytes.at(62, 2) >> 1);
        prop_assert_eq!(u64::from(aes::status(&words)), bytes.at(62, 2) >> 1);
        prop_assert_eq!(u64::from(aes::cid(&words)), bytes.at(2, 2));
    }

    #[test]
    fn what_was_processed_adds_up(request in request(), off in any::<(u32, u32)>()) {
        let mut bytes = [0; 64];
        let tail = match request.cipher {
            aes::Cipher::Gcm { tail: true, .. } => request.len % 16,
            _ => 0,
        };
        let mut is_whole = |engine: u32, tail: u32| {
            bytes[44..48].copy_from_slice(&tail.to_le_bytes());
            bytes[52..56].copy_from_slice(&engine.to_le_bytes());
            request.is_whole(&aes::Completion::from(&device::words(&bytes)))
        };
        let engine = request.len - tail;
        prop_assert!(is_whole(engine, tail));
        let other = (engine.wrapping_add(off.0), tail.wrapping_add(off.1));
        prop_assert_eq!(is_whole(other.0, other.1), off == (0, 0));
        prop_assert_eq!(is_whole(other.0, tail), off.0 == 0);
        prop_assert_eq!(is_whole(engine, other.1), off.1 == 0);
    }

    #[test]
    fn admin_entries_say_what_they_are_to(
        queue in 0..386u16,
        size in 2..=1024u16,
        ring in any::<u64>(),
        vector in proptest::option::of(0..32u16),
        cid in any::<u16>(),
    ) {
        let check = |mut sqe: admin::Sqe, opcode, prp1, dw10, dw11| {
            sqe.set_cid(cid);
            let sqe = sqe.as_bytes();
            device::assert_rest_is_zero(sqe, &[(0, 1), (2, 2), (24, 8), (40, 8)]);
            assert_eq!((sqe[0], sqe.at(2, 2)), (opcode, u64::from(cid)));
            assert_eq!((sqe.at(24, 8), sqe.at(40, 4), sqe.at(44, 4)), (prp1, dw10, dw11));
        };
        let number = u64::from(queue);
        let shape = number + (u64::from(size) - 1) * 0x1_0000;
        let interrupts = vector.map_or(1, |vector| 3 + u64::from(vector) * 0x1_0000);
        check(admin::Sqe::create_cq(queue, size, ring, vector), 5, ring, shape, interrupts);
        check(admin::Sqe::create_sq(queue, size, ring), 1, ring, shape, 1 + number * 0x1_0000);
        check(admin::Sqe::delete_sq(queue), 0, 0, number, 0);
        check(admin::Sqe::delete_cq(queue), 4, 0, number, 0);
        check(admin::Sqe::identify().with_page(ring), 6, ring, 1, 0);
        check(admin::Sqe::feature(admin::Feature::HsmQueues), 10, 0, 0x07, 0);
        check(admin::Sqe::feature(admin::Feature::AesQueues), 10, 0, 0xc1, 0);
        check(admin::Sqe::feature(admin::Feature::Firmware), 10, 0, 0xc2, 0);
    }

    #[test]
    fn any_admin_completion_is_read(bytes in uniform16(any::<u8>())) {
        let completion = admin::Completion::from(&device::words(&bytes));
        prop_assert_eq!(u64::from(completion.dw0), bytes.at(0, 4));
        prop_assert_eq!(u64::from(completion.cid), bytes.at(12, 2));
        prop_assert_eq!(u64::from(completion.status), bytes.at(14, 2) >> 1);
    }

    #[test]
    fn any_identify_page_is_read_or_refused(
        bytes in vec(any::<u8>(), admin::IDENTIFY_LEN),
        sizes_fit in any::<bool>(),
        controller in proptest::option::of(0..70u16),
    ) {
        let mut page = [0; admin::IDENTIFY_LEN];
        page.copy_from_slice(&bytes);
        if sizes_fit {
            for (offset, size) in [(77, 6), (78, 4), (83, 7), (84, 6)] {
                page[offset] = page[offset] & 0xf0 | size;
            }
        }
        if let Some(controller) = controller {
            page[74..76].copy_from_slice(&controller.to_le_bytes());
        }
        let fits = |offset: usize, size| page[offset] % 16 == size;
        let good = fits(77, 6) && fits(78, 4) && fits(83, 7) && fits(84, 6) && page.at(74, 2) <= 64;
        let identify = admin::Identify::parse(&page);
        prop_assert_eq!(identify.is_ok(), good);
        if let Ok(identify) = identify {
            prop_assert_eq!(u64::from(identify.controller), page.at(74, 2));
            prop_assert_eq!(&identify.serial, &page[4..36]);
            prop_assert_eq!(&identify.firmware, &page[36..68]);
        }
    }

    #[test]
    fn any_queue_count_is_bounded(halves in (half(), half()), most in any::<u16>()) {
        let dw0 = u32::from(halves.0) << 16 | u32::from(halves.1);
        let halves = [dw0 % 0x1_0000, dw0 / 0x1_0000];
        let count = halves.map(|half| (half + 1) % 0x1_0000).into_iter().min();
        let count = count.map(|count| count.min(u32::from(most)));
        prop_assert_eq!(Some(u32::from(admin::queue_count(dw0, most))), count);
    }
}
