// SPDX-License-Identifier: GPL-2.0
//! Published test vectors.

use super::done;
use super::wrong_tag;
use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::vectors;
use azihsm_uapi::abi;
use azihsm_uapi::pad_aad;
use azihsm_uapi::Device;
use azihsm_uapi::Direction;
use azihsm_uapi::GcmRequest;
use azihsm_uapi::XtsRequest;

/// The tests.
pub fn tests() -> Vec<Test> {
    let gcm = ["mcgrew-viega", "cavp", "wycheproof"].map(|source| {
        Test::new(format!("aes/gcm-vectors-of-{source}"), move |env: &Env| {
            gcm(env, source)
        })
    });
    let xts = ["ieee-1619", "wycheproof"].map(|source| {
        Test::new(format!("aes/xts-vectors-of-{source}"), move |env: &Env| {
            xts(env, source)
        })
    });
    gcm.into_iter().chain(xts).collect()
}

fn gcm(env: &Env, source: &str) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let mut control = env.control()?;
    for vector in vectors::gcm(source)? {
        // There is not room for the keys of all.
        let key = control.load_key(KeyKind::Gcm, &vector.key, session)?;
        gcm_vector(&device, session, key, &vector).with_context(|| vector.name.clone())?;
        control.delete_key(key)?;
    }
    Ok(())
}

fn gcm_vector(device: &Device, session: Session, key: u32, vector: &vectors::Gcm) -> Result<()> {
    let request = GcmRequest {
        direction: Direction::Decrypt,
        session: session.id,
        app: session.app,
        key,
        iv: vector.iv,
        tag: vector.tag,
        aad: &vector.aad,
        text: &vector.sealed,
    };
    let reply = device.aes_gcm(&request)?;
    if vector.wrong {
        let total = pad_aad(&vector.aad).len() + vector.sealed.len();
        let expected = wrong_tag(vector.aad.len(), total);
        check_eq!((reply.status, reply.code), expected, "status and error");
        return Ok(());
    }
    let opened = done(Ok(reply))?;
    check_eq!(
        hex::encode(opened.text),
        hex::encode(&vector.plain),
        "plaintext"
    );
    let sealed = done(device.aes_gcm(&GcmRequest {
        direction: Direction::Encrypt,
        tag: [0; 16],
        text: &vector.plain,
        ..request
    }))?;
    check_eq!(
        hex::encode(sealed.text),
        hex::encode(&vector.sealed),
        "ciphertext"
    );
    check_eq!(sealed.tag, vector.tag, "tag");
    check_eq!(sealed.iv, vector.iv, "IV");
    Ok(())
}

fn xts(env: &Env, source: &str) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let mut control = env.control()?;
    for vector in vectors::xts(source)? {
        let mut load = |key: &[u8; 32]| control.load_key(KeyKind::Xts, key, session);
        let keys = [load(&vector.data_key)?, load(&vector.tweak_key)?];
        xts_vector(&device, session, keys, &vector).with_context(|| vector.name.clone())?;
        for key in keys {
            control.delete_key(key)?;
        }
    }
    Ok(())
}

fn xts_vector(
    device: &Device,
    session: Session,
    keys: [u32; 2],
    vector: &vectors::Xts,
) -> Result<()> {
    let mut units = vec![abi::XTS_UNIT_WHOLE];
    if vector.plain.len() == 512 {
        units.push(abi::XTS_UNIT_512);
    }
    for data_unit in units {
        let request = XtsRequest {
            direction: Direction::Encrypt,
            session: session.id,
            app: session.app,
            data_key: keys[0],
            tweak_key: keys[1],
            data_unit,
            tweak: vector.tweak,
            text: &vector.plain,
        };
        let sealed = done(device.aes_xts(&request))?;
        ensure!(sealed.text == vector.sealed, "another ciphertext");
        let opened = done(device.aes_xts(&XtsRequest {
            direction: Direction::Decrypt,
            text: &vector.sealed,
            ..request
        }))?;
        ensure!(opened.text == vector.plain, "another plaintext");
    }
    Ok(())
}
