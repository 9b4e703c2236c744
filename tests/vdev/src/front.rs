// SPDX-License-Identifier: GPL-2.0

//! The side of the device that the bus sees: configuration space, registers
//! and doorbells.
//!
//! Accesses are answered at once and never wait for the engines.  What an
//! access sets off is put into a list of [`Event`]s, in order, for whoever
//! runs the engines.  See Documentation/device.rst, sections 1, 2 and 3.2.

use crate::bytes::get_u32;
use crate::bytes::get_u64;
use crate::clock::Clock;
use crate::clock::Micros;
use crate::config_space::ConfigSpace;
use crate::config_space::Effect;
use crate::registers::Registers;
use crate::registers::WriteEffect;
use crate::strict::Recorder;
use crate::strict::Rule;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

/// Something the guest did that the engines have to react to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// CC.EN changed.
    Enable,
    /// NSSR was written with its signature.
    SubsystemReset,
    /// A doorbell was rung.
    Doorbell {
        /// The queue.
        queue: u16,
        /// Whether it is that of the CQ.
        completion: bool,
        /// What was written.
        value: u32,
    },
    /// A function level reset was started.
    FunctionReset,
    /// The bus was reset, or a new client connected.
    BusReset,
    /// The physical function took all resource groups away.
    Wiped,
}

/// How often the guest accessed BARs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessCounters {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Doorbells of SQs.
    pub sq_doorbells: u64,
    /// Doorbells of CQs.
    pub cq_doorbells: u64,
}

struct State {
    config: ConfigSpace,
    registers: Registers,
    events: VecDeque<Event>,
    kicked: bool,
    counters: AccessCounters,
    gone: bool,
    /// The bus does not reach the device, which works on.
    unreachable: bool,
    /// How many reads of registers the bus does not answer.
    lost_reads: u32,
    /// Until when who reads the vendor identifier is asked to try again, and nothing
    /// else is answered.
    retry: Option<Micros>,
    /// What was written to the command register meanwhile.  QEMU keeps a copy of
    /// it, which interrupts depend on, and the two must be the same again.
    unreached: Vec<(u64, Vec<u8>)>,
    /// The host turned bus mastering off meanwhile, as it could do nothing else.
    cut_off: bool,
    /// The host asked the function to stop and has not enabled it since.
    stopped_by_host: bool,
    /// RDY was set since the host enabled the function.
    was_ready: bool,
    /// The value of RDY the host has to wait for, and since when.
    awaited: Option<(bool, Micros)>,
}

impl State {
    /// Whether accesses have no effect, and reads see ones.
    fn is_silent(&self) -> bool {
        self.gone || self.unreachable || self.retry.is_some()
    }

    /// Takes in what was written to the command register while nothing was answered.
    fn catch_up(&mut self) {
        for (offset, data) in std::mem::take(&mut self.unreached) {
            self.config.write(offset, &data);
            self.cut_off = !self.config.bus_master();
        }
    }

    /// Whether BARs answer.
    fn has_memory(&self) -> bool {
        !self.is_silent() && self.config.memory()
    }
}

/// Where configuration space has the vendor identifier.
const VENDOR: u64 = 0;

/// The identifier that a root port makes of a request to retry.
const RETRY: [u8; 2] = [1, 0];

/// Where configuration space has the command register.
const COMMAND: u64 = 4;

/// Events beyond this number are lost.
const MAX_EVENTS: usize = 1 << 20;

/// See the module.
pub struct Front {
    clock: Arc<dyn Clock>,
    strict: Arc<Recorder>,
    state: Mutex<State>,
    wake: Condvar,
}

impl Front {
    /// The device after power-on, with this many MSI-X vectors.
    pub fn new(clock: Arc<dyn Clock>, strict: Arc<Recorder>, vectors: u16) -> Self {
        Self {
            clock,
            strict,
            state: Mutex::new(State {
                config: ConfigSpace::new(vectors),
                registers: Registers::default(),
                events: VecDeque::new(),
                kicked: false,
                counters: AccessCounters::default(),
                gone: false,
                unreachable: false,
                lost_reads: 0,
                retry: None,
                unreached: Vec::new(),
                cut_off: false,
                stopped_by_host: true,
                was_ready: false,
                awaited: None,
            }),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, as it is by now.
    fn lock_now(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.retry.is_some_and(|until| self.clock.now() >= until) {
            state.retry = None;
            state.catch_up();
        }
        state
    }

    fn push(&self, state: &mut State, event: Event) {
        if state.events.len() < MAX_EVENTS {
            state.events.push_back(event);
        }
        state.kicked = true;
        self.wake.notify_all();
    }

    /// The guest reads configuration space.
    pub fn config_read(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock_now();
        if !state.is_silent() {
            state.config.read(offset, data);
            return;
        }
        data.fill(0xff);
        if state.retry.is_some() && offset == VENDOR && data.len() >= RETRY.len() {
            data[..RETRY.len()].copy_from_slice(&RETRY);
        }
    }

    /// The guest writes configuration space.
    pub fn config_write(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock_now();
        if state.is_silent() {
            if (COMMAND..COMMAND + 2).contains(&offset) {
                state.unreached.push((offset, data.to_vec()));
            }
            return;
        }
        let effect = state.config.write(offset, data);
        state.cut_off &= !state.config.bus_master();
        if effect == Effect::FunctionReset {
            // Bus mastering ends with the reset, not when it is handled.
            state.config.reset();
            state.stopped_by_host = true;
            state.awaited = None;
            self.push(&mut state, Event::FunctionReset);
        }
    }

    /// The guest reads a BAR.
    pub fn bar_read(&self, bar: u32, offset: u64, data: &mut [u8]) {
        let mut state = self.lock_now();
        if bar == 4 {
            data.fill(if state.has_memory() { 0 } else { 0xff });
            return;
        }
        state.counters.reads += 1;
        if !state.has_memory() {
            data.fill(0xff);
            return;
        }
        if bar == 0 && state.lost_reads > 0 {
            state.lost_reads -= 1;
            data.fill(0xff);
            return;
        }
        data.fill(0);
        match bar {
            0 => state.registers.read(offset, data, &self.strict),
            2 => self
                .strict
                .record(Rule::DoorbellRead, format!("offset {offset:#x}")),
            _ => {}
        }
    }

    /// The guest writes a BAR.
    pub fn bar_write(&self, bar: u32, offset: u64, data: &[u8]) {
        let mut state = self.lock_now();
        if bar == 4 {
            return;
        }
        state.counters.writes += 1;
        if !state.has_memory() {
            return;
        }
        match bar {
            0 => self.register_write(&mut state, offset, data),
            2 => self.doorbell_write(&mut state, offset, data),
            _ => {}
        }
    }

    fn register_write(&self, state: &mut State, offset: u64, data: &[u8]) {
        let value = match data.len() {
            4 => u64::from(get_u32(data, 0)),
            8 => get_u64(data, 0),
            _ => {
                self.strict.record(
                    Rule::MmioBadAccess,
                    format!("write of {} bytes at {offset:#x}", data.len()),
                );
                return;
            }
        };
        match state
            .registers
            .write(offset, data.len(), value, &self.strict)
        {
            WriteEffect::None => {}
            WriteEffect::Disabled => state.stopped_by_host = true,
            WriteEffect::Enable(enable) => {
                let now = self.clock.now();
                let timeout = state.registers.ready_timeout();
                if let Some((wanted, since)) = state.awaited {
                    if now.saturating_sub(since) < timeout {
                        self.strict.record(
                            Rule::EnableNotAwaited,
                            format!(
                                "EN set to {} while RDY was to become {}",
                                u8::from(enable),
                                u8::from(wanted)
                            ),
                        );
                    }
                }
                state.stopped_by_host = !enable;
                state.was_ready = false;
                state.awaited = (state.registers.ready() != enable).then_some((enable, now));
                self.push(state, Event::Enable);
            }
            WriteEffect::SubsystemReset => {
                state.stopped_by_host = true;
                if state.registers.ready() {
                    state.awaited = Some((false, self.clock.now()));
                }
                self.push(state, Event::SubsystemReset);
            }
        }
    }

    fn doorbell_write(&self, state: &mut State, offset: u64, data: &[u8]) {
        let Ok(queue) = u16::try_from(offset / 8) else {
            return;
        };
        if data.len() != 4 || offset % 4 != 0 {
            self.strict.record(
                Rule::MmioBadAccess,
                format!("doorbell write of {} bytes at {offset:#x}", data.len()),
            );
            return;
        }
        let completion = offset % 8 == 4;
        if completion {
            state.counters.cq_doorbells += 1;
        } else {
            state.counters.sq_doorbells += 1;
        }
        let name = if completion { "CQ" } else { "SQ" };
        if state.stopped_by_host {
            self.strict
                .record(Rule::DoorbellWhileDisabled, format!("{name} {queue}"));
        } else if !state.registers.ready() && !state.was_ready {
            self.strict
                .record(Rule::DoorbellBeforeReady, format!("{name} {queue}"));
        }
        let value = get_u32(data, 0);
        self.push(
            state,
            Event::Doorbell {
                queue,
                completion,
                value,
            },
        );
    }

    /// The bus is reset: everything the bus sees goes back to power-on.
    pub fn bus_reset(&self) {
        let mut state = self.lock();
        state.config.reset();
        state.unreached.clear();
        state.retry = None;
        state.cut_off = false;
        state.registers.reset();
        state.stopped_by_host = true;
        state.was_ready = false;
        state.awaited = None;
        state.events.clear();
        self.push(&mut state, Event::BusReset);
    }

    /// Takes the oldest event.
    pub fn next_event(&self) -> Option<Event> {
        self.lock().events.pop_front()
    }

    /// Wakes whoever waits for events.
    pub fn kick(&self) {
        self.lock().kicked = true;
        self.wake.notify_all();
    }

    /// Waits for an event, a kick, or a moment.
    pub fn wait(&self, until: Option<Micros>) {
        let mut state = self.lock();
        while !state.kicked {
            let Some(until) = until else {
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = self.clock.now();
            if now >= until {
                break;
            }
            state = self
                .wake
                .wait_timeout(state, Duration::from_micros(until - now))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.kicked = false;
    }

    /// A copy of the registers.
    pub fn registers(&self) -> Registers {
        self.lock().registers.clone()
    }

    /// Lets the device's side change registers that are not CC.EN or CSTS.
    pub fn change_registers(&self, change: impl FnOnce(&mut Registers)) {
        change(&mut self.lock().registers);
    }

    /// The firmware sets or clears RDY, which clears CFS.
    pub fn set_ready(&self, ready: bool) {
        let mut state = self.lock();
        state.registers.set_ready(ready);
        state.was_ready |= ready;
        if state.awaited.is_some_and(|(wanted, _)| wanted == ready) {
            state.awaited = None;
        }
    }

    /// The firmware sets CFS.
    pub fn set_fatal(&self) {
        self.lock().registers.set_fatal();
    }

    /// The firmware changes CC.EN.
    pub fn set_enable(&self, enable: bool) {
        let mut state = self.lock();
        if state.registers.enabled() != enable {
            state.registers.set_enabled(enable);
            state.awaited = None;
            self.push(&mut state, Event::Enable);
        }
    }

    /// What the function keeps across resets is lost.
    pub fn wipe(&self) {
        let mut state = self.lock();
        self.push(&mut state, Event::Wiped);
    }

    /// The subsystem identifier.
    pub fn subsystem(&self) -> u16 {
        self.lock().config.subsystem()
    }

    /// Changes the subsystem identifier.
    pub fn set_subsystem(&self, id: u16) {
        self.lock().config.set_subsystem(id);
    }

    /// Puts the registers back to power-on.
    pub fn reset_registers(&self) {
        let mut state = self.lock();
        state.registers.reset();
        state.awaited = None;
        state.retry = None;
    }

    /// Whether the function may use DMA and send interrupts.
    pub fn bus_master(&self) -> bool {
        self.lock().config.bus_master()
    }

    /// Number of MSI-X vectors.
    pub fn vectors(&self) -> u16 {
        self.lock().config.vectors()
    }

    /// Whether the host asked the function to stop and did not enable it since.
    pub fn stopped_by_host(&self) -> bool {
        self.lock().stopped_by_host
    }

    /// Whether the host has cut the device off from memory, in one way or another.
    pub fn cut_off(&self) -> bool {
        let state = self.lock();
        state.stopped_by_host || state.cut_off
    }

    /// Whether the device has disappeared from the bus.
    pub fn gone(&self) -> bool {
        self.lock().gone
    }

    /// Lets the device disappear from the bus, or come back.
    pub fn set_gone(&self, gone: bool) {
        self.lock().gone = gone;
    }

    /// Lets the bus not answer the next `count` reads of registers.
    pub fn lose_reads(&self, count: u32) {
        self.lock().lost_reads = count;
    }

    /// Lets who looks for the function be asked to try again for so long.
    pub fn ask_to_retry(&self, micros: Micros) {
        let until = self.clock.now().saturating_add(micros);
        self.lock().retry = Some(until);
    }

    /// Lets the bus not reach the device, or reach it again.
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut state = self.lock();
        state.unreachable = unreachable;
        state.catch_up();
    }

    /// Whether accesses have no effect, and reads see ones.
    pub fn silent(&self) -> bool {
        self.lock().is_silent()
    }

    /// How often the guest accessed BARs.
    pub fn counters(&self) -> AccessCounters {
        self.lock().counters
    }

    /// Sets the counters to zero.
    pub fn reset_counters(&self) {
        self.lock().counters = AccessCounters::default();
    }
}
