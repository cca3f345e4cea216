# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The account that the host's emulated SMMU keeps of stalls and CMD_RESUMEs: the kernel rig's."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).resolve().parents[3] / "test-vm" / "kernel-rig" / "run.d" / "witness.py"


def account(trace_path):
    """stalls, retried, aborted; complaints(None) is what contradicts "answered exactly once"."""
    spec = importlib.util.spec_from_file_location("kernel_rig_witness", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read(trace_path)[0]
