"""Metadata of beamtimes and streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from official.clients import Lab, refused, subject
from official.consumer_errors import AsapoNoDataError
from official.producer_errors import AsapoTimeOutError
from official.producer_errors import AsapoWrongInputError as Refused


@subject("beamtime metadata")
def test_beamtime_metadata(lab: Lab) -> None:
    sender = lab.sender
    consumer = lab.consumer()
    refused(AsapoNoDataError, consumer.get_beamtime_meta)
    refused(AsapoTimeOutError, sender.api.get_beamtime_meta, 0)
    for mode in ("replace", "update"):
        sender.beamtime_meta('{"a":1}', mode, False).fails(Refused)
    refused(AsapoNoDataError, consumer.get_beamtime_meta)
    sender.beamtime_meta('{"a":1,"n":{"x":1}}', "insert", False).ok()
    assert consumer.get_beamtime_meta() == {"a": 1, "n": {"x": 1}}
    assert sender.api.get_beamtime_meta() == {"a": 1, "n": {"x": 1}}
    sender.beamtime_meta('{"b":2}', "insert", False).fails(Refused)
    assert consumer.get_beamtime_meta() == {"a": 1, "n": {"x": 1}}
    sender.beamtime_meta('{"z":0}', "replace", False).ok()
    assert consumer.get_beamtime_meta() == {"z": 0}
    other = lab.beside(source=lab.source + "x")
    refused(AsapoNoDataError, other.consumer().get_beamtime_meta)


@subject("beamtime metadata")
@pytest.mark.parametrize("mode", ["insert", "replace", "update"])
def test_upsert_makes_it(lab: Lab, mode: str) -> None:
    lab.sender.beamtime_meta('{"made":{"by":1}}', mode, True).ok()
    assert lab.consumer().get_beamtime_meta() == {"made": {"by": 1}}


@subject("nested update")
def test_update_merges_deeply(lab: Lab) -> None:
    document: dict[str, Any] = {
        "a": 1, "n": {"x": 1, "y": {"p": [1, 2, {"q": 1}], "r": 0}}, "list": [1, 2], "s": {"t": 1},
    }  # fmt: skip
    lab.sender.stream_meta(json.dumps(document), "s", "insert", False).ok()
    change = {"n": {"y": {"p": [3]}, "z": {}}, "b": 5, "list": {"now": "object"}, "s": 7}
    lab.sender.stream_meta(json.dumps(change), "s", "update", False).ok()
    assert lab.consumer().get_stream_meta("s") == {
        "a": 1, "n": {"x": 1, "y": {"p": [3], "r": 0}, "z": {}}, "b": 5,
        "list": {"now": "object"}, "s": 7,
    }  # fmt: skip


@subject("stream metadata")
def test_stream_metadata(lab: Lab) -> None:
    sender = lab.sender
    consumer = lab.consumer()
    for stream in ("s1", "s 2/ü"):
        sender.stream_meta(json.dumps({"of": stream}), stream).ok()
    for stream in ("s1", "s 2/ü"):
        assert consumer.get_stream_meta(stream) == {"of": stream}
        assert sender.api.get_stream_meta(stream) == {"of": stream}
    refused(AsapoNoDataError, consumer.get_stream_meta, "s3")
    refused(AsapoTimeOutError, sender.api.get_stream_meta, "s3", 100)
    assert consumer.get_stream_list() == []
    large = {f"key {i}": "v" * 50 for i in range(2000)}
    sender.stream_meta(json.dumps(large), "large").ok()
    assert sender.api.get_stream_meta("large") == large


@subject("stream metadata")
@pytest.mark.parametrize("text", ["bla", "[1]", "7", '{"a":', "[" * 100_000, '{"a":NaN}'])
def test_metadata_that_are_none(lab: Lab, text: str) -> None:
    lab.sender.stream_meta(text, "s").fails(Refused)
    lab.sender.beamtime_meta(text, "update", True).fails(Refused)
    lab.sender.stream_meta('{"good":1}', "s").ok()
    assert lab.consumer().get_stream_meta("s") == {"good": 1}
