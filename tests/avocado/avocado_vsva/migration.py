# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Live migration between two VMs of this machine, by QMP."""

ENDED = ("completed", "failed", "cancelled")
TIMEOUT = 60


def prepare(vm, parameters=None, **capabilities):
    capabilities = {"events": True, **capabilities}
    vm.qmp.cmd(
        "migrate-set-capabilities",
        capabilities=[
            {"capability": name.replace("_", "-"), "state": state}
            for name, state in capabilities.items()
        ],
    )
    if parameters:
        vm.qmp.cmd("migrate-set-parameters", **parameters)


def start(source, destination, uri, parameters=None, **capabilities):
    """
    Begin; the number of events that the source had seen before. With the return path, as
    management does it: the source hears what becomes of its state at the destination before
    it takes the migration for completed.
    """
    capabilities = {"return_path": True, **capabilities}
    prepare(destination, None, **capabilities)
    destination.qmp.cmd("migrate-incoming", uri=uri)
    return start_outgoing(source, uri, parameters, **capabilities)


def start_outgoing(source, uri, parameters=None, **capabilities):
    prepare(source, parameters, **capabilities)
    since = len(source.qmp.events)
    source.qmp.cmd("migrate", uri=uri)
    return since


def wait_status(vm, since, statuses=ENDED, timeout=TIMEOUT):
    """The first of these states that the migration reaches."""
    def match(event):
        return event.name == "MIGRATION" and event.data["status"] in statuses
    return vm.qmp.events.wait(match, f"migration to be {' or '.join(statuses)}", timeout, since)[
        1
    ].data["status"]


def reason(vm):
    """Why the last migration has failed, as QMP tells it."""
    return vm.qmp.cmd("query-migrate").get("error-desc", "")


def resumed_at(destination, timeout=TIMEOUT):
    return destination.qmp.wait("RESUME", timeout).time
