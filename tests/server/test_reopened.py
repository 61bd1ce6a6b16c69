"""What is opened again after the end of a stream comes to those who have been told of the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import beamstream as bs
from beamstream.client.native.events import StreamEnd
from beamstream.client.native.subscription import Subscription
from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="16MiB") as node:
        yield node


def read_to_the_end(member: Subscription) -> list[int]:
    """Ids up to the end of the stream; each is acknowledged."""
    found: list[int] = []
    while (event := member.next_event(30)) is not None:
        if isinstance(event, StreamEnd):
            return found
        if isinstance(event, bs.Batch):
            found += event.ids
            event.ack()
    raise AssertionError(f"no end after {found}")


@pytest.mark.parametrize("pattern", ["*", "scan*"])
def test_members_over_many_streams_get_what_is_opened_again(
    node: NodeProcess, pattern: str
) -> None:
    with bs.connect(str(node.connect["url"]), token=node.token("reopened")) as hub:
        source = hub.source(f"det {pattern}")
        stream = source.stream("scan1")
        with stream.writer() as writer:
            writer.send_many([b"x"] * 10)
        with source.streams(pattern).group("g", ack="manual").subscribe() as member:
            assert read_to_the_end(member) == list(range(1, 11))
            assert stream.group("g").reopen(3, 6) == 3
            assert read_to_the_end(member) == [3, 4, 5]
            stream.group("g").seek(9)
            assert read_to_the_end(member) == [9, 10]


def test_dead_letters_that_are_offered_again_come(node: NodeProcess) -> None:
    with bs.connect(str(node.connect["url"]), token=node.token("reopened")) as hub:
        source = hub.source("dead")
        stream = source.stream("scan1")
        with stream.writer() as writer:
            writer.send(b"x")
        group = source.streams("*").group("g", ack="manual", max_attempts=1)
        with group.subscribe() as member:
            batch = next(event for event in member.events(30) if isinstance(event, bs.Batch))
            for message in batch:
                message.nack()
            end = next(event for event in member.events(30) if isinstance(event, StreamEnd))
            assert end.reason == "finished"
            assert stream.group("g").redeliver() == 1
            assert read_to_the_end(member) == [1]
