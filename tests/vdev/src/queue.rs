// SPDX-License-Identifier: GPL-2.0

//! Submission and completion queues.  See Documentation/device.rst, section 3.

use crate::strict::Rule;
use std::collections::BTreeSet;

/// The three classes of queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The admin queue.
    Admin,
    /// Queues of the HSM engine.
    Hsm,
    /// Queues of the AES engine.
    Aes,
}

/// The first AES queue.
pub const FIRST_AES: u16 = 256;

impl Class {
    /// The class of the queue with this number.
    pub fn of(queue: u16) -> Self {
        match queue {
            0 => Class::Admin,
            1..FIRST_AES => Class::Hsm,
            _ => Class::Aes,
        }
    }

    /// Size of an SQ entry.
    pub fn sqe_size(self) -> usize {
        match self {
            Class::Admin | Class::Hsm => 64,
            Class::Aes => 128,
        }
    }

    /// Size of a CQ entry.
    pub fn cqe_size(self) -> usize {
        match self {
            Class::Admin | Class::Hsm => 16,
            Class::Aes => 64,
        }
    }

    /// How many commands are fetched before the first one is finished.
    pub fn credits(self) -> usize {
        match self {
            Class::Admin | Class::Hsm => 1,
            Class::Aes => 4,
        }
    }

    /// Where the CID is in an SQ entry.
    pub fn cid_offset(self) -> usize {
        match self {
            Class::Admin | Class::Hsm => 2,
            Class::Aes => 6,
        }
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Admin => "admin",
            Class::Hsm => "hsm",
            Class::Aes => "aes",
        }
    }
}

/// Distance from one index of a ring to another.
fn distance(from: u32, to: u32, entries: u32) -> u32 {
    if to >= from {
        to - from
    } else {
        entries - from + to
    }
}

/// A ring the host fills with commands.
#[derive(Clone, Debug)]
pub struct SubmissionQueue {
    /// Where the ring is.
    pub base: u64,
    /// Number of entries.
    pub entries: u32,
    /// The entry that is fetched next.
    pub head: u32,
    /// The entry the host writes next.
    pub tail: u32,
    /// Its deletion has begun.
    pub deleting: bool,
    /// CIDs of commands that were fetched and have no CQE yet.
    pub unfinished: BTreeSet<u16>,
}

impl SubmissionQueue {
    /// An empty ring.
    pub fn new(base: u64, entries: u32) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            deleting: false,
            unfinished: BTreeSet::new(),
        }
    }

    /// Number of commands the host has submitted and the device not fetched.
    pub fn waiting(&self) -> u32 {
        distance(self.head, self.tail, self.entries)
    }

    /// Number of commands without CQE.
    pub fn outstanding(&self) -> usize {
        self.unfinished.len() + self.waiting() as usize
    }

    /// Sets the tail; a value that breaks a rule has no effect.
    pub fn ring(&mut self, value: u32) -> Result<(), Rule> {
        if value >= self.entries {
            return Err(Rule::DoorbellOutOfRange);
        }
        if value == self.tail {
            return Err(Rule::DoorbellSameValue);
        }
        let added = distance(self.tail, value, self.entries);
        if self.waiting() + added >= self.entries {
            return Err(Rule::SqOverfill);
        }
        self.tail = value;
        Ok(())
    }

    /// Takes the next entry, yielding its index.
    pub fn take(&mut self) -> Option<u32> {
        if self.waiting() == 0 {
            return None;
        }
        let index = self.head;
        self.head = (self.head + 1) % self.entries;
        Some(index)
    }
}

/// A ring the device fills with completions.
#[derive(Clone, Debug)]
pub struct CompletionQueue {
    /// Where the ring is.
    pub base: u64,
    /// Number of entries.
    pub entries: u32,
    /// The entry the host reads next, as far as it told.
    pub head: u32,
    /// The entry that is written next.
    pub tail: u32,
    /// The phase it is written with.
    pub phase: bool,
    /// The MSI-X vector that tells the host.
    pub vector: Option<u16>,
    /// It takes completions; ends when it overflows.
    pub online: bool,
}

/// Bits of a CQ doorbell that control interrupts.
const CQ_DOORBELL_FLAGS: u32 = 0xc000_0000;

impl CompletionQueue {
    /// An empty ring.
    pub fn new(base: u64, entries: u32, vector: Option<u16>) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            vector,
            online: true,
        }
    }

    /// Number of completions the host has not taken.
    pub fn pending(&self) -> u32 {
        distance(self.head, self.tail, self.entries)
    }

    /// Sets the head; a value that breaks a rule has no effect.
    pub fn ring(&mut self, value: u32) -> Result<(), Rule> {
        let value = value & !CQ_DOORBELL_FLAGS;
        if value >= self.entries {
            return Err(Rule::DoorbellOutOfRange);
        }
        if value == self.head {
            return Err(Rule::DoorbellSameValue);
        }
        if distance(self.head, value, self.entries) > self.pending() {
            return Err(Rule::CqHeadPastTail);
        }
        self.head = value;
        Ok(())
    }

    /// Takes room for an entry, yielding its index and phase.
    ///
    /// Without room the queue goes offline.
    pub fn push(&mut self) -> Option<(u32, bool)> {
        if self.pending() + 1 >= self.entries {
            self.online = false;
            return None;
        }
        let place = (self.tail, self.phase);
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_follow_the_number() {
        for (queue, class) in [
            (0, Class::Admin),
            (1, Class::Hsm),
            (255, Class::Hsm),
            (256, Class::Aes),
            (u16::MAX, Class::Aes),
        ] {
            assert_eq!(Class::of(queue), class);
        }
    }

    #[test]
    fn a_full_sq_holds_one_less_than_its_size() {
        let mut sq = SubmissionQueue::new(0, 4);
        assert_eq!(sq.ring(3), Ok(()));
        assert_eq!(sq.waiting(), 3);
        assert_eq!(sq.ring(0), Err(Rule::SqOverfill));
        assert_eq!(sq.take(), Some(0));
        assert_eq!(sq.ring(0), Ok(()));
        assert_eq!(sq.ring(1), Err(Rule::SqOverfill));
    }

    #[test]
    fn bad_doorbells_have_no_effect() {
        let mut sq = SubmissionQueue::new(0, 4);
        assert_eq!(sq.ring(4), Err(Rule::DoorbellOutOfRange));
        assert_eq!(sq.ring(0x1_0001), Err(Rule::DoorbellOutOfRange));
        assert_eq!(sq.ring(0), Err(Rule::DoorbellSameValue));
        assert_eq!(sq.waiting(), 0);
        let mut cq = CompletionQueue::new(0, 4, None);
        assert_eq!(cq.ring(4), Err(Rule::DoorbellOutOfRange));
        assert_eq!(cq.ring(0), Err(Rule::DoorbellSameValue));
        assert_eq!(cq.ring(1), Err(Rule::CqHeadPastTail));
        cq.push();
        assert_eq!(cq.ring(2), Err(Rule::CqHeadPastTail));
        assert_eq!(cq.ring(0xc000_0001), Ok(()));
    }

    #[test]
    fn the_phase_inverts_when_the_cq_wraps() {
        let mut cq = CompletionQueue::new(0, 3, None);
        let mut places = Vec::new();
        for _ in 0..7 {
            let (index, phase) = cq.push().unwrap();
            places.push((index, phase));
            cq.ring((index + 1) % 3).unwrap();
        }
        assert_eq!(
            places,
            [
                (0, true),
                (1, true),
                (2, true),
                (0, false),
                (1, false),
                (2, false),
                (0, true)
            ]
        );
    }

    #[test]
    fn a_cq_without_room_goes_offline() {
        let mut cq = CompletionQueue::new(0, 3, None);
        assert!(cq.push().is_some());
        assert!(cq.push().is_some());
        assert!(cq.online);
        assert!(cq.push().is_none());
        assert!(!cq.online);
    }

    proptest! {
        #[test]
        fn what_the_host_submits_is_fetched_in_order(
            entries in 2u32..40,
            steps in proptest::collection::vec((0u32..40, 0u32..40), 1..100),
        ) {
            let mut sq = SubmissionQueue::new(0, entries);
            let mut submitted = 0u32;
            let mut fetched = 0u32;
            for (add, take) in steps {
                let add = add.min(entries - 1 - sq.waiting());
                submitted += add;
                if add != 0 {
                    prop_assert_eq!(sq.ring(submitted % entries), Ok(()));
                }
                for _ in 0..take {
                    match sq.take() {
                        Some(index) => {
                            prop_assert_eq!(index, fetched % entries);
                            fetched += 1;
                        }
                        None => prop_assert_eq!(fetched, submitted),
                    }
                }
                prop_assert_eq!(sq.waiting(), submitted - fetched);
            }
        }

        #[test]
        fn no_doorbell_breaks_the_rings(
            entries in 1u32..=65536,
            values in proptest::collection::vec(any::<u32>(), 0..50),
        ) {
            let mut sq = SubmissionQueue::new(0, entries);
            let mut cq = CompletionQueue::new(0, entries, None);
            for value in values {
                let _ = sq.ring(value);
                let _ = sq.ring(value % entries);
                sq.take();
                let _ = cq.ring(value % entries);
                cq.push();
                prop_assert!(sq.head < entries && sq.tail < entries);
                prop_assert!(cq.head < entries && cq.tail < entries);
            }
        }
    }
}
