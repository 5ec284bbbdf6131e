"""Two settings chosen on one half of a set and judged on the other: the rule of ``semantic``, the window of ``hyperseg``.

    python bench/chunker_settings.py --data ../shared/data

``rule``: all rules of ``semantic`` on the questions of chunking_evaluation. The questions of each corpus are drawn into two halves. On the
tuning half the rule with the highest recall wins (tokens of the answers, mean over five budgets of returned tokens); on the other
half every rule is compared with the default, question by question. Then the halves change places.

``window``: ``hyperseg`` on the meetings of QMSum, drawn into two halves. The window is chosen on one half by what topic boundaries gain
in F1 over as many cuts at equal distances, and judged on the other; each meeting is so judged with a window that was chosen without it.
What the default pipeline finds with those chunks is compared with ``structure`` over all questions, each meeting searched alone.

Intervals are paired bootstraps over questions (for boundaries: over meetings), not corrected for the number of comparisons.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.chunker_table import DATA, Remembering
from bench.record import write_result
from rag.chunkers.breakpoints import RULES
from rag.chunkers.hyperseg import HypersegChunker
from rag.eval.bootstrap import difference, interval
from rag.eval.chunking import BUDGETS, evaluate_chunking
from rag.eval.chunking_report import ChunkingReport, at_budget
from rag.eval.contenders import Contender
from rag.eval.segmentation_scores import boundary_f1, cuts_of, even_cuts
from rag.eval.span_measures import TOLERANCE_UNITS
from rag.eval.span_set import SpanSet
from rag.eval.spans import read_spans
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.tokenizer_huggingface import HuggingFaceTokenizer

SEED = 0
DEFAULT_RULE = "optimal"
WINDOWS = (1, 2, 4, 6, 8, 10, 12, 16, 20, 30)
Values = Mapping[str, Sequence[float]]
"""A value per question (or meeting) by the name of the setting."""


def halves(groups: Sequence[str]) -> list[bool]:
    """Of each item whether it is in the first half; the items of each group are divided evenly."""
    generator = np.random.default_rng(SEED)
    first = np.zeros(len(groups), dtype=np.bool_)
    for group in sorted(set(groups)):
        members = generator.permutation([number for number, each in enumerate(groups) if each == group])
        first[members[: (len(members) + 1) // 2]] = True
    return [bool(each) for each in first]


def best(values: Values, tuning: Sequence[bool]) -> str:
    """The setting of the highest mean over the items of ``tuning``; of equals the first."""
    return max(values, key=lambda name: float(np.mean(np.array(values[name])[np.array(tuning)])))


def of(values: Sequence[float], kept: Sequence[bool]) -> list[float]:
    return [value for value, is_kept in zip(values, kept, strict=True) if is_kept]


def recalls(report: ChunkingReport, name: str) -> dict[str, list[float]]:
    """Recall of answer tokens per question, at each budget and as the mean over the budgets."""
    scores = report.rows[name].per_question["tokens"]
    found = {str(budget): list(scores[at_budget("recall", budget)]) for budget in BUDGETS}
    return found | {"mean": [float(each) for each in np.mean(list(found.values()), axis=0)]}


def rules(spans: SpanSet, encoder: Remembering) -> dict[str, Any]:
    """Every rule over all questions, then both ways round: chosen on one half, compared on the other."""
    contenders = [Contender(rule, {"use": "semantic", "rule": rule}) for rule in (DEFAULT_RULE, *RULES)]
    report = evaluate_chunking(
        spans, [Contender("structure", {"use": "structure"}), *contenders], components={"encoder": encoder}, on_progress=say
    )
    found = {each.name: recalls(report, each.name) for each in contenders}
    first = halves([question.source for question in spans.questions])
    folds = []
    for tuning in (first, [not each for each in first]):
        judged = [not each for each in tuning]
        chosen = best({name: each["mean"] for name, each in found.items()}, tuning)
        fold: dict[str, Any] = {"tuned_on": sum(tuning), "judged_on": sum(judged), "chosen": chosen, "rules": {}}
        for name, each in found.items():
            against = {
                key: difference(of(values, judged), of(found[DEFAULT_RULE][key], judged), seed=SEED) for key, values in each.items()
            }
            fold["rules"][name] = {
                "tuning_mean_recall": float(np.mean(of(each["mean"], tuning))),
                "mean_recall": asdict(interval(of(each["mean"], judged), seed=SEED)),
                "minus_default": {key: asdict(drawn) | {"inside_noise": drawn.inside_noise} for key, drawn in against.items()},
            }
        folds.append(fold)
    sizes = {
        name: {"chunks": row.num_chunks, "mean_tokens": round(row.mean_tokens, 1), "recall": {key: float(np.mean(each)) for key, each in recalls(report, name).items()}}
        for name, row in report.rows.items()
    }  # fmt: skip
    names = [document.source for document in spans.documents]
    return {"corpora": names, "default": DEFAULT_RULE, "budgets": BUDGETS, "all_questions": sizes, "folds": folds}


def boundary_gains(spans: SpanSet) -> dict[str, list[float]]:
    """Per meeting with topics: F1 of the chunk starts minus that of as many cuts at equal distances, by window."""
    tokenizer = HuggingFaceTokenizer()
    gains: dict[str, list[float]] = {}
    for window in WINDOWS:
        chunker = HypersegChunker(tokenizer, window=window)
        gains[str(window)] = []
        for document in spans.documents:
            if marked := spans.topics.get(document.source):
                cuts = cuts_of(marked.units, [chunk.span for chunk in chunker.chunk(document)])
                even = even_cuts(len(cuts), len(marked.units))
                own, theirs = (boundary_f1(marked.starts, each, TOLERANCE_UNITS).f1 for each in (cuts, even))
                gains[str(window)].append(own - theirs)
        say(f"window {window}: F1 {np.mean(gains[str(window)]):+.4f} over even cuts")
    return gains


def windows(spans: SpanSet, encoder: Remembering | None) -> dict[str, Any]:
    """The window by halves of the meetings; with an encoder, retrieval too."""
    gains = boundary_gains(spans)
    sources = [document.source for document in spans.documents if document.source in spans.topics]
    first = halves(["meetings"] * len(sources))
    chosen = {True: best(gains, first), False: best(gains, [not each for each in first])}  # by the half it was tuned on
    of_meeting = {source: chosen[not is_first] for source, is_first in zip(sources, first, strict=True)}
    held_out = [gains[of_meeting[source]][number] for number, source in enumerate(sources)]
    result: dict[str, Any] = {
        "meetings": len(sources),
        "mean_gain_in_f1": {window: float(np.mean(each)) for window, each in gains.items()},
        "chosen_on_first_half": chosen[True],
        "chosen_on_second_half": chosen[False],
        "held_out_gain_in_f1": asdict(interval(held_out, seed=SEED)),
        "held_out_minus_default": asdict(difference(held_out, gains["10"], seed=SEED)),
    }
    if encoder is None:
        return result
    contenders = [
        Contender(f"window {window}", {"use": "hyperseg", "window": int(window)})
        for window in sorted(set(chosen.values()) | {"10"}, key=int)
    ]
    contenders.insert(0, Contender("structure", {"use": "structure"}))
    report = evaluate_chunking(spans, contenders, within="document", components={"encoder": encoder}, on_progress=say)
    found = {each.name: recalls(report, each.name) for each in contenders}
    names = [f"window {of_meeting.get(question.source, chosen[True])}" for question in spans.questions]
    result["recall"] = {}
    for key, against in found["structure"].items():
        values = [found[name][key][number] for number, name in enumerate(names)]
        drawn = difference(values, against, seed=SEED)
        result["recall"][key] = {
            "structure": float(np.mean(against)),
            "held_out": float(np.mean(values)),
            "held_out_minus_structure": asdict(drawn) | {"inside_noise": drawn.inside_noise},
        } | {name: float(np.mean(each[key])) for name, each in found.items() if name != "structure"}
    return result


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that holds the sets")
    parser.add_argument(
        "--corpora", nargs="+", help="files of these corpora only for the rules: the large ones take long (default: all)"
    )
    parser.add_argument(
        "--boundaries-only", action="store_true", help="the windows by topic boundaries alone, which needs no encoder"
    )
    options = parser.parse_args()
    encoder = Remembering(SentenceTransformersEncoder())
    result = {"window": windows(read_spans(options.data / "qmsum_test"), None if options.boundaries_only else encoder)}
    write_result("chunker_settings", result)  # the rules take long
    corpora = part(read_spans(options.data / "chunking_evaluation"), options.corpora)
    write_result("chunker_settings", result | {"rule": rules(corpora, encoder)})


def part(spans: SpanSet, sources: Sequence[str] | None) -> SpanSet:
    """The documents of these names and the questions about them. Raises ``ValueError`` for a name that the set does not have."""
    if sources is None:
        return spans
    names = [document.source for document in spans.documents]
    if unknown := sorted(set(sources) - set(names)):
        raise ValueError(f"there is no corpus {unknown[0]!r}; allowed: {', '.join(names)}")
    documents = tuple(document for document in spans.documents if document.source in sources)
    return replace(spans, documents=documents, questions=tuple(each for each in spans.questions if each.source in sources))


if __name__ == "__main__":
    main()
