"""Workers: a function with a decorator, and everything around it.

>>> from beamstream.worker import step
>>> @step(reads="eiger", writes="binned")
... def bin2(frame, *, factor: int = 2):
...     return frame[::factor, ::factor]

`steps` and `parameters` say what a step is, `loading` finds it, `calling` calls it, `engine` knows
the order of things, `runner` does them at a node, `process` is a program that does so.
"""

from __future__ import annotations

from beamstream.worker.results import Result
from beamstream.worker.steps import Step, step

__all__ = ["Result", "Step", "step"]
