"""A peer's multi-vector index in a process of its own: builds it, or answers the queries that it is told to.

    python bench/multivector_peers.py fast-plaid build --set SETS/real20000 --index FOLDER
    python bench/multivector_peers.py xtr-warp build --set SETS/synthetic100000 --index FOLDER --from-disk --points-per-centroid 39
    python bench/multivector_peers.py xtr-warp answer --set SETS/real20000 --index FOLDER

Runs in an environment of the peers (torch==2.11.0 fast-plaid==1.7.0.2110 xtr-warp-rs==2.1.0.2110), which need another torch than
ours. Both are built with the defaults of their own documentation, 4 bits and one CPU, unless told otherwise: ``--points-per-centroid`` bounds
the sample of their k-means (by their own option; faiss asks for 39 at the least), ``--centroids`` replaces xtr-warp's number,
``--from-disk`` lets it read the vectors from a file, so that they need not fit in memory, and ``--float32-products`` computes products of
halves in float32, which takes less than half the time on a processor that cannot multiply halves. ``answer`` reads lines
``{"query", "k", "num_probes"}`` (``null``: the peer's default) and writes ``{"seconds", "ids"}``, the seconds being those of the peer's
search call alone. Knows nothing of our own index.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Search = Callable[[torch.Tensor, int, int | None], list[int]]
"""A query's token vectors, how many documents, and how many lists to read (``None``: the peer's default)."""
NUM_THREADS = 2
ROWS = 512
"""Of a product at a time: float32 copies stay small."""


def main() -> None:
    """Runs one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("fast-plaid", "xtr-warp"))
    parser.add_argument("command", choices=("build", "answer"))
    parser.add_argument("--set", required=True, help="path without its ending, as bench/token_sets.py wrote it")
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--points-per-centroid", type=int, help="token vectors that k-means sees; the peer's default if not told")
    parser.add_argument("--centroids", type=int, help="of xtr-warp; by default both peers have 2^floor(log2(16 sqrt(tokens)))")
    parser.add_argument("--from-disk", action="store_true", help="xtr-warp reads the vectors from a file")
    parser.add_argument("--float32-products", action="store_true", help="for processors that cannot multiply float16")
    options = parser.parse_args()
    torch.set_num_threads(NUM_THREADS)
    kept = (
        products_in_float32(options.peer == "xtr-warp") if options.float32_products else None
    )  # as long as it lives, torch computes so
    plaid = options.peer == "fast-plaid"
    if plaid and (options.from_disk or options.centroids):
        parser.error("--from-disk and --centroids are xtr-warp's")
    if options.command == "build":
        told = build(options)
        write(told | {"products_of_halves": "the peer's" if kept is None else "in float32"})
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


def products_in_float32(by_column: bool) -> torch.library.Library:
    """Products and ``argmax`` of float16 matrices by float32's loops, whoever asks for them in this process; sums are rounded once, as torch's own are.

    ``by_column``: results stand in memory as those do whose columns' ``argmax`` is asked next.
    """
    library = torch.library.Library("aten", "IMPL")

    def mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype != torch.float16:
            return torch.addmm(torch.empty((1, 1), dtype=left.dtype), left, right, beta=0)
        return by_row(right.t(), left.t()).t() if by_column else by_row(left, right)

    def by_row(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        whole, result = right.float(), torch.empty((left.shape[0], right.shape[1]), dtype=left.dtype)
        rows = torch.empty((min(len(left), ROWS), right.shape[1]))
        for start in range(0, len(left), ROWS):
            some = rows[: min(ROWS, len(left) - start)]
            torch.addmm(some, left[start : start + ROWS].float(), whole, beta=0, out=some)
            result[start : start + ROWS] = some
        return result

    def argmax(given: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
        if given.dtype != torch.float16 or given.ndim != 2 or dim is None:
            values = given.flatten() if dim is None else given
            return values.float().max(0 if dim is None else dim, keepdim=keepdim).indices
        rows = given if dim in (1, -1) else given.t()
        found = [some.to(torch.float32, memory_format=torch.contiguous_format).max(1).indices for some in rows.split(ROWS)]
        return torch.cat(found).unsqueeze(dim) if keepdim else torch.cat(found)

    library.impl("mm", mm, "CPU")
    library.impl("argmax", argmax, "CPU")
    return library


def build(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds by the wall and by the processor, bytes on disk, peak memory, and what was not left to the peer's defaults."""
    lengths, folder = np.load(f"{options.set}.lengths.npy"), options.index
    chosen = {"num_partitions": options.centroids} if options.centroids else {}
    if options.points_per_centroid:
        num_centroids = options.centroids or 2 ** math.floor(math.log2(16 * math.sqrt(int(lengths.sum()))))
        sample = math.ceil(options.points_per_centroid * num_centroids / float(lengths.mean()))
        chosen["n_samples_kmeans"] = min(len(lengths), sample)  # documents
    documents = on_disk(options.set, folder, lengths) if options.from_disk else in_memory(options.set, lengths)
    folder.mkdir(parents=True, exist_ok=True)
    started, processor = time.perf_counter(), time.process_time()
    if options.peer == "fast-plaid":
        from fast_plaid.search import FastPlaid

        FastPlaid(str(folder), device="cpu").create(documents, **chosen)
    else:
        from xtr_warp import XTRWarp

        XTRWarp(str(folder)).create(documents, device="cpu", show_progress=False, **chosen)
    return {
        "version": version("fast-plaid" if options.peer == "fast-plaid" else "xtr-warp-rs"),
        "build_seconds": round(time.perf_counter() - started, 1),
        "build_processor_seconds": round(time.process_time() - processor, 1),
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "build_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "built_with": chosen | {"vectors_from": "disk" if options.from_disk else "memory"},
    }


def in_memory(path: str, lengths: NDArray[np.int64]) -> list[torch.Tensor]:
    """One float32 tensor a document, as their documentations hand them over."""
    tokens = np.load(f"{path}.tokens.npy", mmap_mode="r")
    return [torch.from_numpy(some.astype(np.float32)) for some in np.split(tokens, np.cumsum(lengths)[:-1])]


def on_disk(path: str, folder: Path, lengths: NDArray[np.int64]) -> Path:
    """The file of vectors under a name that has room for xtr-warp's file of lengths beside it."""
    source = folder.with_name(f"{folder.name}.source")
    source.mkdir(parents=True, exist_ok=True)
    vectors = source / "vectors.npy"
    vectors.unlink(missing_ok=True)
    vectors.symlink_to(Path(f"{path}.tokens.npy").resolve())
    np.save(source / "vectors.doclens.npy", lengths)
    return source


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
