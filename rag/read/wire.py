"""How a draft leaves the process that parses: as JSON and plain text, checked on arrival. Knows no process and no format.

The sender is not trusted: it has just parsed a stranger's file. So nothing here can make the receiver run code, and
every length, offset and type is checked before it becomes an object. A message is ``HEADER``, JSON, then raw bytes.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from rag.core import ELEMENT_KINDS, Element, Span
from rag.errors import EncryptedFile, FileTooLarge, ReadError, UnknownType
from rag.read.draft import Draft, Limits, canonical

MAGIC = b"rag1"
HEADER = struct.Struct(">4sQQ")  # magic, bytes of JSON, bytes that follow it

_MAX_DEPTH = 20
_MAX_REASON_CHARS = 500
_ERRORS: dict[str, type[ReadError]] = {
    cls.__name__: cls for cls in (ReadError, UnknownType, EncryptedFile, FileTooLarge)
}  # fmt: skip


class Garbled(Exception):
    """What arrived is not a message of ours, or breaks a law of ``Document``."""


def message(content: Any, blob: bytes = b"") -> list[bytes]:
    """The pieces of one message."""
    # a lone surrogate (of a broken title, say) becomes `?`: it has no UTF-8
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
    return [HEADER.pack(MAGIC, len(text), len(blob)), text, blob]


def layout_bytes_allowed(num_text_bytes: int) -> int:
    """Most bytes of JSON that may come with a text: a lawful layout of the smallest elements takes less."""
    return min(2**22 + 100 * num_text_bytes, 2**28)


def check_header(header: bytes, limits: Limits) -> tuple[int, int]:
    """``(bytes of JSON, bytes of text)`` of a reply. Raises ``Garbled`` when they pass the limits."""
    magic, num_json_bytes, num_text_bytes = HEADER.unpack(header)
    if magic != MAGIC or num_text_bytes > 4 * limits.max_text_chars or num_json_bytes > layout_bytes_allowed(num_text_bytes):
        raise Garbled("its answer is not one of ours")
    return num_json_bytes, num_text_bytes


def encode(draft: Draft, limits: Limits) -> list[bytes]:
    """The message that carries ``draft``. Raises ``FileTooLarge`` when it passes the limits of one."""
    if len(draft.text) > limits.max_text_chars:
        raise FileTooLarge("", f"holds {len(draft.text)} characters; the limit max_text_chars is {limits.max_text_chars}")
    elements = [
        [element.span.start, element.span.end, element.kind, element.level, element.page, element.bbox,
         [number for row in element.rows for number in row], element.num_header_rows, element.source]
        for element in draft.elements
    ]  # fmt: skip
    parts = message({"elements": elements, "meta": draft.meta}, draft.text.encode())
    if len(parts[1]) > layout_bytes_allowed(len(parts[2])):
        raise FileTooLarge("", f"its layout takes {len(parts[1]) / 2**20:.0f} MiB; {len(draft.elements)} elements are too many")
    return parts


def encode_error(error: Exception) -> list[bytes]:
    """The message that carries the class and the reason of ``error``."""
    if isinstance(error, ReadError):
        kind = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _ERRORS)
        return message({"error": kind, "reason": one_line(error.reason)})
    return message({"error": "ReadError", "reason": one_line(str(error))})


def decode(text: bytes, blob: bytes, limits: Limits) -> Draft:
    """The draft of a reply. Raises the ``ReadError`` it carries (with path ``""``), or ``Garbled``."""
    try:
        content = json.loads(text.decode(), parse_constant=_refuse)
        if "error" in content:
            raise _ERRORS[content["error"]]("", one_line(content["reason"]))
        return _draft(content["elements"], content["meta"], blob.decode(), limits)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise Garbled(f"its answer is not one of ours: {one_line(str(error))}") from error


def one_line(text: str) -> str:
    """``text`` on one line, printable and short: it may quote what a stranger wrote."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * _MAX_REASON_CHARS]).split())
    return line if len(line) <= _MAX_REASON_CHARS else line[: _MAX_REASON_CHARS - 1] + "\u2026"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _draft(rows: list[Any], meta: dict[str, Any], text: str, limits: Limits) -> Draft:
    _law(len(text) <= limits.max_text_chars, "the text is too long")
    _law(canonical(text) == text, "the text is not canonical")
    _law(type(meta) is dict and _is_plain(meta, 0), "meta is not plain JSON")
    elements: list[Element] = []
    end = 0
    for row in rows:
        element = _element(*row)
        if element.span.start < end:
            raise ValueError("elements overlap or are out of order")
        end = element.span.end
        elements.append(element)
    _law(end <= len(text), "an element ends after the text")
    return Draft(text, tuple(elements), meta)


def _element(
    start: Any, end: Any, kind: Any, level: Any, page: Any, bbox: Any, row_numbers: Any, num_header_rows: Any, source: Any
) -> Element:
    if not (type(start) is int and type(end) is int and 0 <= start < end):
        raise ValueError("a span is empty or turned")
    if kind not in ELEMENT_KINDS:
        raise ValueError("an element has an unknown kind")
    if level is not None and not (type(level) is int and 1 <= level <= 6):
        raise ValueError("a level is not 1-6")
    if page is not None and not (type(page) is int and page >= 1):
        raise ValueError("a page is not a number from 1")
    if bbox is not None:
        _law(
            len(bbox) == 4 and all(type(edge) in (int, float) and math.isfinite(edge) for edge in bbox),
            "a bbox is not four numbers",
        )
        bbox = tuple(float(edge) for edge in bbox)
    if source is not None and not (type(source) is str and _is_plain(source, 0)):
        raise ValueError("a source is not a text")
    return Element(Span(start, end), kind, level, page, bbox, *_rows(start, end, row_numbers, num_header_rows), source)


def _rows(start: int, end: int, numbers: Any, num_header_rows: Any) -> tuple[tuple[Span, ...], int]:
    if numbers == [] and num_header_rows == 0 and type(num_header_rows) is int:
        return (), 0
    _law(type(numbers) is list and len(numbers) % 2 == 0, "rows are not pairs")
    at = start
    for number in numbers:
        if not (type(number) is int and at <= number <= end):
            raise ValueError("a row lies outside its table")
        at = number
    _law(type(num_header_rows) is int and 0 <= num_header_rows <= len(numbers) // 2, "more header rows than rows")
    return tuple(Span(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)), num_header_rows


def _is_plain(value: Any, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        return False
    if type(value) is str:
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if type(value) is dict:
        return all(_is_plain(key, depth) and _is_plain(entry, depth + 1) for key, entry in value.items())
    if type(value) is list:
        return all(_is_plain(entry, depth + 1) for entry in value)
    return value is None or type(value) in (bool, int) or (type(value) is float and math.isfinite(value))


def _law(holds: bool, broken: str) -> None:
    if not holds:
        raise ValueError(broken)
