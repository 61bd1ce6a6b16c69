"""How chains, plans and progress are shown."""

from __future__ import annotations

from beamstream.cli import provenance
from beamstream.worker.provenance import Node

RAW = Node("eiger", "scan 1", 17, "written", 17, 2_000_000, "ab" * 16, 1_767_225_600_000_000_000)


def made(source: str, id: int, *inputs: Node, count: int = 0, step: str = "bin") -> Node:
    document = {
        "kind": "step", "step": step, "where": f"steps:{step}", "source": "ef" * 32,
        "commit": "0123abcd+dirty", "parameters": {"factor": 2}, "parameters_version": 5,
        "software": {"numpy": "2.0.0"}, "python": "3.12.1",
    }  # fmt: skip
    return Node(
        source, "scan 1", id, "made", id, 500_000, "cd" * 16, RAW.time_ns, 3, 0, document, inputs,
        count or len(inputs),
    )  # fmt: skip


def test_a_chain_is_a_tree_back_to_the_detector() -> None:
    lines = list(provenance.tree(made("hits", 17, made("binned", 17, RAW), step="find")))
    assert lines[0].startswith("hits/scan%201[17]  500 kB  cdcdcdcdcdcdcdcd  2026-01-01T00:00:00")
    assert lines[1] == "│ made by step find, run 3"
    assert lines[2] == "│ code steps:find  sha256 efefefefefefefef  commit 0123abcd+dirty"
    assert lines[3] == "│ with python 3.12.1, numpy 2.0.0"
    assert lines[4] == "│ parameters factor 2 (version 5)"
    assert any(line.startswith("└ binned/scan%201[17]  500 kB") for line in lines)
    assert any(line.startswith("  └ eiger/scan%201[17]  2.00 MB") for line in lines)
    assert lines[-1] == "      written by a client; nobody has said what it was made of"


def test_inputs_that_are_not_shown_are_counted() -> None:
    lines = list(provenance.tree(made("mean", 1, RAW, Node(*_next(RAW), "gone"), count=100)))
    assert sum(line.startswith("├ eiger") for line in lines) == 2
    assert lines[-1] == "└ and 98 more"
    assert "is not there any more" in lines[-2]


def test_what_was_shown_before_is_named_only() -> None:
    lines = list(provenance.tree(made("hits", 17, Node(*_next(RAW), "above"))))
    assert lines[-1] == "└ eiger/scan%201[18]  see above"


def test_one_that_is_not_followed_says_how_to_go_on() -> None:
    far = made("binned", 17)
    far = Node(far.source, far.stream, far.id, "not followed", inputs_count=1)
    lines = list(provenance.tree(made("hits", 17, far)))
    assert lines[-1].strip() == "goes on from here: ask for this one"


def test_a_chain_as_json() -> None:
    found = provenance.document(made("binned", 17, RAW))
    assert found["document"]["parameters"] == {"factor": 2}
    assert found["inputs"][0]["state"] == "written"
    assert "check" not in found


def _next(node: Node) -> tuple[str, str, int]:
    return node.source, node.stream, node.id + 1
