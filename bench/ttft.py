"""Time to first token: full prefill against every way of reusing cached chunks, same prompt, same weights, in turns in one run.

    python bench/ttft.py [--dtype bfloat16] [--rounds 5] [--threads 2] [--methods block,combined]
    python bench/ttft.py --growth [--dtype bfloat16]     prompts of 1K to 16K tokens: bench/ttft_plot.py draws them

A Llama shape of 16 layers, width 1024, 16 query and 4 key-value heads of 64 (180M parameters without embeddings), random weights; 8
chunks of 512 tokens behind a prefix of 64, a question of 32. The bar is the faster of transformers' own prefill (SDPA, causal) and ours,
computing everything. ``hot``: chunks lie in the store's memory; ``cold``: on its disk, opened anew for every run with the page
cache asked to forget them. Phases: plan; load (read, check) and assemble (rotate, put in place), beside the layers on a thread of their own
where cores are free; question (a pass only for rules that ask it); compute (the layers); first token (what comes after them). Times say nothing
about quality: see bench/kv_quality.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.record import of_processor, write_result
from rag.kernels.narrow_linear import widen_products
from rag.kvcache.engine import KVEngine
from rag.kvcache.methods import METHODS, method
from rag.kvcache.prefill import Decoder, Prefilled
from rag.kvcache.prompt import Prompt
from rag.kvcache.store import KVStore

LAYERS, WIDTH, HEADS, KV_HEADS, INNER, VOCABULARY = 16, 1024, 16, 4, 2816, 32000
CHUNK, PREFIX, QUESTION = 512, 64, 32
SHARE = 0.15
WORDS = ("full", "prefix", "block", "first-k", "query", "blend", "combined")
GROWTH = {2: 3, 4: 2, 8: 1, 16: 1, 32: 1}
"""Chunks of a prompt -> rounds."""


def network(dtype: str, num_positions: int) -> Any:
    """The model, random and the same every time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=num_positions,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()


def prompt_of(num_chunks: int) -> Prompt:
    """Random tokens."""
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()

    return Prompt.of(ids(PREFIX), [ids(CHUNK) for _ in range(num_chunks)], ids(QUESTION))


def flop_bound(num_tokens: int, word: str) -> float:
    """Operations of the full prefill over those of a method, linears and attention counted, nothing else."""
    linears = 2 * (WIDTH * WIDTH * 2 + WIDTH * KV_HEADS * 128 + 3 * WIDTH * INNER)

    def cost(rows: float, seen: float) -> float:
        return rows * (linears + 4 * WIDTH * seen)

    full = LAYERS * cost(num_tokens, num_tokens / 2)
    reused = num_tokens - PREFIX - QUESTION - (CHUNK if word != "full" else 0)  # the first chunk is exact behind the prefix
    chosen = 0.0 if word == "block" else SHARE * reused
    question = cost(QUESTION, num_tokens)
    per_layer = cost(chosen, num_tokens / 2) + question
    extra = {
        "query": LAYERS * question,
        "blend": cost(reused - chosen, num_tokens / 2),
    }
    return full / (LAYERS * per_layer + extra.get(word, 0.0))


class Case:
    """One prompt length: the model, as ``theirs`` and as we open it, the prompt, warm stores in memory and on disk."""

    def __init__(self, decoder: Decoder, theirs: Any, num_chunks: int, folder: Path) -> None:
        self.decoder, self.theirs, self.prompt, self.folder = decoder, theirs, prompt_of(num_chunks), folder
        num_bytes = 2 * (len(self.prompt) + 1024) * decoder.traits.geometry.bytes_per_token + (64 << 20)
        self.num_bytes = num_bytes
        self.hot = KVStore(folder, ram_bytes=num_bytes, disk_bytes=2 * num_bytes)
        self.engine("combined", self.hot).remember(self.prompt)
        self.hot.flush()

    def engine(self, word: str, store: KVStore) -> KVEngine:
        """An engine without the planner's doubts: what is measured is the method."""
        made = KVEngine(self.decoder, store, "bench", METHODS[word], SHARE)
        made.worth.saw_compute = made.worth.saw_load = lambda *_: None  # type: ignore[method-assign, assignment]
        return made

    def stock(self) -> None:
        """transformers' own prefill."""
        with torch.inference_mode():
            self.theirs(input_ids=torch.tensor([self.prompt.ids]), use_cache=True, logits_to_keep=1)

    def run(self, word: str, store: KVStore) -> Prefilled:
        """One prefill; the first token is chosen from its logits."""
        engine = self.engine(word, store)
        if word == "prefix":  # the prompt was asked before with another question: everything but the question is there
            engine._keep_in_place = lambda *_: None  # type: ignore[method-assign]
        done = engine.prefill(self.prompt, room=16)
        int(done.logits.argmax())
        return done

    def cold(self, word: str) -> Prefilled:
        """The same from a store that was just opened, after the page cache was asked to forget its files."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
        store = KVStore(self.folder, ram_bytes=self.num_bytes, disk_bytes=2 * self.num_bytes)
        try:
            return self.run(word, store)
        finally:
            store.close()


def warm_up(decoder: Decoder, theirs: Any, words: tuple[str, ...]) -> None:
    """Everything once over two short chunks: what is compiled or allocated at first use is not what is measured."""
    with tempfile.TemporaryDirectory() as folder:
        case = Case(decoder, theirs, 2, Path(folder))
        case.stock()
        for word in words:
            case.run(word, case.hot)


def measured(case: Case, words: tuple[str, ...], rounds: int, everything: bool) -> dict[str, Any]:
    """Median seconds and phases of each run over rounds in which they take turns; processor seconds beside the clock's.

    ``everything``: transformers' own prefill and the cold runs, too.
    """
    runs: dict[str, Callable[[], Any]] = {"transformers": case.stock} if everything else {}
    runs |= {f"{word} hot": (lambda word=word: case.run(word, case.hot)) for word in words if word != "prefix"}
    if everything:
        runs |= {f"{word} cold": (lambda word=word: case.cold(word)) for word in words if METHODS[word].reads == "chunks"}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in runs}
    phases: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    chosen: dict[str, int] = {}
    for number in range(rounds):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            started, processor = time.perf_counter(), time.process_time()
            done = runs[name]()
            seconds[name].append(time.perf_counter() - started)
            cpu_seconds[name].append(time.process_time() - processor)
            phases[name].append({} if done is None else dict(done.trace.seconds))
            if done is not None:
                chosen[name] = done.trace.num_computed
    bars = [name for name in ("transformers", "full hot") if name in runs]
    bar, cpu_bar = (min(statistics.median(times[name]) for name in bars) for times in (seconds, cpu_seconds))
    rows = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        parts = {key for each in phases[name] for key in each}
        rows[name] = {
            "seconds": round(median, 4),
            "best": round(min(values), 4),
            "times_faster_than_full": round(bar / median, 2),
            "cpu_seconds": round(statistics.median(cpu_seconds[name]), 4),
            "times_less_cpu_than_full": round(cpu_bar / statistics.median(cpu_seconds[name]), 2),
            "computed_tokens": chosen.get(name, len(case.prompt)),
            "phases": {part: round(statistics.median([each.get(part, 0.0) for each in phases[name]]), 4) for part in sorted(parts)},
        }
    return rows


def growth(decoder: Decoder, theirs: Any, dtype: str, threads: int) -> None:
    """The full prefill, ``combined`` and ``block`` over prompts that get longer, the longest once."""
    words = ("full", "block", "combined")
    warm_up(decoder, theirs, words)
    lengths: dict[int, Any] = {}
    for num_chunks, rounds in GROWTH.items():
        with tempfile.TemporaryDirectory() as folder:
            case = Case(decoder, theirs, num_chunks, Path(folder))
            rows = measured(case, words, rounds, everything=False)
        lengths[len(case.prompt)] = {name: row["seconds"] for name, row in rows.items()}
        print(len(case.prompt), lengths[len(case.prompt)], flush=True)
        result = {"dtype": dtype, "threads": threads, "share": SHARE, "rounds": list(GROWTH.values()), "seconds": lengths}
        path = write_result(
            of_processor(f"ttft_growth_{dtype}"), result
        )  # after every length: the longest takes as long as all others
    print(path)


def main() -> None:
    """Prints a table and writes bench/results/ttft_<dtype>.json or ttft_growth_<dtype>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--methods", default=",".join(WORDS), help="words, `full` is always among them")
    parser.add_argument("--growth", action="store_true", help="prompts of 1K to 16K tokens instead, fewer rounds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    theirs, ours = network(options.dtype, 20480), network(options.dtype, 20480)
    num_widened = widen_products(ours)
    decoder = Decoder.of(ours)
    if options.growth:
        growth(decoder, theirs, options.dtype, options.threads)
        return
    result: dict[str, Any] = {"dtype": options.dtype, "threads": options.threads, "rounds": options.rounds, "share": SHARE,
                              "widened_layers": num_widened}  # fmt: skip
    words = tuple(method(word).name for word in dict.fromkeys(["full", *options.methods.split(",")]))
    warm_up(decoder, theirs, words)
    with tempfile.TemporaryDirectory() as folder:
        case = Case(decoder, theirs, 8, Path(folder))
        result["num_tokens"] = len(case.prompt)
        result["flop_bounds"] = {
            word: round(flop_bound(len(case.prompt), word), 2) for word in words if METHODS[word].reads == "chunks"
        }
        result["methods"] = measured(case, words, options.rounds, everything=True)
    for name, row in result["methods"].items():
        print(f"{name:18} {row['seconds']:8.3f} s  {row['times_faster_than_full']:6.2f} x  {row['phases']}")
    print(result["flop_bounds"])
    print(write_result(of_processor(f"ttft_{options.dtype}"), result))


if __name__ == "__main__":
    main()
