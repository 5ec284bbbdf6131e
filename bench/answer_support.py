"""Support by encoder similarity: its calibration and what it can and cannot see.

    python bench/answer_support.py

Sentences of MTRAG-UN reference answers (answerable turns) against their own passages, and against those of another conversation of
the same collection. Fitted on the conversations with even numbers, measured on the odd ones. Besides: the same sentences, own
passages, with a number changed or a verb denied, which no passage bears out though every word is near.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data/mtrag_un_reference/reference_without_fiqa.jsonl"
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.eval.answer_text import parsed_answer
from rag.eval.support import Calibration, fitted, nearest_cosines
from rag.retrievers.encoder import SentenceTransformersEncoder

MAX_TASKS = 120
NOT = re.compile(r"\b(is|are|was|were|can|will|has|have|does|do)\b(?! not)")
NUMBER = re.compile(r"\b\d+\b")


def tasks() -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    answerable = [row for row in rows if row["answerability"] == ["ANSWERABLE"]]
    return answerable[:MAX_TASKS]


def share_right(calibration: Calibration, cosines: list[float], *, supported: bool) -> float:
    return float(np.mean([(calibration(cosine) >= 0.5) == supported for cosine in cosines]))


def auc(positive: list[float], negative: list[float]) -> float:
    above = np.asarray(positive)[:, None] - np.asarray(negative)[None, :]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def main() -> None:
    encoder = SentenceTransformersEncoder()
    cosines: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    rows = tasks()
    for number, row in enumerate(rows):
        half = int(row["conversation_id"][:8], 16) % 2
        sentences = [each.text for each in parsed_answer(row["targets"][0]["text"]).sentences if len(each.text.split()) >= 4]
        own = [context["text"] for context in row["contexts"]]
        others = [
            other
            for other in rows[number + 1 :] + rows[:number]
            if other["conversation_id"] != row["conversation_id"] and other["Collection"] == row["Collection"]
        ]
        other = [context["text"] for context in others[0]["contexts"]]
        if not sentences or not own or not other:
            continue
        changed = [NUMBER.sub(lambda found: str(int(found[0]) + 7), text) for text in sentences if NUMBER.search(text)]
        denied = [NOT.sub(r"\1 not", text, count=1) for text in sentences if NOT.search(text)]
        near = nearest_cosines([*sentences, *changed, *denied], own, encoder)
        cosines["own"][half] += near[: len(sentences)]
        cosines["number changed"][half] += near[len(sentences) : len(sentences) + len(changed)]
        cosines["denied"][half] += near[len(sentences) + len(changed) :]
        cosines["other"][half] += nearest_cosines(sentences, other, encoder)
        print(f"{number + 1}/{len(rows)}", end="\r", file=sys.stderr)
    calibration = fitted(cosines["own"][0], cosines["other"][0])
    held_out = {
        "right_of_own": share_right(calibration, cosines["own"][1], supported=True),
        "right_of_other": share_right(calibration, cosines["other"][1], supported=False),
        "auc": auc(cosines["own"][1], cosines["other"][1]),
        "right_of_number_changed": share_right(calibration, cosines["number changed"][1], supported=False),
        "right_of_denied": share_right(calibration, cosines["denied"][1], supported=False),
    }
    result = {
        "encoder": encoder.fingerprint,
        "slope": calibration.slope,
        "midpoint": calibration.midpoint,
        "num_sentences": {name: {half: len(values) for half, values in halves.items()} for name, halves in cosines.items()},
        "held_out": held_out,
    }
    print(json.dumps(result, indent=1))
    write_result("answer_support", result)


if __name__ == "__main__":
    main()
