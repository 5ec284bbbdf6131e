"""Peak memory of an ingest against the size of the corpus: bounded means that ten times the files need no more memory.

    python bench/ingest_memory.py --documents 1000

Each size runs in a process of its own, files to indexes. The encoder is a cheap deterministic one with the width of the real one, so
that the corpora can be large; everything else is the product. Two figures: peak resident set (with the pages of mapped files, which
the kernel takes back at will) and the peak of anonymous memory (which it cannot).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result

CONFIG = {
    "models": {"tokenizer": {"use": "words"}},
    "chunker": {"use": "structure"},
    "indexes": {"dense": {"use": "faiss"}, "sparse": {"use": "bm25"}},
}
LIMIT_RATIO = 1.25


def write_corpus(folder: Path, num_documents: int) -> int:
    """Zipf-distributed English-like text, about 12 kB a file; returns the bytes written."""
    chance = random.Random(1)
    words = ["".join(chance.choices("etaoinshrdlucmfwypvbgk", k=chance.randint(2, 9))) for _ in range(30_000)]
    weights = [1 / (rank + 2) for rank in range(len(words))]
    num_bytes = 0
    for number in range(num_documents):
        paragraphs = [" ".join(chance.choices(words, weights, k=120)).capitalize() + "." for _ in range(16)]
        text = f"# Report {number}\n\n" + "\n\n".join(paragraphs)
        (folder / f"{number:06d}.md").write_text(text)
        num_bytes += len(text)
    return num_bytes


def anonymous_bytes() -> int:
    """Anonymous memory of this process now."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) * 1024


def peak_resident_bytes() -> int:
    """The most resident memory this process ever had."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM"].split()[0]) * 1024


def measure(corpus: Path, index: Path) -> None:
    """Ingests and prints what it took, as JSON; to be run in a process of its own."""
    from rag.pipeline import Rag
    from tests.fakes import HashingEncoder, QuotingGenerator

    peak = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], anonymous_bytes())
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    rag = Rag.open(index, CONFIG, components={"encoder": HashingEncoder(384), "generator": QuotingGenerator()})
    report = rag.ingest(corpus)
    done.set()
    watcher.join()
    result = {
        "documents": len(report.added),
        "chunks": report.num_chunks_added,
        "seconds": round(report.seconds, 1),
        "peak_anonymous_mib": round(peak[0] / 2**20, 1),
        "peak_resident_mib": round(peak_resident_bytes() / 2**20, 1),
    }
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--measure", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    rows = []
    for num_documents in (options.documents, 10 * options.documents):
        with tempfile.TemporaryDirectory() as name:
            corpus = Path(name) / "corpus"
            corpus.mkdir()
            num_bytes = write_corpus(corpus, num_documents)
            command = [sys.executable, __file__, "--measure", str(corpus), str(Path(name) / "index")]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            rows.append({"text_mib": round(num_bytes / 2**20, 1), **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    ratios = {name: round(rows[1][name] / rows[0][name], 3) for name in ("peak_anonymous_mib", "peak_resident_mib")}
    print(f"ratio of the peaks: {ratios}; limit {LIMIT_RATIO}")
    write_result("ingest_memory", {"rows": rows, "ratio": ratios, "limit_ratio": LIMIT_RATIO})


if __name__ == "__main__":
    main()
