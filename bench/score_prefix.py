"""Scores of an LLM reranker's prompts: common beginnings read once against every prompt whole, ours and transformers' own batches.

    python bench/score_prefix.py [--rounds 3] [--threads 2] [--pairs 76]

A Llama shape of 8 layers, width 512, 8 query and 4 key-value heads (29M parameters without embeddings), random weights, float32. Three
sets of prompts that share a system text, an instruction and a query (152 tokens): each of 20 passages by itself (pointwise), every
ordered pair of them (pairwise: passage A shared by 19; the first 76 of 380 pairs), and windows of 4 (setwise). Passages have 60 to 140 tokens. The
peer is what users write: prompts padded at the left, batches by length, ``model(...)`` with ``logits_to_keep=1``. All read the
log-probabilities of two answers of one token. ``tokens`` are those that go through the network, padding included. Times are medians of
runs that take turns: ``seconds`` on the wall, ``cpu_seconds`` of this process, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.record import write_result
from rag.lm_shared import SharedReader, Target

LAYERS, WIDTH, HEADS, KV_HEADS, INNER, VOCABULARY = 8, 512, 8, 4, 1536, 32000
SYSTEM, PASSAGES, SHORTEST, LONGEST, END = 152, 20, 60, 140, 12
BATCH_SIZE, BATCH_TOKENS = 32, 8192
ANSWERS = (17, 23)
Rows = list[list[int]]


def network() -> Any:
    """The model, random and the same every time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=2048, initializer_range=0.06,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def prompt_sets(num_pairs: int) -> dict[str, Rows]:
    """Token ids of the prompts: what is written before, between and after the passages is the same everywhere."""
    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return [draw.randrange(100, VOCABULARY) for _ in range(count)]

    system, between, end = ids(SYSTEM), ids(6), ids(END)
    passages = [ids(draw.randint(SHORTEST, LONGEST)) for _ in range(PASSAGES)]
    pairs = [system + a + between + b + end for a in passages for b in passages if a is not b]
    windows = [passages[first : first + 4] for first in range(PASSAGES - 3)]
    return {
        "pointwise": [system + passage + end for passage in passages],
        "pairwise": pairs[:num_pairs],
        "setwise": [system + [token for passage in window for token in passage + between] + end for window in windows],
    }


def batched(net: Any, rows: Rows) -> list[list[float]]:
    """transformers as it stands: left padding, like lengths together, the logits of the last place."""
    found: dict[int, list[float]] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while order:
        longest, batch = 0, []
        while order and len(batch) < BATCH_SIZE and (len(batch) + 1) * len(rows[order[0]]) <= BATCH_TOKENS:
            longest = len(rows[order[0]])
            batch.append(order.pop(0))
        pads = [longest - len(rows[i]) for i in batch]
        ids = torch.tensor([[0] * pad + rows[i] for i, pad in zip(batch, pads, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * len(rows[i]) for i, pad in zip(batch, pads, strict=True)])
        with torch.inference_mode():
            places = (mask.cumsum(-1) - 1).clamp(min=0)
            logits = net(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1).logits[:, -1]
            found.update(zip(batch, logits.log_softmax(-1)[:, list(ANSWERS)].tolist(), strict=True))
    return [found[i] for i in range(len(rows))]


def ours(net: Any, sharing: Any) -> tuple[SharedReader, Callable[[Rows], list[list[float]]]]:
    """A reader, and what it says of the two answers."""
    reader = SharedReader(net, BATCH_SIZE, BATCH_TOKENS, sharing)
    return reader, lambda rows: reader.logprobs(rows, [[Target(len(row) - 1, token) for token in ANSWERS] for row in rows])


def in_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """Median seconds of each run on the wall and of the processor, and what each returned."""
    returned: dict[str, Any] = {}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            started, used = time.perf_counter(), time.process_time()
            returned[name] = runs[name]()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - used)
    seconds, cpu_seconds = ({name: statistics.median(values) for name, values in kind.items()} for kind in (wall, cpu))
    return seconds, cpu_seconds, returned


def measured(net: Any, rows: Rows, rounds: int) -> dict[str, Any]:
    """Median seconds of the three ways in turns, the tokens they read, and how far apart their scores are."""
    (shared, by_sharing), (whole, by_rows) = ours(net, "auto"), ours(net, "never")
    ways: dict[str, Callable[[Rows], Any]] = {
        "shared": by_sharing,
        "whole": by_rows,
        "transformers": lambda rows: batched(net, rows),
    }
    for way in ways.values():  # probes and first allocations
        way(rows[:2])
    shared.num_read = whole.num_read = 0
    seconds, cpu_seconds, scores = in_turns({name: (lambda way=way: way(rows)) for name, way in ways.items()}, rounds)
    tokens = {"shared": shared.num_read // rounds, "whole": whole.num_read // rounds, "given": sum(map(len, rows))}
    flat = {name: torch.tensor(values) for name, values in scores.items()}
    return {
        "prompts": len(rows),
        "tokens": tokens,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "cpu_seconds": {name: round(value, 3) for name, value in cpu_seconds.items()},
        "times_faster": {name: round(seconds[name] / seconds["shared"], 2) for name in ("whole", "transformers")},
        "times_less_cpu": {name: round(cpu_seconds[name] / cpu_seconds["shared"], 2) for name in ("whole", "transformers")},
        "largest_difference_to_whole": float((flat["shared"] - flat["whole"]).abs().max()),
        "largest_difference_to_transformers": float((flat["shared"] - flat["transformers"]).abs().max()),
        "spread_of_scores": float(flat["shared"].std()),
        "why": shared.plan(rows).why[:300],
    }


def main() -> None:
    """Prints the table and writes bench/results/score_prefix.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sets", nargs="+", default=["pointwise", "pairwise", "setwise"])
    parser.add_argument("--pairs", type=int, default=76)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    net = network()
    result: dict[str, Any] = {"threads": options.threads, "rounds": options.rounds, "passage_tokens": [SHORTEST, LONGEST]}
    sets = prompt_sets(options.pairs)
    result["sets"] = {name: measured(net, sets[name], options.rounds) for name in options.sets}
    result["load_average"] = os.getloadavg()[1]
    for name, row in result["sets"].items():
        print(f"{name:10} {row['seconds']} wall x{row['times_faster']} cpu x{row['times_less_cpu']}")
    print(write_result("score_prefix", result))


if __name__ == "__main__":
    main()
