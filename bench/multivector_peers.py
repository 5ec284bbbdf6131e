"""A peer's multi-vector index in a process of its own: builds it, or answers the queries that it is told to.

    python bench/multivector_peers.py fast-plaid build --set SETS/real20000 --index FOLDER
    python bench/multivector_peers.py xtr-warp answer --set SETS/real20000 --index FOLDER

Runs in an environment of the peers (torch==2.11.0 fast-plaid==1.7.0.2110 xtr-warp-rs==2.1.0.2110), which need another torch than
ours. Both are built with the defaults of their own documentation, 4 bits and one CPU; ``answer`` reads lines ``{"query", "k", "num_probes"}``
(``null``: the peer's default) and writes ``{"seconds", "ids"}``, the seconds being those of the peer's search call alone. Knows nothing of our own index.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

Search = Callable[[torch.Tensor, int, int | None], list[int]]
"""A query's token vectors, how many documents, and how many lists to read (``None``: the peer's default)."""
NUM_THREADS = 2


def main() -> None:
    """Runs one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("fast-plaid", "xtr-warp"))
    parser.add_argument("command", choices=("build", "answer"))
    parser.add_argument("--set", required=True, help="path without its ending, as bench/token_sets.py wrote it")
    parser.add_argument("--index", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(NUM_THREADS)
    plaid = options.peer == "fast-plaid"
    if options.command == "build":
        write(build(plaid, options.set, options.index))
        return
    queries = np.load(f"{options.set}.queries.npz")
    search = (open_plaid if plaid else open_warp)(options.index)
    write({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        query = torch.from_numpy(queries[str(asked["query"])])
        started = time.perf_counter()
        found = search(query, asked["k"], asked["num_probes"])
        write({"seconds": time.perf_counter() - started, "ids": found})


def write(answer: dict[str, Any]) -> None:
    """One line of JSON, at once."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def build(plaid: bool, path: str, folder: Path) -> dict[str, Any]:
    """Seconds by the wall and by the processor, bytes on disk, peak memory."""
    tokens = np.load(f"{path}.tokens.npy", mmap_mode="r")
    ends = np.cumsum(np.load(f"{path}.lengths.npy"))
    documents = [torch.from_numpy(some.astype(np.float32)) for some in np.split(tokens, ends[:-1])]
    folder.mkdir(parents=True, exist_ok=True)
    started, processor = time.perf_counter(), time.process_time()
    if plaid:
        from fast_plaid.search import FastPlaid

        FastPlaid(str(folder), device="cpu").create(documents)
    else:
        from xtr_warp import XTRWarp

        XTRWarp(str(folder)).create(documents, device="cpu", show_progress=False)
    return {
        "version": version("fast-plaid" if plaid else "xtr-warp-rs"),
        "build_seconds": round(time.perf_counter() - started, 1),
        "build_processor_seconds": round(time.process_time() - processor, 1),
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "build_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def open_plaid(folder: Path) -> Search:
    """fast-plaid, one query at a time."""
    from fast_plaid.search import FastPlaid

    index = FastPlaid(str(folder), device="cpu")

    def search(query: torch.Tensor, k: int, num_probes: int | None) -> list[int]:
        effort = {"n_ivf_probe": num_probes} if num_probes else {}
        return [row for row, _ in index.search(query[None], top_k=k, show_progress=False, **effort)[0]]

    return search


def open_warp(folder: Path) -> Search:
    """xtr-warp-rs, one query at a time."""
    from xtr_warp import XTRWarp

    index = XTRWarp(str(folder)).load(device="cpu")

    def search(query: torch.Tensor, k: int, num_probes: int | None) -> list[int]:
        found = index.search(query[None], k, num_threads=NUM_THREADS, nprobe=num_probes, show_progress=False)
        return [row for row, _ in found[0]]

    return search


if __name__ == "__main__":
    main()
