"""Multi-vector search beside its peers: milliseconds, recall against exact MaxSim, build, bytes, memory; and how cost grows.

    python bench/token_sets.py real --out SETS && python bench/token_sets.py synthetic --out SETS
    python bench/multivector.py --sets SETS --names real20000 real5000 --peers PEERS_PYTHON --peer-indexes FOLDER
    python bench/multivector.py --sets SETS --growth synthetic5000 synthetic20000 synthetic100000 synthetic200000 --plot docs/multivector.svg

The same vectors, two threads, and queries by turns: every engine answers a query before the next one is asked, ours with 4, 5 and 8 bits. The
peers run in processes of their own (bench/multivector_peers.py, with their build beside it as PEER.SET.json) and report the seconds of
their search call. Exact is torch's float32 product with all tokens, which are in memory. A build runs alone in a process and reads the
vectors from a mapped file; its peak memory is told with the pages of that file (which the system may take back) and without.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import RESULTS, machine, write_result
from rag.kernels import warp_score_lanes as lanes
from rag.retrievers.warp.index import WarpIndex, WarpReader
from rag.retrievers.warp.search import Effort, why_probe
from rag.retrievers.warp.segment import WarpSegment

NUM_THREADS = 2
PROBES = (64, 128, 256)
OUR_BITS = (4, 5, 8)
BLOCK = 1000
"""Documents that exact search scores at a time: their products stay in the caches."""
LITTLE = 0.0
"""A ``confidence`` that finds less, sooner, over the index of the first of ``OUR_BITS``."""
PEERS = {"fast-plaid": (None, 32), "xtr-warp": (None, 32, 128, 512)}
"""How many lists each of them reads besides its default (8 of fast-plaid): more finds more and takes longer."""
Ask = Callable[[int, int], tuple[float, list[int]]]
"""(query, k) -> seconds and rows found."""


class TokenSet(NamedTuple):
    """What bench/token_sets.py wrote."""

    path: str
    tokens: NDArray[np.float16]
    lengths: NDArray[np.int64]
    queries: list[NDArray[np.float32]]


class Ready:
    """Stands for the encoder: vectors are ready-made."""

    dim = 128
    fingerprint = "ready-made"

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        raise AssertionError("vectors are ready-made")

    encode_queries = encode_documents


def read_set(path: str, num_queries: int) -> TokenSet:
    """Tokens stay on disk."""
    stored = np.load(f"{path}.queries.npz")
    queries = [stored[str(number)] for number in range(num_queries)]
    return TokenSet(path, np.load(f"{path}.tokens.npy", mmap_mode="r"), np.load(f"{path}.lengths.npy"), queries)


def made_index(bits: int, confidence: float | None = None) -> WarpIndex:
    """As shipped, for vectors of 128 dimensions; with another confidence if one is told."""
    told: dict[str, Any] = {} if confidence is None else {"confidence": confidence}
    return WarpIndex(Ready(), bits=bits, num_threads=NUM_THREADS, **told)


def build(path: str, folder: Path, bits: int) -> dict[str, Any]:
    """Runs in a process of its own: builds and saves one segment."""
    given = read_set(path, 0)
    starts = np.concatenate([[0], np.cumsum(given.lengths)])
    folder.mkdir(parents=True, exist_ok=True)
    watch = Watch()
    started, processor = time.perf_counter(), time.process_time()
    segment = made_index(bits).build_stored(np.arange(len(given.lengths)), starts, given.tokens)
    segment.save(folder)
    return {
        "build_seconds": round(time.perf_counter() - started, 1),
        "build_processor_seconds": round(time.process_time() - processor, 1),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "build_peak_bytes": status_bytes("VmHWM"),
        "build_peak_bytes_without_files": watch.peak(),
        "recall_estimate": segment.header.recall_estimate,
    }


def status_bytes(name: str) -> int:
    """A number of this process's state; ``ru_maxrss`` would start from that of its parent."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system does not tell a process's {name}")


class Watch:
    """The most memory that is no file's, looked at a hundred times a second from now on."""

    def __init__(self) -> None:
        self._most, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def peak(self) -> int:
        """The end of looking."""
        self._done.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._done.wait(0.01):
            self._most = max(self._most, status_bytes("RssAnon"))


def built(path: str, folder: Path, bits: int) -> dict[str, Any]:
    """``build`` in a child process; the compiled loops are compiled before, as they are on a machine in use."""
    command = [sys.executable, __file__, "--build", path, "--index", str(folder), "--bits", str(bits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def exact(given: TokenSet) -> NDArray[np.float32]:
    """Scores ``(documents, queries)``; tokens are read in blocks."""
    import torch

    starts = np.concatenate([[0], np.cumsum(given.lengths)])
    scores = np.empty((len(given.lengths), len(given.queries)), np.float32)
    joined = torch.from_numpy(np.concatenate(given.queries)).T
    borders = np.concatenate([[0], np.cumsum([len(query) for query in given.queries])])
    for first in range(0, len(given.lengths), BLOCK):
        some = starts[first : first + BLOCK + 1]
        tokens = torch.from_numpy(given.tokens[some[0] : some[-1]].astype(np.float32))
        best = torch.segment_reduce(tokens @ joined, "max", offsets=torch.from_numpy(some - some[0]), axis=0).numpy()
        scores[first : first + BLOCK] = np.add.reduceat(best, borders[:-1], axis=1)
    return scores


def exact_search(given: TokenSet) -> Ask:
    """The same for one query, against float32 vectors that are in memory."""
    import torch

    torch.set_num_threads(NUM_THREADS)
    starts = np.concatenate([[0], np.cumsum(given.lengths)])
    blocks = []
    for first in range(0, len(given.lengths), BLOCK):
        some = starts[first : first + BLOCK + 1]
        tokens = torch.from_numpy(given.tokens[some[0] : some[-1]].astype(np.float32))
        blocks.append((tokens, torch.from_numpy(some - some[0])))

    def ask(number: int, k: int) -> tuple[float, list[int]]:
        query = torch.from_numpy(given.queries[number]).T
        started = time.perf_counter()
        scores = [torch.segment_reduce(tokens @ query, "max", offsets=offsets, axis=0).sum(1) for tokens, offsets in blocks]
        rows = torch.cat(scores).topk(k).indices
        return time.perf_counter() - started, rows.tolist()

    return ask


def alone(folder: Path, bits: int, given: TokenSet, rounds: int) -> float:
    """Processor milliseconds a query for 10 hits with one thread, the mean over queries in the best of the rounds: what the work costs."""
    index = WarpIndex(Ready(), bits=bits, num_threads=1)
    reader = index.reader([index.load(folder)], np.ones(len(given.lengths), np.bool_))
    spent = []
    for _ in range(rounds + 1):
        started = time.process_time()
        for query in given.queries:
            reader.search_vectors([query], 10)
        spent.append(1000 * (time.process_time() - started) / len(given.queries))
    return round(min(spent), 2)


def opened(folder: Path, bits: int, num_documents: int, confidence: float | None = None) -> tuple[WarpReader, WarpSegment]:
    """Ours, memory-mapped."""
    index = made_index(bits, confidence)
    segment = index.load(folder)
    return index.reader([segment], np.ones(num_documents, np.bool_)), segment


def ours(reader: WarpReader, queries: Sequence[NDArray[np.float32]]) -> Ask:
    """Asks ours."""

    def ask(number: int, k: int) -> tuple[float, list[int]]:
        started = time.perf_counter()
        found = reader.search_vectors([queries[number]], k)[0]
        return time.perf_counter() - started, found.keys.tolist()

    return ask


@contextmanager
def peer(python: Path, name: str, path: str, folder: Path) -> Iterator[dict[str, Ask]]:
    """Asks a peer in its own process, by how many lists it reads."""
    command = [
        str(python),
        str(Path(__file__).with_name("multivector_peers.py")),
        name,
        "answer",
        "--set",
        path,
        "--index",
        str(folder),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(NUM_THREADS)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdout.readline()

        def ask(num_probes: int | None, number: int, k: int) -> tuple[float, list[int]]:
            assert running.stdin is not None and running.stdout is not None
            running.stdin.write(json.dumps({"query": number, "k": k, "num_probes": num_probes}) + "\n")
            running.stdin.flush()
            answer = json.loads(running.stdout.readline())
            return answer["seconds"], answer["ids"]

        yield {f"{name}, {effort} probes" if effort else name: partial(ask, effort) for effort in PEERS[name]}
        running.stdin.close()


def measured(askers: dict[str, Ask], truth: NDArray[np.int64], k: int, rounds: int) -> dict[str, dict[str, float]]:
    """p50 and p95 of each query's median over the rounds, and recall@k, of every engine; of those in this process also processor time a query.

    On a machine with other work the clock tells how long both threads had to wait for a core, too; processor time does not.
    """
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in truth] for name in askers}
    recall = dict.fromkeys(askers, 0.0)
    processor: dict[str, list[float]] = {name: [] for name in askers}
    for turn in range(rounds + 1):  # the first round warms up
        for number in range(len(truth)):
            for name in list(askers) if turn % 2 else list(askers)[::-1]:
                before = time.process_time()
                spent, rows = askers[name](number, k)
                if turn:
                    processor[name].append(time.process_time() - before)
                    seconds[name][number].append(spent)
                else:
                    recall[name] += len(np.intersect1d(rows, truth[number, :k])) / k / len(truth)
    found = {}
    for name, times in seconds.items():
        medians = [float(np.median(some)) * 1000 for some in times]
        found[name] = {"p50_ms": np.median(medians), "p95_ms": np.percentile(medians, 95), f"recall@{k}": recall[name]}
        if name.split(",")[0] not in PEERS:
            found[name]["mean_processor_ms"] = 1000 * float(np.mean(processor[name]))
    return {name: {key: round(float(value), 4) for key, value in some.items()} for name, some in found.items()}


def limit(
    segment: WarpSegment, queries: Sequence[NDArray[np.float32]], effort: Effort, gigabytes_per_second: float
) -> dict[str, float]:
    """Bytes that a query must read at the least (of centroids, of runs or lists, of 128 documents' codes), and how long that takes at the memory's rate."""
    assert segment.codec is not None
    centroids, runs = segment.codec.centroids, segment.tokens.runs
    per_token = segment.tokens.codes.shape[1] + 1
    candidates = 128 * segment.num_tokens / len(segment.keys) * per_token
    widths = [16 if len(query) <= 16 else 32 for query in queries]
    tables = float(np.mean(widths)) * len(centroids.levels) * 5  # scores and their bytes
    found = float(runs.nbytes)
    if why_probe(len(runs), effort):  # a document's number, and its sum
        found = float(np.mean([len(query) for query in queries])) * effort.num_probes * len(runs) / len(centroids.levels) * 8
    total = found + centroids.levels.nbytes + tables + candidates
    return {
        "bytes_touched": round(total),
        "gigabytes_per_second": round(gigabytes_per_second, 1),
        "limit_ms": round(total / gigabytes_per_second / 1e6, 3),
    }


def memory_rate() -> float:
    """Gigabytes that two threads read from memory in a second: the best of twenty maxima over 512 MB."""
    from rag.kernels.crew import Crew

    block, crew = np.ones(64 * 2**20, np.int64), Crew(NUM_THREADS)
    best = 0.0
    for _ in range(20):
        started = time.perf_counter()
        crew.split(len(block), 1, lambda first, last: block[first:last].max())
        best = max(best, block.nbytes / (time.perf_counter() - started) / 1e9)
    return best


def compare(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """One set, all engines."""
    path = str(options.sets / name)
    given = read_set(path, options.queries)
    result: dict[str, Any] = {"documents": len(given.lengths), "tokens": int(given.lengths.sum()), "queries": len(given.queries)}
    result["tokens_per_query"] = round(float(np.mean([len(query) for query in given.queries])), 1)
    result["engines"], askers, segments = {}, dict[str, Ask](), list[WarpSegment]()
    for bits in OUR_BITS:
        folder = options.work / f"{name}.{bits}"
        built(str(options.sets / options.warm_up), options.work / f"warm-up.{bits}", bits)
        result["engines"][f"rag, {bits} bits"] = built(path, folder, bits) | {"confidence": made_index(bits).effort.confidence}
        reader, segment = opened(folder, bits, len(given.lengths))
        segments.append(segment)
        askers[f"rag, {bits} bits"] = ours(reader, given.queries)
    reader, _ = opened(options.work / f"{name}.{OUR_BITS[0]}", OUR_BITS[0], len(given.lengths), LITTLE)
    askers[f"rag, {OUR_BITS[0]} bits, confidence {LITTLE:g}"] = ours(reader, given.queries)
    truth = np.argsort(-exact(given), axis=0, kind="stable")[:100].T
    askers["exact"] = exact_search(given)
    running = ExitStack()
    for peer_name in PEERS if options.peers else ():
        told = options.peer_indexes / f"{peer_name}.{name}.json"
        if not told.is_file() or not told.stat().st_size:
            continue
        known = json.loads(told.read_text(encoding="utf-8"))
        known.pop("build_seconds", None)  # a build of minutes shares the machine with other work: only processor seconds compare
        result["engines"][peer_name] = known
        askers |= running.enter_context(peer(options.peers, peer_name, path, options.peer_indexes / f"{peer_name}.{name}"))
    askers = {engine: ask for engine, ask in askers.items() if engine not in options.without}
    for k in (10, 100):
        for engine, numbers in measured(askers, truth, k, options.rounds).items():
            result["engines"].setdefault(engine, {}).update(
                {f"{key} (k={k})" if "_ms" in key else key: value for key, value in numbers.items()}
            )
            print(name, k, engine, numbers, flush=True)
    result["load_average"] = round(os.getloadavg()[0], 1)
    running.close()
    result["limit"] = limit(segments[0], given.queries, made_index(OUR_BITS[0]).effort, memory_rate())
    return result


def growth(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Ours alone, by size."""
    path, folder = str(options.sets / name), options.work / f"growth.{name}"
    given = read_set(path, options.queries)
    told = built(path, folder, options.bits)
    known = options.work / f"{name}.truth{options.queries}.npy"  # the same for all bits
    if not known.is_file():
        np.save(known, np.argsort(-exact(given), axis=0, kind="stable")[:100].T)
    truth = np.load(known)
    reader, segment = opened(folder, options.bits, len(given.lengths))
    told |= {
        "confidence": reader.effort.confidence,
        "queries": len(given.queries),
        "documents": len(given.lengths),
        "tokens": int(given.lengths.sum()),
        "centroids": len(segment.codec.centroids.levels),  # type: ignore[union-attr]
    }
    told["candidates_by"] = why_probe(len(segment.tokens.runs), reader.effort) or "reading all documents"
    for k in (10, 100):
        numbers = measured({"rag": ours(reader, given.queries)}, truth, k, options.rounds)["rag"]
        told |= {f"{key} (k={k})" if "_ms" in key else key: value for key, value in numbers.items()}
    told["one_thread_processor_ms (k=10)"] = alone(folder, options.bits, given, options.rounds)
    told |= {"load_average": round(os.getloadavg()[0], 1)} | limit(segment, given.queries, reader.effort, memory_rate())
    told["fraction_of_limit"] = round(told["limit_ms"] / told["p50_ms (k=10)"], 3)
    print(name, told, flush=True)
    return told


def probing(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Reading all documents beside reading the lists of some centroids, over what ``--growth`` built, by turns."""
    path, folder = str(options.sets / name), options.work / f"growth.{name}"
    given = read_set(path, options.queries)
    truth = np.load(options.work / f"{name}.truth{options.queries}.npy")
    readers = {}
    for num_probes in (0, *PROBES):
        above = 0 if num_probes else 2**62
        index = WarpIndex(Ready(), bits=options.bits, num_threads=NUM_THREADS, probe_above_runs=above, num_probes=num_probes or 1)
        segment = index.load(folder)
        word = f"{num_probes} probes" if num_probes else "all documents"
        readers[word] = index.reader([segment], np.ones(len(given.lengths), np.bool_))
    told: dict[str, Any] = {"queries": len(given.queries), "runs": len(segment.tokens.runs)}
    for k in (10, 100):
        told[f"k={k}"] = measured({word: ours(reader, given.queries) for word, reader in readers.items()}, truth, k, options.rounds)
    print(name, told, flush=True)
    return told


def plot(sizes: dict[str, dict[str, Any]], path: Path) -> None:
    """Milliseconds beside the limit of the memory, and what a build takes, by number of documents."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = sorted((told["documents"], told) for name, told in sizes.items() if name.startswith("synthetic") and "," not in name)
    documents = [size for size, _ in rows]
    figure, (times, costs) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for k, line in ((10, "o-"), (100, "s-")):
        recalls = ", ".join(f"{told[f'recall@{k}']:.3f}" for _, told in rows)
        times.plot(documents, [told[f"p50_ms (k={k})"] for _, told in rows], line, label=f"k = {k}: recall {recalls}")
    times.plot(documents, [told["limit_ms"] for _, told in rows], "^--", label="reading what must be read, at the memory's rate")
    times.set(ylabel="p50, milliseconds, two threads")
    costs.plot(documents, [told["build_processor_seconds"] for _, told in rows], "o-", label="build, processor seconds")
    costs.plot(documents, [told["bytes"] / 1e6 for _, told in rows], "s-", label="index, MB")
    peaks = [told["build_peak_bytes_without_files"] / 1e6 for _, told in rows]
    costs.plot(documents, peaks, "^-", label="memory of a build without mapped files, MB")
    for axes in (times, costs):
        axes.set(xscale="log", yscale="log", xlabel="documents (about 120 tokens of 128 dimensions each)")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3, which="both")
    matplotlib.rcParams["svg.hashsalt"] = "multivector"
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def here() -> dict[str, str]:
    """Of what was measured now: parts of a result may be of different days and machines."""
    return {"date": datetime.date.today().isoformat(), "cpu": str(machine()["cpu"]), "dot_products": lanes.explain()}


def main() -> None:
    """Writes bench/results/multivector.json; parts that are not asked for stay as they were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path, default=Path(tempfile.gettempdir()) / "rag-token-sets")
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--growth", nargs="*", default=[])
    parser.add_argument("--probing", nargs="*", default=[], help="sets that --growth built in the folder of --work")
    parser.add_argument("--peers", type=Path, help="Python of an environment that has them")
    parser.add_argument(
        "--peer-indexes", type=Path, help="PEER.SET folders that bench/multivector_peers.py built, and its output PEER.SET.json"
    )
    parser.add_argument("--without", nargs="*", default=[], help="engines that are not asked, as the result names them")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--warm-up", default="synthetic5000", help="a small set that is built first, so that compiling is not timed"
    )
    parser.add_argument("--work", type=Path, help="where our indexes are written; a temporary folder by default")
    parser.add_argument("--plot", type=Path, help="draw what has been measured of growth")
    parser.add_argument("--build", help=argparse.SUPPRESS)
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bits", type=int, default=4, help="of the indexes that --growth builds")
    options = parser.parse_args()
    if options.build:
        sys.stdout.write(json.dumps(build(options.build, options.index, options.bits)) + "\n")
        return
    path = RESULTS / "multivector.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    result = {key: known.get(key, {}) for key in ("sets", "growth", "probing")}
    with tempfile.TemporaryDirectory() as folder:
        options.work = options.work or Path(folder)
        for name in options.names:
            result["sets"][name] = here() | compare(options, name)
        for name in options.growth:
            result["growth"][name if options.bits == 4 else f"{name}, {options.bits} bits"] = here() | growth(options, name)
        for name in options.probing:
            result["probing"][name] = here() | probing(options, name)
    if options.plot:
        plot(result["growth"], options.plot)
    write_result("multivector", {"threads": NUM_THREADS, **result})


if __name__ == "__main__":
    main()
