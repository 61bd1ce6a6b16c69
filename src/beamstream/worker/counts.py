"""What a worker has done so far: plain numbers, read by others at their own pace."""

from __future__ import annotations


class Counts:
    """Inputs by what became of them, results, and the time that the step's code took.

    `done` counts all that are settled and did not fail, `skipped` those of them without a result.
    """

    def __init__(self) -> None:
        self.done = self.failed = self.skipped = self.retried = self.stale = 0
        self.results = self.nbytes = 0
        self.busy_s = 0.0
        self.note = ""
        """The last thing that people should know."""

    def finished(self, inputs: int, results: int, nbytes: int) -> None:
        """Inputs are settled, with so many results."""
        self.done += inputs
        self.skipped += 0 if results else inputs
        self.results += results
        self.nbytes += nbytes
