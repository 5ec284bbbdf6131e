"""What is stored of the documents, for whoever widens a hit inside the document it lies in. Part of ``rag.core``; knows no disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from rag.core import Chunk, Span


class Stretch(NamedTuple):
    """Neighbouring chunks of one document in reading order, and how many chunks of the document stand before them."""

    first: int
    chunks: tuple[Chunk, ...]


class Corpus(Protocol):
    """The documents as they are stored now.

    Nothing here asks who may read: ask only for the document of a hit, which was found for somebody who may.
    """

    def near(self, doc_id: str, span: Span, before: int, after: int) -> Stretch:
        """The chunks from the one in which ``span`` starts to the last one that it holds whole, with up to ``before`` chunks before
        them and ``after`` behind them. Empty if there is no such document any more.
        """

    def text(self, doc_id: str, span: Span) -> str:
        """The characters at ``span``; "" if there is no such document any more."""
