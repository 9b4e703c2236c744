// SPDX-License-Identifier: GPL-2.0
//! Padding of additional data (`Documentation/device.rst`, 6.6.3).

/// Pads additional data to a multiple of 32 bytes.
///
/// A block of zeros in front does not change the hash over the data while one
/// at the end does, so no whole block is ever appended.
pub fn pad(aad: &[u8]) -> Vec<u8> {
    let rest = aad.len() % 32;
    let mut padded = Vec::with_capacity(aad.len() + 32);
    if (1..=16).contains(&rest) {
        padded.extend_from_slice(&[0; 16]);
    }
    padded.extend_from_slice(aad);
    padded.resize(aad.len().next_multiple_of(32), 0);
    padded
}

#[cfg(test)]
mod tests {
    use super::pad;

    #[test]
    fn whole_blocks_stay_as_they_are() {
        assert_eq!(pad(&[]), []);
        assert_eq!(pad(&[7; 64]), [7; 64]);
    }

    #[test]
    fn short_rest_goes_behind_a_block_of_zeros() {
        for length in [1, 15, 16, 33, 48] {
            let padded = pad(&vec![7; length]);
            assert_eq!(padded.len(), length.next_multiple_of(32));
            assert_eq!(padded[..16], [0; 16]);
            assert_eq!(padded[16..16 + length], vec![7; length]);
            assert!(padded[16 + length..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn long_rest_stays_in_front() {
        for length in [17, 31, 49] {
            let padded = pad(&vec![7; length]);
            assert_eq!(padded.len(), length.next_multiple_of(32));
            assert_eq!(padded[..length], vec![7; length]);
            assert!(padded[length..].iter().all(|&byte| byte == 0));
        }
    }
}
