// SPDX-License-Identifier: GPL-2.0

//! The controller: everything that one bound function has.
//!
//! Documentation/device.rst 2.8 (start and stop), 3.8 (interrupt vectors).

use kernel::{
    device::{
        Bound,
        Device, //
    },
    do_once_lite,
    irq::IrqReturn,
    new_mutex,
    pci,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        Mutex,
        SetOnce, //
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
    bounce::Reserve,
    hsm::Hsm,
    orphans::Orphans,
    params,
    patience::Patience,
    queue::{
        Class,
        Lost,
        Notify,
        Pool,
        QueuePair, //
    },
    recovery::{
        Change,
        Condition,
        Recovery, //
    },
    regs::{
        Doorbells,
        QueueId,
        Registers,
        Stop, //
    },
    sys,
    sys::{
        compat,
        completion::{
            Event,
            Waited, //
        },
        live::Interrupts,
        pci::{
            Enabled,
            Probing, //
        },
        sriov, //
    },
    uapi, //
};

mod recover;
mod sessions;
mod tally;

use recover::{
    History,
    Holds,
    Looked, //
};
use tally::Tally;

/// The family of controllers, for [`crate::sys::gate::Gate`].
pub(crate) type CtrlFamily = ForLt!(Ctrl<'_>);

/// MSI-X vectors of the HSM queues: 1 to 15.
const FIRST_HSM_VECTOR: u16 = 1;
/// MSI-X vectors of the AES queues: 16 to 31.
const FIRST_AES_VECTOR: u16 = 16;
/// How many admin commands may be under way for a user's to join them. Those that nobody waits for
/// any more have a slot until they end, and the others are for recovery.
const MAX_UNDER_WAY: usize = 4;
/// Vectors that the device can use.
const MAX_VECTORS: u16 = 32;

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

/// Those who do what cannot be done where it is found.
pub(crate) struct Helpers {
    pub(crate) orphans: Arc<Orphans>,
    pub(crate) recovery: Arc<Recovery>,
}

/// See the [module](self).
///
/// Dropping it stops the device before any memory that the device knows of is freed.
pub(crate) struct Ctrl<'bound> {
    admin: Pool<Admin>,
    hsm: Pool<Hsm>,
    aes: Pool<Aes>,
    aes_reserve: Arc<Reserve>,
    // After the queues, which give them work.
    helpers: StopOnDrop,
    vectors: compat::IrqVectorRegistration<'bound>,
    doorbells: Doorbells<'bound>,
    registers: Registers<'bound>,
    timeout: Delta,
    info: Pin<KBox<Mutex<uapi::DevInfo>>>,
    // Of the firmware that answered last; there may be another after a reset.
    gcm_unaligned: Atomic<bool>,
    // Whether it is a physical function, which may have virtual ones.
    is_physical: bool,
    // Whether the function may be reset.
    may_reset: bool,
    condition: Atomic<u32>,
    // Has a signal while nobody stops, starts or resets the device.
    token: Pin<KBox<Event>>,
    // Why the device must not be touched.
    holds: Holds,
    // What the monitor saw last; locked while it looks.
    looked: Pin<KBox<Mutex<Looked>>>,
    history: Pin<KBox<Mutex<History>>>,
    // How often in a row sessions that nobody has could not be flushed.
    flush_failures: Atomic<u32>,
    // How often in a row the device has refused to.
    flush_refusals: Atomic<u32>,
    // Whether the device did not answer when it was last told to flush one.
    flush_stalled: Atomic<bool>,
    // Time until the next attempt at a controller that could not be started.
    retry_in_ms: Atomic<u32>,
    tally: Tally,
    // Has a signal while nobody flushes sessions.
    flushing: Pin<KBox<Event>>,
    // Once the device was stopped for good: whether it is known not to access memory any more.
    at_rest: SetOnce<bool>,
    // Has a signal while nobody manages virtual functions.
    administering: Pin<KBox<Event>>,
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
    pub(crate) fn new(dev: &'bound Probing<'_>, helpers: Helpers) -> Result<Self> {
        let enabled = Enabled::new(dev)?;
        let dev = enabled.dev();
        let is_physical = sriov::is_physical(dev);
        let registers = Registers::new(dev)?;
        let doorbells = Doorbells::new(dev)?;
        let vectors = compat::msix_vectors(dev, u32::from(MAX_VECTORS))
            .inspect_err(|_| dev_err!(dev, "no MSI-X vectors\n"))?;

        // From here on the destructor stops the controller if a step fails.
        let mut this = Self {
            admin: Pool::new()?,
            hsm: Pool::new()?,
            aes: Pool::new()?,
            aes_reserve: Reserve::new(dev.as_ref(), 0)?,
            helpers: StopOnDrop(helpers),
            vectors,
            doorbells,
            registers,
            timeout: params::command_timeout(),
            info: KBox::pin_init(
                new_mutex!(uapi::DevInfo::default(), "azihsm_info"),
                GFP_KERNEL,
            )?,
            gcm_unaligned: Atomic::new(false),
            // CAST: The discriminants are those of the word.
            condition: Atomic::new(Condition::Running as u32),
            is_physical,
            may_reset: !is_physical || params::may_reset_physical(),
            token: KBox::pin_init(Event::new(), GFP_KERNEL)?,
            holds: Holds::new(),
            history: KBox::pin_init(new_mutex!(History::new(), "azihsm_history"), GFP_KERNEL)?,
            flush_failures: Atomic::new(0),
            flush_refusals: Atomic::new(0),
            at_rest: SetOnce::new(),
            flush_stalled: Atomic::new(false),
            looked: KBox::pin_init(new_mutex!(Looked::new(), "azihsm_looked"), GFP_KERNEL)?,
            retry_in_ms: Atomic::new(0),
            tally: Tally::new(),
            flushing: KBox::pin_init(Event::new(), GFP_KERNEL)?,
            administering: KBox::pin_init(Event::new(), GFP_KERNEL)?,
            releasing: KBox::pin_init(new_mutex!((), "azihsm_releasing"), GFP_KERNEL)?,
            enabled,
        };
        this.token.signal();
        this.flushing.signal();
        this.administering.signal();
        this.admin.add(
            dev.as_ref(),
            QueueId::ADMIN,
            admin::ENTRIES,
            // Looked at on each tick as well: the first commands come before the handlers.
            Notify::Poll,
            this.helpers.0.orphans.clone(),
        )?;
        this.enable()?;
        this.claim_groups();
        let found = this.identify()?;
        this.learn(&found);
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
        &self.helpers.0.orphans
    }

    fn recovery(&self) -> &Arc<Recovery> {
        &self.helpers.0.recovery
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
            .stop(Stop::Disable, || self.is_bound())
            .and_then(|()| {
                self.enabled.set_master();
                self.enabled.restore_interrupts();
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
                timeout: Some(admin::TIMEOUT),
                killable: false,
            },
        }
    }

    /// Gives a physical function the resource groups that it is to have, each time that it starts:
    /// it may have lost them. As it has no queues then, it may lose some, too.
    fn claim_groups(&self) {
        let Some(count) = params::physical_groups().filter(|_| self.is_physical) else {
            return;
        };
        // Without, it can do what it has groups for.
        if let Err(failure) = self.sender().set_resource_count(admin::PHYSICAL, count) {
            dev_warn!(
                self.dev(),
                "cannot take {count} resource groups: {failure}\n"
            );
        }
    }

    /// Asks the controller what it is and has.
    fn identify(&self) -> Result<Found> {
        let dev = self.dev();
        let sender = self.sender();

        let identify = sender
            .identify()
            .inspect_err(|failure| dev_err!(dev, "cannot identify the device: {failure}\n"))?;
        let hsm_queues = match sender.hsm_queues(QueueId::MAX_HSM) {
            // It can still manage others.
            Err(failure) if failure.is_no_groups() && self.is_physical => {
                return Ok(Found {
                    info: device_info(dev, &identify),
                    hsm_queues: 0,
                    aes_queues: 0,
                    gcm_unaligned: false,
                });
            }
            counted => counted.inspect_err(|failure| {
                if failure.is_no_groups() {
                    dev_err!(dev, "function owns no resource groups\n");
                } else {
                    dev_err!(dev, "cannot count the HSM queues: {failure}\n");
                }
            })?,
        };
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

    /// Keeps what callers may see of a device that was asked.
    fn learn(&self, found: &Found) {
        self.gcm_unaligned.store(found.gcm_unaligned, Relaxed);
        *self.info.lock() = found.info;
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
        if found.aes_queues != 0 {
            self.aes_reserve = Reserve::new(dev.as_ref(), params::aes_bounce_buffers())?;
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
        // From now on the device is watched.
        self.recovery().look();
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
                ctrl.tally.created(queue.id());
            }
            Ok(())
        }
        create(self, &self.hsm)?;
        create(self, &self.aes)
    }

    /// Has all queues ring no doorbell any more.
    fn silence(&self) {
        fn silence<C: Class>(ctrl: &Ctrl<'_>, pool: &Pool<C>) {
            for queue in pool.queues() {
                queue.silence(&ctrl.doorbells);
            }
        }
        silence(self, &self.hsm);
        silence(self, &self.aes);
        silence(self, &self.admin);
    }

    /// Ends all commands of silent queues, now that the device is done with their memory.
    fn release(&self) {
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
        release(self, &self.hsm);
        release(self, &self.aes);
        release(self, &self.admin);
        self.release_orphans();
    }

    /// Has all waiters of silent queues leave their commands to the device.
    fn evict(&self) {
        fn evict<C: Class>(pool: &Pool<C>) {
            for queue in pool.queues() {
                queue.evict();
            }
        }
        evict(&self.hsm);
        evict(&self.aes);
        evict(&self.admin);
    }

    /// Silences all queues, stops the device, and ends what is under way. If it does not stop it is
    /// cut off from memory, and what is under way stays so, with nobody waiting. If that is not
    /// `wanted` before it has, whoever is to stop it instead finds everything as it is.
    ///
    /// # Errors
    ///
    /// Those of [`Registers::stop`].
    fn shut(&self, how: Stop, wanted: impl Fn() -> bool) -> Result {
        self.silence();
        let stopped = self.registers.stop(how, wanted);
        match stopped {
            Ok(()) => self.release(),
            Err(EINTR) => {}
            Err(error) => {
                // One that is gone needs no mention, but may come back.
                if error != ENODEV {
                    let dev = self.dev();
                    dev_err!(
                        dev,
                        "controller does not stop, cutting it off from memory\n"
                    );
                }
                self.enabled.clear_master();
                self.evict();
            }
        }
        stopped
    }

    /// Starts a device that has been shut.
    fn restart(&self) -> Result {
        fn open<C: Class>(ctrl: &Ctrl<'_>, pool: &Pool<C>) {
            for queue in pool.queues() {
                queue.open(&ctrl.doorbells);
            }
        }
        self.enable()?;
        // Not before: while the controller is not ready the monitor has waiters leave.
        open(self, &self.admin);
        self.check_not_gone()?;
        self.claim_groups();
        let found = self.identify()?;
        if usize::from(found.hsm_queues) < self.hsm.queues().len()
            || usize::from(found.aes_queues) < self.aes.queues().len()
        {
            let dev = self.dev();
            dev_err!(dev, "function has lost queues\n");
            return Err(EIO);
        }
        self.create_queues()?;
        self.learn(&found);
        open(self, &self.hsm);
        open(self, &self.aes);
        Ok(())
    }

    /// Fails if the driver is being unbound, which need not wait for what takes long.
    fn check_not_gone(&self) -> Result {
        match self.condition() {
            Condition::Gone => Err(ENODEV),
            _ => Ok(()),
        }
    }

    /// Returns in which condition the controller is.
    pub(crate) fn condition(&self) -> Condition {
        Condition::from(self.condition.load(Acquire))
    }

    /// Changes the condition, unless it is for good. Returns what it was and what it is now, if
    /// there is such a transition.
    fn change_condition(&self, change: Change) -> Option<(Condition, Condition)> {
        let mut word = self.condition.load(Relaxed);
        loop {
            let was = Condition::from(word);
            let Some(now) = was.after(change) else {
                // Whoever does something may be overtaken by the end. All else is a mistake, which
                // must not become a greater one.
                if was != Condition::Gone {
                    do_once_lite! {
                        dev_err!(self.dev(), "{change:?} while {was}: ignored\n");
                    }
                }
                return None;
            };
            // CAST: The discriminants are those of the word.
            match self.condition.cmpxchg(word, now as u32, Full) {
                Ok(_) => return Some((was, now)),
                Err(other) => word = other,
            }
        }
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

    /// Returns how long a user waits for a command: until it has ended, as it does when it is
    /// overdue.
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            timeout: None,
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

    /// Returns the memory that AES data is copied through which is too large for a slot.
    pub(crate) fn aes_reserve(&self) -> &Arc<Reserve> {
        &self.aes_reserve
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
        self.gcm_unaligned.load(Relaxed)
    }

    /// Returns how many virtual functions it has now.
    pub(crate) fn virtual_functions(&self) -> u16 {
        sriov::count(self.dev())
    }

    /// Has `send` send an admin command for a user. There is one at a time: the other slots of the
    /// queue are for recovery, which must not wait for users.
    ///
    /// # Errors
    ///
    /// Those of `send`; [`Lost::Refused`] if the device is not [`Condition::Running`],
    /// [`Lost::Busy`] if the turn does not come in time, or if too many commands of before are under
    /// way, [`Lost::Killed`].
    pub(crate) fn administer<R>(
        &self,
        send: impl FnOnce(&admin::Sender<'_>) -> Result<R, admin::Failure>,
    ) -> Result<R, admin::Failure> {
        let patience = Patience {
            timeout: Some(admin::TIMEOUT),
            killable: true,
        };
        self.check_running()?;
        match patience.start().for_event(&self.administering) {
            Waited::Done => {}
            Waited::TimedOut => return Err(admin::Failure::Lost(Lost::Busy)),
            Waited::Killed => return Err(admin::Failure::Lost(Lost::Killed)),
        }
        let checked = self.check_running().and_then(|()| self.check_room());
        let result = checked.and_then(|()| {
            send(&admin::Sender {
                patience,
                ..self.sender()
            })
        });
        self.administering.signal();
        result
    }

    /// Fails if too much of the administrative queue is taken.
    fn check_room(&self) -> Result<(), admin::Failure> {
        let under_way: usize = self.admin.queues().iter().map(QueuePair::under_way).sum();
        if under_way >= MAX_UNDER_WAY {
            return Err(admin::Failure::Lost(Lost::Busy));
        }
        Ok(())
    }

    fn check_running(&self) -> Result<(), admin::Failure> {
        match self.condition() {
            Condition::Running => Ok(()),
            _ => Err(admin::Failure::Lost(Lost::Refused)),
        }
    }

    /// Returns whether there is anything that the HSM can be used with.
    pub(crate) fn has_hsm(&self) -> bool {
        !self.hsm.queues().is_empty()
    }

    /// Says in the log what is there now, which goes by the name `node`, if there is a node.
    pub(crate) fn announce(&self, node: Option<&CStr>) {
        let Some(node) = node else {
            dev_info!(
                self.dev(),
                "no resource groups: for the management of others only\n"
            );
            return;
        };
        let hsm = self.hsm.queues().len();
        let aes = self.aes.queues().len();
        let vectors = self.vectors.len();
        dev_info!(
            self.dev(),
            "HSM ready as {node}: {hsm} HSM and {aes} AES queues, {vectors} vectors\n"
        );
    }
}

/// Stops the helpers when it is dropped.
struct StopOnDrop(Helpers);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.recovery.stop();
        self.0.orphans.stop();
    }
}

/// What a controller has.
struct Found {
    info: uapi::DevInfo,
    hsm_queues: u16,
    aes_queues: u16,
    gcm_unaligned: bool,
}

impl Drop for Ctrl<'_> {
    fn drop(&mut self) {
        if !self.stop() {
            dev_err!(
                self.dev(),
                "device does not stop: its memory is not freed\n"
            );
            self.admin.leak();
            self.hsm.leak();
            self.aes.leak();
        }
    }
}

impl Interrupts for Ctrl<'_> {
    fn vectors(&self) -> usize {
        self.vectors.len().min(VECTOR_NAMES.len())
    }

    fn vector(&self, index: usize) -> Result<(compat::IrqVector<'_>, &'static CStr)> {
        let name = VECTOR_NAMES.get(index).ok_or(EINVAL)?;
        Ok((self.vectors.index(index)?, name))
    }

    fn is_for(&self, index: usize, cpu: usize) -> bool {
        let vectors = [self.hsm.home_vector(cpu), self.aes.home_vector(cpu)];
        vectors
            .iter()
            .flatten()
            .any(|&home| usize::from(home) == index)
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
    let device: &kernel::device::Device<Bound> = dev.as_ref();
    let mut info = uapi::DevInfo::new(
        identify.controller,
        device.name().to_bytes(),
        &identify.serial,
        &identify.firmware,
    );

    sys::random_bytes(&mut info.entropy);
    info
}
