// SPDX-License-Identifier: GPL-2.0

//! AES-256-XTS over data that comes in pieces.

use aes::cipher::BlockDecrypt;
use aes::cipher::BlockEncrypt;
use aes::cipher::KeyInit;
use aes::Aes256;

/// Size of a block.
pub const BLOCK: usize = 16;

/// One XTS operation.
pub struct Xts {
    data: Aes256,
    tweak: Aes256,
    /// The number of the data unit.
    number: u128,
    /// Blocks per data unit; none if all data is one unit.
    unit: Option<u64>,
    /// Blocks of the data unit that are done.
    done: u64,
    mask: u128,
}

impl Xts {
    /// Starts an operation with data units of so many bytes.
    pub fn new(
        data_key: &[u8; 32],
        tweak_key: &[u8; 32],
        tweak: &[u8; 16],
        unit: Option<u64>,
    ) -> Self {
        Self {
            data: Aes256::new(data_key.into()),
            tweak: Aes256::new(tweak_key.into()),
            number: u128::from_le_bytes(*tweak),
            unit: unit.map(|bytes| bytes / BLOCK as u64),
            done: 0,
            mask: 0,
        }
    }

    fn next_mask(&mut self) -> [u8; BLOCK] {
        if self.unit == Some(self.done) {
            self.done = 0;
            self.number = self.number.wrapping_add(1);
        }
        if self.done == 0 {
            let mut block = self.number.to_le_bytes();
            self.tweak.encrypt_block((&mut block).into());
            self.mask = u128::from_le_bytes(block);
        } else {
            let carry = self.mask >> 127;
            self.mask = (self.mask << 1) ^ (carry * 0x87);
        }
        self.done += 1;
        self.mask.to_le_bytes()
    }

    fn run(&mut self, data: &mut [u8], decrypt: bool) {
        for chunk in data.chunks_exact_mut(BLOCK) {
            let mask = self.next_mask();
            let mut block = [0; BLOCK];
            for ((byte, source), mask) in block.iter_mut().zip(&*chunk).zip(mask) {
                *byte = source ^ mask;
            }
            if decrypt {
                self.data.decrypt_block((&mut block).into());
            } else {
                self.data.encrypt_block((&mut block).into());
            }
            for ((byte, source), mask) in chunk.iter_mut().zip(block).zip(mask) {
                *byte = source ^ mask;
            }
        }
    }

    /// Encrypts whole blocks.
    pub fn encrypt(&mut self, data: &mut [u8]) {
        self.run(data, false);
    }

    /// Decrypts whole blocks.
    pub fn decrypt(&mut self, data: &mut [u8]) {
        self.run(data, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    /// Keys of the vectors for 256-bit keys in IEEE 1619.
    const KEY1: &str = "2718281828459045235360287471352662497757247093699959574966967627";
    const KEY2: &str = "3141592653589793238462643383279502884197169399375105820974944592";
    /// Vector 10 of IEEE 1619: 512 bytes counting up, data unit 0xff.
    const VECTOR_10: &str = "\
1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b\
5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd\
5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0\
c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca\
2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0\
b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f\
93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec\
583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a\
84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1\
505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae\
9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29\
a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac\
6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f\
645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385\
1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa\
773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151";

    #[test]
    fn published_vector() {
        let plain: Vec<u8> = (0..512).map(|n| n as u8).collect();
        let cipher = hex::decode(VECTOR_10).unwrap();
        let tweak = bytes("ff000000000000000000000000000000");
        for piece in [16, 48, 512] {
            let start = || Xts::new(&bytes(KEY1), &bytes(KEY2), &tweak, None);
            let mut data = plain.clone();
            let mut xts = start();
            data.chunks_mut(piece).for_each(|piece| xts.encrypt(piece));
            assert_eq!(data, cipher);
            let mut xts = start();
            data.chunks_mut(piece).for_each(|piece| xts.decrypt(piece));
            assert_eq!(data, plain);
        }
    }

    #[test]
    fn every_data_unit_has_the_next_number() {
        let plain: Vec<u8> = (0..1536u32).map(|n| (n * 7) as u8).collect();
        let mut whole = plain.clone();
        let tweak = (0x1_0000_0000_0000_0000u128 - 1).to_le_bytes();
        Xts::new(&bytes(KEY1), &bytes(KEY2), &tweak, Some(512)).encrypt(&mut whole);
        let mut single = plain;
        for (number, unit) in (0xffff_ffff_ffff_ffffu128..).zip(single.chunks_mut(512)) {
            Xts::new(&bytes(KEY1), &bytes(KEY2), &number.to_le_bytes(), None).encrypt(unit);
        }
        assert_eq!(whole, single);
    }
}
