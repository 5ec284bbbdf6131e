"""Word styles: which are headings, lists, captions, code, and what makes text invisible. Knows nothing of the text itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lxml import etree

from rag.read.numbering import child_of, int_of, value_of
from rag.read.xml_safe import local_name

_HEADING = re.compile(r"heading ([1-9])")
_CODE = re.compile(r"code|source|html preformatted|plain text|macro|verbatim|listing")
_MAX_CHAIN = 20  # styles based on styles; a circle in a broken file ends here
_HALF_POINTS_INVISIBLE = 2  # a font of 1 pt and less


@dataclass(frozen=True, slots=True)
class Style:
    """What a paragraph or character style, with all it is based on, says about the role of text."""

    id: str = ""
    heading_level: int | None = None
    number_id: str | None = None
    number_level: int = 0
    is_caption: bool = False
    is_code: bool = False
    is_contents: bool = False
    is_shaded: bool = False
    run_properties: tuple[etree._Element, ...] = ()


class Styles:
    """Style id -> ``Style``; an unknown id, or none, is plain text."""

    def __init__(self, root: etree._Element | None) -> None:
        self._nodes: dict[str, etree._Element] = {}
        self._default = ""
        for node in () if root is None else root:
            if local_name(node) == "style":
                name = value_of(node, "styleId") or ""
                self._nodes[name] = node
                if value_of(node, "type") == "paragraph" and value_of(node, "default") in ("1", "true", "on"):
                    self._default = name
        self._known: dict[str, Style] = {}

    def __getitem__(self, name: str | None) -> Style:
        name = name or ""
        if name not in self._known:
            self._known[name] = self._resolve(name)
        return self._known[name]

    def number_ids(self) -> dict[str, str]:
        """Style id -> numbering id, of the styles that state one."""
        stated = ((name, value_of(child_of(node, "pPr", "numPr", "numId"))) for name, node in self._nodes.items())
        return {name: number_id for name, number_id in stated if number_id}

    def _chain(self, name: str) -> list[etree._Element]:
        chain: list[etree._Element] = []
        while name in self._nodes and len(chain) < _MAX_CHAIN:
            chain.append(self._nodes[name])
            name = value_of(child_of(chain[-1], "basedOn")) or ""
        return chain

    def _resolve(self, name: str) -> Style:
        chain = self._chain(name)
        names = [(value_of(child_of(node, "name")) or "").lower() for node in chain]
        outlines = [int_of(value_of(child_of(node, "pPr", "outlineLvl")), -1) for node in chain]
        number_ids = [value_of(child_of(node, "pPr", "numPr", "numId")) for node in chain]
        levels = [value_of(child_of(node, "pPr", "numPr", "ilvl")) for node in chain]
        headings = [int(match[1]) for text in names if (match := _HEADING.fullmatch(text))]
        outline = next((value for value in outlines if value >= 0), 9)
        level = 1 if "title" in names[:1] else headings[0] if headings else outline + 1 if outline < 9 else None
        return Style(
            id=name,
            heading_level=None if level is None else min(level, 6),
            number_id=next((value for value in number_ids if value is not None), None),
            number_level=int_of(next((value for value in levels if value is not None), None), 0),
            is_caption=any("caption" in text for text in names),
            is_code=any(_CODE.search(text) for text in names[:2]) and level is None,
            is_contents=any(text.startswith(("toc ", "table of figures")) for text in names),
            is_shaded=any(child_of(node, "pPr", "shd") is not None for node in chain),
            run_properties=tuple(found for node in chain if (found := child_of(node, "rPr")) is not None),
        )


def is_invisible(properties: etree._Element | None, styles: Sequence[Style], shaded: bool) -> bool:
    """Whether a run is marked hidden, too small to see, or white on the white page (``shaded``: it does not stand on that)."""
    chain = [properties, *(found for style in styles for found in style.run_properties)]

    def stated(name: str) -> etree._Element | None:
        return next((found for node in chain if (found := child_of(node, name)) is not None), None)

    vanish = stated("vanish")
    if vanish is not None and value_of(vanish) not in ("0", "false", "off"):
        return True
    if int_of(value_of(stated("sz")), 24) <= _HALF_POINTS_INVISIBLE:
        return True
    is_white = (value_of(stated("color")) or "").upper() == "FFFFFF"
    return is_white and not shaded and stated("shd") is None and stated("highlight") is None
