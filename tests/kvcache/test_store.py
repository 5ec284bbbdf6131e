"""The store in memory: what goes in comes out, bit by bit."""

from __future__ import annotations

import pytest
import torch

from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.key import KVKey
from rag.kvcache.store import KVStore


def chunk(num_tokens: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16, layers: int = 3) -> ChunkKV:
    made = torch.Generator().manual_seed(seed)
    keys = torch.randn(layers, 2, num_tokens, 16, generator=made).to(dtype)
    values = torch.randn(layers, 2, num_tokens, 8, generator=made).to(dtype)
    ids = tuple(torch.randint(0, 1000, (num_tokens,), generator=made).tolist())
    return ChunkKV(ids, keys, values, {"mean_key": keys.float().mean(2), "norms": values.float().norm(dim=-1)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_round_trip_is_bit_equal(dtype: torch.dtype) -> None:
    store = KVStore(None, ram_bytes=1 << 20)
    kv = chunk(7, dtype=dtype)
    key = KVKey("m", "bare", kv.ids)
    assert store.get(key) is None
    assert store.put(key, kv, 1.0)
    found = store.get(key)
    assert found is not None
    with found as held:
        assert held.num_tokens == 7
        for layer in range(3):
            got = held.layer(layer)
            assert torch.equal(got.keys, kv.keys[layer]) and torch.equal(got.values, kv.values[layer])
        assert set(held.statistics) == {"mean_key", "norms"}
        assert torch.equal(held.statistics["norms"], kv.statistics["norms"])
