"""Exact match of a weights folder, with full attention and with every chunk encoded alone. Knows tasks and masks, no cache.

    python -m rag.eval.reader.measure eval/reader/weights/reader --out reader.csv
    python -m rag.eval.reader.measure eval/reader/weights/reader-block --policy bare    the block-tuned twin

Plain reuse (no token recomputed) is the block mask: rows of a chunk see their chunk and, unless the policy is ``bare``, the prefix, at the positions of the full
prompt; labels and question see everything before them. An answer counts when every token of it, the full stop and the end mark
are the most likely ones after those before, which is what greedy decoding writes.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from rag.eval.bootstrap import interval
from rag.eval.reader import weights
from rag.eval.reader.batches import Encoder, Policy, Row
from rag.eval.reader.network import Network
from rag.eval.reader.tasks import KINDS, Question, make, pick
from rag.eval.reader.vocabulary import build

MODES = ("full", "reuse")
COUNTS = (2, 3, 4, 6, 8, 10)


def sample(num_chunks: int, num_instances: int, first_seed: int = 0) -> list[tuple[int, Question]]:
    """Seeds of instances with one question of each kind an instance has."""
    drawn = []
    for seed in range(first_seed, first_seed + num_instances):
        instance = make(seed, num_chunks)
        drawn += [(seed, question) for kind in KINDS if (question := pick(instance, kind, seed)) is not None]
    return drawn


@torch.inference_mode()
def exact(
    network: Network,
    encoder: Encoder,
    rows: Sequence[Row],
    *,
    blocked: bool,
    policy: Policy = "shared-prefix",
    batch_rows: int = 16,
) -> list[list[bool]]:
    """For every row, whether each of its question blocks is answered exactly."""
    found: list[list[bool]] = []
    for start in range(0, len(rows), batch_rows):
        part = rows[start : start + batch_rows]
        batch = encoder.batch(part, [blocked] * len(part), policy=policy)
        likely = network.logits(network(batch.ids, batch.positions, batch.mask)[:, :-1]).argmax(-1)
        wrong = (likely != batch.ids[:, 1:]) & batch.targets[:, 1:]
        for row, groups in zip(wrong, batch.groups[:, 1:], strict=True):
            found.append([not bool(row[groups == group].any()) for group in range(1, int(groups.max()) + 1)])
    return found


def measured(
    network: Network, encoder: Encoder, num_chunks: int, num_instances: int, first_seed: int = 0, policy: Policy = "shared-prefix"
) -> dict[tuple[str, str], list[float]]:
    """Hits (1.0 or 0.0, one per question) by mode and kind."""
    asked: dict[int, list[Question]] = defaultdict(list)
    for seed, question in sample(num_chunks, num_instances, first_seed):
        asked[seed].append(question)
    rows = [encoder.row(make(seed, num_chunks), questions) for seed, questions in asked.items()]
    hits: dict[tuple[str, str], list[float]] = defaultdict(list)
    for mode in MODES:
        for found, questions in zip(
            exact(network, encoder, rows, blocked=mode == "reuse", policy=policy), asked.values(), strict=True
        ):
            for hit, question in zip(found, questions, strict=True):
                hits[mode, question.kind].append(float(hit))
    return hits


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--instances", type=int, default=300)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--policy", choices=("shared-prefix", "bare"), default="shared-prefix", help="what a reused chunk sees")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    network, encoder = weights.read(given.folder), Encoder(build())
    names = ["chunks", "mode", "kind", "exact", "low", "high", "questions"]
    lines: list[list[object]] = []
    everything: dict[tuple[str, str], list[float]] = defaultdict(list)
    for num_chunks in (*given.counts, 0):
        hits = measured(network, encoder, num_chunks, given.instances, policy=given.policy) if num_chunks else everything
        for mode in MODES:
            kinds = {kind: hits[mode, kind] for kind in KINDS}
            for kind, values in (kinds | {"all": [value for found in kinds.values() for value in found]}).items():
                bounds = interval(values)
                numbers = [round(number, 4) for number in (bounds.mean, bounds.low, bounds.high)]
                lines.append([num_chunks or "all", mode, kind, *numbers, bounds.num_queries])
                print(*lines[-1], flush=True)
        if num_chunks:
            for key, found in hits.items():
                everything[key] += found
    if given.out is not None:
        with given.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *lines])


if __name__ == "__main__":
    main()
