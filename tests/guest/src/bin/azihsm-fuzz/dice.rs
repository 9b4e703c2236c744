// SPDX-License-Identifier: GPL-2.0
//! Chance.

use rand::rngs::SmallRng;
use rand::Rng;
use rand::RngCore;
use rand::SeedableRng;

/// Numbers that lengths and sizes are compared with somewhere, or that are the
/// edge of something.
const EDGES: &[u32] = &[
    0,
    1,
    15,
    16,
    31,
    32,
    112,
    176,
    272,
    400,
    512,
    3584,
    4096,
    8192,
    12288,
    16384,
    65536,
    1 << 20,
    16 << 20,
    1 << 31,
    u32::MAX,
];

/// A source of random choices that the seed determines.
#[derive(Clone, Debug)]
pub struct Dice(SmallRng);

impl Dice {
    /// The dice of one player of those with the same seed.
    pub fn new(seed: u64, player: &[usize]) -> Self {
        // What distinguishes players is mixed by a generator itself.
        let mix = |state: u64, &part: &usize| {
            SmallRng::seed_from_u64(state ^ (part as u64 + 1)).next_u64()
        };
        Self(SmallRng::seed_from_u64(player.iter().fold(seed, mix)))
    }

    /// True once in `count` times.
    pub fn one_in(&mut self, count: u32) -> bool {
        self.0.random_range(0..count) == 0
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// A number from `first` to `last`.
    pub fn between(&mut self, first: usize, last: usize) -> usize {
        self.0.random_range(first..=last)
    }

    /// One of those.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// One of those, as often as its weight says.
    pub fn weigh<T: Copy>(&mut self, choices: &[(u32, T)]) -> T {
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut left = self.0.random_range(0..total);
        for &(weight, choice) in choices {
            if left < weight {
                return choice;
            }
            left -= weight;
        }
        unreachable!("less than the total")
    }

    /// Any number.
    pub fn any<T>(&mut self) -> T
    where
        rand::distr::StandardUniform: rand::distr::Distribution<T>,
    {
        self.0.random()
    }

    /// As many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A number that something is likely to be wrong with.
    pub fn odd(&mut self) -> u32 {
        match self.below(4) {
            0 => self.any(),
            1 => self.any::<u32>() >> self.below(32),
            2 => self.pick(EDGES),
            _ => {
                let edge = self.pick(EDGES);
                edge.wrapping_add(self.pick(&[1, u32::MAX, 16, 16_u32.wrapping_neg()]))
            }
        }
    }

    /// A number near `value`, or one that has nothing to do with it.
    pub fn near(&mut self, value: u32) -> u32 {
        match self.below(4) {
            0 => value.wrapping_add(1),
            1 => value.wrapping_sub(1),
            2 => value ^ (1 << self.below(32)),
            _ => self.odd(),
        }
    }

    /// Changes some of these bytes, or their number.
    pub fn damage(&mut self, bytes: &mut Vec<u8>, most: usize) {
        for _ in 0..self.between(1, 4) {
            match self.below(8) {
                0 => bytes.truncate(self.between(0, bytes.len())),
                1 => {
                    let count = self.between(1, 64);
                    let more = self.bytes(count);
                    bytes.extend_from_slice(&more);
                }
                2 if !bytes.is_empty() => {
                    let at = self.below(bytes.len());
                    bytes[at] = self.any();
                }
                3 if !bytes.is_empty() => {
                    let at = self.below(bytes.len());
                    bytes.insert(at, self.any());
                }
                _ if !bytes.is_empty() => {
                    let at = self.below(bytes.len());
                    bytes[at] ^= 1 << self.below(8);
                }
                _ => {}
            }
        }
        bytes.truncate(most);
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn a_seed_determines_each_player() {
        let roll = |player: &[usize]| Dice::new(7, player).bytes(32);
        assert_eq!(roll(&[1, 2]), roll(&[1, 2]));
        assert_ne!(roll(&[1, 2]), roll(&[2, 1]));
        assert_ne!(roll(&[1]), roll(&[1, 0]));
        assert_ne!(Dice::new(8, &[1]).bytes(32), roll(&[1]));
    }

    #[test]
    fn weights_are_kept() {
        let mut dice = Dice::new(1, &[]);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            counts[dice.weigh(&[(3, 0), (0, 1), (1, 2)])] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2800..3200).contains(&counts[0]), "{counts:?}");
    }
}
