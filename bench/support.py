"""How much of a question the sources answer: full, partly, none, told apart without a language model on MTRAG-UN's labelled turns.

    python bench/support.py

The score is the support of the best sentence of the 5 best hits by BM25 (as in ``bench/abstention.py``), for the last turn alone and with
the words that ``query: {use: carry}`` takes over. AUROC with a bootstrap interval; thresholds are calibrated on one half of the conversations and tested on
the other, both ways. Left out are the 71 underspecified turns: they lack a question, not an answer. What a language model's verdict
(``by: lm``) is worth is not measured: none is at hand offline.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import abstention
from bench.record import write_result
from rag.abstain import Calibration, calibrate
from rag.core import Hit, Support, digest
from rag.eval.bootstrap import interval
from rag.extractive import ExtractiveGenerator
from rag.query.carry import CarryQuery
from rag.query.history import messages_of
from rag.retrievers.encoder import SentenceTransformersEncoder

FOLDER = "mtrag_un_reference"
SUPPORT: Mapping[str, Support] = {"ANSWERABLE": "full", "PARTIAL": "partly", "UNANSWERABLE": "none"}
TARGETS = (
    (0.8, 0.8),
    (0.9, 0.9),
    (0.9, 0.7),
    (0.95, 0.95),
)  # of the answerable answered, of the fully answerable without reservation
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Labelled:
    """A turn, what people said of it, and its hits under each way to search."""

    half: int
    label: Support
    asked: Mapping[str, tuple[str, list[Hit]]]


def turns() -> list[Labelled]:
    pool = abstention.Pool(f"{FOLDER}/derived_beir")
    carry = CarryQuery()
    found = []
    for row in abstention.lines(abstention.DATA / FOLDER / "reference_without_fiqa.jsonl"):
        if row["answerability"][0] not in SUPPORT:
            continue
        said = [("user" if turn["speaker"] == "user" else "assistant", turn["text"]) for turn in row["input"]]
        question = said[-1][1]
        carried = " ".join([question, *carry.carried(question, messages_of(said[:-1]))])
        asked = {"last turn": (question, pool.hits(question)), "carried words": (carried, pool.hits(carried))}
        half = int(digest(row["conversation_id"])[:8], 16) % 2  # the turns of a conversation stay together
        found.append(Labelled(half, SUPPORT[row["answerability"][0]], asked))
    return found


def auroc(positive: Sequence[float], negative: Sequence[float]) -> dict[str, float]:
    """The chance that a positive scores above a negative (ties count half), with a 95 % interval from resampled questions."""
    wins = np.sign(np.subtract.outer(np.array(positive), np.array(negative))) / 2 + 0.5
    generator = np.random.default_rng(0)
    drawn = [
        wins[
            np.ix_(generator.integers(0, len(positive), len(positive)), generator.integers(0, len(negative), len(negative)))
        ].mean()
        for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"auroc": round(float(wins.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def tested(found: Calibration, rows: Sequence[tuple[float, Support]]) -> dict[str, Any]:
    """What thresholds do on other questions."""
    said = [(label, found.support(score)) for score, label in rows]
    counts = Counter(said)
    table = {label: {told: counts[label, told] for told in ("full", "partly", "none")} for label in ("full", "partly", "none")}
    return {
        "min_partly": round(found.min_partly, 3),
        "min_full": round(found.min_full, 3),
        "answered_when_answerable": share([told != "none" for label, told in said if label != "none"]),
        "declined_when_not": share([told == "none" for label, told in said if label == "none"]),
        "labelled_and_told": table,
    }


def share(values: Sequence[bool]) -> dict[str, float]:
    found = interval([float(value) for value in values])
    return {"share": round(found.mean, 3), "low": round(found.low, 3), "high": round(found.high, 3), "questions": found.num_queries}


def measured(labelled: Sequence[Labelled], scores: Sequence[float]) -> dict[str, Any]:
    by_label = {
        label: [score for score, each in zip(scores, labelled, strict=True) if each.label == label]
        for label in ("full", "partly", "none")
    }
    halves = {
        half: [(score, each.label) for score, each in zip(scores, labelled, strict=True) if each.half == half] for half in (0, 1)
    }
    return {
        "auroc_answerable_or_partly_against_not": auroc(by_label["full"] + by_label["partly"], by_label["none"]),
        "auroc_full_against_partly": auroc(by_label["full"], by_label["partly"]),
        "calibrated_on_one_half_tested_on_the_other": {
            f"target {target}, full {full_target}": {
                f"half {1 - half}": tested(
                    calibrate([score for score, _ in halves[half]], [label for _, label in halves[half]], target, full_target),
                    halves[1 - half],
                )
                for half in (0, 1)
            }
            for target, full_target in TARGETS
        },
    }


def main() -> None:
    labelled = turns()
    encoder = abstention.Remembering(SentenceTransformersEncoder())
    ways: dict[str, Callable[[str, Sequence[Hit]], float]] = {
        "all-MiniLM-L6-v2": ExtractiveGenerator(encoder).support,
        "words only": ExtractiveGenerator().support,
    }
    result: dict[str, Any] = {"questions": dict(Counter(each.label for each in labelled))}
    for way, support in ways.items():
        for asked in ("last turn", "carried words"):
            result[f"{way}, {asked}"] = measured(labelled, [support(*each.asked[asked]) for each in labelled])
    print(json.dumps(result, indent=2))
    write_result("support", result)


if __name__ == "__main__":
    main()
