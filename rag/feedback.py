"""Answers anew with more or fewer sources until a judge is content. Knows a generator and a language model; knows no index.

The feedback step of SAGE (arXiv 2503.01713): the model scores the answer from 1 to 10 and says whether it had too little context
or too much; the number of sources follows, within bounds, and the best answer is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from rag.core import LM, Chunk, Event, Generator, Hit, Message, TextEvent, Usage, UsageEvent
from rag.errors import ConfigError
from rag.forms import DATA_RULE, Reply, ask, json_object, room_for
from rag.prompt import inert, sourced_prompt, unmarked

Context = Literal["too little", "right", "too much"]
CONTEXTS: tuple[Context, ...] = ("too little", "right", "too much")
MAX_ANSWER_CHARS = 6000
REPLY_TOKENS = 64

JUDGE = f"""You judge an answer that was written from numbered sources. {DATA_RULE}
Reply with one JSON object and nothing else, with exactly these keys:
"score": a whole number from 1 to 10; 10: every part of the question is answered, and every statement stands in the sources; 5: a part is
missing or not borne out; 1: wrong, or nothing is answered
"context": "too little" if the answer needs facts that these sources lack, "too much" if sources that are beside the point led it astray,
else "right\""""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An answer and what was thought of it; ``score`` 0: nobody could tell."""

    events: tuple[Event, ...]
    usage: Usage
    score: int
    context: Context


class FeedbackGenerator:
    """Lets ``generator`` answer from the first ``first`` hits, has the answer scored, and tries again with more or fewer of them.

    A judge (``models.judge``, else ``models.lm``) scores each answer. It is given out if its score is at least ``good``; else the number
    of hits changes by ``step``: more if the judge saw too little context, fewer if too much, never below ``min_hits`` or above the hits there are.
    After ``max_rounds`` answers, if the judge calls the context right, or where a number of hits was tried before, the best-scored
    answer stands (of equal ones the first). A verdict that cannot be read is asked for once more and then ends the search. The text comes
    only when the choice is made, not while it is written. Costs one answer and one verdict a round.
    """

    def __init__(
        self,
        generator: Generator,
        judge: LM | None = None,
        lm: LM | None = None,
        first: int = 5,
        step: int = 3,
        min_hits: int = 1,
        good: int = 8,
        max_rounds: int = 3,
        max_prompt_tokens: int = 6000,
    ) -> None:
        limits = {
            "first": first,
            "step": step,
            "min_hits": min_hits,
            "max_rounds": max_rounds,
            "max_prompt_tokens": max_prompt_tokens,
        }
        for name, value in limits.items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 1 <= good <= 10:
            raise ValueError(f"good={good}: must be between 1 and 10")
        chosen = judge or lm
        if chosen is None:
            raise ConfigError("generator feedback needs a model: add `models: {judge: {use: ...}}` (or lm) to the configuration")
        self.generator = generator
        self.first, self.step, self.min_hits = first, step, min_hits
        self.good, self.max_rounds, self.max_prompt_tokens = good, max_rounds, max_prompt_tokens
        self._judge: LM = chosen

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        """What ``generator`` prepares."""
        self.generator.prepare(chunks)

    def keep_only(self, chunks: Iterable[Chunk]) -> int:
        """What ``generator`` deletes."""
        return self.generator.keep_only(chunks)

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        """The events of the best answer, its usage that of all rounds. No hits: what ``generator`` says, unjudged."""
        if not hits:
            yield from self.generator.generate(query, hits)
            return
        attempts: dict[int, _Attempt] = {}
        num_hits = min(max(self.first, self.min_hits), len(hits))
        while num_hits not in attempts and len(attempts) < self.max_rounds:
            attempt = self._attempt(query, hits[:num_hits])
            attempts[num_hits] = attempt
            if attempt.score >= self.good or attempt.score == 0:
                break
            change = {"too little": self.step, "right": 0, "too much": -self.step}[attempt.context]
            num_hits = min(max(num_hits + change, min(self.min_hits, len(hits))), len(hits))
        best = max(attempts.values(), key=lambda attempt: attempt.score)
        usage = sum((attempt.usage for attempt in attempts.values()), Usage())
        for event in best.events:
            yield replace(event, usage=usage) if isinstance(event, UsageEvent) else event

    def _attempt(self, query: str, hits: Sequence[Hit]) -> _Attempt:
        events = tuple(self.generator.generate(query, hits))
        text = "".join(event.text for event in events if isinstance(event, TextEvent))
        used = sum((event.usage for event in events if isinstance(event, UsageEvent)), Usage())
        reply = self._verdict(query, hits, text)
        score, context = reply.value or (0, "right")
        return _Attempt(events, used + reply.usage, score, context)

    def _verdict(self, query: str, hits: Sequence[Hit], answer: str) -> Reply[tuple[int, Context]]:
        room = room_for(self._judge, self.max_prompt_tokens, REPLY_TOKENS)
        quoted = inert(answer[:MAX_ANSWER_CHARS])
        while quoted and self._judge.count_tokens(quoted) > room // 3:  # the sources need room too
            quoted = quoted[: len(quoted) * 3 // 4]
        room -= self._judge.count_tokens(quoted) + 64
        prompt = sourced_prompt(query, hits, max_tokens=room, count=self._judge.count_tokens, system=JUDGE)
        *before, last = prompt.messages
        key = last.content.split("\n", 1)[0].removeprefix("One-time key: ")
        shown = f"BEGIN ANSWER {key}\n{unmarked(quoted).replace(key, '(key)').strip()}\nEND ANSWER {key}"
        return ask(self._judge, [*before, Message("user", f"{last.content}\n\n{shown}")], read_verdict, REPLY_TOKENS)


def read_verdict(text: str) -> tuple[int, Context]:
    """Score and context of a reply. Raises ``ValueError`` with what is wrong."""
    found = json_object(text, ("score", "context"))
    score, context = found["score"], found["context"]
    if type(score) is not int or not 1 <= score <= 10:
        raise ValueError("score must be a whole number from 1 to 10")
    if context not in CONTEXTS:
        raise ValueError(f"context must be one of {', '.join(CONTEXTS)}")
    return score, cast("Context", context)
