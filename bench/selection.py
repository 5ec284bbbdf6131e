"""Selectors at equal budgets of returned tokens: the 472 questions of chunking_evaluation, whose answers are marked spans.

    python bench/selection.py --data DATA/chunking_evaluation
    python bench/selection.py --data DATA/chunking_evaluation --index FOLDER --rows top compress

The default pipeline finds 40 candidates for each question; each selector makes what it can of them within 200, 400, 800 and 1,600
tokens. A list that is longer is cut at the budget, as a prompt would be; ``top`` is the ranking itself, cut so. Recall is the share
of the answers' tokens that were returned; ``recall_per_1000`` divides the mean recall by the mean number of returned tokens.

Options were chosen on every second question (``chosen_on``: 0, 2, 4, ...), the others (``held_out``) decide. Differences to ``top``
are paired, with bootstrap intervals and a sign-flip test; what they cannot tell apart is said to be inside the noise. Seconds are
printed and not recorded: encoders keep what they have read, so they hang on the order of the rows. Writes bench/results/select.json
(not bench/select.py, which would hide a module of the standard library).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import record
from bench.chunker_table import Remembering
from rag.core import Hit, MultiVectorEncoder, Reranker
from rag.corpus import CatalogCorpus
from rag.eval.axis import Axis
from rag.eval.bootstrap import difference, interval
from rag.eval.overlap import Intervals, overlap, size
from rag.eval.span_measures import placed, wanted_of
from rag.eval.spans import read_spans
from rag.pipeline import Rag
from rag.rerankers.budget import BudgetSelector
from rag.rerankers.compress import CompressSelector
from rag.rerankers.corag import CoragSelector
from rag.rerankers.facility import FacilitySelector
from rag.rerankers.mmr import MMRSelector
from rag.rerankers.neighbours import NeighboursSelector
from rag.rerankers.parents import ParentsSelector
from rag.rerankers.score_drop import ScoreDropSelector
from rag.rerankers.steps import StepsSelector

DATA = ROOT.parent / "shared" / "data" / "chunking_evaluation"
BUDGETS = (200, 400, 800, 1600)
CANDIDATES = 40
BASELINE = "top"
MEASURES = ("recall", "iou", "tokens")


class RememberingTokens:
    """A multi-vector encoder that keeps the vectors of all documents of this run."""

    def __init__(self, inner: MultiVectorEncoder) -> None:
        self._inner = inner
        self._known: dict[str, NDArray[np.float32]] = {}
        self.dim, self.fingerprint = inner.dim, inner.fingerprint

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        if fresh:
            self._known.update(zip(fresh, self._inner.encode_documents(fresh), strict=True))
        return [self._known[text] for text in texts]

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return self._inner.encode_queries(texts)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the tokens that answer it, and the candidates."""

    query: str
    wanted: Intervals
    hits: Sequence[Hit]


def rows_of(rag: Rag) -> dict[str, Callable[[int], Reranker | None]]:
    """Name -> the selector for a budget; ``None`` is the ranking as it is."""
    tokenizer = rag.components.model("tokenizer")
    encoder = Remembering(rag.components.model("encoder"))
    tokens = RememberingTokens(rag.components.model("token_encoder"))
    corpus = CatalogCorpus(lambda: rag.catalog)
    return {
        BASELINE: lambda budget: None,
        "budget": lambda budget: BudgetSelector(tokenizer, budget),
        "score-drop": lambda budget: ScoreDropSelector(),
        "neighbours": lambda budget: NeighboursSelector(corpus, tokenizer, k=max(1, budget // 400), max_tokens=budget),
        "parents": lambda budget: ParentsSelector(tokenizer, corpus, k=20, max_tokens=min(budget, 1000)),
        "compress, words": lambda budget: CompressSelector(tokenizer, max_tokens=budget),
        "mmr, then compress": lambda budget: StepsSelector([MMRSelector(k=20), CompressSelector(tokenizer, max_tokens=budget)]),
        "mmr, words": lambda budget: MMRSelector(tokenizer, k=None, max_tokens=budget),
        "facility, words": lambda budget: FacilitySelector(tokenizer, k=None, max_tokens=budget),
        "mmr, encoder": lambda budget: MMRSelector(tokenizer, encoder, k=None, max_tokens=budget, by="encoder"),
        "facility, encoder": lambda budget: FacilitySelector(tokenizer, encoder, k=None, max_tokens=budget, by="encoder"),
        "compress, encoder": lambda budget: CompressSelector(tokenizer, encoder, by="encoder", max_tokens=budget),
        "corag, greedy maxsim": lambda budget: CoragSelector(tokenizer, tokens, max_tokens=budget),
    }


def main() -> None:
    """Prints a table as it comes; records every mean, interval and difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--index", type=Path, help="a folder for the index, kept for the next run (default: a temporary one)")
    parser.add_argument("--rows", nargs="+", help="only rows that begin with one of these words")
    parser.add_argument("--limit", type=int, help="only the first questions")
    parser.add_argument("--no-record", action="store_true", help="write no result file")
    options = parser.parse_args()
    spans = read_spans(options.data)
    with opened(options.index) as rag:
        rag.ingest_documents(spans.documents)
        axis = Axis(spans.documents, rag.components.model("tokenizer"))
        questions = spans.questions[: options.limit]
        found = candidates(rag, [question.query for question in questions])
        asked = [Asked(q.query, wanted_of(axis, q)["tokens"], hits) for q, hits in zip(questions, found, strict=True)]
        values: dict[str, dict[int, dict[str, list[float]]]] = {}
        for name, make in rows_of(rag).items():
            if options.rows and name != BASELINE and not name.startswith(tuple(options.rows)):
                continue
            values[name], seconds = measured(rag, axis, asked, make)
            result = report(values, len(asked))
            print(line(name, result["rows"][name], seconds), flush=True)
            if not options.no_record:
                record.write_result("select", result)
    print("\n".join(result["said"]))


@contextlib.contextmanager
def opened(folder: Path | None) -> Iterator[Rag]:
    """The default pipeline, in ``folder`` or for now only."""
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(TemporaryDirectory(prefix="rag-bench-"))) / "index"
        yield stack.enter_context(Rag.open(place, {"search": {"candidates": CANDIDATES}}))


def candidates(rag: Rag, queries: Sequence[str]) -> list[list[Hit]]:
    """The fused hits of each question."""
    found: list[list[Hit]] = []
    for start in range(0, len(queries), 32):
        found += [stages["fused"][:CANDIDATES] for stages in rag.search_each(queries[start : start + 32], CANDIDATES)]
    return found


def measured(
    rag: Rag, axis: Axis, asked: Sequence[Asked], make: Callable[[int], Reranker | None]
) -> tuple[dict[int, dict[str, list[float]]], float]:
    """Budget -> measure -> a value per question, and seconds per question and budget."""
    count = rag.components.model("tokenizer").count
    values: dict[int, dict[str, list[float]]] = {}
    spent = 0.0
    for budget in BUDGETS:
        selector = make(budget)
        own = values.setdefault(budget, {name: [] for name in MEASURES})
        for question in asked:
            began = time.perf_counter()
            hits = selector.rerank(question.query, question.hits) if selector else question.hits
            spent += time.perf_counter() - began
            places = placed(axis, [hit.chunk for hit in hits])
            costs = np.array([count(hit.chunk.context) if hit.chunk.context else 0 for hit in hits], dtype=np.int64)
            _, shown, _ = axis.cut(places["characters"], places["tokens"], costs, budget)
            both = overlap(question.wanted, shown)
            for name, value in zip(MEASURES, (both.recall, both.iou, float(size(shown) + costs[: len(shown)].sum())), strict=True):
                own[name].append(value)
    return values, spent / len(BUDGETS) / len(asked)


def report(values: Mapping[str, Any], num_questions: int) -> dict[str, Any]:
    """What is written down: per row and budget the means, the differences to the baseline, and what they say in words."""
    rows: dict[str, Any] = {}
    said: list[str] = []
    for name, by_budget in values.items():
        rows[name] = {}
        for budget, own in by_budget.items():
            rows[name][str(budget)] = entry = {}
            for part, first in (("all", slice(None)), ("held_out", slice(1, None, 2))):
                recall, iou, tokens = (own[measure][first] for measure in MEASURES)
                against = values[BASELINE][budget]
                entry[part] = {
                    "recall": _plain(interval(recall)),
                    "iou": _plain(interval(iou)),
                    "returned_tokens": round(float(np.mean(tokens)), 1),
                    "recall_per_1000": round(1000 * float(np.mean(recall)) / float(np.mean(tokens)), 4),
                    "recall_minus_top": _plain(difference(recall, against["recall"][first])),
                    "iou_minus_top": _plain(difference(iou, against["iou"][first])),
                }
            if name != BASELINE:
                said.append(_said(name, budget, difference(own["recall"][1::2], values[BASELINE][budget]["recall"][1::2])))
    return {
        "candidates": CANDIDATES,
        "num_questions": num_questions,
        "chosen_on": "questions 0, 2, 4, ...",
        "held_out": "questions 1, 3, 5, ...",
        "baseline": BASELINE,
        "rows": rows,
        "said": said,
    }


def _plain(drawn: Any) -> dict[str, float]:
    return {name: round(getattr(drawn, name), 5) for name in type(drawn).__slots__}


def _said(name: str, budget: int, drawn: Any) -> str:
    points, low, high = (100 * value for value in (drawn.mean, drawn.low, drawn.high))
    verdict = "inside the noise" if drawn.inside_noise else "better than top" if points > 0 else "worse than top"
    return f"{name} at {budget} tokens: recall {points:+.1f} points ({low:+.1f} to {high:+.1f}), {verdict}"


def line(name: str, row: Mapping[str, Any], seconds: float) -> str:
    """A row of the table, held-out questions."""
    cells = [row[str(budget)]["held_out"] for budget in BUDGETS]
    shown = [
        f"{100 * c['recall']['mean']:5.1f} ({100 * c['recall_minus_top']['mean']:+5.1f}) {c['returned_tokens']:6.0f}" for c in cells
    ]
    return f"{name:22}" + " | ".join(shown) + f" | {1000 * seconds:6.1f} ms"


if __name__ == "__main__":
    main()
