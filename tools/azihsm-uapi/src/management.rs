// SPDX-License-Identifier: GPL-2.0
//! The management node.

use crate::abi;
use crate::device::open;
use crate::device::Info;
use crate::error::Result;
use crate::raw;
use std::io;
use std::mem::size_of;
use std::os::fd::OwnedFd;
use std::path::Path;
use zerocopy::FromZeros;

/// An open management node.
#[derive(Debug)]
pub struct Management {
    fd: OwnedFd,
}

impl Management {
    /// Opens the node at `path`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            fd: open(path.as_ref())?,
        })
    }

    /// Describes the physical function.
    pub fn info(&self) -> Result<Info> {
        Info::read(&self.fd, abi::MGMT_IOC_DEV_INFO)
    }

    /// Tells how many virtual functions are enabled.
    pub fn virtual_functions(&self) -> Result<u16> {
        let mut arg = abi::VfCount::new_zeroed();
        arg.argsz = size_of::<abi::VfCount>() as u32;
        raw::request(&self.fd, abi::MGMT_IOC_GET_VF_COUNT, &mut arg)?;
        Ok(arg.count)
    }

    /// Tells how many resource groups virtual function `vf` has.
    pub fn resource_groups(&self, vf: u16) -> Result<u16> {
        self.groups(abi::MGMT_IOC_GET_RES_COUNT, vf, 0)
    }

    /// Gives virtual function `vf` as many resource groups.
    pub fn set_resource_groups(&self, vf: u16, groups: u16) -> Result<()> {
        self.groups(abi::MGMT_IOC_SET_RES_COUNT, vf, groups)?;
        Ok(())
    }

    fn groups(&self, number: u32, vf: u16, count: u16) -> Result<u16> {
        let mut arg = abi::ResCount {
            argsz: size_of::<abi::ResCount>() as u32,
            vf,
            count,
            status: 0,
        };
        raw::request(&self.fd, number, &mut arg)?;
        Ok(arg.count)
    }
}
