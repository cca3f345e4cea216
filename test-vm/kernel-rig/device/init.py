# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Process 1 of a host on which vsva-check-device is run: says what it says, and what the kernel
says, and switches the machine off.
"""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

FUNCTION, OTHER = "0000:00:01.0", "0000:00:02.0"
POWER_OFF = 0x4321FEDC
libc = ctypes.CDLL(None, use_errno=True)


def mount(kind, folder):
    os.makedirs(folder, exist_ok=True)
    if libc.mount(kind.encode(), folder.encode(), kind.encode(), 0, None) != 0:
        raise OSError(ctypes.get_errno(), kind)


def bind(function):
    Path(f"/sys/bus/pci/devices/{function}/driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(function)


def check(name, *words):
    done = subprocess.run(
        [sys.executable, "-I", "/vsva-check-device", "--json", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = json.loads(done.stdout) if done.stdout else {}
    line = {"name": name, "status": done.returncode, "found": found, "errors": done.stderr}
    print("vsva-device: " + json.dumps(line), flush=True)


def run():
    for kind, folder in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"),
                         ("tmpfs", "/tmp")):
        mount(kind, folder)
    if "quick" in sys.argv:
        bind(FUNCTION)
        check("bound", FUNCTION)
        return
    check("not bound", FUNCTION)
    bind(FUNCTION)
    bind(OTHER)
    check("bound", FUNCTION)
    check("once more", FUNCTION, OTHER)
    cdev = os.listdir(f"/sys/bus/pci/devices/{FUNCTION}/vfio-dev")[0]
    holder = subprocess.Popen(
        [sys.executable, "-I", "/holder.py", f"/dev/vfio/devices/{cdev}"], stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    check("in use", FUNCTION)
    holder.kill()
    holder.wait()
    check("free again", FUNCTION)


try:
    run()
except Exception as error:
    print(f"vsva-device-error: {error!r}", flush=True)
print("vsva-device-end", flush=True)
os.sync()
libc.reboot(POWER_OFF)
