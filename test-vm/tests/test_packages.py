# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import re

from shell import TEST_VM, ShellTest

# As apt says it: of Debian 12, and when something would have to go.
UNMET = """\
Reading package lists...
Some packages could not be installed. This may mean that you have
The following packages have unmet dependencies:
 libelf-dev : Depends: libelf1 (= 0.188-2.1) but 0.192-4~bpo12+1 is to be installed
E: Unable to correct problems, you have held broken packages."""
REMOVED = """\
The following packages will be REMOVED:
  qemu-user
The following NEW packages will be installed:
  qemu-user-static
E: Packages need to be removed but remove is disabled."""


class Fit(ShellTest):
    def apt(self, says, fits_with=""):
        self.program("bin/apt-get", f"""
            case " $* " in
            *" indextargets "*) printf '%s\\n' bookworm bookworm-backports ;;
            *" -t {fits_with or "-"} "*) ;;
            *) cat <<'END'\n{says}\nEND
            exit 100 ;;
            esac""")

    def test_packages_that_do_not_fit_are_named_with_what_is_in_the_way(self):
        self.apt(UNMET)
        _, err = self.shell("packages_fit libelf-dev", status=1)
        self.assertIn("cannot be installed beside what this machine has: libelf-dev\n", err)
        self.assertIn(
            "libelf-dev : Depends: libelf1 (= 0.188-2.1) but 0.192-4~bpo12+1 is to be installed",
            err,
        )
        self.assertNotIn("Reading package lists", err)
        self.assertIn(
            "What would do: the versions of this release for the packages that are in the way", err
        )
        self.assertIn("nothing was installed", err)

    def test_packages_that_fit_from_another_release_are_told_with_the_command(self):
        self.apt(UNMET, fits_with="bookworm-backports")
        _, err = self.shell("packages_fit libelf-dev", status=1)
        self.assertIn(
            "apt-get install --no-install-recommends -t bookworm-backports libelf-dev\n", err
        )

    def test_packages_that_would_remove_another_one_name_it(self):
        self.apt(REMOVED)
        _, err = self.shell("packages_fit qemu-user-static", status=1)
        self.assertIn("The following packages will be REMOVED:\n  qemu-user\n", err)
        self.assertNotIn("NEW packages", err)

    def test_packages_that_fit_once_another_apt_has_ended_are_installed(self):
        self.program("bin/sudo", """shift; exec "$@" """)
        self.program("bin/apt-get", """
            case " $* " in
            *" -o DPkg::Lock::Timeout="*" check "*) touch "$FOLDER/ended" ;;
            *" -s "*) [ -e "$FOLDER/ended" ] || exit 100 ;;
            *) exit 100 ;;
            esac""")
        _, err = self.shell("packages_fit bc")
        self.assertEqual(err, "")

    def test_packages_that_fit_are_installed(self):
        self.program("bin/apt-get", "exit 0")
        _, err = self.shell("packages_fit bc")
        self.assertEqual(err, "")


class Readme(ShellTest):
    def test_packages_in_the_readme_are_those_that_are_installed(self):
        out, _ = self.shell("""
            PACKAGES_CARGO=(cargo rust-clippy rustc rustfmt)
            for name in ${!PACKAGES_@}; do
                declare -n packages=$name
                printf '%s\\n' "${packages[@]}"
            done""")
        text = (TEST_VM / "README.md").read_text(encoding="utf-8")
        section = re.search(r"## What is installed\n(.*?)\n## ", text, re.S)[1]
        cells = [row.split("|")[2] for row in section.splitlines() if row.startswith("|")]
        listed = {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}
        self.assertEqual(listed, set(out.split()))
