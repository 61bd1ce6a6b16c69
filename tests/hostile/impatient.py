"""``beamstream`` with deadlines of a second or so, for tests that wait for them."""

from __future__ import annotations

import sys
from typing import Final

from beamstream import limits

LOGIN_SECONDS: Final = 1.0
STALL_SECONDS: Final = 1.5
CONNECTIONS_PER_CLIENT: Final = 20

if __name__ == "__main__":
    # Before anything else is imported: some of these become default arguments.
    for name, value in (
        ("LOGIN_SECONDS_MAX", LOGIN_SECONDS),
        ("STALL_SECONDS_MAX", STALL_SECONDS),
        ("CONNECTIONS_PER_CLIENT_MAX", CONNECTIONS_PER_CLIENT),
    ):
        assert hasattr(limits, name)
        setattr(limits, name, value)
    from beamstream.cli.main import main

    sys.exit(main())
