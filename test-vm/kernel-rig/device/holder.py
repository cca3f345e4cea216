# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Has a device open, bound to an iommufd, as a VM has."""

import fcntl
import os
import signal
import struct
import sys

device, iommu = (os.open(name, os.O_RDWR) for name in (sys.argv[1], "/dev/iommu"))
# VFIO_DEVICE_BIND_IOMMUFD
fcntl.ioctl(device, 0x3B76, bytearray(struct.pack("=IIiIQ", 24, 0, iommu, 0, 0)))
print("bound", flush=True)
signal.pause()
