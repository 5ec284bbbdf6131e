"""What every way of reusing cached chunks does to the answers of the project's own reader: method by share of recomputation.

    python bench/kv_quality.py [--weights eval/reader/weights/reader] [--num-questions 600] [--shares 0.05,0.15,0.3] [--carried-at middle]
    python bench/kv_quality.py --weights eval/reader/weights/reader-block --policy bare --unmended block --methods ""    the block-tuned twin

Questions are generated (seeds never used in training): direct, two-hop, and about a subject that stands in the chunk before, spoken of
by a pronoun at the start or in the middle of its chunk. Chunks are encoded behind the prompt's prefix (``--policy bare``: behind nothing), alone. The retrieval score of a chunk is
its BM25 score for the question among the chunks of the prompt; ``combined-lot`` is ``combined`` with these scores dealt out anew. Budgets are shares of the reused tokens. KL is that of the first answer tokens, full prefill
against the method, in nats. Intervals are bootstrap over questions; differences are paired.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rank_bm25 import BM25Okapi

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.record import write_result
from rag.eval.kvquality import Answered, Quality, as_json, measure
from rag.eval.reader import batches, tasks
from rag.kvcache.compare import forced_reply, kl_nats, reply, says_the_same
from rag.kvcache.engine import KVEngine
from rag.kvcache.methods import METHODS
from rag.kvcache.prefill import Decoder
from rag.kvcache.prompt import Prompt, Segment
from rag.kvcache.store import KVStore

FOLDER = Path(__file__).parents[1] / "eval" / "reader" / "weights"
FIRST_SEED = 5_000_000
NUM_TOKENS = 14


def questions(
    num: int, num_chunks: tuple[int, int], first_seed: int, carried_at: tasks.Place = "start"
) -> list[tuple[tasks.Instance, tasks.Question]]:
    """As many questions of every kind, one per instance."""
    found, seed = list[tuple[tasks.Instance, tasks.Question]](), first_seed
    while len(found) < num:
        kind = tasks.KINDS[len(found) % len(tasks.KINDS)]
        instance = tasks.make(seed, random.Random(seed).randint(*num_chunks), carried_at=carried_at)
        question = tasks.pick(instance, kind, seed)
        if question is not None:
            found.append((instance, question))
        seed += 1
    return found


def retrieval_scores(instance: tasks.Instance, question: tasks.Question) -> list[float]:
    """BM25 of the question, chunk by chunk."""
    chunks = [re.findall(r"\w+", chunk.lower()) for chunk in instance.chunks]
    scores: list[float] = BM25Okapi(chunks).get_scores(re.findall(r"\w+", question.text.lower())).tolist()
    return scores


def prompt_of(encoder: batches.Encoder, instance: tasks.Instance, question: tasks.Question) -> Prompt:
    """The segments the reader was trained on, with the scores a retriever would give the chunks."""
    scores = retrieval_scores(instance, question)
    prefix, sources, asked = encoder.segments(instance.chunks, question.text)
    middle = [
        piece
        for number, (label, body) in enumerate(sources)
        for piece in (Segment("glue", tuple(label)), Segment("chunk", tuple(body), scores[number]))
    ]
    return Prompt((Segment("prefix", tuple(prefix)), *middle, Segment("question", tuple(asked))))


def dealt_out(prompt: Prompt, seed: int) -> Prompt:
    """The same prompt, its chunks' scores in an order drawn by lot."""
    scores = [segment.prior for segment in prompt.segments if segment.kind == "chunk"]
    random.Random(seed).shuffle(scores)
    return Prompt(
        tuple(Segment("chunk", segment.ids, scores.pop()) if segment.kind == "chunk" else segment for segment in prompt.segments)
    )


class Reader:
    """A weights folder, opened, with one store for all methods."""

    def __init__(self, folder: Path, policy: str = "shared-prefix") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.encoder = batches.Encoder(self.tokenizer)
        self.ends = {self.tokenizer.eos_token_id}
        self.engine = KVEngine(
            Decoder.of(network), KVStore(None, ram_bytes=4 << 30), folder.name, METHODS["full"], 1.0, policy, overlap=False
        )
        self.prompts: list[Prompt] = []
        self._true: dict[int, Any] = {}

    def ask_all(self, asked: list[tuple[tasks.Instance, tasks.Question]]) -> None:
        """Writes the prompts and computes their chunks."""
        self.prompts = [prompt_of(self.encoder, *each) for each in asked]
        for prompt in self.prompts:
            self.engine.warm(prompt.prefix, [segment.ids for segment in prompt.segments if segment.kind == "chunk"])

    def method(self, word: str, share: float) -> Callable[[int], Answered]:
        """Answers question ``number`` by a method; ``-lot`` at the end of its name: with every prompt's scores dealt out anew."""
        word, dealt = word.removesuffix("-lot"), word.endswith("-lot")
        engine = self.engine.with_method(METHODS[word], share)
        if METHODS[word].recompute is None or word == "full":
            engine.recompute = share
        engine._keep_variants = lambda *_: None  # type: ignore[method-assign]  # a question asked twice must not find its own repairs

        def ask(number: int) -> Answered:
            prompt = dealt_out(self.prompts[number], number) if dealt else self.prompts[number]
            done = engine.prefill(prompt, NUM_TOKENS)
            trace, num_layers = done.trace, len(engine.decoder.layers)
            counts = (trace.num_chosen, trace.num_reused, trace.num_row_layers / num_layers)
            if word == "full":
                own = self._true[number] = reply(engine.decoder, done, NUM_TOKENS, self.ends)
                return Answered(self.tokenizer.decode(own.tokens), kl_nats(own, own), *counts)
            true = self._true[number]
            forced = forced_reply(engine.decoder, done, NUM_TOKENS, true.tokens)
            said = true.tokens
            if not says_the_same(forced, NUM_TOKENS, self.ends):
                said = reply(engine.decoder, engine.prefill(prompt, NUM_TOKENS), NUM_TOKENS, self.ends).tokens
            return Answered(self.tokenizer.decode(said), kl_nats(true, forced), *counts)

        return ask


def table(
    reader: Reader,
    num: int,
    num_chunks: tuple[int, int],
    methods: list[tuple[str, float]],
    first_seed: int,
    carried_at: tasks.Place = "start",
) -> Quality:
    """Asks ``num`` questions over ``num_chunks`` (fewest, most) chunks by every method."""
    asked = questions(num, num_chunks, first_seed, carried_at)
    reader.ask_all(asked)
    named = {method: reader.method(*method) for method in methods}
    return measure([question for _, question in asked], named, lambda done: _progress(done, num))


def _progress(done: int, num: int) -> None:
    if done % 50 == 0:
        print(f"{done} of {num} questions", file=sys.stderr, flush=True)


def main() -> None:
    """Prints a table and writes bench/results/kv_quality_<result>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=FOLDER / "reader")
    parser.add_argument("--num-questions", type=int, default=600)
    parser.add_argument("--shares", default="0.05,0.1,0.15,0.3")
    parser.add_argument("--unmended", default="reuse,ape", help="methods that compute nothing anew")
    parser.add_argument("--chunks", default="3,10", help="fewest and most chunks")
    parser.add_argument("--methods", default="lot,first-k,blend,query,cache-craft,focused,combined,combined-lot")
    parser.add_argument(
        "--policy", choices=("shared-prefix", "bare"), default="shared-prefix", help="what chunks are encoded behind"
    )
    parser.add_argument("--carried-at", choices=("start", "middle"), default="start", help="where pronouns stand in their chunk")
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    parser.add_argument("--result", default="", help="name of the result; default: that of the weights")
    options = parser.parse_args()
    low, high = (int(part) for part in options.chunks.split(","))
    shares = [float(part) for part in options.shares.split(",")]
    methods = [("full", 1.0), *((word, 0.0) for word in options.unmended.split(",") if word)]
    methods += [(word, share) for share in shares for word in options.methods.split(",") if word]
    reader = Reader(options.weights, options.policy)
    quality = table(reader, options.num_questions, (low, high), methods, options.seed, options.carried_at)
    rows = quality.rows()
    for row in rows:
        kinds = "  ".join(f"{kind} {value:.3f}" for kind, value in row.by_kind.items())
        print(
            f"{row.method:12} {row.recompute:5.2f}  EM {row.exact_match.mean:.3f} [{row.exact_match.low:.3f}, {row.exact_match.high:.3f}]  {kinds}  KL {row.kl_nats.mean:.3f}"
        )
    pairs = [
        ("combined", other)
        for other in ("blend", "first-k", "query", "lot", "combined-lot")
        if ("combined", 0.15) in quality.correct and (other, 0.15) in quality.correct
    ]
    gains = {f"{one} - {other} at 0.15": quality.gain((one, 0.15), (other, 0.15)) for one, other in pairs}
    if ("block", 0.0) in quality.correct:
        gains["block - full"] = quality.gain(("block", 0.0), ("full", 1.0))
    for name, gain in gains.items():
        print(f"{name}: {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] p {gain.p:.4f}")
    result = {
        "weights": options.weights.name,
        "num_questions": options.num_questions,
        "chunks": [low, high],
        "first_seed": options.seed,
        "carried_at": options.carried_at,
        "policy": options.policy,
        "table": as_json(rows),
        "gains": {name: {"mean": g.mean, "low": g.low, "high": g.high, "p": g.p} for name, g in gains.items()},
    }
    print(write_result(f"kv_quality_{options.result or options.weights.name}", result))


if __name__ == "__main__":
    main()
