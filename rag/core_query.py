"""The words that pass between the pipeline and a query stage; import them from ``rag.core``. Knows no stage."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rag.core_lm import Message

if TYPE_CHECKING:
    from rag.core import Hit, Usage


def _nothing() -> Usage:
    from rag.core import Usage  # core imports this module first

    return Usage()


@dataclass(frozen=True, slots=True)
class Found:
    """What a query stage found: the question as the later stages should read it, and its hits, best first.

    ``usage``: what its language model cost; ``notes``: one line for each thing that did not go as configured.
    """

    question: str
    hits: Sequence[Hit]
    usage: Usage = field(default_factory=_nothing)
    notes: tuple[str, ...] = ()


Finding = Generator[Sequence[str], "list[list[Hit]]", Found]
"""A query stage at work: it yields queries and is sent, per query, the fused hits, as often as it likes; then it returns."""


class QueryStage(Protocol):
    """Turns a question, and the conversation before it, into hits.

    The pipeline searches what the stage yields, with the filter and for the principals of the one who asks: a stage holds no search
    that it could keep or widen. Queries that are yielded together are searched together; the pipeline may also put those of several
    questions into one search. A stage that holds another one hands its searches on by ``yield from``.
    """

    @property
    def rewrites(self) -> bool:
        """Whether it may search for anything but the question as it is; if not, the chain does not show it as a stage."""
        ...

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        """``history``: the turns before the question, oldest first. Raises ``ModelError`` if a model does not answer.

        ``(hits,) = yield [question]; return Found(question, hits)`` is the plainest stage.
        """
        ...
