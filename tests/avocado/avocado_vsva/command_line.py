# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""QEMU's command line for a VM of the tests."""

import json

from .backend import StartedByQemu

STALLS_ON = {"stall": "on", "ssidsize": 8}
TRACE_PATTERNS = (
    "vsva_*",
    "smmuv3_stall_*",
    "smmuv3_deliver_event*",
    "smmuv3_fault_handler*",
    "smmuv3_cmdq_sync_wait",
    # What the rules of a front end also need, see replay.py.
    "runstate_set",
    "vm_state_notify",
    "savevm_state_switchover_*",
    "savevm_state_cleanup",
    "vmstate_downtime_save",
    "loadvm_state_setup",
    "vmstate_load",
)
FIRST_TEST_DEVICE = 0x10


def machine(environment, name, memory_mib):
    return [
        environment.qemu,
        "-name",
        f"{name},debug-threads=on",
        "-msg",
        "timestamp=on",
        "-M",
        "virt,iommu=smmuv3,gic-version=3",
        "-cpu",
        "cortex-a57",
        "-accel",
        "tcg",
        "-smp",
        "2",
        "-m",
        memory_mib,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-kernel",
        environment.kernel,
        "-initrd",
        environment.initrd,
        "-append",
        "console=ttyAMA0 panic=-1 loglevel=4",
    ]


def channels(fds):
    """fds: descriptors of connected sockets for qmp, console and guest."""
    words = []
    for name, fd in fds.items():
        words += ["-chardev", f"socket,id={name},fd={fd}"]
    return words + ["-mon", "chardev=qmp,mode=control", "-serial", "chardev:console",
                    "-device", "virtio-serial-pci,addr=0x1",
                    "-device", "virtserialport,chardev=guest,name=org.vsva.ctl"]


def trace(path):
    words = ["-D", path]
    for pattern in TRACE_PATTERNS:
        words += ["-trace", pattern]
    return words


def smmu_properties(properties):
    words = []
    for key, value in properties.items():
        words += ["-global", f"arm-smmuv3.{key}={value}"]
    return words


def devices(backend, properties, test_devices):
    """A vhost-user-vsva device, if there is a backend, and so many test devices."""
    words = [] if backend is None else _vsva_device(0, backend, properties)
    for number in range(test_devices):
        words += _test_device(number, "" if backend is None else ",vsva=vsva0")
    return words


def devices_of_each(backends, properties):
    """A vhost-user-vsva device and a test device for each backend: by number, in the order of
    the command line.
    """
    words = []
    for number, backend in backends.items():
        words += _vsva_device(number, backend, properties)
    for number in backends:
        words += _test_device(number, f",vsva=vsva{number}")
    return words


def _vsva_device(number, backend, properties):
    if isinstance(backend, StartedByQemu):
        return _spawning_device(number, backend, properties)
    words = "".join(f",{key}={value}" for key, value in properties.items())
    again = (
        f",reconnect-ms={backend.reconnect_ms}" if getattr(backend, "reconnect_ms", None) else ""
    )
    return ["-chardev", f"socket,id=vsva-socket{number},path={backend.socket_path}{again}",
            "-device", f"vhost-user-vsva,id=vsva{number},chardev=vsva-socket{number}{words}"]


def _spawning_device(number, backend, properties):
    words = {
        "driver": "vhost-user-vsva",
        "id": f"vsva{number}",
        "path": str(backend.program),
        **properties,
    }
    if backend.options:
        # A list, which only JSON has.
        return ["-device", json.dumps({**words, "param": list(backend.options)})]
    driver = words.pop("driver")
    return ["-device", ",".join([driver, *(f"{key}={value}" for key, value in words.items())])]


def _test_device(number, link):
    return [
        "-device",
        f"vsva-testdev,id=td{number},bus=pcie.0,addr={FIRST_TEST_DEVICE + number:#x}{link}",
    ]
