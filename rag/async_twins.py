"""The same face for callers that must not block: each method runs its plain twin in a thread. Knows no stage of the chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.core import Answer, Event, Hit
    from rag.ingest import IngestReport


class AsyncTwins:
    """``aask``, ``asearch``, ``astream``, ``aingest``, ``adelete``: the arguments and errors of the methods without the ``a``."""

    ask: Callable[..., Answer]
    search: Callable[..., list[Hit]]
    stream: Callable[..., Iterator[Event]]
    ingest: Callable[..., IngestReport]
    delete: Callable[..., int]

    async def aask(self, query: str, **options: Any) -> Answer:
        """``ask`` in a thread."""
        return await asyncio.to_thread(self.ask, query, **options)

    async def asearch(self, query: str, k: int = 10, **options: Any) -> list[Hit]:
        """``search`` in a thread."""
        return await asyncio.to_thread(self.search, query, k, **options)

    async def aingest(self, paths: Any, **options: Any) -> IngestReport:
        """``ingest`` in a thread."""
        return await asyncio.to_thread(self.ingest, paths, **options)

    async def adelete(self, sources: Any, **options: Any) -> int:
        """``delete`` in a thread."""
        return await asyncio.to_thread(self.delete, sources, **options)

    async def astream(self, query: str, **options: Any) -> AsyncIterator[Event]:
        """``stream``, one event at a time; leaving the loop early stops the work after the event in hand."""
        events = self.stream(query, **options)
        nothing = object()
        try:
            while (event := await asyncio.to_thread(next, events, nothing)) is not nothing:
                yield event  # type: ignore[misc]
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                await asyncio.to_thread(close)
