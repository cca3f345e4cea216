# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""QEMU's command lines: the host's (L1), and in it the guest's (L2)."""

from avocado_vsva.command_line import TRACE_PATTERNS

from . import environment

FIRST_DEVICE = 1
FIRST_PORTS = 0x10
PORTS_EACH = 6
FIRST_PASSED = 0x10
WITNESS_PATTERNS = ("smmuv3_stall*", "smmuv3_cmd_resume*", "smmuv3_cmd_stall*")
VFIO_PATTERNS = ("vfio_migration_set_state", "vfio_vmstate_change*")


def host(found, fds, devices, device, trace_path, clock):
    """device: properties of each test device. fds: descriptors of connected sockets, by the
    names of the ports; that of the console among them.
    """
    words = [
        found.qemu,
        "-name",
        "l1,debug-threads=on",
        "-msg",
        "timestamp=on",
        "-M",
        "virt,virtualization=on,iommu=smmuv3,gic-version=3",
        "-cpu",
        "cortex-a76",
        "-accel",
        "tcg,thread=multi",
        "-smp",
        "2",
        "-m",
        "2048",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-kernel",
        found.kernel,
        "-initrd",
        found.initrd,
        "-append",
        f"console=ttyAMA0 loglevel=6 oops=panic panic=-1 vsva.clock={clock}",
        "-global",
        "arm-smmuv3.stall=on",
        "-global",
        "arm-smmuv3.fwb=on",
        "-global",
        "arm-smmuv3.ssidsize=8",
        "-D",
        trace_path,
    ]
    for pattern in WITNESS_PATTERNS:
        words += ["-trace", pattern]
    for number in range(devices):
        words += ["-device", f"vsva-testdev,id=td{number},addr={FIRST_DEVICE + number:#x}{device}"]
    return words + ports(fds)


def ports(fds):
    """
    A few on each controller: QEMU drops what its control queue of 32 has no room for, which
    are the names of ports and that they are open.
    """
    words, count = [], 0
    for name, fd in fds.items():
        words += ["-chardev", f"socket,id={name},fd={fd}"]
        if name == "console":
            words += ["-serial", f"chardev:{name}"]
            continue
        controller, number = divmod(count, PORTS_EACH)
        if number == 0:
            words += [
                "-device",
                f"virtio-serial-pci,id=ports{controller},addr={FIRST_PORTS + controller:#x}",
            ]
        words += ["-device", f"virtserialport,bus=ports{controller}.0,chardev={name},name={name}"]
        count += 1
    return words


def guest(name, slot, boot, smmu, memory_mib):
    """Without devices. boot: kernel and initramfs, in the host."""
    words = [
        environment.QEMU,
        "-name",
        f"{name},debug-threads=on",
        "-msg",
        "timestamp=on",
        "-M",
        f"virt,gic-version=3{',iommu=smmuv3' if smmu else ''}",
        "-cpu",
        "host",
        "-accel",
        "kvm",
        "-smp",
        "2",
        "-m",
        memory_mib,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-kernel",
        boot[0],
        "-initrd",
        boot[1],
        "-append",
        "console=ttyAMA0 panic=-1 loglevel=4",
    ]
    for channel in ("qmp", "console", "guest"):
        words += ["-chardev", f"pipe,id={channel},path=/run/ports/vm{slot}.{channel}"]
    words += ["-mon", "chardev=qmp,mode=control", "-serial", "chardev:console",
              "-device", "virtio-serial-pci,addr=0x1",
              "-device", "virtserialport,chardev=guest,name=org.vsva.ctl",
              "-D", f"/run/{name}-trace.log"]
    for pattern in (*TRACE_PATTERNS, *VFIO_PATTERNS):
        words += ["-trace", pattern]
    for key, value in {**smmu, "accel": "on"}.items() if smmu else ():
        words += ["-global", f"arm-smmuv3.{key}={value}"]
    return words


def passed_through(functions, properties, backend=None, vsva=None):
    """vfio-pci for each function, with a vhost-user-vsva device if there is a back-end."""
    words = ["-object", "iommufd,id=iommufd0"]
    link = ""
    if backend is not None:
        text = "".join(f",{key}={value}" for key, value in (vsva or {}).items())
        again = f",reconnect-ms={backend.reconnect_ms}" if backend.reconnect_ms else ""
        words += ["-chardev", f"socket,id=vsva-socket0,path={backend.socket_path}{again}",
                  "-device", f"vhost-user-vsva,id=vsva0,chardev=vsva-socket0{text}"]
        link = ",vsva=vsva0"
    text = "".join(f",{key}={value}" for key, value in properties.items())
    for number, function in enumerate(functions):
        words += [
            "-device",
            f"vfio-pci,id=td{number},bus=pcie.0,addr={FIRST_PASSED + number:#x},host={function},"
            f"iommufd=iommufd0{link}{text}",
        ]
    return words
