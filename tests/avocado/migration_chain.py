# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A VM under load that is migrated again and again, with faults held and migrations cancelled at
random.
"""

import os
import random

from avocado_vsva import VsvaTest, migration

LONG_DEADLINE = {"drain-timeout": 60000}
ROUNDS = int(os.environ.get("VSVA_CHAIN_ROUNDS", "6"))


class MigrationChain(VsvaTest):
    """
    :avocado: tags=arch:aarch64,machine:virt,device:vhost-user-vsva,migration,load
    """

    timeout = 120 + 30 * ROUNDS

    def one_round(self, number, vm, chance):
        """The VM that the guest runs in afterwards."""
        options = {"test_devices": 2, "vsva": LONG_DEADLINE}
        destination = self.new_destination(name=f"vm{number + 1}", **options)
        held, cancel = chance.choice((0, 1, 5, 30)), chance.random() < 0.3
        if held:
            self.hold_faults(vm, held, device=chance.randrange(2))
        since = self.start_migration(vm, destination)
        if held:
            vm.qmp.wait("VSVA_DRAIN_STARTED", 30, since)
        if cancel:
            vm.qmp.cmd("migrate_cancel")
        if held:
            vm.qmp.events.absent(lambda event: event.name == "STOP", chance.random() * 0.3, since)
            vm.guest.release_faults()
        status = migration.wait_status(vm, since)
        self.log.info(
            "round %d: %d held, %s: %s",
            number,
            held,
            "cancelled" if cancel else "not cancelled",
            status,
        )
        if status == "completed":
            migration.resumed_at(destination)
            vm.quit()
            return destination
        self.assertTrue(cancel, migration.reason(vm))
        destination.kill()
        return vm

    def test_migrations_and_cancels_under_load_lose_nothing(self):
        seed = int(os.environ.get("VSVA_CHAIN_SEED", random.randrange(1 << 32)))
        self.log.info("VSVA_CHAIN_SEED=%d", seed)
        chance = random.Random(seed)
        vm = self.new_source(test_devices=2, vsva=LONG_DEADLINE)
        vm.guest.cmd(f"load 0 start rate={chance.choice((200, 1000, 3000))} total=100000 "
                     f"len={chance.choice((64, 4096, 9000))}")
        vm.guest.cmd("load 1 start burst=40 total=100000")
        for number in range(ROUNDS):
            vm = self.one_round(number, vm, chance)
        for device in range(2):
            vm.guest.cmd(f"load {device} stop", 60)
        result = self.assert_all_done(vm)
        self.assertGreater(result["checked"], 0)
        for device in range(2):
            counters = vm.guest.cmd(f"status {device}")["device"]
            self.assertEqual(
                (
                    counters["replayed"],
                    counters["gaps"],
                    counters["bad_desc"],
                    counters["bad_responses"],
                ),
                (counters["trapped"], 0, 0, 0),
            )
