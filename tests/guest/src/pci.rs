// SPDX-License-Identifier: GPL-2.0
//! The PCI functions, as sysfs shows them.

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

const DEVICES: &str = "/sys/bus/pci/devices";
const DRIVER: &str = "/sys/bus/pci/drivers/azihsm";
const VENDOR: &str = "0x1414";
const DEVICE: &str = "0xc003";

/// Addresses of the functions that the driver is made for, in their order.
pub fn functions() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(DEVICES)? {
        let path = entry?.path();
        let is = |file: &str, value: &str| {
            fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim() == value)
        };
        if is("vendor", VENDOR) && is("device", DEVICE) {
            let name = path.file_name().context("entry without a name")?;
            found.push(name.to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Where sysfs has the function at `address`.
pub fn directory(address: &str) -> PathBuf {
    Path::new(DEVICES).join(address)
}

/// Waits until the virtual device has seen all that was written to the function:
/// QEMU does not wait for it, but keeps reads behind writes.
pub fn settle(address: &str) -> Result<()> {
    fs::read(directory(address).join("config"))?;
    Ok(())
}

/// The command register of a function has the bit that lets it access memory.
pub fn may_access_memory(address: &str) -> Result<bool> {
    let config = fs::read(directory(address).join("config"))?;
    Ok(config.get(4).context("no command register")? & 4 != 0)
}

/// Has a function forget that its interrupts are messages, as a virtual one does when its
/// physical one is reset; the kernel does not know.
pub fn forget_messages(address: &str) -> Result<()> {
    const CAPABILITIES: usize = 0x34;
    const MSIX: u8 = 0x11;
    const ENABLE: u8 = 0x80;

    let path = directory(address).join("config");
    let config = fs::read(&path)?;
    let byte = |place: usize| config.get(place).copied().context("short configuration");
    let mut place = usize::from(byte(CAPABILITIES)?);
    while byte(place)? != MSIX {
        place = usize::from(byte(place + 1)?);
        ensure!(place != 0, "no MSI-X");
    }
    // The upper byte of the control word.
    let control = place + 3;
    ensure!(byte(control)? & ENABLE != 0, "interrupts are no messages");
    let file = fs::File::options().write(true).open(&path)?;
    file.write_all_at(&[byte(control)? & !ENABLE], control as u64)?;
    Ok(())
}

/// Name of the driver that is bound to the function.
pub fn driver(address: &str) -> Option<String> {
    let link = fs::read_link(directory(address).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// The address of the function that the node `name` is of.
pub fn of_node(name: &str) -> Result<String> {
    let link = fs::read_link(format!("/sys/class/misc/{name}/device"))?;
    let address = link.file_name().context("link without a name")?;
    Ok(address.to_string_lossy().into_owned())
}

fn write(path: PathBuf, text: &str) -> Result<()> {
    fs::write(&path, text).with_context(|| format!("{text} to {}", path.display()))
}

/// Binds the driver to the function.
pub fn bind(address: &str) -> Result<()> {
    write(Path::new(DRIVER).join("bind"), address)
}

/// Unbinds the driver from the function.
pub fn unbind(address: &str) -> Result<()> {
    write(Path::new(DRIVER).join("unbind"), address)
}

/// Says which driver alone may be bound to the function; none if empty.
pub fn set_override(address: &str, driver: &str) -> Result<()> {
    write(
        directory(address).join("driver_override"),
        &format!("{driver}\n"),
    )
}

/// Has the kernel look for a driver for the function.
pub fn probe(address: &str) -> Result<()> {
    write(PathBuf::from("/sys/bus/pci/drivers_probe"), address)
}

/// Gives the physical function so many virtual ones, of which a driver for tests
/// only pretends that they are there.
pub fn set_virtual(count: u16) -> Result<()> {
    write(Path::new(DRIVER).join("test_numvfs"), &count.to_string())
}

/// Removes the function from the bus.
pub fn remove(address: &str) -> Result<()> {
    write(directory(address).join("remove"), "1")
}

/// Has the kernel look for functions.
pub fn rescan() -> Result<()> {
    write(PathBuf::from("/sys/bus/pci/rescan"), "1")
}

/// Resets the function in the way that the kernel prefers, or that
/// [`set_reset_method`] chose.
pub fn reset(address: &str) -> Result<()> {
    write(directory(address).join("reset"), "1")
}

/// Chooses how [`reset`] does it: `flr`, `bus`, nothing for not at all, or
/// `default`.
pub fn set_reset_method(address: &str, method: &str) -> Result<()> {
    write(
        directory(address).join("reset_method"),
        &format!("{method}\n"),
    )
}
