# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Internal snapshots of a VM with page faults outstanding."""

from avocado_vsva import VsvaTest

LONG_DEADLINE = {"drain-timeout": 60000}
SIZE = 1 << 30


class Snapshots(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,snapshot
    """

    def run_job(self, vm, command, **arguments):
        since = len(vm.qmp.events)
        vm.qmp.cmd(command, job_id=command, **arguments)
        return since

    def finish_job(self, vm, job, since, timeout=60):
        """The error text of a job once it has ended, or None."""
        vm.qmp.wait("JOB_STATUS_CHANGE", timeout, since, id=job, status="concluded")
        error = next(entry.get("error") for entry in vm.qmp.cmd("query-jobs") if entry["id"] == job)
        vm.qmp.cmd("job-dismiss", id=job)
        return error

    def add_disk(self, vm):
        """A qcow2 node for the VM's state; no disk of the guest."""
        image = str(self.sockets / "snapshots.qcow2")
        for name, size, node in (("file0", 0, {"driver": "file", "filename": image}),
                                 ("qcow0", SIZE, {"driver": "qcow2", "file": "file0"})):
            since = self.run_job(vm, "blockdev-create", options={**node, "size": size})
            self.assertIsNone(self.finish_job(vm, "blockdev-create", since))
            vm.qmp.cmd("blockdev-add", **node, node_name=name)

    def save(self, vm):
        return self.run_job(vm, "snapshot-save", tag="tag0", vmstate="qcow0", devices=["qcow0"])

    def test_snapshot_save_with_fault_outstanding_drains_before_stop(self):
        source = self.new_source(vsva=LONG_DEADLINE)
        self.add_disk(source)
        self.hold_faults(source, 4)
        since = self.save(source)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        self.assertIsNone(source.qmp.events.absent(lambda event: event.name == "STOP", 0.3, since))
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assertIsNone(self.finish_job(source, "snapshot-save", since))
        self.assert_drained_before_stop(source, since)
        self.assert_all_done(source, 14)

        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(source, 34)
        since = self.run_job(
            source, "snapshot-load", tag="tag0", vmstate="qcow0", devices=["qcow0"]
        )
        self.assertIsNone(self.finish_job(source, "snapshot-load", since))
        self.assert_all_done(source, 14)
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        self.assert_all_done(source, 34)

    def test_snapshot_save_cancelled_while_draining_takes_no_snapshot(self):
        source = self.new_source(vsva=LONG_DEADLINE)
        self.add_disk(source)
        self.hold_faults(source, 1)
        since = self.save(source)
        source.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        source.guest.cmd("dma 0 10 src=fresh dst=fresh")
        source.qmp.cmd("job-cancel", id="snapshot-save")
        self.assertIsNotNone(self.finish_job(source, "snapshot-save", since))
        source.qmp.wait("VSVA_RELEASED", 30, since)
        self.assertEqual(source.qmp.find("STOP", since), [])
        source.guest.release_faults()
        self.assert_all_done(source, 11)
