# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import contextlib
import io
import json
import os
import signal
import sys
import unittest
from unittest import mock

from .loader import load

sys.dont_write_bytecode = True
upgrade = load("vsva-upgrade")

FIRST = "5a0c1f4e-6a52-4d0f-9c7b-3f1c7c2e8a10"
SECOND = "0b9bdc2e-3c61-4b06-8a4e-9f7f2b5a2f11"
NO_JOB = "Job type:         None"
DEVICE = {
    "id": "vsva0",
    "connected": True,
    "away": False,
    "recoverable": True,
    "recoveries": 0,
}


class Host:
    """What the commands of a host with two domains say."""

    def __init__(self):
        self.names = {FIRST: "first", SECOND: "second"}
        self.devices = {instance: dict(DEVICE) for instance in self.names}
        # What QEMU says after the restart, one after the other; the last one again and again.
        self.after = {
            instance: [{"connected": False, "away": True}, {"recoveries": 1, "recovery-ms": 118}]
            for instance in self.names
        }
        self.pids = {FIRST: 101, SECOND: 102}
        self.new = set()
        self.layouts = {"old": 1, "new": 1}
        self.argv = ["/program", "--max-devices=16"]
        self.exec_start = "{ path=/program ; argv[]=/program --max-faults 4096 ; ignore_errors=no }"
        self.reload = "no"
        self.job = NO_JOB
        self.resets = 0
        self.restarted = []
        self.start_fails = False
        self.status_fails = False

    def run(self, *words):
        if words[0] == "systemctl":
            return self.systemctl(*words[2:])
        if words[0] == "virsh":
            return self.virsh(*words[4:])
        program, command, *_ = words
        if command == "--print-capabilities":
            age = "new" if program == upgrade.PROGRAM else "old"
            layout = self.layouts[age]
            return json.dumps({"type": "vsva"} | ({"recovery-layout": layout} if layout else {}))
        assert command == "status", words
        if self.status_fails:
            raise OSError("status does not answer")
        return json.dumps({"vm": {"resets": self.resets}})

    def systemctl(self, command, *words):
        if command == "list-units":
            return "\n".join(f"vhost-user-vsva@{instance}.service a b" for instance in self.names)
        instance = upgrade.UNIT.fullmatch(words[-1])[1]
        if command == "restart":
            self.restarted.append(instance)
            if self.start_fails:
                raise OSError("systemctl: Job failed")
            return ""
        return {
            "--property=MainPID": str(self.pids[instance]),
            "--property=NeedDaemonReload": self.reload,
            "--property=ExecStart": self.exec_start,
        }[words[1]]

    def virsh(self, command, domain, *_):
        if command == "domuuid":
            found = [instance for instance, name in self.names.items() if domain == name]
            if not found:
                raise OSError(f"virsh: failed to get domain '{domain}'")
            return found[0]
        if command == "domname":
            return self.names[domain]
        if command == "domjobinfo":
            return self.job
        assert command == "qemu-monitor-command"
        if domain in self.restarted:
            answers = self.after[domain]
            self.devices[domain].update({"connected": True, "away": False} | answers[0])
            del answers[: len(answers) > 1]
        return json.dumps({"return": [self.devices[domain]]})

    def same(self, process, _program):
        return any(f"/proc/{self.pids[instance]}/exe" == process for instance in self.new)

    def open(self, _path, _mode):
        return io.BytesIO("\0".join(self.argv).encode() + b"\0")


class Commands(unittest.TestCase):
    def assert_fails(self, text, *words):
        with self.assertRaises(OSError) as failed:
            upgrade.run(*words)
        self.assertIn(text, str(failed.exception))
        self.assertNotIn("Errno", str(failed.exception))

    def test_command_that_prints_without_end_or_hangs_is_given_up(self):
        with mock.patch.object(upgrade, "MOST_PRINTED", 1000):
            self.assert_fails("sh prints more than 1000 bytes", "sh", "-c", "yes; exit 0")
            self.assert_fails("sh -c: y", "sh", "-c", "yes >&2; exit 1")
        with mock.patch.object(upgrade, "COMMAND_LIMIT", 0.1):
            self.assert_fails("sleep has not ended within 0.1 s", "sleep", "1000")

    def test_command_missing_or_failing_says_why(self):
        self.assert_fails("/nonexistent cannot be executed: No such file", "/nonexistent")
        self.assert_fails("sh -c: reason", "sh", "-c", "echo reason >&2; exit 3")


class Upgrade(unittest.TestCase):
    def setUp(self):
        self.host = Host()
        for name, value in (
            ("run", self.host.run),
            ("os.path.samefile", self.host.same),
            ("time.sleep", lambda _: None),
        ):
            target, _, attribute = name.rpartition(".")
            module = getattr(upgrade, target.split(".")[0]) if target else upgrade
            for part in target.split(".")[1:]:
                module = getattr(module, part)
            patch = mock.patch.object(module, attribute, value)
            patch.start()
            self.addCleanup(patch.stop)
        patch = mock.patch.object(upgrade, "open", self.host.open, create=True)
        patch.start()
        self.addCleanup(patch.stop)

    def call(self, *words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = upgrade.main(list(words))
        return status, out.getvalue().splitlines(), err.getvalue()

    def assert_refused(self, text, *words):
        status, lines, _ = self.call("first", *words)
        self.assertEqual((status, self.host.restarted), (1, []))
        self.assertTrue(lines[0].startswith("FAIL  first: "), lines)
        self.assertIn(text, lines[0])
        self.assertEqual(len(lines), 2)
        self.assertTrue(lines[1].strip())

    def test_all_domains_are_restarted_one_after_the_other_and_the_pauses_are_told(self):
        self.host.after[SECOND][-1]["recovery-ms"] = 4
        status, lines, _ = self.call()
        self.assertEqual((status, self.host.restarted), (0, [FIRST, SECOND]))
        self.assertEqual(
            lines,
            [
                "ok    first: upgraded; 118 ms without a back-end",
                "ok    second: upgraded; 4 ms without a back-end",
            ],
        )

    def test_domain_that_is_named_is_restarted_and_no_other(self):
        self.assertEqual(self.call("second")[0], 0)
        self.assertEqual(self.host.restarted, [SECOND])

    def test_check_restarts_nothing_and_says_what_can_be_upgraded(self):
        self.host.devices[SECOND]["recoverable"] = False
        status, lines, _ = self.call("--check")
        self.assertEqual((status, self.host.restarted), (1, []))
        self.assertEqual(lines[0], "ok    first: it can be upgraded")
        self.assertIn("FAIL  second: ", lines[1])

    def test_domain_with_the_installed_program_is_restarted_only_again(self):
        self.host.new = {FIRST, SECOND}
        self.host.devices[SECOND]["recoverable"] = False
        status, lines, _ = self.call()
        self.assertEqual((status, self.host.restarted), (0, []))
        self.assertEqual(lines[0], "ok    first: it runs this program already")
        self.assertEqual(self.call("--again", "first")[0], 0)
        self.assertEqual(self.host.restarted, [FIRST])

    def test_domain_whose_qemu_does_not_connect_again_is_refused_and_others_go_on(self):
        del self.host.devices[FIRST]["recoverable"]
        self.assert_refused("does not connect to another back-end")
        status, _, _ = self.call()
        self.assertEqual((status, self.host.restarted), (1, [SECOND]))

    def test_program_with_another_layout_is_refused(self):
        for old, new in ((1, 2), (2, 1), (None, 1), (1, None), (None, None)):
            with self.subTest(old=old, new=new):
                self.host.layouts = {"old": old, "new": new}
                self.assert_refused("layout")

    def test_other_limits_than_before_are_refused_unless_there_is_only_more_room(self):
        for argv in (
            ["/program", "--max-faults=4096"],
            ["/program", "--max-faults", "4096"],
            ["/program", "--max-pending=100"],
        ):
            self.host.argv = argv
            self.assertEqual(self.call("--check")[0], 0, argv)
        for argv in (
            ["/program", "--max-faults=4095"],
            ["/program", "--max-devices", "17"],
            ["/program", "--max-pending=65537"],
        ):
            with self.subTest(argv):
                self.host.argv = argv
                self.assert_refused(argv[1].partition("=")[0])

    def test_domain_that_is_migrated_or_has_no_backend_or_a_changed_unit_is_refused(self):
        self.host.job = "Job type:         Unbounded\nOperation: Outgoing migration"
        self.assert_refused("is being migrated")
        self.host.job = NO_JOB
        self.host.reload = "yes"
        self.assert_refused("unit has changed")
        self.host.reload = "no"
        self.host.devices[FIRST].update({"connected": False, "gone-reason": "it has ended"})
        self.assert_refused("it has no back-end now: it has ended")

    def assert_stops(self, text):
        status, lines, errors = self.call()
        self.assertEqual((status, self.host.restarted), (1, [FIRST]))
        self.assertIn(text, lines[0])
        self.assertIn("journalctl -u vhost-user-vsva@", lines[1])
        self.assertIn("1 more are left as they are", errors)

    def test_program_that_does_not_start_ends_the_upgrade(self):
        self.host.start_fails = True
        self.assert_stops("does not start")

    def test_domain_that_is_given_up_ends_the_upgrade(self):
        gone = {"connected": False, "away": False, "gone-reason": "not within 10000 ms"}
        self.host.after[FIRST] = [gone]
        self.assert_stops("given it up: not within 10000 ms")

    def test_domain_that_is_never_recovered_ends_the_upgrade(self):
        self.host.after[FIRST] = [{"connected": False, "away": True}]
        with mock.patch.object(upgrade, "RECOVERY_LIMIT", 0):
            self.assert_stops("QEMU has not connected within")

    def test_process_that_has_begun_anew_ends_the_upgrade(self):
        self.host.resets = 1
        self.assert_stops("have been aborted")

    def test_status_socket_that_does_not_answer_is_told_and_ends_nothing(self):
        self.host.status_fails = True
        status, _, errors = self.call()
        self.assertEqual((status, self.host.restarted), (0, [FIRST, SECOND]))
        self.assertIn("status does not answer", errors)

    def test_answer_that_is_not_understood_is_a_refusal(self):
        self.host.layouts["old"] = []
        self.assert_refused("layout")
        self.host.layouts["old"] = 1
        self.host.exec_start = "{ argv[]=/program --max-faults=many ; }"
        self.assert_refused("not understood")
        self.host.devices[FIRST] = {"id": "other"}
        self.assert_refused("no device vsva0")

    def test_program_that_is_missing_is_told_in_words(self):
        error = FileNotFoundError(2, "No such file or directory", upgrade.PROGRAM)
        with mock.patch.object(upgrade.os.path, "samefile", mock.Mock(side_effect=error)):
            self.assert_refused(f"{upgrade.PROGRAM}: No such file or directory")
        self.host.devices[FIRST] = {"id": "vsva0", "recoverable": True}
        self.assert_refused("not understood: there is no 'connected' in it")

    def signalled(self, number, command):
        """It comes during a command for the first domain."""
        real = self.host.run

        def run(*words):
            if command in words:
                os.kill(os.getpid(), number)
            return real(*words)

        with mock.patch.object(upgrade, "run", run):
            return self.call()

    def test_signal_ends_it_with_the_state_of_each_domain(self):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                status, lines, errors = self.signalled(number, "restart")
                self.assertEqual(status, 128 + number)
                self.assertIn("FAIL  first: its restart was under way", lines[0])
                self.assertEqual(len(lines), 2)
                self.assertEqual(self.host.restarted, [])
                told = f"ended by {number.name}; domains without a line above are as they were"
                self.assertIn(told, errors)
                status, lines, errors = self.signalled(number, "domjobinfo")
                self.assertEqual((status, lines), (128 + number, []))
                self.assertIn(told, errors)

    def test_output_that_nobody_reads_does_not_end_it_half_way(self):
        closed = mock.Mock(write=mock.Mock(side_effect=BrokenPipeError), fileno=lambda: 99)
        with mock.patch.object(upgrade.os, "dup2"), contextlib.redirect_stdout(closed):
            self.assertEqual(upgrade.main([]), 0)
        self.assertEqual(self.host.restarted, [FIRST, SECOND])

    def test_name_that_the_terminal_cannot_show_does_not_end_it(self):
        self.host.names[FIRST] = "g\u00e4st"
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        with contextlib.redirect_stdout(out):
            self.assertEqual(upgrade.main([]), 0)
        self.assertIn(b"ok    g\\xe4st: upgraded", out.buffer.getvalue())
        self.assertEqual(self.host.restarted, [FIRST, SECOND])

    def test_domain_that_is_not_there_is_an_error(self):
        status, lines, errors = self.call("third")
        self.assertEqual((status, lines), (1, []))
        self.assertIn("vsva-upgrade: virsh: failed to get domain 'third'", errors)
        self.host.names = {}
        self.assertEqual(self.call()[:2], (0, ["no back-end runs"]))


if __name__ == "__main__":
    unittest.main()
