# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The documents are true as far as a program can tell: links, commands, options, messages."""

import os
import re
import subprocess
import sys
import unittest
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import markdown
import messages
from markdown import ROOT

MOST_COLUMNS = 100
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"

# Rows of tables, what rustfmt makes of a derive, and tags that have to stand in one line.
WIDE_BY_NATURE = re.compile(r"^ *//! \||^ +Clone, Copy, Debug, .*,$|^ +:avocado: tags=")
# Programs of this project, and what prints their options.
HELP = {
    "vhost-user-vsva": lambda: backend(),
    "vsva-domain": lambda: ["python3", "deploy/libvirt/vsva-domain", "add"],
    "vsva-check-device": lambda: ["python3", "deploy/libvirt/vsva-check-device"],
    "vsva-check-host": lambda: ["python3", "deploy/libvirt/vsva-check-host"],
    "vsva-upgrade": lambda: ["python3", "deploy/libvirt/vsva-upgrade"],
}
SUBCOMMANDS = {"vhost-user-vsva": [[], ["status"], ["report"], ["trace"]]}
# Options that documents name by themselves, and that are other programs'.
FOREIGN_OPTIONS = {
    "--unpatched": "qemu-patches/build",
    "--deb": "qemu-patches/build",
    "--without-drain": "vsva-model-replay, model/README.md",
    "--uninstall": "deploy/install",
    "--re": "cargo mutants",
    "--p2p": "virsh migrate",
    "--timeout-suspend": "virsh migrate",
    "--security-info": "virsh dumpxml",
}

# Messages of other programs that troubleshooting.md quotes, and whose they are.
FOREIGN_MESSAGES = {
    "Failed to connect to": "QEMU, chardev/char-socket.c",
    "can't apply global arm-smmuv3.stall=on": "QEMU, hw/core/qdev.c",
    'Unknown ramblock "0000:00:10.0/vsva-testdev-slots"': "QEMU, migration/ram.c",
    "arm-smmu-v3 ...: CMD_SYNC timeout": "Linux, drivers/iommu/arm/arm-smmu-v3",
    "a value is required for '--socket-path <PATH>' but none was supplied": "the clap crate",
    "invalid value 'X' for '--max-faults <N>'": "the clap crate",
    "stop": "the QMP command",
    "info vsva": "the HMP command",
}
# Messages that are not in troubleshooting.md.
NOT_FOR_OPERATORS = {
    "src/frontend/": "a library: its errors go to the author of the program that uses it",
    "deploy/libvirt/vsva-check-host": "it says with each of them what to do",
    "deploy/libvirt/vsva-check-device": "the same",
    "deploy/libvirt/vsva-upgrade": "the same",
}
SAYS_NOTHING_BY_ITSELF = {
    "device ...: ...": "it is the text of a refused request",
    "request ... for device ...: ...": "the same",
    ", SSID ...": "a part of the line about the oldest fault",
    "vsva-domain: ...": "who says what follows",
    "vhost-user-vsva hook: ...": "the same",
    "vhost-user-vsva device '...': ": "the same",
    "vhost-user-vsva device '...': ...": "the same",
    "usage: ... BACKEND       (cargo build --release makes target/release/vhost-user-vsva)\n"
    "       ... --uninstall": "how to call it",
}
# Stands for something else in a quoted message.
PLACEHOLDER = re.compile(r"'?\b(?:0x)?(?:N|M|X|Y|PATH|UUID|DOMAIN)\b'?|\[?\.\.\.\]?")
# Letters of a quotation that are enough to find a message by.
ENOUGH = 9


def backend():
    """What prints the options of the program."""
    built = os.environ.get("VSVA_BACKEND")
    return [built] if built else ["cargo", "run", "--quiet", "--locked", "--"]


@lru_cache
def help_of(program):
    return "".join(
        subprocess.run(
            [*HELP[program](), *words, "--help"],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "500"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for words in SUBCOMMANDS.get(program, [[]])
    )


@lru_cache
def options_of(program):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_of(program)))


def where(path, number=None):
    name = path.relative_to(ROOT).as_posix()
    return name if number is None else f"{name}:{number}"


class Text(unittest.TestCase):
    maxDiff = None

    def test_prose_is_within_100_columns(self):
        wide = [
            where(path, line.number)
            for path in markdown.documents()
            for line in markdown.lines(path)
            if line.kind == "prose" and len(line.text) > MOST_COLUMNS
        ]
        self.assertEqual(wide, [])

    def test_code_is_within_100_columns(self):
        wide = []
        for path in [*markdown.files(".rs"), *markdown.files(".py"), *markdown.scripts()]:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if len(line) > MOST_COLUMNS and not WIDE_BY_NATURE.search(line):
                    wide.append(where(path, number))
        self.assertEqual(wide, [])

    def test_links_lead_somewhere(self):
        dead = []
        for path in markdown.documents():
            for target in markdown.LINK.findall(markdown.text(path)):
                if re.match(r"[a-z]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                to = (path.parent / file).resolve() if file else path
                if not to.exists() or (anchor and anchor not in markdown.anchors(to)):
                    dead.append(f"{where(path)}: {target}")
        self.assertEqual(dead, [])

    def test_files_that_are_named_exist(self):
        missing = []
        for path in markdown.documents():
            for span in markdown.spans(markdown.text(path)):
                word = span.split()[0]
                first = word.split("/")[0]
                if not re.fullmatch(r"[a-z\d_.-]+(/[a-z\d_.*-]+)+/?", word, re.IGNORECASE):
                    continue
                if re.search(r"/[A-Z]{4,}[/.]|/out/|^/?docs/interop/", f"/{word}/"):
                    # A placeholder, what tests leave, QEMU's.
                    continue
                # In the folder of the document, or at the top.
                bases = [base for base in (path.parent, ROOT) if (base / first).is_dir()]
                if bases and not any(list(base.glob(word.rstrip("/"))) for base in bases):
                    missing.append(f"{where(path)}: {word}")
        self.assertEqual(missing, [])


class Commands(unittest.TestCase):
    maxDiff = None

    def commands(self):
        """(where, program, its words) for each command of one of our programs."""
        for path in markdown.documents():
            found = [(None, span) for span in markdown.spans(markdown.text(path))]
            found += [
                (line.number, line.text) for line in markdown.lines(path) if line.kind == "code"
            ]
            for number, command in found:
                for part in re.split(r"[|;&]|\s#\s", command):
                    words = part.split()
                    for index, word in enumerate(words):
                        yield where(path, number), word.rsplit("/", 1)[-1], word, words[index + 1 :]

    def test_options_in_commands_are_options_of_the_program(self):
        unknown, seen = [], set()
        for place, program, _, words in self.commands():
            if program in HELP:
                seen.add(program)
                for word in words:
                    option = re.match(r"--[a-z][a-z0-9-]*", word)
                    if option and option[0] not in options_of(program) | {"--help"}:
                        unknown.append(f"{place}: {program} {option[0]}")
        self.assertEqual(unknown, [])
        self.assertEqual(seen, set(HELP))

    def test_options_by_themselves_are_of_one_of_the_programs(self):
        known = set().union(*map(options_of, HELP)) | set(FOREIGN_OPTIONS)
        named = {}
        for path in markdown.documents():
            for span in markdown.spans(markdown.text(path)):
                if option := re.match(r"--[a-z][a-z0-9-]*", span):
                    named[option[0]] = where(path)
        self.assertEqual({option: named[option] for option in named.keys() - known}, {})
        self.assertLessEqual(set(FOREIGN_OPTIONS), set(named))

    def test_groups_of_tests_exist(self):
        groups = {path.stem for path in (ROOT / "test-vm/groups").glob("*.sh")}
        for place, _, word, words in self.commands():
            if word.endswith("test-vm/check") and words and re.fullmatch("[a-z]+", words[0]):
                with self.subTest(place):
                    self.assertIn(words[0], groups)

    def test_option_table_of_the_program_is_its_help(self):
        help_text = help_of("vhost-user-vsva")
        options = {
            match[1]: match[2]
            for match in re.finditer(
                r"^ +(?:-\w, )?(--[a-z0-9-]+)(?:[ =]<([^>]+)>)?", help_text, re.MULTILINE
            )
            if match[1] not in ("--help", "--version") and not match[1].startswith("--x-")
        }
        self.assertGreater(len(options), 8)
        documented = {}
        for table in markdown.tables(ROOT / "docs/backend.md"):
            if table[0][0] == "Option":
                for cells in table[1:]:
                    for span in markdown.spans(cells[0]):
                        option, _, value = span.partition("=")
                        documented[option] = value.replace("\\", "") or None
        self.assertEqual(set(documented), set(options))
        for option, value in options.items():
            self.assertEqual(documented[option] is None, value is None, option)


def pieces(quotation):
    return [piece.strip() for piece in PLACEHOLDER.split(quotation) if piece.strip()]


def letters(text):
    return len(re.sub(r"\W", "", text))


def quotes(quotation, message):
    """Does it say what the message says, as far as it goes?"""
    at = 0
    for piece in pieces(quotation):
        at = message.text.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


def shown(message):
    return re.sub(r"(?:0x)?\0", "...", message.text)


def quotations():
    """What is quoted in the first column of troubleshooting.md's tables."""
    return [
        span
        for table in markdown.tables(TROUBLESHOOTING)
        for cells in table[1:]
        for span in markdown.spans(cells[0])
    ]


class Messages(unittest.TestCase):
    maxDiff = None

    def test_quoted_messages_exist_in_the_sources(self):
        literals = messages.literals()
        unknown = [
            quotation
            for quotation in quotations()
            if quotation not in FOREIGN_MESSAGES
            and not any(quotes(quotation, literal) for literal in literals)
        ]
        self.assertEqual(unknown, [], "no source says so (any more)")

    def test_messages_of_others_are_still_quoted(self):
        self.assertLessEqual(set(FOREIGN_MESSAGES), set(quotations()))

    def test_every_message_that_an_operator_can_see_is_in_troubleshooting(self):
        found = [quotation for quotation in quotations() if quotation not in FOREIGN_MESSAGES]
        missing, checked = [], 0
        for message in messages.reports():
            own = letters("".join(message.fixed))
            if message.path.startswith(tuple(NOT_FOR_OPERATORS)) or own < 6:
                continue
            if shown(message) in SAYS_NOTHING_BY_ITSELF:
                continue
            checked += 1
            if not any(
                quotes(quotation, message)
                and letters("".join(pieces(quotation))) >= min(ENOUGH, own)
                for quotation in found
            ):
                missing.append(f"{message.path}: {shown(message)}")
        self.assertEqual(missing, [], "each needs a row, or a reason above why not")
        self.assertGreater(checked, 150)

    def test_exceptions_are_still_needed(self):
        texts = messages.reports()
        for prefix in NOT_FOR_OPERATORS:
            self.assertTrue(any(message.path.startswith(prefix) for message in texts), prefix)
        self.assertLessEqual(set(SAYS_NOTHING_BY_ITSELF), set(map(shown, texts)))


if __name__ == "__main__":
    unittest.main()
