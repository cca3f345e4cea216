# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""
What Prometheus' own promtool says of the metrics, the alert rules and the dashboard.

VSVA_PROMTOOL and VSVA_BACKEND name the programs.
"""

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

MONITORING = Path(__file__).resolve().parents[2] / "deploy/monitoring"
ALERTS = MONITORING / "alerts.yml"
DASHBOARD = MONITORING / "dashboard.json"
BACKEND = os.environ["VSVA_BACKEND"]

# Alert, metrics, their values with which it does not fire, and those with which it does.
CASES = (
    ("VsvaBackendDown", ('vsva_up{vm="vm1"}',), ("1",), ("0",)),
    (
        "VsvaFaultOld",
        ('vsva_oldest_fault_age_seconds{vm="vm1"}',),
        ("29",),
        ("31",),
    ),
    (
        "VsvaQueueNearLimit",
        ('vsva_submissions_pending{vm="vm1"}', 'vsva_submissions_pending_max{vm="vm1"}'),
        ("799", "1000"),
        ("801", "1000"),
    ),
    (
        "VsvaQueueNearLimit",
        ('vsva_faults_outstanding{vm="vm1"}', 'vsva_faults_max{vm="vm1"}'),
        ("79", "100"),
        ("81", "100"),
    ),
    (
        "VsvaQueueNearLimit",
        (
            'vsva_device_faults_unanswered{vm="vm1",sid="0x10"}',
            'vsva_device_faults_max{vm="vm1",sid="0x10"}',
        ),
        ("79", "100"),
        ("81", "100"),
    ),
    (
        "VsvaDrainFailing",
        ('vsva_last_drain_failed{vm="vm1"}',),
        ("0",),
        ("1",),
    ),
    (
        "VsvaDeviceLost",
        ('vsva_device_lost{vm="vm1",sid="0x10"}',),
        ("0",),
        ("1",),
    ),
)


def promtool(*words, **options):
    command = [os.environ["VSVA_PROMTOOL"], *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


class Monitoring(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name, data):
        path = self.folder / name
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    def assert_good(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def metrics(self):
        status = self.folder / "vm1.status.sock"
        with subprocess.Popen(
            [BACKEND, f"--socket-path={self.folder}/vm1.sock", f"--status-socket={status}"],
            stderr=subprocess.PIPE,
        ) as backend:
            try:
                command = [BACKEND, "status", "--metrics", status]
                while True:
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode == 0 or backend.poll() is not None:
                        return done.stdout
            finally:
                backend.terminate()

    def test_metrics_of_a_back_end_are_as_the_conventions_want_them(self):
        text = self.metrics()
        self.assertIn('vsva_up{vm="vm1"} 1', text)
        done = promtool("check", "metrics", input=text)
        self.assert_good(done)
        self.assertEqual(done.stderr, "")

    def test_alert_rules_are_well_formed(self):
        self.assert_good(promtool("check", "rules", "--lint-fatal", ALERTS))

    def test_expressions_of_the_dashboard_are_well_formed(self):
        panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
        expressions = [target["expr"] for panel in panels for target in panel["targets"]]
        self.assertGreater(len(expressions), 10)
        rules = [
            {"record": f"panel:{number}", "expr": re.sub(r"\$\w+", "x", expression)}
            for number, expression in enumerate(expressions)
        ]
        path = self.write("rules.yml", {"groups": [{"name": "dashboard", "rules": rules}]})
        self.assert_good(promtool("check", "rules", path))

    def test_alerts_fire_at_their_limits_and_not_before(self):
        for alert, series, quiet, loud in CASES:
            for values, fires in ((quiet, False), (loud, True)):
                with self.subTest(alert=alert, values=values):
                    self.assertEqual(self.fires(alert, series, values), fires)

    def fires(self, alert, series, values):
        """Whether an alert fires after ten minutes with these values."""
        test = {
            "interval": "1m",
            "input_series": [
                {"series": name, "values": f"{value}x20"} for name, value in zip(series, values)
            ],
            "alert_rule_test": [{"eval_time": "10m", "alertname": alert, "exp_alerts": []}],
        }
        path = self.write(
            "test.yml", {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}
        )
        done = promtool("test", "rules", path)
        if done.returncode == 0:
            return False
        self.assertIn(f'alertname="{alert}"', done.stdout + done.stderr)
        return True


if __name__ == "__main__":
    unittest.main()
