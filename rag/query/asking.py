"""What query stages ask a language model: a task, quoted turns or passages, the question. Knows prompts and forms, no search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from rag.core import LM, Hit, Message, digest
from rag.forms import DATA_RULE, Reply, ask, room_for
from rag.prompt import inert, unmarked
from rag.query.history import last_turns, spoken_turns

T = TypeVar("T")

MAX_QUERY_CHARS = 500
"""A longer line is no query: it is not what was asked for."""


class Quoted(NamedTuple):
    """A piece of somebody's text and what it is called in the prompt."""

    name: str
    text: str


class Asker:
    """Asks ``lm``, in at most ``max_prompt_tokens`` tokens and for at most ``max_tokens`` of reply.

    Raises ``ValueError`` for a limit below 1.
    """

    def __init__(self, lm: LM, max_tokens: int, max_prompt_tokens: int) -> None:
        for name, value in (("max_tokens", max_tokens), ("max_prompt_tokens", max_prompt_tokens)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.lm = lm
        self.max_tokens = max_tokens
        self.max_prompt_tokens = max_prompt_tokens

    def ask(
        self, task: str, question: str, quoted: Sequence[Quoted], read: Callable[[str], T], *, may_be_cut: bool = False
    ) -> Reply[T]:
        """The reply to ``task``, read by ``read`` (see ``rag.forms``)."""
        return ask(self.lm, prompt(task, question, quoted), read, self.max_tokens, may_be_cut=may_be_cut)

    def turns(self, task: str, question: str, history: Sequence[Message]) -> list[Quoted]:
        """The last turns of the conversation, as many as there is room for."""
        turns = last_turns(spoken_turns(history), self._room(task, question), lambda text: self.lm.count_tokens(_block_like(text)))
        return [Quoted(f"{turn.role.upper()} TURN", turn.content) for turn in turns]

    def passages(self, task: str, question: str, hits: Sequence[Hit], max_words: int) -> list[Quoted]:
        """The first ``max_words`` words of each hit, as many hits from the first on as there is room for."""
        room = self._room(task, question)
        quoted: list[Quoted] = []
        for hit in hits:
            words = hit.chunk.indexed_text.split()
            text = " ".join(words[:max_words]) + (" \u2026" if len(words) > max_words else "")
            room -= self.lm.count_tokens(_block_like(text))
            if room < 0:
                break
            quoted.append(Quoted(f"PASSAGE {len(quoted) + 1}", text))
        return quoted

    def _room(self, task: str, question: str) -> int:
        empty = self.lm.count_tokens(prompt(task, question, ()))
        return room_for(self.lm, self.max_prompt_tokens, self.max_tokens) - empty


def prompt(task: str, question: str, quoted: Sequence[Quoted]) -> list[Message]:
    """The messages: the same for the same arguments, so that a cache of answers or prefixes may help.

    The key is a hash of everything that is quoted, so nobody's text can hold it: writing it there would change it.
    """
    key = digest("query prompt", question, *(part for piece in quoted for part in piece))[:16]
    blocks = "".join(_block(piece, key) for piece in quoted)
    return [
        Message("system", f"{task}\n{DATA_RULE}"),
        Message("user", f"One-time key: {key}\n\n{blocks}Question: {' '.join(inert(question).split())}"),
    ]


def _block(piece: Quoted, key: str) -> str:
    text = unmarked(inert(piece.text)).replace(key, "(key)").strip()
    return f"BEGIN {piece.name} {key}\n{text}\nEND {piece.name} {key}\n\n"


def _block_like(text: str) -> str:
    """A block as long as the one that will hold ``text``: what is counted."""
    return _block(Quoted("ASSISTANT TURN", text), "0123456789abcdef")


def fallen_back(what: str, reply: Reply[T]) -> tuple[str, ...]:
    """The note on a reply that could not be read."""
    return (
        ()
        if reply.value is not None
        else (f"{what}: the model's reply could not be read ({reply.fault}); the question stayed as it is",)
    )
