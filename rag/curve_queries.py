"""What to ask when an index is measured: the questions of a file, or sentences of its own chunks. Knows no index and no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rag.sentences import sentence_spans

if TYPE_CHECKING:
    from rag.catalog import Catalog


def read_queries(path: Path) -> list[str]:
    """A query per line; of a ``.jsonl`` file the ``text`` of each line, as in the BEIR layout. Blank lines are none.

    Raises ``ValueError`` that names the file, and the line where there is one.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"cannot read the queries {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read the queries {path}: byte {error.start} is not UTF-8") from None
    if path.suffix.lower() == ".jsonl":
        lines = [_text(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    queries = [line.strip() for line in lines if line.strip()]
    if not queries:
        raise ValueError(f'{path} holds no query: it needs one per line, or JSON lines with a "text" in a .jsonl file')
    return queries


def _text(path: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        text = None
    if isinstance(text, str):
        return text
    raise ValueError(f'{path}, line {number}: must be a JSON object with a "text", not {line[:60]!r}')


def draw_queries(catalog: Catalog, num_queries: int, seed: int) -> list[str]:
    """The first sentences of up to ``num_queries`` chunks drawn at random. They are easier than questions: their words are there.

    Raises ``ValueError`` for a number below 1, or if the index holds no chunks.
    """
    if num_queries < 1:
        raise ValueError(f"the number of queries must be at least 1, not {num_queries}")
    with catalog.reading() as read:
        keys = np.flatnonzero(read.live())
        if not len(keys):
            raise ValueError(f"the index in {catalog.path.parent} holds no chunks to draw queries from")
        drawn = np.random.default_rng(seed).permutation(keys)[:num_queries].tolist()
        chunks = read.chunks(drawn)
    return [_first_sentence(chunks[key].text) for key in drawn]


def _first_sentence(text: str) -> str:
    spans = sentence_spans(text)
    return " ".join((spans[0].of(text) if spans else text).split())
