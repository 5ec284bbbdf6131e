"""Segment folders: how one comes to be, is opened, merged and forgotten. Knows no kind of index and no document.

``segments/<name>/`` is written once, made durable, and only then named by a commit. A folder that no commit names is left
over from a writer that died, and the next writer removes it. The same holds for what an index keeps on a server: the folder is
there before anything is sent and goes after everything is taken back, so nothing can be left on a server that no folder tells of.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rag.catalog_read import SegmentRow
from rag.core import Chunk, Facts, Index, OnProgress, Segment, hearing
from rag.errors import DamagedIndex, ServerError
from rag.facts import BUILD_SECONDS, FILE, read_facts, together, write_facts
from rag.storage import check_folder, fsync, remove_folder, seal_folder
from rag.tracing import span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MERGE_FACTOR = 8  # segments of one size tier that are merged into one
MAX_AUTO_MERGED_CHUNKS = 50_000  # no graph is built during an ingest: `rag index compact` merges beyond this


class SegmentStore:
    """The folder ``segments/`` of one index and what of it is open in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, Segment] = {}

    def write(self, index_name: str, index: Index, segment: Segment, build_seconds: float) -> SegmentRow:
        """Writes a segment of ``index`` into a new folder and makes it durable; a commit has yet to name it.

        ``build_seconds``: what it took to build so far; what saving takes is added (a graph may be built there).
        """
        name = f"{index_name}-{uuid.uuid4().hex[:16]}"
        folder = self.folder / name
        folder.mkdir(parents=True)
        fsync(self.folder)
        try:
            started = time.perf_counter()
            segment.save(folder)
            write_facts(folder, segment.facts(), build_seconds + time.perf_counter() - started)
            files = seal_folder(folder)
        except BaseException:
            with suppress(ServerError):  # then the next writer's sweep tries again
                _remove(folder, {index_name: index})
            raise
        return SegmentRow(name, index_name, len(segment.keys), tuple(files))

    def open(self, row: SegmentRow, index: Index, *, read_bytes: bool = True) -> Segment:
        """The segment, opened once per process. Raises ``DamagedIndex`` that names the file which is not what was committed."""
        if row.name not in self._open:
            folder = self.folder / row.name
            check_folder(folder, list(row.files), read_bytes=read_bytes)
            segment = index.load(folder)
            if len(segment.keys) != row.num_chunks:
                raise DamagedIndex(folder, f"holds {len(segment.keys)} chunks instead of {row.num_chunks}")
            self._open[row.name] = segment
        return self._open[row.name]

    def facts(self, row: SegmentRow) -> Facts:
        """What the segment told of itself when it was written; nothing for one that was written before segments did.

        Raises ``DamagedIndex``.
        """
        told = any(file.name == FILE for file in row.files)
        return read_facts(self.folder / row.name) if told else {}

    def forget(self, names: Sequence[str], indexes: Mapping[str, Index]) -> None:
        """Lets go of segments and removes them; readers that still use them keep their mapped files.

        Raises ``ServerError`` if one of ``indexes`` cannot take back what it keeps elsewhere; the next writer's ``sweep`` tries again.
        """
        for name in names:
            self._open.pop(name, None)
            _remove(self.folder / name, indexes)

    def keep_open(self, names: Sequence[str]) -> None:
        """Lets go of every open segment but these."""
        self._open = {name: segment for name, segment in self._open.items() if name in set(names)}

    def sweep(self, live_names: Sequence[str], indexes: Mapping[str, Index]) -> None:
        """Removes every segment that no commit names. Only the writer may do this. Raises ``ServerError`` as ``forget`` does."""
        if self.folder.is_dir():
            self.forget([folder.name for folder in self.folder.iterdir() if folder.name not in set(live_names)], indexes)

    def beside(self, rows: Sequence[SegmentRow], index_name: str, index: Index) -> list[Segment]:
        """Those of ``rows`` that ``Index.build`` wants to see: the index's own, if it trains."""
        return [self.open(row, index) for row in rows if row.index_name == index_name] if index.trains else []

    def merged(
        self,
        rows: Sequence[SegmentRow],
        others: Sequence[SegmentRow],
        index: Index,
        live: NDArray[np.bool_],
        on_progress: OnProgress | None = None,
    ) -> SegmentRow | None:
        """A new segment with the live chunks of ``rows`` (``None`` if there are none). ``others``: those that stay."""
        spent = together([(row.num_chunks, self.facts(row)) for row in rows]).get(BUILD_SECONDS, 0.0)
        started = time.perf_counter()
        segments = [self.open(row, index) for row in rows]
        merged = index.merge(segments, live, self.beside(others, rows[0].index_name, index), on_progress)
        if not len(merged.keys):
            return None
        return self.write(rows[0].index_name, index, merged, float(spent) + time.perf_counter() - started)


def _remove(folder: Path, indexes: Mapping[str, Index]) -> None:
    """The index of a folder is in its name. One that is not configured any more is not there to take back what it keeps elsewhere."""
    index = indexes.get(folder.name.rpartition("-")[0])
    if index is not None:
        index.discard(folder)
    remove_folder(folder)


def due_merges(rows: Sequence[SegmentRow]) -> list[list[SegmentRow]]:
    """Groups of segments to merge now: ``MERGE_FACTOR`` of one index and one size tier (powers of ``MERGE_FACTOR``).

    Every chunk is so rewritten at most once per tier, and the number of segments stays logarithmic.
    """
    tiers: dict[tuple[str, int], list[SegmentRow]] = {}
    for row in sorted(rows, key=lambda row: (row.index_name, row.num_chunks, row.name)):
        tier = 0
        while MERGE_FACTOR ** (tier + 1) <= row.num_chunks:
            tier += 1
        tiers.setdefault((row.index_name, tier), []).append(row)
    due = []
    for group in tiers.values():
        if len(group) >= MERGE_FACTOR and sum(row.num_chunks for row in group) <= MAX_AUTO_MERGED_CHUNKS:
            due.append(group)
    return due


def build_all(
    store: SegmentStore,
    indexes: Mapping[str, Index],
    keys: NDArray[np.int64],
    chunks: Sequence[Chunk],
    texts: Mapping[str, str],
    others: Sequence[SegmentRow],
    on_encoded: Callable[[str, int], None] = lambda name, num_done: None,
) -> list[SegmentRow]:
    """One durable segment per index for the same chunks. ``texts``: as ``Index.build`` wants them; ``others``: what stands already.

    ``on_encoded`` is told the index that is being built and how many of the chunks its encoder has done, as far as that tells.
    """
    rows = []
    for name, index in indexes.items():
        started = time.perf_counter()
        num_done = 0

        def hear(num_texts: int, name: str = name) -> None:
            nonlocal num_done
            num_done += num_texts
            on_encoded(name, num_done)

        on_encoded(name, 0)
        with span(f"index {name}", chunks=len(chunks)), hearing(hear):
            segment = index.build(keys, chunks, texts, store.beside(others, name, index))
            rows.append(store.write(name, index, segment, time.perf_counter() - started))
    return rows
