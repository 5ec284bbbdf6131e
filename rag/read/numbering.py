"""The numbers and bullets that Word prints in front of paragraphs: ``numbering.xml`` and the counters it implies.

Knows nothing of the paragraphs' text. Source: ECMA-376 part 1, 17.9 (numbering) and 17.18.59 (ST_NumberFormat).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from lxml import etree

from rag.read.xml_safe import local_name

NUM_LEVELS = 9
BULLET = "-"
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"), (9, "ix"),
          (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip


def value_of(element: etree._Element | None, name: str = "val") -> str | None:
    """The attribute ``name`` of an element in whatever namespace it stands, or ``None``."""
    if element is None:
        return None
    return next((str(value) for key, value in element.attrib.items() if str(key).rpartition("}")[2] == name), None)


def child_of(element: etree._Element | None, *path: str) -> etree._Element | None:
    """The first descendant along ``path`` of tags without namespaces, or ``None``."""
    for name in path:
        element = next((node for node in element if local_name(node) == name), None) if element is not None else None
    return element


def int_of(text: str | None, otherwise: int) -> int:
    """``text`` as a whole number, or ``otherwise`` where a file says nonsense."""
    return int(text) if text is not None and re.fullmatch(r"[+-]?\d{1,9}", text) else otherwise


def number_text(number: int, style: str) -> str:
    """``number`` in a numbering style of Word.

    >>> [number_text(number, "lowerRoman") for number in (4, 9)], number_text(28, "upperLetter"), number_text(3, "decimalZero")
    (['iv', 'ix'], 'BB', '03')
    """
    if style in ("lowerLetter", "upperLetter") and number > 0:
        letters = chr(ord("a") + (number - 1) % 26) * min((number - 1) // 26 + 1, 9)  # Word doubles the letter: z, aa, bb
        return letters.upper() if style == "upperLetter" else letters
    if style in ("lowerRoman", "upperRoman") and 0 < number < 5000:
        roman = ""
        for value, letters in _ROMAN:
            roman += letters * (number // value)
            number %= value
        return roman.upper() if style == "upperRoman" else roman
    return f"{number:02d}" if style == "decimalZero" else str(number)


class Level(NamedTuple):
    """How one level of a list is numbered; ``text`` has ``%1`` .. ``%9`` where the counters go."""

    start: int = 1
    style: str = "decimal"
    text: str = "%1."
    paragraph_style: str | None = None


@dataclass(slots=True)
class Scheme:
    """The levels of one abstract numbering, and where its counters stand."""

    levels: dict[int, Level] = field(default_factory=dict)
    counters: dict[int, int] = field(default_factory=dict)
    style_link: str | None = None


class Numbering:
    """Labels in document order: ask ``label`` once per numbered paragraph, from the first to the last.

    ``style_numbers``: paragraph style id -> numbering id, for schemes that are defined by way of a style.
    """

    def __init__(self, root: etree._Element | None, style_numbers: dict[str, str]) -> None:
        self._schemes: dict[str, Scheme] = {}
        self._scheme_of: dict[str, str] = {}
        self._restarts: dict[str, dict[int, int]] = {}
        for node in () if root is None else root:
            if local_name(node) == "abstractNum":
                self._schemes[value_of(node, "abstractNumId") or ""] = _scheme(node)
        for node in () if root is None else root:
            if local_name(node) == "num":
                name = value_of(node, "numId") or ""
                self._scheme_of[name] = value_of(child_of(node, "abstractNumId")) or ""
                self._restarts[name] = {
                    int_of(value_of(override, "ilvl"), 0): int_of(value_of(start), 1)
                    for override in node
                    if local_name(override) == "lvlOverride" and (start := child_of(override, "startOverride")) is not None
                }
        for scheme in self._schemes.values():
            linked = self._schemes.get(self._scheme_of.get(style_numbers.get(scheme.style_link or "", ""), ""))
            if linked is not None and not scheme.levels:
                scheme.levels, scheme.counters = linked.levels, linked.counters

    def level_of_style(self, number_id: str, style: str) -> int | None:
        """The level that a paragraph style takes in a numbering, or ``None``."""
        scheme = self._schemes.get(self._scheme_of.get(number_id, ""))
        levels = scheme.levels.items() if scheme else ()
        return next((level for level, shape in levels if shape.paragraph_style == style), None)

    def label(self, number_id: str, level: int) -> str | None:
        """The printed label of the next paragraph at ``level`` (``-`` for bullets, ``""`` for none); ``None``: no such list."""
        scheme = self._schemes.get(self._scheme_of.get(number_id, ""))
        if scheme is None or not 0 <= level < NUM_LEVELS:
            return None
        shape = scheme.levels.get(level, Level(text=f"%{level + 1}."))
        restart = self._restarts.get(number_id, {}).pop(level, None)  # only the first use of a num restarts
        before = scheme.counters.get(level)
        scheme.counters[level] = restart if restart is not None else shape.start if before is None else before + 1
        for deeper in [other for other in scheme.counters if other > level]:
            del scheme.counters[deeper]
        if shape.style == "bullet":
            return BULLET
        if shape.style == "none":
            return ""

        def counter(match: re.Match[str]) -> str:
            other = int(match[1]) - 1
            other_shape = scheme.levels.get(other, Level())
            return number_text(scheme.counters.setdefault(other, other_shape.start), other_shape.style)

        return re.sub(r"%([1-9])", counter, shape.text).strip()


def _scheme(node: etree._Element) -> Scheme:
    scheme = Scheme(style_link=value_of(child_of(node, "numStyleLink")))
    for level in node:
        if local_name(level) == "lvl":
            start, style, text = (value_of(child_of(level, name)) for name in ("start", "numFmt", "lvlText"))
            scheme.levels[int_of(value_of(level, "ilvl"), 0)] = Level(
                int_of(start, 1), style or "decimal", text or "", value_of(child_of(level, "pStyle"))
            )
    return scheme
