// SPDX-License-Identifier: GPL-2.0
//! Other implementations of what the device computes.
//!
//! The virtual device has GCM and XTS of its own, on top of crates `aes` and
//! `ghash`.  Here GCM is that of `ring`, which shares nothing with it.  XTS is
//! that of `xts-mode`, on top of `aes` again; that its block cipher is the right
//! one is tested below against `ring`'s, and all of it against what others have
//! published.

use aes::cipher::KeyInit;
use aes::Aes256;
use anyhow::anyhow;
use anyhow::Result;
use ring::aead::Aad;
use ring::aead::LessSafeKey;
use ring::aead::Nonce;
use ring::aead::UnboundKey;
use ring::aead::AES_256_GCM;
use xts_mode::get_tweak_default;
use xts_mode::Xts128;

/// Encrypts with AES-256-GCM: the text and the tag.
pub fn gcm_encrypt(
    key: &[u8; 32],
    iv: [u8; 12],
    aad: &[u8],
    text: &[u8],
) -> Result<(Vec<u8>, [u8; 16])> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| anyhow!("key"))?;
    let mut text = text.to_vec();
    let tag = LessSafeKey::new(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::from(aad), &mut text)
        .map_err(|_| anyhow!("encryption"))?;
    Ok((text, tag.as_ref().try_into()?))
}

/// Encrypts with AES-256-XTS: data units of `unit` bytes, the first of which
/// has the number `first`.
pub fn xts_encrypt(
    data_key: &[u8; 32],
    tweak_key: &[u8; 32],
    unit: usize,
    first: u128,
    text: &[u8],
) -> Vec<u8> {
    let cipher = Xts128::<Aes256>::new(Aes256::new(data_key.into()), Aes256::new(tweak_key.into()));
    let mut text = text.to_vec();
    cipher.encrypt_area(&mut text, unit, first, get_tweak_default);
    text
}

#[cfg(test)]
mod tests {
    use super::gcm_encrypt;
    use super::xts_encrypt;
    use crate::vectors;
    use aes::cipher::BlockDecrypt;
    use aes::cipher::BlockEncrypt;
    use aes::cipher::KeyInit;
    use aes::Aes256;
    use fastrand::Rng;

    #[test]
    fn gcm_of_nothing_is_test_case_13() {
        let (text, tag) = gcm_encrypt(&[0; 32], [0; 12], &[], &[]).unwrap();
        assert!(text.is_empty());
        assert_eq!(hex::encode(tag), "530f8afbc74536b9a963b4f1c4cb738b");
    }

    #[test]
    fn gcm_is_as_published() {
        for source in ["mcgrew-viega", "cavp", "wycheproof"] {
            for vector in vectors::gcm(source).unwrap() {
                let result = gcm_encrypt(&vector.key, vector.iv, &vector.aad, &vector.plain);
                let (sealed, tag) = result.unwrap();
                let same = (sealed, tag) == (vector.sealed, vector.tag);
                assert_eq!(same, !vector.wrong, "{}", vector.name);
            }
        }
    }

    #[test]
    fn xts_is_as_published() {
        for source in ["ieee-1619", "wycheproof"] {
            for vector in vectors::xts(source).unwrap() {
                let tweak = u128::from_le_bytes(vector.tweak);
                let unit = vector.plain.len();
                let sealed = xts_encrypt(
                    &vector.data_key,
                    &vector.tweak_key,
                    unit,
                    tweak,
                    &vector.plain,
                );
                assert_eq!(sealed, vector.sealed, "{}", vector.name);
            }
        }
    }

    #[test]
    fn xts_units_are_independent() {
        let (data, tweak) = ([1; 32], [2; 32]);
        let text: Vec<u8> = (0..1024_u32).map(|n| n as u8).collect();
        let whole = xts_encrypt(&data, &tweak, 512, 7, &text);
        let second = xts_encrypt(&data, &tweak, 512, 8, &text[512..]);
        assert_eq!(whole[512..], second);
    }

    /// GCM encrypts block n of a text with that of the IV and n + 2.
    #[test]
    fn block_cipher_is_that_of_ring() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..1000 {
            let (mut key, mut iv) = ([0; 32], [0; 12]);
            rng.fill(&mut key);
            rng.fill(&mut iv);
            let (stream, _) = gcm_encrypt(&key, iv, &[], &[0; 256]).unwrap();
            let cipher = Aes256::new(&key.into());
            for (count, expected) in (2_u32..).zip(stream.chunks(16)) {
                let mut counter = [0; 16];
                counter[..12].copy_from_slice(&iv);
                counter[12..].copy_from_slice(&count.to_be_bytes());
                let mut block = counter.into();
                cipher.encrypt_block(&mut block);
                assert_eq!(block.as_slice(), expected);
                cipher.decrypt_block(&mut block);
                assert_eq!(block.as_slice(), counter);
            }
        }
    }
}
