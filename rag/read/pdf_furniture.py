"""Running heads, running feet and page numbers: what stands at the same place on several pages. Knows one page as rows, nothing inside it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from rag.read.pdf_order import Row, rows
from rag.read.pdf_words import PageText, Piece, Turned

MIN_PAGES = 3
ZONE = 0.1  # of the page height, from the first and from the last text on the page
MAX_ROWS = 4
SAME_PLACE_PT = 3.0
GAP = 0.7  # font sizes between a running head and the text: the head of a table that goes on stands nearer

_ROMAN = re.compile(r"[ivxlc]{1,7}", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_BARE_NUMBER = re.compile(r"\W*(\d{1,6})\W*")

Place = tuple[str, int]


def without_furniture(pages: Sequence[PageText]) -> list[PageText]:
    """The pages without what repeats on at least three of them at the same place."""
    if len(pages) < MIN_PAGES:
        return list(pages)
    edges = [_edges(page) for page in pages]
    repeated: dict[Place, set[int]] = defaultdict(set)
    counted: dict[tuple[int, int], set[int]] = defaultdict(set)  # (place, printed number - number of the page) -> pages
    for number, (page, stacks) in enumerate(zip(pages, edges, strict=True)):
        for stack in stacks:
            for row in stack:
                for piece in row.pieces:
                    repeated[_folded(piece.text), _place(piece)].add(number)
                    if bare := _BARE_NUMBER.fullmatch(piece.text):
                        counted[_place(piece), int(bare.group(1)) - number].add(number)
        for group in page.groups[1:]:
            for piece in group.pieces:
                repeated[_folded(piece.text), _place(piece)].add(number)
    return [
        _cleaned(number, page, stacks, repeated, counted) for number, (page, stacks) in enumerate(zip(pages, edges, strict=True))
    ]


def _cleaned(
    number: int,
    page: PageText,
    stacks: tuple[list[Row], list[Row]],
    repeated: dict[Place, set[int]],
    counted: dict[tuple[int, int], set[int]],
) -> PageText:
    if not page.groups:
        return page
    gone: set[int] = set()
    upright = page.groups[0].pieces
    for stack in stacks:
        run: list[Row] = []
        for row in stack:
            if not _is_furniture(number, row, repeated, counted):
                break
            run.append(row)
        while run and _distance_to_text(run, upright) < GAP * run[-1].main.size:
            run.pop()
        run += [row for row in stack if len(row.pieces) == 1 and _counts_pages(number, row.pieces[0], counted)]
        gone.update(id(piece) for row in run for piece in row.pieces)
    groups = [Turned(page.groups[0].angle, [piece for piece in upright if id(piece) not in gone])]
    for group in page.groups[1:]:
        kept = [piece for piece in group.pieces if _num_pages(repeated, _folded(piece.text), _place(piece)) < MIN_PAGES]
        groups.append(Turned(group.angle, kept))
    return page._replace(groups=[group for group in groups if group.pieces])


def _edges(page: PageText) -> tuple[list[Row], list[Row]]:
    """The rows at the top (from above) and at the bottom (from below) of a page."""
    if not page.groups or page.groups[0].angle != page.rotation:
        return [], []
    pieces = page.groups[0].pieces
    first, last = min(piece.top for piece in pieces), max(piece.bottom for piece in pieces)
    top = rows([piece for piece in pieces if piece.bottom < first + ZONE * page.height])
    bottom = rows([piece for piece in pieces if piece.top > last - ZONE * page.height])
    return top[:MAX_ROWS], bottom[::-1][:MAX_ROWS]


def _is_furniture(number: int, row: Row, repeated: dict[Place, set[int]], counted: dict[tuple[int, int], set[int]]) -> bool:
    if all(_num_pages(repeated, _folded(piece.text), _place(piece)) >= MIN_PAGES for piece in row.pieces):
        return True
    # a head that names the chapter changes, but it stands beside a number that counts the pages
    return any(_counts_pages(number, piece, counted) for piece in row.pieces)


def _counts_pages(number: int, piece: Piece, counted: dict[tuple[int, int], set[int]]) -> bool:
    bare = _BARE_NUMBER.fullmatch(piece.text)
    if not bare:
        return False
    offset, place = int(bare.group(1)) - number, _place(piece)
    return len(set().union(*(counted.get((near, offset), ()) for near in (place - 1, place, place + 1)))) >= MIN_PAGES


def _num_pages(repeated: dict[Place, set[int]], text: str, place: int) -> int:
    return len(set().union(*(repeated.get((text, near), ()) for near in (place - 1, place, place + 1))))


def _place(piece: Piece) -> int:
    return round(piece.middle / SAME_PLACE_PT)


def _folded(text: str) -> str:
    text = text.strip()
    return "#" if _ROMAN.fullmatch(text) else _DIGITS.sub("#", text)


def _distance_to_text(run: Sequence[Row], pieces: Sequence[Piece]) -> float:
    own = {id(piece) for row in run for piece in row.pieces}
    top, bottom = min(row.top for row in run), max(row.bottom for row in run)
    others = [piece for piece in pieces if id(piece) not in own]
    return min((max(piece.top - bottom, top - piece.bottom) for piece in others), default=float("inf"))
