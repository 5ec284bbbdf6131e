"""Sends simple questions one way and complex ones another, by a rule or a language model's guess. Knows questions, no index."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rag.core import LM, Finding, Message, QueryStage, Usage
from rag.errors import ConfigError
from rag.query.asking import prompt
from rag.query.plain import PlainQuery

TASK = """Does answering the question take facts from more than one passage, such as a comparison, a list over several cases, or a fact that must be
looked up before the next can be asked for? Reply with one word, Yes or No."""

_COMPARES = re.compile(
    r"\b(?:the same or|var(?:y|ies) (?:between|among)|compar\w+|differen(?:ce|ces|t from)|differs?|versus|vs\.?|better|worse|"
    r"(?:more|less|fewer) \w+ than|both|respectively|relat\w+ between|in common|pros and cons|advantages? and|each of|for (?:all|every|each))\b",
    re.IGNORECASE,
)
_ASKS_ON = re.compile(
    r"\b(?:and|or),? (?:(?:who|whom|whose|what|which|when|where|why|how)\b|(?:do|does|did|is|are|was|were|can|could|should|will|would) \w+)",
    re.IGNORECASE,
)
_ASKS = re.compile(r"\b(?:who|whom|whose|what|which|when|where|why|how)\b", re.IGNORECASE)
_CHAINED = re.compile(r"\b(?:of|by|in|where|when) the \w+ (?:who|that|which|where|whose)\b", re.IGNORECASE)
MANY_WORDS = 25


class RouteQuery:
    """Lets ``complex`` find for questions that need several passages, and ``simple`` (default: ``plain``) for the others.

    ``by``: ``rule`` (no model: more than one question in it, a comparison, a fact inside a fact, or more than 25 words) or ``lm`` (the
    chance of *yes* in one scored question to ``lm``; from ``threshold`` on the question is complex). Both ways see the conversation. The
    note says which way was taken and why. Adaptive-RAG (arXiv 2403.14403) trains a classifier for the same choice.

    The rule calls 81 % of MTRAG-UN's 54 comparative and composite questions complex, and 5 % of the 376 others (``bench/query.py``; the rule was
    written with those questions in view).
    """

    rewrites = True

    def __init__(
        self,
        complex: QueryStage,  # the word of the configuration, as in `simple`
        simple: QueryStage | None = None,
        by: Literal["rule", "lm"] = "rule",
        threshold: float = 0.5,
        lm: LM | None = None,
    ) -> None:
        if by not in ("rule", "lm"):
            raise ValueError(f"by={by!r}: allowed are rule, lm")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: must be between 0 and 1")
        if by == "lm" and lm is None:
            raise ConfigError("query route with `by: lm` needs a model: add `models: {lm: {use: ...}}` to the configuration")
        self.complex = complex
        self.simple = simple or PlainQuery()
        self.by = by
        self.threshold = threshold
        self._lm = lm

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        """The searches of one of the two stages."""
        is_complex, why, usage = self._by_model(question) if self.by == "lm" else self._by_rule(question)
        chosen, word = (self.complex, "complex") if is_complex else (self.simple, "simple")
        found = yield from chosen.find(question, history)
        return replace(found, usage=usage + found.usage, notes=(f"{word}: {why}", *found.notes))

    def _by_rule(self, question: str) -> tuple[bool, str, Usage]:
        why = complexity(question)
        return bool(why), why or "no sign of several facts", Usage()

    def _by_model(self, question: str) -> tuple[bool, str, Usage]:
        assert self._lm is not None
        messages = prompt(TASK, question, ())
        ((yes, no),) = self._lm.score([messages], ("yes", "no"))
        chance = 0.5 if yes == no else 1 / (1 + math.exp(min(no - yes, 700.0)))
        return chance >= self.threshold, f"chance {chance:.2f}", Usage(self._lm.count_tokens(messages), 0, 1)


def complexity(question: str) -> str:
    """Why a question seems to need several passages; "" if it does not.

    >>> complexity("Who wrote Carmen?"), complexity("What is the difference between A and B?")
    ('', 'it compares')
    """
    if question.count("?") > 1 or len(_ASKS.findall(question)) > 2 or _ASKS_ON.search(question):
        return "more than one question"
    if _COMPARES.search(question):
        return "it compares"
    if _CHAINED.search(question):
        return "a fact inside a fact"
    if len(question.split()) > MANY_WORDS:
        return f"more than {MANY_WORDS} words"
    return ""
