// SPDX-License-Identifier: GPL-2.0
//! Published test vectors; `vectors` says where they are from.

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;

const GCM: &str = include_str!("../vectors/gcm.txt");
const XTS: &str = include_str!("../vectors/xts.txt");

/// A vector of AES-256-GCM.
#[derive(Clone, Debug)]
pub struct Gcm {
    /// Source and name.
    pub name: String,
    /// Key.
    pub key: [u8; 32],
    /// Initialisation vector.
    pub iv: [u8; 12],
    /// Additional data.
    pub aad: Vec<u8>,
    /// Plaintext.
    pub plain: Vec<u8>,
    /// Ciphertext.
    pub sealed: Vec<u8>,
    /// Tag.
    pub tag: [u8; 16],
    /// Whether that is another tag than the right one.
    pub wrong: bool,
}

/// A vector of AES-256-XTS, of one data unit.
#[derive(Clone, Debug)]
pub struct Xts {
    /// Source and name.
    pub name: String,
    /// Key for the data.
    pub data_key: [u8; 32],
    /// Key for the tweak.
    pub tweak_key: [u8; 32],
    /// Number of the data unit, little endian.
    pub tweak: [u8; 16],
    /// Plaintext.
    pub plain: Vec<u8>,
    /// Ciphertext.
    pub sealed: Vec<u8>,
}

/// The lines of `text` that come from `source`, in words.
fn lines<'a>(text: &'a str, source: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(move |words| {
            let name = words.first().and_then(|name| name.strip_prefix(source));
            name.is_some_and(|rest| rest.starts_with('/'))
        })
}

fn bytes(word: &str) -> Result<Vec<u8>> {
    match word {
        "-" => Ok(Vec::new()),
        _ => Ok(hex::decode(word)?),
    }
}

fn array<const N: usize>(word: &str) -> Result<[u8; N]> {
    let bytes = bytes(word)?;
    <[u8; N]>::try_from(bytes.as_slice()).context("wrong length")
}

fn gcm_of(words: &[&str]) -> Result<Gcm> {
    let (words, wrong) = match words {
        [words @ .., "wrong"] => (words, true),
        words => (words, false),
    };
    let [name, key, iv, aad, plain, sealed, tag] = words else {
        bail!("not a vector of GCM");
    };
    Ok(Gcm {
        name: (*name).to_owned(),
        key: array(key)?,
        iv: array(iv)?,
        aad: bytes(aad)?,
        plain: bytes(plain)?,
        sealed: bytes(sealed)?,
        tag: array(tag)?,
        wrong,
    })
}

fn xts_of(words: &[&str]) -> Result<Xts> {
    let [name, data_key, tweak_key, tweak, plain, sealed] = words else {
        bail!("not a vector of XTS");
    };
    Ok(Xts {
        name: (*name).to_owned(),
        data_key: array(data_key)?,
        tweak_key: array(tweak_key)?,
        tweak: array(tweak)?,
        plain: bytes(plain)?,
        sealed: bytes(sealed)?,
    })
}

/// The vectors of GCM from `source`.
pub fn gcm(source: &str) -> Result<Vec<Gcm>> {
    lines(GCM, source).map(|words| gcm_of(&words)).collect()
}

/// The vectors of XTS from `source`.
pub fn xts(source: &str) -> Result<Vec<Xts>> {
    lines(XTS, source).map(|words| xts_of(&words)).collect()
}

#[cfg(test)]
mod tests {
    use super::gcm;
    use super::xts;
    use super::GCM;
    use super::XTS;

    #[test]
    fn every_vector_is_of_a_source() {
        let count = |text: &str| {
            let is_vector = |line: &&str| !line.is_empty() && !line.starts_with('#');
            text.lines().filter(is_vector).count()
        };
        let of = |source| gcm(source).unwrap().len();
        assert_eq!(
            [of("mcgrew-viega"), of("cavp"), of("wycheproof")],
            [3, 72, 65]
        );
        assert_eq!(count(GCM), 3 + 72 + 65);
        let of = |source| xts(source).unwrap().len();
        assert_eq!([of("ieee-1619"), of("wycheproof")], [5, 21]);
        assert_eq!(count(XTS), 5 + 21);
        assert!(gcm("none").unwrap().is_empty());
    }
}
