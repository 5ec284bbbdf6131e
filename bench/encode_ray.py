"""What Ray's workers cost and bring on one machine, and how much of an ingest they can take over.

    python bench/encode_ray.py --data FOLDER_OF_MARKDOWN

The same texts (of 8 to 256 tokens) through the embedded model: in this process with one thread and with two, and through one worker and
two, of one processor each. All take turns; wall and processor seconds (of this process and everything it started, so Ray's own processes count)
are medians. Then ``examples/documents`` are ingested by default settings, and the seconds spent in the encoder are set against the whole.
A second machine is not simulated: what it brings is the share of encoding, divided.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.encode import mixed_texts
from bench.record import write_result
from rag.pipeline import Rag
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.encoder_ray import RayEncoder


def tree_seconds() -> float:
    """Processor seconds of this process and all that descend from it."""
    parents, seconds = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # gone meanwhile
                continue
            parents[int(folder.name)] = int(fields[1])
            seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descends(process: int) -> bool:
        while process not in (0, os.getpid()):
            process = parents.get(process, 0)
        return process == os.getpid()

    return sum(spent for process, spent in seconds.items() if descends(process))


def measure(runs: dict[str, Callable[[], NDArray[np.float32]]], num_rounds: int) -> dict[str, Any]:
    """Medians per way, and how far its vectors are from those of the first."""
    expected = next(iter(runs.values()))()
    figures: dict[str, Any] = {name: {"max_difference": float(np.abs(run() - expected).max())} for name, run in runs.items()}
    walls: dict[str, list[float]] = {name: [] for name in runs}
    processors: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(num_rounds):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            wall, processor = time.perf_counter(), tree_seconds()
            runs[name]()
            walls[name].append(time.perf_counter() - wall)
            processors[name].append(tree_seconds() - processor)
    for name, figure in figures.items():
        figure |= {"wall_seconds": statistics.median(walls[name]), "processor_seconds": statistics.median(processors[name])}
    return figures


class Timed(SentenceTransformersEncoder):
    """The embedded encoder with a watch."""

    seconds = 0.0

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        started = time.perf_counter()
        found = super().encode_documents(texts)
        self.seconds += time.perf_counter() - started
        return found


def share_of_encoding() -> dict[str, float]:
    """Of an ingest of ``examples/documents``, the model loaded before."""
    encoder = Timed()
    encoder.encode_queries(["warm"])
    with tempfile.TemporaryDirectory() as folder, Rag.open(folder, components={"encoder": encoder}) as rag:
        report = rag.ingest(ROOT / "examples" / "documents")
    return {
        "chunks": report.num_chunks_added,
        "ingest_seconds": report.seconds,
        "encode_seconds": encoder.seconds,
        "share": encoder.seconds / report.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--num-texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if find_spec("ray") is None:
        print("left out: Ray is not installed (pip install 'ragstone[ray]')")
        return
    texts = mixed_texts(options.data, options.num_texts)
    here = SentenceTransformersEncoder()
    # Half a processor each by Ray's books, so that all three have room on two; every worker has one thread all the same.
    one, two = (RayEncoder(SentenceTransformersEncoder(), workers=number, cpus_per_worker=0.5) for number in (1, 2))

    def with_threads(number: int) -> Callable[[], NDArray[np.float32]]:
        def run() -> NDArray[np.float32]:
            torch.set_num_threads(number)
            return here.encode_documents(texts)

        return run

    runs = {"here, 1 thread": with_threads(1), "here, 2 threads": with_threads(2)}
    runs |= {"1 worker": lambda: one.encode_documents(texts), "2 workers": lambda: two.encode_documents(texts)}
    figures = measure(runs, options.rounds)
    for name, figure in figures.items():
        print(name, figure)
    torch.set_num_threads(1)
    share = share_of_encoding()
    print(share)
    write_result(
        "encode_ray", {"texts": len(texts), "how": here.how, "ways": figures, "ingest_one_thread": share}, packages=("ray",)
    )


if __name__ == "__main__":
    main()
