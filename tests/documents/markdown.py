# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The project's documents, as far as the tests need to understand them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {"target", ".git", "out"}
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"(`+)(.+?)\1")


class Line:
    """kind: prose, heading, table, code (a block) or comment."""

    def __init__(self, number, text, kind):
        self.number = number
        self.text = text
        self.kind = kind


def files(kind):
    """All files whose names end so, without what is built or written by tests."""
    return sorted(
        path for path in ROOT.rglob(f"*{kind}") if not SKIPPED & set(path.relative_to(ROOT).parts)
    )


def scripts():
    """Shell, Python without a suffix, units, and what else of deploy/ is written by hand."""
    kinds = {".sh", ".service", ".socket", ".fish", ".list", ".8", ".1"}
    for path in files(""):
        if path.is_file() and path.suffix not in (".rs", ".py", ".md"):
            with path.open("rb") as file:
                begins = file.read(32)
            if path.suffix in kinds or begins.startswith((b"#!", b"#compdef")):
                yield path


def documents():
    return files(".md")


def lines(path):
    fenced = code = False
    after_blank = True
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if text.lstrip().startswith("```"):
            fenced = not fenced
            kind = "code"
        elif fenced or (text.startswith("    ") and (after_blank or code)):
            kind = "code"
        elif text.startswith("#"):
            kind = "heading"
        elif text.startswith("|"):
            kind = "table"
        elif text.startswith("<!--"):
            kind = "comment"
        else:
            kind = "prose"
        code = kind == "code" and not fenced and bool(text.strip()) or (code and not text.strip())
        after_blank = not text.strip()
        yield Line(number, text, kind)


def text(path):
    """What is prose, headings and tables, with paragraphs on one line."""
    kept = (line.text if line.kind not in ("code", "comment") else "" for line in lines(path))
    return re.sub(r"(?<=[^\n|])\n *(?=[^\n|#*\d-])", " ", "\n".join(kept))


def spans(markdown):
    """What is between backticks."""
    return [match[2].strip() for match in CODE.finditer(markdown)]


def anchors(path):
    """As GitHub makes them of headings."""
    found = set()
    for line in lines(path):
        if line.kind == "heading":
            title = re.sub(r"[^\w\- ]", "", line.text.lstrip("#").strip().lower())
            found.add(title.replace(" ", "-"))
    return found


def tables(path):
    """Lists of rows, each a list of cells; the first row is the head."""
    table = []
    for line in lines(path):
        if line.kind == "table":
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.text)[1:-1]]
            if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                table.append(cells)
        elif table:
            yield table
            table = []
    if table:
        yield table
