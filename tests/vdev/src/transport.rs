// SPDX-License-Identifier: GPL-2.0

//! Shows a PCI device to QEMU through vfio-user.

use crate::config_space::BAR_SIZE;
use crate::config_space::MAX_VECTORS;
use crate::config_space::SIZE as CONFIG_SIZE;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use thiserror::Error;
use vfio_bindings::bindings::vfio::vfio_region_info;
use vfio_bindings::bindings::vfio::VFIO_IRQ_INFO_EVENTFD;
use vfio_bindings::bindings::vfio::VFIO_IRQ_SET_DATA_EVENTFD;
use vfio_bindings::bindings::vfio::VFIO_IRQ_SET_DATA_NONE;
use vfio_bindings::bindings::vfio::VFIO_PCI_BAR0_REGION_INDEX;
use vfio_bindings::bindings::vfio::VFIO_PCI_BAR2_REGION_INDEX;
use vfio_bindings::bindings::vfio::VFIO_PCI_BAR4_REGION_INDEX;
use vfio_bindings::bindings::vfio::VFIO_PCI_CONFIG_REGION_INDEX;
use vfio_bindings::bindings::vfio::VFIO_PCI_MSIX_IRQ_INDEX;
use vfio_bindings::bindings::vfio::VFIO_PCI_NUM_IRQS;
use vfio_bindings::bindings::vfio::VFIO_PCI_NUM_REGIONS;
use vfio_bindings::bindings::vfio::VFIO_REGION_INFO_FLAG_READ;
use vfio_bindings::bindings::vfio::VFIO_REGION_INFO_FLAG_WRITE;
use vfio_user::DmaMapFlags;
use vfio_user::DmaUnmapFlags;
use vfio_user::IrqInfo;
use vfio_user::Server;
use vfio_user::ServerBackend;
use vfio_user::ServerRegion;

/// A PCI device with BARs 0, 2 and 4 and MSI-X.
///
/// Calls come one at a time and have to return at once: QEMU stands still
/// meanwhile.
pub trait PciDevice {
    /// Configuration space is read.
    fn config_read(&mut self, offset: u64, data: &mut [u8]);

    /// Configuration space is written.
    fn config_write(&mut self, offset: u64, data: &[u8]);

    /// A BAR is read.
    fn bar_read(&mut self, bar: u32, offset: u64, data: &mut [u8]);

    /// A BAR is written.
    fn bar_write(&mut self, bar: u32, offset: u64, data: &[u8]);

    /// The bus is reset.
    fn bus_reset(&mut self);

    /// Memory appears at a bus address.
    fn dma_map(&mut self, map: DmaMap) -> io::Result<()>;

    /// Memory disappears; it must not be touched once this returns.
    fn dma_unmap(&mut self, range: Option<(u64, u64)>);

    /// An MSI-X vector is connected, or disconnected.
    fn set_vector(&mut self, vector: u16, event: Option<File>);

    /// All MSI-X vectors are disconnected.
    fn disconnect_vectors(&mut self);
}

/// Memory that appears at a bus address.
pub struct DmaMap {
    /// The bus address.
    pub address: u64,
    /// Its size.
    pub size: u64,
    /// The device may read it.
    pub read: bool,
    /// The device may write it.
    pub write: bool,
    /// Where it is: a file and the offset in it.
    pub file: (File, u64),
}

/// Why the socket cannot be served.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The socket cannot be made.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A connection failed.
    #[error("connection failed: {0}")]
    Connection(#[from] vfio_user::Error),
}

/// A socket that QEMU connects to.
pub struct Transport {
    server: Server,
}

impl Transport {
    /// Listens on a socket, which replaces an old one, and shows a BAR 0 of
    /// that size.
    pub fn listen(path: &Path, vectors: u16, bar0_size: u32) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Listen {
            path: path.display().to_string(),
            source,
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        Ok(Self {
            server: Server::from_owned_fd(
                OwnedFd::from(listener),
                true,
                irqs(vectors),
                regions(bar0_size),
            ),
        })
    }

    /// Serves one connection to its end.
    pub fn serve(&self, device: &mut dyn PciDevice) -> Result<(), TransportError> {
        Ok(self.server.run(&mut Backend(device))?)
    }
}

fn irqs(vectors: u16) -> Vec<IrqInfo> {
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| IrqInfo {
            index,
            flags: VFIO_IRQ_INFO_EVENTFD,
            count: if index == VFIO_PCI_MSIX_IRQ_INDEX {
                u32::from(vectors)
            } else {
                0
            },
        })
        .collect()
}

fn regions(bar0_size: u32) -> Vec<ServerRegion> {
    (0..VFIO_PCI_NUM_REGIONS)
        .map(|index| {
            let size = match index {
                VFIO_PCI_BAR0_REGION_INDEX => u64::from(bar0_size),
                VFIO_PCI_BAR2_REGION_INDEX | VFIO_PCI_BAR4_REGION_INDEX => u64::from(BAR_SIZE),
                VFIO_PCI_CONFIG_REGION_INDEX => CONFIG_SIZE as u64,
                _ => 0,
            };
            let flags = if size == 0 {
                0
            } else {
                VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
            };
            ServerRegion {
                region_info: vfio_region_info {
                    argsz: size_of::<vfio_region_info>() as u32,
                    flags,
                    index,
                    cap_offset: 0,
                    size,
                    offset: 0,
                },
                sparse_areas: Vec::new(),
                mmap_fd: None,
            }
        })
        .collect()
}

struct Backend<'a>(&'a mut dyn PciDevice);

impl ServerBackend for Backend<'_> {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => self.0.config_read(offset, data),
            _ => self.0.bar_read(region, offset, data),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => self.0.config_write(offset, data),
            _ => self.0.bar_write(region, offset, data),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        // ROMs come without a file; the device has no business there.
        let Some(file) = fd else {
            return Ok(());
        };
        self.0.dma_map(DmaMap {
            address,
            size,
            read: flags.contains(DmaMapFlags::READ),
            write: flags.contains(DmaMapFlags::WRITE),
            file: (file, offset),
        })
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        let all = flags.contains(DmaUnmapFlags::UNMAP_ALL);
        self.0.dma_unmap((!all).then_some((address, size)));
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.0.bus_reset();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        if index != VFIO_PCI_MSIX_IRQ_INDEX {
            return Ok(());
        }
        let end = start.saturating_add(count);
        if end > u32::from(MAX_VECTORS) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if flags & VFIO_IRQ_SET_DATA_EVENTFD != 0 {
            let mut fds = fds.into_iter();
            for vector in start..end {
                self.0.set_vector(vector as u16, fds.next());
            }
        } else if flags & VFIO_IRQ_SET_DATA_NONE != 0 && count == 0 {
            self.0.disconnect_vectors();
        }
        Ok(())
    }
}
