"""Speed of cutting plain text into chunks of at most 200 tokens, in MB of UTF-8 a second: ours and three libraries.

    python bench/chunkers.py --corpora ../shared/data/chunking_evaluation/corpora --rounds 3

All of them measure with the vocabulary of all-MiniLM-L6-v2 (``minilm``: the ``tokenizers`` library for the others, our own
tokenizer for ours) or with words (ours by table, the others by a pattern). Every round runs everyone once, in turn, made anew,
so that nothing is remembered from the round before, except for ``warm``: it has seen the same words before, as in a long
ingest. The median counts, by the clock and in seconds of processor time (the machine may be shared). How many chunks are above
the limit, and how many do not stand where their offsets say, is counted with each library's own offsets.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.core import Document, Tokenizer
from rag.registry import component
from rag.tokenizer import HuggingFaceTokenizer, WordTokenizer, counts_of

MAX_TOKENS = 200
Piece = tuple[str, int]
"""The text of a chunk, and where it claims to start (-1: it does not say)."""


def ours(word: str, tokenizer: Tokenizer) -> Callable[[str], list[Piece]]:
    chunker = component("chunker", word)(tokenizer=tokenizer, max_tokens=MAX_TOKENS)
    return lambda text: [(chunk.text, chunk.span.start) for chunk in chunker.chunk(Document("id", "source", text))]


def langchain(count: Callable[[str], int]) -> Callable[[str], list[Piece]]:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(chunk_size=MAX_TOKENS, chunk_overlap=0, length_function=count, add_start_index=True)
    return lambda text: [(found.page_content, found.metadata["start_index"]) for found in splitter.create_documents([text])]


def semchunk(count: Callable[[str], int]) -> Callable[[str], list[Piece]]:
    from semchunk import chunkerify  # type: ignore[attr-defined]

    # it remembers the counts of each counter for good: a new one forgets them
    chunker = chunkerify(lambda text: count(text), MAX_TOKENS)

    def chunk(text: str) -> list[Piece]:
        chunks, offsets = chunker(text, offsets=True)
        return [(piece, start) for piece, (start, _) in zip(chunks, offsets, strict=True)]  # type: ignore[misc]

    return chunk


def chonkie(count: Callable[[str], int]) -> Callable[[str], list[Piece]]:
    from chonkie import RecursiveChunker

    chunker = RecursiveChunker(tokenizer=count, chunk_size=MAX_TOKENS, min_characters_per_chunk=1)  # type: ignore[arg-type]
    return lambda text: [(chunk.text, chunk.start_index) for chunk in chunker.chunk(text)]


def contenders(vocabulary: str) -> dict[str, Callable[[], Callable[[str], list[Piece]]]]:
    """Name -> what makes it anew."""
    tokenizer: Callable[[], Tokenizer] = HuggingFaceTokenizer if vocabulary == "minilm" else WordTokenizer
    if vocabulary == "minilm":
        library = HuggingFaceTokenizer()._library

        def count(text: str) -> int:
            return len(library.encode(text, add_special_tokens=False))
    else:
        pattern = re.compile(r"\w+|[^\w\s]+")

        def count(text: str) -> int:
            return len(pattern.findall(text))

    made: dict[str, Callable[[], Callable[[str], list[Piece]]]] = {}
    for word in ("fixed", "sentence", "recursive", "structure"):
        made[f"ours {word}"] = lambda word=word: ours(word, tokenizer())  # type: ignore[misc]
    if vocabulary == "minilm":
        warm = HuggingFaceTokenizer()
        made["ours structure, warm"] = lambda: ours("structure", warm)
    for name, make in (("langchain recursive", langchain), ("semchunk", semchunk), ("chonkie recursive", chonkie)):
        made[name] = lambda make=make: make(count)  # type: ignore[misc]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="a folder of .md files")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") for path in sorted(arguments.corpora.glob("*.md"))]
    num_bytes = sum(len(text.encode()) for text in texts)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for vocabulary in ("minilm", "words"):
        tokenizer: Tokenizer = HuggingFaceTokenizer() if vocabulary == "minilm" else WordTokenizer()
        seconds: dict[str, list[tuple[float, float]]] = {}
        pieces: dict[str, list[list[Piece]]] = {}
        made = contenders(vocabulary)
        for number in range(arguments.rounds + 1):  # the first round warms up and is not counted
            for name, make in made.items():
                chunk = make()
                begun, processor = time.perf_counter(), time.process_time()
                pieces[name] = [chunk(text) for text in texts]
                if number:
                    seconds.setdefault(name, []).append((time.perf_counter() - begun, time.process_time() - processor))
        for name, found in pieces.items():
            counts = counts_of(tokenizer, [piece for each in found for piece, _ in each])
            misplaced = sum(
                start < 0 or text[start : start + len(piece)] != piece
                for text, each in zip(texts, found, strict=True)
                for piece, start in each
            )
            row = {
                "mb_per_second": round(num_bytes / 1e6 / statistics.median(clock for clock, _ in seconds[name]), 2),
                "mb_per_cpu_second": round(num_bytes / 1e6 / statistics.median(cpu for _, cpu in seconds[name]), 2),
                "chunks": len(counts),
                "mean_tokens": round(statistics.mean(counts), 1),
                "over_limit": sum(count > MAX_TOKENS for count in counts),
                "misplaced": misplaced,
            }
            results.setdefault(vocabulary, {})[name] = row
            print(f"{vocabulary:7} {name:22} {row}", flush=True)
    write_result("chunkers", results, ["tokenizers", "nupunkt", "langchain-text-splitters", "semchunk", "chonkie"])


if __name__ == "__main__":
    main()
