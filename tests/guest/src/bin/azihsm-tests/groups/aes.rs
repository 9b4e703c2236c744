// SPDX-License-Identifier: GPL-2.0
//! AES commands (`Documentation/abi.rst`, 2.7 and 3.5).

mod memory;
mod random;
mod vectors;

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use crate::scene::AesScene;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::reference;
use azihsm_guest::sys;
use azihsm_guest::sys::Access;
use azihsm_guest::sys::Memory;
use azihsm_guest::sys::PAGE;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::abi::AesCmd;
use azihsm_uapi::pad_aad;
use azihsm_uapi::AesReply;
use azihsm_uapi::Device;
use azihsm_uapi::Direction;
use azihsm_uapi::Errno;
use azihsm_uapi::GcmRequest;
use azihsm_uapi::ResetKind;
use azihsm_uapi::XtsRequest;
use nix::sys::memfd::memfd_create;
use nix::sys::memfd::MFdFlags;
use serde_json::json;
use std::fs;
use std::fs::File;
use std::mem::size_of;
use std::path::Path;
use std::thread;
use zerocopy::IntoBytes;

const SIZE: usize = size_of::<AesCmd>();

const GCM_KEY: [u8; 32] = *b"0123456789abcdef0123456789abcdef";
const DATA_KEY: [u8; 32] = *b"the first half of a key for XTS.";
const TWEAK_KEY: [u8; 32] = *b"the other half of that very key!";
const IV: [u8; 12] = *b"a fixed iv..";

/// Status of the device for GCM fields it does not take.
const BAD_GCM: u32 = 2;
/// Status of the device for a failure of the engine.
const FAILED: u32 = 3;
/// Status of the device for XTS fields it does not take.
const BAD_XTS: u32 = 1;

/// Lengths of the text: everything up to a few blocks, and around what is
/// special to the engine, to pages and to lists of them.
const TEXTS: &[usize] = &[
    63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1000, 1023, 1024, 1025, 2047, 2048,
    2049, 3000, 4064, 4079, 4080, 4081, 4095, 4096,
];

/// The most bytes of data that are copied through the memory of a slot.
const COPIED: usize = 12_288;

/// The most bytes of data that are copied at all, as long as there are buffers;
/// more are accessed in place.
const BOUNCED: usize = 17 << 16;

/// Lengths that go through a slot.
const SMALL: &[usize] = &[64, 4096, 4112, 12_272, COPIED];

/// Lengths that are more than a slot holds.
const LARGE: &[usize] = &[
    COPIED + 16,
    16_384,
    16_400,
    65_536,
    65_552,
    1 << 18,
    BOUNCED,
    BOUNCED + 16,
];

/// Lengths of additional data: none, each way of padding it, several blocks.
const AADS: &[usize] = &[
    0, 1, 13, 15, 16, 17, 20, 31, 32, 33, 47, 48, 49, 64, 100, 255,
];

/// One way to get a command wrong, and what comes of it.
struct Wrong {
    name: &'static str,
    change: fn(&mut AesScene),
    ext: u32,
}

/// What both ciphers check, in the order of the table in 3.5.
const WRONG: &[Wrong] = &[
    Wrong {
        name: "another-session",
        change: |scene| scene.cmd.input.session_id += 1,
        ext: ext::AES_SESSION_MISMATCH,
    },
    Wrong {
        name: "session-of-nine-bits",
        change: |scene| scene.cmd.input.session_id ^= 0x100,
        ext: ext::AES_SESSION_MISMATCH,
    },
    Wrong {
        name: "another-application",
        change: |scene| scene.cmd.input.short_app_id += 1,
        ext: ext::AES_APP_MISMATCH,
    },
    Wrong {
        name: "operation-2",
        change: |scene| scene.cmd.input.op = 2,
        ext: ext::AES_OP,
    },
    Wrong {
        name: "operation-ff",
        change: |scene| scene.cmd.input.op = 0xff,
        ext: ext::AES_OP,
    },
    Wrong {
        name: "the-other-cipher",
        change: |scene| scene.cmd.input.cipher ^= 1,
        ext: ext::AES_CIPHER,
    },
    Wrong {
        name: "cipher-2",
        change: |scene| scene.cmd.input.cipher = 2,
        ext: ext::AES_CIPHER,
    },
    Wrong {
        name: "frame-type-0",
        change: |scene| scene.cmd.input.frame_type = 0,
        ext: ext::AES_FRAME_TYPE,
    },
    Wrong {
        name: "frame-type-2",
        change: |scene| scene.cmd.input.frame_type = 2,
        ext: ext::AES_FRAME_TYPE,
    },
    Wrong {
        name: "no-input",
        change: |scene| scene.cmd.input.src = 0,
        ext: ext::AES_SRC,
    },
    Wrong {
        name: "input-in-kernel-space",
        change: |scene| scene.cmd.input.src = sys::KERNEL,
        ext: ext::AES_SRC,
    },
    Wrong {
        name: "no-output",
        change: |scene| scene.cmd.input.dst = 0,
        ext: ext::AES_DST,
    },
    Wrong {
        name: "output-in-kernel-space",
        change: |scene| scene.cmd.input.dst = sys::KERNEL,
        ext: ext::AES_DST,
    },
    Wrong {
        name: "input-above-16-mib",
        change: |scene| {
            scene.cmd.input.src_len = (16 << 20) + 16;
            scene.cmd.input.dst_len = (16 << 20) + 16;
        },
        ext: ext::AES_SRC_LEN,
    },
    Wrong {
        name: "input-of-fffffff0",
        change: |scene| {
            scene.cmd.input.src = 0x1000_0000;
            scene.cmd.input.src_len = 0xffff_fff0;
            scene.cmd.input.dst = 0x1000_0000;
            scene.cmd.input.dst_len = 0xffff_fff0;
        },
        ext: ext::AES_SRC_LEN,
    },
    Wrong {
        name: "output-above-16-mib",
        change: |scene| scene.cmd.input.dst_len = (16 << 20) + 1,
        ext: ext::AES_DST_LEN,
    },
];

/// What only XTS checks.
const WRONG_XTS: &[Wrong] = &[
    Wrong {
        name: "output-too-short",
        change: |scene| scene.cmd.input.dst_len -= 1,
        ext: ext::AES_XTS,
    },
    Wrong {
        name: "data-unit-4",
        change: |scene| scene.set_xts(|xts| xts.data_unit = 4),
        ext: ext::AES_XTS,
    },
    Wrong {
        name: "data-unit-ffff",
        change: |scene| scene.set_xts(|xts| xts.data_unit = 0xffff),
        ext: ext::AES_XTS,
    },
    Wrong {
        name: "no-length",
        change: |scene| scene.cmd.input.src_len = 0,
        ext: ext::AES_XTS,
    },
    Wrong {
        name: "no-multiple-of-512",
        change: |scene| {
            scene.cmd.input.src_len = 528;
            scene.set_xts(|xts| xts.data_unit = abi::XTS_UNIT_512);
        },
        ext: ext::AES_XTS,
    },
    Wrong {
        name: "no-multiple-of-4096",
        change: |scene| scene.set_xts(|xts| xts.data_unit = abi::XTS_UNIT_4096),
        ext: ext::AES_XTS,
    },
    Wrong {
        name: "no-multiple-of-8192",
        change: |scene| {
            scene.cmd.input.src_len = 4096;
            scene.cmd.input.dst_len = 4096;
            scene.set_xts(|xts| xts.data_unit = abi::XTS_UNIT_8192);
        },
        ext: ext::AES_XTS,
    },
];

/// What only GCM checks; the command has 1024 bytes and no additional data.
const WRONG_GCM: &[Wrong] = &[
    Wrong {
        name: "no-length",
        change: |scene| scene.cmd.input.src_len = 0,
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "aad-longer-than-input",
        change: |scene| {
            scene.set_gcm(|gcm| {
                gcm.aad_len = 1025;
                gcm.aad_padded_len = 1056;
            });
        },
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "aad-longer-than-input-aligned",
        change: |scene| {
            scene.set_gcm(|gcm| {
                gcm.aad_len = 1025;
                gcm.aad_padded_len = 0;
                gcm.unaligned = 0;
            });
        },
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "aad-of-ffffffff",
        change: |scene| {
            scene.set_gcm(|gcm| {
                gcm.aad_len = u32::MAX;
                gcm.aad_padded_len = u32::MAX;
            });
        },
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "padded-aad-shorter-than-aad",
        change: |scene| {
            scene.set_gcm(|gcm| {
                gcm.aad_len = 33;
                gcm.aad_padded_len = 32;
            });
        },
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "padded-aad-no-multiple-of-32",
        change: |scene| {
            scene.set_gcm(|gcm| {
                gcm.aad_len = 20;
                gcm.aad_padded_len = 48;
            });
        },
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "padded-aad-longer-than-input",
        change: |scene| {
            scene.set_gcm(|gcm| {
                gcm.aad_len = 1024;
                gcm.aad_padded_len = 1056;
            });
        },
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "padded-aad-longer-than-input-aligned",
        change: |scene| {
            scene.set_gcm(|gcm| {
                gcm.aad_len = 0;
                gcm.aad_padded_len = 1056;
                gcm.unaligned = 0;
            });
        },
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "output-too-short",
        change: |scene| scene.cmd.input.dst_len -= 1,
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "output-as-short-as-the-tail",
        change: |scene| {
            scene.cmd.input.src_len = 39;
            scene.cmd.input.dst_len = 7;
            scene.set_gcm(|gcm| {
                gcm.aad_len = 32;
                gcm.aad_padded_len = 32;
            });
        },
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "output-shorter-than-the-tail",
        change: |scene| {
            scene.cmd.input.src_len = 39;
            scene.cmd.input.dst_len = 3;
        },
        ext: ext::AES_GCM,
    },
    Wrong {
        name: "output-too-short-aligned",
        change: |scene| {
            scene.set_gcm(|gcm| gcm.unaligned = 0);
            scene.cmd.input.dst_len = 1023;
        },
        ext: ext::AES_GCM,
    },
];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        Test::new("aes/gcm-every-short-text", gcm_short_texts).seconds(120),
        Test::new("aes/gcm-texts-around-boundaries", gcm_long_texts).seconds(120),
        Test::new("aes/gcm-every-kind-of-aad", gcm_aads).seconds(120),
        Test::new("aes/gcm-aad-without-text", gcm_aad_only),
        Test::new("aes/gcm-approved-key-draws-its-iv", gcm_approved),
        Test::new(
            "aes/gcm-wrong-tag-is-refused-and-none-comes-back",
            gcm_wrong_tag,
        ),
        Test::new("aes/gcm-wrong-aad-text-or-iv-is-refused", gcm_wrong_others),
        Test::new("aes/gcm-decryption-returns-no-tag", gcm_decrypt_output),
        Test::new("aes/device-without-tails", no_tails).takes(1),
        Test::new("aes/indicator-is-the-device's", indicator),
        Test::new("aes/gcm-aligned-mode", gcm_aligned),
        Test::new("aes/gcm-aligned-mode-refuses-a-tail", gcm_aligned_tail),
        Test::new("aes/gcm-aligned-mode-refuses-odd-aad", gcm_aligned_aad),
        Test::new("aes/gcm-unaligned-is-any-number", gcm_unaligned),
        Test::new("aes/gcm-device-without-unaligned-mode", gcm_aligned_device),
        Test::new(
            "aes/gcm-unaligned-mode-is-asked-for-after-a-reset",
            gcm_mode_of_now,
        ),
        Test::new("aes/gcm-unknown-key-is-refused", gcm_unknown_key),
        Test::new("aes/gcm-output-leaves-the-rest-alone", gcm_rest),
        Test::new("aes/xts-tweak-carries", xts_tweak),
        Test::new("aes/xts-longer-output", xts_longer_output),
        Test::new("aes/xts-no-multiple-of-16-is-refused", xts_ragged),
        Test::new("aes/xts-one-key-twice-is-refused", xts_same_key),
        Test::new("aes/structure-unreadable-efault", unreadable),
        Test::new("aes/structure-cut-off-efault", cut_off),
        Test::new("aes/structure-unwritable-efault", unwritable),
        Test::new("aes/larger-size-is-accepted", larger_size),
        Test::new("aes/memory-of-files-and-huge-pages", foreign_memory),
        Test::new("aes/hole-in-the-middle-efault", holes),
        Test::new("aes/large-fault-reaches-no-device", unsent),
        Test::new("aes/gcm-16-mib-and-one-byte-more", longest)
            .seconds(300)
            .takes(2),
        Test::new("aes/header-and-padding-are-ignored", ignored),
        Test::new("aes/without-session-109", no_session),
        Test::new("aes/after-close-session-109", after_close),
        Test::new("aes/session-of-another-descriptor-107", foreign_session),
        Test::new("aes/session-without-application-110", no_application),
        Test::new("aes/function-without-queues-111", no_queues),
        Test::new("aes/refusal-reaches-no-device", no_device),
        Test::new("aes/checks-come-in-order", order),
        Test::new("aes/device-error-is-told", device_error),
        Test::new("aes/impossible-length-106", impossible_length),
        Test::new("aes/impossible-tail-106", impossible_tail),
        Test::new("aes/no-tag-but-of-gcm-encryption", no_tag),
        Test::new("aes/no-traces-in-shared-memory", no_traces),
        Test::new("aes/eight-threads-at-once", at_once).seconds(120),
    ];
    type OfLengths = fn(&Env, &[usize]) -> Result<()>;
    let of_lengths: [(&str, OfLengths); 6] = [
        ("gcm-at-any-address", gcm_any_address),
        ("xts-lengths", xts_lengths),
        ("xts-in-place", xts_in_place),
        ("input-unmapped-efault", input_unmapped),
        ("output-unmapped-efault", output_unmapped),
        ("output-read-only-efault", output_read_only),
    ];
    for (name, body) in of_lengths {
        for (sizes, lens) in [("small", SMALL), ("large", LARGE)] {
            let test = Test::new(format!("aes/{name}-{sizes}"), move |env: &Env| {
                body(env, lens)
            });
            tests.push(test.seconds(120));
        }
    }
    tests.extend(vectors::tests());
    tests.extend(memory::tests());
    tests.extend(random::tests());
    tests.extend([
        Test::new("aes/xts-units-small", |env: &Env| xts_units(env, 16_000)).seconds(120),
        Test::new("aes/xts-units-large", |env: &Env| xts_units(env, 1 << 20)).seconds(120),
        Test::new("aes/gcm-large", gcm_large).seconds(120),
        Test::new("aes/gcm-around-pages", gcm_around_pages).seconds(120),
        Test::new("aes/xts-1-mib", |env: &Env| xts_large(env, 1 << 20)).seconds(120),
        Test::new("aes/xts-16-mib", |env: &Env| xts_large(env, 16 << 20))
            .seconds(300)
            .takes(2),
    ]);
    for size in [0_u32, 16, 399] {
        tests.push(Test::new(
            format!("aes/size-{size}-einval-nothing-written"),
            move |env: &Env| small_size(env, size),
        ));
    }
    for wrong in WRONG.iter().chain(WRONG_GCM) {
        tests.push(Test::new(
            format!("aes/gcm-{}-einval-{}", wrong.name, wrong.ext),
            |env: &Env| {
                let fixture = Fixture::new(env)?;
                fixture.refuse(fixture.gcm(&[1; 1024])?, wrong)
            },
        ));
    }
    for wrong in WRONG.iter().chain(WRONG_XTS) {
        tests.push(Test::new(
            format!("aes/xts-{}-einval-{}", wrong.name, wrong.ext),
            |env: &Env| {
                let fixture = Fixture::new(env)?;
                fixture.refuse(fixture.xts(&[1; 1024])?, wrong)
            },
        ));
    }
    tests
}

/// A descriptor with a session, and keys that the device has for as long.
struct Fixture {
    device: Device,
    session: Session,
    gcm: u32,
    data: u32,
    tweak: u32,
}

impl Fixture {
    fn new(env: &Env) -> Result<Self> {
        let device = env.open()?;
        let session = hsm::open_session(&device)?;
        let mut control = env.control()?;
        Ok(Self {
            device,
            session,
            gcm: control.load_key(KeyKind::Gcm, &GCM_KEY, session)?,
            data: control.load_key(KeyKind::Xts, &DATA_KEY, session)?,
            tweak: control.load_key(KeyKind::Xts, &TWEAK_KEY, session)?,
        })
    }

    /// A GCM encryption without additional data.
    fn gcm(&self, text: &[u8]) -> Result<AesScene> {
        AesScene::gcm(self.session, self.gcm, text)
    }

    /// An XTS encryption as one data unit.
    fn xts(&self, text: &[u8]) -> Result<AesScene> {
        AesScene::xts(self.session, (self.data, self.tweak), text)
    }

    fn gcm_request<'a>(
        &self,
        direction: Direction,
        aad: &'a [u8],
        text: &'a [u8],
    ) -> GcmRequest<'a> {
        GcmRequest {
            direction,
            session: self.session.id,
            app: self.session.app,
            key: self.gcm,
            iv: IV,
            tag: [0; 16],
            aad,
            text,
        }
    }

    fn xts_request<'a>(&self, direction: Direction, text: &'a [u8]) -> XtsRequest<'a> {
        XtsRequest {
            direction,
            session: self.session.id,
            app: self.session.app,
            data_key: self.data,
            tweak_key: self.tweak,
            data_unit: abi::XTS_UNIT_WHOLE,
            tweak: [0; 16],
            text,
        }
    }

    /// Encrypts and decrypts, and compares with the reference.
    fn check_gcm(&self, aad: &[u8], text: &[u8]) -> Result<()> {
        let what = format!("{} bytes, {} of additional data", text.len(), aad.len());
        let request = self.gcm_request(Direction::Encrypt, aad, text);
        let sealed = done(self.device.aes_gcm(&request)).context(what.clone())?;
        let (expected, tag) = reference::gcm_encrypt(&GCM_KEY, IV, aad, text)?;
        ensure!(sealed.text == expected, "{what}: another text");
        check_eq!(sealed.tag, tag, "{what}: tag");
        check_eq!(sealed.iv, IV, "{what}: IV");
        check_eq!(
            sealed.byte_count,
            pad_aad(aad).len() + text.len(),
            "{what}: byte count"
        );

        let mut request = self.gcm_request(Direction::Decrypt, aad, &sealed.text);
        request.tag = sealed.tag;
        let opened = done(self.device.aes_gcm(&request)).context(what.clone())?;
        ensure!(opened.text == text, "{what}: another text after decryption");
        Ok(())
    }

    /// Encrypts and decrypts data units, and compares with the reference.
    fn check_xts(&self, unit: (u16, usize), first: u128, text: &[u8]) -> Result<()> {
        let what = format!("{} bytes in units of {}", text.len(), unit.1);
        let mut request = self.xts_request(Direction::Encrypt, text);
        request.data_unit = unit.0;
        request.tweak = first.to_le_bytes();
        let sealed = done(self.device.aes_xts(&request)).context(what.clone())?;
        let expected = reference::xts_encrypt(&DATA_KEY, &TWEAK_KEY, unit.1, first, text);
        ensure!(sealed.text == expected, "{what}: another text");
        check_eq!(sealed.byte_count, text.len(), "{what}: byte count");
        request.direction = Direction::Decrypt;
        request.text = &sealed.text;
        let opened = done(self.device.aes_xts(&request)).context(what.clone())?;
        ensure!(opened.text == text, "{what}: another text after decryption");
        Ok(())
    }

    /// Makes sure that the driver refuses a command that is wrong in one way,
    /// and takes one that is not.
    fn refuse(&self, mut scene: AesScene, wrong: &Wrong) -> Result<()> {
        let right = scene.cmd;
        (wrong.change)(&mut scene);
        scene.send_badly(&self.device, Errno::INVAL, wrong.ext)?;
        scene.check_untouched()?;
        scene.cmd = right;
        scene.send_well(&self.device)
    }
}

/// The reply, if the device did what it was asked to.
fn done(reply: azihsm_uapi::Result<AesReply>) -> Result<AesReply> {
    let reply = reply?;
    check_eq!((reply.status, reply.code), (0, 0), "status and error");
    Ok(reply)
}

/// Status and error for a tag that is wrong, with so many bytes of additional
/// data and an input of so many bytes: who finds out is the engine, or the one
/// that corrects its tag.
fn wrong_tag(aad: usize, input: usize) -> (u32, u32) {
    if aad % 32 == 0 && input % 16 == 0 {
        (FAILED, 9)
    } else {
        (BAD_GCM, 0x2a)
    }
}

/// Text in which no two blocks are alike.
fn text(len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n ^ (n >> 8).wrapping_mul(37) ^ (n >> 16)) as u8)
        .collect()
}

fn gcm_short_texts(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in 1..63 {
        fixture.check_gcm(&[], &text(len))?;
    }
    Ok(())
}

fn gcm_long_texts(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for &len in TEXTS {
        fixture.check_gcm(&[], &text(len))?;
        fixture.check_gcm(&text(13), &text(len))?;
    }
    Ok(())
}

fn gcm_aads(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for &aad in AADS {
        for len in [1, 15, 16, 17, 100] {
            fixture.check_gcm(&text(aad), &text(len))?;
        }
    }
    Ok(())
}

fn gcm_aad_only(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for aad in [1, 16, 20, 31, 32, 64, 100] {
        fixture.check_gcm(&text(aad), &[])?;
    }
    Ok(())
}

fn gcm_approved(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let key = env
        .control()?
        .load_key(KeyKind::GcmApproved, &GCM_KEY, fixture.session)?;
    let plain = text(100);
    let mut ivs = Vec::new();
    for _ in 0..3 {
        let mut request = fixture.gcm_request(Direction::Encrypt, b"aad", &plain);
        request.key = key;
        let sealed = done(fixture.device.aes_gcm(&request))?;
        ensure!(sealed.approved, "not called approved");
        let (expected, tag) = reference::gcm_encrypt(&GCM_KEY, sealed.iv, b"aad", &plain)?;
        ensure!(sealed.text == expected, "another text");
        check_eq!(sealed.tag, tag, "tag");
        ivs.push(sealed.iv);

        let mut request = fixture.gcm_request(Direction::Decrypt, b"aad", &sealed.text);
        request.key = key;
        request.iv = sealed.iv;
        request.tag = sealed.tag;
        ensure!(
            done(fixture.device.aes_gcm(&request))?.text == plain,
            "another text"
        );
    }
    ensure!(!ivs.contains(&IV), "the IV of the request");
    ensure!(ivs[0] != ivs[1] && ivs[1] != ivs[2], "the same IV twice");
    let reply = done(fixture.device.aes_gcm(&fixture.gcm_request(
        Direction::Encrypt,
        &[],
        &plain,
    )))?;
    ensure!(!reply.approved, "the other key is called approved");
    Ok(())
}

/// A decryption of `sealed` with everything right.
fn decryption(fixture: &Fixture, aad: &[u8], plain: &[u8]) -> Result<AesScene> {
    let (sealed, tag) = reference::gcm_encrypt(&GCM_KEY, IV, aad, plain)?;
    let mut input = pad_aad(aad);
    let padded = input.len();
    input.extend_from_slice(&sealed);
    let mut scene = fixture.gcm(&input)?;
    scene.cmd.input.op = abi::AES_DECRYPT;
    scene.set_gcm(|gcm| {
        gcm.iv = IV;
        gcm.tag = tag;
        gcm.aad_len = aad.len() as u32;
        gcm.aad_padded_len = padded as u32;
    });
    Ok(scene)
}

/// Makes sure that the device refuses a decryption, and that the right tag does
/// not come back anywhere in the output.
fn check_refused(fixture: &Fixture, mut scene: AesScene, tag: [u8; 16]) -> Result<()> {
    check_eq!(scene.send(&fixture.device), Ok(0), "ioctl");
    ensure!(scene.cmd.output.result != 0, "accepted");
    scene.check_no_result()?;
    let output = scene.cmd.output.as_bytes();
    ensure!(
        !output.windows(16).any(|part| part == tag),
        "the tag came back"
    );
    Ok(())
}

fn gcm_wrong_tag(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    // Aligned in every respect, with a tail, with padding: the device looks at
    // the tag in different places.
    for (aad, len) in [(0, 64), (32, 64), (0, 70), (20, 64), (20, 70), (0, 5)] {
        let (aad, plain) = (text(aad), text(len));
        decryption(&fixture, &aad, &plain)?.send_well(&fixture.device)?;
        let (_, tag) = reference::gcm_encrypt(&GCM_KEY, IV, &aad, &plain)?;
        for byte in [0, 15] {
            let mut scene = decryption(&fixture, &aad, &plain)?;
            scene.set_gcm(|gcm| gcm.tag[byte] ^= 1);
            check_refused(&fixture, scene, tag)?;
        }
    }
    Ok(())
}

fn gcm_wrong_others(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let (aad, plain) = (text(20), text(70));
    let (_, tag) = reference::gcm_encrypt(&GCM_KEY, IV, &aad, &plain)?;
    let changes: [fn(&mut AesScene); 4] = [
        |scene| scene.src.write(16, &[0xee]),
        |scene| scene.src.write(32, &[0xee]),
        |scene| scene.src.write(32 + 69, &[0xee]),
        |scene| scene.set_gcm(|gcm| gcm.iv[11] ^= 1),
    ];
    for change in changes {
        let mut scene = decryption(&fixture, &aad, &plain)?;
        change(&mut scene);
        check_refused(&fixture, scene, tag)?;
    }
    Ok(())
}

fn gcm_decrypt_output(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let mut scene = decryption(&fixture, &text(20), &text(70))?;
    scene.send_well(&fixture.device)?;
    check_eq!(scene.cmd.output.tag, [0; 16], "out.tag");
    check_eq!(scene.cmd.output.iv, [0; 12], "out.iv");
    Ok(())
}

fn gcm_aligned(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in [16, 32, 1024, 4096, 16_368] {
        let plain = text(len);
        let mut scene = fixture.gcm(&plain)?;
        scene.set_gcm(|gcm| {
            gcm.iv = IV;
            gcm.unaligned = 0;
        });
        scene.send_well(&fixture.device)?;
        let (expected, tag) = reference::gcm_encrypt(&GCM_KEY, IV, &[], &plain)?;
        ensure!(scene.dst.read(0, len) == expected, "another text");
        check_eq!(scene.cmd.output.tag, tag, "tag");
    }
    Ok(())
}

fn gcm_aligned_tail(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in [1, 17, 100] {
        let mut scene = fixture.gcm(&text(len))?;
        scene.set_gcm(|gcm| gcm.unaligned = 0);
        scene.send_refused(&fixture.device, BAD_GCM, 6)?;
    }
    Ok(())
}

/// A device that only knows whole blocks: everybody is in aligned mode.
fn no_tails(env: &Env) -> Result<()> {
    let set = |features: u32| -> Result<()> {
        env.control()?.set("features", &json!(features))?;
        env.reload()
    };
    set(0)?;
    let check = || -> Result<()> {
        let fixture = Fixture::new(env)?;
        for len in [16, 32, 4096, COPIED, COPIED + 16] {
            fixture.check_gcm(&text(20), &text(len))?;
        }
        for len in [1, 17, COPIED + 1] {
            fixture
                .gcm(&text(len))?
                .send_refused(&fixture.device, BAD_GCM, 6)?;
        }
        // The rules for padding are the unaligned mode's.
        let mut scene = fixture.gcm(&text(64))?;
        scene.set_gcm(|gcm| {
            gcm.aad_len = 20;
            gcm.aad_padded_len = 48;
        });
        scene.send_refused(&fixture.device, BAD_GCM, 5)
    };
    let result = check();
    set(1)?;
    result?;
    Fixture::new(env)?.check_gcm(&[], &text(17))
}

/// What the device calls approved: GCM with such a key if one bit is set, XTS if
/// any is.
fn indicator(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let mut control = env.control()?;
    let key = control.load_key(KeyKind::GcmApproved, &GCM_KEY, fixture.session)?;
    let mut check = |fips: u32| -> Result<()> {
        control.set("fips", &json!(fips))?;
        let plain = text(64);
        let mut request = fixture.gcm_request(Direction::Encrypt, &[], &plain);
        let other = done(fixture.device.aes_gcm(&request))?;
        check_eq!(
            other.approved,
            false,
            "fips {fips}: key that is not approved"
        );
        request.key = key;
        let approved = done(fixture.device.aes_gcm(&request))?;
        check_eq!(approved.approved, fips & 1 != 0, "fips {fips}: GCM");
        let request = fixture.xts_request(Direction::Encrypt, &plain);
        let xts = done(fixture.device.aes_xts(&request))?;
        check_eq!(xts.approved, fips != 0, "fips {fips}: XTS");
        Ok(())
    };
    let result = [0, 1, 2, 0x80].into_iter().try_for_each(&mut check);
    let restored = check(1);
    result.and(restored)
}

/// Nor does it take additional data that is not padded as it wants it.
fn gcm_aligned_aad(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for padded in [16, 48] {
        let mut scene = fixture.gcm(&text(1024))?;
        scene.set_gcm(|gcm| {
            gcm.unaligned = 0;
            gcm.aad_len = padded;
            gcm.aad_padded_len = padded;
        });
        scene.send_refused(&fixture.device, BAD_GCM, 5)?;
    }
    Ok(())
}

fn gcm_unaligned(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for number in [1, 2, 0x80, 0xff] {
        let mut scene = fixture.gcm(&text(17))?;
        scene.set_gcm(|gcm| gcm.unaligned = number);
        scene.send_well(&fixture.device)?;
    }
    Ok(())
}

/// A device that does not know of tails is not asked for them.
fn gcm_aligned_device(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    control.set("features", &json!(0))?;
    env.reload()?;
    let result = (|| -> Result<()> {
        let fixture = Fixture::new(env)?;
        let mut scene = fixture.gcm(&text(17))?;
        scene.send_refused(&fixture.device, BAD_GCM, 6)?;
        fixture.gcm(&text(32))?.send_well(&fixture.device)
    })();
    control.set("features", &json!(1))?;
    env.reload()?;
    result
}

/// There may be other firmware after a reset, and it may know of tails or not.
fn gcm_mode_of_now(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let mut with = |features: u32| -> Result<Fixture> {
        control.set("features", &json!(features))?;
        env.open()?
            .reset(ResetKind::Controller)
            .map_err(|error| error.errno)?;
        Fixture::new(env)
    };
    let without = with(0).and_then(|fixture| {
        let mut scene = fixture.gcm(&text(17))?;
        scene.send_refused(&fixture.device, BAD_GCM, 6)?;
        fixture.gcm(&text(32))?.send_well(&fixture.device)
    });
    let fixture = with(1)?;
    without?;
    fixture.check_gcm(&[], &text(17))
}

fn gcm_unknown_key(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for key in [fixture.data, 0x3f0, u32::MAX] {
        let mut scene = fixture.gcm(&text(64))?;
        scene.set_gcm(|gcm| gcm.key_id = key);
        check_eq!(scene.send(&fixture.device), Ok(0), "ioctl");
        check_eq!(scene.cmd.output.result, BAD_GCM, "status");
        ensure!(scene.cmd.output.ext != 0, "no error code");
        scene.check_no_result()?;
    }
    Ok(())
}

fn gcm_large(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in [
        16_367,
        16_368,
        16_369,
        16_383,
        16_384,
        16_385,
        65_535,
        65_536,
        65_537,
        (1 << 20) + 7,
        BOUNCED + 7,
    ] {
        fixture.check_gcm(&text(20), &text(len))?;
    }
    Ok(())
}

/// Each length around the sizes at which a driver may stop to copy: whole pages,
/// and whole pages less a descriptor.
fn gcm_around_pages(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for pages in [1, 2, 3, 4] {
        let size = pages * PAGE;
        for len in size - 33..=size + 17 {
            fixture.check_gcm(&[], &text(len))?;
        }
    }
    Ok(())
}

/// Source and destination anywhere in a page, across its end, and so on.
fn gcm_any_address(env: &Env, lens: &[usize]) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for &len in lens {
        let plain = text(len);
        let (expected, tag) = reference::gcm_encrypt(&GCM_KEY, IV, &[], &plain)?;
        let odd = (1..16).map(|offset| (offset, 16 - offset));
        let across = [(0, PAGE - 9), (PAGE - 1, 0), (PAGE - 16, 3), (2049, 4000)];
        for (from, to) in odd.chain(across) {
            let pages = (len + PAGE).div_ceil(PAGE);
            let (src, dst) = (Memory::new(pages)?, Memory::new(pages)?);
            src.write(from.min(src.size() - len), &plain);
            let mut scene = fixture.gcm(&plain)?;
            scene.set_gcm(|gcm| gcm.iv = IV);
            scene.cmd.input.src = src.address(from.min(src.size() - len));
            let at = to.min(dst.size() - len);
            scene.cmd.input.dst = dst.address(at);
            scene.send_well(&fixture.device)?;
            ensure!(
                dst.read(at, len) == expected,
                "{len} bytes from {from} to {to}"
            );
            check_eq!(scene.cmd.output.tag, tag, "tag");
            let around = [dst.read(0, at), dst.read(at + len, dst.size() - at - len)];
            ensure!(
                around.concat().iter().all(|&byte| byte == 0),
                "{len} bytes from {from} to {to}: written outside the output"
            );
        }
    }
    Ok(())
}

fn gcm_rest(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in [5, 16, 100, 4095] {
        let mut scene = fixture.gcm(&text(len))?;
        scene.cmd.input.dst_len = 4096;
        scene.send_well(&fixture.device)?;
        scene.check_untouched_from(len)?;
    }
    Ok(())
}

/// Memory that is not the process's own: the kernel's files in memory, with
/// small and with huge pages.
fn foreign_memory(env: &Env) -> Result<()> {
    const HUGE: usize = 2 << 20;
    let fixture = Fixture::new(env)?;
    fs::write("/proc/sys/vm/nr_hugepages", "2")?;
    let path = Path::new("/tmp/azihsm-memory");
    let tmpfs = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    fs::remove_file(path)?;
    let files = [
        ("tmpfs", tmpfs),
        (
            "memfd",
            File::from(memfd_create(c"small", MFdFlags::empty())?),
        ),
        (
            "huge pages",
            File::from(memfd_create(c"huge", MFdFlags::MFD_HUGETLB)?),
        ),
    ];
    for (what, file) in files {
        file.set_len(2 * HUGE as u64)?;
        let memory = Memory::of_file(&file, 2 * HUGE).context(what)?;
        for len in [100, 16_384, 300_000] {
            let plain = text(len);
            let (expected, tag) = reference::gcm_encrypt(&GCM_KEY, IV, &[], &plain)?;
            // The destination is across the end of the first huge page.
            let (from, to) = (5, HUGE - len / 2);
            memory.write(from, &plain);
            let mut scene = fixture.gcm(&plain)?;
            scene.set_gcm(|gcm| gcm.iv = IV);
            scene.cmd.input.src = memory.address(from);
            scene.cmd.input.dst = memory.address(to);
            scene.send_well(&fixture.device)?;
            ensure!(memory.read(to, len) == expected, "{what}: another text");
            check_eq!(scene.cmd.output.tag, tag, "{what}: tag");
        }
    }
    fs::write("/proc/sys/vm/nr_hugepages", "0")?;
    Ok(())
}

/// Buffers with a page in their middle that is not there.
fn holes(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in [3 * PAGE, 16_384, 16 * PAGE] {
        let middle = len / PAGE / 2;
        let mut scene = fixture.gcm(&text(len))?;
        scene.src.protect(middle, 1, Access::None)?;
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
        scene.src.protect(middle, 1, Access::ReadWrite)?;
        scene.dst.protect(middle, 1, Access::None)?;
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
        scene.dst.protect(middle, 1, Access::Read)?;
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
        scene.dst.protect(middle, 1, Access::ReadWrite)?;
        scene.send_well(&fixture.device)?;
    }
    Ok(())
}

/// What is not copied is looked at before the device gets to know of it.
fn unsent(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let mut scene = fixture.gcm(&text(2 << 20))?;
    let count = || -> Result<u64> {
        let counters = env.control()?.counters()?;
        counters["commands"]["aes"].as_u64().context("no counters")
    };
    let before = count()?;
    scene.dst.protect(0, (2 << 20) / PAGE, Access::Read)?;
    scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
    scene.src.protect(3, 1, Access::None)?;
    scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
    check_eq!(count()?, before, "commands that reached the device");
    Ok(())
}

/// The longest there may be, and one byte more.
fn longest(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    fixture.check_gcm(&[], &text(abi::AES_MAX_LEN))?;
    fixture.check_gcm(&text(13), &text(abi::AES_MAX_LEN - 33))?;
    let mut scene = fixture.gcm(&[1])?;
    scene.cmd.input.src_len = abi::AES_MAX_LEN as u32;
    scene.cmd.input.dst_len = abi::AES_MAX_LEN as u32;
    let memory = Memory::new(abi::AES_MAX_LEN / PAGE + 1)?;
    scene.cmd.input.src = memory.address(0);
    scene.cmd.input.dst = memory.address(0);
    scene.cmd.input.dst_len += 1;
    scene.send_badly(&fixture.device, Errno::INVAL, ext::AES_DST_LEN)?;
    scene.cmd.input.src_len += 1;
    scene.send_badly(&fixture.device, Errno::INVAL, ext::AES_SRC_LEN)
}

fn xts_units(env: &Env, most: usize) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let units = [
        (abi::XTS_UNIT_512, 512),
        (abi::XTS_UNIT_4096, 4096),
        (abi::XTS_UNIT_8192, 8192),
    ];
    for (code, unit) in units {
        for count in [1, 2, 3, 8] {
            if unit * count <= most {
                fixture.check_xts((code, unit), 5, &text(unit * count))?;
            }
        }
    }
    Ok(())
}

fn xts_lengths(env: &Env, lens: &[usize]) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for &len in lens {
        fixture.check_xts((abi::XTS_UNIT_WHOLE, len), 1 << 70, &text(len))?;
    }
    Ok(())
}

fn xts_in_place(env: &Env, lens: &[usize]) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for &len in lens {
        let plain = text(len);
        let expected = reference::xts_encrypt(&DATA_KEY, &TWEAK_KEY, len, 0, &plain);
        let mut scene = fixture.xts(&plain)?;
        scene.cmd.input.dst = scene.cmd.input.src;
        scene.send_well(&fixture.device)?;
        ensure!(
            scene.src.read(0, len) == expected,
            "{len} bytes: another text"
        );
    }
    Ok(())
}

/// Numbers of data units that have more than one digit to count up.
fn xts_tweak(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for first in [0, 0xff, 0xffff_ffff, u128::from(u64::MAX), 1 << 127] {
        fixture.check_xts((abi::XTS_UNIT_512, 512), first, &text(1536))?;
    }
    Ok(())
}

fn xts_longer_output(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in [16, 512, 2048] {
        let mut scene = fixture.xts(&text(len))?;
        scene.cmd.input.dst_len = 4096;
        scene.send_well(&fixture.device)?;
        scene.check_untouched_from(len)?;
    }
    Ok(())
}

fn xts_ragged(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in [1, 15, 17, 4095] {
        fixture
            .xts(&text(len))?
            .send_refused(&fixture.device, BAD_XTS, 0x0c)?;
    }
    Ok(())
}

fn xts_same_key(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let mut scene = fixture.xts(&text(512))?;
    scene.set_xts(|xts| xts.tweak_key_id = xts.data_key_id);
    scene.send_refused(&fixture.device, BAD_XTS, 5)
}

fn xts_large(env: &Env, len: usize) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let plain = text(len);
    let mut request = fixture.xts_request(Direction::Encrypt, &plain);
    request.data_unit = abi::XTS_UNIT_4096;
    let sealed = done(fixture.device.aes_xts(&request))?;
    check_eq!(sealed.byte_count, len, "byte count");
    let expected = reference::xts_encrypt(&DATA_KEY, &TWEAK_KEY, 4096, 0, &plain);
    ensure!(sealed.text == expected, "another text");
    Ok(())
}

fn small_size(env: &Env, size: u32) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for mut scene in [fixture.gcm(&[0; 64])?, fixture.xts(&[0; 64])?] {
        scene.cmd.hdr.size = size;
        let before = scene.cmd;
        check_eq!(scene.send(&fixture.device), Err(Errno::INVAL), "ioctl");
        check_eq!(scene.cmd.as_bytes(), before.as_bytes(), "structure");
    }
    Ok(())
}

fn unreadable(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for number in [abi::IOC_AES_GCM, abi::IOC_AES_XTS] {
        for address in [0, 1, sys::UNMAPPED, sys::KERNEL, u64::MAX] {
            let result = sys::submit_at(&fixture.device, number, address);
            check_eq!(result, Err(Errno::FAULT), "ioctl at {address:#x}");
        }
    }
    Ok(())
}

fn cut_off(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let scene = fixture.gcm(&[0; 64])?;
    let memory = Memory::new(1)?;
    for len in [4, 15, 16, 240, SIZE - 1] {
        memory.write(memory.size() - len, &scene.cmd.as_bytes()[..len]);
        let result = sys::submit_at(&fixture.device, scene.number, memory.address_of_last(len));
        check_eq!(result, Err(Errno::FAULT), "ioctl with {len} bytes");
    }
    Ok(())
}

fn unwritable(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let mut scene = fixture.gcm(&[0; 64])?;
    for op in [abi::AES_ENCRYPT, 2] {
        scene.cmd.input.op = op;
        let memory = Memory::with(scene.cmd.as_bytes())?;
        memory.protect(0, 1, Access::Read)?;
        let result = sys::submit_at(&fixture.device, scene.number, memory.address(0));
        check_eq!(result, Err(Errno::FAULT), "ioctl with operation {op}");
    }
    Ok(())
}

fn larger_size(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for size in [401, 4096, u32::MAX] {
        let mut scene = fixture.gcm(&[0; 64])?;
        scene.cmd.hdr.size = size;
        scene.send_well(&fixture.device)?;
        check_eq!(scene.cmd.hdr.size, size, "size");
    }
    Ok(())
}

fn ignored(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for mut scene in [fixture.gcm(&[0; 64])?, fixture.xts(&[0; 64])?] {
        scene.cmd.hdr.app_cmd_id = u32::MAX;
        scene.cmd.hdr.timeout = u32::MAX;
        scene.cmd.hdr.flags = u32::MAX;
        scene.cmd.input.reserved0 = 0xffff;
        scene.cmd.input.pad0 = u32::MAX;
        scene.cmd.input.pad1 = u32::MAX;
        scene.cmd.input.pad2 = u32::MAX;
        scene.cmd.input.pad3 = 0xff;
        scene.cmd.input.pad4 = [0xff; 3];
        scene.cmd.input.reserved1 = [u32::MAX; 30];
        scene.cmd.input.pad5 = u32::MAX;
        scene.send_well(&fixture.device)?;
        check_eq!(scene.cmd.output.reserved0, [0; 3], "out.reserved0");
        check_eq!(scene.cmd.output.reserved1, [0; 26], "out.reserved1");
    }
    Ok(())
}

fn input_unmapped(env: &Env, lens: &[usize]) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for &len in lens {
        let mut scene = fixture.gcm(&text(len))?;
        scene.cmd.input.src = sys::UNMAPPED;
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
        scene.cmd.input.src = scene.src.address(scene.src.size() - len + 1);
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
    }
    fixture.check_gcm(&[], &text(64))
}

fn output_unmapped(env: &Env, lens: &[usize]) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for &len in lens {
        let mut scene = fixture.gcm(&text(len))?;
        scene.cmd.input.dst = sys::UNMAPPED;
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
        scene.cmd.input.dst = scene.dst.address(scene.dst.size() - len + 1);
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
    }
    fixture.check_gcm(&[], &text(64))
}

fn output_read_only(env: &Env, lens: &[usize]) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for &len in lens {
        let mut scene = fixture.gcm(&text(len))?;
        scene
            .dst
            .protect(0, scene.dst.size() / PAGE, Access::Read)?;
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
        scene.check_untouched()?;
    }
    fixture.check_gcm(&[], &text(64))
}

fn no_session(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let other = env.open()?;
    for mut scene in [fixture.gcm(&[0; 64])?, fixture.xts(&[0; 64])?] {
        scene.send_badly(&other, Errno::INVAL, ext::AES_NO_SESSION)?;
    }
    Ok(())
}

fn after_close(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    fixture.gcm(&[0; 64])?.send_well(&fixture.device)?;
    hsm::close_session(&fixture.device, fixture.session.id)?;
    fixture
        .gcm(&[0; 64])?
        .send_badly(&fixture.device, Errno::INVAL, ext::AES_NO_SESSION)
}

fn foreign_session(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let other = env.open()?;
    hsm::open_session(&other)?;
    fixture
        .gcm(&[0; 64])?
        .send_badly(&other, Errno::INVAL, ext::AES_SESSION_MISMATCH)
}

/// A session that the device opened without saying for which application.
fn no_application(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let device = env.open()?;
    // Flow open and ID valid, application not.
    env.control()?.inject(json!({
        "fault": "cqe_session", "class": "hsm", "count": 1, "flags": 5,
    }))?;
    let session = hsm::open_session(&device)?;
    hsm::use_session(&device, session.id)?;
    for mut scene in [fixture.gcm(&[0; 64])?, fixture.xts(&[0; 64])?] {
        for (id, app) in [(session.id, session.app), (session.id, 0), (0xff, 0)] {
            scene.cmd.input.session_id = id;
            scene.cmd.input.short_app_id = app;
            scene.send_badly(&device, Errno::INVAL, ext::AES_NO_APP)?;
        }
    }
    Ok(())
}

/// A function that has queues for the HSM only.
fn no_queues(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    control.set("aes_queues", &json!(0))?;
    env.reload()?;
    let result = (|| -> Result<()> {
        let fixture = Fixture::new(env)?;
        let other = env.open()?;
        for mut scene in [fixture.gcm(&[0; 64])?, fixture.xts(&[0; 64])?] {
            scene.cmd.input.op = 2;
            for device in [&fixture.device, &other] {
                scene.send_badly(device, Errno::INVAL, ext::AES_NO_QUEUES)?;
            }
        }
        hsm::use_session(&fixture.device, fixture.session.id)
    })();
    control.set("aes_queues", &json!(null))?;
    env.reload()?;
    result
}

fn no_device(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let count = || -> Result<u64> {
        let counters = env.control()?.counters()?;
        counters["commands"]["aes"].as_u64().context("no counters")
    };
    let before = count()?;
    for wrong in WRONG.iter().chain(WRONG_GCM) {
        let mut scene = fixture.gcm(&[1; 1024])?;
        (wrong.change)(&mut scene);
        scene.send_badly(&fixture.device, Errno::INVAL, wrong.ext)?;
    }
    check_eq!(count()?, before, "commands");
    fixture.gcm(&[1; 1024])?.send_well(&fixture.device)?;
    check_eq!(count()?, before + 1, "commands");
    Ok(())
}

/// Names of entries of [`WRONG`] and the others that do not exclude each other,
/// in the order in which the driver is to look for them.
const ORDER: &[&str] = &[
    "another-session",
    "another-application",
    "operation-2",
    "cipher-2",
    "data-unit-4",
    "aad-of-ffffffff",
    "frame-type-2",
    "no-input",
    "no-output",
    "input-above-16-mib",
    "output-above-16-mib",
];

/// Everything wrong at once, and then one thing less each time.
fn order(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for (scene, of_cipher) in [
        (fixture.gcm(&[1; 1024])?, WRONG_GCM),
        (fixture.xts(&[1; 1024])?, WRONG_XTS),
    ] {
        let (right, mut scene) = (scene.cmd, scene);
        let order: Vec<&Wrong> = ORDER
            .iter()
            .filter_map(|name| {
                let mut all = WRONG.iter().chain(of_cipher);
                all.find(|wrong| wrong.name == *name)
            })
            .collect();
        check_eq!(order.len(), ORDER.len() - 1, "checks");
        for first in 0..order.len() {
            scene.cmd = right;
            for wrong in order[first..].iter().rev() {
                (wrong.change)(&mut scene);
            }
            scene.send_badly(&fixture.device, Errno::INVAL, order[first].ext)?;
        }
    }
    Ok(())
}

fn device_error(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for (status, code) in [(3, 0xa), (0x7f, 0xffff), (0x7fff, 0x1234)] {
        env.control()?.inject(json!({
            "fault": "status", "class": "aes", "count": 1, "status": status, "error": code,
        }))?;
        fixture
            .gcm(&text(64))?
            .send_refused(&fixture.device, status, code)?;
    }
    fixture.check_gcm(&[], &text(64))
}

/// The device claims to have written more than there is room for, or less than
/// all.
fn impossible_length(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for length in [65, 0xffff_fff0_u32, 63, 48, 0] {
        for mut scene in [fixture.gcm(&text(64))?, fixture.xts(&text(64))?] {
            env.control()?.inject(json!({
                "fault": "cqe_length", "class": "aes", "count": 1, "length": length,
            }))?;
            scene.send_badly(&fixture.device, Errno::IO, ext::AES_DEVICE)?;
        }
    }
    fixture.check_gcm(&[], &text(64))
}

/// Has bits of the next completion of an AES command flipped.
fn corrupt(env: &Env, offset: usize) -> Result<()> {
    env.control()?.inject(json!({
        "fault": "corrupt_cqe", "class": "aes", "count": 1, "offset": offset, "xor": 0x5a,
    }))
}

/// The device claims to have written another tail than there is.
fn impossible_tail(env: &Env) -> Result<()> {
    const TAIL_LEN: usize = 44;
    let fixture = Fixture::new(env)?;
    for len in [64, 70] {
        for at in [TAIL_LEN, TAIL_LEN + 3] {
            corrupt(env, at)?;
            fixture
                .gcm(&text(len))?
                .send_badly(&fixture.device, Errno::IO, ext::AES_DEVICE)?;
        }
    }
    fixture.check_gcm(&[], &text(64))
}

/// Whatever stands where the device puts tag and IV, nobody else gets it.
fn no_tag(env: &Env) -> Result<()> {
    const TAG: usize = 4;
    const IV: usize = 20;
    let fixture = Fixture::new(env)?;
    let (mut encryption, mut decryption) = (fixture.xts(&text(64))?, fixture.xts(&text(64))?);
    encryption.cmd.input.op = abi::AES_ENCRYPT;
    decryption.cmd.input.op = abi::AES_DECRYPT;
    let opened = self::decryption(&fixture, &text(20), &text(70))?;
    for mut scene in [encryption, decryption, opened] {
        corrupt(env, TAG)?;
        corrupt(env, IV)?;
        scene.send_well(&fixture.device)?;
        check_eq!(scene.cmd.output.tag, [0; 16], "out.tag");
        check_eq!(scene.cmd.output.iv, [0; 12], "out.iv");
    }
    // Nor does anybody when the command failed.
    corrupt(env, TAG)?;
    corrupt(env, IV)?;
    env.control()?.inject(json!({
        "fault": "status", "class": "aes", "count": 1, "status": 3, "error": 7, "execute": true,
    }))?;
    fixture.gcm(&text(64))?.send_refused(&fixture.device, 3, 7)
}

/// The memory that the device can reach forgets what was copied through it.
fn no_traces(env: &Env) -> Result<()> {
    const SQE: usize = 128;
    const ENGINE_LEN: usize = 24;
    const LISTS: [usize; 2] = [28, 48];
    const TAILS: [usize; 2] = [112, 120];
    let fixture = Fixture::new(env)?;
    let mut patterns = Vec::new();
    // None of the pages that come now is beside another, so that each of what is
    // accessed in place is as small as what is copied.
    let scattered = Memory::new(16_384)?;
    scattered.fill(0, scattered.size(), 1);
    for page in (0..16_384).step_by(2) {
        scattered.forget(page)?;
    }
    let mut control = env.control()?;
    let before = control.submission_queues("aes")?;
    // What is accessed in place leaves no more than its tail behind.
    for len in [BOUNCED + 23, 70, 12_007, 30_007, 150_007] {
        let plain = text(len);
        let mut scene = fixture.gcm(&plain)?;
        scene.set_gcm(|gcm| gcm.iv = IV);
        scene.send_well(&fixture.device)?;
        let sealed = scene.dst.read(0, len);
        // In the last block and in the tail.
        for data in [plain, sealed] {
            let end = len - len % 16;
            patterns.push(data[end - 16..end].to_vec());
            patterns.push(data[end..].to_vec());
        }
    }
    let mut looked_at = 0;
    let after = control.submission_queues("aes")?;
    for ((queue, base, entries, tail), (.., first)) in after.into_iter().zip(before) {
        let ring = control.memory(base, entries * SQE)?;
        let count = (tail + entries - first) % entries;
        for sqe in ring.chunks(SQE).cycle().skip(first).take(count) {
            let address =
                |at: usize| -> Result<u64> { Ok(u64::from_le_bytes(sqe[at..at + 8].try_into()?)) };
            let mut areas = Vec::new();
            let bytes = u32::from_le_bytes(sqe[ENGINE_LEN..ENGINE_LEN + 4].try_into()?) as usize;
            for at in LISTS {
                // Of what was accessed in place the list, and what it describes, is
                // somebody else's memory now.
                if bytes > BOUNCED {
                    break;
                }
                let size = u32::from_le_bytes(sqe[at + 8..at + 12].try_into()?) as usize;
                let list = control.memory(address(at)?, size)?;
                for part in list.chunks(16) {
                    let data = u64::from_le_bytes(part[..8].try_into()?);
                    let len = u32::from_le_bytes(part[8..12].try_into()?);
                    areas.push((data, len as usize));
                }
            }
            for at in TAILS {
                areas.push((address(at)?, 16));
            }
            for (address, len) in areas {
                for pattern in patterns.iter().filter(|pattern| pattern.len() <= len) {
                    looked_at += 1;
                    ensure!(
                        address == 0 || !control.memory_holds(address, len, pattern)?,
                        "queue {queue}: a command left its traces"
                    );
                }
            }
        }
    }
    ensure!(looked_at > 0, "no memory was looked at");
    Ok(())
}

fn at_once(env: &Env) -> Result<()> {
    // Seven keys fit a resource group, so all share those of one session,
    // which is what threads of one client do.
    let fixture = Fixture::new(env)?;
    thread::scope(|scope| {
        let handles: Vec<_> = (0..8_usize)
            .map(|number| {
                let fixture = &fixture;
                scope.spawn(move || -> Result<()> {
                    for round in 0..12 {
                        let len = 100 * (number + 1) + 1700 * (round % 4);
                        fixture.check_gcm(&text(number * 5), &text(len))?;
                        let len = len.next_multiple_of(16);
                        fixture.check_xts((abi::XTS_UNIT_WHOLE, len), 9, &text(len))?;
                    }
                    Ok(())
                })
            })
            .collect();
        let join = |handle: thread::ScopedJoinHandle<_>| handle.join().expect("does not panic");
        handles.into_iter().try_for_each(join)
    })
}
