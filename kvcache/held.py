"""An entry in the hands of somebody who reads it. Knows entries; no budget and no disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from rag.kvcache.draft import content_of, layer_kv, statistics_of
from rag.kvcache.entry import Entry
from rag.kvcache.slab import DamagedKV, Head

if TYPE_CHECKING:
    from torch import Tensor

    from rag.kernels.assemble import LayerKV

T = TypeVar("T")


class Held:
    """Stays readable until it is closed, whatever happens to the store meanwhile.

    Tensors are views of the store's memory wherever they can be: read them, do not write into them, and not after ``close``. ``tier``: where
    it lay when it was asked for. Thread safe, but for ``close`` while another thread reads.
    """

    def __init__(
        self,
        entry: Entry,
        slab: Callable[[Entry, int], Tensor],
        damaged: Callable[[Entry], None],
        release: Callable[[Entry], None],
    ) -> None:
        self._entry, self._slab, self._damaged, self._release = entry, slab, damaged, release
        self._closed = False
        self.tier = entry.tier

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

    @property
    def prefill_seconds(self) -> float:
        """What it took to compute."""
        return self._entry.head.seconds

    def layer(self, index: int) -> LayerKV:
        """Keys ``[Hkv, T, Dk]`` and values of one layer, on the store's device. Raises ``IndexError``.

        Raises ``DamagedKV`` if they are not what was stored; the entry is dropped then, and the next ``get`` is a miss.
        """
        if not 0 <= index < self.num_layers:
            raise IndexError(f"layer {index} of {self.num_layers}")
        return self._read(index, layer_kv)

    @property
    def statistics(self) -> Mapping[str, Tensor]:
        """The further tensors of the chunk. Raises ``DamagedKV`` like ``layer``."""
        head = self._entry.head
        return self._read(self.num_layers, statistics_of) if len(head.places) > self.num_layers else {}

    def content(self) -> bytes:
        """What was kept by ``put_bytes``. Raises ``DamagedKV`` like ``layer``."""
        return self._read(0, content_of)

    def _read(self, number: int, understood: Callable[[Head, Tensor], T]) -> T:
        if self._closed:
            raise ValueError("this entry was given back to the store; ask for it again")
        try:
            return understood(self._entry.head, self._slab(self._entry, number))
        except DamagedKV:
            self._damaged(self._entry)
            raise

    def close(self) -> None:
        """Gives the entry back; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._release(self._entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
