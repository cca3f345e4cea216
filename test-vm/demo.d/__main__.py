# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Shows a DMA fault's round trip through the backend, and a live migration in the middle of it.
Run by test-vm/demo.
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "avocado"))

# pylint: disable=wrong-import-position
import show                                                 # noqa: E402
from picture import write_timeline                          # noqa: E402
from record import Run                                      # noqa: E402
from report import write_report                             # noqa: E402
from runs import RUNS, Place                                # noqa: E402
from avocado_vsva.environment import Environment            # noqa: E402


def perform(function, run, place):
    """Whatever goes wrong in a run is part of its result."""
    try:
        function(run, place)
    except Exception as error:  # pylint: disable=broad-except
        run.require(False, f"{type(error).__name__}: {error}")
    return run


def main():
    environment = Environment.load()
    logs = environment.out / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    runs = []
    with tempfile.TemporaryDirectory(prefix="vsva-") as sockets:
        for number, (name, title, expected, function) in enumerate(RUNS, 1):
            show.starting(number, len(RUNS), function.__doc__)
            runs.append(
                perform(
                    function, Run(name, title, expected), Place(environment, logs, Path(sockets))
                )
            )
            show.run(runs[-1])
    report = write_report(environment.out / "report.json", runs)
    (logs / "report.txt").write_text(
        write_timeline(environment.out / "timeline.svg", environment.backend, logs, runs),
        encoding="utf-8",
    )
    show.summary(report, environment.out)
    return 0 if report["outcome"] == "as expected" else 1


if __name__ == "__main__":
    sys.exit(main())
