"""How fast texts become vectors: the packed encoder against ``SentenceTransformer.encode`` with its defaults, same texts.

    python bench/encode.py --data FOLDER_OF_MARKDOWN

All variants run in one process, in turns; wall and CPU seconds are medians over the turns. On a busy machine the CPU seconds
(of all threads, waiting in OpenMP included) say more than the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.record import write_result
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.encoder_linear import Kind, choose_linear
from rag.retrievers.encoder_packed import PackedEncoder
from rag.retrievers.encoder_parts import parts_of

Encode = Callable[[list[str]], NDArray[np.float32]]


def mixed_texts(folder: Path, num: int, seed: int = 0) -> list[str]:
    """Pieces of 10 to 250 words, end to end through the corpora from a random place: the lengths that chunkers make."""
    words = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))).split()
    rng = random.Random(seed)
    start = rng.randrange(len(words) // 2)
    texts: list[str] = []
    for _ in range(num):
        length = rng.randint(10, 250)
        texts.append(" ".join(words[start : start + length]))
        start = (start + length) % (len(words) - 250)
    return texts


def variants(encoder: SentenceTransformersEncoder) -> dict[str, Encode]:
    """The reference first, ours last, one lever more in each step between."""
    parts = parts_of(encoder._full_model())

    def packed(kind: Kind, tokens_per_batch: int, num_workers: int | None) -> Encode:
        return PackedEncoder(parts, kind, tokens_per_batch, num_workers).encode

    return {
        "SentenceTransformer.encode": encoder.reference,
        "packed, one pack at a time on all cores": packed("torch", 4096, 1),
        "packed, oneDNN products": packed("onednn", 4096, None),
        "packed, packs of 16384 tokens": packed("torch", 16384, None),
        "packed, a pack per core (the encoder's own path)": encoder.encode_documents,
    }


def measure(runs: dict[str, Encode], texts: list[str], num_rounds: int) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds per variant, and how far its vectors are from the first one's."""
    wanted = next(iter(runs.values()))(texts)
    found: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        vectors = run(texts)  # also the warm-up
        found[name] = {
            "max_abs_difference": float(np.abs(vectors - wanted).max()),
            "min_cosine": float((vectors * wanted).sum(axis=1).min()),
        }
    walls: dict[str, list[float]] = {name: [] for name in runs}
    cpus: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(num_rounds):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run(texts)
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)
    for name in runs:
        found[name] |= {"wall_seconds": statistics.median(walls[name]), "cpu_seconds": statistics.median(cpus[name])}
        found[name] |= {"best_wall_seconds": min(walls[name])}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .md files")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: what torch takes by itself")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    encoder = SentenceTransformersEncoder(arguments.model, device="cpu", dtype="float32")
    texts = mixed_texts(arguments.data, arguments.texts)
    lengths = [min(encoder.count_tokens(text), encoder.max_tokens) for text in texts]
    found = measure(variants(encoder), texts, arguments.rounds)
    reference, ours = found["SentenceTransformer.encode"], list(found.values())[-1]
    report = {
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "texts": len(texts),
        "tokens": sum(lengths),
        "rounds": arguments.rounds,
        "product": choose_linear("float32").why,
        "variants": found,
        "times_faster_by_wall": reference["wall_seconds"] / ours["wall_seconds"],
        "times_faster_by_best_wall": reference["best_wall_seconds"] / ours["best_wall_seconds"],
        "times_faster_by_cpu": reference["cpu_seconds"] / ours["cpu_seconds"],
    }
    write_result("encode", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
