from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import ConfigError
from rag.filter import And, Compare, Exists, Filter, In, Not, Or, from_json, load, matches, parse, to_sql

FIELDS = st.sampled_from(["a", "b", "a.b", "c d", "$x", "ü", "a[0]", "'; DROP TABLE chunks; --"])
VALUES = st.one_of(
    st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.5]), st.text(max_size=3).filter(lambda t: "\0" not in t)
)
VALUES = VALUES.filter(lambda v: not isinstance(v, str) or v.isprintable())
LEAVES = st.one_of(
    st.builds(Compare, FIELDS, st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"]), VALUES),
    st.builds(In, FIELDS, st.lists(VALUES, max_size=3).map(tuple)),
    st.builds(Exists, FIELDS),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)
METAS = st.dictionaries(FIELDS, st.one_of(VALUES, st.none()), max_size=4)


@given(FILTERS, METAS, METAS)
def test_sql_and_the_plain_reading_agree(expression: Filter, chunk_meta: dict[str, Any], document_meta: dict[str, Any]) -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE chunks (meta TEXT)")
    database.execute("CREATE TABLE documents (id TEXT, source TEXT, meta TEXT)")
    database.execute("INSERT INTO chunks VALUES (?)", (json.dumps(chunk_meta, ensure_ascii=False),))
    database.execute("INSERT INTO documents VALUES ('i', 's', ?)", (json.dumps(document_meta, ensure_ascii=False),))
    sql, parameters = to_sql(expression)
    ((found,),) = database.execute(f"SELECT {sql} FROM chunks c, documents d", parameters).fetchall()
    merged = {**document_meta, **{name: value for name, value in chunk_meta.items() if value is not None}}
    assert bool(found) == matches(expression, merged)
    database.close()


@pytest.mark.parametrize(
    ("text", "meta", "expected"),
    [
        ("year >= 2020", {"year": 2020}, True),
        ("year >= 2020", {}, False),
        ("year != 2020", {}, True),
        ("year = '2020'", {"year": 2020}, False),
        ("flag = true", {"flag": True}, True),
        ("flag = 1", {"flag": True}, False),
        ("lang in ('en', de) and not draft = true", {"lang": "de"}, True),
        ("a = 1 or b = 2 and c = 3", {"a": 1}, True),
        ("(a = 1 or b = 2) and c = 3", {"a": 1}, False),
        ("exists 'odd name'", {"odd name": 0}, True),
        (r"a = 'it\'s'", {"a": "it's"}, True),
        ("a > -1.5e0", {"a": -1}, True),
    ],
)
def test_text(text: str, meta: dict[str, Any], expected: bool) -> None:
    assert matches(parse(text), meta) is expected


@pytest.mark.parametrize(
    "text",
    ["", "a", "a =", "= 1", "a = 1 b = 2", "(a = 1", "a ! 1", "a in 1", "a in (", "not", "a = 1 and", "'x\"y' = 1", "(" * 99],
)
def test_text_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match="filter"):
        parse(text)


@pytest.mark.parametrize(
    "node",
    [[], {}, {"eq": ["a", 1], "ne": ["a", 1]}, {"like": ["a", "b"]}, {"eq": "ab"}, {"eq": ["a", None]}, {"eq": ["a", [1]]}, {"and": "x"},
     {"in": ["a", "bc"]}, {"eq": ["", 1]}, {"exists": 3}, {"eq": ["a", float("nan")]}, {"eq": ["a", 2**80]}],
)  # fmt: skip
def test_json_that_cannot_be_read(node: Any) -> None:
    with pytest.raises(ConfigError, match="filter"):
        from_json(node)


def test_json_forms() -> None:
    node = {"and": [{"or": [{"eq": ["a", 1]}, {"not": {"exists": "b"}}]}, {"in": ["c", ["x", True]]}]}
    expected = And((Or((Compare("a", "eq", 1), Not(Exists("b")))), In("c", ("x", True))))
    assert load(node) == expected
    assert load(expected) is expected
    assert load(None) is None


def test_deep_nesting_is_refused() -> None:
    node: dict[str, Any] = {"exists": "a"}
    for _ in range(40):
        node = {"not": node}
    with pytest.raises(ConfigError, match="nested"):
        from_json(node)
