"""Pages of pieces as one draft: furniture out, regions in order, headings by size, sentences joined across columns. Knows no file format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rag.read.draft import Draft, TextBuilder
from rag.read.pdf_blocks import Block, BlockKind, Words, blocks, caption_mark, continued, depth_of_number, is_open, text_of
from rag.read.pdf_furniture import without_furniture
from rag.read.pdf_order import regions, rows
from rag.read.pdf_words import SOFT_HYPHEN, PageText, Piece

MAX_LEVEL = 6
MAX_FLOATS = 12  # captions, tables and notes that may stand between the two halves of a paragraph
MAX_SENTENCE_CHARS = 400

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"“(\[]?[^\W\d_a-z])")


@dataclass(slots=True)
class _Item:
    """A block that has its text, its page and its place in the stream of regions."""

    block: Block
    text: str
    page: int
    box: tuple[float, float, float, float]
    region: int
    level: int | None = None

    @property
    def kind(self) -> BlockKind:
        return self.block.kind


def assemble(pages: Sequence[PageText], meta: dict[str, Any]) -> Draft:
    """All pages as one text with its elements. ``meta["title"]`` is filled from the first heading where it is missing."""
    pages = without_furniture(pages)
    pieces = [piece for page in pages for group in page.groups for piece in group.pieces]
    body_size, body_is_mono = _body(pieces)
    words = _vocabulary(pieces)
    items = list(_items(pages, body_size, body_is_mono, words))
    _check_captions(items)
    _set_levels(items, body_size)
    _join_across_columns(items, words)
    builder = TextBuilder()
    listed: list[_Item] = []
    for item in items:
        if listed and (item.kind != "list" or item.page != listed[0].page):
            _add_list(builder, listed)
            listed = []
        if item.kind == "list":
            listed.append(item)
        elif item.block.table is not None:
            table = item.block.table
            cells = [[cell.replace(SOFT_HYPHEN, "-") for cell in row] for row in table.cells]
            builder.add_table(cells, num_header_rows=table.num_header_rows, page=item.page, bbox=item.box)
        else:
            builder.add(item.text.replace(SOFT_HYPHEN, "-"), item.kind, level=item.level, page=item.page, bbox=item.box)
    if listed:
        _add_list(builder, listed)
    if not meta.get("title"):
        title = _title(items)
        meta = {**meta, **({"title": title} if title else {})}
    return builder.draft(meta)


def _body(pieces: Sequence[Piece]) -> tuple[float, bool]:
    """Font size of most characters, and whether most are of a fixed width."""
    sizes: Counter[float] = Counter()
    num_mono = 0
    for piece in pieces:
        sizes[round(piece.size * 4) / 4] += len(piece.text)
        num_mono += len(piece.text) * piece.mono
    return (max(sizes, key=lambda size: (sizes[size], -size)) if sizes else 10.0), num_mono * 2 > sizes.total()


def _vocabulary(pieces: Sequence[Piece]) -> Words:
    """The words of the document; halves of words at line ends are none."""
    if not any(piece.text.endswith((SOFT_HYPHEN, "-")) for piece in pieces):
        return Words()
    whole: set[str] = set()
    hyphenated: set[str] = set()
    broken = False
    for piece in pieces:
        found = _WORD.findall(piece.text.lower())
        found = found[broken:]
        broken = piece.text.endswith((SOFT_HYPHEN, "-"))
        if broken:
            found = found[:-1]
        whole.update(found)
    hyphenated.update(word for word in whole if "-" in word)
    return Words(frozenset(whole), frozenset(hyphenated))


def _items(pages: Sequence[PageText], body_size: float, body_is_mono: bool, words: Words) -> Iterator[_Item]:
    region_number = 0
    for number, page in enumerate(pages, start=1):
        for group in page.groups:
            for region in regions(group.pieces):
                region_number += 1
                for block in blocks(rows(region), body_size, body_is_mono):
                    separate = block.kind == "code"
                    text = "\n".join(line.text for line in block.lines) if separate else text_of(block.lines, words)
                    yield _Item(block, text, number, page.shown(block.box, group.angle), region_number)


def _check_captions(items: Sequence[_Item]) -> None:
    """A paragraph that goes on with ``Table 4. On average`` is no caption where the captions have colons."""
    marks = Counter(caption_mark(item.text) for item in items if item.kind == "caption")
    for item in items:
        if item.kind == "caption" and marks[":"] > marks[caption_mark(item.text)] and caption_mark(item.text) in (".", ""):
            item.block.kind = "paragraph"


def _set_levels(items: Sequence[_Item], body_size: float) -> None:
    headings = [item for item in items if item.kind == "heading"]
    large = Counter(round(item.block.size * 2) / 2 for item in headings if item.block.size > body_size)
    bold = Counter(round(item.block.size * 2) / 2 for item in headings if item.block.bold)
    for item in headings:  # names and addresses under a title are large, but only the bold ones head something
        size = round(item.block.size * 2) / 2
        if not item.block.bold and large[size] < 2.5 * bold[size] and bold[size]:
            item.block.kind = "paragraph"
    headings = [item for item in headings if item.kind == "heading"]
    ranks: dict[float, int] = {}
    previous = 0.0
    for size in sorted({item.block.size for item in headings if item.block.size > 1.05 * body_size}, reverse=True):
        ranks[size] = ranks[previous] if previous and previous < 1.05 * size else len(set(ranks.values())) + 1
        previous = size
    lowest = len(set(ranks.values())) + 1
    depths = {id(item): depth_of_number(item.text) for item in headings if item.block.size not in ranks}
    shallowest = min((depth for depth in depths.values() if depth), default=1)
    for item in headings:
        level = ranks.get(item.block.size) or lowest + max(depths[id(item)] - shallowest, 0)
        item.level = min(level, MAX_LEVEL)
    if items and items[0].kind == "heading":  # the title, however small
        items[0].level = 1


def _join_across_columns(items: list[_Item], words: Words) -> None:
    """Puts the rest of a paragraph that goes on in the next column, below a float or on the next page behind its beginning.

    A paragraph that goes on overleaf takes only the rest of its sentence along, so that pages stay true.
    """
    for at, item in enumerate(items):
        if item.kind != "paragraph" or not item.text:
            continue
        before, skipped = _beginning(items, at)
        if before is None or before.region == item.region and not skipped:
            continue
        if not is_open(before.text) or not (
            item.text[0].islower() or before.text.endswith(SOFT_HYPHEN) or _is_cut(before.block, item.block)
        ):
            continue
        cut = len(item.text)
        if before.page != item.page and (end := _SENTENCE_END.search(item.text)):
            cut = end.end() if end.end() <= MAX_SENTENCE_CHARS else cut
        before.text = continued(before.text, item.text[:cut].rstrip(), words)
        item.text = item.text[cut:]
        if not item.text and before.page == item.page and before.region == item.region:
            a, b = before.box, item.box
            before.box = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    items[:] = [item for item in items if item.text or item.block.table is not None]


def _is_cut(block: Block, following: Block) -> bool:
    """Whether ``block`` breaks off at the end of a full line and ``following`` does not start with an indent."""
    if len(block.lines) < 2 or len(following.lines) < 2:
        return False
    full = block.lines[-1].right > max(line.right for line in block.lines) - 1.5 * block.size
    return full and following.lines[0].left < following.lines[1].left + 0.6 * following.size


def _beginning(items: Sequence[_Item], at: int) -> tuple[_Item | None, bool]:
    """The paragraph that the one at ``at`` may continue, and whether something stands between."""
    size = items[at].block.size
    for number in range(at - 1, max(at - 2 - MAX_FLOATS, -1), -1):
        other = items[number]
        if not other.text and other.block.table is None:
            continue
        if other.kind in ("paragraph", "list") and abs(other.block.size - size) < 0.04 * size:
            return other, number < at - 1
        if other.kind not in ("caption", "table") and not (other.kind == "paragraph" and other.block.size < 0.94 * size):
            break
    return None, False


def _add_list(builder: TextBuilder, items: Sequence[_Item]) -> None:
    lefts, tops, rights, bottoms = zip(*(item.box for item in items), strict=True)
    text = "\n".join(item.text.replace(SOFT_HYPHEN, "-") for item in items)
    builder.add(text, "list", page=items[0].page, bbox=(min(lefts), min(tops), max(rights), max(bottoms)))


def _title(items: Sequence[_Item]) -> str:
    if items and items[0].kind == "heading":
        return items[0].text
    early = [item for item in items if item.kind == "heading" and item.page <= 2]
    return min(early, key=lambda item: item.level or MAX_LEVEL).text if early else ""
