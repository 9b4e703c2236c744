// SPDX-License-Identifier: GPL-2.0

//! What is done about a device that is not well.
//!
//! Documentation/recovery.rst.

use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
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
const FIRST_BACK_OFF_MS: u32 = 1_000;
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
pub(super) struct History {
    /// When it was last started behind a reset that nobody asked for.
    started: Option<Instant<Monotonic>>,
    /// When it was last let off for being busy with itself, and how often in a row.
    deferred: Option<Instant<Monotonic>>,
    deferrals: u32,
    /// How long it will be left alone if it cannot be started now.
    back_off_ms: u32,
    /// Since when, and for how long, it was to be left alone, if it could not be started and was not
    /// since.
    alone: Option<(Instant<Monotonic>, Delta)>,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            started: None,
            deferred: None,
            deferrals: 0,
            back_off_ms: FIRST_BACK_OFF_MS,
            alone: None,
        }
    }

    /// Notes a reset. Returns whether it is too soon after the last start to start the device again.
    fn reset(&mut self, cause: Cause, now: Instant<Monotonic>) -> bool {
        let retry = self.is_retry(cause, now);
        let too_soon = match cause {
            Cause::Asked | Cause::Resumed => false,
            _ if retry => false,
            _ => self.started.is_some_and(|started| now - started <= CALM),
        };
        if !too_soon && !retry {
            self.back_off_ms = FIRST_BACK_OFF_MS;
        }
        too_soon
    }

    /// Returns whether a reset is another attempt to start a device that could not be started. One
    /// that is away for longer than it was left alone anyway may be another one when it returns.
    fn is_retry(&self, cause: Cause, now: Instant<Monotonic>) -> bool {
        match cause {
            Cause::Retry => true,
            Cause::Returned => self
                .alone
                .is_some_and(|(since, time)| now - since <= time + CALM),
            _ => false,
        }
    }

    /// Notes that the device was started by a reset.
    fn started(&mut self, cause: Cause, now: Instant<Monotonic>) {
        if !cause.is_wanted() {
            self.started = Some(now);
        }
        self.alone = None;
    }

    /// Returns how long to leave the device alone from now on, in milliseconds; it will be longer the
    /// next time.
    fn back_off(&mut self, now: Instant<Monotonic>) -> u32 {
        let ms = self.back_off_ms;
        self.back_off_ms = ms.saturating_mul(2).min(MAX_BACK_OFF_MS);
        self.alone = Some((now, Delta::from_millis(ms.into())));
        ms
    }

    /// Returns whether to let the device off once more, and notes it.
    fn defer(&mut self, now: Instant<Monotonic>) -> bool {
        if self.deferred.is_none_or(|last| now - last > FORGOTTEN) {
            self.deferrals = 0;
        }
        self.deferrals += 1;
        self.deferred = Some(now);
        self.deferrals <= MAX_DEFERRALS
    }
}

/// What the monitor saw when it looked last.
pub(super) struct Looked {
    at: Instant<Monotonic>,
    /// Which start of the administrative queue it was, if the device was not well.
    bad: Option<u32>,
}

impl Looked {
    pub(super) fn new() -> Self {
        Self {
            at: Instant::now(),
            bad: None,
        }
    }
}

/// Why the device must not be touched: bits of [`Hold`].
pub(super) struct Holds(Atomic<u32>);

impl Holds {
    pub(super) fn new() -> Self {
        Self(Atomic::new(0))
    }

    fn add(&self, reason: Hold) {
        // CAST: The discriminants are bits of the word.
        self.change(|holds| holds | reason as u32);
    }

    fn remove(&self, reason: Hold) {
        // CAST: As above.
        self.change(|holds| holds & !(reason as u32));
    }

    fn change(&self, change: impl Fn(u32) -> u32) {
        let mut holds = self.0.load(Relaxed);
        while let Err(now) = self.0.cmpxchg(holds, change(holds), Full) {
            holds = now;
        }
    }

    /// Returns whether there is a reason.
    fn any(&self) -> bool {
        self.0.load(Acquire) != 0
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
        let passed_ms = u32::try_from((now - looked.at).as_millis()).unwrap_or(u32::MAX);
        looked.at = now;

        let retry_in = self.retry_in_ms.load(Relaxed);
        let left = retry_in.saturating_sub(passed_ms);
        // The worker may have begun another back-off, of which nothing has passed.
        let _ = self.retry_in_ms.cmpxchg(retry_in, left, Relaxed);

        // Named before looking, so that one that is started meanwhile is not meant.
        let admin = self.admin.queues().first();
        let start = admin.map(QueuePair::start);
        let health = self.registers.health();
        let bad = start.filter(|_| health != Health::Good);
        // A read may be lost, which says nothing of the device.
        if let (Some(admin), Some(start), true) = (admin, start, bad.is_some() && looked.bad == bad)
        {
            admin.desert(start);
        }
        looked.bad = bad;
        let overdue = watch(self, &self.hsm, passed_ms);
        let overdue = watch(self, &self.aes, passed_ms) || overdue;
        if !self.orphans().sessions().is_empty() && self.condition() == Condition::Running {
            self.orphans().flush_soon();
        }
        // One that is back may not answer before its configuration is.
        let back = self.condition() == Condition::Absent && self.enabled.has_lost_configuration();
        back || self.situation(health, overdue).decide() != Action::Nothing
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
            sessions: self.orphans().sessions().is_unsure(),
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
        if self.condition() == Condition::Absent && self.enabled.has_lost_configuration() {
            // If it is back it does not answer before that.
            self.enabled.restore();
        }
        let overdue = self.has_overdue(&self.hsm) || self.has_overdue(&self.aes);
        let health = self.registers.health();
        if (self.condition(), health) == (Condition::Running, Health::Good) {
            self.recall();
        }
        match self.situation(health, overdue).decide() {
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
        if asked.elapsed() > PROMPT && self.history.lock().defer(Instant::now()) {
            // It was busy with itself, and has not forgotten the commands. The monitor would put
            // back what it has read.
            let _looked = self.looked.lock();
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

    /// Has the administrative queue used again, if it was left for a device that is well after all.
    fn recall(&self) {
        for admin in self.admin.queues() {
            admin.recall();
        }
    }

    /// Returns whether the device is to be left alone soon.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_held() || !self.is_bound()
    }

    /// Returns whether the driver is not being unbound, which stops the device itself.
    pub(super) fn is_bound(&self) -> bool {
        self.condition() != Condition::Gone
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
        let too_soon = self.history.lock().reset(cause, began);
        // What it should have been disabled by may never have reached its firmware.
        let how = match cause {
            Cause::Retry => Stop::Reset,
            _ => how,
        };

        if cause == Cause::Returned {
            // It may have been without power.
            self.enabled.restore();
        }
        // Its owner may have taken its resources away, or its power, and with them its sessions; of
        // one that was stopped before nobody knows.
        let emptied =
            matches!(cause, Cause::Returned | Cause::Resumed) || !self.registers.is_ready();
        let stopped = self.shut(how, || self.is_bound());
        self.tell(was, now, Some(cause));
        if emptied {
            self.orphans().sessions().begin_era();
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
                self.history.lock().started(cause, Instant::now());
                // Whoever had it may have given it back before a back-off was over.
                self.retry_in_ms.store(0, Relaxed);
                self.flush_failures.store(0, Relaxed);
                self.flush_unowned();
                self.recall();
                self.turn(Change::Started, Some(cause));
                if !cause.is_wanted() {
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
            // It may answer again at once, and vanish as soon as it is started.
            self.back_off();
            return self.leave();
        }
        // It may have started in part.
        let _ = self.shut(Stop::Disable, || self.is_bound());
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
        self.back_off();
        self.turn(Change::Failed, Some(cause));
    }

    /// Has the device left alone for a while.
    fn back_off(&self) {
        let ms = self.history.lock().back_off(Instant::now());
        self.retry_in_ms.store(ms, Relaxed);
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
        let _ = self.shut(Stop::Disable, || self.is_bound());
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
        self.holds.add(reason);
        // Those who look at registers now are done, and the others see the hold.
        drop(self.looked.lock());
        self.take_token();
        if let Some((was, now)) = self.change_condition(Change::Held) {
            let _ = self.shut(Stop::Disable, || true);
            self.tell(was, now, None);
        }
        self.give_token();
    }

    /// Starts the device, if the reason for [`Self::pause`] was the last one.
    pub(crate) fn resume(&self, reason: Hold) {
        self.take_token();
        self.holds.remove(reason);
        if !self.is_held() && self.condition() == Condition::Recovering {
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

    /// Stops the device for good and ends what is under way, without a result. Returns whether the
    /// device is known not to access memory any more. May be called more than once, and says the
    /// same each time: one that did not stop is not safe because it can be seen no longer.
    pub(crate) fn stop(&self) -> bool {
        self.change_condition(Change::Leaving);
        self.recovery().fail_requests();
        self.take_token();
        let safe = self.at_rest.copy().unwrap_or_else(|| {
            let safe = self.come_to_rest();
            self.at_rest.populate(safe);
            safe
        });
        self.token.signal();
        safe
    }

    /// Stops the device in one way or another. Returns whether it has.
    fn come_to_rest(&self) -> bool {
        let stop = || self.shut(Stop::Disable, || true);
        let mut stopped = stop();
        let is_present = stopped.is_ok() || self.enabled.is_present();
        if is_present && stopped == Err(ENODEV) {
            // One read was lost, or it did not answer yet.
            stopped = stop();
        }
        if stopped.is_ok() {
            return true;
        }
        // The function does not obey its register; the device may obey the bus.
        let safe = !is_present || (self.may_reset && self.enabled.reset_function());
        if safe {
            self.release();
        }
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

    fn is_held(&self) -> bool {
        self.holds.any()
    }
}

#[kunit_tests(azihsm_ctrl_recover)]
mod tests {
    use super::*;

    // Documentation/recovery.rst 2: within 10 s of the last reset that nobody asked for.
    #[test]
    fn a_fault_comes_too_soon_or_not() {
        // When, for which cause, and whether it is too soon; if not the device starts at once.
        const CASES: [(i64, Cause, bool); 10] = [
            (0, Cause::Fault, false),
            (10, Cause::ReadyLost, true),
            (11, Cause::Unresponsive, false),
            (12, Cause::Asked, false),
            (13, Cause::Resumed, false),
            (21, Cause::Returned, true),
            (22, Cause::Asked, false),
            (23, Cause::Retry, false),
            (33, Cause::Fault, true),
            (34, Cause::Returned, false),
        ];
        let begin = Instant::now();
        let mut history = History::new();
        for (seconds, cause, too_soon) in CASES {
            let now = begin + Delta::from_secs(seconds);
            assert_eq!(history.reset(cause, now), too_soon);
            if !too_soon {
                history.started(cause, now);
            }
        }
    }

    // How long it was left alone does not count: a device that crashes a second after each start
    // is left alone longer each time.
    #[test]
    fn back_off_grows_while_no_start_is_of_use() {
        let mut now = Instant::now();
        let mut history = History::new();
        history.reset(Cause::Fault, now);
        history.started(Cause::Fault, now);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64] {
            now = now + Delta::from_secs(1);
            assert!(history.reset(Cause::Fault, now));
            assert_eq!(history.back_off(now), seconds * 1_000);
            now = now + Delta::from_secs(seconds.into());
            assert!(!history.reset(Cause::Retry, now));
            history.started(Cause::Retry, now);
        }
    }

    #[test]
    fn a_retry_is_never_too_soon() {
        let now = Instant::now();
        let mut history = History::new();
        assert!(!history.reset(Cause::Fault, now));
        history.started(Cause::Fault, now);
        assert!(history.reset(Cause::Fault, now));
        assert!(!history.reset(Cause::Retry, now));
    }

    #[test]
    fn back_off_doubles_to_64_s() {
        let now = Instant::now();
        let mut history = History::new();
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
            assert_eq!(history.back_off(now), seconds * 1_000);
        }
    }

    #[test]
    fn back_off_begins_anew_unless_it_was_of_no_use() {
        // The cause of another reset, seconds after the last fault, and the back-off after it.
        const CASES: [(Cause, i64, u32); 8] = [
            (Cause::Retry, 1, 4_000),
            (Cause::Retry, 60, 4_000),
            (Cause::Fault, 10, 4_000),
            (Cause::Fault, 11, 1_000),
            (Cause::Unresponsive, 1, 4_000),
            (Cause::Returned, 60, 1_000),
            (Cause::Asked, 1, 1_000),
            (Cause::Resumed, 1, 1_000),
        ];
        let begin = Instant::now();
        for (cause, seconds, back_off_ms) in CASES {
            let mut history = History::new();
            history.started(Cause::Fault, begin);
            history.back_off(begin);
            history.back_off(begin);
            let now = begin + Delta::from_secs(seconds);
            history.reset(cause, now);
            assert_eq!(history.back_off(now), back_off_ms);
        }
    }

    // Documentation/recovery.rst 2: one that vanishes while it is started, and answers again.
    #[test]
    fn back_off_grows_while_a_device_vanishes_as_it_is_started() {
        // How long after the back-off it is found again, and the next back-off, in seconds.
        const CASES: [(i64, u32); 8] = [
            (0, 2),
            (10, 4),
            (0, 8),
            // It was away for longer.
            (11, 1),
            (1, 2),
            (600, 1),
            (10, 2),
            (0, 4),
        ];
        let mut now = Instant::now();
        let mut history = History::new();
        assert!(!history.reset(Cause::Returned, now));
        let mut back_off_ms = history.back_off(now);
        assert_eq!(back_off_ms, FIRST_BACK_OFF_MS);
        for (late, seconds) in CASES {
            now = now + Delta::from_millis(back_off_ms.into()) + Delta::from_secs(late);
            assert!(!history.reset(Cause::Returned, now));
            back_off_ms = history.back_off(now);
            assert_eq!(back_off_ms, seconds * 1_000);
        }
    }

    // Once it was started it is a fault like any other.
    #[test]
    fn a_start_ends_the_attempts() {
        let begin = Instant::now();
        let mut history = History::new();
        assert!(!history.reset(Cause::Returned, begin));
        history.back_off(begin);
        let now = begin + Delta::from_secs(1);
        assert!(!history.reset(Cause::Returned, now));
        history.started(Cause::Returned, now);
        assert!(history.reset(Cause::Returned, now + Delta::from_secs(1)));
        assert_eq!(history.back_off(now + Delta::from_secs(1)), 2_000);
        history.started(Cause::Retry, now + Delta::from_secs(3));
        assert!(!history.reset(Cause::Returned, now + Delta::from_secs(14)));
        assert_eq!(history.back_off(now + Delta::from_secs(14)), 1_000);
    }

    // Documentation/recovery.rst 3.1: at most twice in a row, which ends after two minutes.
    #[test]
    fn a_busy_device_is_let_off_twice() {
        const CASES: [(i64, bool); 9] = [
            (0, true),
            (120, true),
            (121, false),
            (241, false),
            (362, true),
            (363, true),
            (364, false),
            (485, true),
            (486, true),
        ];
        let begin = Instant::now();
        let mut history = History::new();
        for (seconds, let_off) in CASES {
            assert_eq!(history.defer(begin + Delta::from_secs(seconds)), let_off);
        }
    }

    #[test]
    fn each_reason_holds_until_it_is_removed() {
        const ADD: fn(&Holds, Hold) = Holds::add;
        const REMOVE: fn(&Holds, Hold) = Holds::remove;
        type Case = (fn(&Holds, Hold), Hold, bool);
        const CASES: [Case; 12] = [
            (ADD, Hold::FunctionReset, true),
            (REMOVE, Hold::FunctionReset, false),
            (ADD, Hold::LinkError, true),
            (ADD, Hold::Sleep, true),
            (REMOVE, Hold::FunctionReset, true),
            (REMOVE, Hold::LinkError, true),
            (REMOVE, Hold::LinkError, true),
            (ADD, Hold::FunctionReset, true),
            (REMOVE, Hold::Sleep, true),
            (ADD, Hold::FunctionReset, true),
            (REMOVE, Hold::FunctionReset, false),
            (REMOVE, Hold::Sleep, false),
        ];
        let holds = Holds::new();
        assert!(!holds.any());
        for (change, reason, any) in CASES {
            change(&holds, reason);
            assert_eq!(holds.any(), any);
        }
    }
}
