// SPDX-License-Identifier: GPL-2.0

//! What is done about a device that is not well.
//!
//! Documentation/recovery.rst.

use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Full,
        Relaxed, //
    },
    time::{
        Delta,
        Instant,
        Jiffies,
        Monotonic, //
    },
};

use crate::{
    admin,
    patience::Patience,
    queue::{
        Class,
        Pool,
        QueuePair, //
    },
    recovery::{
        Action,
        Cause,
        Change,
        Condition,
        NotServed,
        Outcome,
        Situation, //
    },
    regs::{
        Health,
        Stop, //
    },
    sys::{
        completion::Waited,
        pci::Hold,
        process,
        sysfs,
        trace, //
    }, //
};

use super::Ctrl;

/// How fast a device answers that has nothing else to do.
const PROMPT: Delta = Delta::from_secs(1);

/// How often a queue may be aborted in a row without a completion between.
const MAX_ABORTS: u32 = 5;

/// How often whoever has the token is told to hurry, in ticks.
const SLICE: Jiffies = 16;

/// Time before the first attempt at a dead controller, and the longest one.
pub(super) const FIRST_BACK_OFF_MS: u32 = 1_000;
const MAX_BACK_OFF_MS: u32 = 64_000;

/// How long a device must have worked for the next fault to be a new one.
const CALM: Delta = Delta::from_secs(10);

/// How long a device that answers has to complete what is overdue.
const GRACE: Patience = Patience {
    timeout: Some(Delta::from_secs(1)),
    killable: false,
};

/// How often in a row it is let off that was busy with itself, and when that is forgotten.
const MAX_DEFERRALS: u32 = 2;
const FORGOTTEN: Delta = Delta::from_secs(120);

/// What counts in deciding how patient to be with the device.
#[derive(Default)]
pub(super) struct History {
    /// When it was last reset without being asked.
    reset: Option<Instant<Monotonic>>,
    /// When it was last let off for being busy with itself, and how often in a row.
    deferred: Option<Instant<Monotonic>>,
    deferrals: u32,
}

impl History {
    /// Notes a reset. Returns whether the device has worked well before it.
    fn reset(&mut self) -> bool {
        let calm = self.reset.is_none_or(|last| last.elapsed() > CALM);
        self.reset = Some(Instant::now());
        calm
    }

    /// Returns whether to let the device off once more, and notes it.
    fn defer(&mut self) -> bool {
        if self.deferred.is_none_or(|last| last.elapsed() > FORGOTTEN) {
            self.deferrals = 0;
        }
        self.deferrals += 1;
        self.deferred = Some(Instant::now());
        self.deferrals <= MAX_DEFERRALS
    }
}

impl Ctrl<'_> {
    /// Looks whether all is well; never waits. Returns whether the worker is needed.
    ///
    /// To be called by one task at a time.
    pub(crate) fn monitor(&self) -> bool {
        fn watch<C: Class>(ctrl: &Ctrl<'_>, pool: &Pool<C>, passed_ms: u32) -> bool {
            // All of them are to be looked at.
            pool.queues().iter().fold(false, |overdue, queue| {
                queue.measure(passed_ms);
                queue.watch(passed_ms, ctrl.limit_ms(), &ctrl.doorbells) || overdue
            })
        }
        let mut looked = self.looked.lock();
        if self.is_leaving() {
            // Whoever holds the device may have taken its power.
            return false;
        }
        let now = Instant::<Monotonic>::now();
        let passed_ms = u32::try_from((now - *looked).as_millis()).unwrap_or(u32::MAX);
        *looked = now;

        let retry_in = self.retry_in_ms.load(Relaxed);
        self.retry_in_ms
            .store(retry_in.saturating_sub(passed_ms), Relaxed);

        // Named before looking, so that one that is started meanwhile is not meant.
        let admin = self.admin.queues().first();
        let start = admin.map(QueuePair::start);
        let health = self.registers.health();
        if let (Some(admin), Some(start)) = (admin, start) {
            if health != Health::Good {
                admin.desert(start);
            }
        }
        let overdue = watch(self, &self.hsm, passed_ms);
        let overdue = watch(self, &self.aes, passed_ms) || overdue;
        if !self.orphans().is_empty() && self.condition() == Condition::Running {
            self.orphans().flush_soon();
        }
        self.situation(health, overdue).decide() != Action::Nothing
    }

    /// Returns whether no command of a user is under way.
    pub(crate) fn is_idle(&self) -> bool {
        fn is_idle<C: Class>(pool: &Pool<C>) -> bool {
            pool.queues().iter().all(QueuePair::is_idle)
        }
        is_idle(&self.hsm) && is_idle(&self.aes)
    }

    /// Returns after how many milliseconds a command is overdue.
    fn limit_ms(&self) -> u32 {
        u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX)
    }

    fn situation(&self, health: Health, overdue: bool) -> Situation {
        Situation {
            condition: self.condition(),
            health,
            overdue,
            asked: self.recovery().asked(),
            retry: self.retry_in_ms.load(Relaxed) == 0,
            sessions: self.orphans().is_unsure(),
            may_reset: self.may_reset,
        }
    }

    /// Does what there is to do.
    pub(crate) fn recover(&self) {
        // Whoever has the token has this called when it gives that back.
        if !self.token.try_wait() {
            return;
        }
        self.act();
        self.give_token();
    }

    fn act(&self) {
        if !matches!(self.condition(), Condition::Running | Condition::Recovering) {
            self.recovery().fail_requests();
        }
        if self.is_leaving() {
            return;
        }
        let overdue = self.has_overdue(&self.hsm) || self.has_overdue(&self.aes);
        match self.situation(self.registers.health(), overdue).decide() {
            Action::Nothing => {}
            Action::Abort => self.abort_overdue(),
            Action::Reset(how, cause) => self.reset(how, cause),
            Action::Leave => self.leave(),
            Action::Cut(cause) => self.cut(cause),
            Action::Refuse => self.recovery().take_all_requests().end(Outcome::Refused),
            Action::Flush => self.flush_unowned(),
        }
    }

    /// Gives the token back, and has the worker see what came meanwhile.
    fn give_token(&self) {
        self.token.signal();
        if self.is_held() {
            return;
        }
        let overdue = self.condition() == Condition::Running
            && (self.has_overdue(&self.hsm) || self.has_overdue(&self.aes));
        if self.situation(Health::Good, overdue).is_unfinished() {
            self.recovery().act();
        }
    }

    fn has_overdue<C: Class>(&self, pool: &Pool<C>) -> bool {
        let mut queues = pool.queues().iter();
        queues.any(|queue| self.is_overdue(queue))
    }

    fn is_overdue<C: Class>(&self, queue: &QueuePair<C>) -> bool {
        if !queue.is_overdue(self.limit_ms()) {
            return false;
        }
        // Its interrupt may have been lost, and there may be nobody who waits for it.
        queue.reap(&self.doorbells);
        queue.is_overdue(self.limit_ms())
    }

    /// Aborts the queues that have overdue commands, if the device answers at all.
    fn abort_overdue(&self) {
        let asked = Instant::<Monotonic>::now();
        if self.sender().gcm_unaligned().is_err() {
            self.count_overdue();
            return self.reset_unasked(Cause::Unresponsive);
        }
        if asked.elapsed() > PROMPT && self.history.lock().defer() {
            // It was busy with itself, and has not forgotten the commands.
            self.forgive(&self.hsm);
            self.forgive(&self.aes);
            return;
        }
        // It may have been just done with that. What it takes up now is not overdue any more when
        // the monitor has looked again, and what else is in those queues completes.
        self.drain_overdue(&self.hsm);
        self.drain_overdue(&self.aes);
        let grace = GRACE.start();
        while !grace.is_over() && !self.is_leaving() {
            process::sleep_a_tick();
        }
        self.count_overdue();
        let aborted = self
            .abort_overdue_of(&self.hsm)
            .and_then(|()| self.abort_overdue_of(&self.aes));
        if aborted.is_err() {
            self.reset_unasked(Cause::Unresponsive);
        }
    }

    /// Takes note of the commands that are overdue, as something is done about them now.
    fn count_overdue(&self) {
        fn count<C: Class>(pool: &Pool<C>, limit_ms: u32) {
            for queue in pool.queues() {
                queue.count_overdue(limit_ms);
            }
        }
        count(&self.hsm, self.limit_ms());
        count(&self.aes, self.limit_ms());
    }

    fn drain_overdue<C: Class>(&self, pool: &Pool<C>) {
        for queue in pool.queues() {
            if self.is_overdue(queue) {
                queue.drain(&self.doorbells);
            }
        }
    }

    /// Returns whether the device is to be left alone soon.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_held() || self.condition() == Condition::Gone
    }

    fn forgive<C: Class>(&self, pool: &Pool<C>) {
        for queue in pool.queues() {
            queue.forgive();
        }
    }

    fn abort_overdue_of<C: Class>(&self, pool: &Pool<C>) -> Result {
        for queue in pool.queues() {
            if self.is_leaving() {
                return Ok(());
            }
            if !self.is_overdue(queue) {
                queue.refill(&self.doorbells);
                continue;
            }
            let id = queue.id().get();
            if queue.count_abort() > MAX_ABORTS {
                dev_warn!(self.dev(), "queue {id}: aborted too often\n");
                return Err(EIO);
            }
            self.abort(queue)
                .inspect_err(|failure| {
                    dev_warn!(self.dev(), "queue {id}: cannot be aborted: {failure}\n");
                })
                .map_err(Error::from)?;
            dev_warn!(self.dev(), "queue {id}: command overdue, queue aborted\n");
        }
        Ok(())
    }

    /// Aborts all commands of a queue.
    ///
    /// # Errors
    ///
    /// See [`admin::Failure`]; the queue is closed then.
    fn abort<C: Class>(&self, queue: &QueuePair<C>) -> Result<(), admin::Failure> {
        queue.begin_abort();
        queue.close(&self.doorbells);
        self.sender().delete_sq(queue)?;
        self.tally.deleted();
        // The device writes completions and admin completions by different ways. What it has
        // written arrives before what it answers to a read.
        let _ = self.registers.health();
        process::sleep_a_tick();
        queue.end_submitted(&self.doorbells);
        // It may have been a wrong phase that kept completions from being seen. Those are still
        // there, and would be in the way of what is completed next.
        queue.silence(&self.doorbells);
        self.sender().delete_cq(queue)?;
        let _ = self.registers.health();
        queue.renew(&self.doorbells);
        self.sender().create(queue)?;
        self.tally.created(queue.id());
        queue.open(&self.doorbells);
        Ok(())
    }

    /// Resets the device, if that is allowed.
    fn reset_unasked(&self, cause: Cause) {
        if self.is_leaving() {
            // Who comes stops the device anyway.
            return;
        }
        match self.registers.health() {
            Health::Absent => self.leave(),
            _ if self.may_reset => self.reset(Stop::Disable, cause),
            _ => self.cut(cause),
        }
    }

    /// Resets the device and starts it again. Everything under way ends; sessions are kept, but
    /// must be renegotiated (device.rst 5.7).
    fn reset(&self, how: Stop, cause: Cause) {
        let began = Instant::<Monotonic>::now();
        let Some((was, now)) = self.change_condition(Change::Reset(cause)) else {
            return;
        };
        self.tally.reset(cause);
        // CAST: As `trace.h` numbers them.
        trace::reset(self.device(), cause as u32);
        // Requests that come from now on may want what they did until then to be forgotten.
        let requests = self.recovery().take_requests(how);
        let too_soon = match cause {
            Cause::Asked | Cause::Retry | Cause::Resumed => false,
            _ => !self.history.lock().reset(),
        };
        if !too_soon && cause != Cause::Retry {
            self.back_off_ms.store(FIRST_BACK_OFF_MS, Relaxed);
        }
        // What it should have been disabled by may never have reached its firmware.
        let how = match cause {
            Cause::Retry => Stop::Reset,
            _ => how,
        };

        if cause == Cause::Returned {
            // It may have been without power.
            self.enabled.restore();
        }
        let stopped = self.shut(how);
        self.tell(was, now, Some(cause));
        if matches!(cause, Cause::Returned | Cause::ReadyLost) {
            // Its owner has taken its resources away, and with them its sessions.
            self.orphans().begin_era();
        }
        // CAST: A duration; the cause as above.
        let traced = |done| {
            let ms = began.elapsed().as_millis() as u64;
            trace::reset_done(self.device(), cause as u32, done, ms);
        };
        if stopped.is_ok() && too_soon {
            traced(false);
            self.tally.failed();
            self.retry_later(cause);
            requests.end(Outcome::Failed);
            return;
        }
        match stopped.and_then(|()| self.restart()) {
            Ok(()) => {
                traced(true);
                self.flush_failures.store(0, Relaxed);
                self.flush_unowned();
                self.turn(Change::Started, Some(cause));
                if !matches!(cause, Cause::Asked | Cause::Resumed) {
                    let ms = began.elapsed().as_millis();
                    dev_warn!(self.dev(), "{cause}: recovered in {ms} ms\n");
                }
                requests.end(Outcome::Done);
            }
            Err(_) => {
                traced(false);
                self.fail(cause);
                requests.end(Outcome::Failed);
            }
        }
    }

    /// Takes note of a reset that failed.
    fn fail(&self, cause: Cause) {
        self.tally.failed();
        if self.registers.health() == Health::Absent {
            return self.leave();
        }
        // It may have started in part.
        let _ = self.shut(Stop::Disable);
        if cause != Cause::Retry && self.condition() != Condition::Gone {
            let quarantined = self.quarantined();
            dev_err!(
                self.dev(),
                "{cause}: cannot be reset, trying again; {quarantined} commands quarantined\n"
            );
        }
        self.retry_later(cause);
    }

    /// Leaves the device dead until the next attempt.
    fn retry_later(&self, cause: Cause) {
        let back_off = self.back_off_ms.load(Relaxed);
        self.retry_in_ms.store(back_off, Relaxed);
        self.back_off_ms
            .store(back_off.saturating_mul(2).min(MAX_BACK_OFF_MS), Relaxed);
        self.turn(Change::Failed, Some(cause));
    }

    /// Changes the condition, unless it is for good, and tells user space that it has. To be called
    /// by whoever has the token.
    fn turn(&self, change: Change, cause: Option<Cause>) {
        if let Some((was, now)) = self.change_condition(change) {
            self.tell(was, now, cause);
        }
    }

    /// Tells user space of a change of the condition. As that may wait for memory, a device that is
    /// not well is stopped before.
    fn tell(&self, was: Condition, to: Condition, cause: Option<Cause>) {
        if was == to {
            return;
        }
        match cause {
            Some(cause) => {
                sysfs::tell_change(self.device(), &[to.variable(), cause.variable()]);
            }
            None => sysfs::tell_change(self.device(), &[to.variable()]),
        }
    }

    /// Returns how many commands are left to a device that does not stop.
    fn quarantined(&self) -> usize {
        fn count<C: Class>(pool: &Pool<C>) -> usize {
            pool.queues().iter().map(QueuePair::quarantined).sum()
        }
        count(&self.hsm) + count(&self.aes) + count(&self.admin)
    }

    /// Says that the device is absent.
    fn leave(&self) {
        let Some((was, now)) = self.change_condition(Change::Vanished) else {
            return;
        };
        self.tally.absent();
        // There is nobody to be waited for.
        let _ = self.shut(Stop::Disable);
        self.tell(was, now, None);
        if was != Condition::Dead {
            dev_warn!(self.dev(), "device does not answer any more\n");
        }
        self.recovery().fail_requests();
    }

    /// Cuts a device off from memory that may not be reset.
    fn cut(&self, cause: Cause) {
        let Some((was, now)) = self.change_condition(Change::CutOff) else {
            return;
        };
        self.tally.cut();
        self.silence();
        self.enabled.clear_master();
        self.evict();
        self.tell(was, now, Some(cause));
        dev_err!(self.dev(), "{cause}: cut off, as resets are disabled\n");
        self.recovery().fail_requests();
    }

    /// Asks for a reset and waits for it.
    ///
    /// # Errors
    ///
    /// See [`NotServed`].
    pub(crate) fn request_reset(&self, how: Stop) -> Result<Outcome, NotServed> {
        self.recovery()
            .request(how, || self.condition() == Condition::Gone)
    }

    /// Stops the device, before somebody else resets it or takes its power. Until [`Self::resume`]
    /// for all reasons there were nobody touches it, unless to stop it for good.
    pub(crate) fn pause(&self, reason: Hold) {
        // CAST: The discriminants are bits of the word.
        self.change_holds(|holds| holds | reason as u32);
        // Those who look at registers now are done, and the others see the hold.
        drop(self.looked.lock());
        self.take_token();
        if let Some((was, now)) = self.change_condition(Change::Held) {
            let _ = self.shut(Stop::Disable);
            self.tell(was, now, None);
        }
        self.give_token();
    }

    /// Starts the device, if the reason for [`Self::pause`] was the last one.
    pub(crate) fn resume(&self, reason: Hold) {
        self.take_token();
        // CAST: As above.
        self.change_holds(|holds| holds & !(reason as u32));
        if !self.is_held() && self.condition() == Condition::Recovering {
            // It may have been without power, and cannot be asked.
            self.orphans().begin_era();
            self.reset(Stop::Disable, Cause::Resumed);
        }
        self.give_token();
        self.recovery().look();
    }

    /// Turns users away for good, and flushes the sessions of those who had one.
    pub(crate) fn retire(&self) {
        self.change_condition(Change::Leaving);
        self.recovery().fail_requests();
        if !self.is_held() && self.registers.health() == Health::Good {
            self.flush_all();
        }
    }

    /// Stops the device for good and ends what is under way, without a result. May be called more
    /// than once. Returns whether the device is known not to access memory any more.
    pub(crate) fn stop(&self) -> bool {
        self.change_condition(Change::Leaving);
        self.recovery().fail_requests();
        self.take_token();
        let mut safe = self.shut(Stop::Disable).is_ok();
        if !safe {
            // The function does not obey its register; the device may obey the bus.
            safe = !self.enabled.is_present() || (self.may_reset && self.enabled.reset_function());
            if safe {
                self.release();
            }
        }
        self.token.signal();
        safe
    }

    /// Takes the token, and has whoever has it hurry.
    fn take_token(&self) {
        while self.token.wait(SLICE) != Waited::Done {
            if self.is_leaving() {
                for admin in self.admin.queues() {
                    admin.desert(admin.start());
                }
            }
        }
    }

    fn change_holds(&self, change: impl Fn(u32) -> u32) {
        let mut holds = self.holds.load(Relaxed);
        while let Err(now) = self.holds.cmpxchg(holds, change(holds), Full) {
            holds = now;
        }
    }

    fn is_held(&self) -> bool {
        self.holds.load(Acquire) != 0
    }
}
