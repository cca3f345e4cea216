# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
Base class of the end-to-end tests with a passed-through device: real vfio-pci, iommufd and
arm-smmu-v3, in a virtual machine that stands for the host. Bodies are those of the tests with
an emulated device wherever they make sense.
"""

from avocado_vsva import VsvaTest, journal

from .environment import HostEnvironment
from .guest_vm import GuestVm
from .host import Host
from .remote import RemoteBackend
from .witness import account

PATIENCE = 6


class PassthroughTest(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,vsva,passthrough
    """

    timeout = 900
    # What a device has to save counts as downtime, which emulation makes longer than QEMU's default
    # allows.
    migration_parameters = {"downtime-limit": 30000, "avail-switchover-bandwidth": 1 << 30}
    devices = 2
    driver_options = ""
    hardware = ""

    def setUp(self):
        journal.PATIENCE = PATIENCE
        super().setUp()
        self.host = Host(HostEnvironment.load(), self.folder, self.devices, self.driver_options,
                         self.hardware)
        self.trouble = []
        self.processes.append(self.end_host)

    def end_host(self):
        """After all that runs in it: no fault of any of them waits any more."""
        self.trouble = self.host.trouble() + account(self.host.trace_path).complaints(None)
        self.failed = self.failed or bool(self.trouble)
        self.host.off()

    def tearDown(self):
        super().tearDown()
        if self.trouble:
            self.fail(f"the host: {self.trouble[0]}; logs: {self.folder}")

    def new_backend(self, name, *options, follows=None):
        backend = RemoteBackend(self.host, f"{name}-backend", self.folder, options, follows)
        self.processes.append(backend.stop)
        self.backends.append(backend)
        return backend

    def new_vm(self, name="source", **options):
        vm = GuestVm(self.host, name, self.folder, **options)
        self.processes.append(vm.quit)
        if options.get("backend") and not options["backend"].reconnect_ms:
            self.replay.add(vm, {"vsva0": options["backend"]}, options.get("vsva"))
        return vm

    def assert_stalls_ended_once(self):
        """By the host's SMMU itself; what it has counted."""
        counted = account(self.host.trace_path)
        self.assertEqual(counted.complaints(None), [])
        return counted

    def start_migration(self, source, destination, parameters=None, **capabilities):
        parameters = {**self.migration_parameters, **(parameters or {})}
        return super().start_migration(source, destination, parameters, **capabilities)

    def state_uri(self):
        return "file:/run/state"

    def uri(self, destination):
        return f"unix:/run/{destination.name}-migration.sock"
