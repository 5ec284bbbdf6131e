"""Speed and memory of cutting plain text into chunks of at most 200 tokens: ours and three libraries.

    python bench/chunkers.py --corpora ../shared/data/chunking_evaluation/corpora --rounds 3

Speed is MB of UTF-8 a second. All of them measure with the vocabulary of all-MiniLM-L6-v2 (``minilm``: the ``tokenizers`` library for
the others, our own tokenizer for ours) or with words (ours by table, the others by a pattern). Every round runs everyone once, in
turn and in the other order every other time, made anew, so that nothing is remembered from the round before, except for ``warm``: it has seen the same words before, as in a long
ingest. The median counts, by the clock and in seconds of processor time (the machine may be shared). How many chunks are above
the limit, and how many do not stand where their offsets say, is counted with each library's own offsets.

Semantic chunkers read with a bag of hashed words that costs next to nothing (all corpora), and with all-MiniLM-L6-v2 (the smallest
corpus of plain prose, one round); ``texts_encoded`` is how many texts each of them has the encoder read. LangChain's has no limit.

Memory: each in a process of its own that cuts all corpora once and loads nothing that the chunker does not load (``chunker_memory.py``);
``peak_mib`` is the most it ever held resident, libraries and texts and all, ``growth_mib`` how much of that came after everything was
loaded and one short text was cut. With words ours loads numpy (some 15 MiB), which semchunk does without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.chunker_peers import MAX_TOKENS, Chunk, Counted, HashedWords, Piece, plain, semantic, tokenizer
from bench.record import write_result
from rag.tokenizer import counts_of

IN_MEMORY = ("ours recursive", "ours sentence", "semchunk", "chonkie recursive", "chonkie sentence", "langchain recursive")
WORD_ROUNDS = 5
"""Rounds by words for each by minilm: they take a fifth of a second, and single rounds spread by a factor of two."""

SMALL_CORPUS = "state_of_the_union"
Row = dict[str, float]


def speeds(
    made: Mapping[str, Callable[[], Chunk]], texts: list[str], vocabulary: str, rounds: int, encoder: Any = None
) -> dict[str, Row]:
    """A row per chunker."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    pieces: dict[str, list[list[Piece]]] = {}
    num_encoded: dict[str, int] = {}
    for number in range(rounds + 1):  # the first round warms up and is not counted
        for name in list(made) if number % 2 else list(made)[::-1]:
            chunk = made[name]()
            before = encoder.num_texts if encoder else 0
            begun, processor = time.perf_counter(), time.process_time()
            pieces[name] = [chunk(text) for text in texts]
            if number or not rounds:
                seconds[name].append((time.perf_counter() - begun, time.process_time() - processor))
            num_encoded[name] = (encoder.num_texts if encoder else 0) - before
    num_bytes = sum(len(text.encode()) for text in texts)
    rows = {}
    for name in made:
        found = pieces[name]
        counts = counts_of(tokenizer(vocabulary), [piece for each in found for piece, _ in each])
        misplaced = sum(
            start < 0 or text[start : start + len(piece)] != piece
            for text, each in zip(texts, found, strict=True)
            for piece, start in each
        )
        rows[name] = {
            "mb_per_second": round(num_bytes / 1e6 / statistics.median(clock for clock, _ in seconds[name]), 3),
            "mb_per_cpu_second": round(num_bytes / 1e6 / statistics.median(cpu for _, cpu in seconds[name]), 3),
            "slowest_cpu": round(num_bytes / 1e6 / max(cpu for _, cpu in seconds[name]), 3),
            "fastest_cpu": round(num_bytes / 1e6 / min(cpu for _, cpu in seconds[name]), 3),
            "chunks": len(counts),
            "mean_tokens": round(statistics.mean(counts), 1),
            "over_limit": sum(count > MAX_TOKENS for count in counts),
            "misplaced": misplaced,
        } | ({"texts_encoded": num_encoded[name]} if encoder else {})
        print(f"{name:26} {rows[name]}", flush=True)
    return rows


def memory(vocabulary: str, name: str, corpora: Path) -> Row:
    """Of a process of its own."""
    command = [sys.executable, str(ROOT / "bench" / "chunker_memory.py"), name, vocabulary, str(corpora)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print(f"{vocabulary:7} {name:26} {row}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="a folder of .md files")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    paths = sorted(arguments.corpora.glob("*.md"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    all_rounds = {"minilm": arguments.rounds, "words": WORD_ROUNDS * arguments.rounds}
    results: dict[str, Any] = {word: speeds(plain(word), texts, word, rounds) for word, rounds in all_rounds.items()}
    cheap = HashedWords()
    results["semantic, hashed words"] = speeds(semantic(cheap), texts, "minilm", 1, cheap)
    small = [text for path, text in zip(paths, texts, strict=True) if path.stem == SMALL_CORPUS]
    if small:
        from rag.retrievers.encoder import SentenceTransformersEncoder

        encoder = Counted(SentenceTransformersEncoder())
        encoder.encode_documents(["It loads at its first use."])
        results["semantic, all-MiniLM-L6-v2"] = speeds(semantic(encoder), small, "minilm", 0, encoder)
    names = [("minilm", name) for name in (*IN_MEMORY, *semantic(cheap))] + [("words", name) for name in IN_MEMORY]
    results["memory"] = {f"{word}: {name}": memory(word, name, arguments.corpora) for word, name in names}
    packages = ["tokenizers", "nupunkt", "langchain-text-splitters", "langchain-experimental", "semchunk", "chonkie"]
    write_result("chunkers", results, packages)


if __name__ == "__main__":
    main()
