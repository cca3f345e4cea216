# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from .loader import load

sys.dont_write_bytecode = True
check_host = load("vsva-check-host")

HERE = {
    "qemu": "10.2.2",
    "state_version": 1,
    "state_compat": 1,
    "max_devices": 64,
    "max_pending": 4096,
    "failed": {},
}
FEATURES = check_host.MIGRATION_BLOCKING | check_host.PROTOCOL_FEATURES
PROTOCOL = sum(1 << bit for bit in check_host.PROTOCOL_BITS.values())
CONFIG = check_host.CONFIG_SPACE.pack(check_host.CONFIG_MAGIC, 1, 3, 2, 0, 0, 64, 4096, 1024)


class FakeBackend(threading.Thread):
    """Answers as a back-end with these features does."""

    def __init__(self, path, features=FEATURES, protocol=PROTOCOL, config=CONFIG, answer=None):
        super().__init__(daemon=True)
        self._answer = answer
        self._replies = {
            1: struct.pack("<Q", features),
            15: struct.pack("<Q", protocol),
            24: bytes(12) + config,
        }
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        path.chmod(0o600)
        self.start()

    def run(self):
        connection, _ = self._listener.accept()
        with connection, self._listener:
            while head := connection.recv(12, socket.MSG_WAITALL):
                code, _, size = struct.unpack("<III", head)
                if size:
                    connection.recv(size, socket.MSG_WAITALL)
                if code in self._replies:
                    reply = self._replies[code]
                    reply = struct.pack("<III", code, 5, len(reply)) + reply
                    connection.sendall(reply if self._answer is None else self._answer)
                    if self._answer is not None:
                        return


class BackendCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "socket"

    def check(self, facts=None, mode=0o600, **options):
        backend = FakeBackend(self.path, **options)
        self.path.chmod(mode)
        user = mock.Mock(pw_uid=os.getuid(), pw_name="libvirt-qemu")
        with (
            mock.patch.object(check_host, "backend", lambda: contextlib.nullcontext(self.path)),
            mock.patch.object(check_host, "qemu_user", lambda: user),
        ):
            try:
                return check_host.check_backend(None, {} if facts is None else facts)
            finally:
                backend.join(10)

    def assert_fails(self, text, **options):
        with self.assertRaises(check_host.Failed) as failed:
            self.check(**options)
        self.assertIn(text, str(failed.exception))
        self.assertTrue(failed.exception.advice)

    def test_backend_good_gives_the_facts(self):
        facts = {}
        self.assertIn("state version 3", self.check(facts))
        self.assertEqual(
            facts,
            {
                "protocol": 1,
                "state_version": 3,
                "state_compat": 2,
                "max_devices": 64,
                "max_pending": 4096,
                "max_faults": 1024,
            },
        )

    def test_backend_without_migration_blocking_fails(self):
        self.assert_fails("VSVA_F_MIGRATION_BLOCKING", features=check_host.PROTOCOL_FEATURES)

    def test_backend_without_a_protocol_feature_fails_naming_it(self):
        for name, bit in check_host.PROTOCOL_BITS.items():
            with self.subTest(name):
                self.path = self.path.with_suffix(f".{bit}")
                self.assert_fails(name, protocol=PROTOCOL & ~(1 << bit))

    def test_another_backend_fails(self):
        self.assert_fails("config space begins with 0x0", config=bytes(len(CONFIG)))

    def test_backend_with_odd_answers_fails(self):
        for name, answer in {
            "nothing": b"",
            "a part of a header": bytes(5),
            "zeros": bytes(20),
            "another request": struct.pack("<IIIQ", 2, 5, 8, FEATURES),
            "no reply": struct.pack("<IIIQ", 1, 1, 8, FEATURES),
            "another version": struct.pack("<IIIQ", 1, 6, 8, FEATURES),
            "a part of the payload": struct.pack("<IIII", 1, 5, 8, 0),
            "too small": struct.pack("<IIII", 1, 5, 4, 0),
            "too large": struct.pack("<IIIQ", 1, 5, 2**32 - 1, FEATURES),
        }.items():
            with self.subTest(name):
                self.path = self.path.with_suffix(f".{name.replace(' ', '-')}")
                self.assert_fails("the back-end does not answer: ", answer=answer)

    def test_backend_with_a_part_of_a_config_space_fails(self):
        self.assert_fails("the back-end does not answer: ", config=CONFIG[:-1])

    def test_backend_that_is_silent_is_given_up(self):
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(self.path))
        listener.listen()
        with mock.patch.object(check_host, "TIMEOUT", 0.2), self.assertRaises(OSError):
            check_host.ask(self.path)

    def test_socket_open_to_others_fails(self):
        self.assert_fails("mode 600", mode=0o666)


class Comparison(unittest.TestCase):
    def problems(self, **there):
        return check_host.check_against(HERE, {**HERE, **there})

    def test_same_or_newer_destination_has_no_problem(self):
        self.assertEqual(self.problems(), [])
        self.assertEqual(self.problems(qemu="11.0.0", state_version=2, max_pending=8192), [])

    def test_older_or_smaller_destination_is_named(self):
        for there, text in (
            ({"qemu": "10.2.1"}, "10.2.1"),
            ({"state_version": 0}, "state version 0"),
            ({"max_pending": 1}, "--max-pending"),
            ({"max_devices": 1}, "--max-devices"),
        ):
            with self.subTest(there):
                ((found, advice),) = self.problems(**there)
                self.assertIn(text, found)
                self.assertTrue(advice)

    def test_facts_missing_or_odd_is_a_problem(self):
        odd = [
            {**HERE, name: value}
            for name, value in (
                ("qemu", None),
                ("qemu", "new"),
                ("qemu", "10..2"),
                ("qemu", 10.2),
                ("qemu", "9" * 5000),
                ("state_version", "1"),
                ("state_version", True),
                ("max_pending", float("nan")),
                ("max_pending", float("inf")),
                ("max_devices", None),
                ("failed", 1),
            )
        ]
        missing = [
            {name: HERE[name] for name in HERE if name != left_out}
            for left_out in HERE
            if left_out != "state_compat"
        ]
        for there in (*odd, *missing, {}, [], None, 1, "text"):
            with self.subTest(there):
                self.assertIn("cannot be compared", check_host.check_against(HERE, there)[0][0])

    def test_fact_that_is_missing_is_named_with_its_host(self):
        for here, there, text in (
            (HERE, {"failed": {}}, "compared: qemu was not found there"),
            ({"failed": {}}, HERE, "compared: qemu was not found here"),
            (HERE, {**HERE, "qemu": 5}, "compared: qemu there is 5"),
            (HERE, {**HERE, "max_devices": "x"}, "compared: max_devices there is 'x'"),
            (HERE, [], "compared: what was found there is not what --json prints"),
        ):
            with self.subTest(text):
                ((found, _),) = check_host.check_against(here, there)
                self.assertIn(text, found)

    def test_facts_missing_here_is_a_problem(self):
        self.assertIn(
            "cannot be compared",
            check_host.check_against({"failed": {"back-end": "x"}}, HERE)[0][0],
        )

    def test_check_that_has_failed_there_is_a_problem_whatever_the_facts_are(self):
        ((found, advice),) = self.problems(
            failed={"hook": "it is missing", "AppArmor": "not loaded"}
        )
        self.assertEqual(found, "not ready: hook, AppArmor")
        self.assertTrue(advice)


class Emulator(unittest.TestCase):
    def emulator(self, script):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "qemu"
        path.write_text(f"#!{sys.executable}\n{script}", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def answering(
        self, properties=check_host.DEVICE_PROPERTIES.values(), version=10, end="", status=0
    ):
        answers = [
            {"QMP": {}},
            {"return": {}},
            {"return": {"qemu": {"major": version, "minor": 2, "micro": 2}}},
            *(
                {"return": [{"name": name} for name in names]} if names else {"error": {}}
                for names in properties
            ),
            {"event": "SHUTDOWN"},
            {"return": {}},
        ]
        return self.emulator(
            "print('''"
            + "\n".join(map(json.dumps, answers))
            + f"'''){end}\nraise SystemExit({status})"
        )

    def assert_fails(self, emulator, text):
        """And nothing of it is taken for a traceback by the report."""
        report = check_host.Report(io.StringIO())
        with mock.patch.object(check_host, "CHECKS", {"emulator": check_host.check_emulator}):
            check_host.check_host(emulator, report)
        self.assertIn(text, report.failed["emulator"])

    def test_emulator_with_the_series_passes(self):
        facts = {}
        check_host.check_emulator(self.answering(), facts)
        self.assertEqual(facts["qemu"], "10.2.2")

    def test_emulator_without_the_device_or_a_property_fails_naming_it(self):
        device = check_host.DEVICE_PROPERTIES["vhost-user-vsva"]
        for properties, text in (
            ([None, ("stall", "ssidsize")], "no vhost-user-vsva"),
            (
                [("chardev", "drain-timeout"), ("stall", "ssidsize")],
                "no vhost-user-vsva with stop-timeout",
            ),
            ([device, ("ssidsize",)], "no arm-smmuv3 with stall"),
        ):
            with self.subTest(text), self.assertRaises(check_host.Failed) as failed:
                check_host.check_emulator(self.answering(properties), {})
            self.assertIn(text, str(failed.exception))

    def test_emulator_that_ends_before_it_has_answered_everything_fails(self):
        self.assert_fails(self.answering(properties=()), "3 answers to 5 commands")
        self.assert_fails(self.answering(status=3), "it has ended with status 3")
        self.assert_fails(
            self.answering(end="\nimport sys; sys.stderr.write('cannot go on')", status=1),
            "cannot go on",
        )
        self.assert_fails(
            self.answering(end="\nimport os; os.kill(os.getpid(), 9)"),
            "it has ended with status -9",
        )

    def test_emulator_that_is_none_fails(self):
        for emulator, text in (
            ("/nonexistent/qemu", "No such file"),
            ("/", "Permission denied"),
            (self.emulator("print('hello')"), "not JSON"),
            (self.emulator(""), "0 answers"),
            (self.emulator("print('[' * 100000)"), "not JSON"),
            (self.emulator("print('5\\n[]\\nnull\\n\"return\"')"), "0 answers"),
            (self.emulator("import os; os.write(1, b'\\xff\\xfe\\n')"), "not JSON"),
        ):
            with self.subTest(text=text, emulator=emulator):
                self.assert_fails(emulator, text)

    def test_emulator_with_odd_answers_fails(self):
        for version in ("new", None, [], 1.5, -1, "1" * 100):
            with self.subTest(version):
                self.assert_fails(
                    self.answering(version=version), "an answer that is not understood"
                )
        for answer in (5, "text", {"qemu": 5}, {}, None, [1]):
            script = "\n".join(f"print('{json.dumps({'return': answer})}')" for _ in range(5))
            with self.subTest(answer):
                self.assert_fails(self.emulator(script), "an answer that is not understood")

    def test_emulator_that_prints_without_end_or_hangs_is_given_up(self):
        with mock.patch.object(check_host, "MOST_PRINTED", 5000):
            endless = self.emulator("while True: print('x' * 1000)")
            self.assert_fails(endless, "BrokenPipeError")
        with mock.patch.object(check_host, "TIMEOUT", 1):
            hung = self.emulator("import time; time.sleep(1000)")
            self.assert_fails(hung, "has not ended within 1 s")


class Run(unittest.TestCase):
    def test_programs_speak_english(self):
        with mock.patch.dict(os.environ, {"LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de"}):
            self.assertEqual(check_host.run("sh", "-c", "echo $LC_ALL").stdout, "C")

    def test_program_missing_or_failing_says_why(self):
        self.assertIn("No such file", check_host.run("/nonexistent").stderr)
        done = check_host.run("sh", "-c", "echo reason >&2; exit 3")
        self.assertEqual((done.returncode, done.stderr), (3, "reason"))

    def test_program_whose_child_keeps_the_pipe_does_not_hold_it_up(self):
        with tempfile.NamedTemporaryFile() as pid, mock.patch.object(check_host, "LINGER", 0.1):
            done = check_host.run("sh", "-c", f"sleep 1000 & echo $! >{pid.name}")
            os.kill(int(pid.read()), signal.SIGKILL)
        self.assertEqual(done.returncode, 0)

    def test_what_is_printed_is_bounded(self):
        with mock.patch.object(check_host, "MOST_PRINTED", 1000):
            self.assertEqual(len(check_host.run("sh", "-c", "yes").stdout), 999)


def run_main(prepare, *options, **how):
    """Its main() as a process of its own, after `prepare` has changed the module m."""
    code = "\n".join(
        (
            "import os, pwd, sys",
            "from tests.loader import load",
            "m = load('vsva-check-host')",
            prepare,
            "sys.exit(m.main(sys.argv[1:]))",
        )
    )
    how.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(
        [sys.executable, "-B", "-c", code, *options],
        cwd=Path(__file__).resolve().parent.parent,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=100,
        **how,
    )


class Signals(unittest.TestCase):
    PREPARE = (
        "m.CHECKS = {'back-end': m.check_backend}\n"
        "m.qemu_user = lambda: pwd.getpwuid(os.getuid())"
    )

    def check(self, number, again=""):
        """The signal comes while the back-end is being started."""
        with tempfile.TemporaryDirectory() as folder:
            log, systemctl = Path(folder) / "log", Path(folder) / "systemctl"
            systemctl.write_text(
                f'#!/bin/sh\necho "$2" >>{log}\n'
                f'case $2 in start) kill -{number} $PPID; exec sleep 1000;; stop) {again};; esac\n',
                encoding="utf-8",
            )
            systemctl.chmod(0o755)
            environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
            done = run_main(self.PREPARE, env=environment)
            return done, log.read_text(encoding="utf-8").split()

    def test_backend_that_was_started_is_ended_at_a_signal(self):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            # While it is ended, the same signal changes nothing.
            for again in (":", f"kill -{number} $PPID"):
                with self.subTest(number, again=again):
                    done, calls = self.check(int(number), again)
                    self.assertEqual(calls, ["start", "stop"])
                    self.assertEqual(done.returncode, 128 + number)
                    self.assertIn(f"vsva-check-host: ended by {number.name}", done.stderr)
                    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)


class Advice(unittest.TestCase):
    def failed(self, check, *arguments, path="/nonexistent"):
        with (
            mock.patch.dict(os.environ, {"PATH": path}),
            self.assertRaises(check_host.Failed) as failed,
        ):
            check(*arguments, {})
        return str(failed.exception), failed.exception.advice

    def test_program_that_is_missing_is_named_with_what_to_install(self):
        user = mock.Mock(pw_name="root")
        with mock.patch.object(check_host, "qemu_user", lambda: user):
            for check, arguments, text, advice in (
                (check_host.check_libvirt, (None,), "virsh cannot be executed", "libvirt-clients"),
                (
                    check_host.check_emulator,
                    ("/nonexistent/qemu",),
                    "/nonexistent/qemu cannot be executed: No such file",
                    "qemu-system-arm-vsva",
                ),
                (check_host.check_backend, (None,), "systemctl cannot be executed", "journalctl"),
            ):
                with self.subTest(text):
                    found, what_to_do = self.failed(check, *arguments)
                    self.assertIn(text, found)
                    self.assertIn(advice, what_to_do)
                    self.assertNotIn("Errno", found)

    def test_configuration_of_libvirt_that_is_missing_is_told_in_words(self):
        with mock.patch.object(check_host, "QEMU_CONF", Path("/nonexistent")):
            found, _ = self.failed(lambda _: check_host.qemu_user())
        self.assertEqual(found, "/nonexistent cannot be read: No such file or directory")


class User(unittest.TestCase):
    def user(self, conf):
        with tempfile.NamedTemporaryFile() as file:
            file.write(conf)
            file.flush()
            with mock.patch.object(check_host, "QEMU_CONF", Path(file.name)):
                return check_host.qemu_user().pw_name

    def test_user_of_qemu_conf_is_taken_by_name_or_number(self):
        for conf in (b'user = "root"', b'user = "0"', b'user = "+0"', b'# \xff\nuser="root"\n'):
            with self.subTest(conf):
                self.assertEqual(self.user(conf), "root")

    def test_user_that_cannot_be_fails(self):
        for conf in (
            b'user = "nobody-has-this-name"',
            b'user = "99999999999999999999"',
            b'user = "4294967295"',
            b'user = "a\0b"',
            'user = "\u00b2"'.encode(),
        ):
            with self.subTest(conf), self.assertRaises(check_host.Failed):
                self.user(conf)


class Libvirt(unittest.TestCase):
    def check(self, output):
        with mock.patch.object(
            check_host, "run", lambda *_: mock.Mock(stdout=output, stderr="refused")
        ):
            return check_host.check_libvirt(None, {})

    def test_libvirt_new_enough_passes(self):
        self.assertEqual(
            self.check("Using library: libvirt 12.0.0\nRunning against daemon: 11.3.0\n"),
            "libvirt 11.3.0",
        )

    def test_libvirt_too_old_or_silent_fails(self):
        for output, text in (
            ("Running against daemon: 9.0.0\n", "9.0.0 is older than 11.3"),
            ("Using library: libvirt 9.0.0\n", "9.0.0 is older than 11.3"),
            ("", "does not answer: refused"),
            ("Running against daemon: .\n", "does not answer"),
            ("Running against daemon: 11.3." + "9" * 5000, "not a version"),
            ("Laufender Daemon: 11.3.0", "does not answer"),
        ):
            with self.subTest(output), self.assertRaises((check_host.Failed, ValueError)) as failed:
                self.check(output)
            self.assertIn(text, str(failed.exception))


class Program(unittest.TestCase):
    def run_program(self, *options, checks):
        output, errors = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(check_host, "CHECKS", checks),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            return check_host.main(options), output.getvalue(), errors.getvalue()

    @staticmethod
    def failing(_emulator, _facts):
        raise check_host.Failed("it is broken", "mend it")

    def test_report_has_a_line_for_each_check_and_what_to_do(self):
        status, output, _ = self.run_program(checks={"one": lambda *_: "fine", "two": self.failing})
        self.assertEqual(status, 1)
        self.assertEqual(output, "ok    one: fine\nFAIL  two: it is broken\n      mend it\n")

    def test_report_keeps_to_its_lines_whatever_a_program_has_printed(self):
        def odd(_emulator, _facts):
            raise check_host.Failed("a\n\x1b[31mb" + "c" * 5000, "mend it")

        _, output, _ = self.run_program(checks={"odd": odd})
        self.assertEqual(output.count("\n"), 2)
        self.assertTrue(output.startswith("FAIL  odd: a ?[31mb"))
        self.assertLess(len(output), 1200)

    def test_check_that_meets_an_odd_answer_fails_and_the_others_go_on(self):
        for error in (
            KeyError("a"),
            TypeError("a"),
            ValueError("a"),
            IndexError("a"),
            AttributeError("a"),
        ):
            status, output, _ = self.run_program(
                checks={"odd": mock.Mock(side_effect=error), "one": lambda *_: "fine"}
            )
            with self.subTest(error):
                self.assertEqual(status, 1)
                self.assertIn("FAIL  odd: an answer that is not understood", output)
                self.assertIn("ok    one", output)

    def test_error_of_the_system_is_told_in_words(self):
        for error, text in (
            (PermissionError(13, "Permission denied", "/x"), "FAIL  odd: /x: Permission denied\n"),
            (TimeoutError("timed out"), "FAIL  odd: timed out\n"),
            (KeyError("qemu"), "not understood: there is no 'qemu' in it\n"),
        ):
            with self.subTest(text):
                _, output, _ = self.run_program(checks={"odd": mock.Mock(side_effect=error)})
                self.assertIn(text, output)
                self.assertNotIn("Err", output)

    def test_output_that_cannot_be_written_is_an_error(self):
        for options in ((), ("--json",)):
            with self.subTest(options), open("/dev/full", "w", encoding="utf-8") as full:
                done = run_main("m.CHECKS = {'one': lambda *_: 'fine'}", *options, stdout=full)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn("cannot write the report: No space left on device", done.stderr)
                self.assertNotIn("Traceback", done.stderr)
                self.assertNotIn("ignored", done.stderr)

    def test_output_in_another_encoding_or_closed_is_no_traceback(self):
        fine = "m.CHECKS = {'one': lambda *_: 'g\u00e4st \U0001f600'}"
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = run_main(fine, env=environment)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, "ok    one: g\\xe4st \\U0001f600\n")
        for closed in (0, 1, 2):
            with self.subTest(closed):
                done = run_main(fine, "--json", preexec_fn=lambda fd=closed: os.close(fd))
                self.assertEqual(done.returncode, 0)
                self.assertEqual(done.stdout, "" if closed == 1 else '{"failed": {}}\n')

    def test_json_has_the_failed_checks_so_that_the_comparison_fails(self):
        def facts(_emulator, found):
            found.update({name: HERE[name] for name in HERE if name != "failed"})
            return "fine"

        status, output, _ = self.run_program("--json", checks={"one": facts, "two": self.failing})
        self.assertEqual(
            (status, json.loads(output)), (1, {**HERE, "failed": {"two": "it is broken"}})
        )
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(output)
            file.flush()
            status, output, _ = self.run_program("--against", file.name, checks={"one": facts})
        self.assertEqual(status, 1)
        self.assertIn("FAIL  destination: not ready: two", output)

    def test_against_a_file_that_is_no_report_is_an_error(self):
        for data in (b"", b"[" * 100_000, b"\xff", b"{", b" " * (2 << 20)):
            with (
                tempfile.NamedTemporaryFile() as file,
                self.subTest(data[:5]),
                self.assertRaises(SystemExit) as ended,
            ):
                file.write(data)
                file.flush()
                self.run_program("--against", file.name, checks={})
            self.assertEqual(ended.exception.code, 2)
        for data in ("null", "[]", "5", "{}"):
            with tempfile.NamedTemporaryFile("w") as file, self.subTest(data):
                file.write(data)
                file.flush()
                status, output, _ = self.run_program("--against", file.name, checks={})
                self.assertEqual(status, 1)
                self.assertIn("FAIL  destination: ", output)

    def test_json_of_one_host_is_compared_on_the_other(self):
        def facts(_emulator, found):
            found.update(HERE)
            return "fine"

        status, output, errors = self.run_program("--json", checks={"one": facts})
        self.assertEqual((status, json.loads(output), errors), (0, HERE, "ok    one: fine\n"))
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({**HERE, "max_pending": 1}, file)
            file.flush()
            status, output, _ = self.run_program("--against", file.name, checks={"one": facts})
        self.assertEqual(status, 1)
        self.assertIn("FAIL  destination: --max-pending is 1 there", output)


class DeviceCheck(unittest.TestCase):
    ADDRESS = "0000:0A:00.0"

    def check(self, printed, errors=""):
        done = mock.Mock(stdout=printed, stderr=errors)
        with (
            mock.patch.object(check_host, "run", return_value=done) as run,
            mock.patch.object(check_host, "CHECKS", {}),
        ):
            report = check_host.Report(io.StringIO())
            check_host.check_host("qemu", report, [self.ADDRESS])
        self.assertTrue(run.call_args.args[0].endswith("libvirt/vsva-check-device"))
        self.assertEqual(run.call_args.args[1:], ("--json", "--", self.ADDRESS))
        return report.failed

    def test_device_that_can_be_passed_through_is_one_good_check(self):
        self.assertEqual(self.check(json.dumps({"0000:0a:00.0": {"failed": {}}})), {})

    def test_device_that_cannot_fails_with_what_it_lacks(self):
        failed = self.check(json.dumps({"0000:0a:00.0": {"failed": {"PASID": "none"}}}))
        self.assertEqual(failed, {f"device {self.ADDRESS}": "PASID: none"})

    def test_device_check_without_answer_fails_with_the_reason(self):
        for printed in ("", "{}", "[]", '{"0000:0a:00.0": 1}'):
            with self.subTest(printed):
                failed = self.check(printed, "not an address")
                self.assertIn("not an address", failed[f"device {self.ADDRESS}"])


if __name__ == "__main__":
    unittest.main()
