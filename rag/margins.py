"""Answers from sources and from notes made at their margins while they were read. Knows hits and a language model; knows no index.

Writing in the Margins (arXiv 2408.14906): after each segment of a long context the model says what in it helps the question, and the
useful notes stand once more at the end, before the answer. All prompts of one question begin alike, so that a server with a prefix cache
(or a model that keeps keys and values) reads every source once.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rag.citations import MIN_SUPPORT
from rag.core import LM, Chunk, Event, Hit, Message, StageEvent, TextEvent, Usage, UsageEvent
from rag.forms import DATA_RULE, ask_each
from rag.generate import checked_answer
from rag.map_reduce import DEFAULT_PROMPT_TOKENS, FRAME_TOKENS, grouped
from rag.prompt import ABSTENTION, SYSTEM, SourcedPrompt, inert, sourced_prompt, unmarked

MARGIN = """Task: do not answer the question yet. In at most three sentences, copy or sum up what {sources} says that helps to answer it. If it
says nothing that helps, write NOTHING."""
USEFUL = f"""You judge whether a note that was made while reading helps to answer a question. {DATA_RULE}
Reply with one word, Yes or No."""
ANSWER = "Notes made while reading, each on the sources it names:\n\n{notes}Now answer the question from the sources."
TASK_RULE = "\nWhere a task follows the question, do the task in place of answering."
MAX_MARGIN_CHARS = 1500


class MarginsGenerator:
    """Lets ``lm`` write a note after each segment of the hits, keeps the useful ones, and answers from the hits and those notes.

    A segment is a run of hits of about ``segment_tokens`` tokens. A note is useful if the chance of *yes* in one scored question (``lm.score``) is at
    least ``min_useful``. Of ``n`` segments come ``n`` notes (one call), ``n`` scored questions (one call) and the answer. ``use: transformers``
    reads the sources once and forks its cache after each segment (up to eight inside one another), as the paper does; a server without a
    prefix cache reads about ``n / 2`` times their tokens: worth it there for few segments only.

    ``max_margin_tokens``: length of a note. The rest is as in ``use: lm``; citations are checked against the hits, never the notes.
    """

    def __init__(
        self,
        lm: LM,
        segment_tokens: int = 1000,
        min_useful: float = 0.5,
        max_margin_tokens: int = 120,
        max_tokens: int = 400,
        max_prompt_tokens: int | None = None,
        min_support: float = MIN_SUPPORT,
        abstention: str = ABSTENTION,
    ) -> None:
        limits = {"segment_tokens": segment_tokens, "max_margin_tokens": max_margin_tokens, "max_tokens": max_tokens}
        for name, value in (limits if max_prompt_tokens is None else {**limits, "max_prompt_tokens": max_prompt_tokens}).items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        for name, share in (("min_useful", min_useful), ("min_support", min_support)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: must be between 0 and 1")
        self.lm = lm
        self.segment_tokens = segment_tokens
        self.min_useful = min_useful
        self.max_margin_tokens = max_margin_tokens
        self.max_tokens = max_tokens
        self.max_prompt_tokens = max_prompt_tokens or DEFAULT_PROMPT_TOKENS
        self.min_support = min_support
        self.abstention = abstention
        self._system = (SYSTEM + TASK_RULE).replace(ABSTENTION, abstention)

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        """Nothing to prepare."""

    def keep_only(self, chunks: Iterable[Chunk]) -> int:
        """Nothing is kept."""
        return 0

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        """What the prompts show, text, citations at the ends of sentences, then the usage of all calls. No hits: abstains without the model."""
        if not hits:
            yield StageEvent("prompt", (), 0.0)
            yield TextEvent(self.abstention)
            yield UsageEvent(Usage(), abstained=True)
            return
        key = secrets.token_hex(8)
        sizes = [self.lm.count_tokens(hit.chunk.indexed_text) for hit in hits]
        num_segments = len(grouped(hits, sizes, self.segment_tokens))
        whole = self._prompt(query, hits, key, num_segments)
        yield StageEvent("prompt", whole.shown, 0.0)
        segments = grouped(whole.hits, sizes[: len(whole.hits)], self.segment_tokens)
        margins, usage = self._margins(query, whole.hits, segments, key, num_segments)
        if margins:
            notes = "".join(f"BEGIN NOTE {key}\n{where}: {text}\nEND NOTE {key}\n\n" for where, text in margins)
            messages = _continued(whole, ANSWER.format(notes=notes))
        else:
            messages = list(whole.messages)
        pieces = self.lm.stream(messages, max_tokens=self.max_tokens)
        for event in checked_answer(pieces, whole.hits, self.min_support, self.abstention):
            yield replace(event, usage=usage + event.usage) if isinstance(event, UsageEvent) else event

    def _prompt(self, query: str, hits: Sequence[Hit], key: str, num_segments: int) -> SourcedPrompt:
        """The sources and the question, with room left for the notes of ``num_segments`` segments, a task and the answer."""
        room = self.max_prompt_tokens
        if self.lm.context_tokens is not None:
            room = min(room, self.lm.context_tokens - max(self.max_tokens, self.max_margin_tokens))
        task = self.lm.count_tokens(MARGIN) + self.lm.count_tokens(ANSWER)
        note = self.max_margin_tokens + FRAME_TOKENS
        for_notes = note * min(
            num_segments, max(room // (self.segment_tokens + note), 1)
        )  # of those segments that have room themselves
        return sourced_prompt(
            query, hits, max_tokens=room - task - for_notes, count=self.lm.count_tokens, system=self._system, nonce=key
        )  # fmt: skip

    def _margins(
        self, query: str, hits: Sequence[Hit], segments: Sequence[Sequence[Hit]], key: str, num_segments: int
    ) -> tuple[list[tuple[str, str]], Usage]:
        """(the sources it is about, the note) for each useful note, and what all of them cost."""
        ends = [sum(map(len, segments[: number + 1])) for number in range(len(segments))]
        names = [_named(end - len(segment) + 1, end) for end, segment in zip(ends, segments, strict=True)]
        prompts = [
            _continued(self._prompt(query, hits[:end], key, num_segments), MARGIN.format(sources=name))
            for end, name in zip(ends, names, strict=True)
        ]
        replies = ask_each(self.lm, prompts, lambda text: text, self.max_margin_tokens, may_be_cut=True)
        usage = sum((reply.usage for reply in replies), Usage())
        written = [(name, _cleaned(reply.value or "", key)) for name, reply in zip(names, replies, strict=True)]
        written = [(name, text) for name, text in written if text and text.casefold().strip(" .!") != "nothing"]
        if not written:
            return [], usage
        questions = [_useful(query, text, key) for _, text in written]
        chances = [_chance(yes, no) for yes, no in self.lm.score(questions, ("yes", "no"))]
        usage += Usage(sum(self.lm.count_tokens(question) for question in questions), 0, len(questions))
        return [note for note, chance in zip(written, chances, strict=True) if chance >= self.min_useful], usage


def _continued(prompt: SourcedPrompt, more: str) -> list[Message]:
    """The prompt with ``more`` at its end: the same beginning, whatever follows."""
    *before, last = prompt.messages
    return [*before, Message(last.role, f"{last.content}\n\n{more}")]


def _named(first: int, last: int) -> str:
    return f"source {first}" if first == last else f"sources {first} to {last}"


def _cleaned(text: str, key: str) -> str:
    return " ".join(unmarked(inert(text[:MAX_MARGIN_CHARS])).replace(key, "(key)").split())


def _useful(query: str, note: str, key: str) -> list[Message]:
    quoted = f"One-time key: {key}\n\nBEGIN NOTE {key}\n{note}\nEND NOTE {key}\n\n"
    asked = f"Question: {inert(query).strip()}\n\nDoes the note help to answer the question? Yes or No?"
    return [Message("system", USEFUL), Message("user", quoted + asked)]


def _chance(yes: float, no: float) -> float:
    """P(yes) / (P(yes) + P(no)) of two natural logs; 0.5 if both are impossible."""
    return 0.5 if yes == no else 1 / (1 + math.exp(min(no - yes, 700.0)))
