# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
What `--trace` and `vhost-user-vsva trace` write, read with the schema of Perfetto that PyPI's
package brings.

VSVA_BACKEND names the program.
"""

import struct
import subprocess
import sys
import tempfile
import unittest
from collections import defaultdict
from pathlib import Path

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "front_end"))

import front_end as fe
from test_front_end import SID, SSID, Vm, fault, program, submission

Event = pb.TrackEvent


class Slice:
    def __init__(self, packet, track):
        self.name = packet.track_event.name
        self.begin = packet.timestamp
        self.end = None
        self.track = track
        self.notes = {note.name: note for note in packet.track_event.debug_annotations}


class Trace:
    """Slices and instants by track, and what each flow leads through. Each rule of the format is
    checked on the way.
    """

    def __init__(self, test, data):
        trace = pb.Trace()
        trace.ParseFromString(data)
        length = trace.ByteSize()
        trace.DiscardUnknownFields()
        test.assertEqual(trace.ByteSize(), length, "fields that the schema does not have")
        self.tracks, self.slices, self.instants = {}, [], []
        self.flows = defaultdict(list)
        self.counters = defaultdict(list)
        stacks = defaultdict(list)
        for packet in trace.packet:
            test.assertTrue(packet.trusted_packet_sequence_id)
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                test.assertNotIn(track.uuid, self.tracks)
                test.assertIn(track.parent_uuid, {0, *self.tracks})
                self.tracks[track.uuid] = track
                continue
            event = packet.track_event
            test.assertIn(event.track_uuid, self.tracks)
            test.assertGreater(packet.timestamp, 0)
            stack = stacks[event.track_uuid]
            if event.type == Event.TYPE_COUNTER:
                test.assertTrue(self.tracks[event.track_uuid].HasField("counter"))
                self.counters[self.name(event.track_uuid)].append(event.counter_value)
                continue
            if event.type == Event.TYPE_SLICE_END:
                stack.pop().end = packet.timestamp
                continue
            one = Slice(packet, event.track_uuid)
            if event.type == Event.TYPE_SLICE_BEGIN:
                stack.append(one)
                self.slices.append(one)
            else:
                test.assertEqual(event.type, Event.TYPE_INSTANT)
                one.end = one.begin
                self.instants.append(one)
            for flow in event.flow_ids:
                self.flows[flow].append((one, False))
            for flow in event.terminating_flow_ids:
                self.flows[flow].append((one, True))

    def name(self, uuid):
        track = self.tracks[uuid]
        return track.process.process_name if track.HasField("process") else track.name

    def path(self, uuid):
        """Names from the process to the track."""
        track = self.tracks[uuid]
        before = self.path(track.parent_uuid) if track.parent_uuid else ()
        return (*before, self.name(uuid))

    def of(self, *path):
        return [one for one in [*self.slices, *self.instants] if self.path(one.track)[1:] == path]


class Traces(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def start(self, name, *options):
        vm = Vm(self, "--status-socket", self.folder / f"{name}.status.sock", *options)
        vm.name = name
        return vm

    def ask(self, vm):
        """The trace of a program that runs."""
        output = self.folder / f"{vm.name}.asked"
        subprocess.run(
            [*program(), "trace", "--output", output, self.folder / f"{vm.name}.status.sock"],
            check=True,
            stdout=subprocess.PIPE,
        )
        return Trace(self, output.read_bytes())

    def end(self, vm):
        vm.process.terminate()
        self.assertEqual(vm.process.wait(), 0)

    def stall(self, vm, cookie, address):
        vm.device.sendall(fault(cookie, address))
        kind, _, payload = vm.front_end.next_event()
        self.assertEqual(kind, fe.SMMU_EVENT)
        return struct.unpack_from("<QQ", payload)[1] & 0xFFFF

    def serve(self, vm, cookie, address):
        vm.front_end.resume(SID, self.stall(vm, cookie, address))
        vm.device.recv(8)

    def migrate(self, *options):
        """The back-ends of a migration with a fault that is answered in the drain."""
        source, destination = (self.start(name, *(option.format(name) for option in options))
                               for name in ("source", "destination"))
        source.front_end.start()
        self.serve(source, 1, 0x7F0000001000)
        stag = self.stall(source, 2, 0x7F0000002000)
        source.front_end.post(fe.DRAIN, fe.ALL, struct.pack("<QII", 9, 1000 * fe.LIMIT, 0))
        source.front_end.post(fe.SUBMIT, 0, submission(0))
        source.front_end.resume(SID, stag)
        source.device.recv(8)
        source.front_end.post(fe.DEVICE_QUIESCED, 0, struct.pack("<Q", 9))
        self.assertEqual(source.front_end.next_event()[0], fe.DRAINED)
        source.front_end.stop()
        destination.front_end.load(source.front_end.save())
        destination.front_end.start()
        destination.front_end.post(fe.RELEASE, fe.ALL, struct.pack("<Q", 0))
        self.assertEqual(destination.front_end.next_event()[0], fe.REPLAY)
        self.assertEqual(destination.front_end.next_event()[0], fe.RELEASED)
        return source, destination

    def check(self, source, destination):
        self.check_faults(source)
        drain, = [one for one in source.of("drain") if one.name == "drain"]
        self.assertEqual(drain.notes["generation"].uint_value, 9)
        self.assertLess(drain.begin, drain.end)
        names = [one.name for one in source.of("drain")]
        self.assertEqual(sorted(names), ["device at rest", "drain", "drained"])
        save, = source.of("save")
        self.assertGreaterEqual(save.begin, drain.end)
        self.assertGreaterEqual(save.end, save.begin)
        self.assertEqual([one.name for one in source.of("submissions")], ["queued"])
        self.assertEqual(source.counters["submissions pending"], [1])

        load, loaded = destination.of("load")
        self.assertEqual((load.name, loaded.name), ("load", "loaded"))
        self.assertGreaterEqual(load.end, load.begin)
        replay, = destination.of("replay")
        self.assertGreaterEqual(replay.begin, load.end)
        replayed, = destination.of("submissions")
        self.assertEqual(replayed.name, "replayed")
        self.assertTrue(replay.begin <= replayed.begin <= replay.end)
        self.assertEqual(destination.counters["submissions pending"][-1], 0)

    def check_faults(self, trace):
        device = f"device 0 (SID {SID:#x})"
        process = (device, f"SSID {SSID:#x}")
        faults = [one for one in trace.of(*process) if one.name.startswith("1: ")]
        addresses = [one.notes["address"].pointer_value for one in faults]
        self.assertEqual(addresses, [0x7F0000001000, 0x7F0000002000])
        self.assertEqual(len(trace.flows), 2)
        wanted = [
            ("1: fault {:#x}", process, False),
            ("2: read, event made", ("back-end",), False),
            ("3, 4, 5: event queue to CMD_RESUME", ("vSMMU and guest",), False),
            ("6, 7: answer to page response", ("back-end",), False),
            ("8: the DMA goes on", process, True),
        ]
        for address, steps in zip(addresses, trace.flows.values(), strict=True):
            found = [(one.name, trace.path(one.track)[1:], last) for one, last in steps]
            self.assertEqual(found, [(name.format(address), *rest) for name, *rest in wanted])
            whole, *inner = [one for one, _ in steps]
            times = [one.begin for one in inner]
            self.assertEqual(times, sorted(times))
            self.assertTrue(all(whole.begin <= one.begin <= one.end <= whole.end for one in inner))
        self.assertEqual(trace.counters["faults outstanding"], [1, 0, 1, 0])
        self.assertTrue(all(one.end is not None for one in trace.slices))

    def test_trace_of_a_migration_has_its_tracks_spans_and_flows(self):
        vms = self.migrate("--trace", str(self.folder / "{}.trace"))
        for vm in vms:
            self.end(vm)
        source, destination = (
            Trace(self, (self.folder / f"{vm.name}.trace").read_bytes()) for vm in vms
        )
        self.check(source, destination)
        ends = [[one.name for one in trace.of("front end")] for trace in (source, destination)]
        self.assertEqual(ends, [["connected", "begins anew", "disconnected"]] * 2)

    def test_trace_of_programs_that_run_is_the_same(self):
        self.check(*map(self.ask, self.migrate()))

    def test_trace_of_a_fault_that_is_outstanding_has_it_open(self):
        vm = self.start("vm")
        vm.front_end.start()
        self.stall(vm, 1, 0x7F0000001000)
        trace = self.ask(vm)
        self.assertEqual([one.name for one in trace.slices if one.end is None],
                         ["1: fault 0x7f0000001000", "3, 4, 5: event queue to CMD_RESUME"])

    def test_traces_of_two_programs_put_together_keep_their_tracks_apart(self):
        vms = self.migrate("--trace", str(self.folder / "{}.trace"))
        for vm in vms:
            self.end(vm)
        both = b"".join((self.folder / f"{vm.name}.trace").read_bytes() for vm in vms)
        trace = Trace(self, both)
        processes = [
            track.process.pid for track in trace.tracks.values() if track.HasField("process")
        ]
        self.assertEqual(processes, [vm.process.pid for vm in vms])


if __name__ == "__main__":
    unittest.main()
