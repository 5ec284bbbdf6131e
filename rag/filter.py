"""Which chunks a search may see: a typed expression over metadata, compiled to parameterised SQL. Knows no index.

A field is looked up in the chunk's metadata, then in its document's; ``source`` and ``doc_id`` are always there.
A field that is missing (or null) equals nothing and lies in no range; ``ne`` and ``not`` are complements, so they hold for it.
Values compare only with values of their own type (numbers with numbers, text with text, booleans with booleans).
Texts: ``parse("year >= 2020 and (lang = 'en' or not exists draft)")``; JSON: ``{"and": [{"ge": ["year", 2020]}, ...]}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rag.errors import ConfigError

Value = str | int | float | bool
Comparison = Literal["eq", "ne", "lt", "le", "gt", "ge"]
_SQL_OPERATOR = {"eq": "=", "ne": "=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Compare:
    """``field <operator> value``."""

    field: str
    operator: Comparison
    value: Value


@dataclass(frozen=True, slots=True)
class In:
    """``field`` equals one of ``values``."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """``field`` is there and not null."""

    field: str


@dataclass(frozen=True, slots=True)
class Not:
    """Everything that ``inner`` does not match."""

    inner: Filter


@dataclass(frozen=True, slots=True)
class And:
    """All parts match (none: everything)."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part matches (none: nothing)."""

    parts: tuple[Filter, ...]


Filter = Compare | In | Exists | Not | And | Or


def matches(expression: Filter, meta: Mapping[str, Any]) -> bool:
    """Whether ``meta`` passes: the plain reading of the expression, and the reference for ``to_sql``."""
    match expression:
        case And(parts):
            return all(matches(part, meta) for part in parts)
        case Or(parts):
            return any(matches(part, meta) for part in parts)
        case Not(inner):
            return not matches(inner, meta)
        case Exists(field):
            return meta.get(field) is not None
        case In(field, values):
            return any(_holds("eq", meta.get(field), value) for value in values)
        case Compare(field, "ne", value):
            return not _holds("eq", meta.get(field), value)
        case Compare(field, operator, value):
            return _holds(operator, meta.get(field), value)


def _family(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def _holds(operator: str, found: Any, value: Value) -> bool:
    if found is None or _family(found) != _family(value):
        return False
    if isinstance(value, str):  # SQLite compares text by UTF-8 bytes
        found, value = found.encode("utf-8", "surrogatepass"), value.encode("utf-8", "surrogatepass")  # type: ignore[assignment]
    return bool(
        {"eq": found == value, "lt": found < value, "le": found <= value, "gt": found > value, "ge": found >= value}[operator]
    )


def to_sql(expression: Filter) -> tuple[str, list[Any]]:
    """A condition over the tables ``chunks`` (alias c) and ``documents`` (alias d) with its parameters; never NULL."""
    match expression:
        case And(parts) | Or(parts):
            word, empty = ("AND", "1") if isinstance(expression, And) else ("OR", "0")
            compiled = [to_sql(part) for part in parts]
            condition = f" {word} ".join(sql for sql, _ in compiled) or empty
            return f"({condition})", [parameter for _, parameters in compiled for parameter in parameters]
        case Not(inner):
            sql, parameters = to_sql(inner)
            return f"(NOT {sql})", parameters
        case Exists(field):
            value_sql, parameters = _field_sql(field)
            return f"({value_sql} IS NOT NULL)", parameters
        case In(field, values):
            return to_sql(Or(tuple(Compare(field, "eq", value) for value in values)))
        case Compare(field, operator, value):
            value_sql, value_parameters = _field_sql(field)
            type_sql, type_parameters = _type_sql(field)
            families = {"boolean": "('true', 'false')", "number": "('integer', 'real')"}.get(_family(value), "('text')")
            condition = f"coalesce({type_sql} IN {families} AND {value_sql} {_SQL_OPERATOR[operator]} ?, 0)"
            condition = f"(NOT {condition})" if operator == "ne" else f"({condition})"
            return condition, [*type_parameters, *value_parameters, value]


_COLUMNS = {"source": "d.source", "doc_id": "d.id"}


def _path(field: str) -> str:
    return '$."' + field + '"'


def _field_sql(field: str) -> tuple[str, list[Any]]:
    if field in _COLUMNS:
        return _COLUMNS[field], []
    return "coalesce(json_extract(c.meta, ?), json_extract(d.meta, ?))", [_path(field)] * 2


def _type_sql(field: str) -> tuple[str, list[Any]]:
    if field in _COLUMNS:
        return "'text'", []
    return "coalesce(nullif(json_type(c.meta, ?), 'null'), json_type(d.meta, ?))", [_path(field)] * 2


# Reading expressions ---------------------------------------------------------------------------------------------------


def load(given: Filter | str | Mapping[str, Any] | None) -> Filter | None:
    """A checked expression from text, JSON or an expression. Raises ``ConfigError`` that names the faulty part."""
    if given is None or isinstance(given, Compare | In | Exists | Not | And | Or):
        return given
    return parse(given) if isinstance(given, str) else from_json(given)


def from_json(node: Any, depth: int = 0) -> Filter:
    """``{"eq": ["lang", "en"]}``, ``{"in": ["lang", ["en", "de"]]}``, ``{"exists": "page"}``, ``{"and": [...]}``, ``{"not": {...}}``."""
    if depth > _MAX_DEPTH:
        raise ConfigError(f"filter: nested deeper than {_MAX_DEPTH}")
    allowed = "and, or, not, exists, in, eq, ne, lt, le, gt, ge"
    if not isinstance(node, Mapping) or len(node) != 1:
        raise ConfigError(f"filter: {json.dumps(node, default=str)[:80]} must be a mapping with one key of: {allowed}")
    ((word, body),) = node.items()
    if word in ("and", "or"):
        if not isinstance(body, Sequence) or isinstance(body, str):
            raise ConfigError(f"filter: {word!r} takes a list of filters")
        parts = tuple(from_json(part, depth + 1) for part in body)
        return And(parts) if word == "and" else Or(parts)
    if word == "not":
        return Not(from_json(body, depth + 1))
    if word == "exists":
        return Exists(_checked_field(body))
    if word not in ("in", *_SQL_OPERATOR):
        raise ConfigError(f"filter: unknown word {word!r}; allowed: {allowed}")
    if not isinstance(body, Sequence) or isinstance(body, str) or len(body) != 2:
        raise ConfigError(f"filter: {word!r} takes [field, value]")
    field = _checked_field(body[0])
    if word == "in":
        if not isinstance(body[1], Sequence) or isinstance(body[1], str):
            raise ConfigError(f"filter: 'in' takes [field, [value, ...]], not {body[1]!r}")
        return In(field, tuple(_checked_value(value) for value in body[1]))
    return Compare(field, word, _checked_value(body[1]))


def _checked_field(field: Any) -> str:
    if not isinstance(field, str) or not field or '"' in field or len(field) > 200:
        raise ConfigError(f"filter: {field!r} is no field name (text without double quotes, at most 200 characters)")
    return field


def _checked_value(value: Any) -> Value:
    if isinstance(value, (bool, str)) or (isinstance(value, (int, float)) and abs(value) < 2**63):
        return value
    raise ConfigError(f"filter: {value!r} is no value; allowed: text, numbers, true, false")


_TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])
    |(?P<operator><=|>=|!=|==|=|<|>)|(?P<mark>[(),\[\]])|(?P<word>[^\s()<>=!,'"\[\]]+))""",
    re.VERBOSE,
)
_WRITTEN = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


def parse(text: str) -> Filter:
    """An expression from text: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in (...)``, ``exists field``, and/or/not, parentheses.

    >>> parse("year >= 2020 and lang in ('en', 'de')")
    And(parts=(Compare(field='year', operator='ge', value=2020), In(field='lang', values=('en', 'de'))))
    """
    tokens: list[tuple[str, str]] = []
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if not found:
            raise ConfigError(f"filter: cannot read {text[at:].strip()[:40]!r}")
        tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
        at = found.end()
    parser = _Parser(tokens)
    expression = parser.disjunction(0)
    if parser.rest:
        raise ConfigError(f"filter: expected 'and' or 'or' before {parser.rest[0][1]!r}")
    return expression


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.rest = tokens

    def _next(self, wanted: str) -> tuple[str, str]:
        if not self.rest:
            raise ConfigError(f"filter: ends where {wanted} should stand")
        return self.rest.pop(0)

    def _take(self, word: str) -> bool:
        if self.rest and self.rest[0][0] in ("word", "mark") and self.rest[0][1].lower() == word:
            self.rest.pop(0)
            return True
        return False

    def disjunction(self, depth: int) -> Filter:
        if depth > _MAX_DEPTH:
            raise ConfigError(f"filter: nested deeper than {_MAX_DEPTH}")
        parts = [self._conjunction(depth)]
        while self._take("or"):
            parts.append(self._conjunction(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self, depth: int) -> Filter:
        parts = [self._unary(depth)]
        while self._take("and"):
            parts.append(self._unary(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _unary(self, depth: int) -> Filter:
        if depth > _MAX_DEPTH:
            raise ConfigError(f"filter: nested deeper than {_MAX_DEPTH}")
        if self._take("not"):
            return Not(self._unary(depth + 1))
        if self._take("("):
            inner = self.disjunction(depth + 1)
            if not self._take(")"):
                raise ConfigError("filter: a ')' is missing")
            return inner
        if self._take("exists"):
            return Exists(self._field())
        return self._comparison()

    def _field(self) -> str:
        kind, text = self._next("a field name")
        if kind == "string":
            return _checked_field(_unquoted(text))
        if kind != "word":
            raise ConfigError(f"filter: {text!r} stands where a field name should")
        return _checked_field(text)

    def _comparison(self) -> Filter:
        field = self._field()
        if self._take("in"):
            if not self._take("("):
                raise ConfigError(f"filter: `{field} in` needs a list in parentheses")
            values: list[Value] = []
            while not self._take(")"):
                values.append(self._value())
                self._take(",")
            return In(field, tuple(values))
        kind, written = self._next("a comparison")
        if kind != "operator":
            raise ConfigError(f"filter: {written!r} stands where one of {', '.join(_WRITTEN)}, in should")
        return Compare(field, _WRITTEN[written], self._value())  # type: ignore[arg-type]

    def _value(self) -> Value:
        kind, text = self._next("a value")
        if kind == "string":
            return _unquoted(text)
        if kind == "number":
            return _checked_value(float(text) if re.search(r"[.eE]", text) else int(text))
        if kind == "word":
            return {"true": True, "false": False}.get(text.lower(), text)
        raise ConfigError(f"filter: {text!r} stands where a value should")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])
