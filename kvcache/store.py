"""Keeps chunks' keys and values within byte budgets, and gives them back or not, but never wrong ones. Knows no model."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.draft import STORAGES, Draft, Storage, chunk_draft, layer_kv, statistics_of
from rag.kvcache.eviction import Policy, Ranking
from rag.kvcache.key import Key, KVKey
from rag.kvcache.pool import Pool
from rag.kvcache.slab import DamagedKV, Head
from rag.kvcache.stats import KVStats

if TYPE_CHECKING:
    from torch import Tensor

    from rag.kernels.assemble import LayerKV

__all__ = ["DamagedKV", "Held", "KVStore"]


class _Entry:
    def __init__(self, head: Head, memory: Tensor) -> None:
        self.head, self.memory = head, memory
        self.hits, self.pins = 1, 0


class Held:
    """An entry that stays where it is until it is closed. Tensors are views of the store's memory: read them, and only before ``close``."""

    def __init__(self, store: KVStore, entry: _Entry) -> None:
        self._store, self._entry = store, entry
        self._closed = False
        self.tier = "ram"

    @property
    def num_tokens(self) -> int:
        """Tokens of the chunk."""
        return len(self._entry.head.ids)

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self._entry.head.geometry.num_layers

    @property
    def num_bytes(self) -> int:
        """Of the stored entry."""
        return self._entry.head.num_bytes

    def layer(self, index: int) -> LayerKV:
        """Keys and values of one layer. Raises ``DamagedKV`` if they are not what was stored; the next ``get`` is a miss."""
        return layer_kv(self._entry.head, self._slab(index))

    @property
    def statistics(self) -> Mapping[str, Tensor]:
        """The further tensors of the chunk. Raises ``DamagedKV`` like ``layer``."""
        head = self._entry.head
        slab = self._slab(head.geometry.num_layers) if len(head.places) > head.geometry.num_layers else None
        return statistics_of(head, slab)

    def _slab(self, number: int) -> Tensor:
        assert not self._closed, "the entry was given back"
        place = self._entry.head.places[number]
        return self._entry.memory[place.offset : place.offset + place.num_bytes]

    def close(self) -> None:
        """Gives the entry back; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._store._unpin(self._entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class KVStore:
    """A cache of chunks' keys and values; thread safe."""

    def __init__(
        self,
        folder: Path | None = None,
        ram_bytes: int = 1 << 30,
        disk_bytes: int = 0,
        device_bytes: int = 0,
        device: str = "cpu",
        storage: Storage = "plain",
        eviction: Policy = "benefit",
    ) -> None:
        if storage not in STORAGES:
            raise ValueError(f"storage is {storage!r}; it can be {', '.join(STORAGES)}")
        self._storage: Storage = storage
        self._lock = threading.RLock()
        self._pool = Pool(ram_bytes)
        self._ranking = Ranking(eviction)
        self._entries: dict[str, _Entry] = {}
        self._hits = self._misses = self._evictions = self._refused = 0
        self._saved_seconds = 0.0

    def get(self, key: Key) -> Held | None:
        """The entry of ``key``, pinned until it is closed; ``None``: it is not here."""
        with self._lock:
            entry = self._entries.get(key.digest)
            if entry is None or not entry.head.answers(key):
                self._misses += 1
                return None
            entry.hits += 1
            entry.pins += 1
            self._hits += 1
            self._saved_seconds += entry.head.seconds
            self._ranking.touch(key.digest, entry.hits, entry.head.seconds, entry.head.num_bytes)
            return Held(self, entry)

    def put(self, key: KVKey, kv: ChunkKV, prefill_seconds: float) -> bool:
        """Keeps ``kv``, which took ``prefill_seconds`` to compute; whether it was kept. Raises ``ValueError`` for ids that differ."""
        draft = chunk_draft(key, kv, self._storage, prefill_seconds)
        with self._lock:
            known = self._entries.get(key.digest)
            if known is not None:
                if known.head.answers(key) or known.pins:
                    return known.head.answers(key)
                self._forget(key.digest)
            memory = self._room(draft)
            if memory is None:
                self._refused += 1
                return False
            for number, place in enumerate(draft.head.places):
                draft.write(number, memory[place.offset : place.offset + place.num_bytes])
            self._entries[key.digest] = _Entry(draft.head, memory)
            self._ranking.touch(key.digest, 1, prefill_seconds, draft.head.num_bytes)
            return True

    def holds(self, keys: Sequence[Key]) -> list[bool]:
        """Whether each is here, as far as can be told without reading it."""
        with self._lock:
            return [key.digest in self._entries and self._entries[key.digest].head.answers(key) for key in keys]

    def clear(self) -> None:
        """Forgets everything that nobody holds."""
        with self._lock:
            for digest in [digest for digest, entry in self._entries.items() if not entry.pins]:
                self._forget(digest)

    def flush(self) -> None:
        """Returns when everything that is to be on the disk is there."""

    def close(self) -> None:
        """Flushes and lets go of the memory."""
        self.flush()

    def stats(self) -> KVStats:
        """What is here and what it was good for."""
        with self._lock:
            return KVStats(
                entries=len(self._entries),
                tokens=sum(len(entry.head.ids) for entry in self._entries.values()),
                entries_by_tier={"ram": len(self._entries)},
                bytes_by_tier={"ram": self._pool.num_lent_bytes},
                budget_by_tier={"ram": self._pool.num_bytes},
                hits_by_tier={"ram": self._hits},
                misses=self._misses,
                evictions_by_tier={"ram": self._evictions},
                refused=self._refused,
                damaged=0,
                failed_writes=0,
                foreign=0,
                saved_seconds=self._saved_seconds,
            )

    def _room(self, draft: Draft) -> Tensor | None:
        while True:
            memory = self._pool.lend(draft.head.num_bytes)
            if memory is not None or draft.head.num_bytes > self._pool.num_bytes:
                return memory
            victim = self._ranking.lowest(lambda digest: not self._entries[digest].pins)
            if victim is None:
                return None
            self._ranking.evict(victim)
            self._evictions += 1
            self._forget(victim)

    def _forget(self, digest: str) -> None:
        self._ranking.forget(digest)
        self._pool.take_back(self._entries.pop(digest).memory)

    def _unpin(self, entry: _Entry) -> None:
        with self._lock:
            entry.pins -= 1
