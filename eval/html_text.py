"""HTML and SVG as text that cannot be broken by what it holds. Knows elements and escaping; knows no report.

Documents, questions and answers are written by strangers. Everything that is not ``Safe`` is escaped when it becomes part of an
element, so a forgotten call shows as ``&lt;`` on the page and never as markup.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_IN_SCRIPT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_VOID = {"br", "input", "meta", "hr", "col"}


class Safe(str):
    """Text that is HTML already."""

    __slots__ = ()

    def __new__(cls, text: str = "") -> Self:
        return super().__new__(cls, text)


def clean(text: str) -> str:
    """``text`` with a replacement character for each character that no HTML page may hold; as long as before."""
    return _NOT_TEXT.sub("\ufffd", text)


def escaped(text: str) -> Safe:
    """``text`` as HTML; ``Safe`` text as it is."""
    return text if isinstance(text, Safe) else Safe(html.escape(clean(text)))


def tag(name: str, /, *children: str | None, **attributes: object) -> Safe:
    """One element. ``class_`` stands for ``class``, ``stroke_width`` for ``stroke-width``; ``None`` and ``False`` leave an attribute out.

    >>> tag("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    """
    said = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    if name in _VOID:
        return Safe(f"<{name}{said}>")
    return Safe(f"<{name}{said}>{join(children)}</{name}>")


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(clean(text))}"'


def join(parts: Iterable[str | None], between: str = "") -> Safe:
    """Parts one after the other, those that are ``None`` left out."""
    return Safe(escaped(between).join(escaped(part) for part in parts if part is not None))


def json_for_script(value: Any) -> Safe:
    """``value`` as JSON that may stand inside a ``<script>`` element: it holds no ``<``, no ``&`` and no line separator."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Safe(_NOT_TEXT.sub("\ufffd", re.sub("[<>&\u2028\u2029]", lambda found: _IN_SCRIPT[found[0]], text)))


class Cell(NamedTuple):
    """One cell of a table. ``order``: what its column is sorted by if not by the text; numbers stand at the right."""

    shown: str
    order: float | None = None
    is_number: bool = False


def number(shown: str, order: float | None = None) -> Cell:
    """A cell with a number; without ``order`` it is empty and sorts below all others."""
    return Cell(shown, order, is_number=True)


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell | str]], *, class_: str = "", sortable: bool = True
) -> Safe:
    """A table in a frame that scrolls sideways. The first cell of a row is its heading."""
    filled = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    numeric = [any(row[column].is_number for row in filled) for column in range(len(head))]
    heads = [
        tag("th", tag("button", title, type="button") if sortable else title, scope="col", class_="number" if is_number else None)
        for title, is_number in zip(head, numeric, strict=True)
    ]
    body = [tag("tr", *(_cell(cell, place, numeric[place]) for place, cell in enumerate(row))) for row in filled]
    whole = tag(
        "table", tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", *body),
        class_=" ".join(word for word in ("sortable" if sortable else "", class_) if word) or None,
    )  # fmt: skip
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(cell: Cell, place: int, is_number: bool) -> Safe:
    order = None if cell.order is None else f"{cell.order:.6g}"
    class_ = "number" if is_number else None
    if place == 0:
        return tag("th", cell.shown, scope="row", data_order=order, class_=class_)
    return tag("td", cell.shown, data_order=order, class_=class_)
