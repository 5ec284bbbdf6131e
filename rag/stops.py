"""Text that grows token by token and ends before a stop string. Knows a tokenizer's ``decode``, no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rag.core import Completion


class StopCutter:
    """Lets pieces of text through up to the first stop string, however the pieces are cut.

    >>> cutter = StopCutter(["END"])
    >>> [cutter.push(piece) for piece in ["one E", "ND two"]], cutter.stopped
    (['one ', ''], True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("stop='': an empty stop string would end every text at once")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """What is certain to stand before every stop string; "" once one was met."""
        if self.stopped:
            return ""
        text = self._held + piece
        ends = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back because it might have become a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Writer:
    """The text of one row while its tokens come: incremental detokenisation, stop strings, the end."""

    def __init__(
        self, tokenizer: Any, ends: frozenset[int], stop: Sequence[str], prompt_tokens: int, max_tokens: int, strip: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._cutter = StopCutter(stop)
        self._prompt_tokens = prompt_tokens
        self._max_tokens = max_tokens
        self._strip = strip  # the blank that a plain "Assistant:" leaves
        self._ids: list[int] = []
        self._window = 0  # ids before it are settled; decoding starts here so that blanks between tokens come out right
        self._shown = 0  # ids before it are in the text
        self._text = ""
        self.finish: str = ""

    def push(self, token: int) -> str:
        """Takes the next token and returns the text that became certain; nothing once the row is finished."""
        if self.finish:
            return ""
        if token in self._ends:
            self.finish = "stop"
            return ""
        self._ids.append(token)
        piece = self._emit(final=False)
        if self._cutter.stopped:
            self.finish = "stop"
        elif len(self._ids) >= self._max_tokens:
            self.finish = "length"
        return piece

    def rest(self) -> str:
        """What was held back when the row finished."""
        if self._cutter.stopped:
            return ""
        piece = self._emit(final=True)
        return piece if self._cutter.stopped else piece + self._add(self._cutter.finish())

    def completion(self) -> Completion:
        """The whole text and its cost."""
        return Completion(self._text, self._prompt_tokens, len(self._ids), "length" if self.finish == "length" else "stop")

    def _emit(self, final: bool) -> str:
        before = self._decoded(self._ids[self._window : self._shown])
        now = self._decoded(self._ids[self._window :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not final):
            return ""  # nothing new, or the bytes of a character are not all there yet
        self._window, self._shown = self._shown, len(self._ids)
        return self._add(self._cutter.push(now[len(before) :]))

    def _add(self, piece: str) -> str:
        if self._strip and not self._text:
            piece = piece.lstrip()
        self._text += piece
        return piece

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
