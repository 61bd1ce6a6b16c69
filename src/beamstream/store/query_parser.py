"""Text of a metadata search -> `Query`.

The tokens are checked first: only kinds that the language has, and few enough, so that what comes
after them is bounded. Then sqlglot builds the syntax tree, which is walked with an allow-list of
nodes. What neither names is refused.
"""

from __future__ import annotations

import bisect
import difflib
import math
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.mysql import MySQL
from sqlglot.errors import ErrorLevel, ParseError, SqlglotError

from beamstream import limits
from beamstream.errors import BadQuery
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
    Query,
    Scalar,
    compile_pattern,
)

CONDITIONS_MAX: Final = 256
"""SQLite takes expressions that are 1000 levels deep; every condition joined by OR is one."""

NESTING_MAX: Final = 32
LIST_LENGTH_MAX: Final = 1000
KEY_PARTS_MAX: Final = 8
KEY_PART_NCHARS_MAX: Final = 128

_NOT_STORED: Final = ("source", "ib_source", "buf_id", "stream")
_PREFIX: Final = "SELECT * FROM s WHERE "
_WORD: Final = re.compile(r"[A-Za-z0-9_]+")
_UNFIT: Final = re.compile(r'["\\`\x00-\x1f\x7f]')

_TOKENS: Final = frozenset(
    {
        TokenType.VAR,
        TokenType.IDENTIFIER,
        TokenType.STRING,
        TokenType.NUMBER,
        TokenType.DOT,
        TokenType.COMMA,
        TokenType.DASH,
        TokenType.EQ,
        TokenType.NEQ,
        TokenType.LT,
        TokenType.GT,
        TokenType.LTE,
        TokenType.GTE,
        TokenType.AND,
        TokenType.OR,
        TokenType.NOT,
        TokenType.IN,
        TokenType.BETWEEN,
        TokenType.RLIKE,
        TokenType.L_PAREN,
        TokenType.R_PAREN,
        TokenType.ORDER_BY,
        TokenType.ASC,
        TokenType.DESC,
    }
)
_AFTER: Final = {
    TokenType.NOT: (TokenType.IN, TokenType.BETWEEN, TokenType.RLIKE),
    TokenType.DASH: (TokenType.NUMBER, TokenType.DOT),
    TokenType.ASC: (None,),
    TokenType.DESC: (None,),
}
"""What must follow, where sqlglot would take more than the language has."""

_SPELLINGS: Final = re.compile(
    r"=|!=|<>|<|>|<=|>=|AND|OR|NOT|IN|BETWEEN|REGEXP|RLIKE|ASC|DESC|[.,()-]", re.IGNORECASE
)
_JOINTS: Final = frozenset({TokenType.AND, TokenType.OR})
_FREE: Final = frozenset(
    {
        TokenType.VAR,
        TokenType.IDENTIFIER,
        TokenType.STRING,
        TokenType.NUMBER,
        TokenType.ORDER_BY,
    }
)

_OPERATORS: Final[dict[type[exp.Expression], Operator]] = {
    exp.EQ: Operator.EQ,
    exp.NEQ: Operator.NE,
    exp.LT: Operator.LT,
    exp.GT: Operator.GT,
    exp.LTE: Operator.LE,
    exp.GTE: Operator.GE,
}

_LANGUAGE: Final = (
    "conditions are: key = != < > <= >= value, [NOT] IN (…), [NOT] BETWEEN … AND …, "
    "[NOT] REGEXP '…', joined by AND, OR and parentheses, then ORDER BY one key"
)


def parse(text: str) -> Query:
    """Return the search that `text` asks for: what may follow WHERE in SQL, MySQL dialect.

    Raises
    ------
    BadQuery : it is not understood, or asks for more than the language or its limits have.

    >>> parse("meta.energy >= 12.4 ORDER BY timestamp DESC").order_by
    Key(column='timestamp', path=())
    """
    try:
        nbytes = len(text.encode())
    except UnicodeEncodeError:
        raise BadQuery("the search text is not valid Unicode") from None
    if nbytes > limits.QUERY_NBYTES_MAX:
        raise BadQuery(f"the search text has {nbytes} bytes, {limits.QUERY_NBYTES_MAX} are allowed")
    if "\0" in text:
        raise BadQuery("the search text holds a NUL character")
    try:
        tokens = MySQL().tokenize(text)
    except (SqlglotError, ValueError, RecursionError):
        raise BadQuery(
            "the search text ends within a string, a quoted key or a comment",
            hint="inside a string, double the quote",
        ) from None
    if not tokens:
        raise BadQuery("the search text is empty", hint="for everything: _id > 0")
    _check_tokens(text, tokens)
    return _query(_tree(text, tokens))


def _refuse(message: str, hint: str = _LANGUAGE) -> NoReturn:
    raise BadQuery(message, hint=hint)


def _check_tokens(text: str, tokens: list[Token]) -> None:
    depth = length = joints = 0
    conditions = 1
    for token, in_key, following in _in_context(text, tokens):
        kind = token.token_type
        shown = f"{text[token.start : token.end + 1][:40]!r} at position {token.start + 1}"
        if token.comments:
            _refuse(f"the comment near {shown} is not allowed")
        if in_key:
            continue
        if kind not in _TOKENS or (kind not in _FREE and not _SPELLINGS.fullmatch(token.text)):
            _refuse(f"{shown} is not part of the search language")
        after = following.token_type if following else None
        if kind in _AFTER and after not in _AFTER[kind]:
            _refuse(f"{shown} stands in the wrong place")
        depth += (kind is TokenType.L_PAREN) - (kind is TokenType.R_PAREN)
        length = length + 1 if kind is TokenType.COMMA else 0 if kind in _JOINTS else length
        conditions += (kind in _JOINTS) - (kind is TokenType.BETWEEN)
        joints += kind in _JOINTS
        if depth > NESTING_MAX:
            _refuse(f"more than {NESTING_MAX} open parentheses at position {token.start + 1}", "")
        if length >= LIST_LENGTH_MAX:
            _refuse(f"a list has more than {LIST_LENGTH_MAX} values", "use BETWEEN")
        if conditions > CONDITIONS_MAX or joints > 2 * CONDITIONS_MAX:
            _refuse(f"there are more than {CONDITIONS_MAX} conditions", "use IN (…)")


def _in_context(text: str, tokens: list[Token]) -> Iterator[tuple[Token, bool, Token | None]]:
    """Give each token with whether it is a word in a key, and the token after it.

    Words of SQL are good names there: ``meta.order``, ``timestamp``.
    """
    joined = name_before = False
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        word = text[token.start : token.end + 1]
        dot_after = following is not None and following.token_type is TokenType.DOT
        named = joined or dot_after or word in COLUMNS
        in_key = named and _WORD.fullmatch(word) is not None
        yield token, in_key, following
        # The dot of .5 stands after no name.
        joined = name_before and token.token_type is TokenType.DOT
        name_before = in_key or token.token_type is TokenType.IDENTIFIER


def _tree(text: str, tokens: list[Token]) -> exp.Select:
    """Return what sqlglot makes of the tokens, with every word of a key in backticks."""
    sql = _PREFIX
    starts = []
    for token, in_key, _ in _in_context(text, tokens):
        word = text[token.start : token.end + 1]
        starts.append(len(sql))
        sql += f"`{word}` " if in_key else f"{word} "
    try:
        parser = MySQL().parser(error_level=ErrorLevel.IMMEDIATE)
        trees = parser.parse(MySQL().tokenize(sql), sql)
    except ParseError as error:
        _refuse(f"syntax error{_position(error, sql, starts, tokens)}")
    except (SqlglotError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        _refuse("syntax error")
    tree = trees[0] if len(trees) == 1 else None
    if type(tree) is not exp.Select:
        _refuse("syntax error")
    return tree


def _position(error: ParseError, sql: str, starts: list[int], tokens: list[Token]) -> str:
    """Return where in the user's text sqlglot stumbled, " at position 7", or nothing."""
    for found in error.errors:
        line, column = found.get("line"), found.get("col")
        if type(line) is int and type(column) is int:
            offset = sum(len(above) + 1 for above in sql.split("\n")[: line - 1]) + column - 1
            at = max(bisect.bisect_right(starts, offset) - 1, 0)
            return f" at position {tokens[at].start + 1}"
    return ""


def _query(tree: exp.Select) -> Query:
    parts = {name for name, value in tree.args.items() if value}
    if not parts <= {"expressions", "from_", "from", "where", "order"}:
        _refuse("only conditions and ORDER BY are allowed")
    where = tree.args["where"].this
    order = tree.args.get("order")
    if order is None:
        return Query(_condition(where))
    if len(order.expressions) != 1:
        _refuse("ORDER BY takes one key")
    ordered = order.expressions[0]
    if type(ordered) is not exp.Ordered or ordered.args.get("with_fill"):
        _refuse("ORDER BY takes one key, then ASC or DESC")
    return Query(_condition(where), _key(ordered.this), bool(ordered.args.get("desc")))


def _condition(node: Any) -> Condition:
    kind = type(node)
    if kind is exp.Paren:
        return _condition(node.this)
    if kind is exp.And:
        return AllOf(tuple(_condition(term) for term in _terms(node, exp.And)))
    if kind is exp.Or:
        return AnyOf(tuple(_condition(term) for term in _terms(node, exp.Or)))
    if kind is exp.Not:
        return _leaf(node.this, negated=True)
    return _leaf(node, negated=False)


def _terms(node: Any, kind: type[exp.Expression]) -> list[Any]:
    """Return what a chain of AND or OR joins, in order, without recursion."""
    terms = []
    while type(node) is kind:
        terms.append(node.expression)
        node = node.this
    return [node, *reversed(terms)]


def _leaf(node: Any, negated: bool) -> Condition:
    kind = type(node)
    if kind is exp.In and _only(node, "this", "expressions"):
        return Membership(_key(node.this), _list(node.expressions), negated)
    if kind is exp.Between and _only(node, "this", "low", "high"):
        low, high = _list([node.args["low"], node.args["high"]])
        return Between(_key(node.this), low, high, negated)
    if kind is exp.RegexpLike and _only(node, "this", "expression"):
        pattern = _literal(node.expression)
        if not isinstance(pattern, str):
            _refuse("REGEXP needs a string")
        compile_pattern(pattern)
        return Pattern(_key(node.this), pattern, negated)
    if kind in _OPERATORS and not negated and _only(node, "this", "expression"):
        return Comparison(_key(node.this), _OPERATORS[kind], _literal(node.expression))
    return _refuse(f"{_shown(node)} alone is not a condition of the search language")


def _only(node: exp.Expression, *names: str) -> bool:
    return {name for name, value in node.args.items() if value} <= set(names)


def _shown(node: Any) -> str:
    if isinstance(node, exp.Column):
        return f"the key {'.'.join(part.name for part in node.parts)[:80]!r}"
    if isinstance(node, exp.Expression):
        return f"'{type(node).__name__.upper()}'"
    return "nothing"


def _list(nodes: list[Any]) -> tuple[Scalar, ...]:
    values = tuple(_literal(node) for node in nodes)
    if not values:
        _refuse("the list is empty")
    texts = sum(isinstance(value, str) for value in values)
    if texts not in (0, len(values)):
        _refuse("values must be all numbers or all strings", "")
    return values


def _literal(node: Any) -> Scalar:
    if type(node) is exp.Literal and node.is_string:
        if "\0" in node.name:
            _refuse("strings cannot hold a NUL character", "")
        return node.name
    if type(node) is exp.Neg and type(node.this) is exp.Literal and not node.this.is_string:
        return -_number(node.this.name)
    if type(node) is exp.Literal:
        return _number(node.name)
    if isinstance(node, exp.Column):
        return _refuse(
            f"{_shown(node)} stands where a value is needed",
            "values are numbers, or strings in quotes",
        )
    return _refuse("a value must be a number or a string in quotes")


def _number(text: str) -> int | float:
    try:
        value: int | float = int(text) if text.isdecimal() else float(text)
        if isinstance(value, int) and value > limits.ID_MAX:
            value = float(value)
    except (ValueError, OverflowError):
        return _refuse(f"{text[:40]!r} is not a number", "")
    if not math.isfinite(value):
        return _refuse(f"{text[:40]!r} is too large for a number", "")
    return value


def _key(node: Any) -> Key:
    parts = _parts(node)
    if len(parts) == 1 and parts[0] in COLUMNS:
        return Key(parts[0])
    shown = ".".join(parts)[:80]
    if parts[0] in _NOT_STORED:
        _refuse(
            f"{shown!r} is not stored: it is made when a message is handed out",
            "search for _id, name or meta.… instead",
        )
    if parts[0] != "meta" or len(parts) == 1:
        near = difflib.get_close_matches(parts[0], COLUMNS, 1) or [f"meta.{shown}"]
        advice = "" if parts[0].startswith("meta") else f"; did you mean {near[0]}?"
        _refuse(
            f"there is no key {shown!r}{advice}",
            f"keys are {', '.join(COLUMNS)} and meta.…, with backticks around single parts only",
        )
    if len(parts) > KEY_PARTS_MAX:
        _refuse(f"the key {shown!r} has more than {KEY_PARTS_MAX} parts", "")
    for part in parts:
        if not part or len(part) > KEY_PART_NCHARS_MAX or _UNFIT.search(part):
            _refuse(
                f"the key {shown!r} is empty or too long in one part, or has a quote in it",
                f"up to {KEY_PART_NCHARS_MAX} characters a part; in backticks if it is not a word",
            )
    return Key("meta", tuple(parts[1:]))


def _parts(node: Any) -> list[str]:
    """Return the names in a dotted key; sqlglot nests those after the fourth."""
    names: list[str] = []
    while type(node) is exp.Dot:
        names.insert(0, _name(node.expression))
        node = node.this
        if len(names) > KEY_PARTS_MAX:
            _refuse(f"a key has more than {KEY_PARTS_MAX} parts", "")
    if type(node) is exp.Column and _only(node, "this", "table", "db", "catalog"):
        return [_name(part) for part in node.parts] + names
    return _refuse("a condition must begin with a key")


def _name(node: Any) -> str:
    if type(node) is not exp.Identifier:
        _refuse("a key must be made of names and dots")
    return str(node.name)
