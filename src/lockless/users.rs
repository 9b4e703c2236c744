// SPDX-License-Identifier: GPL-2.0

//! How many use the session of a descriptor, and who comes after the last of them.

use super::facade::{
    Atomic,
    Full,
    Relaxed,
    Result,
    Waited, //
};

/// See the [module](self).
pub(crate) struct Users {
    // Their number in the low half. The high half is not 0 once the descriptor is closed; it is the
    // session to flush, plus one.
    state: Atomic<u64>,
    // The era of that session. Written before the high half is.
    era: Atomic<u32>,
    waiting: Atomic<bool>,
}

impl Users {
    const COUNT: u64 = u32::MAX as u64;
    const FLUSH_SHIFT: u32 = 32;

    pub(crate) fn new() -> Self {
        Self {
            state: Atomic::new(0),
            era: Atomic::new(0),
            waiting: Atomic::new(false),
        }
    }

    /// Adds a user.
    pub(crate) fn enter(&self) {
        self.state.fetch_add(1, Full);
    }

    /// A user leaves. If it is the last one of a descriptor that is closed `flush` is called with
    /// the session, and its era. `signal` wakes who waits for users to leave.
    pub(crate) fn leave(&self, flush: impl FnOnce(u16, u32), signal: impl FnOnce()) {
        let before = self.state.fetch_sub(1, Full);

        // CAST: Takes the upper half.
        if let (1, Some(session)) = (
            before & Self::COUNT,
            ((before >> Self::FLUSH_SHIFT) as u32).checked_sub(1),
        ) {
            // CAST: `close()` got it as a `u16`.
            flush(session as u16, self.era.load(Relaxed));
        }
        if self.waiting.load(Relaxed) {
            signal();
        }
    }

    /// Waits until there are no users, as `sleep` does, which waits for a signal. No more may come,
    /// and one task waits at most.
    ///
    /// # Errors
    ///
    /// What `sleep` says, unless that is [`Waited::Done`].
    pub(crate) fn wait_idle(&self, mut sleep: impl FnMut() -> Waited) -> Result<(), Waited> {
        // Fully ordered against the load below, as are the user's two accesses: either it sees
        // this or the count is seen to be 0.
        self.waiting.xchg(true, Full);
        let result = loop {
            if self.state.fetch_add(0, Full) & Self::COUNT == 0 {
                break Ok(());
            }
            match sleep() {
                Waited::Done => {}
                waited => break Err(waited),
            }
        };
        self.waiting.store(false, Relaxed);
        result
    }

    /// Says that the descriptor is closed and `session` of `era` is to be flushed. Returns whether
    /// that may be done now; otherwise the last user sees to it, and is its owner until then.
    pub(crate) fn close(&self, session: u16, era: u32) -> bool {
        self.era.store(era, Relaxed);
        let flush = (u64::from(session) + 1) << Self::FLUSH_SHIFT;
        self.state.fetch_add(flush, Full) & Self::COUNT == 0
    }
}
