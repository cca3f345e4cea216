# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

from shell import TEST_VM, ShellTest


class WithProc(ShellTest):
    def setUp(self):
        super().setUp()
        for name in ("mount", "umount"):
            self.program(f"bin/{name}", f'echo "{name} $*"')
        self.program("bin/chroot", 'shift; exec "$@"')
        self.program("bin/id", "echo 0")

    def with_proc(self, command, status=0):
        out, _ = self.shell(
            f". '{TEST_VM}/lib/chroot.sh'; with_proc /root-folder {command}", status=status
        )
        return out

    def test_proc_where_namespaces_can_be_made_is_mounted_in_one(self):
        self.program("bin/unshare", '[ "$1" = --mount ] || exit 9; shift; echo unshared; exec "$@"')
        self.assertIn(
            "unshared\nmount -t proc proc /root-folder/proc\nhere\n", self.with_proc("echo here")
        )

    def test_proc_in_a_chroot_is_unmounted_at_the_end(self):
        self.program(
            "bin/unshare", "echo unshare: cannot change root filesystem propagation >&2; exit 1"
        )
        self.assertEqual(self.with_proc("echo here"),
                         "mount -t proc proc /root-folder/proc\nhere\numount /root-folder/proc\n")

    def test_command_in_a_chroot_that_fails_is_told_and_proc_unmounted(self):
        self.program("bin/unshare", "exit 1")
        self.assertIn("umount /root-folder/proc\n", self.with_proc("false", status=1))
