"""The program that is killed, and the model that says what must be there afterwards. Knows nothing of how it dies.

Operation n of a seed is always the same: it ingests, edits, deletes or compacts. ``state_after(seed, n)`` is the plain
dictionary that an index must equal once operation n was acknowledged.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rag.core import Document
from rag.pipeline import Rag
from tests.fakes import HashingEncoder, QuotingGenerator

CONFIG = {
    "models": {"tokenizer": {"use": "words"}},
    "chunker": {"use": "recursive", "max_tokens": 40},
    "indexes": {"dense": {"use": "faiss"}, "sparse": {"use": "bm25"}},
}
NUM_SOURCES = 24


def marker(source: str) -> str:
    """A word that stands in this document alone, and in no other marker."""
    return "marker" + "".join(chr(ord("a") + int(digit)) for digit in source.removeprefix("d").zfill(3))


def operation(seed: int, number: int) -> tuple[str, dict[str, str]]:
    """``("ingest", {source: text})``, ``("delete", {source: ""})`` or ``("compact", {})``."""
    chance = random.Random(f"{seed}:{number}")
    kind = chance.choices(["ingest", "delete", "compact"], [6, 3, 1])[0]
    if kind == "compact":
        return kind, {}
    sources = chance.sample([f"d{i}" for i in range(NUM_SOURCES)], chance.randint(1, 6))
    if kind == "delete":
        return kind, dict.fromkeys(sources, "")
    words = ["pond", "weed", "mallard", "nest", "feather", "bread", "river", "egg"]
    texts = {}
    for source in sources:
        paragraphs = [" ".join(chance.choices(words, k=chance.randint(5, 60))) for _ in range(chance.randint(1, 5))]
        texts[source] = f"{marker(source)} revision {number}.\n\n" + "\n\n".join(paragraphs)
    return kind, texts


def state_after(seed: int, number: int) -> dict[str, str]:
    """What operations 0..number leave (-1: nothing)."""
    state: dict[str, str] = {}
    for n in range(number + 1):
        kind, texts = operation(seed, n)
        if kind == "ingest":
            state.update(texts)
        elif kind == "delete":
            state = {source: text for source, text in state.items() if source not in texts}
    return state


def open_index(folder: Path) -> Rag:
    """The real catalog, segments, faiss and BM25; only the encoder is light."""
    return Rag.open(folder, CONFIG, components={"encoder": HashingEncoder(), "generator": QuotingGenerator()})


def apply(rag: Rag, seed: int, number: int) -> None:
    """Runs operation ``number``; when this returns it is acknowledged."""
    kind, texts = operation(seed, number)
    if kind == "ingest":
        rag.ingest_documents([Document(Document.id_of(source), source, text) for source, text in texts.items()])
    elif (rag.folder / "catalog.sqlite").exists():
        if kind == "delete":
            rag.delete(list(texts), missing_ok=True)
        else:
            rag.compact()


def faults_in(folder: Path, *allowed_states: dict[str, str]) -> list[str]:
    """Everything wrong with an index that must hold one of ``allowed_states``: unreadable, lost, half applied, disagreeing."""
    if not (folder / "catalog.sqlite").exists():
        return [] if {} in allowed_states else ["lost: there is no catalog"]
    try:
        with open_index(folder) as rag:
            faults = [f"unreadable: {fault}" for fault in rag.verify()]
            with rag.catalog.reading() as read:
                found = {row.source: read.document(row.id).text for row in read.documents()}
            if found not in allowed_states:
                faults.append(f"lost or half applied: {sorted(found)} is none of {[sorted(state) for state in allowed_states]}")
            sources = [f"d{i}" for i in range(NUM_SOURCES)]
            for source, stages in zip(sources, rag.search_each([marker(s) for s in sources], 1000) if found else [], strict=False):
                for stage in ("dense", "sparse"):
                    hits = {hit.chunk.doc_id for hit in stages[stage] if marker(source) in hit.chunk.text}
                    if hits != ({Document.id_of(source)} if source in found else set()):
                        faults.append(f"disagreeing: {stage} finds {len(hits)} of {source}")
            return faults
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault to count
        return [f"unreadable: {type(error).__name__}: {error}"]


def main() -> None:
    """``durability_worker.py FOLDER ACKS SEED FIRST``: runs operations from FIRST on until it is killed."""
    folder, acks, seed, first = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    with tempfile.TemporaryDirectory() as name, open_index(Path(name)) as scratch:
        for number in range(3):  # so that everything is imported before "ready", and a kill hits work on the index
            apply(scratch, seed, number)
    rag = open_index(folder)
    print("ready", flush=True)
    descriptor = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(first, first + 100_000):
        apply(rag, seed, number)
        os.write(descriptor, f"{number}\n".encode())


if __name__ == "__main__":
    main()
