# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""One VM with two vhost-user-vsva devices: each has a backend, rings, a queue and a state of its
own.
"""

from avocado_vsva import VsvaTest, migration

LONG_DEADLINE = {"drain-timeout": 60000}
BOTH = (0, 1)
OTHER_ORDER = (1, 0)
LOAD = 1000


class TwoBackends(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,two
    """

    def new_two(self, name, order=BOTH, **options):
        """A VM, and its backends by number."""
        backends = {number: self.new_backend(f"{name}{number}") for number in order}
        return self.new_vm(name, backends=backends, vsva=LONG_DEADLINE, **options), backends

    def new_source_of_two(self):
        source, backends = self.new_two("source")
        source.boot()
        self.assertEqual(source.guest.cmd("hello")["devices"], 2)
        return source, backends

    def entries(self, vm):
        """By the number of the device."""
        return {int(entry["id"][-1]): entry for entry in vm.qmp.cmd("query-vsva")}

    def both(self, vm, name, since):
        """The first event of this name of each device, by the device's number."""
        return {number: vm.qmp.wait(name, 60, since, id=f"vsva{number}").data for number in BOTH}

    def begin_load(self, vm):
        for device in BOTH:
            vm.guest.cmd(f"load {device} start burst=50 total={LOAD}")

    def assert_all_of_load_done(self, vm):
        for device in BOTH:
            vm.guest.wait(f"completed={LOAD} dev={device}", 120)
        self.assert_all_done(vm, 2 * LOAD)

    def migrate_with_pending_on_both(self, order):
        source, old = self.new_source_of_two()
        destination, new = self.new_two("destination", order, incoming=True)
        source.guest.cmd(
            "dma 1 30 src=fresh dst=fresh"
        )  # their tickets and counts are not to be the same
        source.guest.wait("completed=30 dev=1")
        self.hold_faults(source, 4)
        source.guest.cmd("dma 1 3 src=warm dst=held")
        source.guest.wait("waiters=7")
        since = self.start_migration(source, destination)
        self.both(source, "VSVA_DRAIN_STARTED", since)
        self.assertEqual(
            {number: entry["outstanding"] for number, entry in self.entries(source).items()},
            {0: 4, 1: 3},
        )
        source.guest.cmd("dma 0 20 src=fresh dst=fresh")
        source.guest.cmd("dma 1 50 src=fresh dst=fresh")
        source.guest.release_faults()
        self.assert_migrated(source, destination, since)
        self.assert_both_drained_before_stop(source, since)
        drained = self.both(source, "VSVA_DRAIN_COMPLETED", since)
        released = self.both(destination, "VSVA_RELEASED", 0)
        for number in BOTH:
            self.assertGreaterEqual(drained[number]["pending"], (20, 50)[number])
            self.assertGreaterEqual(released[number]["replayed"], drained[number]["pending"])
            self.assert_replayed_what_was_queued(old[number], new[number])
        for device in BOTH:
            destination.guest.cmd(f"dma {device} 50 src=fresh dst=fresh")
        self.assert_all_done(destination, 30 + 7 + 20 + 50 + 2 * 50)

    def assert_both_drained_before_stop(self, vm, since):
        vm.qmp.wait("STOP", 30, since)
        events = vm.qmp.events.all(since)
        stopped = [event.name for event in events].index("STOP")
        drained = [
            event.data["id"] for event in events[:stopped] if event.name == "VSVA_DRAIN_COMPLETED"
        ]
        self.assertEqual(sorted(drained), ["vsva0", "vsva1"])

    def assert_replayed_what_was_queued(self, old, new):
        old.wait("save", 10)
        queued = [record["ticket"] for record in old.find("submission_queued")]
        new.wait("replay", 10, ticket=queued[-1])
        self.assertEqual([record["ticket"] for record in new.find("replay")], queued)

    def test_faults_of_both_at_once_are_answered_by_the_backend_of_each(self):
        source, backends = self.new_source_of_two()
        self.begin_load(source)
        self.assert_all_of_load_done(source)
        sids = {
            number: entry["devices"][0]["sid"] for number, entry in self.entries(source).items()
        }
        self.assertEqual(len(set(sids.values())), 2)
        source.quit()
        for number, backend in backends.items():
            backend.wait("disconnected", 10)
            faults = backend.find("fault_read")
            self.assertEqual({fault["sid"] for fault in faults}, {sids[number]})
            self.assertGreaterEqual(len(faults), LOAD)
            self.assertEqual(len(backend.find("answer_written")), len(faults))

    def test_migration_pending_on_both_is_replayed_to_each(self):
        self.migrate_with_pending_on_both(BOTH)

    def test_migration_devices_in_another_order_at_the_destination_get_their_own_state(self):
        self.migrate_with_pending_on_both(OTHER_ORDER)

    def test_migration_under_load_of_both_there_and_back_loses_nothing(self):
        source, _ = self.new_source_of_two()
        middle, _ = self.new_two("middle", OTHER_ORDER, incoming=True)
        self.begin_load(source)
        self.assert_migrated(source, middle, self.start_migration(source, middle))
        source.quit()
        last, _ = self.new_two("last", incoming=True)
        self.assert_migrated(middle, last, self.start_migration(middle, last))
        self.assert_all_of_load_done(last)

    def test_backend_killed_of_one_the_other_goes_on(self):
        source, backends = self.new_source_of_two()
        source.guest.cmd("load 1 start burst=50 total=2000")
        source.guest.wait("completed=100 dev=1")
        backends[0].kill()
        self.assertEqual(source.qmp.wait("VSVA_BACKEND_DISCONNECTED", 10).data["id"], "vsva0")
        source.guest.wait("completed=2000 dev=1", 120)
        result = source.guest.cmd("verify 1", 120)
        self.assertEqual(
            (result["checked"], result["missing"], result["aborted"]), (2000, 0, 0), result
        )
        self.assertEqual(
            {number: entry["connected"] for number, entry in self.entries(source).items()},
            {0: False, 1: True},
        )
        source.guest.cmd("dma 0 20 src=warm dst=warm")
        source.guest.wait("completed=20 dev=0")

    def test_backend_killed_of_one_while_both_drain_fails_the_migration_and_loses_nothing(self):
        source, backends = self.new_source_of_two()
        destination, _ = self.new_two("destination", incoming=True)
        source.guest.cmd("hold on")
        source.guest.cmd("dma 1 1 src=warm dst=held")
        source.guest.wait("waiters=1")
        since = self.start_migration(source, destination)
        self.both(source, "VSVA_DRAIN_STARTED", since)
        source.guest.cmd("dma 0 20 src=warm dst=warm")
        source.guest.cmd("dma 1 20 src=fresh dst=fresh")
        backends[0].kill()
        self.assertEqual(migration.wait_status(source, since), "failed")
        self.assertIn("'vsva0'", migration.reason(source))
        self.assertEqual(source.qmp.find("STOP", since), [])
        source.qmp.wait("VSVA_RELEASED", 30, since, id="vsva1")
        source.guest.release_faults()
        self.assert_all_done(source, 41)
