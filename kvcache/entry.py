"""One entry in this process: where its slabs lie and how one of them is got. Knows no budget and no other entry."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from rag.kvcache.disk import EntryFile, timed_read
from rag.kvcache.rate import Rates
from rag.kvcache.slab import DamagedKV, Head

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Resident(NamedTuple):
    """The memory of an entry on one tier, uint8 ``[entry bytes]``, and which of its slabs are there."""

    memory: Tensor
    filled: list[bool]

    def slab(self, head: Head, number: int) -> Tensor:
        """A view, uint8 ``[slab bytes]``."""
        place = head.places[number]
        return self.memory[place.offset : place.offset + place.num_bytes]

    @property
    def complete(self) -> bool:
        """Whether nothing has to be fetched any more."""
        return all(self.filled)


class Entry:
    """Residency by tier, an open file while somebody reads it, and who holds it. All but ``slab`` belongs to the store's lock.

    ``pins``: readers. ``writing``: the disk's writer needs it; ``written``: it was offered to the disk since it was last
    asked for. ``doomed``: nobody can find it any more; it goes with its last user.
    """

    def __init__(self, head: Head) -> None:
        self.head = head
        self.residents: dict[str, Resident] = {}
        self.file: EntryFile | None = None
        self.pins = 0
        self.writing = self.doomed = self.written = False
        self._filling = threading.Lock()

    @property
    def idle(self) -> bool:
        """Whether it may be moved or dropped."""
        return not self.pins and not self.writing

    @property
    def tier(self) -> str:
        """The fastest place that has all of it."""
        for tier in ("device", "ram"):
            if tier in self.residents and self.residents[tier].complete:
                return tier
        return "disk"

    def slab(self, number: int, device: torch.device, rates: Rates) -> Tensor:
        """A slab on ``device``, uint8 ``[slab bytes]``, fetched and checked if it has to be. Raises ``DamagedKV``."""
        import torch

        with self._filling:
            fast = self.residents.get("device")
            if fast is not None and fast.filled[number]:
                return fast.slab(self.head, number)
            host = self._host_slab(number, rates)
            if fast is None:
                return host if device.type == "cpu" else host.to(device, non_blocking=True)
            target = fast.slab(self.head, number)
            target.copy_(host, non_blocking=True)
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()  # whoever reads it next may do so on another stream
            fast.filled[number] = True
            return target

    def _host_slab(self, number: int, rates: Rates) -> Tensor:
        import torch

        ram = self.residents.get("ram")
        if ram is not None and ram.filled[number]:
            return ram.slab(self.head, number)
        place = self.head.places[number]
        target = torch.empty(place.num_bytes, dtype=torch.uint8) if ram is None else ram.slab(self.head, number)
        if self.file is None:
            raise DamagedKV("its file is gone")
        timed_read(self.file, place, target.numpy().data, rates)
        if ram is not None:
            ram.filled[number] = True
        return target
