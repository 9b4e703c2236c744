// SPDX-License-Identifier: GPL-2.0
//! Implementations of AES modes that share nothing with the device's.

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

    #[test]
    fn gcm_test_case_13() {
        let (text, tag) = gcm_encrypt(&[0; 32], [0; 12], &[], &[]).unwrap();
        assert!(text.is_empty());
        assert_eq!(hex::encode(tag), "530f8afbc74536b9a963b4f1c4cb738b");
    }

    #[test]
    fn xts_units_are_independent() {
        let (data, tweak) = ([1; 32], [2; 32]);
        let text: Vec<u8> = (0..1024_u32).map(|n| n as u8).collect();
        let whole = xts_encrypt(&data, &tweak, 512, 7, &text);
        let second = xts_encrypt(&data, &tweak, 512, 8, &text[512..]);
        assert_eq!(whole[512..], second);
    }
}
