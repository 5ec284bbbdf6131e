"""Keeps chunks' keys and values within byte budgets, and gives them back or not, but never wrong ones. Knows no model.

Tiers: a device, host memory, a folder. An entry is put into host memory and written to the folder behind the caller's back, so that
evicting it from memory is mostly free and the next process finds it. A hit climbs to the faster tiers while it is read, layer by layer.
Every tier keeps what is worth most per byte (see ``eviction``), and nothing that would take longer to load than to compute.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.disk import Disk
from rag.kvcache.draft import STORAGES, Draft, Storage, bytes_draft, chunk_draft, layers_draft
from rag.kvcache.entry import Entry
from rag.kvcache.eviction import Policy
from rag.kvcache.held import Held
from rag.kvcache.history import History
from rag.kvcache.key import BytesKey, Key, KVKey
from rag.kvcache.memory import Leave, Memory
from rag.kvcache.pool import Pool
from rag.kvcache.rate import Rates
from rag.kvcache.slab import DamagedKV, Head, entry_name, seal
from rag.kvcache.stats import KVStats
from rag.kvcache.write_behind import WriteBehind

if TYPE_CHECKING:
    from torch import Tensor

    from rag.kernels.assemble import LayerKV

__all__ = ["DamagedKV", "Held", "KVStore"]

Admission = Literal["always", "second"]


class KVStore:
    """A cache of chunks' keys and values; thread safe, and the folder may be shared by processes.

    ``ram_bytes``, ``disk_bytes``, ``device_bytes``: hard limits, in bytes; a tier without bytes does not exist. ``device``: where tensors are
    wanted; with a GPU host memory is pinned. ``storage``: ``plain``, or codes of 8 or 4 bits (see ``rag.kernels.quantise``). ``eviction``: see
    there. ``admission``: ``second`` lets only entries that were asked for twice push others out. ``rates``: bytes per second that a tier
    (``ram``, ``disk``) is known to load; otherwise assumed at first and then measured.

    Raises ``ValueError`` for words that do not exist, negative budgets, a folder without ``disk_bytes`` and the reverse, and ``OSError`` if the
    folder cannot be used.
    """

    def __init__(
        self,
        folder: Path | None = None,
        ram_bytes: int = 1 << 30,
        disk_bytes: int = 0,
        device_bytes: int = 0,
        device: str = "cpu",
        storage: Storage = "plain",
        eviction: Policy = "benefit",
        admission: Admission = "always",
        rates: Mapping[str, float] | None = None,
    ) -> None:
        import torch

        if storage not in STORAGES:
            raise ValueError(f"storage is {storage!r}; it can be {', '.join(STORAGES)}")
        if admission not in ("always", "second"):
            raise ValueError(f"admission is {admission!r}; it can be always, second")
        for name, budget in (("ram_bytes", ram_bytes), ("disk_bytes", disk_bytes), ("device_bytes", device_bytes)):
            if budget < 0:
                raise ValueError(f"{name} is {budget}; a budget cannot be negative")
        if (folder is None) != (disk_bytes == 0):
            raise ValueError(f"folder is {folder} and disk_bytes is {disk_bytes}: the disk tier needs both")
        self.storage: Storage = storage
        self._admission = admission
        self._device = torch.device(device)
        self._rates = Rates(rates)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        pinned = self._device.type == "cuda"
        self._ram = Memory("ram", Pool(ram_bytes, "cpu", pinned), eviction, self._rates)
        self._fast = Memory("device", Pool(device_bytes, self._device), eviction, self._rates) if device_bytes else None
        self._tiers = [tier for tier in (self._fast, self._ram) if tier is not None]
        self._disk = Disk(folder, disk_bytes, eviction, self._rates) if folder is not None else None
        self._writer = WriteBehind(self._changed, self._write)
        self._entries: dict[str, Entry] = {}
        self._history = History()
        self._hits = {"device": 0, "ram": 0, "disk": 0}
        self._misses = self._refused = self._failed_writes = 0
        self._saved_seconds = 0.0

    # Asking ------------------------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Held | None:
        """The entry of ``key``, which stays until it is closed; ``None``: it is not here, or it is not what was asked for."""
        name = self._name(key)
        with self._lock:
            self._history.add(name)
            if name in self._entries:
                return self._hold(self._entries[name], key)
        file = self._disk.open(name) if self._disk is not None else None
        with self._lock:
            if name not in self._entries and file is not None and file.head.answers(key):
                entry = Entry(file.head)
                entry.file, file = file, None
                self._entries[name] = entry
            if file is not None:
                file.close()
            if name in self._entries:
                return self._hold(self._entries[name], key)
            self._misses += 1
            return None

    def get_bytes(self, key: BytesKey) -> bytes | None:
        """What ``put_bytes`` kept; ``None``: it is not here."""
        held = self.get(key)
        if held is None:
            return None
        with held:
            try:
                return held.content()
            except DamagedKV:
                return None

    def holds(self, keys: Sequence[Key]) -> list[bool]:
        """Whether each is here, as far as can be told without reading it: not a request, and no promise."""
        names = [self._name(key) for key in keys]
        with self._lock:
            known = [self._entries.get(name) for name in names]
        return [
            entry.head.answers(key) if entry is not None else self._disk is not None and self._disk.exists(name)
            for key, name, entry in zip(keys, names, known, strict=True)
        ]

    def names(self, prefix: str = "", salt: str = "") -> list[str]:
        """The words under which bytes are kept for this salt, sorted."""
        words = [(str(head.meta.get("name")), head) for head in self._heads() if head.kind == "bytes"]
        return sorted(word for word, head in words if word.startswith(prefix) and head.answers(BytesKey(word, salt)))

    def _heads(self) -> Iterator[Head]:
        """Without the lock: of everything that is here."""
        with self._lock:
            heads = {name: entry.head for name, entry in self._entries.items()}
        yield from heads.values()
        if self._disk is not None:
            for name in self._disk.counts()[0].keys() - heads.keys():
                file = self._disk.open(name)
                if file is not None:
                    yield file.head
                    file.close()

    # Keeping -----------------------------------------------------------------------------------------------------------------

    def put(self, key: KVKey, kv: ChunkKV, prefill_seconds: float) -> bool:
        """Keeps ``kv``, which took ``prefill_seconds`` to compute; whether it was kept. What is here already stays as it is.

        Raises ``ValueError`` if ``kv`` is not of the key's tokens, cannot be coded, or the seconds are no time.
        """
        if self._has(key):
            return True
        return self._put(chunk_draft(key, kv, self.storage, prefill_seconds))

    def put_layers(self, key: KVKey, kv: LayerKV, dtype: str, prefill_seconds: float) -> bool:
        """``put`` of what was written as this store keeps it: ``kv`` of the kind ``storage``, layers in front; ``dtype``: of plain numbers.

        Raises ``ValueError`` as ``put`` does, and for another kind.
        """
        if kv.kind != self.storage:
            raise ValueError(f"the store keeps {self.storage}; these keys and values are {kv.kind}")
        return self._has(key) or self._put(layers_draft(key, kv, dtype, prefill_seconds))

    def put_bytes(self, key: BytesKey, content: bytes, seconds: float) -> bool:
        """Keeps some bytes beside the chunks, which took ``seconds`` to make, in the place of what the key had; whether they were kept."""
        draft = bytes_draft(key, content, seconds)
        self.drop([key])
        return self._put(draft)

    def drop(self, keys: Sequence[Key]) -> None:
        """Deletes entries, also from the folder. Who holds one keeps it until it is closed."""
        self._drop([self._name(key) for key in keys])

    def keep_only(self, chunks: Collection[tuple[int, ...]]) -> int:
        """Deletes the chunks whose tokens are none of ``chunks``, also from the folder and whoever wrote them; how many went.

        Heads of files hold the tokens, so nothing needs to be known of who computed a chunk, behind what, and for whom.
        """
        self.flush()
        if self._disk is not None:
            self._disk.look()
        gone = [head.name for head in self._heads() if head.kind != "bytes" and tuple(head.ids) not in chunks]
        self._drop(gone)
        return len(gone)

    def _drop(self, names: Sequence[str]) -> None:
        """Without the lock."""
        with self._lock:
            for name in names:
                if name in self._entries:
                    self._doom(self._entries[name])
        for name in names:
            if self._disk is not None:
                self._disk.remove(name)

    def clear(self) -> None:
        """Deletes all entries, also from the folder; strangers' files there stay."""
        with self._lock:
            for entry in list(self._entries.values()):
                self._doom(entry)
        self.flush()
        if self._disk is not None:
            self._disk.clear()

    def flush(self) -> None:
        """Returns when everything that is to be on the disk is there."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes. The store can be used on; nothing but its memory is lost with it."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def stats(self) -> KVStats:
        """What is here and what it was good for."""
        on_disk, disk_bytes = self._disk.counts() if self._disk is not None else ({}, 0)
        with self._lock:
            tokens = {**on_disk, **{name: len(entry.head.ids) for name, entry in self._entries.items()}}
            tiers = {tier.name: tier for tier in self._tiers}
            disk = self._disk
            return KVStats(
                entries=len(tokens),
                tokens=sum(tokens.values()),
                entries_by_tier={name: len(tier) for name, tier in tiers.items()} | ({"disk": len(on_disk)} if disk else {}),
                bytes_by_tier={name: tier.pool.num_lent_bytes for name, tier in tiers.items()}
                | ({"disk": disk_bytes} if disk else {}),
                budget_by_tier={name: tier.pool.num_bytes for name, tier in tiers.items()}
                | ({"disk": disk.num_bytes} if disk else {}),
                hits_by_tier={name: self._hits[name] for name in tiers} | ({"disk": self._hits["disk"]} if disk else {}),
                misses=self._misses,
                evictions_by_tier={name: tier.evictions for name, tier in tiers.items()}
                | ({"disk": disk.evictions} if disk else {}),
                refused=self._refused,
                damaged=disk.damaged if disk else 0,
                failed_writes=self._failed_writes,
                foreign=disk.foreign if disk else 0,
                saved_seconds=self._saved_seconds,
            )

    # Inside: the lock is held in all that follows, unless it says otherwise --------------------------------------------------

    def _name(self, key: Key) -> str:
        return entry_name(key.digest, "bytes" if isinstance(key, BytesKey) else self.storage)

    def _hits_of(self, name: str) -> int:
        return max(self._history[name], 1)

    def _hold(self, entry: Entry, key: Key) -> Held | None:
        if not entry.head.answers(key):
            self._misses += 1
            return None
        name, hits = entry.head.name, self._hits_of(entry.head.name)
        entry.pins += 1
        held = Held(entry, self._slab, self._damaged, self._unpin)
        self._hits[held.tier] += 1
        self._saved_seconds += max(entry.head.seconds - self._rates.seconds(held.tier, entry.head.num_bytes), 0.0)
        entry.written = False
        for tier in self._tiers:
            tier.touch(entry, hits)
        if self._disk is not None:
            self._disk.touch(name, hits, entry.head)
        if held.tier == "disk":
            self._climb(entry, self._ram, hits)
        if self._fast is not None:
            self._climb(entry, self._fast, hits)
        return held

    def _climb(self, entry: Entry, tier: Memory, hits: int) -> None:
        if tier.name not in entry.residents:
            resident = tier.reserve(entry.head, hits, self._may_evict(hits), self._leave_for(tier), lambda: False)
            if resident is not None:
                tier.settle(entry, resident, hits)

    def _may_evict(self, hits: int) -> bool:
        return self._admission == "always" or hits > 1

    def _has(self, key: Key) -> bool:
        """Without the lock: whether there is an entry that answers ``key``; one that only has its digest is dropped."""
        name = self._name(key)
        with self._lock:
            head = self._entries[name].head if name in self._entries else None
        if head is None and self._disk is not None:
            file = self._disk.open(name)
            if file is not None:
                head = file.head
                file.close()
        if head is not None and not head.answers(key):
            self.drop([key])
            return False
        return head is not None

    def _put(self, draft: Draft) -> bool:
        """Without the lock."""
        head, name = draft.head, draft.head.name
        with self._lock:
            hits = self._hits_of(name)
            resident = self._ram.reserve(
                head, hits, self._may_evict(hits), self._leave_for(self._ram), lambda: self._writer.busy and self._changed.wait()
            )
        if resident is None:
            kept = self._put_on_disk(draft, hits)
        else:
            for number in range(len(head.places)):
                draft.write(number, resident.slab(head, number))
                resident.filled[number] = True
            with self._lock:
                kept = True
                if name in self._entries:  # somebody was faster
                    self._ram.pool.take_back(resident.memory)
                else:
                    entry = self._entries[name] = Entry(head)
                    self._ram.settle(entry, resident, hits)
                    if self._disk is not None and self._disk.worth_it(head):
                        self._writer.add(entry)
        with self._lock:
            self._refused += not kept
        return kept

    def _put_on_disk(self, draft: Draft, hits: int) -> bool:
        """Without the lock: for what host memory does not take."""
        import torch

        if self._disk is None or not self._disk.worth_it(draft.head):
            return False
        memory = torch.empty(draft.head.num_bytes, dtype=torch.uint8)
        for number, place in enumerate(draft.head.places):
            draft.write(number, memory[place.offset : place.offset + place.num_bytes])
        entry = memory.numpy().data
        try:
            return self._disk.write(seal(draft.head, entry), entry, hits, self._needed(), self._may_evict(hits), lambda: True)
        except OSError:
            with self._lock:
                self._failed_writes += 1
            return False

    def _write(self, entry: Entry) -> None:
        """Without the lock, by the writer's thread."""
        assert self._disk is not None
        memory = entry.residents["ram"].memory.numpy().data
        with self._lock:
            hits = self._hits_of(entry.head.name)
        try:
            if not entry.doomed:
                entry.head = seal(entry.head, memory)
                self._disk.write(entry.head, memory, hits, self._needed(), self._may_evict(hits), lambda: not entry.doomed)
        except OSError:
            with self._lock:
                self._failed_writes += 1
        with self._lock:
            entry.writing, entry.written = False, True
            self._settle(entry)

    def _needed(self) -> frozenset[str]:
        """Without the lock: what must not leave the disk now, because somebody reads it."""
        with self._lock:
            return frozenset(name for name, entry in self._entries.items() if entry.pins)

    def _leave_for(self, tier: Memory) -> Leave:
        return self._leave_ram if tier is self._ram else self._leave_device

    def _leave_ram(self, entry: Entry) -> bool:
        """Whether host memory can drop it now; if not, it is being written."""
        name = entry.head.name
        if self._disk is not None and not entry.written and name not in self._disk and self._disk.worth_it(entry.head):
            self._writer.add(entry)
            return False
        if len(entry.residents) == 1:
            del self._entries[name]
        return True

    def _leave_device(self, entry: Entry) -> bool:
        """The device can drop everything at once: below it lies whatever is worth more than what it drops."""
        if len(entry.residents) == 1:
            del self._entries[entry.head.name]
        return True

    def _slab(self, entry: Entry, number: int) -> Tensor:
        """Without the lock."""
        return entry.slab(number, self._device, self._rates)

    def _damaged(self, entry: Entry) -> None:
        """Without the lock: the entry of a reader is not what it was."""
        with self._lock:
            known, entry.doomed = entry.doomed, True
            self._doom(entry)
        if self._disk is not None and not known:
            self._disk.remove_damaged(entry.head.name, entry.file.inode if entry.file is not None else None)

    def _doom(self, entry: Entry) -> None:
        if self._entries.get(entry.head.name) is entry:
            del self._entries[entry.head.name]
        entry.doomed = True
        for tier in self._tiers:
            tier.lose(entry)
        self._settle(entry)

    def _unpin(self, entry: Entry) -> None:
        with self._lock:
            if self._device.type == "cuda":
                import torch

                torch.cuda.current_stream(self._device).synchronize()  # copies and kernels that read the entry are over
            entry.pins -= 1
            self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        """Nobody may need it any more: lets go of what is not worth keeping."""
        if not entry.idle:
            return
        for tier in self._tiers:
            resident = entry.residents.get(tier.name)
            if resident is not None and (entry.doomed or not resident.complete):
                tier.release(entry)
        if entry.file is not None:
            entry.file.close()
            entry.file = None
        if not entry.residents and self._entries.get(entry.head.name) is entry:
            del self._entries[entry.head.name]
