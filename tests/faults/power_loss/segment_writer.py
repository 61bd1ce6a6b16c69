"""Writes segments and says what is safe: ``python segment_writer.py FOLDER COUNT PORT``.

Each round appends two entries, syncs, and sends the place of the first payload of both to PORT of
this machine. Then one entry more is appended that nobody is told of.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from beamstream.store.segments import Location, Segments

ANSWER = struct.Struct("<IIQ")
ROTATE_NBYTES = 60_000


def body_of(number: int) -> list[bytes]:
    rng = random.Random(number)
    return [rng.randbytes(rng.choice((10, 700, 9000))) for _ in range(1 + number % 4)]


def payloads(answer: bytes) -> Iterator[tuple[Location, bytes]]:
    """Where each payload lies that an answer speaks of, and what it is."""
    number, segment, offset = ANSWER.unpack(answer)
    for payload in body_of(number):
        yield Location(segment, offset), payload
        offset += len(payload)


def main(folder: str, count: str, port: str) -> None:
    log = Segments(Path(folder), referenced=lambda segment: 0, rotate_nbytes=ROTATE_NBYTES)
    with socket.create_connection(("127.0.0.1", int(port))) as door:
        for number in range(0, 3 * int(count), 3):
            places = [(one, log.append(body_of(one))) for one in (number, number + 1)]
            log.sync()
            for one, place in places:
                door.send(ANSWER.pack(one, *place))
            log.append(body_of(number + 2))
            if number % 15 == 12:
                log.close()
                log = Segments(
                    Path(folder), referenced=lambda segment: 0, rotate_nbytes=ROTATE_NBYTES
                )
        log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
