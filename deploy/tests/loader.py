# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The programs of this folder as modules."""

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path

LIBVIRT = Path(__file__).resolve().parent.parent / "libvirt"


def load(name):
    loader = SourceFileLoader(name.replace("-", "_"), str(LIBVIRT / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module
