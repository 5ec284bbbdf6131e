"""Test collections in the BEIR layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``. Knows no pipeline.

Reads a folder and fetches nothing. Layout: Thakur et al., BEIR, NeurIPS 2021 Datasets and Benchmarks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rag.core import Document, Element, Span
from rag.errors import ReadError

_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell half a character; UTF-8, and so the index, cannot hold it
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


class Record(NamedTuple):
    """A line of ``corpus.jsonl``."""

    id: str
    title: str
    text: str


class Corpus:
    """The records of one ``corpus.jsonl``, read anew each time they are walked through; only their ids are held.

    Walking raises ``rag.errors.ReadError`` with the number of the line that is not a record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Record]:
        first_line: dict[str, int] = {}
        for number, record in _records(self.path):
            identity = _identity(self.path, number, record)
            if identity in first_line:
                raise _bad_line(self.path, number, f"_id {identity!r} stands on line {first_line[identity]} already")
            first_line[identity] = number
            yield Record(identity, _string(self.path, number, record, "title", ""), _string(self.path, number, record, "text"))


@dataclass(frozen=True, slots=True)
class BeirSet:
    """A test collection. ``qrels``: query id -> document id -> judgement (above 0: relevant)."""

    name: str
    split: str
    corpus: Iterable[Record]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    @property
    def unjudged_queries(self) -> list[str]:
        """The queries that this split has no judgement for."""
        return [query for query in self.queries if query not in self.qrels]


def read_beir(folder: Path | str, split: str = "test") -> BeirSet:
    """The collection in ``folder``, judged by ``qrels/<split>.tsv``; the corpus is read only when it is walked through.

    Raises ``ValueError`` for a folder that is none or a split that is not there, and ``rag.errors.ReadError`` with the
    file and the line for anything that is not in the layout.
    """
    folder = Path(folder)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels"):
        if not (folder / name).exists():
            raise ValueError(
                f"{str(folder)!r} has no {name}; a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/<split>.tsv"
            )
    judgements = folder / "qrels" / f"{split}.tsv"
    splits = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if split not in splits:
        raise ValueError(
            f"split {split!r} is not in {str(folder / 'qrels')!r}; allowed: {', '.join(splits) or 'none (no .tsv file)'}"
        )
    queries = _queries(folder / "queries.jsonl")
    return BeirSet(folder.resolve().name, split, Corpus(folder / "corpus.jsonl"), queries, _qrels(judgements, queries))


def document_of(record: Record) -> Document | None:
    """The record as a document: title as heading, paragraphs at blank lines. ``None`` if it has neither title nor text."""
    title, text = (_clean(field) for field in (" ".join(record.title.split()), record.text))
    if not title and not text:
        return None
    whole = f"{title}\n\n{text}" if title and text else title or text
    elements = [Element(Span(0, len(title)), "heading", level=1)] if title else []
    start = len(whole) - len(text)
    for gap in [*_BLANK_LINES.finditer(whole, start), None]:
        end = gap.start() if gap else len(whole)
        if whole[start:end].strip():
            elements.append(Element(Span(start, end), "paragraph"))
        start = gap.end() if gap else end
    source = f"beir:{record.id}"
    return Document(Document.id_of(source), source, whole, tuple(elements), {"beir_id": record.id, "title": title})


def _queries(path: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for number, record in _records(path):
        identity = _identity(path, number, record)
        text = _clean(_string(path, number, record, "text"))
        if identity in queries:
            raise _bad_line(path, number, f"_id {identity!r} stands on an earlier line already")
        if not text:
            raise _bad_line(path, number, f"the text of query {identity!r} is blank")
        queries[identity] = text
    if not queries:
        raise ReadError(path, "holds no query")
    return queries


def _qrels(path: Path, queries: Mapping[str, str]) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        columns = line.split("\t")
        if len(columns) != 3:
            raise _bad_line(path, number, f"expected 3 columns (query-id, corpus-id, score) between tabs, found {len(columns)}")
        query, document, score = (column.strip() for column in columns)
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", score):
            if number == 1:
                continue  # the head of the table
            raise _bad_line(path, number, f"the judgement {score!r} is not a whole number")
        if query not in queries:
            raise _bad_line(path, number, f"query {query!r} is not in queries.jsonl")
        judgement = int(score)
        earlier = qrels.setdefault(query, {}).setdefault(document, judgement)
        if earlier != judgement:
            raise _bad_line(path, number, f"query {query!r}, document {document!r}: judged {judgement} here and {earlier} before")
    if not qrels:
        raise ReadError(path, "holds no judgement")
    return qrels


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1. Only ``\\n`` ends a line: JSON strings may hold the others."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise _bad_line(path, number, f"not UTF-8 ({error.reason} at byte {error.start})") from None
                if line.strip():
                    yield number, line
    except OSError as error:
        raise ReadError(path, error.strerror or type(error).__name__) from error


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad_line(path, number, f"not JSON ({error})") from None
        if not isinstance(record, dict):
            raise _bad_line(path, number, f"expected a JSON object, found {type(record).__name__}")
        yield number, record


def _identity(path: Path, number: int, record: Mapping[str, Any]) -> str:
    identity = record.get("_id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        return str(identity)
    if "_id" not in record:
        raise _bad_line(path, number, "has no _id")
    if not isinstance(identity, str) or not identity.strip():
        raise _bad_line(path, number, f"_id is {identity!r}; expected a string that is not blank")
    return _SURROGATE.sub("\ufffd", identity.strip())


def _string(path: Path, number: int, record: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise _bad_line(path, number, f"{key} is {value!r}; expected a string" if key in record else f"has no {key}")
    return value


def _clean(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text).strip()


def _bad_line(path: Path, number: int, reason: str) -> ReadError:
    return ReadError(path, f"line {number}: {reason}")
