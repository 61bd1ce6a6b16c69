"""The metadata search language: `parse` a text, then evaluate it in Python or in SQLite.

The text is what may follow WHERE in SQL (MySQL dialect)::

    meta.energy BETWEEN 12.3 AND 12.5 AND (meta.sample = 'lyso' OR name REGEXP '^calib/')
        ORDER BY timestamp DESC

The rules of matching are MongoDB's, since that is what users of ASAPO know:

* types must agree: 1 and 1.0 are equal, ``'1'`` and ``true`` are neither;
* a missing key (or null, or a value of another type) matches ``!=``, NOT IN and NOT REGEXP, and
  nothing else; in particular not NOT BETWEEN, which means "below or above";
* an array matches if one of its elements does (BETWEEN: one is not below, and one not above); for
  ``!=``, NOT IN and NOT REGEXP none may match. Arrays on the way to a key are not searched:
  ``meta.a.b`` is missing in ``{"a": [{"b": 1}]}``;
* ORDER BY sorts by type first (missing or null, numbers, strings, objects, arrays, booleans), then
  by value, objects being equal among themselves, and arrays too; then by id and substream upwards.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from beamstream import limits
from beamstream.store.query_tree import (
    COLUMNS,
    NUMBER_COLUMNS,
    AllOf,
    AnyOf,
    Between,
    Condition,
    Key,
    Membership,
    Operator,
    Pattern,
    Query,
    Scalar,
    compile_pattern,
)

__all__ = ["Query", "matches", "parse", "register_functions", "sort_key", "to_sql"]

Document = Mapping[str, Any]

_COMPARE: Final[dict[Operator, Callable[[Any, Any], bool]]] = {
    Operator.EQ: operator.eq,
    Operator.LT: operator.lt,
    Operator.GT: operator.gt,
    Operator.LE: operator.le,
    Operator.GE: operator.ge,
}


# ------------------------------------------------------------------------------ in Python


def parse(text: str) -> Query:
    """Return the query that `text` says.

    Raises
    ------
    BadQuery : it is not understood; the text says where and what is possible.

    >>> parse("meta.energy_eV > 12000 ORDER BY _id").order_by.column
    '_id'
    """
    # The parser of SQL behind it takes 10 MB and 0.1 s to load: only nodes that search have it.
    from beamstream.store.query_parser import parse as parse_text

    return parse_text(text)


def matches(query: Query, document: Document) -> bool:
    """Return whether the document, a record as a mapping, is one that `query` looks for.

    >>> matches(parse("meta.n > 1 AND _id < 9"), {"_id": 3, "meta": {"n": 1.5}})
    True
    """
    return _holds(query.where, document)


def _holds(node: Condition, document: Document) -> bool:
    if isinstance(node, AllOf):
        return all(_holds(term, document) for term in node.terms)
    if isinstance(node, AnyOf):
        return any(_holds(term, document) for term in node.terms)
    values = list(_candidates(_value(node.key, document)))
    if isinstance(node, Pattern):
        search = compile_pattern(node.pattern).search
        found = any(isinstance(value, str) and search(value) is not None for value in values)
        return found != node.negated
    if isinstance(node, Membership):
        found = any(_is(Operator.EQ, value, wanted) for value in values for wanted in node.values)
        return found != node.negated
    if isinstance(node, Between):
        if node.negated:
            return any(
                _is(Operator.LT, value, node.low) or _is(Operator.GT, value, node.high)
                for value in values
            )
        return any(_is(Operator.GE, value, node.low) for value in values) and any(
            _is(Operator.LE, value, node.high) for value in values
        )
    if node.operator is Operator.NE:
        return not any(_is(Operator.EQ, value, node.value) for value in values)
    return any(_is(node.operator, value, node.value) for value in values)


def _value(key: Key, document: Document) -> Any:
    value: Any = document.get(key.column)
    for part in key.path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _candidates(value: Any) -> Iterator[Scalar]:
    for element in value if isinstance(value, list | tuple) else (value,):
        if isinstance(element, str | float):
            yield element
        elif isinstance(element, int) and not isinstance(element, bool):
            yield _as_stored(element)


def _as_stored(number: int) -> int | float:
    """Integers that do not fit into 64 bits are floats to SQLite."""
    return number if -limits.ID_MAX - 1 <= number <= limits.ID_MAX else float(number)


def _is(comparison: Operator, value: Scalar, wanted: Scalar) -> bool:
    if isinstance(value, str) != isinstance(wanted, str):
        return False
    return _COMPARE[comparison](value, wanted)


def sort_key(query: Query, document: Document) -> tuple[Any, ...]:
    """Return what documents are to be sorted by, ascending, for the order that `query` asks for."""
    last = (document.get("_id") or 0, document.get("dataset_substream") or 0)
    if query.order_by is None:
        return last
    ranked = _rank(_value(query.order_by, document))
    return (_Reversed(ranked) if query.descending else ranked, *last)


def _rank(value: Any) -> tuple[int, Any]:
    match value:
        case None:
            return (0, 0)
        case bool():
            return (5, value)
        case int():
            return (1, _as_stored(value))
        case float():
            return (1, value)
        case str():
            return (2, value)
        case Mapping():
            return (3, 0)
        case _:
            return (4, 0)


@functools.total_ordering
class _Reversed:
    __slots__ = ("key",)

    def __init__(self, key: tuple[int, Any]) -> None:
        self.key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and self.key == other.key

    def __lt__(self, other: _Reversed) -> bool:
        return other.key < self.key

    def __hash__(self) -> int:
        return hash(self.key)


# ------------------------------------------------------------------------------ in SQLite


class _Connection(Protocol):
    """What is used of `apsw.Connection`: those who only name a `Query` need no database."""

    def create_scalar_function(
        self, name: str, made: Callable[..., Any], count: int, /, *, deterministic: bool
    ) -> None: ...


def register_functions(connection: _Connection) -> None:
    """Give an `apsw.Connection` what the SQL of `to_sql` calls: ``regexp(pattern, text)``."""
    connection.create_scalar_function("regexp", _regexp, 2, deterministic=True)


def _regexp(pattern: object, text: object) -> int:
    if not isinstance(pattern, str) or not isinstance(text, str):
        return 0
    return int(compile_pattern(pattern).search(text) is not None)


def to_sql(query: Query) -> tuple[str, list[object], str]:
    """Return (where, parameters, order_by) for SQLite.

    They belong in ``SELECT … FROM (…) WHERE {where} ORDER BY {order_by}``, where the inner SELECT
    has columns of the names in `COLUMNS`, and ``meta`` as JSON text (not a blob: SQLite takes those
    for its binary JSON). The parameters are for both, in this order: what is bound before or after
    goes before or after them. Nothing of the user's text is in the SQL, only in the parameters.

    >>> to_sql(parse("_id > 7"))
    ('"_id" > ?', [7], '"_id", "dataset_substream"')
    """
    parameters: list[object] = []
    where = _sql(query.where, parameters)
    return where, parameters, _order(query, parameters)


_COLUMN_SQL: Final = {name: f'"{name}"' for name in COLUMNS}
_NUMBERS: Final = "type IN ('integer', 'real')"
_STRINGS: Final = "type = 'text'"
_NEVER: Final = "0"

# json_each gives the elements of an array, and a scalar as if it were one.
_ELEMENT: Final = (
    "(json_type(meta, ?) <> 'object' AND EXISTS (SELECT 1 FROM json_each(meta, ?) WHERE {} AND {}))"
)


def _sql(node: Condition, parameters: list[object]) -> str:
    if isinstance(node, AllOf):
        return "(" + " AND ".join(_sql(term, parameters) for term in node.terms) + ")"
    if isinstance(node, AnyOf):
        return "(" + " OR ".join(_sql(term, parameters) for term in node.terms) + ")"
    if isinstance(node, Pattern):
        sql = _any(node.key, "regexp(?, {})", [node.pattern], parameters)
        return _not(sql) if node.negated else sql
    if isinstance(node, Membership):
        marks = ", ".join("?" * len(node.values))
        sql = _any(node.key, f"{{}} IN ({marks})", node.values, parameters)
        return _not(sql) if node.negated else sql
    if isinstance(node, Between):
        if node.negated:
            return _any(node.key, "({0} < ? OR {0} > ?)", [node.low, node.high], parameters)
        low = _any(node.key, "{} >= ?", [node.low], parameters)
        high = _any(node.key, "{} <= ?", [node.high], parameters)
        return f"({low} AND {high})"
    if node.operator is Operator.NE:
        return _not(_any(node.key, "{} = ?", [node.value], parameters))
    return _any(node.key, f"{{}} {node.operator.value} ?", [node.value], parameters)


def _not(sql: str) -> str:
    return f"NOT coalesce({sql}, 0)"


def _any(
    key: Key, test: str, values: list[Scalar] | tuple[Scalar, ...], parameters: list[object]
) -> str:
    """Return SQL for: the value, or an element of it, is of the type of `values` and passes."""
    text = isinstance(values[0], str)
    if not key.path:
        if text == (key.column in NUMBER_COLUMNS):
            return _NEVER
        parameters.extend(values)
        return test.format(_COLUMN_SQL[key.column])
    path = _path(key)
    parameters.extend((path, path, *values))
    return _ELEMENT.format(_STRINGS if text else _NUMBERS, test.format("value"))


def _path(key: Key) -> str:
    """Return SQLite's name of the place; parts hold neither quotes nor backslashes."""
    return "$" + "".join(f'."{part}"' for part in key.path)


def _order(query: Query, parameters: list[object]) -> str:
    key = query.order_by
    last = '"_id", "dataset_substream"'
    if key is None:
        return last
    direction = "DESC" if query.descending else "ASC"
    if not key.path:
        return f"{_COLUMN_SQL[key.column]} {direction}, {last}"
    path = _path(key)
    parameters.extend((path, path, path))
    return (
        "CASE json_type(meta, ?) WHEN 'integer' THEN 1 WHEN 'real' THEN 1 WHEN 'text' THEN 2 "
        "WHEN 'object' THEN 3 WHEN 'array' THEN 4 WHEN 'true' THEN 5 WHEN 'false' THEN 5 "
        f"ELSE 0 END {direction}, "
        "CASE WHEN json_type(meta, ?) NOT IN ('object', 'array') THEN json_extract(meta, ?) END "
        f"{direction}, {last}"
    )
