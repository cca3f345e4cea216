# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
Base class of the end-to-end tests, in the style of avocado_qemu.

A test is real QEMU, the real backend and a real guest. Bodies use nothing of avocado but the
base class, so "python -m unittest" runs them too. What the processes have said is kept, for a
failed test, in one folder whose name is printed.
"""

import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import SkipTest

import avocado

from . import migration
from .backend import Backend, StartedByQemu
from .environment import Environment
from .replay import Replay, RulesBroken
from .vm import Vm

OVERRIDDEN = ("setUp", "tearDown", "timeout")
KEEP = os.environ.get("VSVA_KEEP_LOGS") == "1"


def _keep_logs_on_failure(test):
    @functools.wraps(test)
    def run(self):
        try:
            test(self)
        except (SkipTest, avocado.TestCancel):
            raise
        except BaseException:
            self.failed = True
            print(f"logs of the failed test: {self.folder}", file=sys.stderr, flush=True)
            raise
    return run


class VsvaTest(avocado.Test):
    """
    :avocado: tags=arch:aarch64,machine:virt,vsva
    """

    timeout = 300
    migration_parameters = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name, member in list(vars(cls).items()):
            if name not in OVERRIDDEN and not name.startswith("_") and hasattr(avocado.Test, name):
                raise TypeError(
                    f"{cls.__name__}.{name} is an attribute that avocado needs: "
                    "give it another name"
                )
            if name.startswith("test_"):
                setattr(cls, name, _keep_logs_on_failure(member))

    def setUp(self):
        self.environment = Environment.load()
        self.failed = False
        self.processes = []
        self.backends = []
        self.replay = Replay(self.environment.replay)
        self.folder = (
            self.environment.out / "tests" / f"{type(self).__name__}.{self._testMethodName}"
        )
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.sockets = Path(tempfile.mkdtemp(prefix="vsva-"))

    def tearDown(self):
        for stop in reversed(self.processes):
            stop()
        shutil.rmtree(self.sockets, ignore_errors=True)
        broken = self.broken_rules()
        if not (self.failed or broken or KEEP):
            shutil.rmtree(self.folder, ignore_errors=True)
        if broken and not self.failed:
            self.fail(broken)

    def broken_rules(self):
        """The step of what was recorded that breaks a rule, or None."""
        try:
            self.replay.check()
        except RulesBroken as error:
            print(f"a rule is broken: {error}\nlogs: {self.folder}", file=sys.stderr, flush=True)
            return str(error)
        return None

    def new_backend(self, name, *options):
        backend = Backend(
            self.environment.backend, f"{name}-backend", self.folder, self.sockets, options
        )
        self.processes.append(backend.stop)
        self.backends.append(backend)
        return backend

    def new_vm(self, name="source", **options):
        vm = Vm(self.environment, name, self.folder, **options)
        self.processes.append(vm.quit)
        backends = options.get("backends") or {0: options.get("backend")}
        if any(isinstance(backend, StartedByQemu) or getattr(backend, "reconnect_ms", None)
               for backend in backends.values()):
            # It has no event log from its first moment, or another one goes on: the rules know
            # neither.
            return vm
        self.replay.add(
            vm,
            {f"vsva{number}": one for number, one in backends.items() if one},
            options.get("vsva"),
        )
        return vm

    def new_pair(self, source_backend=(), destination_backend=(), **options):
        """A booted source and a waiting destination, each with a backend of its own."""
        source = self.new_source(*source_backend, **options)
        return source, self.new_destination(*destination_backend, **options)

    def new_source(self, *backend_options, **options):
        return self.new_vm(
            "source", backend=self.new_backend("source", *backend_options), **options
        ).boot()

    def new_destination(self, *backend_options, name="destination", **options):
        return self.new_vm(
            name, backend=self.new_backend(name, *backend_options), incoming=True, **options
        )

    def uri(self, destination):
        return f"unix:{self.sockets / destination.name}-migration.sock"

    def state_uri(self):
        """Where the state of a VM that is saved is kept."""
        return f"file:{self.sockets}/state"

    def start_migration(self, source, destination, parameters=None, **capabilities):
        return migration.start(
            source, destination, self.uri(destination), parameters, **capabilities
        )

    def assert_migrated(self, source, destination, since):
        status = migration.wait_status(source, since)
        self.assertEqual(status, "completed", migration.reason(source))
        migration.resumed_at(destination)

    def assert_drained_before_stop(self, vm, since):
        vm.qmp.wait("STOP", 30, since)
        names = [event.name for event in vm.qmp.events.all(since)]
        self.assertIn("VSVA_DRAIN_COMPLETED", names)
        self.assertLess(names.index("VSVA_DRAIN_COMPLETED"), names.index("STOP"), names)

    def assert_all_done(self, vm, count=None):
        """Every request has ended well: once, in order, with the right data."""
        vm.guest.wait("idle")
        result = vm.guest.verify()
        for key in ("wrong_data", "wrong_crc", "not_once", "out_of_order", "missing"):
            self.assertEqual(result[key], 0, result)
        if count is not None:
            self.assertEqual(result["checked"], count, result)
        return result

    def hold_faults(self, vm, count, device=0):
        """Start requests whose page faults the guest does not answer until it is told so."""
        vm.guest.cmd("hold on")
        answer = vm.guest.cmd(f"dma {device} {count} src=warm dst=held")
        vm.guest.wait(f"waiters={count}")
        return answer
