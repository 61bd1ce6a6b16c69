"""Modules `asapo_producer` and `asapo_consumer` for programs that were written for ASAPO.

They have the names, arguments, results and exceptions of the official ones (25.3) in pure Python,
for every Python from 3.11 on. Three ways to have a program find them::

    python -m beamstream.compat program.py ARGS      nothing to change
    PYTHONPATH=$(python -m beamstream.compat --path) for programs that are started by others
    beamstream.compat.install()                      in the program, before it imports them
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final

__all__ = ["FOLDER", "MODULES", "install"]

MODULES: Final = ("asapo_producer", "asapo_consumer")

FOLDER: Final = Path(__file__).parent / "importable"
"""A folder for the module path of Python, where both modules are found by their own names."""


def install() -> None:
    """Have ``import asapo_producer`` and ``import asapo_consumer`` find what is here.

    What has imported the official ones before keeps them.
    """
    for name in MODULES:
        sys.modules[name] = importlib.import_module(f"{__name__}.{name}")
