# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The three runs of the demo. Each is real QEMU with a real guest; A and B with the real
backend.
"""

from pathlib import Path
from typing import NamedTuple

from steps import follow
from avocado_vsva import migration
from avocado_vsva.backend import Backend
from avocado_vsva.environment import Environment
from avocado_vsva.vm import Vm

DEADLINE = {"drain-timeout": 20000}
LOAD_RATE = 400
LOAD_TOTAL = 600
QUEUED_BEFORE_ANSWER = 800
PLAIN_TURNS = 3


class Place(NamedTuple):
    environment: Environment
    logs: Path
    sockets: Path


class Machines:
    """The VMs of a run, each with its backend. On the way out, all that they have said is
    gathered and they end.
    """

    def __init__(self, run, place, with_device=True, **vsva):
        self.run, self.place = run, place
        self.name = f"run-{run.name.lower()}"
        self.folder = place.logs / self.name
        self.folder.mkdir()
        self.with_device, self.vsva = with_device, vsva
        self.started = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for side, vm, backend in self.started:
            self.run.gather(side, vm, backend)
        for _, vm, backend in self.started:
            vm.quit()
            if backend:
                backend.stop()

    def start(self, side, incoming):
        name = f"{self.name}-{side.replace(' ', '-')}"
        backend = None
        if self.with_device:
            backend = Backend(
                self.place.environment.backend, f"{name}-backend", self.folder, self.place.sockets
            )
        try:
            vm = Vm(self.place.environment, name, self.folder, backend=backend, incoming=incoming,
                    test_devices=1 if self.with_device else 0, vsva=self.vsva)
        except Exception:
            if backend:
                backend.kill()
            raise
        self.started.append((side, vm, backend))
        return vm, backend

    def uri(self, destination):
        return f"unix:{self.place.sockets}/{destination.name}-migration.sock"


def _begin(run, source):
    """One DMA whose page fault the guest holds, and a stream of others that goes on all the
    time.
    """
    source.guest.cmd("hold on")
    request = source.guest.cmd("dma 0 1 len=4096 src=warm dst=held")
    source.guest.wait("waiters=1")
    run.note("guest", "fault_held", waiters=1, addr=int(request["dst"], 0))
    source.guest.cmd(f"load 0 start rate={LOAD_RATE} total={LOAD_TOTAL}")
    run.note("guest", "load_started", rate=LOAD_RATE, total=LOAD_TOTAL)
    return int(request["dst"], 0)


def _let_go(run, vm):
    run.note("guest", "hold_released")
    vm.guest.release_faults()


def _check(run, vm):
    """Wait for the last request, then look at each one's data, checksum, count and order."""
    vm.guest.wait(f"completed={LOAD_TOTAL + 1}", 60)
    result = vm.guest.ask("verify", 120)
    run.note(
        "guest",
        "verified",
        **{key: value for key, value in result.items() if key not in ("time", "ok")},
    )
    run.require(
        result["checked"] == LOAD_TOTAL + 1,
        f"{result['checked']} DMAs checked, not {LOAD_TOTAL + 1}",
    )
    for key in ("wrong_data", "wrong_crc", "not_once", "out_of_order", "missing"):
        run.require(result[key] == 0, f"{key}: {result[key]}")
    run.counts["dmas"] = result["checked"]


def _count(run):
    backends = ("backend source", "backend destination")
    for count, event in (("faults", "fault_read"), ("answers", "answer_written"),
                         ("submissions_queued", "submission_queued"), ("replays", "replay")):
        run.counts[count] = sum(len(run.find(backend, event)) for backend in backends)
    run.require(run.counts["faults"] == run.counts["answers"], "not every fault was answered once")
    run.require(run.counts["submissions_queued"] == run.counts["replays"],
                "not every queued submission was replayed once")


def _stopped_for(run):
    stop = run.first("QEMU source", "STOP")
    resume = run.first("QEMU destination", "RESUME")
    return resume.time - stop.time if stop and resume else None


def run_a(run, place):
    """Run A, today's order: the vCPUs are stopped first, with a fault outstanding"""
    with Machines(run, place, **{"x-unsafe-no-drain": "on"}) as machines:
        source, _ = machines.start("source", False)
        destination, _ = machines.start("destination", True)
        source.boot()
        address = _begin(run, source)
        since = migration.start(source, destination, machines.uri(destination))
        run.outcome = migration.wait_status(source, since)
        run.reason = migration.reason(source)
        if run.outcome == run.expected:
            source.qmp.wait("RESUME", 30, since)
            _let_go(run, source)
            _check(run, source)
    run.require(run.first("QEMU source", "STOP"), "the vCPUs were not stopped")
    run.require(
        "outstanding" in run.reason, f"the reason is not the outstanding fault: {run.reason}"
    )
    run.steps = follow(run, address)
    _count(run)


def run_b(run, place):
    """Run B, the same moment with draining: the vCPUs stop after the device"""
    with Machines(run, place, **DEADLINE) as machines:
        source, backend = machines.start("source", False)
        destination, _ = machines.start("destination", True)
        source.boot()
        address = _begin(run, source)
        since = migration.start(source, destination, machines.uri(destination))
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        backend.events.wait(lambda record: record["event"] == "submission_queued"
                            and record["pending"] >= QUEUED_BEFORE_ANSWER,
                            f"{QUEUED_BEFORE_ANSWER} queued submissions", 30)
        _let_go(run, source)
        run.outcome = migration.wait_status(source, since)
        run.reason = migration.reason(source)
        if run.outcome == run.expected:
            destination.qmp.wait("VSVA_RELEASED", 30)
            _check(run, destination)
            run.qemu_downtime_ms = source.qmp.cmd("query-migrate")["downtime"]
    drained, stop = run.first("QEMU source", "VSVA_DRAIN_COMPLETED"), run.first(
        "QEMU source", "STOP"
    )
    run.require(
        drained and stop and drained.time <= stop.time,
        "the vCPUs stopped before the drain was complete",
    )
    tickets = [record.ids["ticket"] for record in run.find("backend destination", "replay")]
    run.require(
        len(tickets) >= QUEUED_BEFORE_ANSWER, f"only {len(tickets)} submissions were replayed"
    )
    run.require(tickets == sorted(set(tickets)), "the replay was not in order")
    run.downtime = _stopped_for(run)
    run.steps = follow(run, address)
    _count(run)


def run_plain(run, place):
    """For comparison, the same VM without the device, migrated three times"""
    downtimes = []
    with Machines(run, place, with_device=False) as machines:
        source, _ = machines.start("source", False)
        source.boot()
        for turn in range(PLAIN_TURNS):
            destination, _ = machines.start(f"destination {turn + 1}", True)
            since = migration.start(source, destination, machines.uri(destination))
            run.outcome = migration.wait_status(source, since)
            run.reason = migration.reason(source)
            if run.outcome != run.expected:
                break
            resumed = migration.resumed_at(destination)
            downtimes.append((resumed - source.qmp.find("STOP", since)[0].time,
                              source.qmp.cmd("query-migrate")["downtime"]))
            source = destination
    if downtimes:
        run.downtime, run.qemu_downtime_ms = sorted(downtimes)[len(downtimes) // 2]


RUNS = (
    ("A", "without drain: the vCPUs stop first", "failed", run_a),
    ("B", "with drain: faults are answered, then the vCPUs stop", "completed", run_b),
    ("plain", "the same VM without the device", "completed", run_plain),
)
