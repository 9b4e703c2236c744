// SPDX-License-Identifier: GPL-2.0

//! How long somebody waits, and for what.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
    time::{
        Delta,
        Instant,
        Jiffies,
        Monotonic, //
    },
};

use crate::{
    lockless::tags,
    sys::{
        completion::{
            Event,
            Waited,
            FOREVER, //
        },
        process, //
    },
};

/// Permits to take a tag of one of several queues, and those who wait for one. See
/// [`tags::Permits`].
#[pin_data]
pub(crate) struct Permits {
    inner: tags::Permits,
    #[pin]
    line: Line,
}

/// Those who wait for permits. Only tasks give permits and take them.
#[pin_data]
struct Line {
    #[pin]
    order: SpinLock<tags::Order>,
    #[pin]
    places: [Event; tags::PLACES],
}

impl Line {
    fn place(&self, place: usize) -> &Event {
        &self.places[place % tags::PLACES]
    }
}

impl tags::Line for Line {
    fn with_order<R>(&self, inside: impl FnOnce(&mut tags::Order) -> R) -> R {
        inside(&mut self.order.lock())
    }

    fn signal(&self, place: usize) {
        self.place(place).signal();
    }

    fn try_wait(&self, place: usize) -> bool {
        self.place(place).try_wait()
    }

    fn let_run(&self) {
        process::sleep_a_tick();
    }
}

impl Permits {
    /// Makes a set without permits.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                inner: tags::Permits::new(),
                line <- pin_init!(Line {
                    order <- new_spinlock!(tags::Order::new(), "azihsm_order"),
                    places <- pin_init::pin_init_array_from_fn(|_| Event::new()),
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// Adds `count` permits; nobody may be waiting.
    pub(crate) fn add(&self, count: i32) {
        self.inner.add(count);
    }

    /// Gives a permit back.
    pub(crate) fn give(&self) {
        self.inner.give(&self.line);
    }

    /// Returns a number that is another one after each [`Self::restore`].
    pub(crate) fn restored(&self) -> u32 {
        self.inner.restored()
    }

    /// Keeps the caller's permit, for which there was no tag after [`Self::restored`] was `seen`,
    /// from everybody until it is restored the next time.
    pub(crate) fn withhold(&self, seen: u32) {
        self.inner.withhold(seen, &self.line);
    }

    /// Gives back all permits that are withheld, now that there are tags for them.
    pub(crate) fn restore(&self) {
        self.inner.restore(&self.line);
    }

    /// Takes a permit, waiting for it as `sleep` does if there is none.
    ///
    /// # Errors
    ///
    /// What `sleep` says, unless that is [`Waited::Done`].
    pub(crate) fn take(&self, sleep: impl FnOnce(&Event) -> Waited) -> Result<(), Waited> {
        self.inner
            .take(&self.line, |place| sleep(self.line.place(place)))
    }
}

/// How long, and how, somebody is ready to wait.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// The longest time; none waits until it is over.
    pub(crate) timeout: Option<Delta>,
    /// Whether the wait ends when the task is killed.
    pub(crate) killable: bool,
}

impl Patience {
    /// Begins to wait.
    pub(crate) fn start(self) -> Wait {
        Wait {
            killable: self.killable,
            limit: self.timeout.map(|timeout| (Instant::now(), timeout)),
        }
    }
}

/// A wait that has begun.
pub(crate) struct Wait {
    killable: bool,
    limit: Option<(Instant<Monotonic>, Delta)>,
}

impl Wait {
    /// Returns whether the wait ends now because the task is being killed.
    pub(crate) fn is_killed(&self) -> bool {
        self.killable && process::is_killed()
    }

    /// Returns whether the time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.limit
            .is_some_and(|(since, timeout)| since.elapsed() >= timeout)
    }

    /// Waits for `event` until the time is over, give or take a second.
    pub(crate) fn for_event(&self, event: &Event) -> Waited {
        // In ticks: about a second.
        const SLICE: Jiffies = 256;

        // Without a limit there is nothing to look at meanwhile, and no timer is needed.
        let slice = self.limit.map_or(FOREVER, |_| SLICE);
        loop {
            match self.wait(event, slice) {
                Waited::TimedOut if !self.is_over() => {}
                waited => return waited,
            }
        }
    }

    /// Waits for `event` for `slice`, which may be longer than what is left of the time.
    pub(crate) fn wait(&self, event: &Event, slice: Jiffies) -> Waited {
        if self.killable {
            event.wait_killable(slice)
        } else {
            event.wait(slice)
        }
    }
}

#[kunit_tests(azihsm_patience)]
mod tests {
    use super::*;

    fn patience(timeout: Option<Delta>) -> Patience {
        Patience {
            timeout,
            killable: true,
        }
    }

    #[test]
    fn a_wait_is_over_after_its_time() {
        assert!(patience(Some(Delta::ZERO)).start().is_over());
        assert!(!patience(Some(Delta::from_secs(3600))).start().is_over());
        assert!(!patience(None).start().is_over());
    }

    #[test]
    fn who_waits_gets_the_signal_or_gives_up() -> Result {
        let permits = Permits::new()?;
        let wait = patience(Some(Delta::ZERO)).start();
        let event = permits.line.place(0);
        assert_eq!(wait.wait(event, 1), Waited::TimedOut);
        event.signal();
        assert_eq!(wait.for_event(event), Waited::Done);
        assert_eq!(wait.wait(event, 1), Waited::TimedOut);
        Ok(())
    }

    #[test]
    fn a_permit_is_handed_over() -> Result {
        let permits = Permits::new()?;
        permits.add(1);
        assert_eq!(permits.take(|_| Waited::Killed), Ok(()));
        assert_eq!(permits.take(|_| Waited::Killed), Err(Waited::Killed));
        // It comes while somebody waits.
        let result = permits.take(|called| {
            permits.give();
            called.wait(1)
        });
        assert_eq!(result, Ok(()));
        // It comes when somebody has given up waiting, who must have it then.
        let result = permits.take(|_| {
            permits.give();
            Waited::TimedOut
        });
        assert_eq!(result, Ok(()));
        assert_eq!(permits.take(|_| Waited::TimedOut), Err(Waited::TimedOut));
        permits.give();
        assert_eq!(permits.take(|_| Waited::TimedOut), Ok(()));
        Ok(())
    }
}
