"""How differently chunkers cut the same documents, and what each finds: ``python examples/compare_chunkers.py``.

Prints one line per chunker: how many chunks, how long the ones found are, and the place of the first hit that holds the
answer to each question of ``expected.json`` (``-``: not among the first ten). Searches by words alone, so that no model has
to embed anything four times over.
"""

import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from rag import Rag

HERE = Path(__file__).parent
CHUNKERS = ("fixed", "sentence", "recursive", "structure")


def main() -> None:
    expected = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
    print(f"{'chunker':<12}{'chunks':>8}{'characters':>12}  place of the answer")
    for word in CHUNKERS:
        config = {"chunker": {"use": word}, "indexes": {"sparse": {"use": "bm25"}}}
        with TemporaryDirectory() as folder, Rag.open(folder, config) as rag:
            rag.ingest(HERE / "documents")
            places, lengths = [], []
            for wanted in expected:
                hits = rag.search(wanted["question"], k=10)
                lengths += [len(hit.chunk.text) for hit in hits]
                found = (place for place, hit in enumerate(hits, start=1) if wanted["citation_contains"] in hit.chunk.text)
                places.append(str(next(found, "-")))
            print(f"{word:<12}{rag.stats()['chunks']:>8}{statistics.mean(lengths):>12.0f}  {' '.join(places)}")


if __name__ == "__main__":
    main()
