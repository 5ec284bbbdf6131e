"""What every way of reusing cached chunks does to the answers of the project's own reader: method by share of recomputation.

    python bench/kv_quality.py [--weights eval/reader/weights/reader] [--num-questions 600] [--shares 0.05,0.15,0.3]

Questions are generated (seeds never used in training): direct, two-hop, and about a subject that stands in the chunk before. Chunks are
encoded behind the prompt's prefix, alone. Budgets are shares of the reused tokens. KL is that of the first answer tokens, full prefill
against the method, in nats. Intervals are bootstrap over questions; differences are paired.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.record import write_result
from rag.eval.kvquality import Answered, Quality, as_json, measure
from rag.eval.reader import batches, tasks
from rag.kvcache.compare import kl_nats, reply
from rag.kvcache.engine import KVEngine
from rag.kvcache.methods import METHODS
from rag.kvcache.prefill import Decoder
from rag.kvcache.prompt import Prompt, Segment
from rag.kvcache.store import KVStore

FOLDER = Path(__file__).parents[1] / "eval" / "reader" / "weights"
FIRST_SEED = 5_000_000
NUM_TOKENS = 14


def questions(num: int, num_chunks: tuple[int, int], first_seed: int) -> list[tuple[tasks.Instance, tasks.Question]]:
    """As many questions of every kind, one per instance."""
    found, seed = list[tuple[tasks.Instance, tasks.Question]](), first_seed
    while len(found) < num:
        kind = tasks.KINDS[len(found) % len(tasks.KINDS)]
        instance = tasks.make(seed, random.Random(seed).randint(*num_chunks))
        question = tasks.pick(instance, kind, seed)
        if question is not None:
            found.append((instance, question))
        seed += 1
    return found


def prompt_of(encoder: batches.Encoder, instance: tasks.Instance, question: tasks.Question) -> Prompt:
    """The segments the reader was trained on."""
    prefix, sources, asked = encoder.segments(instance.chunks, question.text)
    middle = [
        piece
        for number, (label, body) in enumerate(sources)
        for piece in (Segment("glue", tuple(label)), Segment("chunk", tuple(body), -float(number)))
    ]
    return Prompt((Segment("prefix", tuple(prefix)), *middle, Segment("question", tuple(asked))))


class Reader:
    """A weights folder, opened, with one store for all methods."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.encoder = batches.Encoder(self.tokenizer)
        self.ends = {self.tokenizer.eos_token_id}
        self.engine = KVEngine(
            Decoder.of(network), KVStore(None, ram_bytes=4 << 30), folder.name, METHODS["full"], 1.0, overlap=False
        )
        self.prompts: list[Prompt] = []
        self._true: dict[int, Any] = {}

    def ask_all(self, asked: list[tuple[tasks.Instance, tasks.Question]]) -> None:
        """Writes the prompts and computes their chunks."""
        self.prompts = [prompt_of(self.encoder, *each) for each in asked]
        for prompt in self.prompts:
            self.engine.warm(prompt.prefix, [segment.ids for segment in prompt.segments if segment.kind == "chunk"])

    def method(self, word: str, share: float) -> Callable[[int], Answered]:
        """Answers question ``number`` by a method."""
        engine = self.engine.with_method(METHODS[word], share)
        if METHODS[word].recompute is None or word == "full":
            engine.recompute = share
        engine.worth.saw_compute = lambda *_: None  # type: ignore[method-assign]

        def ask(number: int) -> Answered:
            prompt = self.prompts[number]
            done = engine.prefill(prompt, NUM_TOKENS)
            trace = done.trace
            free = reply(engine.decoder, done, NUM_TOKENS, self.ends)
            if word == "full":
                self._true[number] = free
            true = self._true[number]
            forced = free
            if free.tokens != true.tokens:
                forced = reply(engine.decoder, engine.prefill(prompt, NUM_TOKENS), NUM_TOKENS, self.ends, true.tokens)
            text = self.tokenizer.decode(free.tokens)
            return Answered(text, kl_nats(true, forced), trace.num_chosen, trace.num_reused)

        return ask


def table(reader: Reader, num: int, num_chunks: tuple[int, int], methods: list[tuple[str, float]], first_seed: int) -> Quality:
    """Asks ``num`` questions over ``num_chunks`` (fewest, most) chunks by every method."""
    asked = questions(num, num_chunks, first_seed)
    reader.ask_all(asked)
    named = {method: reader.method(*method) for method in methods}
    return measure([question for _, question in asked], named, lambda done: _progress(done, num))


def _progress(done: int, num: int) -> None:
    if done % 50 == 0:
        print(f"{done} of {num} questions", file=sys.stderr, flush=True)


def main() -> None:
    """Prints a table and writes bench/results/kv_quality_<weights>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=FOLDER / "reader")
    parser.add_argument("--num-questions", type=int, default=600)
    parser.add_argument("--shares", default="0.05,0.1,0.15,0.3")
    parser.add_argument("--chunks", default="3,10", help="fewest and most chunks")
    parser.add_argument("--methods", default="lot,first-k,blend,query,combined")
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    options = parser.parse_args()
    low, high = (int(part) for part in options.chunks.split(","))
    shares = [float(part) for part in options.shares.split(",")]
    methods = [("full", 1.0), ("reuse", 0.0), ("ape", 0.0)]
    methods += [(word, share) for share in shares for word in options.methods.split(",") if word]
    reader = Reader(options.weights)
    quality = table(reader, options.num_questions, (low, high), methods, options.seed)
    rows = quality.rows()
    for row in rows:
        kinds = "  ".join(f"{kind} {value:.3f}" for kind, value in row.by_kind.items())
        print(
            f"{row.method:9} {row.recompute:5.2f}  EM {row.exact_match.mean:.3f} [{row.exact_match.low:.3f}, {row.exact_match.high:.3f}]  {kinds}  KL {row.kl_nats.mean:.3f}"
        )
    pairs = [
        ("combined", other)
        for other in ("blend", "first-k", "query", "lot")
        if ("combined", 0.15) in quality.correct and (other, 0.15) in quality.correct
    ]
    gains = {f"{one} - {other} at 0.15": quality.gain((one, 0.15), (other, 0.15)) for one, other in pairs}
    for name, gain in gains.items():
        print(f"{name}: {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] p {gain.p:.4f}")
    result = {
        "weights": options.weights.name,
        "num_questions": options.num_questions,
        "chunks": [low, high],
        "first_seed": options.seed,
        "table": as_json(rows),
        "gains": {name: {"mean": g.mean, "low": g.low, "high": g.high, "p": g.p} for name, g in gains.items()},
    }
    print(write_result(f"kv_quality_{options.weights.name}", result))


if __name__ == "__main__":
    main()
