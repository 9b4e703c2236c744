// SPDX-License-Identifier: GPL-2.0

//! The management node of a physical function, and its ioctls.
//!
//! Documentation/abi.rst 1.2 and 3.6. The checks are in the order that is laid down there.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
    new_mutex,
    prelude::*,
    seq_file::SeqFile,
    str::CString,
    sync::{
        Arc,
        Mutex, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use crate::{
    admin::Failure,
    ctrl::{
        Ctrl,
        CtrlFamily, //
    },
    ioctl, number,
    number::Number,
    queue::Lost,
    sys::{
        compat,
        gate::Gate,
        node::{
            FileOps,
            Node, //
        }, //
    },
    uapi,
    uapi::{
        ResCount,
        VfCount, //
    },
    wire::request::{
        controller,
        covers, //
    },
};

/// Makes and removes the management node of a function, which has one while it has virtual
/// functions.
#[pin_data]
pub(crate) struct Management {
    gate: Arc<Gate<CtrlFamily>>,
    #[pin]
    place: Mutex<Place>,
}

/// What the node is in.
enum Place {
    /// There is none.
    Empty,
    Taken {
        _by: Entry,
    },
    /// There is none, and there will be none.
    Closed,
}

/// A management node, and its number, which is free again when that is gone.
struct Entry {
    _node: Pin<KBox<Node<File>>>,
    _number: Number,
}

impl Entry {
    fn new(ctrl: &Ctrl<'_>, gate: &Arc<Gate<CtrlFamily>>) -> Result<Self> {
        let number = Number::take(&number::MANAGEMENT)?;
        let name = CString::try_from_fmt(fmt!("azihsm-mgmt{}", number.get()))?;

        Ok(Self {
            _node: Node::new(name, ctrl.device(), gate.clone())?,
            _number: number,
        })
    }
}

impl Management {
    /// Makes that of the function behind `gate`, without a node.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(gate: Arc<Gate<CtrlFamily>>) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                gate,
                place <- new_mutex!(Place::Empty, "azihsm_management"),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes note that `ctrl`, which is behind the gate, has `count` virtual functions now.
    ///
    /// # Errors
    ///
    /// Those of [`Node::new`], `ENOSPC` if there are no numbers left, `ENODEV` if the driver is
    /// leaving.
    pub(crate) fn follow(&self, ctrl: &Ctrl<'_>, count: u16) -> Result {
        let mut place = self.place.lock();
        match (&*place, count) {
            (Place::Taken { .. }, 0) => *place = Place::Empty,
            (Place::Empty, 1..) => {
                *place = Place::Taken {
                    _by: Entry::new(ctrl, &self.gate)?,
                }
            }
            (Place::Closed, 1..) => return Err(ENODEV),
            (Place::Empty | Place::Closed, 0) | (Place::Taken { .. }, 1..) => {}
        }
        Ok(())
    }

    /// Removes the node for good; files that are open stay open.
    pub(crate) fn close(&self) {
        *self.place.lock() = Place::Closed;
    }
}

/// An open file of the management node.
pub(crate) struct File {
    gate: Arc<Gate<CtrlFamily>>,
}

impl FileOps for File {
    type Context = Arc<Gate<CtrlFamily>>;

    fn open(gate: &Self::Context) -> Result<Pin<KBox<Self>>> {
        Ok(KBox::pin(Self { gate: gate.clone() }, GFP_KERNEL)?)
    }

    fn ioctl(self: Pin<&Self>, cmd: u32, arg: usize) -> Result<isize> {
        self.gate.with(|ctrl| match cmd {
            uapi::MGMT_IOC_SET_RES_COUNT => set_groups(ctrl, arg),
            uapi::MGMT_IOC_GET_RES_COUNT => get_groups(ctrl, arg),
            uapi::MGMT_IOC_GET_VF_COUNT => count_virtual(ctrl, arg),
            uapi::MGMT_IOC_DEV_INFO => ioctl::dev_info(ctrl, arg),
            _ => Err(compat::bad_request()),
        })?;
        Ok(0)
    }

    fn describe(self: Pin<&Self>, _: &SeqFile) {}

    fn release(self: Pin<&Self>) {}
}

/// Returns the error of an ioctl whose command failed like that.
fn error_of(failure: Failure) -> Error {
    match failure {
        Failure::Status(_) | Failure::Nonsense(_) => EIO,
        Failure::Lost(Lost::Interrupted | Lost::Killed) => EINTR,
        Failure::Lost(_) => EAGAIN,
    }
}

/// Reads the request that `arg` points to.
///
/// # Errors
///
/// `EFAULT`, and `EINVAL` if the caller knows less of it.
fn read_count(arg: usize) -> Result<ResCount> {
    let request = UserSlice::new(UserPtr::from_addr(arg), size_of::<ResCount>())
        .reader()
        .read::<ResCount>()?;

    if !covers::<ResCount>(request.argsz) {
        return Err(EINVAL);
    }
    Ok(request)
}

/// Set resource count.
fn set_groups(ctrl: &Ctrl<'_>, arg: usize) -> Result {
    let request = read_count(arg)?;
    let (result, status) = match controller(request.vf, ctrl.virtual_functions()) {
        None => (Err(EINVAL), uapi::RES_BAD_VF),
        Some(controller) => {
            match ctrl.administer(|sender| sender.set_resource_count(controller, request.count)) {
                Ok(()) => (Ok(()), uapi::RES_OK),
                Err(failure) => (Err(error_of(failure)), uapi::RES_SET_FAILED),
            }
        }
    };
    ioctl::finish(ctrl, arg, offset_of!(ResCount, status), &status, result)
}

/// Get resource count.
fn get_groups(ctrl: &Ctrl<'_>, arg: usize) -> Result {
    let request = read_count(arg)?;
    let (result, status) = match controller(request.vf, ctrl.virtual_functions()) {
        None => (Err(EINVAL), uapi::RES_BAD_VF),
        Some(controller) => match ctrl.administer(|sender| sender.resource_count(controller)) {
            Ok(count) => {
                let answer = ResCount {
                    count,
                    status: uapi::RES_OK,
                    ..request
                };
                return ioctl::finish(ctrl, arg, 0, &answer, Ok(()));
            }
            Err(failure) => (Err(error_of(failure)), uapi::RES_GET_FAILED),
        },
    };
    ioctl::finish(ctrl, arg, offset_of!(ResCount, status), &status, result)
}

/// Get the number of virtual functions.
fn count_virtual(ctrl: &Ctrl<'_>, arg: usize) -> Result {
    // What follows is padding that is neither read nor written.
    const LEN: usize = offset_of!(VfCount, pad);
    let slice = || UserSlice::new(UserPtr::from_addr(arg), LEN);

    let [a, b, c, d, ..] = slice().reader().read::<[u8; LEN]>()?;
    if !covers::<VfCount>(u32::from_ne_bytes([a, b, c, d])) {
        return Err(EINVAL);
    }
    let count = ctrl.virtual_functions().to_ne_bytes();
    ioctl::finish(ctrl, arg, offset_of!(VfCount, count), &count, Ok(()))
}

// Documentation/abi.rst 3.6.
#[kunit_tests(azihsm_management)]
mod tests {
    use super::*;

    #[test]
    fn virtual_functions_are_controllers_from_1_on() {
        let cases = [
            (0, 0, None),
            (0, 1, Some(1)),
            (1, 1, None),
            (63, 64, Some(64)),
            (64, 64, None),
            (u16::MAX, 64, None),
            (u16::MAX, u16::MAX, None),
        ];
        for (vf, count, wanted) in cases {
            assert_eq!(controller(vf, count), wanted);
        }
    }

    #[test]
    fn failures_have_the_documented_error() {
        let cases = [
            (Failure::Status(0x4002), EIO),
            (Failure::Status(0x4007), EIO),
            (Failure::Nonsense(""), EIO),
            (Failure::Lost(Lost::Killed), EINTR),
            (Failure::Lost(Lost::Interrupted), EINTR),
            (Failure::Lost(Lost::Busy), EAGAIN),
            (Failure::Lost(Lost::TimedOut), EAGAIN),
            (Failure::Lost(Lost::Deserted), EAGAIN),
            (Failure::Lost(Lost::Refused), EAGAIN),
            (Failure::Lost(Lost::Halted), EAGAIN),
        ];
        for (failure, error) in cases {
            assert_eq!(error_of(failure), error);
        }
    }
}
