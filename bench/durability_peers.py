"""Kills writers (-9) while they save, peers' and ours in turns under one rule, and counts what is left unreadable or inconsistent.

    python bench/durability_peers.py --rounds 12

Every round starts from a copy of the same saved documents. The writer opens it, adds a batch and saves once, says "ready", and then
adds and saves in a loop, noting each completed save; it is killed at a random moment within a second. What it leaves must open, must
agree with itself, and must hold every document that a completed save acknowledged, with its text. This is the death of a process,
not of the machine: nothing is asked of fsync here. Peers that are not installed are left out by name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

NOT_INSTALLED = 4
DIM = 64
BATCH = 20
WORDS = ["pond", "weed", "mallard", "nest", "feather", "bread", "river", "egg"]
Texts = dict[str, str]


def texts(first: int, last: int) -> Texts:
    """Documents ``first`` to ``last - 1`` by name: some 200 characters each, one chunk of any system."""
    found = {}
    for number in range(first, last):
        found[f"d{number}"] = f"Note {number}: " + " ".join(random.Random(number).choices(WORDS, k=32))
    return found


class Subject(Protocol):
    """A store that is written to. ``add`` may work in memory only; when ``save`` returns, the documents are acknowledged."""

    version: str

    def open(self, folder: Path) -> None: ...
    def add(self, documents: Texts) -> None: ...
    def save(self) -> None: ...
    def read(self) -> tuple[Texts, list[str]]:
        """What an opened store holds, and where its parts disagree."""


class Ours:
    """Catalog, faiss and BM25 segments; ``ingest_documents`` adds and saves in one."""

    def __init__(self) -> None:
        from bench.durability_worker import open_index

        self._open, self.version = open_index, "this checkout"

    def open(self, folder: Path) -> None:
        self._rag = self._open(folder / "index")

    def add(self, documents: Texts) -> None:
        from rag.core import Document

        self._pending = [Document(Document.id_of(name), name, text) for name, text in documents.items()]

    def save(self) -> None:
        self._rag.ingest_documents(self._pending)

    def read(self) -> tuple[Texts, list[str]]:
        with self._rag.catalog.reading() as read:
            found = {row.source: read.document(row.id).text for row in read.documents()}
        return found, list(self._rag.verify())


class LangChainFaiss:
    """``FAISS.save_local`` and ``load_local``."""

    def __init__(self) -> None:
        from langchain_community.vectorstores import FAISS
        from langchain_core.embeddings import DeterministicFakeEmbedding

        self._store_class, self._embedding = FAISS, DeterministicFakeEmbedding(size=DIM)
        self.version = f"langchain-community {version('langchain-community')}, faiss-cpu {version('faiss-cpu')}"

    def open(self, folder: Path) -> None:
        self._folder = folder
        self._store: Any = None
        if any(folder.iterdir()):
            self._store = self._store_class.load_local(str(folder), self._embedding, allow_dangerous_deserialization=True)

    def add(self, documents: Texts) -> None:
        names = list(documents)
        if self._store is None:
            self._store = self._store_class.from_texts(list(documents.values()), self._embedding, ids=names)
        else:
            self._store.add_texts(list(documents.values()), ids=names)

    def save(self) -> None:
        self._store.save_local(str(self._folder))

    def read(self) -> tuple[Texts, list[str]]:
        entries = self._store.docstore._dict
        counts = (self._store.index.ntotal, len(self._store.index_to_docstore_id), len(entries))
        faults = [] if len(set(counts)) == 1 else ["{} vectors, {} rows, {} documents".format(*counts)]
        return {name: entry.page_content for name, entry in entries.items()}, faults


class LlamaIndexDocuments:
    """``SimpleDocumentStore.persist`` and ``from_persist_path``."""

    def __init__(self) -> None:
        from llama_index.core.schema import Document
        from llama_index.core.storage.docstore import SimpleDocumentStore

        self._document_class, self._store_class = Document, SimpleDocumentStore
        self.version = f"llama-index-core {version('llama-index-core')}"

    def open(self, folder: Path) -> None:
        self._path = str(folder / "docstore.json")
        self._store = self._store_class.from_persist_path(self._path) if any(folder.iterdir()) else self._store_class()

    def add(self, documents: Texts) -> None:
        self._store.add_documents([self._document_class(text=text, id_=name) for name, text in documents.items()])

    def save(self) -> None:
        self._store.persist(self._path)

    def read(self) -> tuple[Texts, list[str]]:
        return {name: document.get_content() for name, document in self._store.docs.items()}, []


SUBJECTS: dict[str, type[Subject]] = {
    "ragstone": Ours,
    "langchain FAISS.save_local": LangChainFaiss,
    "llama-index SimpleDocumentStore.persist": LlamaIndexDocuments,
}


def prepare(subject: Subject, folder: Path, num_documents: int) -> None:
    """Saves the documents every round starts from, and checks that the rule finds no fault where nothing was killed."""
    subject.open(folder)
    subject.add(texts(0, num_documents))
    subject.save()
    kind, what = verdict(type(subject)(), folder, num_documents)
    if kind != "good":
        raise RuntimeError(f"not even an undisturbed save passes: {kind}: {what}")


def write(subject: Subject, folder: Path, acks: Path, num_documents: int) -> None:
    """Adds and saves until killed. A line of ``acks``: documents acknowledged, milliseconds of the add, milliseconds of the save."""
    subject.open(folder)
    descriptor = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    first = num_documents
    while True:
        started = time.perf_counter()
        subject.add(texts(first, first + BATCH))
        added = time.perf_counter()
        subject.save()
        saved = time.perf_counter()
        first += BATCH
        os.write(descriptor, f"{first} {(added - started) * 1000:.3f} {(saved - added) * 1000:.3f}\n".encode())
        if first == num_documents + BATCH:
            print("ready", flush=True)


def verdict(subject: Subject, folder: Path, num_acknowledged: int) -> tuple[str, str]:
    """``("good", "")``, or what kind of fault it is and its details."""
    try:
        subject.open(folder)
        found, faults = subject.read()
    except Exception as error:  # noqa: BLE001 - whatever it is, the store cannot be read
        return "unreadable", f"{type(error).__name__}: {str(error)[:160]}"
    if faults:
        return "disagreeing", faults[0]
    lost = [name for name, text in texts(0, num_acknowledged).items() if found.get(name) != text]
    return ("lost", f"{len(lost)} of {num_acknowledged} documents, {lost[0]} first") if lost else ("good", "")


def command(options: argparse.Namespace, name: str, step: str, *rest: object) -> list[str]:
    """A step of one subject, in a process of its own and with the interpreter that has the subject."""
    python = sys.executable if SUBJECTS[name] is Ours else options.peer_python
    documents = ["--documents", str(options.documents)]
    return [python, "-W", "ignore", __file__, *documents, "--step", step, name, *map(str, rest)]


def kill_one(options: argparse.Namespace, name: str, base: Path, target: Path, delay: float) -> None:
    """Starts a writer on a copy of ``base`` and kills it ``delay`` seconds after it is ready."""
    shutil.copytree(base, target / "store")
    with subprocess.Popen(command(options, name, "write", target / "store", target / "acks"), stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        if writer.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the writer of {name} ended with {writer.wait()} before it was ready")
        time.sleep(delay)
        if writer.poll() is not None:
            raise RuntimeError(f"the writer of {name} ended by itself with {writer.returncode}")
        writer.kill()


def row(options: argparse.Namespace, name: str, base: Path, targets: list[Path]) -> dict[str, Any]:
    """Looks at everything that was left of one subject, in one process."""
    done = subprocess.run(command(options, name, "check", *targets), stdout=subprocess.PIPE, check=True, text=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    how = Counter(kind for kind, _ in answer["verdicts"] if kind != "good")
    timings = [tuple(map(float, line.split()[1:])) for target in targets for line in (target / "acks").read_text().splitlines()[1:]]
    return {
        "name": name,
        "version": answer["version"],
        "rounds": len(targets),
        "bad": how.total(),
        "how": dict(how),
        "examples": list({kind: f"{kind}: {what}" for kind, what in answer["verdicts"] if kind != "good"}.values()),
        "saves_acknowledged": len(timings),
        "save_ms_median": round(statistics.median(save for _, save in timings), 2) if timings else None,
        "share_of_time_saving": round(sum(s for _, s in timings) / sum(a + s for a, s in timings), 3) if timings else None,
        "saved_bytes_at_start": sum(path.stat().st_size for path in base.rglob("*") if path.is_file()),
    }


def run(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, and the names of the peers that are not installed."""
    bases: dict[str, Path] = {}
    left_out = []
    for number, name in enumerate(SUBJECTS):
        base = folder / f"base-{number}"
        base.mkdir()
        code = subprocess.run(command(options, name, "prepare", base), check=False).returncode
        if code == NOT_INSTALLED:
            left_out.append(name)
            continue
        if code:
            raise RuntimeError(f"{name} cannot save {options.documents} documents: it ended with {code}")
        bases[name] = base
    chance = random.Random(options.seed)
    targets: dict[str, list[Path]] = {name: [] for name in bases}
    for number in range(options.rounds):
        delay = chance.uniform(0.0, options.seconds)
        for name, base in bases.items():
            target = folder / f"{base.name}-round-{number}"
            target.mkdir()
            kill_one(options, name, base, target, delay)
            targets[name].append(target)
    return [row(options, name, base, targets[name]) for name, base in bases.items()], left_out


def step(options: argparse.Namespace) -> int:
    """One step of one subject: what the child processes run."""
    name, *paths = options.rest
    try:
        subject = SUBJECTS[name]()
    except ImportError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return NOT_INSTALLED
    if options.step == "prepare":
        prepare(subject, Path(paths[0]), options.documents)
    elif options.step == "write":
        write(subject, Path(paths[0]), Path(paths[1]), options.documents)
    else:
        verdicts = []
        for target in map(Path, paths):
            num_acknowledged = int((target / "acks").read_text().splitlines()[-1].split()[0])
            verdicts.append(verdict(subject, target / "store", num_acknowledged))
        print(json.dumps({"version": subject.version, "verdicts": verdicts}))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="kills of each writer")
    parser.add_argument("--documents", type=int, default=3000, help="documents that are saved before a round begins")
    parser.add_argument("--seconds", type=float, default=1.0, help="a writer is killed within this time after it is ready")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--peer-python", default=sys.executable, help="interpreter that has langchain-community and llama-index-core"
    )
    parser.add_argument("--step", choices=["prepare", "write", "check"], help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        return step(options)
    from bench.record import write_result

    with tempfile.TemporaryDirectory() as name:
        rows, left_out = run(options, Path(name))
    for found in rows:
        print(
            f"{found['name']}: {found['bad']} of {found['rounds']} bad {found['how']}, {found['saves_acknowledged']} saves in the loop,"
        )
        print(f"    save {found['save_ms_median']} ms, {found['share_of_time_saving']} of the time; {'; '.join(found['examples'])}")
    if len(rows) == 1:
        print("there is no peer to compare with, so nothing is written")
        return 0
    rule = "opens, agrees with itself, holds every acknowledged document; one kill -9 a round, while it adds and saves in a loop"
    sizes = {"documents": options.documents, "batch": BATCH, "kill_within_seconds": options.seconds, "seed": options.seed}
    write_result("durability_peers", {"rule": rule, **sizes, "rows": rows, "left_out": left_out})
    return 0


if __name__ == "__main__":
    sys.exit(main())
