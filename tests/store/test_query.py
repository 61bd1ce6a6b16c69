"""The metadata search language: what is taken, what is refused, and that both evaluators agree."""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Iterator
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import BadQuery
from beamstream.store.query import Query, matches, parse, register_functions, sort_key, to_sql
from beamstream.store.query_tree import (
    COLUMNS,
    AllOf,
    AnyOf,
    Between,
    Comparison,
    Condition,
    Key,
    Membership,
    Operator,
    Pattern,
)

Document = dict[str, Any]


class Table:
    """Records in SQLite in memory, with the columns that `to_sql` expects."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        register_functions(self.connection)
        self.connection.execute(
            "CREATE TABLE t (_id INTEGER, name TEXT, size INTEGER, timestamp INTEGER,"
            " time_id INTEGER, ingest_mode INTEGER, dataset_substream INTEGER, meta TEXT)"
        )

    def fill(self, documents: list[Document]) -> None:
        self.connection.execute("DELETE FROM t")
        self.connection.executemany(
            "INSERT INTO t VALUES (?,?,?,?,?,?,?,?)",
            [
                (
                    d["_id"],
                    d["name"],
                    d["size"],
                    d["timestamp"],
                    d["time_id"],
                    d["ingest_mode"],
                    d["dataset_substream"],
                    json.dumps(d["meta"], ensure_ascii=d["_id"] % 2 == 0),
                )
                for d in documents
            ],
        )

    def ids(self, query: Query) -> list[int]:
        where, parameters, order = to_sql(query)
        sql = f"SELECT _id FROM (SELECT * FROM t) WHERE {where} ORDER BY {order}"
        return [row[0] for row in self.connection.execute(sql, parameters)]


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    made = Table()
    yield made
    made.connection.close()


def document(number: int, meta: Document) -> Document:
    return {
        "_id": number,
        "name": f"processed/f{number}",
        "size": 100 * number,
        "timestamp": 1_795_330_559_000_000_000 + number,
        "time_id": number,
        "ingest_mode": 13,
        "dataset_substream": 0,
        "meta": meta,
    }


def found_in_python(query: Query, documents: list[Document]) -> list[int]:
    hits = [d for d in documents if matches(query, d)]
    return [d["_id"] for d in sorted(hits, key=lambda d: sort_key(query, d))]


def both(table: Table, text: str, documents: list[Document]) -> list[int]:
    query = parse(text)
    table.fill(documents)
    found = table.ids(query)
    assert found_in_python(query, documents) == found
    return found


ROWS = [
    document(1, {"n": 1, "f": 0.5, "s": "abc", "sub": {"k": 10}}),
    document(2, {"n": 2, "f": 1.5, "s": "abd", "sub": {"k": 20}}),
    document(3, {"n": 3, "f": 2.5, "s": "xyz", "sub": {"k": 30}}),
    document(4, {"n": 4, "f": 3.5, "s": "x y"}),
]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("meta.n = 2", [2]),
        ("meta.n > 1 AND meta.n < 4", [2, 3]),
        ("meta.n <= 1 OR meta.n >= 4", [1, 4]),
        ("meta.n != 2", [1, 3, 4]),
        ("(meta.n = 1 OR meta.n = 2) AND meta.f > 1.0", [2]),
        ("meta.s = 'abc'", [1]),
        ("meta.s = 'x y'", [4]),
        ("meta.sub.k >= 20", [2, 3]),
        ("_id > 2", [3, 4]),
        ("name = 'nothing'", []),
        ("meta.n IN (1,3,9)", [1, 3]),
        ("meta.s IN ('abd','xyz')", [2, 3]),
        ("meta.n NOT IN (1,3)", [2, 4]),
        ("meta.n BETWEEN 2 AND 3", [2, 3]),
        ("meta.n NOT BETWEEN 2 AND 3", [1, 4]),
        ("meta.s REGEXP '^ab'", [1, 2]),
        ("meta.s NOT REGEXP '^ab'", [3, 4]),
        ("meta.n > 0 ORDER BY meta.n DESC", [4, 3, 2, 1]),
        ("meta.n > 0 order by meta.f", [1, 2, 3, 4]),
        ("meta.s = '" + "v" * 3000 + "'", []),
        ("meta.n = 1 OR _id > 100", [1]),
    ],
)
def test_what_official_clients_ask(table: Table, text: str, wanted: list[int]) -> None:
    assert both(table, text, ROWS) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("meta.n = 2.0", [2]),
        ("meta.n = '2'", []),
        ("meta.n != '2'", [1, 2, 3, 4]),
        ("meta.s > 0", []),
        ("meta.sub.k != 10", [2, 3, 4]),
        ("meta.sub.k NOT IN (10)", [2, 3, 4]),
        ("meta.sub.k NOT REGEXP 'x'", [1, 2, 3, 4]),
        ("meta.sub.k NOT BETWEEN 15 AND 25", [1, 3]),
        ("meta.sub = 10", []),
        ("meta.sub > 0", []),
        ("meta.s BETWEEN 'abc' AND 'x'", [1, 2]),
        ("meta.n = 1 OR meta.n = 2 AND meta.n = 3", [1]),
        ("_id = 2.0", [2]),
        ("_id = '2'", []),
        ("_id <> '2'", [1, 2, 3, 4]),
        ("name = 2", []),
        ("name NOT IN (2)", [1, 2, 3, 4]),
        ("name REGEXP 'f[12]$'", [1, 2]),
        ("size REGEXP '1'", []),
        ("size NOT BETWEEN 150 AND 350", [1, 4]),
        ("timestamp > 1795330559000000002", [3, 4]),
        ("_id > 0 ORDER BY name DESC", [4, 3, 2, 1]),
        ("_id > 0 ORDER BY meta.sub.k", [4, 1, 2, 3]),
        ("_id > 0 ORDER BY meta.sub.k DESC", [3, 2, 1, 4]),
        ("_id > 0 ORDER BY meta.nowhere DESC", [1, 2, 3, 4]),
        ("`meta`.`n` = 1", [1]),
        ("META.N = 1".lower(), [1]),
        ("meta . n\n=\t1", [1]),
        ("meta.f = .5", [1]),
        ("meta.n IN (1., 2e0)", [1, 2]),
        ("meta.n > -1 AND meta.n < 1.5", [1]),
        ("((((meta.n = 1))))", [1]),
    ],
)
def test_rules_of_matching(table: Table, text: str, wanted: list[int]) -> None:
    assert both(table, text, ROWS) == wanted


def test_order_is_by_type_then_value_then_id(table: Table) -> None:
    values: list[Any] = [True, [1], {"a": 1}, "b", "a", 2, 1.5, None, False, [0], 2.0]
    documents = [document(i, {"v": v}) for i, v in enumerate(values, 1)]
    documents.append(document(12, {}))
    assert both(table, "_id > 0 ORDER BY meta.v", documents) == [
        8, 12, 7, 6, 11, 5, 4, 3, 2, 10, 9, 1,
    ]  # fmt: skip
    assert both(table, "_id > 0 ORDER BY meta.v DESC", documents) == [
        1, 9, 2, 10, 3, 4, 5, 6, 11, 7, 8, 12,
    ]  # fmt: skip


def test_elements_of_arrays_are_searched(table: Table) -> None:
    documents = [
        document(1, {"v": [1, 5]}),
        document(2, {"v": ["1", [1], {"x": 1}, None, True]}),
        document(3, {"v": []}),
        document(4, {"v": 1}),
        document(5, {"v": [{"x": 1}], "w": {"x": 1}}),
    ]
    assert both(table, "meta.v = 1", documents) == [1, 4]
    assert both(table, "meta.v != 1", documents) == [2, 3, 5]
    assert both(table, "meta.v BETWEEN 2 AND 3", documents) == [1]
    assert both(table, "meta.v IN ('1')", documents) == [2]
    assert both(table, "meta.v REGEXP '^1$'", documents) == [2]
    assert both(table, "meta.v.x = 1", documents) == []
    assert both(table, "meta.w = 1", documents) == []


def test_words_of_sql_and_odd_names_are_keys(table: Table) -> None:
    for name in ["order", "select", "key", "index", "in", "timestamp", "null", "1a", "5", "name"]:
        documents = [document(1, {name: 7, "x": {name: 8}}), document(2, {})]
        assert both(table, f"meta.{name} = 7 AND meta.x.{name} = 8", documents) == [1]
    for name in ["exposure time", "Å", "a.b", "x-y", "100%", "it's", "$set", "[0]", "#1"]:
        documents = [document(1, {name: 7}), document(2, {})]
        assert both(table, f"meta.`{name}` = 7", documents) == [1]
    assert parse("meta.b.c.d.e.f.g.h = 1").where == Comparison(
        Key("meta", tuple("bcdefgh")), Operator.EQ, 1
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("'a b'", "a b"),
        ('"a b"', "a b"),
        ("'it''s'", "it's"),
        ('"say ""hi"""', 'say "hi"'),
        (r"'it\'s'", "it's"),
        (r"'\n\t\\'", "\n\t\\"),
        (r"'^a\\.b$'", r"^a\.b$"),
        ("'ж漢😀'", "ж漢😀"),
        ("'--'", "--"),
        ("'/* no comment */ ; ?'", "/* no comment */ ; ?"),
        ("'a\nb'", "a\nb"),
        ("''", ""),
        ("-5", -5),
        ("- 2.5e-3", -0.0025),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", float(2**63)),
    ],
)
def test_literals(written: str, meant: object) -> None:
    where = parse(f"meta.x = {written}").where
    assert isinstance(where, Comparison)
    assert where.value == meant
    assert type(where.value) is type(meant)


REFUSED = [
    "",
    " \n",
    "bla bla",
    "meta.n =",
    "meta.n",
    "meta.n = meta.f",
    "meta.n = word",
    "1 = 1",
    "1",
    "'a' = 'a'",
    "1 = meta.n",
    "1 < meta.n",
    "TRUE",
    "meta.n = TRUE",
    "meta.n = NULL",
    "meta.n IS NULL",
    "meta.n IS NOT NULL",
    "meta.n <=> 1",
    "meta.n == 1",
    "meta.n := 1",
    "meta.n = 1 LIMIT 3",
    "meta.n = 1 LIMIT 1, 2",
    "meta.n = 1 OFFSET 1",
    "meta.n = 1 GROUP BY meta.n",
    "meta.n = 1 HAVING meta.n = 1",
    "meta.n = 1 FOR UPDATE",
    "meta.n = 1 INTO OUTFILE '/tmp/x'",
    "meta.n = 1 PROCEDURE ANALYSE()",
    "meta.n = 1 UNION SELECT * FROM t",
    "meta.n = 1 UNION ALL (SELECT 1)",
    "meta.n = 1 INTERSECT SELECT 1",
    "meta.n = 1; DROP TABLE t",
    "meta.n = 1;",
    ";",
    "meta.n = 1 -- x",
    "-- x",
    "meta.n = 1 # x",
    "meta.n = 1 /* x */",
    "/* x */ meta.n = 1",
    "meta.n = /*! 1 */ 1",
    "/*+ hint */ meta.n = 1",
    "/* x",
    "meta.n LIKE 'a%'",
    "meta.n NOT LIKE 'a%'",
    "meta.n SOUNDS LIKE 'a'",
    "meta.n GLOB 'a'",
    "meta.n MATCH 'a'",
    "NOT meta.n = 1",
    "NOT (meta.n = 1)",
    "NOT meta.n IN (1)",
    "NOT meta.n BETWEEN 1 AND 2",
    "!(meta.n = 1)",
    "meta.n NOT = 1",
    "meta.n NOT NOT IN (1)",
    "meta.n XOR meta.f",
    "meta.n = 1 && meta.f = 1",
    "meta.n = 1 || meta.f = 1",
    "meta.n = 1 + 1",
    "meta.n + 1 = 2",
    "meta.n - 1 = 2",
    "meta.x-y = 2",
    "-meta.n = 1",
    "meta.n = - - 1",
    "meta.n = +1",
    "meta.n = ~1",
    "meta.n & 1",
    "meta.n = 1 = 1",
    "(meta.n) = 1",
    "meta.n = (1)",
    "(meta.n, meta.f) = (1, 2)",
    "meta.n IN ()",
    "meta.n IN 1",
    "meta.n IN (1, 'a')",
    "meta.n IN ('a', 1)",
    "meta.n IN (meta.f)",
    "meta.n IN ((1, 2))",
    "meta.n IN (SELECT 1)",
    "meta.n = (SELECT 1)",
    "EXISTS (SELECT 1)",
    "meta.n = ANY (SELECT 1)",
    "meta.n BETWEEN 1",
    "meta.n BETWEEN 1 AND 'a'",
    "meta.n BETWEEN meta.a AND meta.b",
    "meta.n REGEXP 1",
    "meta.n REGEXP meta.s",
    "meta.n REGEXP '('",
    "meta.n REGEXP '(?=a)'",
    r"meta.n REGEXP '(a)\\1'",
    "meta.n REGEXP '(((a{100}){100}){100})'",
    "meta.n REGEXP '" + "a" * 1025 + "'",
    "meta.n RLIKE BINARY 'a'",
    "length(meta.n) = 1",
    "sleep(10)",
    "meta.n = sleep(10)",
    "load_extension('x') = 1",
    "meta.f(1) = 1",
    "CAST(meta.n AS CHAR) = '1'",
    "CASE WHEN meta.n = 1 THEN 1 END = 1",
    "IF(meta.n, 1, 2) = 1",
    "meta.n -> '$.a' = 1",
    "meta.n ->> '$.a' = 1",
    "meta.n COLLATE utf8_bin = 'a'",
    "BINARY meta.n = 'a'",
    "meta.n = _utf8'a'",
    "meta.n = N'a'",
    "meta.n = X'41'",
    "meta.n = 0x41",
    "meta.n = b'1'",
    "meta.n = 'a' 'b'",
    "meta.n = DATE '2020-01-01'",
    "meta.n > NOW() - INTERVAL 1 DAY",
    "meta.n = ?",
    "meta.n = :x",
    "meta.n = @x",
    "meta.n = @@version",
    "meta.n = {{x}}",
    "meta.n = $1",
    "meta.n = 1e999",
    "meta.n = 1_000",
    "meta.n = 1 ORDER BY meta.n, meta.f",
    "meta.n = 1 ORDER BY 1",
    "meta.n = 1 ORDER BY meta.n + 1",
    "meta.n = 1 ORDER BY meta.n NULLS FIRST",
    "meta.n = 1 ORDER BY meta.n ASC DESC",
    "meta.n = 1 ORDER BY rand()",
    "meta.n = 1 ORDER BY",
    "meta.n = 1 ORDER BY -meta.n",
    "ORDER BY meta.n",
    "meta.n = 1 AND",
    "AND meta.n = 1",
    "meta.n = 1 meta.f = 1",
    "(meta.n = 1",
    "meta.n = 1)",
    "()",
    "meta",
    "meta = 1",
    "meta. = 1",
    "meta.n. = 1",
    "meta..n = 1",
    ".n = 1",
    "meta.* = 1",
    "* = 1",
    "meta.`` = 1",
    'meta.`a"b` = 1',
    "meta.`a\\b` = 1",
    "meta.`a``b` = 1",
    "meta.`a\tb` = 1",
    "`meta.n` = 1",
    "meta.a.b.c.d.e.f.g.h = 1",
    "meta." + "a" * 129 + " = 1",
    "n = 1",
    "id = 1",
    "_ID = 1",
    "t.n = 1",
    "name.x = 1",
    "_id.x = 1",
    "source = '127.0.0.1:8400'",
    "buf_id = 1",
    "ib_source = ''",
    "meta.n = 'a",
    'meta.n = "a',
    "meta.`n = 1",
    "meta.n = 'a\0b'",
    r"meta.n = 'a\0b'",
    "meta.n = '\ud800'",
    "\0",
    "x' OR 1=1 --",
    "meta.n = '' OR '1'='1'",
    "meta.n = 1) OR (1 = 1",
    "$where: 'sleep(1)'",
    '{"$gt": ""}',
    "PRAGMA writable_schema = 1",
    "ATTACH 'x' AS y",
    "meta.n = 1 AND readfile('/etc/passwd') = 'x'",
    "meta.n[0] = 1",
    "meta.n MEMBER OF ('[1]')",
    "meta.n IN UNNEST(x)",
    "meta.n = 1 WINDOW w AS ()",
    "meta.n ISNULL",
    "meta.n = ALL (1)",
]


@pytest.mark.parametrize("text", REFUSED)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(BadQuery) as caught:
        parse(text)
    assert len(str(caught.value)) < 600


def test_messages_help() -> None:
    for text, said in [
        ("bla bla", "position 5"),
        ("meta.n = 1 LIMIT 3", "'LIMIT' at position 12"),
        ("source = 'x'", "not stored"),
        ("nme = 'x'", "did you mean name?"),
        ("energy > 3", "did you mean meta.energy?"),
        ("meta.n = word", "in quotes"),
        ("meta.s REGEXP '('", "regular expression '('"),
        ("meta.s =\n  'a'  3", "position 17"),
        ("`meta.n` = 1", "around single parts"),
    ]:
        with pytest.raises(BadQuery, match=said.replace("?", r"\?").replace("(", r"\(")):
            parse(text)


def test_bounds() -> None:
    fits = "meta.n = 1 OR " * 255 + "meta.n = 1"
    assert len(parse(fits).where.terms) == 256  # type: ignore[union-attr]
    assert isinstance(parse("(" * 32 + "_id = 1" + ")" * 32), Query)
    assert isinstance(parse(f"_id IN ({','.join('1' * 1000)})"), Query)
    for text in [
        "meta.n = 1 OR " * 256 + "meta.n = 1",
        "(" * 33 + "_id = 1" + ")" * 33,
        "(" * 16_000,
        f"_id IN ({','.join('1' * 1001)})",
        "_id = 1 AND name = '" + "a" * limits.QUERY_NBYTES_MAX + "'",
        "meta" + ".a" * 8000 + " = 1",
        "_id = " + "-" * 16_000 + "1",
        "_id NOT " * 2000,
    ]:
        with pytest.raises(BadQuery):
            parse(text)


def test_the_largest_search_runs(table: Table) -> None:
    parts = [f"meta.k{i} NOT BETWEEN {i} AND {i + 1}" for i in range(256)]
    assert both(table, " OR ".join(parts), ROWS) == []
    assert both(table, " AND ".join(f"meta.k{i} != 1" for i in range(256)), ROWS) == [1, 2, 3, 4]


def test_no_text_of_the_user_gets_into_the_sql() -> None:
    where, parameters, order = to_sql(
        parse("meta.zebra = 'lion' AND name REGEXP 'tiger' ORDER BY meta.`drop table`")
    )
    for word in ("zebra", "lion", "tiger", "drop"):
        assert word not in where + order
        assert any(word in str(value) for value in parameters)


def test_exploding_pattern_ends_at_once(table: Table) -> None:
    documents = [document(1, {"s": "a" * 100_000 + "!"})]
    for pattern in ("(a+)+$", "(a|aa)+$", "(.*a){25}$", "^(([a-z])+.)+[A-Z]([a-z])+$"):
        assert both(table, f"meta.s REGEXP '{pattern}'", documents) == []


def test_sqlglot_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for text in REFUSED:
            with pytest.raises(BadQuery):
                parse(text)
    assert caplog.records == []


# ---------------------------------------------------------------------------- properties

WORDS = st.sampled_from(["a", "b", "c", "order", "x1", "é", "two words"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
INTEGERS = st.integers(-3, 3) | st.integers(-(2**63), 2**64)
NUMBERS = INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1.0, 2.5])
STRINGS = st.sampled_from(["\0", "a\0b", "a\0c", "", "a", "ab", "1"]) | TEXTS
SCALARS = NUMBERS | STRINGS
VALUES = st.recursive(
    st.none() | st.booleans() | SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["f1", "f2", "a/b", "Ж"]),
            "size": st.integers(0, 4),
            "timestamp": st.integers(0, 2**62),
            "time_id": st.integers(1, 3),
            "ingest_mode": st.sampled_from([1, 9, 13]),
            "dataset_substream": st.integers(0, 2),
            "meta": st.dictionaries(WORDS, VALUES, max_size=3),
        }
    ),
    max_size=6,
).map(lambda found: [{"_id": i, **d} for i, d in enumerate(found, 1)])


def literals(numbers: bool) -> st.SearchStrategy[Any]:
    if not numbers:
        return STRINGS.filter(lambda text: "\0" not in text)
    return (
        st.integers(-(2**63) + 1, 2**63 - 1)
        | st.integers(-3, 3)
        | st.floats(allow_nan=False, allow_infinity=False)
    )


KEYS = st.sampled_from([Key(name) for name in COLUMNS]) | st.builds(
    lambda path: Key("meta", tuple(path)), st.lists(WORDS, min_size=1, max_size=3)
)
PATTERNS = st.sampled_from(["", "a", "^a", "b$", "[^a]", "f.", r"\d", "(a|b)+", "'", "Ж"])


@st.composite
def leaves(draw: st.DrawFn) -> Condition:
    key = draw(KEYS)
    values = literals(draw(st.booleans()))
    match draw(st.integers(0, 3)):
        case 0:
            return Comparison(key, draw(st.sampled_from(Operator)), draw(values))
        case 1:
            several = st.lists(values, min_size=1, max_size=4).map(tuple)
            return Membership(key, draw(several), draw(st.booleans()))
        case 2:
            return Between(key, draw(values), draw(values), draw(st.booleans()))
        case _:
            return Pattern(key, draw(PATTERNS), draw(st.booleans()))


TREES = st.recursive(
    leaves(),
    lambda inner: st.builds(
        lambda kind, terms: kind(tuple(terms)),
        st.sampled_from([AllOf, AnyOf]),
        st.lists(inner, min_size=2, max_size=3),
    ),
    max_leaves=5,
)
QUERIES = st.builds(Query, TREES, st.none() | KEYS, st.booleans()).map(
    lambda q: Query(q.where, q.order_by, q.descending and q.order_by is not None)
)


def written_key(key: Key) -> str:
    return ".".join(f"`{part}`" for part in (key.column, *key.path))


def written(node: Any) -> str:
    match node:
        case str():
            return "'" + node.replace("\\", "\\\\").replace("'", "''") + "'"
        case int() | float():
            return repr(node)
        case AllOf() | AnyOf():
            joint = " AND " if isinstance(node, AllOf) else " or "
            return "(" + joint.join(written(term) for term in node.terms) + ")"
        case Comparison(key, comparison, value):
            return f"{written_key(key)} {comparison.value} {written(value)}"
    negation = "NOT " if node.negated else ""
    match node:
        case Membership(key, values):
            inside = f"{negation}IN ({', '.join(written(value) for value in values)})"
        case Between(key, low, high):
            inside = f"{negation}between {written(low)} and {written(high)}"
        case Pattern(key, pattern):
            inside = f"{negation}REGEXP {written(pattern)}"
    return f"{written_key(key)} {inside}"


def written_query(query: Query) -> str:
    text = written(query.where)
    if query.order_by:
        text += f" ORDER BY {written_key(query.order_by)}{' DESC' if query.descending else ''}"
    return text


@given(QUERIES)
def test_a_written_query_is_read_as_it_was_meant(query: Query) -> None:
    assert parse(written_query(query)) == query


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(QUERIES, DOCUMENTS)
def test_both_evaluators_agree(table: Table, query: Query, documents: list[Document]) -> None:
    table.fill(documents)
    assert table.ids(query) == found_in_python(query, documents)


@given(st.text() | st.text(string.printable))
def test_any_text_is_a_query_or_refused(text: str) -> None:
    try:
        assert isinstance(parse(text), Query)
    except BadQuery:
        pass


PIECES = (
    "meta.a|_id|name|=|!=|<|<>|(|)|,|.|;|-|--|/*|*/|'x'|\"y\"|'|\"|`|1|2.5|AND|OR|NOT|IN|BETWEEN|"
    "REGEXP|LIKE|ORDER|BY|DESC|ASC|NULL|SELECT|FROM|UNION|LIMIT|f(|?|@|{|}|[|]|->|::|CASE|WHEN|END|"
    "EXISTS|INTERVAL|CAST|AS|ALL|ANY|IS|x'41'|ORDER\tBY|\\|#|$|%|~|!|&&|+|*|/|:=|==|(1,|2)"
)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES.split("|")), max_size=14).map(" ".join))
def test_what_is_taken_of_pieces_of_sql_can_be_written_again(text: str) -> None:
    try:
        query = parse(text)
    except BadQuery:
        return
    assert parse(written_query(query)) == query
