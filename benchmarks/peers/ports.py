"""How producer, consumer and server of one case find each other."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SECONDS_MAX: Final = 20.0
_EACH_S: Final = 0.003
_LOG_MAX: Final = 2_000


class NotUp(Exception):
    """A server or the other side of a case did not come up."""


def announce(folder: str, port: int) -> None:
    """Tell the other side of this case where to connect to."""
    path = Path(folder, "port")
    part = path.with_suffix(".part")
    part.write_text(str(port))
    os.rename(part, path)


def announced(folder: str) -> int:
    """Wait until the other side has said where it listens."""
    path = Path(folder, "port")
    end = time.monotonic() + SECONDS_MAX
    while not path.exists():
        if time.monotonic() > end:
            raise NotUp(f"the other side said no port within {SECONDS_MAX:.0f} s")
        time.sleep(_EACH_S)
    return int(path.read_text())


def free_port() -> int:
    """Return a port nobody listens on at the moment, for servers that cannot choose one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str], folder: Path, port: int, executable: str | None = None
) -> Iterator[int]:
    """Run a server until the end of ``with``; give its process id once it takes connections.

    Raises
    ------
    NotUp : it ended or did not listen; the text has the end of what it said.
    """
    log = folder / "server.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            executable=executable,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        _wait_until_up(process, port, log)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + SECONDS_MAX
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(_EACH_S)
        else:
            return
    text = log.read_text(errors="replace")[-_LOG_MAX:]
    raise NotUp(f"{process.args!r} does not listen on port {port}: {text}")
