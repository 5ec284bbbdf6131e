"""The keys and values that the attention of one request reads, layer by layer. Knows no model, no store and no method.

One slot per prompt token, in prompt order, and room for the answer behind it. Keys lie rotated to their positions; where a slot
has not been written yet its content is garbage that no row may see, so nothing is ever cleared.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rag.kvcache.probe import Geometry

if TYPE_CHECKING:
    import torch


class Arena:
    """``keys [L, Hkv, capacity, Dk]``, ``values [L, Hkv, capacity, Dv]``; the first ``num_tokens`` slots are in use."""

    def __init__(self, geometry: Geometry, capacity: int, device: torch.device | str = "cpu") -> None:
        import torch

        dtype = getattr(torch, geometry.dtype)
        shape = (geometry.num_layers, geometry.num_kv_heads, capacity)
        self.keys = torch.empty(*shape, geometry.key_dim, dtype=dtype, device=device)
        self.values = torch.empty(*shape, geometry.value_dim, dtype=dtype, device=device)
        self.num_tokens = 0
        self._loaded = [threading.Event() for _ in range(geometry.num_layers)]
        self._failure: BaseException | None = None
        self.set_loaded()

    @property
    def capacity(self) -> int:
        """Slots for prompt and answer together."""
        return int(self.keys.shape[2])

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Puts rotated ``keys [Hkv, T, Dk]`` and ``values [Hkv, T, Dv]`` at ``slots [T]`` of one layer."""
        self.keys[layer].index_copy_(1, slots, keys)
        self.values[layer].index_copy_(1, slots, values)

    # Layers that another thread is still filling ---------------------------------------------------------------------------

    def set_loading(self) -> None:
        """From now on a layer may be read only after ``set_loaded`` for it."""
        for event in self._loaded:
            event.clear()

    def set_loaded(self, layer: int | None = None) -> None:
        """One layer (default: all of them) is complete."""
        for event in self._loaded if layer is None else [self._loaded[layer]]:
            event.set()

    def end_loading(self, error: BaseException | None) -> None:
        """No further layer will come; if that is because of an ``error``, whoever waits is told."""
        self._failure = error
        self.set_loaded()

    def wait(self, layer: int) -> None:
        """Returns when the layer is complete. Raises what stopped the loading, if something did."""
        self._loaded[layer].wait()
        if self._failure is not None:
            raise self._failure
