# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
The texts that the sources can show an operator. What is filled in at run time is VARIABLE.

Rust: #[error("...")], log::error!, log::warn!, and what main() prints. QEMU series: what its added
lines report by the functions of qapi/error.h and qemu/error-report.h. deploy/: what its programs
refuse, and print on their standard error.
"""

import ast
import re
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import series

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "\0"
REPORTS = (
    "error_setg|error_setg_errno|error_append_hint|error_prepend|error_report|error_report_once|"
    "error_reportf_err|warn_report|warn_report_once|warn_reportf_err|info_report"
)
C_CALL = re.compile(rf"\b(?:{REPORTS})\s*\(")
# What "the back-end has gone" and "drain failed" are followed by.
C_REASON = {
    "hw/virtio/": re.compile(r"\bvsva_backend_gone\s*\("),
    "hw/virtio/vhost-user-vsva-drain.c": re.compile(r"\bg_strdup(?:_printf)?\s*\("),
}
C_PIECE = re.compile(r'"((?:[^"\\]|\\.)*)"|\b(PRI[A-Za-z0-9]+)|(\s+)|(.)', re.DOTALL)
C_FORMAT = re.compile(r"%[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh|h|ll|l|z|j|t)?[a-zA-Z]?|%%")
RUST_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
RUST_REPORT = re.compile(r'(?:#\[error\(|\blog::(?:error|warn)!\(|\beprintln!\()\s*(?=")')
ESCAPES = {"n": "\n", "t": "\t", '"': '"', "'": "'", "\\": "\\", "0": ""}


@dataclass(frozen=True)
class Message:
    path: str
    text: str

    @property
    def fixed(self):
        """What of it is always there, without white space at the ends."""
        return [piece for piece in self.text.split(VARIABLE) if piece.strip()]


def unescape(text):
    text = re.sub(r"\\\n\s*", "", text)
    return re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[1]), text)


# Rust.


def rust_text(literal):
    text = unescape(literal).replace("{{", "\1").replace("}}", "\2")
    return re.sub(r"\{[^{}]*\}", VARIABLE, text).replace("\1", "{").replace("\2", "}")


def rust_sources():
    for path in sorted((ROOT / "src").rglob("*.rs")):
        text = path.read_text(encoding="utf-8").split("#[cfg(test)]\nmod ")[0]
        yield path.relative_to(ROOT).as_posix(), text


def rust_reports():
    for path, text in rust_sources():
        for match in RUST_REPORT.finditer(text):
            yield Message(path, rust_text(RUST_STRING.match(text, match.end())[1]))


def rust_literals():
    for path, text in rust_sources():
        for match in RUST_STRING.finditer(re.sub(r"//.*|'\"'", "", text)):
            yield Message(path, rust_text(match[1]))


# C.


def c_strings(text, at=0, call=False):
    """Adjacent literals as one, of a call until its end, or of all the text."""
    depth, literal = 1, None
    for match in C_PIECE.finditer(text, at):
        string, macro, space, other = match.groups()
        if string is not None:
            literal = (literal or "") + unescape(string)
        elif macro is not None:
            # "%" PRIx64: the conversion is in the macro.
            literal = (literal or "") + "d"
        elif space is None:
            if literal is not None:
                yield C_FORMAT.sub(lambda m: "%" if m[0] == "%%" else VARIABLE, literal)
                literal = None
            depth += (other == "(") - (other == ")")
            if call and depth == 0:
                return


def c_reports():
    for path, text in series.added_text().items():
        calls = [C_CALL, *(call for prefix, call in C_REASON.items() if path.startswith(prefix))]
        for match in chain.from_iterable(call.finditer(text) for call in calls):
            # What follows is filled in.
            yield from (
                Message(path, string)
                for string in islice(c_strings(text, match.end(), call=True), 1)
            )


def c_literals():
    for path, text in series.added_text().items():
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        for string in c_strings(text):
            yield Message(path, string)


# deploy/.

PYTHON = ("qemu-hook", "vsva-check-device", "vsva-check-host", "vsva-domain", "vsva-upgrade")
SHELL_PROGRAMS = ("deploy/install", "deploy/debian/prerm", "deploy/debian/postinst")
SHELL = re.compile(r'(?:\bfail|\becho) "((?:[^"\\]|\\.)*)"(?P<stderr> >&2)?')


def python_text(node):
    """The text of a literal, or None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = (
            python_text(part) if isinstance(part, ast.Constant) else None for part in node.values
        )
        return "".join(VARIABLE if part is None else part for part in parts)
    return None


def python_tree(name):
    path = ROOT / "deploy/libvirt" / name
    return path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def python_reports():
    for name in PYTHON:
        path, tree = python_tree(name)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = ast.unparse(node.func)
            to_stderr = any(ast.unparse(keyword) == "file=sys.stderr" for keyword in node.keywords)
            if (
                called in ("Failed", "Refused", "sys.exit")
                or called.endswith((".ArgumentTypeError", ".error"))
                or (called == "print" and to_stderr)
            ):
                text = python_text(node.args[0])
                if text is not None:
                    yield Message(path, text)


def python_literals():
    for name in PYTHON:
        path, tree = python_tree(name)
        for node in ast.walk(tree):
            text = python_text(node)
            if text:
                yield Message(path, text)


def shell_messages(everything):
    for path in SHELL_PROGRAMS:
        for match in SHELL.finditer((ROOT / path).read_text(encoding="utf-8")):
            if everything or match["stderr"] or match[0].startswith("fail"):
                yield Message(path, re.sub(r"\$\{?\w+\}?|\$\*|\$\d", VARIABLE, match[1]))


def reports():
    return [*rust_reports(), *c_reports(), *python_reports(), *shell_messages(False)]


def literals():
    return [*rust_literals(), *c_literals(), *python_literals(), *shell_messages(True)]
