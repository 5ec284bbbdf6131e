"""Fills an arena from cached parts, layer by layer, on the spot or ahead of the layers that compute. Knows no method.

Loading layer i + 1 while layer i computes hides the slower of the two (CacheBlend's loading controller, arXiv 2405.16444; Cache-Craft's
layer-wise preloading, arXiv 2502.15734): a thread does it, since the kernels and page faults leave the interpreter's lock. On a GPU it queues
copies and kernels on the same stream as the layers, so their order is that of the queue and nothing runs beside anything yet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.kvcache.arena import Arena
from rag.kvcache.plan import Cached
from rag.kvcache.probe import Traits

if TYPE_CHECKING:
    import torch

    from rag.kernels.assemble import LayerKV

Tables = Sequence[tuple["torch.Tensor", "torch.Tensor"]]


@dataclass(slots=True)
class Loading:
    """A load under way or done: seconds spent reading (checking and copying included) and putting in place, wherever that ran."""

    read_seconds: float = 0.0
    assemble_seconds: float = 0.0
    future: Future[None] | None = None

    def join(self) -> None:
        """Returns when nothing is being loaded any more; what went wrong is told by ``Arena.wait``."""
        if self.future is not None:
            self.future.exception()


def load(arena: Arena, traits: Traits, parts: Sequence[tuple[Cached, int]], tables: Tables, overlap: bool = True) -> Loading:
    """Starts to put ``parts`` (what, first slot) into ``arena``; layers become readable in order (``Arena.wait``).

    ``tables``: per rotation of the model its cosines and sines ``[slots, R/2]``, by slot. Without ``overlap`` all is done on return,
    and damage is raised here; with it, whoever waits for a layer is told.
    """
    loading = Loading()
    if not parts:
        return loading
    if not overlap:
        _fill(arena, traits, parts, tables, loading)
        return loading
    arena.set_loading()
    with_one_thread = ThreadPoolExecutor(1, "kv-load")
    loading.future = with_one_thread.submit(_fill, arena, traits, parts, tables, loading)
    loading.future.add_done_callback(lambda future: arena.end_loading(future.exception()))
    with_one_thread.shutdown(wait=False)
    return loading


def _fill(arena: Arena, traits: Traits, parts: Sequence[tuple[Cached, int]], tables: Tables, loading: Loading) -> None:
    import torch

    from rag.kernels.assemble import assemble

    starts = [start for _, start in parts]
    with torch.inference_mode():
        device = arena.keys.device
        nothing = torch.empty(arena.capacity, 0, device=device)
        for index, layer in enumerate(traits.layers):
            started = time.perf_counter()
            pieces = [_on(device, cached.layer(index)) for cached, _ in parts]
            read = time.perf_counter()
            cos, sin = (nothing, nothing) if layer.rotary is None else tables[layer.rotary]
            style = "none" if layer.rotary is None else traits.rotaries[layer.rotary].style
            assemble(pieces, starts, cos, sin, style, arena.keys[index], arena.values[index])
            arena.set_loaded(index)
            loading.read_seconds += read - started
            loading.assemble_seconds += time.perf_counter() - read


def _on(device: torch.device, layer: LayerKV) -> LayerKV:
    """The layer on ``device``: itself if it is there, else a copy that does not wait (from pinned memory)."""
    return layer._replace(
        keys=layer.keys.to(device, non_blocking=True),
        values=layer.values.to(device, non_blocking=True),
        key_scales=None if layer.key_scales is None else layer.key_scales.to(device, non_blocking=True),
        value_scales=None if layer.value_scales is None else layer.value_scales.to(device, non_blocking=True),
    )
