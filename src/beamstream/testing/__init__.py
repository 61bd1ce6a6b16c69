"""Public helpers for tests: steps without a node, simulated detectors, a node in a process,
conformance suites."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamstream.testing.steps import Made, run_step

__all__ = ["Made", "run_step"]


def __getattr__(name: str) -> Any:
    # Whoever wants a simulated detector need not wait for what workers are made of.
    if name not in __all__:
        raise AttributeError(f"module 'beamstream.testing' has no attribute {name!r}")
    return getattr(importlib.import_module("beamstream.testing.steps"), name)
