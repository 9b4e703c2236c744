// SPDX-License-Identifier: GPL-2.0

//! What is counted of the controller as a whole, and what is found out by looking at its queues.
//!
//! Documentation/abi.rst 5.1.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    account::{
        Figures,
        BUCKETS, //
    },
    queue::{
        Class,
        Pool,
        QueuePair, //
    },
    recovery::Cause,
    regs::QueueId, //
};

use super::Ctrl;

/// What happens seldom.
pub(crate) struct Tally {
    hsm_queues: Atomic<u64>,
    aes_queues: Atomic<u64>,
    deletions: Atomic<u64>,
    resets: [Atomic<u64>; Cause::COUNT],
    failures: Atomic<u64>,
    absences: Atomic<u64>,
    cuts: Atomic<u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            hsm_queues: Atomic::new(0),
            aes_queues: Atomic::new(0),
            deletions: Atomic::new(0),
            resets: [const { Atomic::new(0) }; Cause::COUNT],
            failures: Atomic::new(0),
            absences: Atomic::new(0),
            cuts: Atomic::new(0),
        }
    }

    /// Counts a queue pair that the device has created.
    pub(super) fn created(&self, id: QueueId) {
        match id.is_aes() {
            true => self.aes_queues.fetch_add(1, Relaxed),
            false => self.hsm_queues.fetch_add(1, Relaxed),
        };
    }

    /// Counts a submission queue that the device has deleted.
    pub(super) fn deleted(&self) {
        self.deletions.fetch_add(1, Relaxed);
    }

    /// Counts a reset that begins.
    pub(super) fn reset(&self, cause: Cause) {
        // CAST: The discriminants are indices.
        if let Some(resets) = self.resets.get(cause as usize) {
            resets.fetch_add(1, Relaxed);
        }
    }

    /// Counts a reset that failed.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Counts that the device went away.
    pub(super) fn absent(&self) {
        self.absences.fetch_add(1, Relaxed);
    }

    /// Counts that the device was cut off as it may not be reset.
    pub(super) fn cut(&self) {
        self.cuts.fetch_add(1, Relaxed);
    }

    /// Returns how many HSM queue pairs were created.
    pub(crate) fn hsm_queues(&self) -> u64 {
        self.hsm_queues.load(Relaxed)
    }

    /// Returns how many AES queue pairs were created.
    pub(crate) fn aes_queues(&self) -> u64 {
        self.aes_queues.load(Relaxed)
    }

    /// Returns how many submission queues were deleted.
    pub(crate) fn deletions(&self) -> u64 {
        self.deletions.load(Relaxed)
    }

    /// Returns how many resets there were for `cause`.
    pub(crate) fn resets_by(&self, cause: Cause) -> u64 {
        // CAST: The discriminants are indices.
        let resets = self.resets.get(cause as usize);
        resets.map_or(0, |resets| resets.load(Relaxed))
    }

    /// Returns how many resets there were.
    pub(crate) fn resets(&self) -> u64 {
        let resets = self.resets.iter().map(|resets| resets.load(Relaxed));
        resets.fold(0, u64::saturating_add)
    }

    /// Returns how many resets failed.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Returns how often the device went away.
    pub(crate) fn absences(&self) -> u64 {
        self.absences.load(Relaxed)
    }

    /// Returns how often the device was cut off.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Relaxed)
    }
}

impl Ctrl<'_> {
    /// Returns the counts of what happens seldom.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Returns the numbers of the HSM and AES queues.
    pub(crate) fn queue_ids(&self) -> impl Iterator<Item = QueueId> + '_ {
        let hsm = self.hsm.queues().iter().map(QueuePair::id);
        Iterator::chain(hsm, self.aes.queues().iter().map(QueuePair::id))
    }

    /// Returns what is known of an HSM or AES queue, if there is such a queue.
    pub(crate) fn figures(&self, id: QueueId) -> Option<Figures> {
        of(&self.hsm, id, QueuePair::figures).or_else(|| of(&self.aes, id, QueuePair::figures))
    }

    /// Returns how many commands of such a queue took how long.
    pub(crate) fn histogram(&self, id: QueueId) -> Option<[u64; BUCKETS]> {
        of(&self.hsm, id, QueuePair::histogram).or_else(|| of(&self.aes, id, QueuePair::histogram))
    }

    /// Returns the sum of a number of all queues, the admin queue among them.
    pub(crate) fn sum(&self, figure: impl Fn(&Figures) -> u64) -> u64 {
        fn sum<C: Class>(pool: &Pool<C>, figure: &impl Fn(&Figures) -> u64) -> u64 {
            let figures = pool.queues().iter().map(|queue| figure(&queue.figures()));
            figures.fold(0, u64::saturating_add)
        }
        sum(&self.admin, &figure)
            .saturating_add(sum(&self.hsm, &figure))
            .saturating_add(sum(&self.aes, &figure))
    }
}

/// Returns what `get` says of the queue `id`.
fn of<C: Class, T>(pool: &Pool<C>, id: QueueId, get: fn(&QueuePair<C>) -> T) -> Option<T> {
    let mut queues = pool.queues().iter();
    queues.find(|queue| queue.id() == id).map(get)
}
