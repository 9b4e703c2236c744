// SPDX-License-Identifier: GPL-2.0
//! Random values, those at the ends of what is possible more often than others.

use crate::admin::IDENTIFY_LEN;
use crate::judge::AdminEntry;
use crate::judge::AesEntry;
use crate::judge::AesRequest;
use crate::judge::Cipher;
use crate::judge::HsmEntry;
use crate::judge::Input;
use proptest::array::uniform12;
use proptest::array::uniform16;
use proptest::array::uniform32;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

#[test]
fn lists_of_every_length_around_a_segment() {
    for count in (1..4)
        .chain(253..258)
        .chain(508..514)
        .chain(763..768)
        .chain([4097])
    {
        Input::List((0..count).map(|n| (n << 12, n as u32 + 1)).collect()).judge();
    }
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(4096), Just(4097), Just(8192), any::<u32>()]
}

fn gcm() -> impl Strategy<Value = Cipher> {
    let bytes = (uniform16(any::<u8>()), uniform12(any::<u8>()));
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>());
    (bytes, numbers).prop_map(
        |((tag, iv), (key, aad_len, aad_padded_len, tail))| Cipher::Gcm {
            key,
            tag,
            iv,
            aad_len,
            aad_padded_len,
            tail,
        },
    )
}

fn xts() -> impl Strategy<Value = Cipher> {
    let numbers = (any::<u32>(), any::<u32>(), 0..4u16);
    (uniform16(any::<u8>()), numbers).prop_map(|(tweak, (data_key, tweak_key, data_unit))| {
        Cipher::Xts {
            data_key,
            tweak_key,
            tweak,
            data_unit,
        }
    })
}

fn request() -> impl Strategy<Value = AesRequest> {
    let caller = (any::<u16>(), any::<u8>());
    let len = prop_oneof![1..64u32, 1..=16u32 << 20];
    (any::<bool>(), caller, prop_oneof![gcm(), xts()], len).prop_map(
        |(decrypt, (session, app), cipher, len)| AesRequest {
            decrypt,
            session,
            app,
            cipher,
            len,
        },
    )
}

/// A half of a queue count.
fn half() -> impl Strategy<Value = u32> {
    prop_oneof![0..=0xffffu32, Just(0), Just(0xffff)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn lists_hold_their_pieces(pieces in vec(any::<(u64, u32)>(), 1..1100)) {
        Input::List(pieces).judge();
    }

    #[test]
    fn hsm_entries_say_what_they_are_to(
        opcode in any::<u16>(),
        lens in (length(), length()),
        flow in any::<u8>(),
        session in any::<(u16, bool)>(),
        pages in any::<(u64, u64)>(),
        cid in any::<u16>(),
    ) {
        Input::HsmEntry(HsmEntry {
            opcode,
            src_len: lens.0,
            dst_len: lens.1,
            flow,
            session: session.0,
            has_session: session.1,
            request: pages.0,
            response: pages.1,
            cid,
        })
        .judge();
    }

    #[test]
    fn any_hsm_completion_is_read(
        mut bytes in uniform16(any::<u8>()),
        status in prop_oneof![Just(0), any::<u8>()],
    ) {
        bytes[14] = status;
        bytes[15] &= status;
        Input::HsmCompletion(bytes).judge();
    }

    #[test]
    fn aes_entries_say_what_they_are_to(
        request in request(),
        lists in any::<[(u64, usize); 2]>(),
        tail in any::<[u64; 2]>(),
        cid in any::<u16>(),
    ) {
        Input::AesEntry(AesEntry { request, lists, tail, cid }).judge();
    }

    #[test]
    fn any_aes_completion_is_read(halves in [uniform32(any::<u8>()), uniform32(any::<u8>())]) {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(&halves.concat());
        Input::AesCompletion(bytes).judge();
    }

    #[test]
    fn what_was_processed_adds_up(
        request in request(),
        engine in prop_oneof![Just(0), any::<u32>()],
        tail in prop_oneof![Just(0), any::<u32>()],
    ) {
        Input::Processed(request, engine, tail).judge();
    }

    #[test]
    fn admin_entries_say_what_they_are_to(
        queue in 0..386u16,
        size in 2..=1024u16,
        ring in any::<u64>(),
        vector in option::of(0..32u16),
        cid in any::<u16>(),
    ) {
        Input::AdminEntry(AdminEntry { queue, size, ring, vector, cid }).judge();
    }

    #[test]
    fn any_admin_completion_is_read(bytes in uniform16(any::<u8>())) {
        Input::AdminCompletion(bytes).judge();
    }

    #[test]
    fn any_identify_page_is_read_or_refused(
        bytes in vec(any::<u8>(), IDENTIFY_LEN),
        sizes_fit in any::<bool>(),
        controller in option::of(0..70u16),
    ) {
        let mut page = [0; IDENTIFY_LEN];
        page.copy_from_slice(&bytes);
        if sizes_fit {
            for (offset, size) in [(77, 6), (78, 4), (83, 7), (84, 6)] {
                page[offset] = page[offset] & 0xf0 | size;
            }
        }
        if let Some(controller) = controller {
            page[74..76].copy_from_slice(&controller.to_le_bytes());
        }
        Input::Identify(page).judge();
    }

    #[test]
    fn any_queue_count_is_bounded(halves in (half(), half()), most in any::<u16>()) {
        Input::QueueCount(halves.0 << 16 | halves.1, most).judge();
    }
}

/// What the fuzzer has found to be of interest, as long as it says something.
#[test]
fn the_corpus_is_judged_well() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");
    let mut judged = 0;
    for entry in std::fs::read_dir(corpus).expect("there is a corpus") {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if let Some(input) = Input::parse(&bytes) {
            input.judge();
            judged += 1;
        }
    }
    assert!(judged >= 50, "{judged} inputs only");
}
