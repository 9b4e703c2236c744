// SPDX-License-Identifier: GPL-2.0

//! The engines behind the registers: queues, commands and resets.
//!
//! A [`Model`] does nothing by itself.  [`Model::step`] does everything that is
//! due and tells when to call it again, so that a test with a
//! [`ManualClock`](crate::clock::ManualClock) sees the same thing every time.

use crate::bus::Bus;
use crate::card::Card;
use crate::clock::Clock;
use crate::clock::Micros;
use crate::counters::Counters;
use crate::dma::GuestMemory;
use crate::engine::Engine;
use crate::engine::Token;
use crate::front::Event;
use crate::front::Front;
use crate::inject::FaultId;
use crate::inject::Faults;
use crate::inject::Plan;
use crate::intr::Interrupts;
use crate::keys::Key;
use crate::keys::KeyStore;
use crate::options::Options;
use crate::queue::CompletionQueue;
use crate::queue::SubmissionQueue;
use crate::reset::Transition;
use crate::sessions::SessionTable;
use crate::strict::Recorder;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Entries of the log.
const LOG_ENTRIES: usize = 1024;

/// What a model is made of.
pub struct Parts {
    /// What the bus sees of the device.
    pub front: Arc<Front>,
    /// Records broken rules.
    pub strict: Arc<Recorder>,
    /// The guest's memory.
    pub memory: Arc<dyn GuestMemory>,
    /// The guest's interrupts.
    pub interrupts: Arc<dyn Interrupts>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What was chosen.
    pub options: Options,
    /// What it shares with other functions.
    pub card: Arc<Card>,
    /// Executes HSM and AES commands instead of the model.
    pub engine: Option<Box<dyn Engine>>,
    /// Where IVs come from.
    pub random: Random,
}

/// Fills an IV.
pub type Random = Box<dyn FnMut(&mut [u8; 12]) + Send>;

/// A command between being fetched and being finished.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// Tells commands apart, in the order they were fetched.
    pub(crate) serial: u64,
    pub(crate) queue: u16,
    pub(crate) cid: u16,
    pub(crate) sqe: Vec<u8>,
    pub(crate) plan: Plan,
    /// The keys of an AES command existed when it was started.
    pub(crate) keys_seen: bool,
}

/// Where a command is.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Fetched, but not in the engine yet.
    Fetched,
    /// In the engine until a moment.
    Running(Micros),
    /// In the external engine, which is given up at a moment.
    External(Token, Micros),
    /// A Delete SQ that waits for its queue, a moment and a fault.
    Draining {
        queue: u16,
        until: Micros,
        fault: Option<FaultId>,
    },
    /// Finished; the CQE waits for others or for a moment.
    Held {
        cqe: Vec<u8>,
        after: u32,
        until: Micros,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Inflight {
    pub(crate) command: Command,
    pub(crate) stage: Stage,
}

/// See the module.
pub struct Model {
    pub(crate) bus: Bus,
    pub(crate) clock: Arc<dyn Clock>,
    /// What was chosen.
    pub options: Options,
    /// Faults that are waiting for their time.
    pub faults: Faults,
    /// AES keys.
    pub keys: KeyStore,
    pub(crate) preloaded: Vec<Key>,
    pub(crate) sessions: SessionTable,
    pub(crate) card: Arc<Card>,
    /// Controller id and resource groups that it began with.
    pub(crate) born: (u16, u8),
    pub(crate) sqs: BTreeMap<u16, SubmissionQueue>,
    pub(crate) cqs: BTreeMap<u16, CompletionQueue>,
    pub(crate) inflight: Vec<Inflight>,
    pub(crate) transition: Transition,
    pub(crate) enable_event: bool,
    pub(crate) subsystem_reset_event: bool,
    /// The firmware lost the queues; the host does not know yet.
    pub(crate) queues_lost: bool,
    pub(crate) paused_until: Micros,
    pub(crate) engine: Option<Box<dyn Engine>>,
    pub(crate) random: Random,
    pub(crate) last_serial: u64,
    log: VecDeque<String>,
}

impl Model {
    /// The device after power-on.
    pub fn new(parts: Parts) -> Self {
        let born = (parts.options.controller, parts.options.groups);
        let mut model = Self {
            bus: Bus {
                front: parts.front,
                strict: parts.strict,
                memory: parts.memory,
                interrupts: parts.interrupts,
                counters: Counters::default(),
            },
            clock: parts.clock,
            options: parts.options,
            faults: Faults::default(),
            keys: KeyStore::default(),
            preloaded: Vec::new(),
            sessions: SessionTable::default(),
            card: parts.card,
            born,
            sqs: BTreeMap::new(),
            cqs: BTreeMap::new(),
            inflight: Vec::new(),
            transition: Transition::Idle,
            enable_event: false,
            subsystem_reset_event: false,
            queues_lost: false,
            paused_until: 0,
            engine: parts.engine,
            random: parts.random,
            last_serial: 0,
            log: VecDeque::new(),
        };
        model.power_on();
        model
    }

    /// Does everything that is due; tells when something else will be.
    pub fn step(&mut self) -> Option<Micros> {
        if self.bus.front.gone() {
            while self.bus.front.next_event().is_some() {}
            return None;
        }
        loop {
            let mut progress = false;
            while let Some(event) = self.bus.front.next_event() {
                let of_registers = matches!(event, Event::Enable | Event::SubsystemReset);
                self.handle(event);
                // All register events that there are count as one.
                if !of_registers {
                    self.settle();
                }
                progress = true;
            }
            progress |= self.settle();
            if !progress {
                break;
            }
        }
        self.next_deadline()
    }

    /// Lets the engines work until there is nothing to do at this moment.
    fn settle(&mut self) -> bool {
        let mut any = false;
        loop {
            let mut progress = self.advance_transition();
            progress |= self.take_replies();
            progress |= self.fetch_all();
            progress |= self.start_aes();
            progress |= self.run_due();
            progress |= self.finish_drains();
            progress |= self.release_held();
            if !progress {
                return any;
            }
            any = true;
        }
    }

    fn next_deadline(&self) -> Option<Micros> {
        let commands = self.inflight.iter().filter_map(|item| match item.stage {
            Stage::Fetched => None,
            Stage::Running(at) | Stage::External(_, at) => Some(at),
            Stage::Draining { until, .. } | Stage::Held { until, .. } => Some(until),
        });
        let now = self.clock.now();
        commands
            .chain(self.transition.deadline())
            .chain((self.paused_until > now).then_some(self.paused_until))
            .filter(|at| *at > now)
            .min()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Enable => self.enable_event = true,
            Event::SubsystemReset => self.subsystem_reset_event = true,
            Event::FunctionReset => self.function_reset(),
            Event::BusReset => self.bus_reset(),
            Event::Wiped => self.wipe(),
            Event::Doorbell {
                queue,
                completion,
                value,
            } => self.doorbell(queue, completion, value),
        }
    }

    /// Notes something for the `log` command.
    pub(crate) fn trace(&mut self, line: String) {
        log::debug!("{line}");
        if self.log.len() == LOG_ENTRIES {
            self.log.pop_front();
        }
        self.log.push_back(format!("{}: {line}", self.clock.now()));
    }

    /// The last lines that were noted, oldest first.
    pub fn log(&self, lines: usize) -> Vec<String> {
        let skip = self.log.len().saturating_sub(lines);
        self.log.iter().skip(skip).cloned().collect()
    }

    /// The counters, for a report.
    pub fn counters(&self) -> serde_json::Value {
        self.bus
            .counters
            .to_json(self.bus.front.counters(), |queue| {
                self.sqs.get(&queue).map_or(0, SubmissionQueue::outstanding)
            })
    }

    /// Sets the counters to zero.
    pub fn reset_counters(&mut self) {
        self.bus.counters = Counters::default();
        self.bus.front.reset_counters();
    }

    /// Counts that the client went away, with the function enabled or not.
    pub(crate) fn count_disconnect(&mut self, enabled: bool) {
        self.bus.counters.disconnects += 1;
        self.bus.counters.left_enabled += u64::from(enabled);
    }

    /// Number of resource groups of the function.
    pub(crate) fn group_count(&self) -> u8 {
        self.card.count(self.options.controller)
    }
}
