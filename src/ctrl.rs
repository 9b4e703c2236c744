// SPDX-License-Identifier: GPL-2.0

//! The controller: everything that one bound function has.
//!
//! Documentation/device.rst 2.8 (start and stop), 3.8 (interrupt vectors).

use kernel::{
    device::{
        Bound,
        Device, //
    },
    irq::IrqReturn,
    new_mutex,
    pci,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full, //
        },
        Arc,
        Mutex, //
    },
    time::Delta,
    types::ForLt, //
};

use crate::{
    admin,
    admin::{
        Admin,
        Identify, //
    },
    aes::Aes,
    hsm,
    hsm::Hsm,
    orphans::Orphans,
    params,
    queue::{
        Class,
        Lost,
        Notify,
        Pool, //
    },
    regs::{
        Doorbells,
        QueueId,
        Registers,
        Stop, //
    },
    sys,
    sys::{
        completion::{
            Event,
            Waited,
            FOREVER, //
        },
        live::Interrupts,
        pci::{
            Enabled,
            Probing, //
        },
        process,
    },
    tags::Patience,
    uapi, //
};

/// The family of controllers, for [`crate::sys::gate::Gate`].
pub(crate) type CtrlFamily = ForLt!(Ctrl<'_>);

/// MSI-X vectors of the HSM queues: 1 to 15.
const FIRST_HSM_VECTOR: u16 = 1;
/// MSI-X vectors of the AES queues: 16 to 31.
const FIRST_AES_VECTOR: u16 = 16;
/// Vectors that the device can use.
const MAX_VECTORS: u16 = 32;

/// How long to wait for another reset to end.
const RESET_TIMEOUT: Delta = Delta::from_secs(60);

/// How long a flush may take when all sessions are flushed: binding, and unbinding from a device
/// that does not answer, are not to take long.
const FLUSH_ALL_TIMEOUT: Delta = Delta::from_secs(1);

/// Names of the vectors, in `/proc/interrupts`.
const VECTOR_NAMES: [&CStr; MAX_VECTORS as usize] = [
    c"azihsm-admin",
    c"azihsm-hsm1",
    c"azihsm-hsm2",
    c"azihsm-hsm3",
    c"azihsm-hsm4",
    c"azihsm-hsm5",
    c"azihsm-hsm6",
    c"azihsm-hsm7",
    c"azihsm-hsm8",
    c"azihsm-hsm9",
    c"azihsm-hsm10",
    c"azihsm-hsm11",
    c"azihsm-hsm12",
    c"azihsm-hsm13",
    c"azihsm-hsm14",
    c"azihsm-hsm15",
    c"azihsm-aes16",
    c"azihsm-aes17",
    c"azihsm-aes18",
    c"azihsm-aes19",
    c"azihsm-aes20",
    c"azihsm-aes21",
    c"azihsm-aes22",
    c"azihsm-aes23",
    c"azihsm-aes24",
    c"azihsm-aes25",
    c"azihsm-aes26",
    c"azihsm-aes27",
    c"azihsm-aes28",
    c"azihsm-aes29",
    c"azihsm-aes30",
    c"azihsm-aes31",
];

/// See the [module](self).
///
/// Dropping it stops the device before any memory that the device knows of is freed.
pub(crate) struct Ctrl<'bound> {
    admin: Pool<Admin>,
    hsm: Pool<Hsm>,
    aes: Pool<Aes>,
    // After the queues, which add to them.
    orphans: StopOnDrop,
    vectors: pci::IrqVectorRegistration<'bound>,
    doorbells: Doorbells<'bound>,
    registers: Registers<'bound>,
    timeout: Delta,
    info: Pin<KBox<Mutex<uapi::DevInfo>>>,
    gcm_unaligned: bool,
    condition: Atomic<u32>,
    // Has a signal while nobody changes the condition.
    recovery: Pin<KBox<Event>>,
    // How many commands that open a session are under way.
    opens: Atomic<u32>,
    // How often the device was reset.
    resets: Atomic<u32>,
    // Has a signal while nobody flushes sessions.
    flushing: Pin<KBox<Event>>,
    // Held while orphaned commands are released: a reset has to wait for that to end.
    releasing: Pin<KBox<Mutex<()>>>,
    // Last: the function stays enabled until all that uses it is gone.
    enabled: Enabled<'bound>,
}

impl<'bound> Ctrl<'bound> {
    /// Starts the controller of `dev`, as far as identifying it and allocating its queues.
    ///
    /// # Errors
    ///
    /// `ENODEV` if it is not such a device or is gone, `ETIMEDOUT` if it does not start, `EIO` if
    /// it has a fault or answers with nonsense, `ENOMEM`, `EBUSY`.
    pub(crate) fn new(dev: &'bound Probing<'_>, orphans: Arc<Orphans>) -> Result<Self> {
        let enabled = Enabled::new(dev)?;
        let dev = enabled.dev();
        let registers = Registers::new(dev)?;
        let doorbells = Doorbells::new(dev)?;
        let vectors = dev
            .alloc_irq_vectors(
                1,
                u32::from(MAX_VECTORS),
                pci::IrqTypes::default().with(pci::IrqType::MsiX),
            )
            .inspect_err(|_| dev_err!(dev, "no MSI-X vectors\n"))?;

        // From here on the destructor stops the controller if a step fails.
        let mut this = Self {
            admin: Pool::new()?,
            hsm: Pool::new()?,
            aes: Pool::new()?,
            orphans: StopOnDrop(orphans),
            vectors,
            doorbells,
            registers,
            timeout: params::command_timeout(),
            info: KBox::pin_init(
                new_mutex!(uapi::DevInfo::default(), "azihsm_info"),
                GFP_KERNEL,
            )?,
            gcm_unaligned: false,
            // CAST: The discriminants are those of the word.
            condition: Atomic::new(Condition::Running as u32),
            recovery: KBox::pin_init(Event::new(), GFP_KERNEL)?,
            opens: Atomic::new(0),
            resets: Atomic::new(0),
            flushing: KBox::pin_init(Event::new(), GFP_KERNEL)?,
            releasing: KBox::pin_init(new_mutex!((), "azihsm_releasing"), GFP_KERNEL)?,
            enabled,
        };
        this.recovery.signal();
        this.flushing.signal();
        this.admin.add(
            dev.as_ref(),
            QueueId::ADMIN,
            admin::ENTRIES,
            // Looked at on each tick as well: the first commands come before the handlers.
            Notify::Poll,
            this.orphans.0.clone(),
        )?;
        this.enable()?;
        let found = this.identify()?;
        this.gcm_unaligned = found.gcm_unaligned;
        *this.info.lock() = found.info;
        this.allocate(&found)?;
        Ok(this)
    }

    fn dev(&self) -> &'bound pci::Device<Bound> {
        self.enabled.dev()
    }

    /// Returns the device.
    pub(crate) fn device(&self) -> &Device<Bound> {
        self.dev().as_ref()
    }

    /// Returns the sessions that nobody has any more.
    pub(crate) fn orphans(&self) -> &Arc<Orphans> {
        &self.orphans.0
    }

    /// Brings the controller from whatever state it is in to ready.
    fn enable(&self) -> Result {
        let dev = self.dev();
        let [queue] = self.admin.queues() else {
            return Err(EINVAL);
        };

        // Whoever had the device before may have left it running. It must not get at memory
        // again, with what it knows of that, before it has stopped.
        self.registers
            .stop(Stop::Disable)
            .and_then(|()| {
                self.enabled.set_master();
                self.registers
                    .enable(queue.sq_address(), queue.cq_address(), queue.size())
            })
            .inspect_err(|error| match *error {
                ENODEV => dev_err!(dev, "device does not answer\n"),
                EIO => dev_err!(dev, "controller has a fault\n"),
                _ => dev_err!(dev, "controller does not become ready\n"),
            })
    }

    fn sender(&self) -> admin::Sender<'_> {
        admin::Sender {
            pool: &self.admin,
            doorbells: &self.doorbells,
            patience: Patience {
                timeout: admin::TIMEOUT,
                killable: false,
            },
        }
    }

    /// Asks the controller what it is and has.
    fn identify(&self) -> Result<Found> {
        let dev = self.dev();
        let sender = self.sender();

        let identify = sender
            .identify()
            .inspect_err(|failure| dev_err!(dev, "cannot identify the device: {failure}\n"))?;
        let hsm_queues = sender.hsm_queues(QueueId::MAX_HSM).inspect_err(|failure| {
            if failure.is_no_groups() {
                dev_err!(dev, "function owns no resource groups\n");
            } else {
                dev_err!(dev, "cannot count the HSM queues: {failure}\n");
            }
        })?;
        let aes_queues = sender
            .aes_queues(QueueId::MAX_AES)
            .inspect_err(|failure| dev_err!(dev, "cannot count the AES queues: {failure}\n"))?;
        let gcm_unaligned = sender
            .gcm_unaligned()
            .inspect_err(|failure| dev_err!(dev, "cannot read the features: {failure}\n"))?;

        Ok(Found {
            info: device_info(dev, &identify),
            hsm_queues,
            aes_queues,
            gcm_unaligned,
        })
    }

    /// Allocates the HSM and AES queues.
    fn allocate(&mut self, found: &Found) -> Result {
        let dev = self.dev();
        let max_entries = self.registers.capabilities()?.mqes().get() + 1;
        let vectors = u16::try_from(self.vectors.len())?.min(MAX_VECTORS);
        let hsm_vectors = vectors
            .min(FIRST_AES_VECTOR)
            .saturating_sub(FIRST_HSM_VECTOR);
        let aes_vectors = vectors.saturating_sub(FIRST_AES_VECTOR);

        for index in 0..found.hsm_queues {
            self.hsm.add(
                dev.as_ref(),
                QueueId::hsm(index)?,
                params::hsm_entries(max_entries),
                notify(FIRST_HSM_VECTOR, hsm_vectors, index),
                self.orphans().clone(),
            )?;
        }
        for index in 0..found.aes_queues {
            self.aes.add(
                dev.as_ref(),
                QueueId::aes(index)?,
                params::aes_entries(max_entries),
                notify(FIRST_AES_VECTOR, aes_vectors, index),
                self.orphans().clone(),
            )?;
        }
        Ok(())
    }

    /// Makes the device use the queues, and forget the sessions that it may have kept from before:
    /// whoever had them cannot use them any more. To be called when the interrupt handlers are
    /// registered.
    ///
    /// # Errors
    ///
    /// `EIO` if the device refuses, `ETIMEDOUT`.
    pub(crate) fn start(&self) -> Result {
        self.create_queues()?;
        self.flush_unowned();
        Ok(())
    }

    /// Makes the device use the queues.
    fn create_queues(&self) -> Result {
        fn create<C: Class>(ctrl: &Ctrl<'_>, pool: &Pool<C>) -> Result {
            for queue in pool.queues() {
                ctrl.check_not_gone()?;
                ctrl.sender().create(queue).inspect_err(|failure| {
                    let id = queue.id().get();
                    dev_err!(ctrl.dev(), "cannot create queue {id}: {failure}\n");
                })?;
            }
            Ok(())
        }
        create(self, &self.hsm)?;
        create(self, &self.aes)
    }

    /// Turns users away for good, and flushes the sessions of those who had one.
    pub(crate) fn retire(&self) {
        self.set_condition(Condition::Gone);
        if self.wait_for_opens() {
            // Nobody can get a number that is free now.
            self.flush_each(|_| true);
        }
    }

    /// Stops the device for good and ends what is under way, without a result. May be called more
    /// than once.
    pub(crate) fn stop(&self) {
        self.set_condition(Condition::Gone);
        // Whoever recovers the device ends soon: nothing takes longer than starting it.
        while self.recovery.wait(FOREVER) != Waited::Done {}
        // Either way it is done with all memory.
        let _ = self.shut(Stop::Disable);
        self.recovery.signal();
    }

    /// Halts all queues, stops the device, and ends what is under way. Whether it stopped
    /// or had to be cut off from memory, it is done with all memory then.
    ///
    /// # Errors
    ///
    /// Those of [`Registers::stop`].
    fn shut(&self, how: Stop) -> Result {
        fn halt<C: Class>(ctrl: &Ctrl<'_>, pool: &Pool<C>) {
            for queue in pool.queues() {
                queue.halt(&ctrl.doorbells);
            }
        }
        fn release<C: Class>(ctrl: &Ctrl<'_>, pool: &Pool<C>) {
            for queue in pool.queues() {
                queue.release(&ctrl.doorbells);
                if let stray @ 1.. = queue.take_stray() {
                    let id = queue.id().get();
                    dev_warn!(
                        ctrl.dev(),
                        "queue {id}: {stray} completions of no command\n"
                    );
                }
            }
        }
        halt(self, &self.hsm);
        halt(self, &self.aes);
        halt(self, &self.admin);

        let stopped = self.registers.stop(how).inspect_err(|error| {
            // One that is gone needs no mention, but may come back.
            if *error != ENODEV {
                let dev = self.dev();
                dev_err!(
                    dev,
                    "controller does not stop, cutting it off from memory\n"
                );
            }
            self.enabled.clear_master();
        });

        release(self, &self.hsm);
        release(self, &self.aes);
        release(self, &self.admin);
        self.release_orphans();
        stopped
    }

    /// Resets the device and starts it again. Everything under way ends; sessions are
    /// kept, but must be renegotiated (device.rst 5.7).
    ///
    /// # Errors
    ///
    /// See [`ResetFailure`].
    pub(crate) fn reset(&self, how: Stop) -> Result<(), ResetFailure> {
        let wait = Patience {
            timeout: RESET_TIMEOUT,
            killable: true,
        }
        .start();
        match wait.for_event(&self.recovery) {
            Waited::Done => {}
            Waited::TimedOut => return Err(ResetFailure::Busy),
            Waited::Killed => return Err(ResetFailure::Killed),
        }
        let result = match self.condition() {
            Condition::Running => {
                self.change_condition(Condition::Running, Condition::Recovering);
                let result = self.shut(how).and_then(|()| self.restart());
                let condition = match result {
                    Ok(()) => Condition::Running,
                    Err(_) => {
                        // It may have started in part.
                        let _ = self.shut(Stop::Disable);
                        Condition::Dead
                    }
                };
                self.change_condition(Condition::Recovering, condition);
                result.map_err(|_| ResetFailure::Failed)
            }
            _ => Err(ResetFailure::BadState),
        };
        self.recovery.signal();
        result
    }

    /// Starts a device that has been shut.
    fn restart(&self) -> Result {
        fn restart<C: Class>(ctrl: &Ctrl<'_>, pool: &Pool<C>) {
            for queue in pool.queues() {
                queue.restart(&ctrl.doorbells);
            }
        }
        restart(self, &self.admin);
        self.enable()?;
        self.check_not_gone()?;
        let found = self.identify()?;
        if usize::from(found.hsm_queues) < self.hsm.queues().len()
            || usize::from(found.aes_queues) < self.aes.queues().len()
        {
            let dev = self.dev();
            dev_err!(dev, "function has lost queues\n");
            return Err(EIO);
        }
        self.create_queues()?;
        restart(self, &self.hsm);
        restart(self, &self.aes);
        *self.info.lock() = found.info;

        // A command that was ended may have opened a session, or may not have closed one.
        if self.wait_for_opens() {
            self.flush_unowned();
        }
        Ok(())
    }

    /// Fails if the driver is being unbound, which need not wait for what takes long.
    fn check_not_gone(&self) -> Result {
        match self.condition() {
            Condition::Gone => Err(ENODEV),
            _ => Ok(()),
        }
    }

    /// Lets a command that opens a session begin. Whoever gets `Ok` must call [`Self::end_open`].
    ///
    /// # Errors
    ///
    /// The condition, if it is not [`Condition::Running`].
    pub(crate) fn begin_open(&self) -> Result<(), Condition> {
        // Fully ordered against the condition, as are the two accesses of whoever changes that and
        // then waits: either this sees the change or it is waited for.
        self.opens.fetch_add(1, Full);
        match self.condition() {
            Condition::Running => Ok(()),
            condition => {
                self.end_open();
                Err(condition)
            }
        }
    }

    /// Notes that a command that opens a session has ended, and that its descriptor knows.
    pub(crate) fn end_open(&self) {
        self.opens.fetch_sub(1, Full);
    }

    /// Waits, for a second, until no command that opens a session is under way. To be called when
    /// no more can begin.
    fn wait_for_opens(&self) -> bool {
        let wait = Patience {
            timeout: FLUSH_ALL_TIMEOUT,
            killable: false,
        }
        .start();
        loop {
            if self.opens.fetch_add(0, Full) == 0 {
                return true;
            }
            if wait.is_over() {
                return false;
            }
            process::sleep_a_tick();
        }
    }

    /// Returns in which condition the controller is.
    pub(crate) fn condition(&self) -> Condition {
        Condition::from(self.condition.load(Acquire))
    }

    fn set_condition(&self, to: Condition) {
        // CAST: The discriminants are those of the word.
        self.condition.xchg(to as u32, Full);
    }

    /// Changes the condition, unless it is for good.
    fn change_condition(&self, from: Condition, to: Condition) {
        // It fails if the controller is `Gone` meanwhile, which it then stays.
        // CAST: The discriminants are those of the word.
        let _ = self.condition.cmpxchg(from as u32, to as u32, Full);
    }

    /// Releases what commands had that nobody waits for any more. Returns whether to call this
    /// again soon.
    pub(crate) fn release_orphans(&self) -> bool {
        fn release<C: Class>(ctrl: &Ctrl<'_>, pool: &Pool<C>) -> bool {
            let mut again = false;
            for queue in pool.queues() {
                again |= queue.release_orphans(&ctrl.doorbells);
            }
            again
        }
        let _releasing = self.releasing.lock();
        let hsm = release(self, &self.hsm);
        let aes = release(self, &self.aes);
        release(self, &self.admin) || hsm || aes
    }

    /// Returns how long a command of a user may take.
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            timeout: self.timeout,
            killable: true,
        }
    }

    /// Returns the HSM queues.
    pub(crate) fn hsm(&self) -> &Pool<Hsm> {
        &self.hsm
    }

    /// Returns the AES queues.
    pub(crate) fn aes(&self) -> &Pool<Aes> {
        &self.aes
    }

    /// Returns the doorbells.
    pub(crate) fn doorbells(&self) -> &Doorbells<'_> {
        &self.doorbells
    }

    /// Returns the device info, but for the fields that belong to the caller.
    pub(crate) fn info(&self) -> uapi::DevInfo {
        *self.info.lock()
    }

    /// Returns whether AES-GCM takes text that is not a multiple of 16 bytes.
    pub(crate) fn gcm_unaligned(&self) -> bool {
        self.gcm_unaligned
    }

    /// Returns how often the device was reset.
    pub(crate) fn resets(&self) -> u32 {
        self.resets.load(Acquire)
    }

    /// Flushes the session `id`, which nobody uses any more, unless the device was reset since
    /// `resets` was read: the session was flushed then, and may be somebody else's now. If it
    /// cannot be flushed now this is tried again later.
    pub(crate) fn flush(&self, id: u16, resets: u32, patience: Patience) {
        let locked = self.lock_flushing(patience);
        if self.resets() == resets {
            if locked {
                let _ = self.flush_locked(id, patience);
            } else {
                self.orphans().keep(id);
            }
        }
        if locked {
            self.flushing.signal();
        }
    }

    /// Flushes the sessions that nobody has any more. Before somebody opens another, the device
    /// may have no room for one until this is done.
    pub(crate) fn flush_orphans(&self, patience: Patience) {
        if self.orphans().is_empty() || !self.lock_flushing(patience) {
            return;
        }
        let mut ids = self.orphans().take();
        for id in ids.by_ref() {
            if self.flush_locked(id, patience).is_err() {
                break;
            }
        }
        for id in ids {
            self.orphans().keep(id);
        }
        self.flushing.signal();
    }

    /// Waits until nobody flushes sessions, and keeps others from doing so until
    /// `self.flushing.signal()`.
    fn lock_flushing(&self, patience: Patience) -> bool {
        patience.start().for_event(&self.flushing) == Waited::Done
    }

    /// Flushes the session `id`, by whoever has locked flushing.
    ///
    /// # Errors
    ///
    /// See [`Lost`]. A flush that was not sent is tried again later; one that was is not, as the
    /// number may be somebody else's by then.
    fn flush_locked(&self, id: u16, patience: Patience) -> Result<(), Lost> {
        let flushed = self
            .hsm
            .take(&self.doorbells, patience)
            .and_then(|owned| hsm::Command::new(owned).flush(id, patience));
        match flushed {
            Ok(completion) => {
                if let Some(id) = completion.report.left_open(completion.status) {
                    self.orphans().keep(id);
                }
                Ok(())
            }
            Err(lost) => {
                if !lost.was_sent() {
                    self.orphans().keep(id);
                }
                Err(lost)
            }
        }
    }

    /// Flushes all sessions but those that descriptors have. Nobody may be opening one.
    fn flush_unowned(&self) {
        self.flush_each(|id| !self.orphans().is_owned(id));
    }

    /// Flushes all sessions that `which` says, whether the device has them or not.
    fn flush_each(&self, which: impl Fn(u16) -> bool) {
        let patience = Patience {
            timeout: FLUSH_ALL_TIMEOUT,
            killable: false,
        };
        if !self.lock_flushing(patience) {
            return;
        }
        // Orphans are among those that nobody has, and who wanted to flush one need not any more.
        drop(self.orphans().take());
        self.resets.fetch_add(1, Full);
        for id in 0..hsm::MAX_SESSIONS {
            if which(id) && self.flush_locked(id, patience).is_err() {
                break;
            }
        }
        self.flushing.signal();
    }

    /// Says in the log what is there now.
    pub(crate) fn announce(&self, node: &CStr) {
        let hsm = self.hsm.queues().len();
        let aes = self.aes.queues().len();
        let vectors = self.vectors.len();
        dev_info!(
            self.dev(),
            "HSM ready as {node}: {hsm} HSM and {aes} AES queues, {vectors} vectors\n"
        );
    }
}

/// Stops flushing sessions when it is dropped.
struct StopOnDrop(Arc<Orphans>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// What a controller has.
struct Found {
    info: uapi::DevInfo,
    hsm_queues: u16,
    aes_queues: u16,
    gcm_unaligned: bool,
}

/// In which condition a controller is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Condition {
    /// It works, or should.
    Running = 0,
    /// It is being reset.
    Recovering = 1,
    /// Resetting it failed.
    Dead = 2,
    /// The driver is being unbound, or the machine switched off.
    Gone = 3,
}

impl From<u32> for Condition {
    fn from(word: u32) -> Self {
        match word {
            0 => Condition::Running,
            1 => Condition::Recovering,
            2 => Condition::Dead,
            _ => Condition::Gone,
        }
    }
}

/// Why a reset did not work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ResetFailure {
    /// Another one is under way and does not end.
    Busy,
    /// The waiting task is being killed.
    Killed,
    /// The controller is dead or gone.
    BadState,
    /// The device did not stop or start.
    Failed,
}

impl Drop for Ctrl<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Interrupts for Ctrl<'_> {
    fn vectors(&self) -> usize {
        self.vectors.len().min(VECTOR_NAMES.len())
    }

    fn vector(&self, index: usize) -> Result<(pci::IrqVector<'_>, &'static CStr)> {
        let name = VECTOR_NAMES.get(index).ok_or(EINVAL)?;
        Ok((self.vectors.index(index)?, name))
    }

    fn interrupt(&self, index: usize) -> IrqReturn {
        fn reap<C: Class>(ctrl: &Ctrl<'_>, pool: &Pool<C>, vector: u16) {
            for queue in pool.queues() {
                if queue.vector() == Some(vector) {
                    queue.reap(&ctrl.doorbells);
                }
            }
        }
        // CAST: At most 31.
        match index as u16 {
            0 => {
                for queue in self.admin.queues() {
                    queue.reap(&self.doorbells);
                }
            }
            vector @ FIRST_HSM_VECTOR..FIRST_AES_VECTOR => reap(self, &self.hsm, vector),
            vector => reap(self, &self.aes, vector),
        }
        // Who else looked at the queue may have left nothing to do; no other device has the vector.
        IrqReturn::Handled
    }
}

/// Spreads queues over `count` vectors from `first`; without any they are polled.
fn notify(first: u16, count: u16, index: u16) -> Notify {
    match index.checked_rem(count) {
        Some(offset) => Notify::Vector(first + offset),
        None => Notify::Poll,
    }
}

/// Returns the device info of a controller that was just started (abi.rst 2.4).
fn device_info(dev: &pci::Device<Bound>, identify: &Identify) -> uapi::DevInfo {
    let mut info = uapi::DevInfo::default();
    let device: &kernel::device::Device<Bound> = dev.as_ref();

    info.id = identify.controller;
    copy_text(&mut info.pci_info, device.name().to_bytes());
    copy_text(&mut info.serial, &identify.serial);
    copy_text(&mut info.firmware_rev, &identify.firmware);
    copy_text(&mut info.driver_rev, uapi::DRIVER_REV);
    sys::random_bytes(&mut info.entropy);
    info
}

/// Copies `from` to `to`, which keeps at least one NUL at its end. What is not ASCII becomes `?`:
/// clients require UTF-8.
fn copy_text(to: &mut [u8], from: &[u8]) {
    let room = to.len().saturating_sub(1);
    for (to, from) in to.iter_mut().take(room).zip(from) {
        *to = if from.is_ascii() { *from } else { b'?' };
    }
}
