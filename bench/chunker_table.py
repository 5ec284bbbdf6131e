"""Chunkers by what the default pipeline finds with them: 472 questions about five corpora (Chroma's
chunking_evaluation) and 244 questions about 35 meetings (QMSum's test set), at five chunks and at equal numbers of returned tokens.

    python bench/chunker_table.py --rows structure recursive sentence fixed
    python bench/chunker_table.py --add --sets chunking_evaluation --rows semantic

The corpora are searched all together. A meeting is searched alone, since its questions do not say which meeting they are about.
Both are plain text: the structure chunker has no headings to go by.

``perplexity`` and ``margin`` ask the small reader that the project trains, which knows only its own tasks: to it this text is noise (8.8
nats a token on the State of the Union address, where guessing evenly among its 1,221 tokens has 7.1). Their rows show what such a model costs and what is left of
the methods without a useful one; they say nothing about Meta-Chunking with a real language model.

Nearly all the time goes into encoding: 318,000 tokens of corpora and 495,000 of meetings for every row, several times that where the
chunker itself needs vectors. A text that an earlier row of the same run had is not encoded again, so ``ingest_seconds`` of later rows
are too low. Whoever cannot wait measures a few rows at a time: with ``--add``, rows that were recorded before stay, provided the
baseline, which every run measures anew, came out as it was recorded. Writes bench/results/chunker_table.json and
docs/recall_budget.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import record
from rag.core import TokenBlock, TokenEncoder
from rag.eval.bootstrap import Difference, Interval
from rag.eval.chunking import Within, evaluate_chunking
from rag.eval.chunking_report import ChunkingReport, Row, Segmented
from rag.eval.contenders import Contender
from rag.eval.reader.weights import READER
from rag.eval.report import Comparison
from rag.eval.spans import read_spans
from rag.lm import TransformersLM
from rag.registry import TABLE
from rag.retrievers.encoder import SentenceTransformersEncoder

DATA = ROOT.parent / "shared" / "data"
PLOT = ROOT / "docs" / "recall_budget.png"
NAME = "chunker_table"
SETS: dict[str, Within] = {"chunking_evaluation": "all", "qmsum_test": "document"}
LATE = {"dense": {"use": "faiss", "pooling": "late"}}
ROWS = (
    Contender("structure", {"use": "structure"}),
    Contender("recursive", {"use": "recursive"}),
    Contender("sentence", {"use": "sentence"}),
    Contender("fixed", {"use": "fixed"}),
    Contender("recursive, 100 tokens", {"use": "recursive", "max_tokens": 100}),
    Contender("recursive, late pooling", {"use": "recursive"}, LATE),
    Contender("semantic", {"use": "semantic"}),
    Contender("hyperseg", {"use": "hyperseg"}),
    Contender("spatial", {"use": "spatial"}),
    Contender("perplexity", {"use": "perplexity"}),
    Contender("margin", {"use": "margin"}),
)
MAX_DRIFT = 0.002
"""Means of the baseline that differ by more than this (one question in 500) were not measured in the same way."""


class Remembering:
    """An encoder that keeps the vectors of all texts of this run."""

    def __init__(self, inner: TokenEncoder) -> None:
        self._inner = inner
        self._known: dict[str, NDArray[np.float32]] = {}
        self.dim, self.fingerprint, self.pooling = inner.dim, inner.fingerprint, inner.pooling

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        if fresh:
            self._known.update(zip(fresh, self._inner.encode_documents(fresh), strict=True))
        return np.stack([self._known[text] for text in texts]) if texts else np.empty((0, self.dim), dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._inner.encode_queries(texts)

    def token_vectors(
        self, texts: Sequence[str], overlap_tokens: int, task: Literal["query", "document"] = "document"
    ) -> Iterator[TokenBlock]:
        return self._inner.token_vectors(texts, overlap_tokens, task)


def main() -> None:
    """Prints the tables; records every mean, interval and difference, not the values of single questions."""
    from rich.console import Console

    from rag.eval.chunking_plot import check_plot, draw_all

    available = [row for row in ROWS if row.chunker["use"] in TABLE["chunker"]]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that holds the sets")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in available], default=[row.name for row in available])
    parser.add_argument("--plot", type=Path, default=PLOT)
    parser.add_argument("--add", action="store_true", help="keep what was recorded of other rows and sets")
    parser.add_argument("--no-record", action="store_true", help="write no result file")
    options = parser.parse_args()
    check_plot(options.plot)
    rows = [row for row in available if row.name in options.rows]
    reports = recorded() if options.add else {}
    console = Console(width=240, highlight=False)
    models = {"encoder": Remembering(SentenceTransformersEncoder()), "lm": TransformersLM(str(READER), dtype="float32")}

    def said(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    for name in options.sets:
        measured = evaluate_chunking(read_spans(options.data / name), rows, within=SETS[name], components=models, on_progress=said)
        report = reports[name] = joined(measured, reports.get(name))
        console.print(report.heading(), soft_wrap=True)
        for table in report.tables():
            console.print(table, soft_wrap=True)
        console.print("\n".join(f"- {remark}" for remark in report.remarks()), markup=False, soft_wrap=True)
    draw_all([reports[name] for name in SETS if name in reports], options.plot)
    if not options.no_record:
        sets = {name: reports[name].as_dict() for name in SETS if name in reports}
        record.write_result(NAME, {"sets": sets}, packages=("matplotlib",))


def recorded() -> dict[str, ChunkingReport]:
    """The reports in bench/results/chunker_table.json by the name of the set; none if there is no such file."""
    path = record.RESULTS / f"{NAME}.json"
    sets = json.loads(path.read_text(encoding="utf-8"))["sets"] if path.is_file() else {}
    return {name: _report(dict(found)) for name, found in sets.items()}


def joined(measured: ChunkingReport, before: ChunkingReport | None) -> ChunkingReport:
    """``measured`` with the rows of ``before`` that it lacks. Raises ``ValueError`` if the two were not measured alike."""
    if before is None:
        return measured
    one, other = measured.as_dict(), before.as_dict()
    settings = [name for name in one if name not in ("rows", "comparisons", "ceilings")]
    if differing := [name for name in settings if one[name] != other[name]]:
        raise ValueError(f"{measured.name}: {differing[0]} is {one[differing[0]]!r}, recorded is {other[differing[0]]!r}")
    for measure, score in measured.rows[measured.baseline].scores["tokens"].items():
        recorded_mean = before.rows[measured.baseline].scores["tokens"][measure].mean
        if abs(score.mean - recorded_mean) > MAX_DRIFT:
            raise ValueError(f"{measured.name}: {measure} of the baseline is {score.mean:.5f}, recorded is {recorded_mean:.5f}")
    rows = {**before.rows, **measured.rows}
    kept = [each for each in before.comparisons if each.name not in measured.rows]
    names = [row.name for row in ROWS if row.name in rows]
    settings_of = {name: getattr(measured, name) for name in ChunkingReport.__slots__ if name not in ("rows", "comparisons")}
    return ChunkingReport(**settings_of, rows={name: rows[name] for name in names}, comparisons=[*kept, *measured.comparisons])


def _report(found: dict[str, Any]) -> ChunkingReport:
    """A report from its JSON values, without the values of single questions."""
    rows = {name: _row(dict(row)) for name, row in found.pop("rows").items()}
    comparisons = []
    for each in found.pop("comparisons"):
        drawn = Difference(*(each[name] for name in Difference.__slots__))
        comparisons.append(Comparison(each["measure"], each["name"], each["baseline"], drawn))
    ceilings = {int(budget): value for budget, value in found.pop("ceilings").items()}
    return ChunkingReport(**found, rows=rows, comparisons=comparisons, ceilings=ceilings)


def _row(found: dict[str, Any]) -> Row:
    scores = {unit: {name: Interval(**each) for name, each in measures.items()} for unit, measures in found.pop("scores").items()}
    num_short = {int(budget): number for budget, number in found.pop("num_short").items()}
    topics = found.pop("segmented")
    return Row(**found, scores=scores, num_short=num_short, per_question={}, segmented=Segmented(**topics) if topics else None)


if __name__ == "__main__":
    main()
