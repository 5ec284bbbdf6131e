"""JSON and JSON Lines as text. Knows which keys usually hold prose; knows no schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rag.errors import ReadError
from rag.read.bounded import BoundedBuilder
from rag.read.draft import Draft, Limits
from rag.read.plain import decode_bytes, encoding_meta

BODY_KEYS = ("text", "content", "body")
TITLE_KEY = "title"
_MAX_DEPTH = 200


def read_json(data: bytes, limits: Limits) -> Draft:
    """A list of flat objects becomes a table; anything else one ``path: value`` line per value, a paragraph per top-level part.

    Raises ``rag.errors.ReadError`` with the line of a syntax error.
    """
    text, encoding = decode_bytes(data, limits)
    value = _parsed(text, None)
    builder = BoundedBuilder(limits)
    if isinstance(value, dict):
        for key, part in value.items():
            _add_part(builder, key, part)
    elif isinstance(value, list) and not _is_table(value):
        for index, part in enumerate(value):
            _add_part(builder, f"[{index}]", part)
    else:
        _add_part(builder, "", value)
    title = value.get(TITLE_KEY) if isinstance(value, dict) else None
    return builder.finish({"title": title if isinstance(title, str) else None, **encoding_meta(encoding)})


def read_jsonl(data: bytes, limits: Limits) -> Draft:
    """One paragraph per line: the value of ``text``, ``content`` or ``body``, with ``title`` as a heading above it.

    A line without those keys gives ``path: value`` lines. Raises ``rag.errors.ReadError`` naming the line that is no JSON.
    """
    text, encoding = decode_bytes(data, limits)
    builder = BoundedBuilder(limits)
    num_records = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            num_records += 1
            _add_record(builder, _parsed(line, number), f"line {number}")
    return builder.finish({"num_records": num_records, **encoding_meta(encoding)})


def _parsed(text: str, line: int | None) -> Any:
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        raise ReadError("", f"line {line or error.lineno}: not valid JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ReadError("", f"line {line or 1}: not readable JSON: nested too deeply") from error
    except ValueError as error:  # a number with thousands of digits
        raise ReadError("", f"line {line or 1}: not readable JSON: {error}") from error


def _add_record(builder: BoundedBuilder, value: Any, source: str) -> None:
    if not isinstance(value, dict):
        builder.add("\n".join(_lines("", value)), source=source)
        return
    body = next((value[key] for key in BODY_KEYS if isinstance(value.get(key), str) and value[key].strip()), None)
    title = value.get(TITLE_KEY)
    if body is not None and isinstance(title, str):
        builder.add(" ".join(title.split()), "heading", level=2, source=source)
    builder.add(body if body is not None else "\n".join(_lines("", value)), source=source)


def _add_part(builder: BoundedBuilder, path: str, value: Any) -> None:
    if _is_table(value):
        keys = list(dict.fromkeys(key for row in value for key in row))
        builder.add(path, "caption", source=path or None)
        builder.add_table(
            [keys, *([_scalar(row.get(key)) for key in keys] for row in value)], num_header_rows=1, source=path or None
        )
    else:
        builder.add("\n".join(_lines(path, value)), source=path or None)


def _is_table(value: Any) -> bool:
    """Whether it is a list of two or more flat objects that share at least half of their keys."""
    if not isinstance(value, list) or len(value) < 2:
        return False
    if not all(isinstance(row, dict) and row and not any(isinstance(cell, (dict, list)) for cell in row.values()) for row in value):
        return False
    num_columns = len({key for row in value for key in row})
    return 2 * sum(len(row) for row in value) >= num_columns * len(value)


def _lines(path: str, value: Any, depth: int = 0) -> Iterator[str]:
    """``a.b[0]: value`` for each scalar below ``value``; empty values say nothing."""
    if depth > _MAX_DEPTH:
        raise ReadError("", f"JSON nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _lines(f"{path}.{key}" if path else key, part, depth + 1)
    elif isinstance(value, list):
        if value and not any(isinstance(part, (dict, list)) for part in value):
            yield f"{path}: {', '.join(_scalar(part) for part in value)}" if path else ", ".join(_scalar(part) for part in value)
            return
        for index, part in enumerate(value):
            yield from _lines(f"{path}[{index}]", part, depth + 1)
    elif text := _scalar(value).strip():
        yield f"{path}: {text}" if path else text


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
