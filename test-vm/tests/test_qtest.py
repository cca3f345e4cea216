# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

from pathlib import Path

from shell import ShellTest

# Debian 12's GLib lists paths bare, Debian 13's as comments.
BARE = "/aarch64/a\n/aarch64/b\n"
COMMENTS = "# random seed: R02S0123\n# /aarch64/a\n# /aarch64/b\n"


class List(ShellTest):
    def list(self, text):
        return self.shell("qtest_list", text)[0].split()

    def test_list_of_either_glib_gives_the_paths(self):
        for text in (BARE, COMMENTS, "TAP version 14\n" + COMMENTS):
            self.assertEqual(self.list(text), ["/aarch64/a", "/aarch64/b"])

    def test_list_without_a_path_is_empty(self):
        self.assertEqual(self.list("TAP version 14\n# random seed: R02S0123\nBail out!\n"), [])


class Compare(ShellTest):
    """qtest_compare, with a qos-test of this test's own for either QEMU."""

    def setUp(self):
        super().setUp()
        self.program("bin/ninja", "exit 0")

    def qemu(self, name, tests):
        """TESTS: path to pass, fail, skip or once (fails the first time), or None for a list
        that is empty.
        """
        lines = "\n".join(
            f"{path}) outcome={outcome} ;;" for path, outcome in (tests or {}).items()
        )
        listed = "\n".join(f"# {path}" for path in tests or {})
        self.program(
            f"{name}/build/tests/qtest/qos-test",
            f"""
            if [ "$1" = -l ]; then cat <<'END'\n{listed}\nEND
            exit; fi
            outcome=none
            case ${{!#}} in
            {lines}
            esac
            echo "${{!#}}" >>"$FOLDER/{name}/ran"
            case $outcome in
            pass) echo "ok 1 ${{!#}}" ;;
            skip) echo "ok 1 ${{!#}} # SKIP no such thing" ;;
            once)
                [ "$(grep -c -x -F -- "${{!#}}" "$FOLDER/{name}/ran")" -gt 1 ] || exit 1
                echo "ok 1 ${{!#}}"
                ;;
            *) echo "not ok 1 ${{!#}}"; exit 1 ;;
            esac""",
        )

    def compare(self, patched, base):
        self.qemu("patched", patched)
        self.qemu("base", base)
        return self.compare_again()

    def compare_again(self):
        """Kind, name and note of each result."""
        self.shell("""
            GROUP=qemu QTESTS=(qos-test) QTEST_ROMS=$FOLDER/roms
            qemu_patched() { echo "$FOLDER/patched"; }
            qemu_unpatched() { echo "$FOLDER/base"; }
            qtest_own() { :; }
            results_begin
            qtest_compare""")
        lines = (self.folder / "out/results.tsv").read_text(encoding="utf-8").splitlines()
        return [tuple(line.split("\t")[:1] + line.split("\t")[2:]) for line in lines]

    def runs(self, name):
        ran = self.folder / name / "ran"
        return ran.read_text(encoding="utf-8").split() if ran.exists() else []

    def test_compare_of_what_passes_passes_and_the_unpatched_is_run_once(self):
        self.assertEqual(
            self.compare({"/a": "pass"}, {"/a": "pass"}), [("pass", "qos-test /a", "")]
        )
        self.assertEqual(self.compare_again(), [("pass", "qos-test /a", "")])
        self.assertEqual((self.runs("patched"), self.runs("base")), (["/a", "/a"], ["/a"]))

    def test_compare_of_empty_lists_on_both_fails_on_both(self):
        results = self.compare(None, None)
        self.assertEqual(
            [result[:2] for result in results], [("fail", "qos-test"), ("fail", "qos-test")]
        )
        self.assertIn("on the unpatched QEMU", results[0][2])
        self.assertEqual(results[1][2], "it lists no tests")

    def test_compare_with_an_empty_list_of_the_unpatched_fails_and_does_not_keep_it(self):
        results = self.compare({"/a": "fail"}, None)
        self.assertEqual(
            [result[:2] for result in results], [("fail", "qos-test"), ("fail", "qos-test /a")]
        )
        self.qemu("base", {"/a": "fail"})
        self.assertEqual([result[:2] for result in self.compare_again()], [("skip", "qos-test /a")])

    def test_compare_with_an_empty_list_of_the_patched_fails(self):
        self.assertEqual(self.compare(None, {"/a": "pass"}),
                         [("fail", "qos-test", "it lists no tests"),
                          ("fail", "qos-test /a", "it did not run on the patched QEMU")])

    def test_compare_of_what_fails_on_both_skips_and_names_what_was_run(self):
        (kind, _, note), = self.compare({"/a": "fail"}, {"/a": "fail"})
        self.assertEqual(kind, "skip")
        self.assertEqual(
            note,
            "qos-test -p /a was run on the unpatched QEMU and fails there as well: "
            f"{self.folder}/base/qos-test.log",
        )
        self.assertEqual(self.runs("base"), ["/a", "/a"])

    def test_compare_of_what_failed_on_the_unpatched_by_chance_fails(self):
        self.assertEqual(
            self.compare({"/a": "fail"}, {"/a": "once"}), [("fail", "qos-test /a", "")]
        )

    def test_compare_of_what_fails_on_the_patched_only_fails(self):
        self.assertEqual(self.compare({"/a": "fail", "/b": "pass"}, {"/a": "pass", "/b": "pass"}),
                         [("fail", "qos-test /a", ""), ("pass", "qos-test /b", "")])

    def test_compare_of_what_qemu_skips_gives_its_reason(self):
        self.assertEqual(self.compare({"/a": "skip"}, {"/a": "skip"}),
                         [("skip", "qos-test /a", "QEMU: no such thing")])

    def test_unpatched_that_two_want_at_once_is_run_once(self):
        self.qemu("base", {"/a": "pass", "/b": "pass"})
        self.shell("""
            QTESTS=(qos-test) QTEST_ROMS=$FOLDER/roms
            for n in 1 2 3 4; do qtest_expected "$FOLDER/base" >"$FOLDER/expected-$n" & done
            wait""")
        names = {
            (self.folder / f"expected-{n}").read_text(encoding="utf-8").strip() for n in range(1, 5)
        }
        (name,) = names
        self.assertEqual(
            Path(name).read_text(encoding="utf-8"), "pass\tqos-test /a\npass\tqos-test /b\n"
        )
        self.assertEqual(self.runs("base"), ["/a", "/b"])
