"""What the node has taken back meanwhile: it is told of, and says what became of it."""

from __future__ import annotations

import os

from beamstream.client.native.session import Session, nobody
from beamstream.wire.native.frames import Ack, Hello, OpenWriter, StreamOpened, Welcome

from .test_core import Calls, acknowledge, deliver, reader, taken


def test_an_acknowledgement_of_what_is_no_longer_held_is_sent() -> None:
    incoming, call = reader(), Calls()
    deliver(incoming, 1, 3)
    arrived = taken(incoming)
    acknowledge(incoming, arrived, 1, 2)
    incoming.lost()
    incoming.subscribe(1.0)
    incoming.stream_opened(StreamOpened(7, 4, "s", "t"))
    assert arrived.lease is not None
    assert not arrived.lease.alive
    assert incoming.tell(2.0, call) == [Ack(7, 4, 1, ((1, 2),), 1)]
    assert not incoming.all_confirmed
    assert incoming.confirmed(1)
    assert incoming.all_confirmed


def test_and_of_what_was_taken_back_before_it_was_done() -> None:
    incoming, call = reader(), Calls()
    deliver(incoming, 1, 3)
    arrived = taken(incoming)
    for turn in (1, 2):
        incoming.lost()
        incoming.subscribe(float(turn))
        incoming.stream_opened(StreamOpened(7, turn, "s", "t"))
    acknowledge(incoming, arrived, 1, 4)
    assert incoming.tell(3.0, call) == [Ack(7, 2, 1, ((1, 4),), 1)]


def test_it_waits_for_the_stream_to_be_open_again() -> None:
    incoming, call = reader(), Calls()
    deliver(incoming, 1)
    arrived = taken(incoming)
    incoming.lost()
    incoming.subscribe(1.0)
    acknowledge(incoming, arrived, 1, 2)
    assert incoming.tell(2.0, call) == []
    incoming.stream_opened(StreamOpened(7, 0, "s", "t"))
    assert incoming.tell(3.0, call) == [Ack(7, 0, 1, ((1, 2),), call.number)]


def test_whoever_waits_for_memory_is_told_that_the_connection_is_gone() -> None:
    session = Session(Hello("beamstream", 1, "token", "demo", bytes(16)), nobody)
    session.connected()
    session.take(0.0)
    access = ("read", "write")
    welcome = Welcome(1, 1, 1, "node", "demo", access, 2, 1 << 20, 100)
    session.receive(welcome, memoryview(b""), 0.0)
    told: list[int] = []
    opening = OpenWriter(0, "s", "t", os.urandom(16))
    session.open_writer(opening, lambda: told.append(1))
    session.lost()
    assert told == [1]
