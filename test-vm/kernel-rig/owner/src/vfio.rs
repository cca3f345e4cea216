// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A PCI function in the hands of vfio-pci.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
};

use crate::{
    ioctl::call,
    iommu::{Iommufd, ObjectId},
    memory::Shared,
    uapi::vfio::*,
};

const PCI_COMMAND: u64 = 4;
const PCI_COMMAND_MEMORY_MASTER: u16 = 0x6;

/// An open VFIO device, bound to an iommufd.
pub struct VfioDevice {
    cdev: File,
    /// Its id in the iommufd.
    pub id: ObjectId,
}

/// The functions with this vendor and device number, in the order of their addresses.
pub fn find_functions(vendor: u16, device: u16) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let path = entry?.path();
        if number(&path.join("vendor"))? == vendor && number(&path.join("device"))? == device {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn number(path: &Path) -> io::Result<u16> {
    let text = fs::read_to_string(path)?;
    u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).map_err(io::Error::other)
}

/// Gives the function to vfio-pci.
pub fn bind(function: &Path) -> io::Result<()> {
    fs::write(function.join("driver_override"), "vfio-pci")?;
    let name = function.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    fs::write("/sys/bus/pci/drivers_probe", name.as_encoded_bytes())
}

impl VfioDevice {
    /// Opens the function's character device and binds it to `iommufd`.
    pub fn open(function: &Path, iommufd: &Iommufd) -> io::Result<Self> {
        let name = fs::read_dir(function.join("vfio-dev"))?
            .next()
            .ok_or_else(|| {
                io::Error::other(format!("{} is not bound to vfio-pci", function.display()))
            })??
            .file_name();
        let cdev = OpenOptions::new()
            .read(true)
            .write(true)
            .open(Path::new("/dev/vfio/devices").join(name))?;
        let mut arg = BindIommufd {
            iommufd: iommufd.as_fd().as_raw_fd(),
            ..Default::default()
        };
        call(&cdev, "VFIO_DEVICE_BIND_IOMMUFD", BIND_IOMMUFD, &mut arg)?;
        let device = VfioDevice {
            cdev,
            id: arg.out_devid,
        };
        let (config, _) = device.region(PCI_CONFIG_REGION)?;
        device.cdev.write_all_at(
            &PCI_COMMAND_MEMORY_MASTER.to_le_bytes(),
            config + PCI_COMMAND,
        )?;
        Ok(device)
    }

    fn region(&self, index: u32) -> io::Result<(u64, u64)> {
        let mut arg = RegionInfo {
            index,
            ..Default::default()
        };
        call(
            &self.cdev,
            "VFIO_DEVICE_GET_REGION_INFO",
            GET_REGION_INFO,
            &mut arg,
        )?;
        Ok((arg.offset, arg.size))
    }

    /// Maps a BAR.
    pub fn map_bar(&self, index: u32) -> io::Result<Shared> {
        let (offset, size) = self.region(index)?;
        Shared::of_file(
            &self.cdev,
            offset,
            usize::try_from(size).map_err(io::Error::other)?,
        )
    }

    /// Attaches the device to a page table, in place of the one it is attached to.
    pub fn attach(&self, page_table: ObjectId) -> io::Result<()> {
        let mut arg = AttachIommufdPt {
            pt_id: page_table,
            ..Default::default()
        };
        call(
            &self.cdev,
            "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
            ATTACH_IOMMUFD_PT,
            &mut arg,
        )
    }

    pub fn detach(&self) -> io::Result<()> {
        call(
            &self.cdev,
            "VFIO_DEVICE_DETACH_IOMMUFD_PT",
            DETACH_IOMMUFD_PT,
            &mut DetachIommufdPt::default(),
        )
    }
}
