"""The conversation before a question: what callers may give, and the part of it that is read. Knows turns, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rag.core import Message
from rag.prompt import visible

ROLES = ("system", "user", "assistant")
MAX_TURNS = 100
MAX_TURN_CHARS = 20_000


def messages_of(history: Iterable[Any]) -> tuple[Message, ...]:
    """``Message``s, pairs ``(role, content)`` or mappings ``{"role": ..., "content": ...}`` as messages.

    Raises ``ValueError`` that names the place and the bad value.

    >>> messages_of([{"role": "user", "content": "Who wrote Carmen?"}, ("assistant", "Bizet.")])[1].content
    'Bizet.'
    """
    turns = [history] if isinstance(history, (str, bytes, Mapping)) else list(history or ())
    return tuple(_message(place, turn) for place, turn in enumerate(turns))


def _message(place: int, turn: Any) -> Message:
    pair = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else turn
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or pair[0] not in ROLES or not isinstance(pair[1], str):
        raise ValueError(
            f"history[{place}] is {turn!r}; allowed: a Message, a pair (role, content) or a mapping of both, "
            f"with a role of {', '.join(ROLES)} and text as content"
        )
    return Message(pair[0], pair[1])


def spoken_turns(history: Sequence[Message]) -> list[Message]:
    """The last 100 turns of user and assistant that say something, oldest first, without what nobody saw.

    Of a longer turn its last 20,000 characters: nobody's paste makes the next question slow.
    """
    said = [turn for turn in history if turn.role != "system"][-MAX_TURNS:]
    shown = [Message(turn.role, visible(turn.content[-MAX_TURN_CHARS:]).strip()) for turn in said]
    return [turn for turn in shown if turn.content]


def last_turns(turns: Sequence[Message], max_tokens: int, count: Callable[[str], int]) -> list[Message]:
    """The last of ``turns`` that have at most ``max_tokens`` tokens together; the first one kept may have lost its beginning."""
    kept: list[Message] = []
    room = max_tokens
    for turn in reversed(turns):
        content = _ending(turn.content, room, count)
        if not content:
            break
        kept.append(Message(turn.role, content))
        room -= count(content)
        if content != turn.content:
            break
    return kept[::-1]


def _ending(text: str, room: int, count: Callable[[str], int]) -> str:
    """The longest ending of ``text``, from a word on, with at most ``room`` tokens; "" if not a few words fit."""
    if count(text) <= room:
        return text
    words = text.split()
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        fits = count("\u2026 " + " ".join(words[-middle:])) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return "\u2026 " + " ".join(words[-low:]) if low >= 4 else ""
