// SPDX-License-Identifier: GPL-2.0

//! Noticing that a device is not well, and deciding what to do.
//!
//! Documentation/recovery.rst. What is done is in [`crate::ctrl`].

use kernel::{
    impl_has_delayed_work, impl_has_work, new_delayed_work, new_mutex, new_work,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Delta, //
    },
    workqueue,
    workqueue::{
        DelayedWork,
        Work,
        WorkItem, //
    },
};

use crate::{
    ctrl::CtrlFamily,
    patience::Patience,
    regs::{
        Health,
        Stop, //
    },
    sys::{
        completion::{
            Event,
            Waited, //
        },
        gate::Gate,
        work, //
    }, //
};

/// How often the monitor looks at a device that has nothing to do, and at one that has.
const IDLE_PERIOD_MS: u32 = 500;
const BUSY_PERIOD_MS: u32 = 100;

/// How long somebody who asks for a reset waits.
const REQUEST_TIMEOUT: Delta = Delta::from_secs(120);

/// In which condition a controller is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Condition {
    /// It works, or should.
    Running = 0,
    /// It is being stopped or started.
    Recovering = 1,
    /// It did not stop, or did not start.
    Dead = 2,
    /// It reads as all ones.
    Absent = 3,
    /// The driver is being unbound, or the machine switched off.
    Gone = 4,
}

impl From<u32> for Condition {
    fn from(word: u32) -> Self {
        match word {
            0 => Condition::Running,
            1 => Condition::Recovering,
            2 => Condition::Dead,
            3 => Condition::Absent,
            _ => Condition::Gone,
        }
    }
}

/// Why a device is reset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cause {
    /// Somebody asked for it.
    Asked = 0,
    /// The controller has a fault.
    Fault,
    /// The controller is not ready any more.
    ReadyLost,
    /// A queue could not be aborted, or was too often.
    Unresponsive,
    /// An earlier reset failed.
    Retry,
    /// The device reads as all ones no more.
    Returned,
    /// Whoever had the device, to reset it or to take its power, gave it back.
    Resumed,
}

/// What changes the condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// A reset begins.
    Reset(Cause),
    /// The device was started.
    Started,
    /// The device did not stop, or did not start, or is not to be started yet.
    Failed,
    /// The device is stopped for somebody else.
    Held,
    /// The device is found to read as all ones.
    Vanished,
    /// The device is cut off from memory, as it may not be reset.
    CutOff,
    /// The driver leaves.
    Leaving,
}

impl kernel::fmt::Display for Condition {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        f.write_str(match self {
            Condition::Running => "running",
            Condition::Recovering => "recovering",
            Condition::Dead => "dead",
            Condition::Absent => "absent",
            Condition::Gone => "gone",
        })
    }
}

impl Condition {
    /// Returns the condition after `change`; none if it cannot come to that. There are no other
    /// transitions than these (Documentation/recovery.rst 2).
    pub(crate) fn after(self, change: Change) -> Option<Self> {
        match (self, change) {
            (_, Change::Leaving) => Some(Condition::Gone),
            (Condition::Gone, _) => None,
            (_, Change::Held) => Some(Condition::Recovering),
            (
                Condition::Running,
                Change::Reset(Cause::Asked | Cause::Fault | Cause::ReadyLost | Cause::Unresponsive),
            )
            | (Condition::Recovering, Change::Reset(Cause::Resumed))
            | (Condition::Dead, Change::Reset(Cause::Retry))
            | (Condition::Absent, Change::Reset(Cause::Returned)) => Some(Condition::Recovering),
            (Condition::Recovering, Change::Started) => Some(Condition::Running),
            (Condition::Recovering, Change::Failed)
            | (Condition::Running | Condition::Absent, Change::CutOff) => Some(Condition::Dead),
            (Condition::Running | Condition::Recovering | Condition::Dead, Change::Vanished) => {
                Some(Condition::Absent)
            }
            _ => None,
        }
    }

    /// Returns the condition as a variable of an event.
    pub(crate) fn variable(self) -> &'static CStr {
        match self {
            Condition::Running => c"AZIHSM_STATE=running",
            Condition::Recovering => c"AZIHSM_STATE=recovering",
            Condition::Dead => c"AZIHSM_STATE=dead",
            Condition::Absent => c"AZIHSM_STATE=absent",
            Condition::Gone => c"AZIHSM_STATE=gone",
        }
    }
}

impl Cause {
    /// How many there are.
    pub(crate) const COUNT: usize = 7;

    /// Returns whether it says nothing of the device: somebody wants it reset, or has it.
    pub(crate) fn is_wanted(self) -> bool {
        matches!(self, Cause::Asked | Cause::Resumed)
    }

    /// Returns the cause as a variable of an event.
    pub(crate) fn variable(self) -> &'static CStr {
        match self {
            Cause::Asked => c"AZIHSM_CAUSE=requested",
            Cause::Fault => c"AZIHSM_CAUSE=fault",
            Cause::ReadyLost => c"AZIHSM_CAUSE=not_ready",
            Cause::Unresponsive => c"AZIHSM_CAUSE=unresponsive",
            Cause::Retry => c"AZIHSM_CAUSE=retried",
            Cause::Returned => c"AZIHSM_CAUSE=returned",
            Cause::Resumed => c"AZIHSM_CAUSE=resumed",
        }
    }
}

impl kernel::fmt::Display for Cause {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        f.write_str(match self {
            Cause::Asked => "reset on demand",
            Cause::Fault => "controller fault",
            Cause::ReadyLost => "controller not ready any more",
            Cause::Unresponsive => "controller unresponsive",
            Cause::Retry => "controller stopped",
            Cause::Returned => "device absent",
            Cause::Resumed => "device held",
        })
    }
}

/// What there is to know before deciding what to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Situation {
    pub(crate) condition: Condition,
    pub(crate) health: Health,
    /// Whether a command is overdue.
    pub(crate) overdue: bool,
    /// The reset that somebody asks for.
    pub(crate) asked: Option<Stop>,
    /// Whether it is time for another attempt at a controller that could not be started.
    pub(crate) retry: bool,
    /// Whether sessions that nobody has are to be flushed.
    pub(crate) sessions: bool,
    /// Whether the function may be reset.
    pub(crate) may_reset: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    Nothing,
    /// Abort the queues that have overdue commands.
    Abort,
    Reset(Stop, Cause),
    /// Say that the device is absent.
    Leave,
    /// Cut the device off: it may not be reset.
    Cut(Cause),
    /// Refuse the reset that is asked for.
    Refuse,
    /// Flush sessions that nobody has.
    Flush,
}

impl Situation {
    /// Decides what to do first.
    pub(crate) fn decide(&self) -> Action {
        let reset = |cause| match self.may_reset {
            true => Action::Reset(Stop::Disable, cause),
            false => Action::Cut(cause),
        };
        match (self.condition, self.health) {
            (Condition::Gone | Condition::Recovering, _) => Action::Nothing,
            (Condition::Absent, Health::Absent) => Action::Nothing,
            (_, Health::Absent) => Action::Leave,
            // Another attempt, if it vanished in one, or was dead before.
            (Condition::Absent, _) if self.retry => reset(Cause::Returned),
            (Condition::Absent, _) => Action::Nothing,
            (Condition::Dead, _) if self.retry && self.may_reset => reset(Cause::Retry),
            (Condition::Dead, _) => Action::Nothing,
            (Condition::Running, Health::Fault) => reset(Cause::Fault),
            (Condition::Running, Health::NotReady) => reset(Cause::ReadyLost),
            (Condition::Running, Health::Good) => match self.asked {
                Some(how) if self.may_reset => Action::Reset(how, Cause::Asked),
                Some(_) => Action::Refuse,
                None if self.overdue => Action::Abort,
                None if self.sessions => Action::Flush,
                None => Action::Nothing,
            },
        }
    }

    /// Returns whether the worker is to look again at once. Nothing counts that it would leave as
    /// it is, or it would never end.
    pub(crate) fn is_unfinished(&self) -> bool {
        match self.condition {
            // What could not be flushed now need not be tried at once.
            Condition::Running => !matches!(self.decide(), Action::Nothing | Action::Flush),
            Condition::Recovering => false,
            Condition::Dead | Condition::Absent | Condition::Gone => self.asked.is_some(),
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Outcome {
    /// The device was reset.
    Done = 0,
    /// The device did not stop or start.
    Failed,
    /// The controller is dead or gone.
    BadState,
    /// The function may not be reset.
    Refused,
}

impl From<u32> for Outcome {
    fn from(word: u32) -> Self {
        match word {
            0 => Outcome::Done,
            1 => Outcome::Failed,
            2 => Outcome::BadState,
            _ => Outcome::Refused,
        }
    }
}

/// A reset that somebody asks for.
#[pin_data]
struct Request {
    how: Stop,
    outcome: Atomic<u32>,
    #[pin]
    done: Event,
}

/// See the [module](self).
#[pin_data]
pub(crate) struct Recovery {
    gate: Arc<Gate<CtrlFamily>>,
    #[pin]
    requests: Mutex<KVec<Arc<Request>>>,
    #[pin]
    monitor: DelayedWork<Recovery, MONITOR>,
    #[pin]
    worker: Work<Recovery, WORKER>,
}

/// The work of looking.
const MONITOR: u64 = 0;
/// The work of acting on it.
const WORKER: u64 = 1;

impl_has_delayed_work! {
    impl HasDelayedWork<Self, MONITOR> for Recovery { self.monitor }
}

impl_has_work! {
    impl HasWork<Self, WORKER> for Recovery { self.worker }
}

impl WorkItem<MONITOR> for Recovery {
    type Pointer = Arc<Recovery>;

    fn run(this: Arc<Recovery>) {
        let period = this.gate.with(|ctrl| {
            if ctrl.monitor() {
                this.act();
            }
            Ok(match ctrl.is_idle() {
                true => IDLE_PERIOD_MS,
                false => BUSY_PERIOD_MS,
            })
        });
        if let Ok(period) = period {
            let period = msecs_to_jiffies(period);
            let _ = workqueue::system_long().enqueue_delayed::<Arc<Self>, MONITOR>(this, period);
        }
    }
}

impl WorkItem<WORKER> for Recovery {
    type Pointer = Arc<Recovery>;

    fn run(this: Arc<Recovery>) {
        let _ = this.gate.with(|ctrl| {
            ctrl.recover();
            Ok(())
        });
    }
}

impl Recovery {
    /// Makes that of the controller behind `gate`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(gate: Arc<Gate<CtrlFamily>>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                gate,
                requests <- new_mutex!(KVec::new(), "azihsm_requests"),
                monitor <- new_delayed_work!("azihsm_monitor"),
                worker <- new_work!("azihsm_recovery"),
            }),
            GFP_KERNEL,
        )
    }

    /// Has the monitor look now, and from then on. May be called from any context.
    pub(crate) fn look(self: &Arc<Self>) {
        work::hurry::<_, MONITOR>(self);
    }

    /// Has the worker see what there is to do. May be called from any context.
    pub(crate) fn act(self: &Arc<Self>) {
        // If it is queued already, it will see what there is now, too.
        let _ = workqueue::system_long().enqueue::<Arc<Self>, WORKER>(self.clone());
    }

    /// Waits until the work that is under way has ended, and lets no other begin. To be called when
    /// the gate is closed.
    pub(crate) fn stop(self: &Arc<Self>) {
        work::disable_delayed::<_, MONITOR>(self);
        work::cancel::<_, WORKER>(self);
    }

    /// Asks for a reset and waits for it. `is_gone` says whether nobody serves requests any more;
    /// whoever makes it so must call [`Self::fail_requests`] after that.
    ///
    /// # Errors
    ///
    /// How the wait ended: it may be killed.
    pub(crate) fn request(
        self: &Arc<Self>,
        how: Stop,
        is_gone: impl FnOnce() -> bool,
    ) -> Result<Outcome, NotServed> {
        let request = Arc::pin_init(
            pin_init!(Request {
                how,
                // CAST: The discriminants are those of the word.
                outcome: Atomic::new(Outcome::BadState as u32),
                done <- Event::new(),
            }),
            GFP_KERNEL,
        )
        .map_err(|_| NotServed::NoMemory)?;
        // The monitor has this lock, and must not wait for memory.
        self.requests
            .lock()
            .push(request.clone(), GFP_NOWAIT)
            .map_err(|_| NotServed::NoMemory)?;
        if is_gone() {
            self.fail_requests();
        } else {
            self.act();
        }
        let wait = Patience {
            timeout: Some(REQUEST_TIMEOUT),
            killable: true,
        }
        .start();
        match wait.for_event(&request.done) {
            Waited::Done => Ok(Outcome::from(request.outcome.load(Acquire))),
            waited => {
                self.withdraw(&request);
                Err(match waited {
                    Waited::Killed => NotServed::Killed,
                    _ => NotServed::TimedOut,
                })
            }
        }
    }

    /// Returns the kind of reset that the first request is for.
    pub(crate) fn asked(&self) -> Option<Stop> {
        self.requests.lock().first().map(|request| request.how)
    }

    /// Takes all requests of the kind `how`.
    pub(crate) fn take_requests(&self, how: Stop) -> Requests {
        let mut requests = self.requests.lock();
        let mut taken = KVec::new();
        let mut index = 0;
        while let Some(request) = requests.get(index) {
            // Those for which there is no memory now are served by another reset.
            if request.how != how || taken.push(request.clone(), GFP_NOWAIT).is_err() {
                index += 1;
                continue;
            }
            // Cannot fail: it is there.
            let _ = requests.remove(index);
        }
        Requests(taken)
    }

    /// Tells all who ask for a reset that there will be none.
    pub(crate) fn fail_requests(&self) {
        self.take_all_requests().end(Outcome::BadState);
    }

    /// Takes all requests.
    pub(crate) fn take_all_requests(&self) -> Requests {
        Requests(core::mem::take(&mut *self.requests.lock()))
    }

    /// Takes `request` back, of which nobody wants to know any more.
    fn withdraw(&self, request: &Arc<Request>) {
        let mut requests = self.requests.lock();
        let index = requests
            .iter()
            .position(|other| Arc::ptr_eq(other, request));
        if let Some(index) = index {
            // Cannot fail: it is there.
            let _ = requests.remove(index);
        }
    }
}

/// Requests that were taken.
pub(crate) struct Requests(KVec<Arc<Request>>);

impl Requests {
    /// Tells those who wait what became of them.
    pub(crate) fn end(self, outcome: Outcome) {
        for request in &self.0 {
            // CAST: The discriminants are those of the word.
            request.outcome.store(outcome as u32, Release);
            request.done.signal();
        }
    }
}

/// Why a request has no outcome yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NotServed {
    /// The task is being killed.
    Killed,
    /// It takes too long.
    TimedOut,
    /// It could not be made.
    NoMemory,
}

#[kunit_tests(azihsm_recovery)]
mod tests {
    use super::*;

    const CONDITIONS: [Condition; 5] = [
        Condition::Running,
        Condition::Recovering,
        Condition::Dead,
        Condition::Absent,
        Condition::Gone,
    ];

    const HEALTHS: [Health; 4] = [
        Health::Good,
        Health::NotReady,
        Health::Fault,
        Health::Absent,
    ];

    /// All situations in `condition`.
    fn each(condition: Condition, mut check: impl FnMut(Situation)) {
        for health in HEALTHS {
            for asked in [None, Some(Stop::Disable), Some(Stop::Reset)] {
                for bits in 0..16 {
                    check(Situation {
                        condition,
                        health,
                        overdue: bits & 1 != 0,
                        asked,
                        retry: bits & 2 != 0,
                        sessions: bits & 4 != 0,
                        may_reset: bits & 8 != 0,
                    });
                }
            }
        }
    }

    // Counters go by them, and `trace.h` has a name for each.
    #[test]
    fn causes_keep_their_numbers() {
        let causes = [
            (Cause::Asked, c"AZIHSM_CAUSE=requested"),
            (Cause::Fault, c"AZIHSM_CAUSE=fault"),
            (Cause::ReadyLost, c"AZIHSM_CAUSE=not_ready"),
            (Cause::Unresponsive, c"AZIHSM_CAUSE=unresponsive"),
            (Cause::Retry, c"AZIHSM_CAUSE=retried"),
            (Cause::Returned, c"AZIHSM_CAUSE=returned"),
            (Cause::Resumed, c"AZIHSM_CAUSE=resumed"),
        ];
        assert_eq!(causes.len(), Cause::COUNT);
        for (number, (cause, variable)) in causes.into_iter().enumerate() {
            assert_eq!(cause as usize, number);
            assert_eq!(cause.variable(), variable);
        }
    }

    #[test]
    fn conditions_keep_their_words() {
        for condition in CONDITIONS {
            assert_eq!(Condition::from(condition as u32), condition);
        }
        for outcome in [
            Outcome::Done,
            Outcome::Failed,
            Outcome::BadState,
            Outcome::Refused,
        ] {
            assert_eq!(Outcome::from(outcome as u32), outcome);
        }
    }

    #[test]
    fn what_may_not_be_reset_never_is() {
        for condition in [Condition::Running, Condition::Dead, Condition::Absent] {
            each(condition, |situation| {
                let action = situation.decide();
                if !situation.may_reset {
                    assert!(!matches!(action, Action::Reset(..)));
                } else {
                    assert!(!matches!(action, Action::Cut(_) | Action::Refuse));
                }
            });
        }
    }

    // Words that stand for nothing are the least that can be hoped for.
    #[test]
    fn other_words_are_the_worst() {
        for word in [5, 6, 0x100, u32::MAX] {
            assert_eq!(Condition::from(word), Condition::Gone);
            assert_eq!(Outcome::from(word), Outcome::Refused);
        }
    }

    // Documentation/recovery.rst 2: in the order of `CONDITIONS`.
    #[test]
    fn transitions_are_those_of_the_table() {
        const NO: Option<Condition> = None;
        const RUN: Option<Condition> = Some(Condition::Running);
        const REC: Option<Condition> = Some(Condition::Recovering);
        const DEAD: Option<Condition> = Some(Condition::Dead);
        const ABS: Option<Condition> = Some(Condition::Absent);
        const GONE: Option<Condition> = Some(Condition::Gone);
        const TABLE: [(Change, [Option<Condition>; 5]); Cause::COUNT + 6] = [
            (Change::Reset(Cause::Asked), [REC, NO, NO, NO, NO]),
            (Change::Reset(Cause::Fault), [REC, NO, NO, NO, NO]),
            (Change::Reset(Cause::ReadyLost), [REC, NO, NO, NO, NO]),
            (Change::Reset(Cause::Unresponsive), [REC, NO, NO, NO, NO]),
            (Change::Reset(Cause::Retry), [NO, NO, REC, NO, NO]),
            (Change::Reset(Cause::Returned), [NO, NO, NO, REC, NO]),
            (Change::Reset(Cause::Resumed), [NO, REC, NO, NO, NO]),
            (Change::Started, [NO, RUN, NO, NO, NO]),
            (Change::Failed, [NO, DEAD, NO, NO, NO]),
            (Change::Held, [REC, REC, REC, REC, NO]),
            (Change::Vanished, [ABS, ABS, ABS, NO, NO]),
            (Change::CutOff, [DEAD, NO, NO, DEAD, NO]),
            (Change::Leaving, [GONE, GONE, GONE, GONE, GONE]),
        ];
        for (index, (change, row)) in TABLE.into_iter().enumerate() {
            for (condition, after) in CONDITIONS.into_iter().zip(row) {
                assert_eq!(condition.after(change), after);
            }
            assert!(TABLE.iter().skip(index + 1).all(|row| row.0 != change));
        }
    }

    #[test]
    fn what_is_decided_is_a_transition() {
        for condition in CONDITIONS {
            each(condition, |situation| {
                let (change, after) = match situation.decide() {
                    Action::Reset(_, cause) => (Change::Reset(cause), Condition::Recovering),
                    Action::Leave => (Change::Vanished, Condition::Absent),
                    Action::Cut(_) => (Change::CutOff, Condition::Dead),
                    Action::Nothing | Action::Abort | Action::Refuse | Action::Flush => return,
                };
                assert_eq!(condition.after(change), Some(after));
            });
        }
    }

    // Documentation/recovery.rst 2 to 4. Each row is for all that its columns have.
    #[test]
    fn situations_are_decided_by_the_table() {
        /// Health; whether a reset is allowed, who asks for one, whether a command is overdue,
        /// sessions may be left over, the back-off is over; what is done.
        type Row = (
            &'static [Health],
            &'static [bool],
            &'static [Option<Stop>],
            &'static [bool],
            &'static [bool],
            &'static [bool],
            Action,
        );
        const GONE: &[Health] = &[Health::Absent];
        const FAULT: &[Health] = &[Health::Fault];
        const STOPPED: &[Health] = &[Health::NotReady];
        const GOOD: &[Health] = &[Health::Good];
        const THERE: &[Health] = &[Health::Good, Health::NotReady, Health::Fault];
        const ALL: &[Health] = &HEALTHS;
        const Y: &[bool] = &[true];
        const N: &[bool] = &[false];
        const YN: &[bool] = &[true, false];
        const NOBODY: &[Option<Stop>] = &[None];
        const DISABLE: &[Option<Stop>] = &[Some(Stop::Disable)];
        const NSSR: &[Option<Stop>] = &[Some(Stop::Reset)];
        const EITHER: &[Option<Stop>] = &[Some(Stop::Disable), Some(Stop::Reset)];
        const ANY: &[Option<Stop>] = &[None, Some(Stop::Disable), Some(Stop::Reset)];
        const RESET: Action = Action::Reset(Stop::Reset, Cause::Asked);
        const fn disable(cause: Cause) -> Action {
            Action::Reset(Stop::Disable, cause)
        }
        const RUNNING: &[Row] = &[
            (GONE, YN, ANY, YN, YN, YN, Action::Leave),
            (FAULT, Y, ANY, YN, YN, YN, disable(Cause::Fault)),
            (FAULT, N, ANY, YN, YN, YN, Action::Cut(Cause::Fault)),
            (STOPPED, Y, ANY, YN, YN, YN, disable(Cause::ReadyLost)),
            (STOPPED, N, ANY, YN, YN, YN, Action::Cut(Cause::ReadyLost)),
            (GOOD, Y, DISABLE, YN, YN, YN, disable(Cause::Asked)),
            (GOOD, Y, NSSR, YN, YN, YN, RESET),
            (GOOD, N, EITHER, YN, YN, YN, Action::Refuse),
            (GOOD, YN, NOBODY, Y, YN, YN, Action::Abort),
            (GOOD, YN, NOBODY, N, Y, YN, Action::Flush),
            (GOOD, YN, NOBODY, N, N, YN, Action::Nothing),
        ];
        const DEAD: &[Row] = &[
            (GONE, YN, ANY, YN, YN, YN, Action::Leave),
            (THERE, Y, ANY, YN, YN, Y, disable(Cause::Retry)),
            (THERE, Y, ANY, YN, YN, N, Action::Nothing),
            (THERE, N, ANY, YN, YN, YN, Action::Nothing),
        ];
        const ABSENT: &[Row] = &[
            (GONE, YN, ANY, YN, YN, YN, Action::Nothing),
            (THERE, Y, ANY, YN, YN, Y, disable(Cause::Returned)),
            (THERE, N, ANY, YN, YN, Y, Action::Cut(Cause::Returned)),
            (THERE, YN, ANY, YN, YN, N, Action::Nothing),
        ];
        const NOTHING: &[Row] = &[(ALL, YN, ANY, YN, YN, YN, Action::Nothing)];
        for (condition, table) in CONDITIONS
            .into_iter()
            .zip([RUNNING, NOTHING, DEAD, ABSENT, NOTHING])
        {
            each(condition, |situation| {
                let mut rows = table
                    .iter()
                    .filter(|(health, may, asked, late, left, over, _)| {
                        health.contains(&situation.health)
                            && may.contains(&situation.may_reset)
                            && asked.contains(&situation.asked)
                            && late.contains(&situation.overdue)
                            && left.contains(&situation.sessions)
                            && over.contains(&situation.retry)
                    });
                assert_eq!(rows.next().map(|row| row.6), Some(situation.decide()));
                assert!(rows.next().is_none());
            });
        }
    }

    #[test]
    fn the_worker_looks_again_for_what_it_acts_on() {
        const ASKED: Option<Stop> = Some(Stop::Disable);
        // Who asks, whether a command is overdue, sessions may be left over; whether it looks.
        const CASES: [(Condition, Option<Stop>, bool, bool, bool); 11] = [
            (Condition::Running, None, false, false, false),
            (Condition::Running, None, false, true, false),
            (Condition::Running, None, true, false, true),
            (Condition::Running, ASKED, false, false, true),
            (Condition::Recovering, ASKED, true, true, false),
            (Condition::Dead, None, true, true, false),
            (Condition::Dead, ASKED, false, false, true),
            (Condition::Absent, None, true, true, false),
            (Condition::Absent, ASKED, false, false, true),
            (Condition::Gone, None, true, true, false),
            (Condition::Gone, ASKED, false, false, true),
        ];
        for (condition, asked, overdue, sessions, again) in CASES {
            for (retry, may_reset) in [(false, false), (false, true), (true, false), (true, true)] {
                let situation = Situation {
                    condition,
                    health: Health::Good,
                    overdue,
                    asked,
                    retry,
                    sessions,
                    may_reset,
                };
                assert_eq!(situation.is_unfinished(), again);
            }
        }
    }

    // What no situation leads to.
    #[test]
    fn some_things_are_never_done() {
        for condition in CONDITIONS {
            each(condition, |situation| {
                let running = condition == Condition::Running;
                let well = running && situation.health == Health::Good;
                let possible = match situation.decide() {
                    Action::Nothing => true,
                    // Only a controller that is well is sent commands, or told to reset as asked.
                    Action::Abort => well && situation.overdue,
                    Action::Flush => well && situation.sessions,
                    Action::Refuse => well && situation.asked.is_some(),
                    Action::Reset(how, Cause::Asked) => well && situation.asked == Some(how),
                    Action::Reset(Stop::Reset, _) => false,
                    // One that is absent is neither reset nor cut off.
                    Action::Reset(..) | Action::Cut(_) => situation.health != Health::Absent,
                    Action::Leave => situation.health == Health::Absent,
                };
                assert!(possible);
            });
        }
    }
}
