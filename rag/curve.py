"""How much recall an index gives for how much time, over the settings that it says trade the two. Knows indexes by their protocol only.

Truth is an exhaustive search of the same stored vectors: every live chunk scored as ``rag.core.Interaction`` says. What storing them
smaller costs (int8, codes) is therefore not in the recall; what a search passes over is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rag import registry
from rag.config import Assembly, Block
from rag.core import Index, Matches, Reader
from rag.errors import ConfigError, NoVectors
from rag.segments import SegmentStore
from rag.snapshot import take

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from rag.pipeline import Rag

_BLOCK_CHUNKS = 64  # 64 chunks of 512 token vectors against 2,000 query tokens: 256 MB of products
_ROUNDING = 1e-6  # sums of the same products in another order differ by about this much


@dataclass(frozen=True, slots=True)
class Point:
    """One setting: ``option`` has ``value``, all others are as configured. ``recall`` is ``None`` where there is no truth.

    Milliseconds are of a search alone, the vectors of the query known.
    """

    option: str
    value: float | None
    configured: bool
    recall: float | None
    p50_milliseconds: float
    p95_milliseconds: float

    @property
    def setting(self) -> str:
        """For people; an index without such options has one way to search."""
        return f"{self.option} {self.value:g}" if self.value is not None else "as configured"


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one index, by option and rising value. ``exact``: it passes over nothing, so only its time was measured."""

    index: str
    use: str
    k: int
    num_chunks: int
    num_queries: int
    rounds: int
    exact: bool
    encode_milliseconds: float
    points: tuple[Point, ...]


def names_of(rag: Rag, name: str | None) -> list[str]:
    """The indexes to measure: ``name``, or every configured one. Raises ``ConfigError`` for an unknown name."""
    known = list(rag.config.indexes)
    if name is not None and name not in known:
        raise ConfigError(f"there is no index {name!r}{registry.did_you_mean(name, known)}; allowed: {', '.join(known)}")
    return known if name is None else [name]


def measure(
    rag: Rag, name: str, queries: Sequence[str], k: int = 10, *, rounds: int = 3, on_progress: Callable[[str], None] | None = None
) -> Curve:
    """The curve of the index ``name``: one pass over all queries to warm up, then ``rounds`` in which the settings take turns.

    The time of a query is the median of its rounds. Raises ``ValueError`` for ``k`` or ``rounds`` below 1, no queries or no
    chunks, ``ConfigError`` for an unknown name, and what opening an index raises.
    """
    for what, number in (("k", k), ("rounds", rounds), ("the number of queries", len(queries))):
        if number < 1:
            raise ValueError(f"{what} must be at least 1, not {number}")
    names_of(rag, name)
    say = on_progress or (lambda said: None)
    block = rag.config.indexes[name]
    models = {model: Remembering(rag.components.model(model)) for model in _models(rag, block)}
    assembly = Assembly(rag.config, models)
    base: Index = assembly.build("index", f"indexes.{name}", block)
    settings = settings_of(block, base.efforts)
    indexes = [assembly.build("index", f"indexes.{name}", _changed(block, option, value)) for option, value in settings]
    with rag.catalog.reading() as read:
        live, store = read.live(), SegmentStore(rag.folder / "segments")
        snapshots = [take(read, store, {name: index}) for index in indexes]  # segments are opened once, by the store
    readers = [snapshot.readers[name] for snapshot in snapshots]
    keys = np.flatnonzero(live)
    if not len(keys):
        raise ValueError(f"the index in {rag.folder} holds no chunks")
    say(f"{name}: warming up, {len(readers)} settings, {len(queries)} queries")
    found = [[reader.search([query], k)[0] for query in queries] for reader in readers]
    truth = None
    if base.efforts:
        say(f"{name}: exhaustive search of {len(keys)} chunks")
        truth = exhaustive(readers[0], queries, keys)
    say(f"{name}: {rounds} rounds")
    milliseconds = np.median([_round(readers, queries, k, number) for number in range(rounds)], axis=0)
    points = tuple(
        Point(
            option, value, value is None or value == _configured(block, option),
            None if truth is None else round(recall(truth, keys, own, k), 4),
            round(float(np.percentile(spent, 50)), 4), round(float(np.percentile(spent, 95)), 4),
        )
        for (option, value), own, spent in zip(settings, found, milliseconds, strict=True)
    )  # fmt: skip
    encode = 1000 * sum(model.median_seconds for model in models.values())
    return Curve(name, block.use, k, len(keys), len(queries), rounds, not base.efforts, round(encode, 4), points)


def settings_of(block: Block, efforts: Mapping[str, Sequence[float]]) -> list[tuple[str, float | None]]:
    """(option, value) of every point: the values the index names and the configured one. One empty setting without any."""
    settings: list[tuple[str, float | None]] = [
        (option, value) for option, values in efforts.items() for value in sorted({*values, _configured(block, option)})
    ]
    return settings or [("", None)]


def exhaustive(reader: Reader, queries: Sequence[str], keys: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """The true score of every query and chunk, ``(queries, keys)``; ``None`` if the index keeps no vectors."""
    import torch

    from rag.kernels.maxsim import maxsim

    none = np.empty(0, np.int64)
    try:
        asked = [own.query for own in reader.vectors(queries, [none] * len(queries))]
    except NoVectors:
        return None
    rows, starts = np.concatenate(asked), _borders(asked)
    scores = np.empty((len(queries), len(keys)), np.float32)
    for first in range(0, len(keys), _BLOCK_CHUNKS):
        (own,) = reader.vectors(queries[:1], [keys[first : first + _BLOCK_CHUNKS]])
        turned, stored = rows if own.basis is None else rows @ own.basis, np.concatenate(own.chunks)
        found = maxsim(torch.from_numpy(turned), starts, torch.from_numpy(stored), _borders(own.chunks))
        scores[:, first : first + len(own.chunks)] = found.numpy()
    return scores


def _borders(parts: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.cumsum([0, *map(len, parts)]))


def recall(truth: NDArray[np.float32], keys: NDArray[np.int64], found: Sequence[Matches], k: int) -> float:
    """The share of the true top ``k`` that was found, the mean over queries. Of chunks that score the same any will do."""
    wanted = min(k, len(keys))
    shares = []
    for scores, matches in zip(truth, found, strict=True):
        least = float(np.partition(scores, len(scores) - wanted)[len(scores) - wanted])
        own = scores[np.searchsorted(keys, matches.keys[:wanted])]
        shares.append(np.count_nonzero(own >= least - _ROUNDING * max(1.0, abs(least))) / wanted)
    return float(np.mean(shares))


def _round(readers: Sequence[Reader], queries: Sequence[str], k: int, number: int) -> NDArray[np.float64]:
    """Milliseconds ``(settings, queries)``. Every query goes to all settings in turn, first one way and then the other."""
    spent = np.empty((len(readers), len(queries)))
    order = range(len(readers)) if number % 2 == 0 else range(len(readers) - 1, -1, -1)
    for place, query in enumerate(queries):
        for each in order:
            started = time.perf_counter()
            readers[each].search([query], k)
            spent[each, place] = 1000 * (time.perf_counter() - started)
    return spent


class Remembering:
    """A model that is asked for the vectors of a query once, and says how long that took: the time of a search is that of the index."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._known: dict[tuple[str, ...], Any] = {}
        self._seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode_queries(self, texts: Sequence[str]) -> Any:
        key = tuple(texts)
        if key not in self._known:
            started = time.perf_counter()
            self._known[key] = self._inner.encode_queries(texts)
            if len(key) == 1:  # in a batch a query costs less than alone
                self._seconds.append(time.perf_counter() - started)
        return self._known[key]

    @property
    def median_seconds(self) -> float:
        """For one query."""
        return float(np.median(self._seconds)) if self._seconds else 0.0


def _models(rag: Rag, block: Block) -> list[str]:
    """Those the index is handed; what they are made of stays theirs."""
    return [name for name in registry.wanted_models(registry.component("index", block.use)) if name in rag.config.models]


def _changed(block: Block, option: str, value: float | None) -> Block:
    return Block.model_validate({**block.model_dump(), option: value}) if value is not None else block


def _configured(block: Block, option: str) -> Any:
    """The value in force: the configured one or the default of the index's class."""
    return block.options.get(option, registry.options(registry.component("index", block.use))[option].default)
