"""What this process has open, without sockets: other tests' clients may come and go meanwhile."""

from __future__ import annotations

import os


def files_open() -> int:
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("/")
        except FileNotFoundError:
            # The descriptor of the listing itself.
            continue
    return count
