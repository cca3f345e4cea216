# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""report FOLDER: the table of FOLDER/results.json on stdout, and as table.md and plots beside
it.
"""

import json
import sys
from pathlib import Path

from plots import write_ratios, write_rounds


def figure(value, unit):
    """A figure with its unit, three digits or more."""
    if value is None:
        return "not measured"
    for factor, name in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if unit == "ns" and value >= factor:
            return f"{value / factor:.2f} {name}"
    if unit == "1/s" and value >= 1e6:
        return f"{value / 1e6:.2f} M/s"
    if unit == "bytes" and value >= 10_000:
        return f"{value / 1000:.0f} kB"
    text = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def row(entry):
    """One line of the table."""
    met = {True: "yes", False: "**no**", None: ""}[entry["met"]]
    value = figure(entry["value"], entry["unit"])
    ratio = "" if entry["ratio"] is None else f"{entry['ratio']:.2f}"
    reference = entry["reference"] or ""
    if reference:
        reference = f"{reference}: {figure(entry['reference_value'], entry['unit'])}"
    return (entry["name"], value, reference, ratio, entry["target"] or "", met)


def main(folder):
    """Writes everything."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows = [row(entry) for entry in results]
    header = ("What", "Figure", "Beside", "Ratio", "Target", "Met")
    table = [header, tuple("---" for _ in header), *rows]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    notes = [f"- {entry['name']}: {entry['note']}" for entry in results if entry.get("note")]
    (folder / "table.md").write_text("\n".join([text, "", *notes, ""]), encoding="utf-8")
    plain = [header, *rows]
    widths = [max(len(cells[column]) for cells in plain) for column in range(len(header))]
    for cells in plain:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
    print("\n".join(notes))
    write_ratios(folder / "ratios.svg", results)
    write_rounds(folder / "rounds.svg", results)
    met = [entry["met"] for entry in results if entry["met"] is not None]
    missing = sum(entry["value"] is None for entry in results)
    print(f"{sum(met)} of {len(met)} targets met, {missing} not measured")


main(Path(sys.argv[1]))
