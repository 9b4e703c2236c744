// SPDX-License-Identifier: GPL-2.0

//! Whatever the guest does, the device goes on.

use crate::bench::Bench;
use azihsm_vdev::bytes::get_u16;
use azihsm_vdev::bytes::put;
use azihsm_vdev::gcm::Gcm;
use azihsm_vdev::keys::KeyKind;
use proptest::prelude::*;

/// Something a guest may do.
#[derive(Clone, Debug)]
enum Move {
    Register(u64, Vec<u8>),
    Doorbell(u64, u32),
    Config(u64, Vec<u8>),
    Read(u32, u64, usize),
    Memory(u64, Vec<u8>),
    Time(u64),
    BusReset,
}

fn a_move() -> impl Strategy<Value = Move> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 4),
        proptest::collection::vec(any::<u8>(), 8),
        proptest::collection::vec(any::<u8>(), 0..9),
    ];
    let switch = prop_oneof![Just(0u32), Just(1), any::<u32>()];
    prop_oneof![
        4 => (0u64..0x60, bytes.clone()).prop_map(|(offset, data)| Move::Register(offset, data)),
        2 => switch.prop_map(|value| Move::Register(0x14, value.to_le_bytes().to_vec())),
        1 => Just(Move::Register(0x20, 0x4e56_4d65u32.to_le_bytes().to_vec())),
        8 => (prop_oneof![0u64..4, 512u64..516, 0u64..1024], prop_oneof![0u32..20, any::<u32>()])
            .prop_map(|(index, value)| Move::Doorbell(index * 4, value)),
        1 => (0u64..0x100, bytes).prop_map(|(offset, data)| Move::Config(offset, data)),
        1 => (0u32..9, any::<u64>(), 0usize..9)
            .prop_map(|(bar, offset, size)| Move::Read(bar, offset, size)),
        8 => (0u64..40, proptest::collection::vec(any::<u8>(), 128))
            .prop_map(|(slot, data)| Move::Memory(slot, data)),
        2 => (0u64..2_000).prop_map(Move::Time),
        1 => Just(Move::BusReset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_guest_breaks_the_device(moves in proptest::collection::vec(a_move(), 1..80)) {
        let mut bench = Bench::running();
        bench.model.options.latency.hsm = 500;
        bench.model.options.latency.aes = 500;
        let rings = [0, 1, 256].map(|queue| bench.pairs[&queue].sq);
        for what in moves {
            match what {
                Move::Register(offset, data) => bench.front.bar_write(0, offset, &data),
                Move::Doorbell(offset, value) => bench.doorbell(offset, value),
                Move::Config(offset, data) => bench.front.config_write(offset, &data),
                Move::Read(bar, offset, size) => {
                    let mut data = vec![0; size];
                    bench.front.bar_read(bar, offset, &mut data);
                    bench.front.config_read(offset, &mut data);
                }
                Move::Memory(slot, data) => {
                    let ring = rings[slot as usize % 3];
                    bench.poke(ring + slot * 16, &data);
                }
                Move::Time(micros) => bench.clock.advance(micros),
                Move::BusReset => bench.front.bus_reset(),
            }
            bench.step();
        }
        // Whatever happened, a reset brings everything back.
        bench.model.options.latency.hsm = 0;
        bench.front.bus_reset();
        bench.step();
        bench.bus_master(true);
        bench.enable();
        bench.create_pair(1, 16);
        prop_assert_eq!(bench.open_session(), 0);
    }

    #[test]
    fn no_admin_command_breaks_the_device(sqes in proptest::collection::vec(
        (0u8..=16, proptest::collection::vec(any::<u8>(), 63), any::<[u8; 3]>()), 1..20,
    )) {
        let mut bench = Bench::ready();
        for (opcode, rest, small) in sqes {
            let mut sqe = [0; 64];
            sqe[0] = if opcode > 10 { opcode + 0xb8 } else { opcode };
            put(&mut sqe, 1, &rest);
            // Numbers that may exist.
            put(&mut sqe, 40, &[small[0] % 4, small[1] % 2, small[2], 0, 3, 0, 1, 0]);
            let cid = get_u16(&sqe, 2);
            bench.submit(0, &sqe);
            bench.step();
            let cqe = bench.take(0);
            prop_assert!(cqe.is_some_and(|cqe| get_u16(&cqe, 12) == cid));
        }
    }

    #[test]
    fn no_aes_command_breaks_the_device(
        fields in proptest::collection::vec((4usize..127, any::<u8>()), 1..8),
        xts in any::<bool>(),
    ) {
        let mut bench = Bench::running();
        bench.add_key(KeyKind::Gcm, 1);
        bench.add_key(KeyKind::Xts, 1);
        bench.add_key(KeyKind::Xts, 2);
        let mut command = bench.aes(xts, &[0x5a; 4096]);
        if xts {
            command.keys(1, 2);
        } else {
            command.gcm(0, 20, 32);
        }
        for (offset, byte) in fields {
            if !(6..8).contains(&offset) {
                command.sqe[offset] = byte;
            }
        }
        bench.submit(256, &command.sqe);
        bench.step();
        prop_assert!(bench.take(256).is_some());
    }

    #[test]
    fn gcm_over_any_pieces_is_gcm(
        aad in 0usize..100,
        text in 1usize..3000,
        cut in 1u32..2000,
    ) {
        let mut bench = Bench::running();
        let key = bench.add_key(KeyKind::Gcm, 3);
        let mut plain: Vec<u8> = match aad % 32 {
            1..=16 => vec![0; 16],
            _ => Vec::new(),
        };
        plain.extend(vec![0xad; aad]);
        plain.resize(aad.next_multiple_of(32), 0);
        let padded = plain.len();
        let body = text / 16 * 16;
        plain.extend((0..body).map(|n| n as u8));
        let mut command = bench.aes(false, &plain);
        command.gcm(key, aad as u32, padded as u32);
        let length = plain.len() as u32;
        if length > cut {
            let list = bench.sgl(&[
                (command.source, cut),
                (command.source + u64::from(cut), length - cut),
            ]);
            put(&mut command.sqe, 28, &list);
        }
        let result = bench.run_aes(&command.sqe);
        prop_assert_eq!(result.codes(), (0, 0));
        let mut gcm = Gcm::new(&[3; 32], &[0; 12]);
        gcm.aad(&vec![0xad; aad]);
        let mut cipher = plain[padded..].to_vec();
        gcm.encrypt(&mut cipher);
        prop_assert_eq!(bench.peek(command.destination + padded as u64, body), cipher);
        prop_assert_eq!(result.tag(), gcm.tag(aad as u64));
        bench.assert_clean();
    }
}
