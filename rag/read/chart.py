"""Charts of DrawingML (PPTX, XLSX) as a title and a table of their cached numbers. Knows nothing of slides and sheets.

Source: ECMA-376 part 1, 21.2. Charts of the newer ``chartex`` kinds (waterfall, treemap, ...) are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from rag.read.bounded import BoundedBuilder
from rag.read.numbering import child_of, int_of, value_of
from rag.read.xml_safe import local_name

MAX_TABLE_POINTS = 500  # a chart with more points draws a measurement; its title and series names tell what it is
_KIND = re.compile(r"(?<=[a-z])(?=[A-Z0-9])|(?<=D)(?=C)")  # bar3DChart -> bar 3D Chart
_MAX_POINT_INDEX = 1_000_000


@dataclass(frozen=True, slots=True)
class Chart:
    """``title`` with the kind of chart; ``rows``: the series names, then one row per category."""

    title: str
    rows: tuple[tuple[str, ...], ...]


def drawn_text(node: etree._Element | None) -> str:
    """Text of DrawingML paragraphs below a node, a line each; line breaks inside a paragraph are kept."""
    lines = []
    for paragraph in () if node is None else (found for found in node.iter() if local_name(found) == "p"):
        pieces = [
            "\n" if local_name(leaf) == "br" else leaf.text or "" for leaf in paragraph.iter() if local_name(leaf) in ("t", "br")
        ]
        lines.append("".join(pieces).strip())
    return "\n".join(line for line in lines if line)


def read_chart(root: etree._Element) -> Chart | None:
    """The chart of a ``chartSpace`` element, or ``None`` if it has no series."""
    area = child_of(root, "chart", "plotArea")
    series: list[tuple[str, dict[int, str], dict[int, str]]] = []
    kinds: list[str] = []
    for plot in () if area is None else area:
        if local_name(plot).endswith("Chart"):
            kinds.append(_KIND.sub(" ", local_name(plot)).replace(" Chart", " chart"))
            for node in plot:
                if local_name(node) == "ser":
                    name = " ".join(_points(child_of(node, "tx")).values())
                    category, number = (_first_child(node, names) for names in (("cat", "xVal"), ("val", "yVal")))
                    series.append((name, _points(category), _points(number)))
    if not series:
        return None
    title_node = child_of(root, "chart", "title")
    title = " ".join((drawn_text(title_node) or " ".join(_points(child_of(title_node, "tx")).values())).split())
    if not title:
        title = ", ".join(name for name, _, _ in series if name)
    kind = " and ".join(dict.fromkeys(kinds))
    categories: dict[int, str] = {}
    for _, stated, numbers in series:
        categories = dict.fromkeys(numbers, "") | categories | stated
    indices = sorted(categories)
    rows = [("", *(name for name, _, _ in series))]
    if len(indices) * len(series) <= MAX_TABLE_POINTS:
        rows += [(categories[index], *(numbers.get(index, "") for _, _, numbers in series)) for index in indices]
    return Chart(f"{title} ({kind})" if title else kind.capitalize(), tuple(rows))


def add_chart(builder: BoundedBuilder, chart: Chart, page: int | None, source: str) -> None:
    """Adds the title as a caption and the numbers as a table."""
    builder.add(chart.title, "caption", page=page, source=source)
    builder.add_table(chart.rows, num_header_rows=1, page=page, source=source)


def _first_child(node: etree._Element, names: tuple[str, ...]) -> etree._Element | None:
    return next((child for child in node if local_name(child) in names), None)


def _points(node: etree._Element | None) -> dict[int, str]:
    """Index -> cached value; the levels of a multi-level category are joined, outermost first."""
    if node is None:
        return {}
    levels = [found for found in node.iter() if local_name(found) == "lvl"] or [node]
    values = [{index: text for index, text in _level(level)} for level in levels]
    joined: dict[int, str] = {}
    for index in sorted(values[0]):
        outer = [text for level in values[1:] if (text := _last_before(level, index))]
        joined[index] = " ".join([*reversed(outer), values[0][index]])
    return joined


def _level(level: etree._Element) -> Iterator[tuple[int, str]]:
    points = [node for node in level.iter() if local_name(node) == "pt"]
    for node in points:
        index = int_of(value_of(node, "idx"), -1)
        if 0 <= index < _MAX_POINT_INDEX:
            yield index, (_text_of(child_of(node, "v"))).strip()
    if not points and (literal := child_of(level, "v")) is not None:
        yield 0, _text_of(literal)


def _text_of(node: etree._Element | None) -> str:
    return (node.text or "") if node is not None else ""


def _last_before(level: dict[int, str], index: int) -> str:
    """An outer category stands at the index where its group begins."""
    begins = [start for start in level if start <= index]
    return level[max(begins)] if begins else ""
