"""What an index must be able to do, and what passes between it and whoever searches; part of ``rag.core``. Knows no index and no file format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.core import Chunk


class Matches(NamedTuple):
    """Keys found for one query with their scores, best first: ``keys`` int64 ``(n,)``, ``scores`` float32 ``(n,)``."""

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]


class Interaction(NamedTuple):
    """A query and some chunks as an index compares them: ``query`` float32 ``(q, dim)``, per chunk one float32 ``(t, dim)``.

    The score of a chunk is the sum, over the rows of the query, of the largest inner product with a row of the chunk. Where a
    text is one vector, ``q`` and ``t`` are 1 and the score is one inner product. With a ``basis`` float32 ``(dim, dim')`` the chunks'
    rows are in a space of ``dim'`` dimensions, where the query is ``query @ basis``.
    """

    query: NDArray[np.float32]
    chunks: Sequence[NDArray[np.float32]]
    basis: NDArray[np.float32] | None = None


Facts = Mapping[str, int | float | str]
"""What a segment tells of itself. Over the segments of an index an ``int`` (a count) adds up, a ``float`` (a share, a rate) is
averaged by numbers of chunks, and of words each different one is listed."""


OnProgress = Callable[[int, int], None]
"""Is told how many things are done, and of how many."""


class Segment(Protocol):
    """An immutable part of an index: built once, written once, read from memory-mapped files."""

    @property
    def keys(self) -> NDArray[np.int64]:
        """The keys of its chunks, ascending, ``(num_chunks,)``."""

    def save(self, folder: Path) -> None:
        """Writes plain files into an existing empty folder. The caller makes them durable."""

    def facts(self) -> Facts:
        """What people want to see of it (``recall_estimate``, ``vectors``, ...), final once it is saved. May be empty.

        Whoever stores the segment writes them beside its files, so that showing them opens no segment and loads no model.
        """


class Reader(Protocol):
    """An index as it stood at one commit. Never changes, so a search needs no lock."""

    def search(self, queries: Sequence[str], k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        """At most ``k`` matches per query, best first, ties by ascending key.

        ``allow[key]`` says whether a key may appear (keys past its end may not); it is applied *before* the top k are
        taken. ``None`` allows every live key. Deleted keys never appear either way.
        """

    def vectors(self, queries: Sequence[str], keys: Sequence[NDArray[np.int64]]) -> list[Interaction]:
        """Per query its vectors and those of the chunks ``keys[number]``, in that order, as ``search`` scores them.

        Raises ``rag.errors.NoVectors`` if this kind of index keeps none, ``ValueError`` for a key that is not live.
        """


class Index(Protocol):
    """One way to find chunks. Holds options and models, never chunks: those live in segments.

    The catalog gives every chunk an int64 key that is never used again. Nothing is ever changed in place: adding makes a
    new segment, deleting takes a key out of ``live``, compaction merges segments; the catalog commits all indexes at once.
    """

    @property
    def fingerprint(self) -> str:
        """Names everything that must be equal for two segments to be searched together (model, tokeniser, ...)."""

    @property
    def reads_documents(self) -> bool:
        """Whether what is stored of a chunk depends on the rest of its document, so that an edit anywhere makes it stale."""

    @property
    def trains(self) -> bool:
        """Whether its segments share something that is trained on them, so that ``build`` and ``merge`` want those ``beside``."""

    @property
    def efforts(self) -> Mapping[str, Sequence[float]]:
        """Options of a search that give time for recall, each with rising values worth comparing; none if a search is exact.

        Another value changes no fingerprint, so that a reader of the same segments may have it.
        """

    def build(
        self,
        keys: NDArray[np.int64],
        chunks: Sequence[Chunk],
        texts: Mapping[str, str] | None = None,
        beside: Sequence[Segment] = (),
    ) -> Segment:
        """A segment of ``chunks``; ``keys`` ascend. ``texts``: the text of each chunk's document by document id; an index
        that ``reads_documents`` raises ``ValueError`` without it. ``beside``: the segments it will be searched with; an index
        that ``trains`` takes over from them what it can.
        """

    def load(self, folder: Path) -> Segment:
        """Opens what ``Segment.save`` wrote. Raises ``rag.errors.DamagedIndex`` if the files do not fit together."""

    def merge(
        self,
        segments: Sequence[Segment],
        live: NDArray[np.bool_],
        beside: Sequence[Segment] = (),
        on_progress: OnProgress | None = None,
    ) -> Segment:
        """One segment with the live keys of all ``segments``; encodes nothing again. ``beside``: as in ``build``.

        ``on_progress``: is told (chunks done, of how many) while the result is saved, by an index that needs long for it.
        """

    def reader(self, segments: Sequence[Segment], live: NDArray[np.bool_]) -> Reader:
        """A view of these segments in which only keys with ``live[key]`` exist."""

    def check(self, folder: Path) -> None:
        """Reads all of what a segment keeps elsewhere than in its folder, which is intact (see ``KeptInFolder``).

        Raises ``rag.errors.DamagedIndex`` if it is not what was saved, ``ServerError`` if it cannot be read.
        """

    def discard(self, folder: Path) -> None:
        """Removes what a segment keeps elsewhere than in its folder, which no commit names any more, or never did: it may be half written.

        Calling it again does no harm. Raises ``rag.errors.ServerError`` if that is not possible now; the folder then stays.
        """


class KeptInFolder:
    """Base of indexes whose segments keep nothing outside their folders, so that files alone decide what is there."""

    def check(self, folder: Path) -> None:
        """The folder's files are all there is."""

    def discard(self, folder: Path) -> None:
        """The folder's files are all there is."""


class StandAlone:
    """Base of indexes whose segments stand alone: a chunk is stored by itself, nothing is trained, no option gives time for recall."""

    @property
    def reads_documents(self) -> bool:
        return False

    @property
    def trains(self) -> bool:
        return False

    @property
    def efforts(self) -> Mapping[str, Sequence[float]]:
        return {}
