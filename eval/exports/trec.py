"""Runs and judgements as TREC files, as trec_eval, pytrec_eval, ir-measures and ranx read them. Knows names and numbers only.

A run line is ``query Q0 document rank score tag``, a line of judgements ``query 0 document grade``, between blanks. Names may not
hold blanks there, so a blank or a percent sign in one is written as a URL would write it, and read back; other files' names are
plain.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from rag.errors import ReadError
from rag.eval.chain_report import QuestionOutcome
from rag.eval.question import Question

Run = Mapping[str, Mapping[str, float]]
"""Query id -> document -> score, higher is better."""

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document -> grade; above 0 is relevant."""

_UNSAFE = re.compile(r"[%\s]")


def strict(ranking: Sequence[str]) -> dict[str, float]:
    """Scores that keep the order of a ranking whatever breaks ties: the number of places from the end. Raises ``ValueError`` for
    repeats."""
    scores = {name: float(len(ranking) - place) for place, name in enumerate(ranking)}
    if len(scores) != len(ranking):
        raise ValueError(
            f"{next(name for place, name in enumerate(ranking) if name in ranking[:place])!r} stands twice in the ranking"
        )
    return scores


def run_of(outcomes: Iterable[QuestionOutcome], stage: str) -> dict[str, dict[str, float]]:
    """The documents that ``stage`` of a full-chain run had, per question, by their best passage. Questions without the stage are
    left out."""
    run = {}
    for outcome in outcomes:
        for each in outcome.stages:
            if each.stage == stage:
                ordered = sorted(each.passages, key=lambda passage: passage.rank if passage.rank is not None else math.inf)
                run[outcome.id] = strict(list(dict.fromkeys(passage.source for passage in ordered)))
    return run


def qrels_of(questions: Iterable[Question]) -> dict[str, dict[str, int]]:
    """The judged documents per question; questions without any are left out."""
    return {question.id: dict(question.relevant) for question in questions if question.relevant}


def write_run(path: Path, run: Run, tag: str = "ragstone") -> None:
    """Writes a run, best document first, ties by name. Raises ``ValueError`` for a score that is not finite, a blank name or
    tag."""
    lines = []
    for query, scores in run.items():
        if bad := next((name for name, score in scores.items() if not math.isfinite(score)), None):
            raise ValueError(f"query {query!r}, document {bad!r}: the score {scores[bad]} is not a finite number")
        ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
        lines += [
            f"{_written(query)} Q0 {_written(document)} {rank} {score!r} {_written(tag)}\n"
            for rank, (document, score) in enumerate(ordered, start=1)
        ]
    path.write_text("".join(lines), encoding="utf-8")


def read_run(path: Path) -> dict[str, dict[str, float]]:
    """The run in a file, best document first; ranks are ignored, as trec_eval does. Raises ``ReadError`` with the line that is
    none."""
    run: dict[str, dict[str, float]] = {}
    for number, (query, _, document, _, score, _) in _columns(path, 6):
        try:
            value = float(score)
        except ValueError:
            raise _bad(path, number, f"the score {score!r} is no number") from None
        if not math.isfinite(value):
            raise _bad(path, number, f"the score {score!r} is not finite")
        if run.setdefault(query, {}).setdefault(document, value) != value:
            raise _bad(path, number, f"document {document!r} of query {query!r} has another score on an earlier line")
    return {query: dict(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))) for query, scores in run.items()}


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Writes judgements. Raises ``ValueError`` for a blank name."""
    lines = (
        f"{_written(query)} 0 {_written(document)} {int(grade)}\n"
        for query, grades in qrels.items()
        for document, grade in grades.items()
    )
    path.write_text("".join(lines), encoding="utf-8")


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """The judgements in a file. Raises ``ReadError`` with the line that is none."""
    qrels: dict[str, dict[str, int]] = {}
    for number, (query, _, document, grade) in _columns(path, 4):
        if not re.fullmatch(r"[+-]?\d{1,9}", grade):
            raise _bad(path, number, f"the judgement {grade!r} is not a whole number")
        if qrels.setdefault(query, {}).setdefault(document, int(grade)) != int(grade):
            raise _bad(path, number, f"document {document!r} of query {query!r} is judged otherwise on an earlier line")
    return qrels


def _written(name: str) -> str:
    if not name.strip():
        raise ValueError(f"{name!r} is no name for a TREC file")
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8")), name)


def _columns(path: Path, number: int) -> Iterator[tuple[int, list[str]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ReadError(path, f"not UTF-8 ({error.reason} at byte {error.start})") from None
    for place, line in enumerate(lines, start=1):
        columns = line.split()
        if columns and len(columns) != number:
            raise _bad(path, place, f"expected {number} columns between blanks, found {len(columns)}")
        if columns:
            yield place, [unquote(column) for column in columns]


def _bad(path: Path, number: int, reason: str) -> ReadError:
    return ReadError(path, f"line {number}: {reason}")
