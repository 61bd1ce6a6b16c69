"""The search in metadata."""

from __future__ import annotations

from typing import Any

import pytest

from official.clients import Lab, refused, subject
from official.consumer_errors import AsapoWrongInputError

ROWS: list[dict[str, Any]] = [
    {"n": 1, "f": 0.5, "s": "abc", "sub": {"k": 10}},
    {"n": 2, "f": 1.5, "s": "abd", "sub": {"k": 20}},
    {"n": 3, "f": 2.5, "s": "xyz", "sub": {"k": 30}},
    {"n": 4, "f": 3.5, "s": "x y"},
]


@pytest.fixture
def rows(lab: Lab) -> Lab:
    tickets = [lab.sender.send(id, b"x", user_meta=row) for id, row in enumerate(ROWS, 1)]
    for ticket in tickets:
        ticket.ok()
    return lab


def found(lab: Lab, query: str) -> list[int]:
    return [record["_id"] for record in lab.consumer().query_messages(query, stream="s")]


@subject("query")
def test_query(rows: Lab) -> None:
    records = rows.consumer().query_messages("meta.n = 1", stream="s")
    assert [record["meta"] for record in records] == ROWS[:1]
    assert records[0]["name"] == f"processed/{rows.source}/s_1"
    rows.sender.finish("s", 4).ok()
    assert sorted(found(rows, "_id > 0")) == [1, 2, 3, 4]
    assert rows.consumer().query_messages("meta.n = 1", stream="nothing") == []
    assert found(rows, "meta.s = '" + "v" * 3000 + "'") == []


@subject("query operators")
def test_operators(rows: Lab) -> None:
    cases: dict[str, list[int]] = {
        "meta.n = 2": [2],
        "meta.n = 2.0": [2],
        "meta.n != 2": [1, 3, 4],
        "meta.n <> 2": [1, 3, 4],
        "meta.n < 3": [1, 2],
        "meta.n > 1 AND meta.n < 4": [2, 3],
        "meta.n <= 1 OR meta.n >= 4": [1, 4],
        "meta.n = 1 OR meta.n = 2 AND meta.f > 1.0": [1, 2],
        "(meta.n = 1 OR meta.n = 2) AND meta.f > 1.0": [2],
        "meta.s = 'abc'": [1],
        'meta.s = "abc"': [1],
        "meta.s = 'x y'": [4],
        "meta.s > 'abd'": [3, 4],
        "meta.sub.k >= 20": [2, 3],
        "meta.sub.k != 20": [1, 3, 4],
        "_id > 2": [3, 4],
        "size = 1 and timestamp > 0": [1, 2, 3, 4],
        "name = 'nothing'": [],
        "meta.n IN (1,3,9)": [1, 3],
        "meta.s IN ('abd','xyz')": [2, 3],
        "meta.n NOT IN (1,3)": [2, 4],
        "meta.n BETWEEN 2 AND 3": [2, 3],
        "meta.n NOT BETWEEN 2 AND 3": [1, 4],
        "meta.s REGEXP '^ab'": [1, 2],
        "meta.s NOT REGEXP '^ab'": [3, 4],
        "meta.n = 'abc'": [],
        "meta.s = 1": [],
        "meta.none = 1": [],
        "meta.none != 1": [1, 2, 3, 4],
    }
    assert {query: sorted(found(rows, query)) for query in cases} == cases
    ordered = {
        "meta.n > 0 ORDER BY meta.n DESC": [4, 3, 2, 1],
        "meta.n > 0 order by meta.f": [1, 2, 3, 4],
        "meta.n > 1 ORDER BY _id desc": [4, 3, 2],
        "meta.n < 4 ORDER BY meta.sub.k ASC": [1, 2, 3],
    }
    assert {query: found(rows, query) for query in ordered} == ordered


@subject("bad query")
@pytest.mark.parametrize(
    "query",
    [
        "bla bla", "meta.n =", "", "meta.n = meta.f", "meta.n = 1; DROP TABLE message",
        "meta.n = (SELECT 1)", "meta.n LIKE 'a%'", "NOT meta.n = 1", "1 = 1", "meta.n = sleep(9)",
        "meta.n = 1 UNION SELECT 1", "meta.n = 1 ORDER BY meta.n, meta.f", "meta.n = 1 LIMIT 1",
        "meta.s REGEXP '(('", "(" * 500 + "meta.n = 1" + ")" * 500,
    ],
)  # fmt: skip
def test_bad_query(lab: Lab, query: str) -> None:
    lab.fill("s", [1])
    refused(AsapoWrongInputError, lab.consumer().query_messages, query, stream="s")


@subject("bad query")
def test_regular_expressions_cannot_freeze_the_node(lab: Lab) -> None:
    lab.sender.send(1, b"x", user_meta={"s": "a" * 5000 + "!"}).ok()
    assert found(lab, "meta.s REGEXP '^(a+)+$'") == []
