// SPDX-License-Identifier: GPL-2.0

//! Section 6: AES commands.

use crate::bench::descriptor;
use crate::bench::Aes;
use crate::bench::Bench;
use crate::bench::PAGE;
use azihsm_vdev::bytes::put;
use azihsm_vdev::bytes::put_u16;
use azihsm_vdev::bytes::put_u32;
use azihsm_vdev::bytes::put_u64;
use azihsm_vdev::gcm::Gcm;
use azihsm_vdev::inject::Incident;
use azihsm_vdev::keys::key_id;
use azihsm_vdev::keys::Key;
use azihsm_vdev::keys::KeyKind;
use azihsm_vdev::xts::Xts;

const IV: [u8; 12] = *b"twelve bytes";

/// AAD in the layout that user space gives it.
fn layout(aad: &[u8]) -> Vec<u8> {
    let mut padded = match aad.len() % 32 {
        1..=16 => vec![0; 16],
        _ => Vec::new(),
    };
    padded.extend(aad);
    padded.resize(aad.len().next_multiple_of(32), 0);
    padded
}

/// A GCM command with its tail, and where the tail is.
fn gcm(bench: &mut Bench, key: u32, aad: &[u8], text: &[u8]) -> (Aes, u64) {
    let padded = layout(aad);
    let tail = text.len() % 16;
    let (body, end) = text.split_at(text.len() - tail);
    let mut command = bench.aes(false, &[padded.as_slice(), body].concat());
    command.gcm(key, aad.len() as u32, padded.len() as u32);
    let page = bench.pages(1);
    if tail > 0 {
        bench.poke(page, end);
        command.tail(tail as u8, page, page + 64);
    }
    (command, page + 64)
}

/// The text that a GCM command left.
fn output(bench: &Bench, command: &Aes, tail: u64, aad: usize, length: usize) -> Vec<u8> {
    let padded = aad.next_multiple_of(32) as u64;
    let rest = length % 16;
    let mut text = bench.peek(command.destination + padded, length - rest);
    text.extend(bench.peek(tail, rest));
    text
}

fn expected(key: u8, iv: &[u8; 12], aad: &[u8], text: &[u8]) -> (Vec<u8>, [u8; 16]) {
    let mut gcm = Gcm::new(&[key; 32], iv);
    gcm.aad(aad);
    let mut cipher = text.to_vec();
    gcm.encrypt(&mut cipher);
    (cipher, gcm.tag(aad.len() as u64))
}

#[test]
fn gcm_of_every_shape() {
    let aads = [0, 1, 15, 16, 17, 31, 32, 33, 48, 49, 64];
    let texts = [0, 1, 15, 16, 17, 64, 100];
    for aad in aads {
        for text in texts {
            let mut bench = Bench::running();
            let key = bench.add_key(KeyKind::Gcm, 7);
            let aad: Vec<u8> = (0..aad).map(|n| n as u8 + 1).collect();
            let text: Vec<u8> = (0..text).map(|n| n as u8 + 100).collect();
            let (cipher, tag) = expected(7, &IV, &aad, &text);
            let case = format!("AAD {} text {}", aad.len(), text.len());

            let (mut command, tail) = gcm(&mut bench, key, &aad, &text);
            command.iv(&IV);
            let result = bench.run_aes(&command.sqe);
            assert_eq!(result.codes(), (0, 0), "{case}");
            assert_eq!(result.tag(), tag, "{case}");
            assert_eq!(result.iv(), IV);
            assert_eq!(result.tail() as usize, text.len() % 16);
            let padded = aad.len().next_multiple_of(32);
            assert_eq!(result.bytes() as usize, padded + text.len() / 16 * 16);
            assert_eq!(
                output(&bench, &command, tail, aad.len(), text.len()),
                cipher,
                "{case}"
            );

            let (mut command, tail) = gcm(&mut bench, key, &aad, &cipher);
            command.iv(&IV).tag(&tag).decrypt();
            let result = bench.run_aes(&command.sqe);
            assert_eq!(result.codes(), (0, 0), "{case}");
            assert_eq!(
                output(&bench, &command, tail, aad.len(), text.len()),
                text,
                "{case}"
            );
            bench.assert_clean();
        }
    }
}

#[test]
fn a_wrong_tag_has_a_code_by_alignment_and_leaves_the_plaintext() {
    for (aad, text, codes) in [
        (0, 32, (3, 9)),
        (32, 32, (3, 9)),
        (64, 0, (3, 9)),
        (5, 32, (2, 0x2a)),
        (32, 33, (2, 0x2a)),
        (0, 3, (2, 0x2a)),
    ] {
        let mut bench = Bench::running();
        let key = bench.add_key(KeyKind::Gcm, 7);
        let (aad, text) = (vec![1; aad], vec![2; text]);
        let (cipher, tag) = expected(7, &IV, &aad, &text);
        let (mut command, tail) = gcm(&mut bench, key, &aad, &cipher);
        command.iv(&IV).tag(&[0xff; 16]).decrypt();
        let result = bench.run_aes(&command.sqe);
        assert_eq!(result.codes(), codes);
        assert_eq!(result.tag(), tag, "the right tag leaks");
        assert_eq!(
            output(&bench, &command, tail, aad.len(), text.len()),
            text,
            "and so does the text"
        );
        bench.assert_clean();
    }
}

#[test]
fn approved_keys_make_their_own_iv_when_encrypting() {
    let mut bench = Bench::running();
    bench.model.options.fips = 0xfe;
    let key = bench.add_key(KeyKind::GcmApproved, 7);
    for number in 1..3 {
        let (mut command, _) = gcm(&mut bench, key, &[], &[0; 16]);
        command.iv(&IV);
        let result = bench.run_aes(&command.sqe);
        assert_eq!(result.iv(), [number; 12]);
        assert_eq!(result.tag(), expected(7, &[number; 12], &[], &[0; 16]).1);
    }
    let (cipher, tag) = expected(7, &IV, &[], &[0; 16]);
    let (mut command, _) = gcm(&mut bench, key, &[], &cipher);
    command.iv(&IV).tag(&tag).decrypt();
    let result = bench.run_aes(&command.sqe);
    assert_eq!(result.codes(), (0, 0));
    assert_eq!(result.iv(), IV);
}

#[test]
fn the_service_indicator() {
    for (fips, approved, unapproved, xts) in
        [(0, 0, 0, 0), (1, 1, 0, 1), (6, 0, 0, 6), (7, 1, 0, 7)]
    {
        let mut bench = Bench::running();
        bench.model.options.fips = fips;
        let gcm_approved = bench.add_key(KeyKind::GcmApproved, 1);
        let gcm_other = bench.add_key(KeyKind::Gcm, 2);
        let first = bench.add_key(KeyKind::Xts, 3);
        let second = bench.add_key(KeyKind::Xts, 4);
        for (key, expected) in [(gcm_approved, approved), (gcm_other, unapproved)] {
            let (command, _) = gcm(&mut bench, key, &[], &[0; 16]);
            assert_eq!(bench.run_aes(&command.sqe).indicator(), expected);
        }
        let mut command = bench.aes(true, &[0; 16]);
        command.keys(first, second);
        assert_eq!(bench.run_aes(&command.sqe).indicator(), xts);
    }
}

#[test]
fn xts_with_every_data_unit() {
    for (code, unit) in [(0, None), (1, Some(512)), (2, Some(4096)), (3, Some(8192))] {
        let mut bench = Bench::running();
        let first = bench.add_key(KeyKind::Xts, 1);
        let second = bench.add_key(KeyKind::Xts, 2);
        let plain: Vec<u8> = (0..16384u32).map(|n| (n / 3) as u8).collect();
        let tweak = [9; 16];
        let mut cipher = plain.clone();
        Xts::new(&[1; 32], &[2; 32], &tweak, unit).encrypt(&mut cipher);
        for decrypt in [false, true] {
            let (input, result) = if decrypt {
                (&cipher, &plain)
            } else {
                (&plain, &cipher)
            };
            let mut command = bench.aes(true, input);
            command.keys(first, second).tag(&tweak);
            command.sqe[5] |= code << 6;
            if decrypt {
                command.decrypt();
            }
            let done = bench.run_aes(&command.sqe);
            assert_eq!(done.codes(), (0, 0));
            assert_eq!(done.bytes(), 16384);
            assert_eq!(done.iv(), [0; 12]);
            assert_eq!(bench.peek(command.destination, 16384), *result);
        }
        bench.assert_clean();
    }
}

#[test]
fn xts_checks_in_order() {
    let mut bench = Bench::running();
    let store = |bench: &mut Bench, kind, byte: u8, owner, app_id, session| {
        bench
            .model
            .store_key(Key {
                kind,
                bytes: [byte; 32],
                owner,
                app_id,
                session,
            })
            .unwrap()
    };
    let xts = KeyKind::Xts;
    let good = store(&mut bench, xts, 1, 0, 1, None);
    let other = store(&mut bench, xts, 2, 0, 1, None);
    let same = store(&mut bench, xts, 1, 0, 1, None);
    let not_xts = store(&mut bench, KeyKind::Gcm, 3, 0, 1, None);
    let foreign = store(&mut bench, xts, 4, 7, 1, None);
    let app = store(&mut bench, xts, 5, 0, 2, None);
    let session = store(&mut bench, xts, 6, 0, 1, Some(3));
    let session2 = store(&mut bench, xts, 7, 0, 1, Some(4));
    let here = store(&mut bench, xts, 8, 0, 1, Some(0));
    let empty = (1 << 3) | 6;
    let outside = key_id(66, 0);
    for (first, second, length, codes) in [
        (good, other, 16, (0, 0)),
        (good, other, 17, (1, 0x0c)),
        (not_xts, other, 17, (1, 0x0e)),
        (not_xts, not_xts, 16, (1, 0x0e)),
        (empty, other, 16, (1, 0x0e)),
        (good, not_xts, 16, (1, 0x0f)),
        (good, empty, 16, (1, 0x0f)),
        (outside, other, 16, (1, 0x01)),
        (outside, outside, 16, (1, 0x01)),
        (good, outside, 16, (1, 0x02)),
        (good, good, 16, (1, 0x05)),
        (foreign, foreign, 16, (1, 0x05)),
        (foreign, other, 16, (1, 0x03)),
        (good, foreign, 16, (1, 0x03)),
        (good, session, 16, (1, 0x04)),
        (session, good, 16, (1, 0x04)),
        (good, same, 16, (1, 0x06)),
        (app, other, 16, (1, 0x09)),
        (good, app, 17, (1, 0x0a)),
        (session, here, 16, (1, 0x07)),
        (here, session2, 16, (1, 0x08)),
    ] {
        let mut command = bench.aes(true, &vec![0x55; length]);
        command.keys(first, second);
        let result = bench.run_aes(&command.sqe);
        assert_eq!(
            result.codes(),
            codes,
            "keys {first} {second} length {length}"
        );
        let moved = bench.peek(command.destination, 16) != [0; 16];
        assert_eq!(moved, codes == (0, 0));
    }
    // Too long, and only told if nothing else is wrong.
    let mut command = bench.aes(true, &[0; 16]);
    command.keys(good, other);
    put_u32(&mut command.sqe, 24, (16 << 20) + 16);
    put_u32(&mut command.sqe, 44, (16 << 20) + 16);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (1, 0x0b));
    put_u32(&mut command.sqe, 24, (16 << 20) + 8);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (1, 0x0c));
    command.keys(good, good);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (1, 0x05));
}

#[test]
fn xts_of_nothing_is_an_underrun() {
    let mut bench = Bench::running();
    let first = bench.add_key(KeyKind::Xts, 1);
    let second = bench.add_key(KeyKind::Xts, 2);
    let mut command = bench.aes(true, &[]);
    command.keys(first, second);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (4, 0xa));
}

#[test]
fn gcm_checks_in_order() {
    let mut bench = Bench::running();
    let good = bench.add_key(KeyKind::Gcm, 1);
    let xts = bench.add_key(KeyKind::Xts, 2);
    let mut store = |owner, app_id, session| {
        bench
            .model
            .store_key(Key {
                kind: KeyKind::Gcm,
                bytes: [3; 32],
                owner,
                app_id,
                session,
            })
            .unwrap()
    };
    let foreign = store(7, 1, None);
    let app = store(0, 2, Some(5));
    let session = store(0, 1, Some(5));
    let here = store(0, 1, Some(0));
    let empty = (1 << 3) | 6;
    let outside = key_id(66, 0);
    for (key, length, padded, codes) in [
        (good, 64, 32, (0, 0)),
        (here, 64, 32, (0, 0)),
        (good, 63, 32, (2, 0x06)),
        (xts, 63, 32, (2, 0x08)),
        (xts, 63, 31, (2, 0x05)),
        (outside, 64, 16, (2, 0x05)),
        (outside, 63, 32, (2, 0x01)),
        (empty, 63, 32, (2, 0x02)),
        (foreign, 64, 32, (2, 0x02)),
        (app, 63, 32, (2, 0x04)),
        (session, 64, 32, (2, 0x03)),
        (good, 32, 64, (3, 0x11)),
    ] {
        let mut command = bench.aes(false, &vec![0x55; length]);
        command.gcm(key, padded, padded);
        let result = bench.run_aes(&command.sqe);
        assert_eq!(result.codes(), codes, "key {key} length {length} {padded}");
        let moved = bench.peek(command.destination, 16) != [0; 16];
        assert_eq!(moved, codes == (0, 0));
    }
}

#[test]
fn failed_commands_leak_bytes_of_their_sqe() {
    let mut bench = Bench::running();
    let mut command = bench.aes(false, &[0; 16]);
    command.tag(b"sixteen bytes of").gcm(0, 0, 0);
    let result = bench.run_aes(&command.sqe);
    assert_eq!(result.codes(), (2, 0x02));
    assert_eq!(result.tag(), b"sixteen bytes of");
}

#[test]
fn tail_checks() {
    let mut bench = Bench::running();
    let key = bench.add_key(KeyKind::Gcm, 1);
    let page = bench.pages(1);
    let gone = 1 << 40;
    for (lengths, source, destination, codes) in [
        ([3, 3], page, page, (0, 0)),
        ([16, 16], page, page, (2, 0x2c)),
        ([3, 16], 0, 0, (2, 0x2c)),
        ([3, 3], 0, 0, (2, 0x22)),
        ([3, 3], page, 0, (2, 0x23)),
        ([3, 4], page, page, (2, 0x23)),
        ([0, 4], page, page, (2, 0x23)),
        ([3, 3], gone, page, (2, 0x26)),
        ([3, 3], page, gone, (2, 0x27)),
    ] {
        let mut command = bench.aes(false, &[0; 16]);
        command.gcm(key, 0, 0).tail(0, source, destination);
        command.sqe[108..110].copy_from_slice(&lengths);
        assert_eq!(
            bench.run_aes(&command.sqe).codes(),
            codes,
            "{lengths:?} {source:#x} {destination:#x}"
        );
    }
}

#[test]
fn keys_that_are_deleted_in_flight() {
    let mut bench = Bench::running();
    bench.model.options.latency.aes = 1000;
    let key = bench.add_key(KeyKind::Gcm, 1);
    let first = bench.add_key(KeyKind::Xts, 1);
    let second = bench.add_key(KeyKind::Xts, 2);
    let (command, _) = gcm(&mut bench, key, &[], &[0; 16]);
    bench.submit(256, &command.sqe);
    let mut command = bench.aes(true, &[0; 16]);
    command.keys(first, second);
    bench.submit(256, &command.sqe);
    bench.step();
    assert!(bench.model.keys.delete(key));
    assert!(bench.model.keys.delete(second));
    bench.advance_ms(1);
    let codes = [(); 2].map(|()| crate::bench::AesResult(bench.take(256).unwrap()).codes());
    assert_eq!(codes, [(2, 0x01), (3, 0x0d)]);
}

#[test]
fn keys_of_a_reset_function_are_gone() {
    let mut bench = Bench::running();
    let key = bench.add_key(KeyKind::Gcm, 1);
    bench.model.incident(&Incident::Crash);
    bench.step();
    bench.disable();
    bench.enable();
    bench.create_pair(256, 16);
    let (command, _) = gcm(&mut bench, key, &[], &[0; 16]);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (2, 0x02));
}

/// An XTS command of this length that works, for tests of its descriptors.
fn xts(bench: &mut Bench, length: usize) -> (Aes, Vec<u8>) {
    let first = bench.add_key(KeyKind::Xts, 1);
    let second = bench.add_key(KeyKind::Xts, 2);
    let plain: Vec<u8> = (0..length).map(|n| (n / 5) as u8).collect();
    let mut command = bench.aes(true, &plain);
    command.keys(first, second);
    let mut cipher = plain;
    Xts::new(&[1; 32], &[2; 32], &[0; 16], None).encrypt(&mut cipher);
    (command, cipher)
}

#[test]
fn lists_over_several_segments() {
    // Lists as the reference driver makes them: 255 pieces a page and a link,
    // which names a last segment if the rest fits it.
    for count in [1u64, 255, 256, 510, 511] {
        let mut bench = Bench::running();
        let (mut command, cipher) = xts(&mut bench, count as usize * 1024);
        for (offset, start) in [(28, command.source), (48, command.destination)] {
            let pages = count.div_ceil(255);
            let list = bench.pages(pages);
            for index in 0..count {
                let entry = descriptor(start + index * 1024, 1024, 0);
                bench.poke(list + index / 255 * PAGE + index % 255 * 16, &entry);
            }
            let link = |page: u64, left: u64| match left {
                ..=255 => descriptor(page, left as u32 * 16, 3),
                _ => descriptor(page, 4096, 2),
            };
            for page in 1..pages {
                let entry = link(list + page * PAGE, count - page * 255);
                bench.poke(list + page * PAGE - 16, &entry);
            }
            put(&mut command.sqe, offset, &link(list, count));
        }
        assert_eq!(bench.run_aes(&command.sqe).codes(), (0, 0), "{count}");
        assert_eq!(bench.peek(command.destination, cipher.len()), cipher);
        bench.assert_clean();
    }
}

#[test]
fn pieces_of_any_alignment_and_length() {
    let mut bench = Bench::running();
    let (mut command, cipher) = xts(&mut bench, 1024);
    let base = bench.pages(3);
    let pieces = [(base + 1, 333), (base + 1001, 7), (base + 4090, 684)];
    let list = bench.sgl(&pieces);
    put(&mut command.sqe, 48, &list);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (0, 0));
    let mut output = Vec::new();
    for (address, length) in pieces {
        output.extend(bench.peek(address, length as usize));
    }
    assert_eq!(output, cipher);
    bench.assert_clean();
}

#[test]
fn in_place() {
    let mut bench = Bench::running();
    let (mut command, cipher) = xts(&mut bench, 200_000);
    let descriptor: [u8; 16] = command.sqe[28..44].try_into().unwrap();
    put(&mut command.sqe, 48, &descriptor);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (0, 0));
    assert_eq!(bench.peek(command.source, cipher.len()), cipher);
}

#[test]
fn broken_lists_have_their_codes() {
    for (offset, structure, read) in [(28, (4, 6), (3, 2)), (48, (4, 5), (3, 1))] {
        let mut bench = Bench::running();
        let (command, _) = xts(&mut bench, 512);
        let data = bench.pages(1);
        let list = bench.pages(2);
        let piece = descriptor(data, 512, 0);
        let half = descriptor(data, 256, 0);
        let last = |address, length| descriptor(address, length, 3);
        let mut subtype = piece;
        subtype[15] |= 1;
        // Descriptor in the SQE, entries at the list, rule, codes.
        type Case = ([u8; 16], Vec<[u8; 16]>, &'static str, (u16, u16));
        let table: Vec<Case> = vec![
            (descriptor(list, 16, 1), vec![piece], "sgl-type", structure),
            (descriptor(list, 16, 4), vec![piece], "sgl-type", structure),
            (descriptor(list, 16, 15), vec![piece], "sgl-type", structure),
            (
                last(list, 16),
                vec![descriptor(data, 512, 1)],
                "sgl-type",
                structure,
            ),
            (last(list, 16), vec![subtype], "sgl-reserved", structure),
            (last(list, 0), vec![piece], "sgl-zero-length", structure),
            (
                last(list, 16),
                vec![descriptor(data, 0, 0)],
                "sgl-zero-length",
                structure,
            ),
            (last(list, 15), vec![piece], "sgl-segment-length", structure),
            (
                last(list + 8, 16),
                vec![piece],
                "sgl-segment-alignment",
                structure,
            ),
            (
                last(list + 4080, 32),
                vec![],
                "sgl-segment-crosses-page",
                structure,
            ),
            (
                last(list, 16),
                vec![last(list, 16)],
                "sgl-segment-first",
                structure,
            ),
            (
                last(list, 48),
                vec![half, last(list, 16), half],
                "sgl-segment-not-last",
                structure,
            ),
            (
                last(list, 32),
                vec![half, last(list, 16)],
                "sgl-last-segment-links",
                structure,
            ),
            (
                descriptor(list, 16, 2),
                vec![piece],
                "sgl-unterminated",
                structure,
            ),
            (last(list, 16), vec![half], "sgl-length-mismatch", structure),
            (
                last(list, 32),
                vec![piece, half],
                "sgl-length-mismatch",
                structure,
            ),
            (last(1 << 40, 16), vec![], "dma-unmapped", read),
        ];
        for (inline, entries, rule, codes) in table {
            let mut command = command.clone();
            for (index, entry) in entries.iter().enumerate() {
                bench.poke(list + index as u64 * 16, entry);
            }
            put(&mut command.sqe, offset, &inline);
            assert_eq!(bench.run_aes(&command.sqe).codes(), codes, "{rule}");
            assert_eq!(bench.violations(), [rule]);
        }
    }
}

#[test]
fn a_list_that_links_to_itself_ends() {
    let mut bench = Bench::running();
    let (mut command, _) = xts(&mut bench, 16);
    put_u32(&mut command.sqe, 24, 16 << 20);
    put_u32(&mut command.sqe, 44, 16 << 20);
    let data = bench.pages(1);
    let list = bench.pages(1);
    bench.poke(list, &descriptor(data, 1, 0));
    bench.poke(list + 16, &descriptor(list, 32, 2));
    put(&mut command.sqe, 28, &descriptor(list, 32, 2));
    assert_eq!(bench.run_aes(&command.sqe).codes(), (4, 6));
}

#[test]
fn a_data_block_in_the_sqe_is_served_but_recorded() {
    let mut bench = Bench::running();
    let (mut command, cipher) = xts(&mut bench, 512);
    let inline = descriptor(command.destination, 512, 0);
    put(&mut command.sqe, 48, &inline);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (0, 0));
    assert_eq!(bench.peek(command.destination, 512), cipher);
    assert_eq!(bench.violations(), ["sgl-inline-data"]);
    let inline = descriptor(command.destination, 511, 0);
    put(&mut command.sqe, 48, &inline);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (4, 5));
    assert_eq!(
        bench.violations(),
        ["sgl-inline-data", "sgl-length-mismatch"]
    );
}

#[test]
fn fragmentation() {
    for (size, codes, rules) in [
        (1024, (0, 0), &[][..]),
        (128, (0, 0), &["sgl-fragmented"][..]),
        (32, (0, 0), &["sgl-fragmented"][..]),
        (16, (9, 0), &["sgl-too-fragmented"][..]),
    ] {
        let mut bench = Bench::running();
        let (mut command, _) = xts(&mut bench, 4096);
        let pieces: Vec<_> = (0..4096 / size)
            .map(|n| (command.source + n * size, size as u32))
            .take(256)
            .collect();
        let list = bench.sgl(&pieces);
        put(&mut command.sqe, 28, &list);
        assert_eq!(bench.run_aes(&command.sqe).codes(), codes, "{size}");
        assert_eq!(bench.violations(), rules, "{size}");
    }
}

#[test]
fn data_that_cannot_be_reached() {
    let mut bench = Bench::running();
    let (command, _) = xts(&mut bench, 512);
    let hole = bench.pages(1);
    bench.unmap(hole, PAGE);
    for (offset, codes) in [(28, (3, 0xf)), (48, (3, 8))] {
        let mut command = command.clone();
        let list = bench.sgl(&[(hole, 512)]);
        put(&mut command.sqe, offset, &list);
        assert_eq!(bench.run_aes(&command.sqe).codes(), codes);
        assert_eq!(bench.violations(), ["dma-unmapped"]);
    }
}

#[test]
fn a_destination_that_is_too_short_overruns() {
    let mut bench = Bench::running();
    let (mut command, _) = xts(&mut bench, 512);
    put_u32(&mut command.sqe, 44, 496);
    let list = bench.sgl(&[(command.destination, 496)]);
    put(&mut command.sqe, 48, &list);
    assert_eq!(bench.run_aes(&command.sqe).codes(), (3, 5));
    assert_eq!(bench.violations(), ["aes-lengths"]);
}

/// PRPs for data in these pages, with a list if there are more than two.
fn prps(bench: &mut Bench, pages: &[u64]) -> [u8; 16] {
    let mut prps = [0; 16];
    put_u64(&mut prps, 0, pages[0]);
    match pages.len() {
        1 => {}
        2 => put_u64(&mut prps, 8, pages[1]),
        _ => {
            // Two entries before the end of the page, so that the list chains.
            let list = bench.pages(1);
            let next = bench.pages(1);
            put_u64(&mut prps, 8, list + PAGE - 16);
            let mut rest = &pages[1..];
            if rest.len() > 2 {
                bench.poke(list + PAGE - 16, &rest[0].to_le_bytes());
                bench.poke(list + PAGE - 8, &next.to_le_bytes());
                rest = &rest[1..];
                for (index, page) in rest.iter().enumerate() {
                    bench.poke(next + index as u64 * 8, &page.to_le_bytes());
                }
            } else {
                for (index, page) in rest.iter().enumerate() {
                    bench.poke(list + PAGE - 16 + index as u64 * 8, &page.to_le_bytes());
                }
            }
        }
    }
    prps
}

#[test]
fn prps_of_every_form() {
    for (length, offset) in [
        (512, 0),
        (512, 512),
        (4096, 0),
        (4096, 64),
        (8192, 0),
        (8192, 64),
        (12288, 0),
        (20480, 128),
    ] {
        let mut bench = Bench::running();
        let (mut command, cipher) = xts(&mut bench, length as usize);
        let count = (length + offset as u64).div_ceil(PAGE);
        let mut pages: Vec<u64> = (0..count).map(|_| bench.pages(2)).collect();
        pages[0] += offset as u64;
        let source: Vec<u64> = (0..length.div_ceil(PAGE))
            .map(|n| command.source + n * PAGE)
            .collect();
        let attributes = (5 << 3) | (1 << 8);
        put_u16(&mut command.sqe, 4, attributes);
        let list = prps(&mut bench, &source);
        put(&mut command.sqe, 28, &list);
        let list = prps(&mut bench, &pages);
        put(&mut command.sqe, 48, &list);
        assert_eq!(
            bench.run_aes(&command.sqe).codes(),
            (0, 0),
            "{length}+{offset}"
        );
        let mut output = bench.peek(pages[0], (PAGE - offset as u64) as usize);
        for page in &pages[1..] {
            output.extend(bench.peek(*page, PAGE as usize));
        }
        assert_eq!(output[..cipher.len()], cipher);
        assert_eq!(bench.violations(), ["aes-prp"]);
    }
}

#[test]
fn broken_prps_have_their_codes() {
    for (offset, prp, read) in [(28, (4, 3), (3, 2)), (48, (4, 1), (3, 1))] {
        let mut bench = Bench::running();
        let (mut command, _) = xts(&mut bench, 3 * 4096);
        let attributes = (5 << 3) | (1 << 8);
        put_u16(&mut command.sqe, 4, attributes);
        let pages: Vec<u64> = (0..3).map(|_| bench.pages(1)).collect();
        let good = prps(&mut bench, &pages);
        put(&mut command.sqe, 28, &good);
        put(&mut command.sqe, 48, &good);
        let bad_entry = bench.pages(1);
        bench.poke(bad_entry, &(pages[1] + 16).to_le_bytes());
        bench.poke(bad_entry + 8, &pages[2].to_le_bytes());
        let no_entry = bench.pages(1);
        for (first, second, codes, rule) in [
            (0, pages[1], prp, "prp-zero"),
            (pages[0] + 2, pages[1], prp, "prp-alignment"),
            (pages[0], 0, prp, "prp-zero"),
            (pages[0], pages[1] + 4, prp, "prp-alignment"),
            (pages[0], bad_entry, prp, "prp-alignment"),
            (pages[0], no_entry, prp, "prp-zero"),
            (pages[0], 1 << 40, read, "dma-unmapped"),
        ] {
            let mut command = command.clone();
            put_u64(&mut command.sqe, offset, first);
            put_u64(&mut command.sqe, offset + 8, second);
            assert_eq!(bench.run_aes(&command.sqe).codes(), codes);
            assert_eq!(bench.violations(), ["aes-prp", rule]);
        }
    }
}

#[test]
fn commands_complete_out_of_order() {
    let mut bench = Bench::running();
    let slow = bench.aes(true, &[0; 16]);
    bench.inject(r#"{"fault":"delay","ms":5,"count":1}"#);
    bench.submit(256, &slow.sqe);
    let fast = bench.aes(true, &[0; 16]);
    bench.submit(256, &fast.sqe);
    bench.step();
    let first = bench.take(256).unwrap();
    bench.advance_ms(5);
    let second = bench.take(256).unwrap();
    assert_eq!(first[2..4], fast.sqe[6..8]);
    assert_eq!(second[2..4], slow.sqe[6..8]);
}
