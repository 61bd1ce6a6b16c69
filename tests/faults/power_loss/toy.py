"""A small writer with right and wrong orders: what the replayer must tell apart.

``python toy.py MODE FOLDER COUNT PORT``: for each message a file, a record in SQLite, and one byte
sent to PORT of this machine as the answer.
"""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import sys
import threading
from pathlib import Path

MODES = {
    "rename": True,
    "link": True,
    "sync in a thread": True,
    "nothing synced": False,
    "final name, no sync": False,
    "payload not synced": False,
    "folder not synced": False,
    "answers early": False,
    "syncs before the write": False,
}
"""Whether a writer of this mode keeps what it has answered."""


def payload(number: int) -> bytes:
    return random.Random(number).randbytes(20_000 + number)


def check(folder: Path, answers: int) -> list[str]:
    """What is wrong with the first `answers` messages."""
    try:
        database = sqlite3.connect(folder / "m.db")
        try:
            rows = dict(database.execute("SELECT id, size FROM m"))
        finally:
            database.close()
    except sqlite3.Error as error:
        return [f"database: {error}"]
    wrong: list[str] = []
    for number in range(1, answers + 1):
        if number not in rows:
            wrong.append(f"no record: {number}")
        try:
            content = (folder / "d" / str(number)).read_bytes()
        except OSError:
            wrong.append(f"no file: {number}")
        else:
            if content != payload(number):
                wrong.append(f"corrupt: {number}")
    return wrong


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


class Writer:
    """Writes messages in the order of its mode."""

    def __init__(self, mode: str, folder: Path, answer: socket.socket) -> None:
        self.mode = mode
        self.answer = answer
        self.folder = folder / "d"
        self.folder.mkdir()
        self.database = sqlite3.connect(folder / "m.db", isolation_level=None)
        self.database.execute("PRAGMA journal_mode = wal")
        level = "OFF" if mode == "nothing synced" else "FULL"
        self.database.execute(f"PRAGMA synchronous = {level}")
        self.database.execute("CREATE TABLE m (id INTEGER PRIMARY KEY, size INTEGER)")
        _sync_folder(folder)
        _sync_folder(self.folder)

    def put(self, number: int) -> None:
        data = payload(number)
        if self.mode == "answers early":
            self.answer.send(b"!")
        if self.mode in ("nothing synced", "final name, no sync"):
            (self.folder / str(number)).write_bytes(data)
        else:
            self._file(number, data)
        self.database.execute("INSERT INTO m VALUES (?, ?)", (number, len(data)))
        if self.mode != "answers early":
            self.answer.send(b"!")

    def _file(self, number: int, data: bytes) -> None:
        part, final = self.folder / f".part-{number}", self.folder / str(number)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        if self.mode == "syncs before the write":
            os.fdatasync(fd)
        os.write(fd, data)
        if self.mode == "sync in a thread":
            thread = threading.Thread(target=os.fdatasync, args=(fd,))
            thread.start()
            thread.join()
        elif self.mode not in ("payload not synced", "syncs before the write"):
            os.fdatasync(fd)
        os.close(fd)
        if self.mode == "link":
            os.link(part, final)
            part.unlink()
        else:
            os.rename(part, final)
        if self.mode != "folder not synced":
            _sync_folder(self.folder)


def main(mode: str, folder: str, count: str, port: str) -> None:
    with socket.create_connection(("127.0.0.1", int(port))) as answer:
        writer = Writer(mode, Path(folder), answer)
        for number in range(1, int(count) + 1):
            writer.put(number)
        writer.database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
