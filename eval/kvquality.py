"""What reuse of keys and values does to answers: method by share, exact match, KL and their intervals. Knows no model and no cache.

Whoever knows them hands in one function per method; this asks every method the same questions, grades the answers, and puts paired
differences beside the means: a method and the full prefill differ by less than the questions differ among each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rag.eval.bootstrap import Difference, Interval, difference, interval


class Asked(Protocol):
    """A question with its answer and its kind."""

    @property
    def kind(self) -> str: ...

    @property
    def answer(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Answered:
    """What a method said, how far its first tokens were from the full prefill (nats), and how many reused tokens it computed anew.

    ``num_chosen`` were computed in every layer; ``work`` is all that was computed of them, in tokens: a token in half of the layers is half a token.
    """

    text: str
    kl_nats: float
    num_chosen: int
    num_reused: int
    work: float


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one share: exact match by kind and in all, KL, and the difference to ``full``.

    ``share_computed``: of the reused tokens, how many were computed in every layer; ``share_of_work``: of their layers.
    """

    method: str
    recompute: float
    exact_match: Interval
    by_kind: Mapping[str, float]
    kl_nats: Interval
    share_computed: float
    share_of_work: float
    against_full: Difference | None


Method = tuple[str, float]
"""A word and a share."""


def normalised(text: str) -> str:
    """The words of an answer, without case, final punctuation and articles at the beginning.

    >>> normalised(" The Otter. ")
    'otter'
    """
    words = text.strip().rstrip(".!").lower().split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)


@dataclass(frozen=True, slots=True)
class Quality:
    """Every answer's grade, method by method, question by question in one order."""

    kinds: tuple[str, ...]
    correct: Mapping[Method, tuple[float, ...]]
    answered: Mapping[Method, tuple[Answered, ...]]

    def rows(self, seed: int = 0) -> list[Row]:
        """The table; intervals are over questions."""
        full = next((grades for (word, _), grades in self.correct.items() if word == "full"), None)
        return [self._row(method, full, seed) for method in self.correct]

    def gain(self, one: Method, other: Method, seed: int = 0) -> Difference:
        """Exact match of ``one`` minus that of ``other``, paired."""
        return difference(self.correct[one], self.correct[other], seed=seed)

    def _row(self, method: Method, full: Sequence[float] | None, seed: int) -> Row:
        grades, answered = self.correct[method], self.answered[method]
        kinds = {
            kind: [grade for grade, of in zip(grades, self.kinds, strict=True) if of == kind] for kind in sorted(set(self.kinds))
        }
        num_reused = sum(each.num_reused for each in answered)
        return Row(
            *method,
            interval(grades, seed=seed),
            {kind: sum(values) / len(values) for kind, values in kinds.items()},
            interval([each.kl_nats for each in answered], seed=seed),
            sum(each.num_chosen for each in answered) / num_reused if num_reused else 0.0,
            sum(each.work for each in answered) / num_reused if num_reused else 0.0,
            None if full is None or method[0] == "full" else difference(grades, full, seed=seed),
        )


def measure(
    questions: Sequence[Asked],
    methods: Mapping[Method, Callable[[int], Answered]],
    on_progress: Callable[[int], None] = lambda done: None,
) -> Quality:
    """Asks every method every question (by its number). Raises ``ValueError`` if there is no question or no method."""
    if not questions or not methods:
        raise ValueError(f"{len(questions)} questions and {len(methods)} methods: at least one of each is needed")
    answered: dict[Method, list[Answered]] = {method: [] for method in methods}
    for number in range(len(questions)):
        for method, ask in methods.items():
            answered[method].append(ask(number))
        on_progress(number + 1)
    wanted = [normalised(question.answer) for question in questions]
    correct = {
        method: tuple(float(normalised(each.text) == want) for each, want in zip(answers, wanted, strict=True))
        for method, answers in answered.items()
    }
    return Quality(tuple(question.kind for question in questions), correct, {m: tuple(a) for m, a in answered.items()})


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table for a result file."""
    return [
        {
            "method": row.method,
            "recompute": row.recompute,
            "exact_match": _rounded(row.exact_match),
            "by_kind": {kind: round(value, 4) for kind, value in row.by_kind.items()},
            "kl_nats": _rounded(row.kl_nats),
            "share_computed": round(row.share_computed, 4),
            "share_of_work": round(row.share_of_work, 4),
            "against_full": None if row.against_full is None else _rounded(row.against_full) | {"p": round(row.against_full.p, 4)},
        }
        for row in rows
    ]


def _rounded(of: Interval | Difference) -> dict[str, float]:
    return {"mean": round(of.mean, 4), "low": round(of.low, 4), "high": round(of.high, 4)}
