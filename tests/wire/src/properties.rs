// SPDX-License-Identifier: GPL-2.0
//! Random values, those at the ends of what is possible more often than others.

use crate::admin::IDENTIFY_LEN;
use crate::caller::RESET_LEN;
use crate::judge;
use crate::judge::AdminEntry;
use crate::judge::AesCommand;
use crate::judge::AesEntry;
use crate::judge::AesRequest;
use crate::judge::Cipher;
use crate::judge::HsmCommand;
use crate::judge::HsmEntry;
use crate::judge::Input;
use crate::judge::Structure;
use crate::queue::Event;
use crate::queue::Lie;
use crate::queue::Script;
use crate::queue::Step;
use crate::queue::Tally;
use crate::ring;
use proptest::array::uniform12;
use proptest::array::uniform16;
use proptest::array::uniform32;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::cell::Cell;

#[test]
fn lists_of_every_length_around_a_segment() {
    for count in (1..4)
        .chain(253..258)
        .chain(508..514)
        .chain(763..768)
        .chain([4097])
    {
        Input::List((0..count).map(|n| (n << 12, n as u32 + 1)).collect()).judge();
    }
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(4096), Just(4097), Just(8192), any::<u32>()]
}

fn gcm() -> impl Strategy<Value = Cipher> {
    let bytes = (uniform16(any::<u8>()), uniform12(any::<u8>()));
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>());
    (bytes, numbers).prop_map(
        |((tag, iv), (key, aad_len, aad_padded_len, tail))| Cipher::Gcm {
            key,
            tag,
            iv,
            aad_len,
            aad_padded_len,
            tail,
        },
    )
}

fn xts() -> impl Strategy<Value = Cipher> {
    let numbers = (any::<u32>(), any::<u32>(), 0..4u16);
    (uniform16(any::<u8>()), numbers).prop_map(|(tweak, (data_key, tweak_key, data_unit))| {
        Cipher::Xts {
            data_key,
            tweak_key,
            tweak,
            data_unit,
        }
    })
}

fn request() -> impl Strategy<Value = AesRequest> {
    let caller = (any::<u16>(), any::<u8>());
    let len = prop_oneof![1..64u32, 1..=16u32 << 20];
    (any::<bool>(), caller, prop_oneof![gcm(), xts()], len).prop_map(
        |(decrypt, (session, app), cipher, len)| AesRequest {
            decrypt,
            session,
            app,
            cipher,
            len,
        },
    )
}

/// A half of a queue count.
fn half() -> impl Strategy<Value = u32> {
    prop_oneof![0..=0xffffu32, Just(0), Just(0xffff)]
}

/// Where `len` bytes of a caller may be, or not quite.
fn address(len: u32) -> impl Strategy<Value = u64> {
    const KERNEL: u64 = 1 << 63;
    let len = u64::from(len);
    prop_oneof![
        8 => 1..1u64 << 47,
        1 => Just(0),
        1 => (0..3u64).prop_map(move |more| KERNEL - len - more),
        1 => (0..3u64).prop_map(move |more| (0_u64.wrapping_sub(len)).wrapping_sub(more)),
        1 => any::<u64>(),
    ]
}

/// Some bytes of a caller, or none; by an address that fits, or not quite.
fn area() -> impl Strategy<Value = (u64, u32)> {
    length().prop_flat_map(|len| {
        let fits = if len == 0 { 0..1 } else { 1..1u64 << 47 };
        (prop_oneof![2 => fits, 1 => address(len)], Just(len))
    })
}

/// Changes to a command, of its fields more often than of what is between.
fn changes<T: Arbitrary + Copy + 'static>(
    fields: &'static [T],
) -> impl Strategy<Value = Vec<(T, u8)>> {
    let offset = prop_oneof![4 => proptest::sample::select(fields), 1 => any::<T>()];
    let byte = prop_oneof![
        Just(0),
        Just(1),
        Just(2),
        Just(0x80),
        Just(0xff),
        any::<u8>()
    ];
    vec((offset, byte), 0..3)
}

const HSM_FIELDS: &[u8] = &[
    24, 25, 26, 27, 32, 33, 34, 35, 40, 47, 48, 49, 50, 51, 56, 63, 64, 66, 67,
];
const AES_FIELDS: &[u16] = &[
    24, 25, 35, 39, 40, 41, 42, 43, 51, 55, 56, 57, 58, 59, 64, 66, 67, 68, 72, 73, 104, 105, 106,
    107, 108, 109, 110, 111, 112,
];

/// Lengths of source and destination, the unit, and AAD without padding and with.
fn aes_lens() -> impl Strategy<Value = ((u32, u32), u16, (u32, u32))> {
    let text = prop_oneof![
        (1..40u32).prop_map(|blocks| 16 * blocks),
        (1..8u32).prop_map(|units| 512 * units),
        (1..4096u32).prop_map(|units| 4096 * units),
        0..=17u32 << 20,
        Just(0),
        Just(16 << 20),
    ];
    let aad = prop_oneof![Just(0), 0..200u32];
    let less = (-2..3i32, 0..3usize, any::<bool>());
    (text, 0..5u16, aad, less).prop_map(|(text, unit, aad, (more, odd, short))| {
        let padded = aad.next_multiple_of(32) + [0, 16, 1][odd];
        let src = text + if short { 0 } else { padded };
        let dst = if more < 0 { src / 2 } else { src + more as u32 };
        ((src, dst), unit, (aad, padded))
    })
}

fn aes_command() -> impl Strategy<Value = AesCommand> {
    let is = || any::<bool>();
    let session = (any::<u16>(), option::weighted(0.9, any::<u8>()));
    let device = (
        [uniform32(any::<u8>()), uniform32(any::<u8>())],
        option::of(48..52usize),
    );
    (
        (is(), is(), is(), is()),
        aes_lens().prop_flat_map(|all| (Just(all), (address(all.0 .0), address(all.0 .1)))),
        session,
        changes(AES_FIELDS),
        device,
    )
        .prop_map(
            |(is, ((lens, data_unit, aad), addresses), session, changes, answer)| {
                let mut completion = [0; 64];
                completion.copy_from_slice(&answer.0.concat());
                // Approved by one byte, or by any.
                if let Some(approved) = answer.1 {
                    completion[48..52].fill(0);
                    completion[approved] = answer.0[0][0] & 1;
                }
                AesCommand {
                    xts: is.0,
                    can_unaligned: is.1,
                    decrypt: is.2,
                    unaligned: is.3,
                    addresses,
                    lens,
                    aad,
                    data_unit,
                    session: session.0,
                    app: session.1,
                    changes,
                    completion,
                }
            },
        )
}

/// What callers should do is not refused; so there is something to look at behind the checks.
#[test]
fn good_commands_reach_the_device() {
    let mut hsm = HsmCommand {
        src: (0x1000, 100),
        dst: (0x2000, 8192),
        flags: 7,
        session: 5,
        changes: Vec::new(),
    };
    assert!(judge::hsm_command(&hsm));
    hsm.changes.push((24, 2));
    assert!(judge::hsm_command(&hsm));
    hsm.changes.push((24, 1));
    assert!(!judge::hsm_command(&hsm));
    let aes = |xts, lens, aad, data_unit, unaligned| AesCommand {
        xts,
        can_unaligned: true,
        decrypt: false,
        addresses: (0x1000, 0x2000),
        lens,
        aad,
        data_unit,
        unaligned,
        session: 3,
        app: Some(9),
        changes: Vec::new(),
        completion: [0xa5; 64],
    };
    assert!(judge::aes_command(&aes(true, (16, 16), (0, 0), 0, false)));
    assert!(judge::aes_command(&aes(
        true,
        (8192, 9000),
        (0, 0),
        3,
        false
    )));
    assert!(!judge::aes_command(&aes(
        true,
        (4096, 4096),
        (0, 0),
        3,
        false
    )));
    assert!(judge::aes_command(&aes(false, (77, 77), (20, 32), 0, true)));
    assert!(!judge::aes_command(&aes(
        false,
        (77, 77),
        (20, 33),
        0,
        true
    )));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn lists_hold_their_pieces(pieces in vec(any::<(u64, u32)>(), 1..1100)) {
        Input::List(pieces).judge();
    }

    #[test]
    fn hsm_entries_say_what_they_are_to(
        opcode in any::<u16>(),
        lens in (length(), length()),
        flow in any::<u8>(),
        session in any::<(u16, bool)>(),
        pages in any::<(u64, u64)>(),
        cid in any::<u16>(),
    ) {
        Input::HsmEntry(HsmEntry {
            opcode,
            src_len: lens.0,
            dst_len: lens.1,
            flow,
            session: session.0,
            has_session: session.1,
            request: pages.0,
            response: pages.1,
            cid,
        })
        .judge();
    }

    #[test]
    fn any_hsm_completion_is_read(
        mut bytes in uniform16(any::<u8>()),
        status in prop_oneof![Just(0), any::<u8>()],
    ) {
        bytes[14] = status;
        bytes[15] &= status;
        Input::HsmCompletion(bytes).judge();
    }

    #[test]
    fn aes_entries_say_what_they_are_to(
        request in request(),
        lists in any::<[(u64, usize); 2]>(),
        tail in any::<[u64; 2]>(),
        cid in any::<u16>(),
    ) {
        Input::AesEntry(AesEntry { request, lists, tail, cid }).judge();
    }

    #[test]
    fn any_aes_completion_is_read(halves in [uniform32(any::<u8>()), uniform32(any::<u8>())]) {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(&halves.concat());
        Input::AesCompletion(bytes).judge();
    }

    #[test]
    fn what_was_processed_adds_up(
        request in request(),
        engine in prop_oneof![Just(0), any::<u32>()],
        tail in prop_oneof![Just(0), any::<u32>()],
    ) {
        Input::Processed(request, engine, tail).judge();
    }

    #[test]
    fn admin_entries_say_what_they_are_to(
        queue in 0..386u16,
        size in 2..=1024u16,
        ring in any::<u64>(),
        vector in option::of(0..32u16),
        cid in any::<u16>(),
    ) {
        Input::AdminEntry(AdminEntry { queue, size, ring, vector, cid }).judge();
    }

    #[test]
    fn an_entry_is_read_behind_its_phase(
        index in 0..4096u32,
        entry in prop_oneof![vec(any::<u64>(), 2), vec(any::<u64>(), 4)],
        wanted in any::<bool>(),
    ) {
        let start = index as usize * entry.len();
        let last = start + entry.len() - 1;
        let behind = Cell::new(false);
        // Of what the device wrote before the phase, a processor may have what was there earlier,
        // until there is a barrier.
        let word = |at: usize| {
            let word = entry[at.checked_sub(start).unwrap()];
            if at == last || behind.get() { word } else { !word }
        };
        let mut to = vec![0; entry.len()];
        let is_there = ring::read(index, wanted, &mut to, word, || behind.set(true));
        assert_eq!(is_there, (entry[entry.len() - 1] >> 48 & 1 != 0) == wanted);
        assert_eq!(to, if is_there { entry } else { vec![0; to.len()] });
    }

    #[test]
    fn any_admin_completion_is_read(bytes in uniform16(any::<u8>())) {
        Input::AdminCompletion(bytes).judge();
    }

    #[test]
    fn any_identify_page_is_read_or_refused(
        bytes in vec(any::<u8>(), IDENTIFY_LEN),
        sizes_fit in any::<bool>(),
        controller in option::of(0..70u16),
    ) {
        let mut page = [0; IDENTIFY_LEN];
        page.copy_from_slice(&bytes);
        if sizes_fit {
            for (offset, size) in [(77, 6), (78, 4), (83, 7), (84, 6)] {
                page[offset] = page[offset] & 0xf0 | size;
            }
        }
        if let Some(controller) = controller {
            page[74..76].copy_from_slice(&controller.to_le_bytes());
        }
        Input::Identify(page).judge();
    }

    #[test]
    fn structures_are_laid_out_and_their_size_is_checked(
        bytes in vec(any::<u8>(), RESET_LEN),
        more in prop_oneof![-300..300i32, -2..2i32, any::<i32>()],
        functions in prop_oneof![0..65u16, any::<u16>()],
        function in option::of(0..65u16),
    ) {
        let mut structure = Structure { bytes: [0; RESET_LEN], more, functions };
        structure.bytes.copy_from_slice(&bytes);
        if let Some(function) = function {
            structure.bytes[4..6].copy_from_slice(&function.to_le_bytes());
        }
        Input::Structure(structure).judge();
    }

    #[test]
    fn any_queue_count_is_bounded(halves in (half(), half()), most in any::<u16>()) {
        Input::QueueCount(halves.0 << 16 | halves.1, most).judge();
    }
}

// More of these: of two things that are wrong with a command the first counts.
proptest! {
    #![proptest_config(ProptestConfig::with_cases(1 << 17))]

    #[test]
    fn hsm_commands_are_checked_and_passed_on(
        (src, dst) in (area(), area()),
        flags in any::<u8>(),
        session in any::<u16>(),
        changes in changes(HSM_FIELDS),
    ) {
        Input::HsmCommand(HsmCommand { src, dst, flags, session, changes }).judge();
    }

    #[test]
    fn aes_commands_are_checked_and_passed_on(command in aes_command()) {
        Input::AesCommand(command).judge();
    }

    #[test]
    fn commands_end_as_they_should_whatever_the_device_does(script in script()) {
        Input::Queue(script).judge();
    }
}

fn lie() -> impl Strategy<Value = Lie> {
    // The last command, one before it, or one that is yet to come.
    let generation = prop_oneof![4 => Just(0), 1 => -2..=2i8, 1 => any::<i8>()];
    (any::<u8>(), generation, any::<bool>(), any::<bool>()).prop_map(
        |(tag, generation, wrong, phase)| Lie {
            tag,
            generation,
            wrong_phase: wrong && phase,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Take),
        8 => any::<u8>().prop_map(Event::Submit),
        1 => any::<u8>().prop_map(Event::Discard),
        6 => any::<u8>().prop_map(Event::Collect),
        2 => any::<u8>().prop_map(Event::Leave),
        2 => Just(Event::CleanUp),
        5 => Just(Event::Reap),
        1 => Just(Event::Look),
        6 => any::<u8>().prop_map(Event::Complete),
        3 => lie().prop_map(Event::Lie),
        1 => Just(Event::Skip),
        1 => (any::<u8>(), any::<bool>(), lie())
            .prop_map(|(index, phase, lie)| Event::Scribble(index, phase, lie)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;

    let recovery = [
        Drain,
        Refill,
        Close,
        EndSubmitted,
        Silence,
        Evict,
        Release,
        Open,
        Abort,
        Reset,
    ];
    let back = [Refill, Release, Open, Abort, Reset];
    prop_oneof![
        30 => event().prop_map(Now),
        10 => event().prop_map(Meanwhile),
        1 => any::<u8>().prop_map(Crowd),
        2 => proptest::sample::select(recovery.to_vec()),
        1 => proptest::sample::select(back.to_vec()),
    ]
}

fn script() -> impl Strategy<Value = Script> {
    // Few slots have more happen to each; more than 64 have a second word of bits.
    let slots = prop_oneof![4 => 0..4u8, 2 => 0..20u8, 1 => 62..68u8];
    (slots, vec(step(), 0..150)).prop_map(|(slots, steps)| Script { slots, steps })
}

/// Whether all that can become of a command has become of one.
fn has_all(tally: &Tally) -> bool {
    let Tally {
        completed,
        halted,
        not_sent,
        left,
        evicted,
        stray,
        handed_over,
        withheld,
    } = *tally;
    let all = [
        completed,
        halted,
        not_sent,
        left,
        evicted,
        stray,
        handed_over,
        withheld,
    ];
    all.iter().all(|&count| count > 0)
}

/// A device that does as it should is seen to, whatever else happens; so there is something to look
/// at behind the checks.
#[test]
fn all_that_can_become_of_a_command_does() {
    use Event::CleanUp;
    use Event::Collect;
    use Event::Complete;
    use Event::Leave;
    use Event::Reap;
    use Event::Skip;
    use Event::Submit;
    use Event::Take;
    use Step::*;

    let steps = [
        // Completed, by a task that waits for a permit.
        vec![Now(Take), Now(Submit(0)), Now(Complete(0)), Now(Reap)],
        vec![Meanwhile(Collect(0)), Now(Take), Now(Submit(0))],
        // Left, told to leave, and halted.
        vec![Now(Leave(0)), Silence, Release, Open, Now(CleanUp)],
        vec![Now(Take), Now(Submit(0)), Silence, Evict, Now(Collect(0))],
        vec![Release, Open, Now(CleanUp), Now(Take)],
        // Not sent, nothing to send, and for nobody.
        vec![Close, Now(Submit(0)), Now(Collect(0)), Abort, Reset],
        vec![Drain, Now(Take), Refill, Now(Skip)],
        vec![Silence, Release, Open],
        vec![
            Now(Event::Lie(Lie {
                tag: 0,
                generation: 0,
                wrong_phase: false,
            })),
            Now(Reap),
        ],
    ];
    let script = Script {
        slots: 0,
        steps: steps.concat(),
    };
    let tally = script.judge();
    assert!(has_all(&tally), "{tally:?}");
}

/// What the fuzzer has found to be of interest, as long as it says something.
#[test]
fn the_corpus_is_judged_well() {
    let corpus = "../fuzz/corpus";
    let mut judged = 0;
    // Commands that are passed on: those of HSM, AES-GCM and AES-XTS.
    let mut good = [0; 3];
    let mut queues = Tally::default();
    for entry in std::fs::read_dir(corpus).expect("there is a corpus") {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let Some(input) = Input::parse(&bytes) else {
            continue;
        };
        input.judge();
        judged += 1;
        match input {
            Input::HsmCommand(command) => good[0] += usize::from(judge::hsm_command(&command)),
            Input::AesCommand(command) => {
                good[1 + usize::from(command.xts)] += usize::from(judge::aes_command(&command));
            }
            Input::Queue(script) => queues += script.judge(),
            _ => {}
        }
    }
    assert!(has_all(&queues), "{queues:?}");
    assert!(judged >= 100, "{judged} inputs only");
    assert!(
        good.iter().all(|&count| count > 0),
        "good commands: {good:?}"
    );
}
