"""Merged cells to plain rows of text. Knows no file format.

A short label that spans rows is repeated in each of them, because a row is what gets retrieved and quoted, and
``2025 | Q1 | January | 134`` can be understood alone. A label that spans columns is repeated in the head, where each column
needs its name; below the head it is written once, at its first column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rag.errors import FileTooLarge
from rag.read.draft import CELL_SEPARATOR, Limits

MAX_LABEL_CHARS = 80  # longer cells are prose, which would drown the rows if it were repeated
MAX_COLUMNS = 16_384  # what a spreadsheet may have


class Cell(NamedTuple):
    """Text of a table cell and how many rows and columns it covers."""

    text: str
    num_rows: int = 1
    num_columns: int = 1


def place(rows: Sequence[Sequence[Cell]]) -> list[dict[int, Cell]]:
    """Column number -> cell, for each row, by the HTML rule: a cell goes into the first column that no cell from above covers.

    Raises ``rag.errors.FileTooLarge`` past ``MAX_COLUMNS``.
    """
    placed: list[dict[int, Cell]] = []
    covered: dict[int, int] = {}  # column -> rows still covered below
    for row in rows:
        here: dict[int, Cell] = {}
        below = {column: left - 1 for column, left in covered.items() if left > 1}
        column = 0
        for cell in row:
            while column in covered:
                column += 1
            here[column] = cell
            if cell.num_rows > 1:
                below |= dict.fromkeys(range(column, column + max(1, cell.num_columns)), cell.num_rows - 1)
            column += max(1, cell.num_columns)
            if column > MAX_COLUMNS:
                raise FileTooLarge("", f"a table has more than {MAX_COLUMNS:,} columns")
        placed.append(here)
        covered = below
    return placed


def plain_rows(placed: Sequence[dict[int, Cell]], num_header_rows: int, limits: Limits) -> list[list[str]]:
    """Rows of text out of placed cells, of which the first ``num_header_rows`` are the head; columns in which no cell begins vanish.

    A row that holds nothing but labels repeated below is left out as ``[]``, so row numbers stay what they were.
    Raises ``rag.errors.FileTooLarge`` if the table unfolds to more cells than the text may have separators.
    """
    columns = {column: number for number, column in enumerate(sorted({column for row in placed for column in row}))}
    if len(columns) * len(placed) * len(CELL_SEPARATOR) > limits.max_text_chars:
        raise FileTooLarge("", f"a table of {len(placed):,} rows and {len(columns):,} columns passes the limit")
    rows: list[list[str]] = []
    labels: dict[int, tuple[str, int]] = {}  # column -> text and last row it covers
    for number, row in enumerate(placed):
        texts = [""] * len(columns)
        labels = {column: label for column, label in labels.items() if label[1] >= number}
        for column, (text, _) in labels.items():
            texts[columns[column]] = text
        for column, cell in row.items():
            texts[columns[column]] = cell.text
            if number < num_header_rows and cell.num_columns < len(columns) and len(cell.text) <= MAX_LABEL_CHARS:
                for covered in range(column + 1, min(column + cell.num_columns, MAX_COLUMNS)):
                    if covered in columns and covered not in row:
                        texts[columns[covered]] = cell.text
            if cell.num_rows > 1 and len(cell.text) <= MAX_LABEL_CHARS:
                labels[column] = (cell.text, number + cell.num_rows - 1)
        while texts and not texts[-1].strip():
            texts.pop()
        # a row of nothing but labels that go on says nothing that the next row does not say again
        only_labels = all(column in labels for column in row) and all(last_row > number for _, last_row in labels.values())
        goes_on = number + 1 < len(placed) and len(placed[number + 1]) > 0
        rows.append([] if not row or (only_labels and goes_on) else texts)
    return rows
