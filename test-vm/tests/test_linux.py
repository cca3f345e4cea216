# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

from shell import ShellTest

MIRROR = """\
sid linux-source-7.2
sid linux-source
sid linux-source-7.10
trixie-backports linux-source-6.19
trixie-backports linux-source-7.2
trixie-backports linux-source-7.3
"""


class Wanted(ShellTest):
    def wanted(self, package):
        out, _ = self.shell(f"linux_wanted {package}", MIRROR)
        return out.splitlines()

    def test_wanted_from_a_release_on_gives_the_newest_first_and_none_older(self):
        self.assertEqual(self.wanted("linux-source-7.2+"), [
            "sid linux-source-7.10", "trixie-backports linux-source-7.3", "sid linux-source-7.2",
            "trixie-backports linux-source-7.2"])

    def test_wanted_from_a_release_that_is_not_there_any_more_gives_later_ones(self):
        self.assertEqual(self.wanted("linux-source-7.4+"), ["sid linux-source-7.10"])

    def test_wanted_one_package_gives_each_suite_that_has_it(self):
        self.assertEqual(self.wanted("linux-source-7.2"),
                         ["sid linux-source-7.2", "trixie-backports linux-source-7.2"])

    def test_wanted_that_nobody_has_gives_nothing(self):
        self.assertEqual(self.wanted("linux-source-7.11+"), [])
        self.assertEqual(self.wanted("linux-source-7.1"), [])


class Make(ShellTest):
    """make/linux-source with an apt of the test's own: MIRROR is what its suites have."""

    def setUp(self):
        super().setUp()
        self.program(
            "bin/apt-get",
            """
            case " $* " in
            *" indextargets "*)
                . /etc/os-release
                echo "$VERSION_CODENAME main mirror: $FOLDER/sources.list:1"
                ;;
            *" update "*) ! grep -q unreachable "$6/../sources.list" 2>/dev/null ;;
            *" download "*) echo "${!#}" >>"$FOLDER/asked"; exit 1 ;;
            esac""",
        )
        self.program("bin/apt-cache", """
            for word; do [[ $word != Dir::Etc::SourceList=* ]] || list=${word#*=}; done
            suite=$(sed -E 's/.*mirror: ([^ ]+) main/\\1/' "$list")
            sed -n "s/^$suite //p" "$FOLDER/mirror" """)
        (self.folder / "mirror").write_text(MIRROR, encoding="utf-8")

    def make(self, wanted):
        _, err = self.shell(
            f"mkdir \"$FOLDER/made\"; : >\"$FOLDER/log\"\n"
            f"\"$VSVA_TEST_VM/make/linux-source\" \"$FOLDER/made\" \"$FOLDER/log\" {wanted}",
            status=1,
        )
        asked = self.folder / "asked"
        return asked.read_text(encoding="utf-8").split() if asked.exists() else [], err

    def test_source_that_cannot_be_fetched_is_followed_by_the_next_older_and_all_are_named(self):
        asked, err = self.make("linux-source-7.2+ sid trixie-backports")
        self.assertEqual(
            asked, ["linux-source-7.10", "linux-source-7.3", "linux-source-7.2", "linux-source-7.2"]
        )
        self.assertIn("tried: linux-source-7.10 from sid,linux-source-7.3 from trixie-backports,"
                      "linux-source-7.2 from sid,linux-source-7.2 from trixie-backports", err)

    def test_source_that_nobody_has_says_what_there_is(self):
        asked, err = self.make("linux-source-8.0+ sid trixie-backports")
        self.assertEqual(asked, [])
        self.assertIn(
            "looked for linux-source-8.0+ in sid trixie-backports and in VSVA_SOURCE_CACHE "
            "(not set)",
            err,
        )
        self.assertIn("sid linux-source-7.10", err)
        self.assertIn("trixie-backports linux-source-6.19", err)
