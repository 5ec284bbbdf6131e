"""A language model as judge of answers: faithfulness to the shown sources, relevance, correctness. Knows the LM protocol only.

Faithfulness is the share of the answer's claims that the sources bear out, each claim judged by itself (as RAGAS, Es et al., EACL
2024). Relevance and correctness are ratings from 1 to 5. Two ways to read the judge: ``json`` parses what it writes; ``score``
reads the probabilities of its labels (expected rating, as G-Eval, Liu et al., EMNLP 2023; chance of *yes* per sentence of the
answer), which needs no writing and suits small models. A judge is a measuring instrument: ``rag eval judge`` says whether to trust
it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rag.core import LM, Message
from rag.errors import ModelError
from rag.eval import judge_prompts as prompts
from rag.eval.answer_text import parsed_answer
from rag.eval.judge_replies import Claims, Rating, Unusable, Verdict, asked, fits

Way = Literal["json", "score"]
MEASURES = ("faithfulness", "relevance", "correctness")
RATINGS = ("1", "2", "3", "4", "5")


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """A claim of the answer, the chance that the sources bear it out (0 or 1 if the judge wrote its verdict), and why."""

    text: str
    support: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge thinks: ``value`` (0 to 1 for faithfulness, 1 to 5 for ratings), or ``failure``: why it could not be told.

    ``version``: of the judge; values of two versions do not compare.
    """

    measure: str
    version: str
    value: float | None
    failure: str | None = None
    claims: tuple[JudgedClaim, ...] = ()
    reason: str = ""

    @property
    def is_faithful(self) -> bool | None:
        """Whether every claim is borne out; ``None`` if this is no judgement of faithfulness or it failed."""
        return all(claim.support >= 0.5 for claim in self.claims) if self.claims and self.value is not None else None


class Judge:
    """Judges answers by asking ``lm``. ``way``: ``json`` (reads what it writes) or ``score`` (reads label probabilities).

    ``max_tokens``: room for one reply. A judgement that fails (no usable JSON after one retry, a prompt beyond the model's context,
    a server that does not answer) has a ``failure`` and no value.
    """

    def __init__(self, lm: LM, way: Way = "json", max_tokens: int = 512) -> None:
        if way not in get_args(Way):
            raise ValueError(f"way={way!r}: allowed are {', '.join(get_args(Way))}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}: must be at least 1")
        self.lm = lm
        self.way = way
        self.max_tokens = max_tokens

    @property
    def version(self) -> str:
        """Names all that must be equal for two judgements to compare: prompts, way and model."""
        return f"prompts {prompts.VERSION}, {self.way}, {self.lm.fingerprint}"

    def faithfulness(self, question: str, answer: str, sources: Sequence[str]) -> Judgement:
        """The share of claims that ``sources`` bear out. Raises ``ValueError`` for an answer without words."""
        parsed = parsed_answer(answer)
        if not parsed.sentences:
            raise ValueError("the answer makes no claims")
        if not sources:
            return Judgement(
                "faithfulness",
                self.version,
                0.0,
                claims=tuple(JudgedClaim(each.text, 0.0, "no source") for each in parsed.sentences),
            )
        if self.way == "score":
            return self._scored_claims([sentence.text for sentence in parsed.sentences], sources)
        (split,) = asked(self.lm, [prompts.claims_prompt(question, parsed.plain)], Claims, max_tokens=2 * self.max_tokens)
        if isinstance(split, Unusable):
            return Judgement("faithfulness", self.version, None, f"claims: {split.reason}")
        asking = [prompts.verdict_prompt(claim, sources) for claim in split.claims]
        verdicts = asked(self.lm, asking, Verdict, max_tokens=self.max_tokens)
        claims, failures = list[JudgedClaim](), list[str]()
        for claim, verdict in zip(split.claims, verdicts, strict=True):
            if isinstance(verdict, Unusable):
                failures.append(verdict.reason)
            else:
                claims.append(JudgedClaim(claim, float(verdict.verdict == "supported"), verdict.reason or verdict.verdict))
        if failures:
            return Judgement(
                "faithfulness", self.version, None, f"{len(failures)} of {len(verdicts)} claims: {failures[0]}", tuple(claims)
            )
        return Judgement("faithfulness", self.version, sum(claim.support for claim in claims) / len(claims), claims=tuple(claims))

    def relevance(self, question: str, answer: str) -> Judgement:
        """How well the answer addresses the question, 1 to 5, whether or not it is true."""
        return self._rated("relevance", prompts.relevance_prompt(question, _plain(answer), label=self.way == "score"))

    def correctness(self, question: str, answer: str, references: Sequence[str]) -> Judgement:
        """How right the answer is beside ``references``, 1 to 5. Raises ``ValueError`` without a reference."""
        if isinstance(references, str) or not references:
            raise ValueError(f"references must be a list of at least one text, not {references!r}")
        prompt = prompts.correctness_prompt(question, _plain(answer), references, label=self.way == "score")
        return self._rated("correctness", prompt)

    def _rated(self, measure: str, prompt: list[Message]) -> Judgement:
        if self.way == "json":
            (rating,) = asked(self.lm, [prompt], Rating, max_tokens=self.max_tokens)
            if isinstance(rating, Unusable):
                return Judgement(measure, self.version, None, rating.reason)
            return Judgement(measure, self.version, float(rating.score), reason=rating.reason)
        chances = self._chances([prompt], RATINGS)
        if isinstance(chances, Unusable):
            return Judgement(measure, self.version, None, chances.reason)
        return Judgement(measure, self.version, sum(place * chance for place, chance in enumerate(chances[0], start=1)))

    def _scored_claims(self, claims: Sequence[str], sources: Sequence[str]) -> Judgement:
        chances = self._chances([prompts.verdict_prompt(claim, sources, label=True) for claim in claims], ("yes", "no"))
        if isinstance(chances, Unusable):
            return Judgement("faithfulness", self.version, None, chances.reason)
        judged = tuple(JudgedClaim(claim, yes) for claim, (yes, _) in zip(claims, chances, strict=True))
        return Judgement("faithfulness", self.version, sum(claim.support for claim in judged) / len(judged), claims=judged)

    def _chances(self, asking: Sequence[list[Message]], labels: Sequence[str]) -> list[list[float]] | Unusable:
        """Per prompt the probabilities of the labels among themselves."""
        for prompt in asking:
            if (reason := fits(self.lm, prompt, 1)) is not None:
                return reason
        try:
            rows = self.lm.score(asking, labels)
        except ModelError as error:
            return Unusable(f"the model did not answer: {error}")
        if not all(math.isfinite(max(row)) for row in rows):
            return Unusable("the judge gives none of its labels a probability")
        weights = [[math.exp(value - max(row)) for value in row] for row in rows]
        return [[weight / sum(row) for weight in row] for row in weights]


def judge_of(given: Judge | LM) -> Judge:
    """``given``, or a judge that asks the language model ``given`` for JSON."""
    return given if isinstance(given, Judge) else Judge(given)


def _plain(answer: str) -> str:
    return parsed_answer(answer).plain
