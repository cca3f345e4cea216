# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import os
import shutil
import signal
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent.parent
HOOK = "etc/libvirt/hooks/qemu.d/vhost-user-vsva"
PROFILE = "etc/apparmor.d/vhost-user-vsva"
ABSTRACTION = "etc/apparmor.d/abstractions/libvirt-qemu.d/vhost-user-vsva"
RULES = "etc/apparmor.d/local/usr.sbin.libvirtd"
BACKEND = "usr/libexec/vhost-user-vsva/vhost-user-vsva"
SHARE = "usr/share/vhost-user-vsva"
RULE = "  /usr/local/bin/qemu-system-aarch64 PUx,\n"
PROGRAMS = {
    BACKEND: 0o755,
    "usr/bin/vsva-check-device": 0o755,
    "usr/bin/vsva-check-host": 0o755,
    "usr/bin/vsva-domain": 0o755,
    "usr/bin/vsva-upgrade": 0o755,
    "usr/lib/systemd/system/vhost-user-vsva-status@.socket": 0o644,
    "usr/lib/systemd/system/vhost-user-vsva@.service": 0o644,
    "usr/lib/systemd/system/vhost-user-vsva@.socket": 0o644,
}
NEEDRESTART = "etc/needrestart/conf.d/vhost-user-vsva.conf"
SETTINGS = {HOOK: 0o755, PROFILE: 0o644, ABSTRACTION: 0o644, NEEDRESTART: 0o644}
# As needrestart reads the files of conf.d, and looks services up.
READ_NEEDRESTART = """
our %nrconf = (override_rc => {qr(^dbus) => 0});
eval do { local (@ARGV, $/) = shift; <> };
die $@ if $@;
for my $unit (@ARGV) {
    my ($found) = grep { $unit =~ /$_/ } keys %{$nrconf{override_rc}};
    print $unit, " ", defined $found ? $nrconf{override_rc}->{$found} : "restart", "\\n";
}
"""


class Install(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        # Its own copy: the files of another version differ.
        self.deploy = self.folder / "deploy of the version"
        shutil.copytree(DEPLOY, self.deploy, ignore=shutil.ignore_patterns("tests"))
        self.backend = self.folder / "the back-end"
        self.new_backend(b"first")
        self.path = os.environ["PATH"]
        self.root = self.folder / "the host"
        self.root.mkdir()

    def new_backend(self, data):
        self.backend.write_bytes(data)
        self.backend.chmod(0o755)

    def instead_of(self, program, script):
        """A program that install calls is this shell script, which may call the real one."""
        folder = self.folder / "programs"
        folder.mkdir(exist_ok=True)
        path = folder / program
        path.write_text(f'#!/bin/sh\n{script}\nexec {shutil.which(program)} "$@"\n')
        path.chmod(0o755)
        self.path = f"{folder}:{os.environ['PATH']}"
        return path

    def run_install(self, *words, limit=None):
        # Whatever the administrator's umask is.
        limits = f"umask 077; ulimit -f {limit or 'unlimited'}"
        command = ["sh", "-c", f'{limits}; exec "$@"', "sh"]
        command += [self.deploy / "install", *(words or (self.backend,))]
        return subprocess.run(
            command,
            env={**os.environ, "DESTDIR": str(self.root), "PATH": self.path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, *words):
        done = self.run_install(*words)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        self.assertFalse(list(self.root.rglob("*.staged")))
        return done.stderr

    def files(self):
        return {
            str(path.relative_to(self.root)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
            for path in self.root.rglob("*")
            if path.is_file()
        }

    def text(self, path):
        return (self.root / path).read_text(encoding="utf-8")

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def change_source(self, name, text="# another version\n"):
        with (self.deploy / name).open("a", encoding="utf-8") as file:
            file.write(text)

    def test_install_puts_every_file_in_its_place(self):
        self.assertEqual(self.install(), "")
        modes = {path: mode for path, (mode, _) in self.files().items()}
        made_from = {f"{SHARE}/{path}": 0o644 for path in (*SETTINGS, RULES)}
        self.assertEqual(modes, {**PROGRAMS, **SETTINGS, **made_from, RULES: 0o644})
        self.assertEqual(self.text(RULES), RULE)
        self.assertEqual(self.text(BACKEND), "first")

    @unittest.skipUnless(shutil.which("perl"), "there is no perl")
    def test_needrestart_leaves_the_back_ends_alone_and_nothing_else(self):
        self.install()
        units = (
            "vhost-user-vsva@5a0c1f4e-6a52-4d0f-9c7b-3f1c7c2e8a10.service",
            "my-vhost-user-vsva@x.service",
            "dbus.service",
            "ssh.service",
        )
        done = subprocess.run(
            ["perl", "-w", "-e", READ_NEEDRESTART, self.root / NEEDRESTART, *units],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(
            [line.split(" ")[1] for line in done.stdout.splitlines()],
            ["0", "restart", "0", "restart"],
        )

    def test_umask_of_the_administrator_keeps_nobody_out(self):
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        self.install()
        os.umask(before)
        closed = [
            path
            for path in self.root.rglob("*")
            if stat.S_IMODE(path.stat().st_mode) & 0o044 != 0o044
        ]
        self.assertEqual(closed, [])

    def test_install_again_changes_nothing(self):
        self.install()
        before = self.files()
        self.assertEqual(self.install(), "")
        self.assertEqual(self.files(), before)

    def test_upgrade_replaces_what_was_not_changed(self):
        self.install()
        self.new_backend(b"second")
        for name in ("libvirt/qemu-hook", "apparmor/vhost-user-vsva", "libvirt/vsva-domain"):
            self.change_source(name)
        self.assertEqual(self.install(), "")
        self.assertEqual(self.text(BACKEND), "second")
        for path in (HOOK, PROFILE, f"{SHARE}/{PROFILE}", "usr/bin/vsva-domain"):
            self.assertTrue(self.text(path).endswith("# another version\n"), path)

    def test_upgrade_keeps_a_profile_that_was_set_to_complain(self):
        self.install()
        complain = self.text(PROFILE).replace("(attach_disconnected)", "(complain)")
        self.write(PROFILE, complain)
        self.assertEqual(self.install(), "", "there is nothing new that would be missed")
        self.change_source("apparmor/vhost-user-vsva")
        said = self.install()
        self.assertIn(f"kept as it is: /{PROFILE}", said)
        self.assertIn(f"/{SHARE}/{PROFILE}", said)
        self.assertEqual(self.text(PROFILE), complain)
        self.assertTrue(self.text(f"{SHARE}/{PROFILE}").endswith("# another version\n"))
        self.assertEqual(self.install(), "", "it was said once")

    def test_file_that_was_there_before_is_kept(self):
        self.write(HOOK, "mine\n")
        self.assertIn(f"kept as it is: /{HOOK}", self.install())
        self.assertEqual(self.text(HOOK), "mine\n")

    def test_file_that_is_missing_is_put_back(self):
        self.install()
        for path in SETTINGS:
            (self.root / path).unlink()
        self.install()
        for path in SETTINGS:
            self.assertTrue((self.root / path).is_file(), path)

    def test_rule_is_a_line_of_its_own_and_there_once(self):
        for before in (
            "",
            "# mine",
            "# mine\n",
            f"{RULE}# mine",
            f"# mine\n{RULE.rstrip(chr(10))}",
        ):
            with self.subTest(before):
                self.write(RULES, before)
                self.install()
                self.install()
                lines = self.text(RULES).split("\n")
                self.assertEqual(lines.count(RULE.rstrip("\n")), 1)
                self.assertEqual(
                    [line for line in lines if "mine" in line], ["# mine"] * ("mine" in before)
                )

    def test_what_a_killed_install_has_left_is_not_used(self):
        for path in (RULES, PROFILE, f"{SHARE}/{RULES}"):
            folder, name = path.rsplit("/", 1)
            self.write(f"{folder}/.vhost-user-vsva.staged/{name}", "half a li")
        self.install()
        self.assertEqual(self.text(RULES), RULE)
        self.assertEqual(self.text(PROFILE), self.text(f"{SHARE}/{PROFILE}"))

    def test_rules_keep_their_mode(self):
        self.write(RULES, "# mine\n")
        (self.root / RULES).chmod(0o640)
        self.install()
        self.assertEqual(self.files()[RULES], (0o640, f"# mine\n{RULE}".encode()))

    def test_full_disk_changes_nothing(self):
        for path, limit in ((self.backend, 50), (self.deploy / "libvirt/qemu-hook", 100)):
            with self.subTest(path):
                self.install()
                before = self.files()
                for name in (
                    "libvirt/qemu-hook",
                    "apparmor/vhost-user-vsva",
                    "libvirt/vsva-domain",
                ):
                    self.change_source(name)
                with path.open("ab") as file:
                    # Nothing else is as large; a signal ends the program that writes it.
                    file.write(b"#" * (200 << 10))
                done = self.run_install(limit=limit)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn("failed; nothing has been changed", done.stderr)
                self.assertEqual(self.files(), before)
                self.assertFalse(list(self.root.rglob("*.staged")))
                self.install()
                self.assertNotEqual(self.files(), before)

    def test_signal_before_anything_is_in_place_changes_nothing(self):
        for name in ("HUP", "INT", "TERM"):
            for words in ((), ("--uninstall",)):
                with self.subTest(name, words=words):
                    self.install()
                    before = self.files()
                    self.change_source("libvirt/qemu-hook")
                    # To the shell and what it waits for.
                    kill = f"kill -{name} $PPID"
                    made = [self.instead_of("sync", kill), self.instead_of("cp", kill)]
                    done = self.run_install(*words)
                    for path in made:
                        path.unlink()
                    number = getattr(signal, f"SIG{name}")
                    self.assertEqual(done.returncode, 128 + number, done.stderr)
                    self.assertEqual(
                        done.stderr, f"install: ended by SIG{name}; nothing has been changed\n"
                    )
                    self.assertEqual(self.files(), before)
                    self.assertFalse(list(self.root.rglob("*.staged")))

    def test_signal_while_files_are_put_in_place_leaves_all_of_them(self):
        for name in ("HUP", "INT", "TERM"):
            with self.subTest(name):
                self.instead_of("mv", f"kill -{name} $PPID")
                self.new_backend(name.encode())
                self.assertEqual(self.install(), "")
                self.assertEqual(self.text(BACKEND), name)
                self.assertEqual(self.text(RULES), RULE)

    def test_folder_in_the_place_of_a_file_is_an_error_that_names_it(self):
        place = self.root / "usr/bin/vsva-domain"
        place.mkdir(parents=True)
        done = self.run_install()
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot replace /usr/bin/vsva-domain, so not all files are new", done.stderr)
        self.assertEqual(list(place.iterdir()), [])

    def test_link_to_a_folder_in_the_place_of_a_program_is_replaced(self):
        place, folder = self.root / "usr/bin/vsva-domain", self.root / "elsewhere"
        place.parent.mkdir(parents=True)
        folder.mkdir()
        place.symlink_to(folder)
        self.install()
        self.assertTrue(place.is_file() and not place.is_symlink())
        self.assertEqual(list(folder.iterdir()), [])

    def test_link_of_the_administrator_in_etc_is_kept(self):
        mine = self.folder / "mine"
        for path in (PROFILE, HOOK):
            place = self.root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            for target, text in ((mine, "mine\n"), (mine, None), (self.folder / "none", None)):
                with self.subTest(path, target=target):
                    place.unlink(missing_ok=True)
                    place.symlink_to(target)
                    source = self.deploy / path.replace("etc/apparmor.d", "apparmor")
                    if path == HOOK:
                        source = self.deploy / "libvirt/qemu-hook"
                    mine.write_text(text or source.read_text())
                    said = self.install()
                    kept = f"kept as it is: /{path}, which is a symbolic link"
                    self.assertEqual(kept in said, target != mine or text is not None)
                    self.assertEqual(os.readlink(place), str(target))
                    self.assertIn(f"symbolic link: /{path}", self.install("--uninstall"))
                    self.assertEqual(os.readlink(place), str(target))
            place.unlink()

    def test_rules_that_are_a_link_are_refused_until_the_line_is_there(self):
        rules, mine = self.root / RULES, self.folder / "rules"
        rules.parent.mkdir(parents=True)
        mine.write_text("# mine\n")
        rules.symlink_to(mine)
        done = self.run_install()
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"/{RULES} is a symbolic link: put this line into", done.stderr)
        self.assertIn(RULE, done.stderr)
        self.assertIn("nothing has been changed", done.stderr)
        self.assertEqual((mine.read_text(), rules.is_symlink()), ("# mine\n", True))
        mine.write_text(RULE)
        self.install()
        self.write(f"{SHARE}/{RULES}", RULE)
        self.assertIn("kept, as it is a symbolic link", self.install("--uninstall"))
        self.assertEqual((mine.read_text(), rules.is_symlink()), (RULE, True))

    def test_uninstall_leaves_what_was_there_before(self):
        for before in (None, "# mine\n", f"# mine\n{RULE}"):
            with self.subTest(before):
                if before is not None:
                    self.write(RULES, before)
                self.install()
                self.assertEqual(self.install("--uninstall"), "")
                self.assertEqual(
                    {path: data.decode() for path, (_, data) in self.files().items()},
                    {RULES: before or ""},
                )

    def test_uninstall_keeps_what_was_changed(self):
        self.install()
        self.write(PROFILE, "mine\n")
        self.write(RULES, f"# first\n{RULE}# last")
        said = self.install("--uninstall")
        self.assertIn(f"kept, as it was changed here: /{PROFILE}", said)
        self.assertEqual(set(self.files()), {PROFILE, RULES})
        self.assertEqual(self.text(RULES).rstrip("\n"), "# first\n# last")

    def test_uninstall_twice_is_no_error(self):
        self.install()
        self.install("--uninstall")
        self.assertEqual(self.install("--uninstall"), "")

    def test_options_not_understood_say_the_usage(self):
        for words in (
            ("--help",),
            ("/nonexistent",),
            (self.folder,),
            (self.backend, "more"),
            ("--uninstall", "x"),
        ):
            with self.subTest(words):
                done = self.run_install(*words)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn("usage: install BACKEND", done.stderr)
                self.assertEqual(self.files(), {})


if __name__ == "__main__":
    unittest.main()
