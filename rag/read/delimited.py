"""CSV and TSV as one table. Knows quoting and delimiters (RFC 4180 and what people make of it), no column types."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator

from rag.errors import FileTooLarge, ReadError
from rag.read.bounded import BoundedBuilder
from rag.read.draft import CELL_SEPARATOR, Draft, Limits
from rag.read.plain import decode_text, encoding_meta

DELIMITERS = ",;\t|"
_SAMPLE_CHARS = 65_536
_SAMPLE_ROWS = 100
_NUMBER_OR_DATE = re.compile(r"[-+]?[\d.,]*\d[%€$£]?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[T ][\d:.Z+-]*)?")


def read_csv(data: bytes, limits: Limits) -> Draft:
    """The rows as one table; the first is its head unless it holds numbers, blanks or repeated names.

    ``meta``: ``num_rows``, ``delimiter`` when it is not a comma, ``encoding`` when it is not UTF-8.
    """
    text, encoding = decode_text(data, limits)
    delimiter = guess_delimiter(text)
    rows = [row for row in _rows(text, delimiter, limits) if any(cell.strip() for cell in row)]
    builder = BoundedBuilder(limits)
    num_header_rows = int(looks_like_head(rows))
    num_lines = text.count("\n") + (not text.endswith("\n"))
    builder.add_table(rows, num_header_rows=num_header_rows, source=f"lines 1-{num_lines}" if num_lines > 1 else "line 1")
    meta = {"num_rows": len(rows) - num_header_rows, "delimiter": delimiter if delimiter != "," else None}
    return builder.finish({**meta, **encoding_meta(encoding)})


def guess_delimiter(text: str) -> str:
    """The delimiter that cuts the most of the first rows into the same number of cells, more than one; a comma if none does.

    >>> guess_delimiter("name;kg\\nmallard;1,1\\neider;2,2\\n")
    ';'
    """
    sample = text[:_SAMPLE_CHARS]
    if len(sample) < len(text) and "\n" in sample:
        sample = sample[: sample.rindex("\n")]
    best, best_score = ",", 0.0
    for delimiter in DELIMITERS:
        widths: Counter[int] = Counter()
        for row in csv.reader(io.StringIO(sample), delimiter=delimiter, skipinitialspace=True):
            if row and len(widths) < _SAMPLE_ROWS:
                widths[len(row)] += 1
        num_columns, num_rows = max(widths.items(), key=lambda item: (item[1] if item[0] > 1 else 0, item[0]), default=(1, 0))
        score = num_rows / max(1, widths.total()) + min(num_columns, 100) / 1000
        if num_columns > 1 and score > best_score:
            best, best_score = delimiter, score
    return best


def looks_like_head(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: more rows follow, and its cells are filled, all different, and no numbers."""
    if len(rows) < 2:
        return False
    names = [cell.strip() for cell in rows[0]]
    named = [name for name in names if name]
    return (
        len(names) - len(named) <= 1
        and len(set(named)) == len(named) > 0
        and not any(_NUMBER_OR_DATE.fullmatch(name) for name in named)
    )


def _rows(text: str, delimiter: str, limits: Limits) -> list[list[str]]:
    """A quote that is never closed would swallow the rest of the file, so such a file is read without quotes."""
    before = csv.field_size_limit(min(limits.max_text_chars, 2**31 - 1))
    lines = io.StringIO(text, newline="")
    try:
        try:
            return list(_bounded(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True), limits))
        except csv.Error as error:
            is_unclosed = "end of data" in str(error)
        lines.seek(0)
        if is_unclosed:
            return list(_bounded(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, quoting=csv.QUOTE_NONE), limits))
        return list(_bounded(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), limits))
    except csv.Error as error:
        raise ReadError("", f"not readable as delimited text: {error}") from error
    finally:
        csv.field_size_limit(before)


def _bounded(rows: Iterator[list[str]], limits: Limits) -> Iterator[list[str]]:
    """Cells cost memory even when they are empty: ``,,,,`` unfolds to separators."""
    num_chars = 0
    for row in rows:
        num_chars += len(row) * len(CELL_SEPARATOR)
        if num_chars > limits.max_text_chars:
            raise FileTooLarge("", f"the table passes {limits.max_text_chars:,} characters")
        yield row
