"""Random chunks, their keys, and what a store says of them: for tests of the store, no model needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.key import KVKey
from rag.kvcache.store import Held, KVStore

FAST = {"ram": 1e15, "disk": 1e15}
"""Loading takes no time: whether something is kept depends on room alone."""
LAYERS = 3


def chunk(num_tokens: int = 7, seed: int = 0, dtype: torch.dtype = torch.bfloat16, layers: int = LAYERS) -> ChunkKV:
    """2 heads, keys of 16 and values of 8 dimensions."""
    made = torch.Generator().manual_seed(seed)
    keys = torch.randn(layers, 2, num_tokens, 16, generator=made).to(dtype)
    values = torch.randn(layers, 2, num_tokens, 8, generator=made).to(dtype)
    ids = (seed, *torch.randint(0, 1 << 40, (num_tokens - 1,), generator=made).tolist())
    return ChunkKV(ids, keys, values, {"mean_key": keys.float().mean(2), "norms": values.float().norm(dim=-1)})


def key_of(kv: ChunkKV, **more: Any) -> KVKey:
    return KVKey(**{"model": "m", "policy": "bare", "ids": kv.ids, **more})


def same(held: Held, kv: ChunkKV) -> bool:
    """Whether every bit is what was put."""
    layers = [held.layer(number) for number in range(held.num_layers)]
    return (
        held.num_tokens == kv.num_tokens
        and len(layers) == len(kv.keys)
        and all(
            torch.equal(layer.keys, keys) and layer.keys.dtype == keys.dtype for layer, keys in zip(layers, kv.keys, strict=True)
        )
        and all(torch.equal(layer.values, values) for layer, values in zip(layers, kv.values, strict=True))
        and set(held.statistics) == set(kv.statistics)
        and all(torch.equal(held.statistics[name], tensor) for name, tensor in kv.statistics.items())
    )


def taken(store: KVStore, key: KVKey) -> Held:
    """What must be there."""
    held = store.get(key)
    assert held is not None
    return held


def files(folder: Path) -> list[Path]:
    """The entries in a folder."""
    return sorted(folder.glob("*.kv"))


def bytes_in(folder: Path) -> int:
    """Of the entries in a folder, while others may delete some."""
    total = 0
    for path in files(folder):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
