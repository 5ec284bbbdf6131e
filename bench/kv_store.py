"""A key-value store that is too small for what is asked of it: which eviction saves most; and how fast its tiers are.

    python bench/kv_store.py

Workload: chunks of mixed lengths, asked for by Zipf's law; in ``drift`` what is popular changes slowly, in ``scan`` two in five
requests are for a chunk that never comes again. Every rule sees the same requests by turns in one run. A miss is computed and put.
What computing takes is a stated model (``PREFILL``), not measured, since it only ranks the entries; hits are those of the real store.
Rates: one chunk of 512 tokens in the shape of Llama-3.1-8B (64 MiB), put, written behind, read from memory and from the page cache, and
there, for comparison, mapped instead of read.
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.kvcache.checksum import checksum
from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.disk import EntryFile
from rag.kvcache.key import KVKey
from rag.kvcache.store import KVStore

LENGTHS = (64, 128, 256, 512, 1024)
PREFILL = {"fixed_seconds": 5e-3, "seconds_per_token": 4e-5, "seconds_per_token_squared": 2e-9}
BYTES_PER_TOKEN = 2 * 2 * (16 + 16) * 2  # of the stand-in: 2 layers, 2 heads, 16 + 16 dimensions, 2 bytes
MODEL_BYTES_PER_TOKEN = 128 * 1024
DISK_BYTES_PER_SECOND = 5e9 * BYTES_PER_TOKEN / MODEL_BYTES_PER_TOKEN  # 5 GB/s for the model is this for the stand-in
RULES: dict[str, dict[str, Any]] = {
    "benefit": {"eviction": "benefit"},
    "lru": {"eviction": "lru"},
    "benefit, second sight": {"eviction": "benefit", "admission": "second"},
    "lru, second sight": {"eviction": "lru", "admission": "second"},
}


def prefill_seconds(num_tokens: int) -> float:
    """What the model of the workload takes to compute a chunk."""
    fixed, linear, squared = PREFILL.values()
    return fixed + linear * num_tokens + squared * num_tokens**2


def requests(kind: str, num_chunks: int, num_requests: int, exponent: float, seed: int) -> tuple[list[int], list[int]]:
    """Chunk numbers in the order they are asked for, and the length of every chunk that can be."""
    chance = np.random.default_rng(seed)
    weights = np.arange(1, num_chunks + 1) ** -exponent
    ranks = chance.choice(num_chunks, num_requests, p=weights / weights.sum())
    order = chance.permutation(num_chunks)
    asked, once = [], num_chunks
    for number, rank in enumerate(ranks):
        if kind == "drift" and number % 10 == 9:  # one chunk in ten requests changes its popularity with another
            one, other = chance.integers(0, num_chunks, 2)
            order[[one, other]] = order[[other, one]]
        if kind == "scan" and chance.random() < 0.4:
            asked.append(once)
            once += 1
        else:
            asked.append(int(order[rank]))
    return asked, chance.choice(LENGTHS, once).tolist()


def replay(
    asked: list[int], lengths: list[int], share: float, num_chunks: int, folder: Path | None, rule: dict[str, Any]
) -> dict[str, Any]:
    """What a store of ``share`` of the bytes of the recurring chunks makes of the requests."""
    whole = sum(lengths[:num_chunks]) * BYTES_PER_TOKEN
    budget = int(share * whole)
    rates = {"ram": 1e12, "disk": DISK_BYTES_PER_SECOND}
    kept = torch.zeros(2, 2, max(LENGTHS), 16, dtype=torch.bfloat16)
    budgets = (budget, 0) if folder is None else (budget // 4, budget)
    store = KVStore(folder, *budgets, rates=rates, **rule)
    spent = 0.0
    for chunk in asked:
        num_tokens = lengths[chunk]
        seconds = prefill_seconds(num_tokens)
        spent += seconds
        key = KVKey("bench", "bare", (chunk, *range(num_tokens - 1)))
        held = store.get(key)
        if held is not None:
            with held:
                for layer in range(held.num_layers):
                    held.layer(layer)
        else:
            store.put(key, ChunkKV(key.ids, kept[:, :, :num_tokens], kept[:, :, :num_tokens]), seconds)
    store.close()
    stats = store.stats()
    return {
        "hit_ratio": round(stats.hit_ratio, 4),
        "saved_share_of_seconds": round(stats.saved_seconds / spent, 4),
        "evictions": dict(stats.evictions_by_tier),
        "refused": stats.refused,
    }


def workloads(num_chunks: int, num_requests: int, seeds: int, exponents: list[float], shares: list[float]) -> list[dict[str, Any]]:
    """Every rule on every workload, in memory alone; means over seeds. And one workload on memory over a folder."""
    rows = []
    for kind in ("steady", "drift", "scan"):
        for exponent in exponents:
            for share in shares:
                places = ["ram"] + (["ram over disk"] if (kind, exponent, share) == ("steady", exponents[0], shares[0]) else [])
                for place in places:
                    each: dict[str, list[dict[str, Any]]] = {rule: [] for rule in RULES}
                    for seed in range(seeds if place == "ram" else 1):
                        asked, lengths = requests(kind, num_chunks, num_requests, exponent, seed)
                        for rule, options in RULES.items():
                            with tempfile.TemporaryDirectory() as name:
                                folder = Path(name) if place != "ram" else None
                                each[rule].append(replay(asked, lengths, share, num_chunks, folder, options))
                    row = {"workload": kind, "zipf": exponent, "budget_share": share, "tiers": place}
                    row["rules"] = {rule: mean(runs) for rule, runs in each.items()}
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    return rows


def mean(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of every number, and the spread of what was saved over seeds."""
    saved = [run["saved_share_of_seconds"] for run in runs]
    return {
        "hit_ratio": round(statistics.mean(run["hit_ratio"] for run in runs), 4),
        "saved_share_of_seconds": round(statistics.mean(saved), 4),
        "saved_least_and_most": [min(saved), max(saved)],
        "evictions": {tier: round(statistics.mean(run["evictions"][tier] for run in runs)) for tier in runs[0]["evictions"]},
        "refused": round(statistics.mean(run["refused"] for run in runs)),
    }


def rates(rounds: int) -> dict[str, Any]:
    """GB/s of every way in and out, and median milliseconds of a hit that reads nothing; medians over rounds in which they take turns."""
    shape = (32, 8, 512, 128)
    kvs = [
        ChunkKV((n, *range(511)), torch.randn(shape, dtype=torch.bfloat16), torch.randn(shape, dtype=torch.bfloat16))
        for n in range(2)
    ]
    keys = [KVKey("bench", "bare", kv.ids) for kv in kvs]
    num_bytes = 2 * math.prod(shape) * 2
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        done = work()
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        return done

    def read_all(store: KVStore) -> None:
        with store.get(keys[0]) as held:  # type: ignore[union-attr]
            for layer in range(held.num_layers):
                kv = held.layer(layer)
                kv.keys.view(torch.int16).amax(), kv.values.view(torch.int16).amax()

    def read_file(path: Path, mapped: bool, checked: bool) -> None:
        file = EntryFile(path)
        target = np.empty(file.head.places[0].num_bytes, np.uint8)
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as memory:
            whole = np.frombuffer(memory, np.uint8)
            for place in file.head.places:
                slab = whole[place.offset : place.offset + place.num_bytes]
                if not mapped:
                    os.preadv(file._descriptor, [target], place.offset)
                    slab = target
                if checked:
                    checksum(slab.data)
                slab.view(np.int16).max()
            del whole, slab
        file.close()

    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            store = KVStore(Path(name), 1 << 28, 1 << 28, rates={"disk": 1e12, "ram": 1e12})
            store.put(keys[1], kvs[1], 1.0)
            store.drop([keys[1]])  # the pool's pages are there
            store.flush()
            timed("put into memory", lambda store=store: store.put(keys[0], kvs[0], 1.0))
            timed("written behind", store.flush)
            timed("hit in memory, all layers read", lambda store=store: read_all(store))
            timed("hit in memory, nothing read", lambda store=store: store.get(keys[0]).close())  # type: ignore[union-attr]
            cold = KVStore(Path(name), 1 << 28, 1 << 28, rates={"disk": 1e12, "ram": 1e12})
            timed("hit on disk (page cache), all layers read, first use of the memory", lambda cold=cold: read_all(cold))
            thin = KVStore(Path(name), 0, 1 << 28, rates={"disk": 1e12, "ram": 1e12})
            timed("hit on disk (page cache), all layers read, no memory tier", lambda thin=thin: read_all(thin))
            path = next(Path(name).glob("*.kv"))
            for mapped in (False, True):
                for checked in (False, True):
                    what = f"file {'mapped' if mapped else 'read'}, {'checked' if checked else 'unchecked'}"
                    timed(what, lambda path=path, mapped=mapped, checked=checked: read_file(path, mapped, checked))
    result: dict[str, Any] = {"chunk_bytes": num_bytes, "rounds": rounds}
    for what, each in seconds.items():
        middle = statistics.median(each)
        result[what] = {"milliseconds": round(1000 * middle, 3)} | (
            {} if "nothing" in what else {"gb_per_second": round(num_bytes / middle / 1e9, 2)}
        )
    return result


def main() -> None:
    """Prints and records everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=500)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--zipf", type=float, nargs="*", default=[1.0, 0.7])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.1, 0.3])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"load_average": os.getloadavg(), "prefill_model": PREFILL, "lengths": LENGTHS}
    result |= {"chunks": options.chunks, "requests": options.requests, "seeds": options.seeds}
    result["rates"] = rates(options.rounds)
    print(json.dumps(result["rates"], indent=1), flush=True)
    result["workloads"] = workloads(options.chunks, options.requests, options.seeds, options.zipf, options.shares)
    write_result("kv_store", result)


if __name__ == "__main__":
    main()
