# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The eight steps of one fault's round trip, followed by its address, STAG and cookie through
all logs.
"""

from dataclasses import dataclass

from record import Record

PAGE = ~0xfff


@dataclass(frozen=True)
class Step:
    number: int
    time: float
    actor: str
    towards: str
    event: str
    ids: dict


def _pick(records, after):
    return next((record for record in records if record.time >= after), None)


def follow(run, address, side="source"):
    """
    The steps of the fault at this process address. A step that no log shows becomes a problem
    of the run, so that the demo cannot print a step that did not happen.
    """
    trace, backend = f"trace {side}", f"backend {side}"

    def at_page(event, actor, key="addr"):
        return [
            record
            for record in run.find(actor, event)
            if record.ids.get(key, 0) & PAGE == address & PAGE
        ]

    found = []

    def step(number, record: Record | None, actor, towards, event, *keys, **more):
        if record is None:
            run.problems.append(
                f"step {number} ({event}) of the fault at {address:#x} is in no log"
            )
            return found[-1].time if found else run.start
        found.append(Step(number, record.time, actor, towards, event,
                          {**{key: record.ids[key] for key in keys if key in record.ids}, **more}))
        return record.time

    read = _pick(at_page("fault_read", backend), run.start)
    stag = read.ids["stag"] if read else None
    cookie = read.ids["cookie"] if read else None
    begin = read.time if read else run.start
    step(1, _pick(at_page("vsva_testdev_stall", trace), run.start), "device", "backend",
         "DMA misses a translation, a fault record is sent", "sid", "ssid", "addr", "cookie")
    step(
        2,
        read,
        "backend",
        "vSMMU",
        "fault record read, event record made",
        "sid",
        "ssid",
        "addr",
        "stag",
    )
    step(3, _pick(run.find(trace, "smmuv3_deliver_event", stag=stag), begin), "vSMMU", "guest",
         "event record put into the guest's event queue", "sid", "stag")
    held = _pick(run.find("guest", "fault_held"), begin)
    step(4, held, "guest", "guest", "the kernel's page fault handler has the fault", "waiters")
    resumed = _pick(run.find(backend, "resume_received", stag=stag), begin)
    step(
        5,
        _pick(run.find(trace, "smmuv3_fault_handler_command", word2=stag), begin),
        "guest",
        "vSMMU",
        "page is there, CMD_RESUME in the command queue",
        "sid",
        stag=stag,
    )
    step(6, resumed, "vSMMU", "backend", "CMD_RESUME handed to the backend", "sid", "stag")
    step(
        7,
        _pick(
            run.find(trace, "vsva_testdev_response", cookie=cookie),
            resumed.time if resumed else begin,
        ),
        "backend",
        "device",
        "page response arrives",
        "cookie",
        "code",
    )
    step(8, _pick(at_page("vsva_testdev_retry", trace), begin), "device", "device",
         "access made again, the DMA goes on", "addr")
    return found
