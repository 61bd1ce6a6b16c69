"""A node that counts nothing: what the counters cost is the difference to one that does.

``python -m benchmarks.uncounted up …`` is `beamstream up …` with counters that do not count.
"""

from __future__ import annotations

import sys
from typing import Any

from beamstream.cli.main import main
from beamstream.server.stats import Stats


def _nothing(*_: Any, **__: Any) -> None:
    """In place of counting."""


for _name in ("arrived", "handed_out", "acknowledged", "wrote_file", "failed"):
    setattr(Stats, _name, _nothing)

if __name__ == "__main__":
    sys.exit(main())
