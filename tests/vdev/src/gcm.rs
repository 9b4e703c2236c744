// SPDX-License-Identifier: GPL-2.0

//! AES-256-GCM over data that comes in pieces.

use aes::cipher::BlockEncrypt;
use aes::cipher::KeyInit;
use aes::cipher::KeyIvInit;
use aes::cipher::StreamCipher;
use aes::Aes256;
use ctr::Ctr32BE;
use ghash::universal_hash::UniversalHash;
use ghash::GHash;

/// Size of a block.
pub const BLOCK: usize = 16;
/// Size of an IV.
pub const IV: usize = 12;

/// One GCM operation.
///
/// All pieces but the last one have to be whole blocks.
pub struct Gcm {
    counter: Ctr32BE<Aes256>,
    hash: GHash,
    mask: [u8; BLOCK],
    text: u64,
}

impl Gcm {
    /// Starts an operation.
    pub fn new(key: &[u8; 32], iv: &[u8; IV]) -> Self {
        let mut subkey = [0; BLOCK];
        Aes256::new(key.into()).encrypt_block((&mut subkey).into());
        let mut first = [0; BLOCK];
        first[..IV].copy_from_slice(iv);
        first[BLOCK - 1] = 1;
        let mut counter = Ctr32BE::<Aes256>::new(key.into(), (&first).into());
        let mut mask = [0; BLOCK];
        counter.apply_keystream(&mut mask);
        Self {
            counter,
            hash: GHash::new((&subkey).into()),
            mask,
            text: 0,
        }
    }

    /// Takes additional authenticated data, as it is padded.
    pub fn aad(&mut self, data: &[u8]) {
        self.hash.update_padded(data);
    }

    /// Encrypts a piece of text.
    pub fn encrypt(&mut self, data: &mut [u8]) {
        self.counter.apply_keystream(data);
        self.hash.update_padded(data);
        self.text += data.len() as u64;
    }

    /// Decrypts a piece of text.
    pub fn decrypt(&mut self, data: &mut [u8]) {
        self.hash.update_padded(data);
        self.counter.apply_keystream(data);
        self.text += data.len() as u64;
    }

    /// The tag for additional authenticated data of this length.
    pub fn tag(mut self, aad: u64) -> [u8; BLOCK] {
        let mut lengths = [0; BLOCK];
        lengths[..8].copy_from_slice(&(aad * 8).to_be_bytes());
        lengths[8..].copy_from_slice(&(self.text * 8).to_be_bytes());
        self.hash.update_padded(&lengths);
        let mut tag: [u8; BLOCK] = self.hash.finalize().into();
        for (byte, mask) in tag.iter_mut().zip(self.mask) {
            *byte ^= mask;
        }
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    struct Vector {
        key: &'static str,
        iv: &'static str,
        aad: &'static str,
        plain: &'static str,
        cipher: &'static str,
        tag: &'static str,
    }

    /// Test cases 13 to 16 of the specification of GCM.
    const VECTORS: [Vector; 4] = [
        Vector {
            key: "0000000000000000000000000000000000000000000000000000000000000000",
            iv: "000000000000000000000000",
            aad: "",
            plain: "",
            cipher: "",
            tag: "530f8afbc74536b9a963b4f1c4cb738b",
        },
        Vector {
            key: "0000000000000000000000000000000000000000000000000000000000000000",
            iv: "000000000000000000000000",
            aad: "",
            plain: "00000000000000000000000000000000",
            cipher: "cea7403d4d606b6e074ec5d3baf39d18",
            tag: "d0d1c8a799996bf0265b98b5d48ab919",
        },
        Vector {
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            iv: "cafebabefacedbaddecaf888",
            aad: "",
            plain: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
            cipher: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
            tag: "b094dac5d93471bdec1a502270e3cc6c",
        },
        Vector {
            key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            iv: "cafebabefacedbaddecaf888",
            aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plain: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            cipher: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            tag: "76fc6ece0f4e1768cddf8853bb2d551b",
        },
    ];

    #[test]
    fn published_vectors() {
        for vector in &VECTORS {
            let aad = hex::decode(vector.aad).unwrap();
            let plain = hex::decode(vector.plain).unwrap();
            let cipher = hex::decode(vector.cipher).unwrap();
            // Any piece size of whole blocks gives the same result.
            for piece in [16, 32, 64] {
                let start = || Gcm::new(&bytes(vector.key), &bytes(vector.iv));
                let mut data = plain.clone();
                let mut gcm = start();
                gcm.aad(&aad);
                data.chunks_mut(piece).for_each(|piece| gcm.encrypt(piece));
                assert_eq!(data, cipher);
                assert_eq!(gcm.tag(aad.len() as u64), bytes(vector.tag));

                let mut gcm = start();
                gcm.aad(&aad);
                data.chunks_mut(piece).for_each(|piece| gcm.decrypt(piece));
                assert_eq!(data, plain);
                assert_eq!(gcm.tag(aad.len() as u64), bytes(vector.tag));
            }
        }
    }

    #[test]
    fn a_leading_zero_block_of_aad_changes_nothing() {
        let vector = &VECTORS[3];
        let aad = hex::decode(vector.aad).unwrap();
        let mut data = hex::decode(vector.plain).unwrap();
        let mut gcm = Gcm::new(&bytes(vector.key), &bytes(vector.iv));
        gcm.aad(&[0; 16]);
        gcm.aad(&aad);
        gcm.encrypt(&mut data);
        assert_eq!(gcm.tag(aad.len() as u64), bytes(vector.tag));
    }
}
