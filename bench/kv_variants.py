"""What it is worth to keep repaired chunks: answers of the project's own reader when the same chunks come again for other questions.

    python bench/kv_variants.py [--weights eval/reader/weights/reader] [--num-instances 60] [--num-rounds 4] [--share 0.15]

The chunks of an instance are computed alone and kept. Then one question after another is asked over them, in one order. What
cache-craft computes in one round it keeps for the next (arXiv 2502.15734); the other methods begin from the same stale chunks each time.
Exact match by round, with bootstrap intervals over questions, and the paired difference of the last round to first-k and to the full prefill.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.kv_quality import FIRST_SEED, FOLDER, NUM_TOKENS, Reader, prompt_of
from bench.record import write_result
from rag.eval.bootstrap import difference, interval
from rag.eval.kvquality import normalised
from rag.eval.reader import tasks
from rag.kvcache.compare import reply
from rag.kvcache.engine import KVEngine
from rag.kvcache.methods import METHODS
from rag.kvcache.prompt import Prompt
from rag.kvcache.store import KVStore

WORDS = ("full", "reuse", "first-k", "blend", "focused", "cache-craft")


def rounds(instance: tasks.Instance, seed: int, num: int) -> list[tasks.Question]:
    """``num`` questions about one instance, the kinds in turns; fewer if it has no more."""
    asked: list[tasks.Question] = []
    for number in range(4 * num):
        question = tasks.pick(instance, tasks.KINDS[(seed + number) % len(tasks.KINDS)], seed + 1000 * number)
        if question is not None and question not in asked:
            asked.append(question)
        if len(asked) == num:
            break
    return asked


def engine(reader: Reader, word: str, share: float) -> KVEngine:
    """A method with a store of its own, so that none finds what another kept."""
    made = KVEngine(reader.engine.decoder, KVStore(None, ram_bytes=1 << 30), "reader", METHODS[word], share, overlap=False)
    made.worth.saw_compute = lambda *_: None  # type: ignore[method-assign]
    return made


def grade(reader: Reader, made: KVEngine, prompt: Prompt, question: tasks.Question) -> tuple[float, float]:
    """Exact match, and what was computed anew, in tokens: a token in half of the layers is half a token."""
    done = made.prefill(prompt, NUM_TOKENS)
    text = reader.tokenizer.decode(reply(made.decoder, done, NUM_TOKENS, reader.ends).tokens)
    return float(normalised(text) == normalised(question.answer)), done.trace.num_row_layers / len(made.decoder.layers)


def main() -> None:
    """Prints a table and writes bench/results/kv_variants.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=FOLDER / "reader")
    parser.add_argument("--num-instances", type=int, default=60)
    parser.add_argument("--num-rounds", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=FIRST_SEED + 500_000)
    options = parser.parse_args()
    reader = Reader(options.weights)
    grades: dict[str, list[list[float]]] = {word: [[] for _ in range(options.num_rounds)] for word in WORDS}
    work = {word: [0.0] * options.num_rounds for word in WORDS}
    seed, done = options.seed, 0
    while done < options.num_instances:
        seed += 1
        instance = tasks.make(seed, 4 + seed % 4)
        asked = rounds(instance, seed, options.num_rounds)
        if len(asked) < options.num_rounds:
            continue
        done += 1
        prompts = [prompt_of(reader.encoder, instance, question) for question in asked]
        for word in WORDS:
            made = engine(reader, word, options.share)
            made.warm(prompts[0].prefix, [segment.ids for segment in prompts[0].segments if segment.kind == "chunk"])
            for number, (prompt, question) in enumerate(zip(prompts, asked, strict=True)):
                right, tokens = grade(reader, made, prompt, question)
                grades[word][number].append(right)
                work[word][number] += tokens
        if done % 10 == 0:
            print(f"{done} of {options.num_instances} instances", file=sys.stderr, flush=True)
    table = {word: [interval(values) for values in by_round] for word, by_round in grades.items()}
    for word, by_round in table.items():
        print(f"{word:12}", "  ".join(f"{each.mean:.3f} [{each.low:.3f}, {each.high:.3f}]" for each in by_round))
    last = {word: difference(grades["cache-craft"][-1], grades[word][-1]) for word in WORDS[:-1]}
    for word, gain in last.items():
        print(f"last round, cache-craft - {word}: {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] p {gain.p:.4f}")
    result = {
        "weights": options.weights.name,
        "num_instances": options.num_instances,
        "share": options.share,
        "exact_match_by_round": {
            word: [{"mean": round(e.mean, 4), "low": round(e.low, 4), "high": round(e.high, 4)} for e in by_round]
            for word, by_round in table.items()
        },
        "tokens_computed_anew_by_round": {word: [round(tokens, 1) for tokens in by_round] for word, by_round in work.items()},
        "cache_craft_in_the_last_round_minus": {
            word: {"mean": round(g.mean, 4), "low": round(g.low, 4), "high": round(g.high, 4), "p": round(g.p, 4)}
            for word, g in last.items()
        },
    }
    print(write_result("kv_variants", result))


if __name__ == "__main__":
    main()
