"""`node.db`: what is a node's and no beamtime's. Tokens, revocations, beamtimes, boots.

Several processes may use it at once: the command line writes, the running node sees it by
`Registry.changed`. Every write is on disk when its method returns. A token itself is never stored,
only its id and what it allows.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from beamstream.errors import BadName, Conflict, NotFound, StorageError, StoreTooNew
from beamstream.model import check_beamtime

SCHEMA_VERSION: Final = 1
_BUSY_MS: Final = 5000
_BEAMLINE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOTE_NCHARS_MAX: Final = 200

_SCHEMA: Final = """
CREATE TABLE node (one INTEGER PRIMARY KEY CHECK (one = 1), id INTEGER NOT NULL) STRICT;
CREATE TABLE boots (
    boot INTEGER PRIMARY KEY, started_ns INTEGER NOT NULL, version TEXT NOT NULL
) STRICT;
CREATE TABLE tokens (
    token_id TEXT PRIMARY KEY, subject TEXT NOT NULL, access TEXT NOT NULL,
    created_ns INTEGER NOT NULL, expires_ns INTEGER NOT NULL, note TEXT NOT NULL
) STRICT;
CREATE TABLE revocations (token_id TEXT PRIMARY KEY, revoked_ns INTEGER NOT NULL) STRICT;
CREATE TABLE beamtimes (
    beamtime TEXT PRIMARY KEY, beamline TEXT NOT NULL,
    opened_ns INTEGER NOT NULL, closed_ns INTEGER NOT NULL, current INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_current ON beamtimes (beamline) WHERE current = 1 AND beamline <> '';
"""

_TOKENS: Final = """
SELECT token_id, subject, access, created_ns, expires_ns, note, coalesce(revoked_ns, 0)
FROM tokens LEFT JOIN revocations USING (token_id)
"""
_BEAMTIMES: Final = "SELECT beamtime, beamline, opened_ns, closed_ns, current FROM beamtimes "


class Token(msgspec.Struct, frozen=True):
    """What is known of a token that was issued.

    Parameters
    ----------
    token_id : the claim ``jti``.
    subject : ``bt_<beamtime>`` or ``bl_<beamline>``.
    access : rights, sorted.
    revoked_ns : 0 while it is not revoked.
    """

    token_id: str
    subject: str
    access: tuple[str, ...]
    created_ns: int
    expires_ns: int
    note: str = ""
    revoked_ns: int = 0


class Beamtime(msgspec.Struct, frozen=True):
    """A beamtime that was opened by hand.

    Parameters
    ----------
    beamline : empty for none.
    closed_ns : 0 while it is open.
    current : it is what ``auto`` means at its beamline.
    """

    beamtime: str
    beamline: str
    opened_ns: int
    closed_ns: int
    current: bool


def check_beamline(beamline: str) -> str:
    """Return `beamline` if it can be a beamline's name, else raise `BadName`.

    >>> check_beamline("p01")
    'p01'
    """
    if not _BEAMLINE.fullmatch(beamline) or beamline == "auto":
        raise BadName(
            f"beamline {beamline[:80]!r} is not the name of a beamline",
            hint="1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    return beamline


class Registry:
    """The open `node.db`; made if it is not there.

    Any thread may use it. Methods raise `StorageError` when the file cannot be read or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     registry = Registry(Path(folder) / "node.db")
    ...     registry.open_beamtime("11012345", "p01", now_ns=1)
    ...     registry.current("p01").beamtime
    ...     registry.close()
    '11012345'
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        try:
            self._db = apsw.Connection(str(path))
        except apsw.Error as error:
            raise self._failed(error) from None
        try:
            with self._errors():
                self._prepare()
                self._seen = self._data_version()
        except BaseException:
            self._db.close()
            raise

    def __repr__(self) -> str:
        return f"Registry({str(self._path)!r})"

    def close(self) -> None:
        self._db.close()

    def changed(self) -> bool:
        """Whether anybody has written since the last call; for one caller."""
        with self._errors():
            now = self._data_version()
        changed = now != self._seen
        self._seen = now
        return changed

    # ------------------------------------------------------------------------------ the node

    @property
    def node_id(self) -> int:
        """Drawn at random when the file was made."""
        return int(self._rows("SELECT id FROM node")[0][0])

    def new_boot(self, now_ns: int, version: str) -> int:
        """Record a start of the node; return its number, 1 for the first."""
        with self._writing():
            self._db.execute(
                "INSERT INTO boots (started_ns, version) VALUES (?, ?)", (now_ns, version)
            )
            return self._db.last_insert_rowid()

    # -------------------------------------------------------------------------------- tokens

    def add_token(self, token: Token) -> None:
        """Record a token that is about to be given out."""
        with self._writing():
            self._db.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?)",
                (
                    token.token_id,
                    token.subject,
                    ",".join(token.access),
                    token.created_ns,
                    token.expires_ns,
                    token.note[:_NOTE_NCHARS_MAX],
                ),
            )

    def tokens(self) -> list[Token]:
        """All tokens, the oldest first."""
        return [_token(row) for row in self._rows(_TOKENS + "ORDER BY created_ns, token_id")]

    def token(self, token_id: str) -> Token | None:
        rows = self._rows(_TOKENS + "WHERE token_id = ?", (token_id,))
        return _token(rows[0]) if rows else None

    def revoke_token(self, token_id: str, now_ns: int) -> None:
        """End a token for good. Doing it again changes nothing.

        Raises
        ------
        NotFound : no such token was issued here.
        """
        with self._writing():
            if not self._rows("SELECT 1 FROM tokens WHERE token_id = ?", (token_id,)):
                raise NotFound(
                    f"there is no token {token_id[:80]!r}", hint="list them: beamstream token ls"
                )
            self._db.execute("INSERT OR IGNORE INTO revocations VALUES (?, ?)", (token_id, now_ns))

    def revoked(self) -> frozenset[str]:
        """Ids of all revoked tokens."""
        return frozenset(str(row[0]) for row in self._rows("SELECT token_id FROM revocations"))

    # ----------------------------------------------------------------------------- beamtimes

    def open_beamtime(self, beamtime: str, beamline: str, now_ns: int) -> None:
        """Make `beamtime` known, and the current one of `beamline`.

        `beamline` may be empty: then it stays what it was, or there is none.

        Raises
        ------
        BadName : one of the names is refused.
        Conflict : it belongs to another beamline already.
        """
        check_beamtime(beamtime)
        if beamline:
            check_beamline(beamline)
        with self._writing():
            known = self.beamtime(beamtime)
            beamline = beamline or (known.beamline if known else "")
            if known and known.beamline and known.beamline != beamline:
                # Its raw files lie in the folder of that beamline and are looked for there.
                raise Conflict(
                    f"beamtime {beamtime} belongs to beamline {known.beamline}",
                    hint=f"beamstream beamtime open {beamtime} --beamline {known.beamline}",
                )
            self._db.execute(
                "UPDATE beamtimes SET current = 0 WHERE beamline = ? AND beamline <> ''",
                (beamline,),
            )
            self._db.execute(
                "INSERT INTO beamtimes VALUES (?1, ?2, ?3, 0, 1) ON CONFLICT (beamtime) DO "
                "UPDATE SET beamline = ?2, closed_ns = 0, current = 1",
                (beamtime, beamline, now_ns),
            )

    def close_beamtime(self, beamtime: str, now_ns: int) -> None:
        """End `beamtime`: ``auto`` does not mean it any more. Its data stay.

        Raises
        ------
        NotFound : it was never opened.
        """
        with self._writing():
            if self.beamtime(beamtime) is None:
                raise NotFound(
                    f"beamtime {beamtime[:80]!r} was never opened",
                    hint="list them: beamstream beamtime ls",
                )
            self._db.execute(
                "UPDATE beamtimes SET current = 0, closed_ns = ? WHERE beamtime = ? "
                "AND closed_ns = 0",
                (now_ns, beamtime),
            )

    def beamtimes(self) -> list[Beamtime]:
        """All beamtimes that were opened, the oldest first."""
        return [_beamtime(row) for row in self._rows(_BEAMTIMES + "ORDER BY opened_ns, beamtime")]

    def beamtime(self, beamtime: str) -> Beamtime | None:
        rows = self._rows(_BEAMTIMES + "WHERE beamtime = ?", (beamtime,))
        return _beamtime(rows[0]) if rows else None

    def current(self, beamline: str) -> Beamtime | None:
        """What ``auto`` means at `beamline`."""
        rows = self._rows(
            _BEAMTIMES + "WHERE beamline = ? AND beamline <> '' AND current = 1", (beamline,)
        )
        return _beamtime(rows[0]) if rows else None

    # ------------------------------------------------------------------------------- SQLite

    def _prepare(self) -> None:
        self._db.set_busy_timeout(_BUSY_MS)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if self._version() == SCHEMA_VERSION:
            return
        with self._writing():
            version = self._version()
            if version > SCHEMA_VERSION:
                raise StoreTooNew(
                    f"{self._path} was written by a newer version of Beamstream",
                    hint="update Beamstream on this machine",
                )
            if version == 0:
                self._db.execute(_SCHEMA)
                self._db.execute(
                    "INSERT INTO node VALUES (1, ?)", (1 + secrets.randbelow(2**31 - 1),)
                )
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._path.chmod(0o600)

    def _version(self) -> int:
        return int(self._db.pragma("user_version"))

    def _data_version(self) -> tuple[int, int]:
        # SQLite's own counter leaves out what this connection writes.
        return int(self._db.pragma("data_version")), self._db.total_changes()

    def _rows(self, sql: str, bindings: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        with self._errors():
            return list(self._db.execute(sql, tuple(bindings)))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself when the disk was full.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (apsw.Error, OSError) as error:
            if isinstance(error, StorageError):
                raise
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> StorageError:
        return StorageError(f"cannot use {self._path}: {error}", hint="is the disk full or broken?")


def _token(row: tuple[Any, ...]) -> Token:
    token_id, subject, access, *rest = row
    return Token(token_id, subject, tuple(access.split(",")), *rest)


def _beamtime(row: tuple[Any, ...]) -> Beamtime:
    beamtime, beamline, opened_ns, closed_ns, current = row
    return Beamtime(beamtime, beamline, opened_ns, closed_ns, bool(current))
