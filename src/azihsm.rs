// SPDX-License-Identifier: GPL-2.0

//! Driver of the Azure Integrated HSM, a PCI function that keeps keys and works with them.
//!
//! How the parts fit together is in `Documentation/architecture.rst`; in short, from the top:
//!
//! - [`driver`] binds to functions, [`ioctl`] serves the device node, [`management`] that of a
//!   physical function for its virtual ones;
//! - [`session`] has the rules of sessions, [`orphans`] cleans up behind those who had to leave;
//! - [`hsm`], [`aes`] and [`admin`] are the commands, [`ctrl`] the controller that they are for,
//!   and [`recovery`] notices when that is not well;
//! - [`queue`] is the queue pair; the part of it that is concurrent is [`lockless`], and [`patience`]
//!   says how long somebody waits;
//! - [`account`] counts what a queue does, [`stats`] shows that;
//! - [`sgl`] describes data to the device, [`bounce`] has memory that it is copied through;
//! - [`wire`] is what the device reads and writes, byte by byte;
//! - [`regs`] are the registers, and [`sys`] is what the kernel crate does not offer yet.

mod account;
mod admin;
mod aes;
mod bounce;
mod ctrl;
mod driver;
mod hsm;
mod ioctl;
mod lockless;
mod management;
mod number;
mod orphans;
mod params;
mod patience;
mod queue;
mod recovery;
mod regs;
mod session;
mod sgl;
mod slot;
mod stats;
mod sys;
mod uapi;
mod wire;

use kernel::{
    driver::Registration,
    prelude::*, //
};

use sys::compat::module;

/// The module: it is loaded as long as the driver is registered.
#[pin_data]
struct AzihsmModule {
    #[pin]
    registration: Registration<sys::pci::Adapter<driver::Azihsm>>,
}

impl kernel::InPlaceModule for AzihsmModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            registration <- Registration::new(
                <Self as kernel::ModuleMetadata>::NAME,
                module,
            ),
        })
    }
}

module! {
    type: AzihsmModule,
    name: "azihsm",
    authors: ["The azihsm authors"],
    description: "Azure Integrated HSM driver",
    license: "GPL",
    params: {
        abort_timeout_in_sec: i32 {
            default: 6,
            description: "Seconds that a command may take before the device is asked about it (6 to 86400)",
        },
        pf_lvl2_abort_enabled: bool {
            default: true,
            description: "Whether a physical function may be reset",
        },
        pf_res_cnt: u8 {
            default: 1,
            description: "Resource groups that a physical function gives itself (1 to 64; 0: as they are)",
        },
        num_hsm_slots: i32 {
            default: 16,
            description: "Entries of each HSM queue (2 to 1024)",
        },
        num_aes_slots: i32 {
            default: 16,
            description: "Entries of each AES queue (2 to 1024)",
        },
        log_mask: u32 {
            default: 1,
            description: "Ignored: earlier drivers chose by it what to log",
        },
        aes_bounce_buffers: i32 {
            default: 72,
            description: "Buffers of 64 KiB that AES data is copied through (0 to 1024)",
        },
        poll_us: i32 {
            default: 0,
            description: "Microseconds that callers look for a completion before they sleep (0 to 1000)",
        },
    },
}
