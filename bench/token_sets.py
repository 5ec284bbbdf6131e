"""Makes the two sets of token vectors that the multi-vector benchmarks share: real text read by the embedded encoder, and a mixture.

    python bench/token_sets.py real --out FOLDER --documents 20000
    python bench/token_sets.py synthetic --out FOLDER --documents 100000
    python bench/token_sets.py real --out FOLDER --documents 100000 --words 60 --more FOLDER_OF_HTML ...

real: passages of 90 words, every 45 words, from the corpora in ../shared/data (meetings, reports, abstracts, help pages, Wikipedia)
and, where those are too few, from the HTML pages of other folders, in an order drawn once; their token vectors (MiniLM, 384
dimensions) turned to 128 by the principal axes of a sample. Queries are questions that people asked about the corpora, up to 32
tokens. synthetic: 128-d unit vectors of a Zipf mixture of 6,000 centres, 120
of them in each of 400 topics, with a vector shared by each document; a query is 32 disturbed tokens of one document. Writes
``<name>.tokens.npy`` (float16, (tokens, 128)), ``<name>.lengths.npy``, ``<name>.queries.npz`` (one array per query).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

DATA = ROOT.parent / "shared" / "data"
DIM = 128
NUM_QUERIES = 300
SHORTEST = 21
"""Words of a passage; what is shorter is left out."""


def main() -> None:
    """Writes one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("real", "synthetic"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--words", type=int, default=90, help="of a real passage; half of them stand in the next one, too")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="folders whose HTML pages are real texts, too")
    options = parser.parse_args()
    if options.words < SHORTEST:
        parser.error(f"--words must be at least {SHORTEST}, not {options.words}")
    for folder in options.more:
        if not folder.is_dir():
            parser.error(f"--more: {folder} is not a folder")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.kind}{options.documents}"
    if options.kind == "real":
        lengths, queries = real(path, options.documents, options.words, options.more)
    else:
        lengths, queries = synthetic(path, options.documents)
    print(options.kind, len(lengths), "documents", int(lengths.sum()), "tokens", np.mean([len(q) for q in queries]), "per query")


def save(path: Path, lengths: NDArray[np.int64], queries: list[NDArray[np.float32]]) -> None:
    """Everything but the token vectors."""
    np.save(f"{path}.lengths.npy", lengths)
    np.savez(f"{path}.queries.npz", **{str(number): query for number, query in enumerate(queries)})  # type: ignore[arg-type]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def real(
    path: Path, num_documents: int, num_words: int, more: Sequence[Path]
) -> tuple[NDArray[np.int64], list[NDArray[np.float32]]]:
    """Passages and questions of the corpora, encoded."""
    from rag.retrievers.encoder import SentenceTransformersEncoder

    rng = np.random.default_rng(0)
    own, added = ({text for whole in texts for text in _windows(whole, num_words)} for texts in (_texts(), _pages(more)))
    passages = sorted(own | added)
    print(len(own), "passages of the corpora,", len(passages) - len(own), "of the pages", flush=True)
    if len(passages) < num_documents:
        raise SystemExit(f"the texts give {len(passages)} passages, not {num_documents}; --more FOLDER adds HTML pages")
    chosen = [passages[row] for row in rng.permutation(len(passages))[:num_documents]]
    questions = sorted(set(_questions()))
    asked = [questions[row] for row in rng.permutation(len(questions))[:NUM_QUERIES]]
    encoder = SentenceTransformersEncoder("embedded")

    sample = np.concatenate(_vectors(encoder, chosen[:1_000]))
    axes = np.linalg.eigh(sample.T.astype(np.float64) @ sample)[1][:, ::-1][:, :DIM].astype(np.float32)
    lengths, blocks = [], []
    for start in range(0, num_documents, 500):
        vectors = _vectors(encoder, chosen[start : start + 500])
        lengths += [len(some) for some in vectors]
        blocks.append(unit(np.concatenate(vectors) @ axes).astype(np.float16))
        print(start, flush=True)
    np.save(f"{path}.tokens.npy", np.concatenate(blocks))
    queries = [unit(some[:32] @ axes) for some in _vectors(encoder, asked)]
    save(path, np.array(lengths), queries)
    return np.array(lengths), queries


def _vectors(encoder, texts: list[str]) -> list[NDArray[np.float32]]:  # type: ignore[no-untyped-def]
    found: list[list[NDArray[np.float32]]] = [[] for _ in texts]
    for block in encoder.token_vectors(texts, 0):
        found[block.row].append(block.vectors)
    return [unit(np.concatenate(some)) for some in found]


def _windows(text: str, num_words: int) -> Iterator[str]:
    words, step = text.split(), num_words // 2
    for start in range(0, max(1, len(words) - step), step):
        piece = words[start : start + num_words]
        if len(piece) >= SHORTEST:
            yield " ".join(piece)


def _texts() -> Iterator[str]:
    for path in sorted((DATA / "chunking_evaluation" / "corpora").glob("*.md")):
        yield path.read_text(encoding="utf-8")
    for line in (DATA / "qmsum_test" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        yield " ".join(f"{turn['speaker']}: {turn['content']}" for turn in json.loads(line)["meeting_transcripts"])
    for path in sorted(DATA.glob("*/derived_beir*/corpus.jsonl")) + sorted(DATA.glob("*/docs/derived_beir/corpus.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["text"]


def _pages(folders: Sequence[Path]) -> Iterator[str]:
    from rag.read.worker import ReadPool

    with ReadPool() as pool:
        for read in pool.read(sorted(page for folder in folders for page in folder.rglob("*.html"))):
            if read.error is None:
                yield read.document().text
            else:
                print("left out:", read.error, flush=True)


def _questions() -> Iterator[str]:
    with (DATA / "chunking_evaluation" / "questions_df.csv").open(encoding="utf-8", newline="") as file:
        yield from (row["question"] for row in csv.DictReader(file))
    for line in (DATA / "qmsum_test" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        yield from (query["query"] for query in json.loads(line)["specific_query_list"])
    for path in (DATA / "anthropic_cookbook_retrieval/docs/derived_beir", DATA / "mtrag_un_reference/derived_beir"):
        for line in (path / "queries.jsonl").read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["text"]


def synthetic(path: Path, num_documents: int) -> tuple[NDArray[np.int64], list[NDArray[np.float32]]]:
    """The mixture; the target of query i is not recorded, since exact MaxSim is the truth here."""
    rng = np.random.default_rng(7)
    num_centres, num_topics, per_topic = 6_000, 400, 120
    spectrum = (np.arange(1, DIM + 1) ** -0.25).astype(np.float32)
    spectrum /= np.sqrt((spectrum**2).mean())
    centres = unit(rng.standard_normal((num_centres, DIM)).astype(np.float32))
    centres = unit(centres * spectrum + 0.35 * unit(rng.standard_normal(DIM).astype(np.float32)))
    zipf = 1.0 / np.arange(1, num_centres + 1) ** 0.9
    cumulated = np.cumsum(zipf / zipf.sum())
    topics = np.minimum(np.searchsorted(cumulated, rng.random((num_topics, per_topic))), num_centres - 1)
    lengths = np.clip(np.exp(rng.normal(np.log(108), 0.45, num_documents)).astype(np.int64), 12, 512)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.lib.format.open_memmap(f"{path}.tokens.npy", mode="w+", dtype=np.float16, shape=(int(starts[-1]), DIM))
    for number in range(num_documents):
        n = int(lengths[number])
        own = topics[rng.integers(num_topics)][rng.integers(0, per_topic, n)]
        any_centre = np.minimum(np.searchsorted(cumulated, rng.random(n)), num_centres - 1)
        shared = 0.30 * unit(rng.standard_normal(DIM).astype(np.float32))
        noise = (0.60 / np.sqrt(DIM)) * rng.standard_normal((n, DIM)).astype(np.float32)
        tokens[starts[number] : starts[number + 1]] = unit(centres[np.where(rng.random(n) < 0.6, own, any_centre)] + shared + noise)
    tokens.flush()
    queries = []
    for number in rng.choice(num_documents, NUM_QUERIES, replace=False):
        whole = tokens[starts[number] : starts[number + 1]].astype(np.float32)
        picked = whole[rng.integers(0, len(whole), 32)]
        queries.append(unit(picked + np.float32(0.75 / np.sqrt(DIM)) * rng.standard_normal((32, DIM)).astype(np.float32)))
    save(path, lengths, queries)
    return lengths, queries


if __name__ == "__main__":
    main()
