"""Ways to fuse dense and BM25, on folders in the BEIR layout: paired bootstrap intervals, and what a fusion costs per query.

    python bench/fusion.py --folders ../shared/data/anthropic_cookbook_retrieval/docs/derived_beir ...

Every fusion sees the same rankings. The options of ``gqr`` were chosen on the XQuAD and PubMedQA sets (``--settings`` repeats that),
not on the ones it is reported on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result
from rag.core import Fusion, Hit, VectorsOf
from rag.eval.beir import document_of, read_beir
from rag.eval.bootstrap import difference, interval
from rag.eval.metrics import per_query
from rag.eval.run import ranked_documents
from rag.pipeline import Rag
from rag.registry import component

DATA = ROOT.parent / "shared" / "data"
FOLDERS = [DATA / "anthropic_cookbook_retrieval" / "docs" / "derived_beir", DATA / "mtrag_un_reference" / "derived_beir"]
TUNING = [DATA / "xquad" / "derived_beir_en", DATA / "pubmedqa_pqal" / "derived_beir"]
MAX_TUNING_QUERIES = 300
MEASURES = ("nDCG@10", "recall@10", "recall@100")
K = 100
DEFAULT = "convex"
FUSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "rrf": ("rrf", {}),
    DEFAULT: ("convex", {}),
    "convex, minmax": ("convex", {"normalise": "minmax"}),
    "convex, zscore": ("convex", {"normalise": "zscore"}),
    "gqr": ("gqr", {}),
    "gqr, scores as they are": ("gqr", {"scale": "none", "temperature": 1.0}),
    "gqr, no steps": ("gqr", {"steps": 0}),
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{steps} steps of {rate:g}, temperature {temperature:g}, scale {scale}": (
        "gqr",
        {"steps": steps, "learning_rate": rate, "temperature": temperature, "scale": scale},
    )
    for steps, rate, (scale, temperature) in product(
        (10, 25), (2e-4, 4e-4, 1e-3, 3e-3), (("deviation", 1.0), ("deviation", 2.0), ("none", 1.0))
    )
}


class Comparing:
    """A fusion that lets many fuse the same rankings, keeps what each found, and answers with the first one's."""

    reads_vectors = True

    def __init__(self, fusions: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        self._fusions: dict[str, Fusion] = {name: component("fusion", word)(**options) for name, (word, options) in fusions.items()}
        self.found: dict[str, list[Hit]] = {}
        self.seconds: dict[str, list[float]] = {name: [] for name in fusions}

    def fuse(self, rankings: Mapping[str, Sequence[Hit]], vectors: VectorsOf) -> list[Hit]:
        self.found = {"dense": list(rankings["dense"]), "bm25": list(rankings["sparse"])}
        for name, fusion in self._fusions.items():
            started = time.thread_time()  # what it computes, whoever else wants the processor
            self.found[name] = fusion.fuse(rankings, vectors)
            self.seconds[name].append(time.thread_time() - started)
        return next(iter(self.found.values()))


def compare(
    folder: Path, place: Path, fusions: Mapping[str, tuple[str, dict[str, Any]]], max_queries: int
) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """Ranking -> measure -> a value per query; fusion -> median milliseconds of processor time per query."""
    beir = read_beir(folder, "test")
    documents = {document.id: (record.id, document) for record in beir.corpus if (document := document_of(record)) is not None}
    comparing = Comparing(fusions)
    found: dict[str, dict[str, list[str]]] = {}
    queries = list(beir.qrels)[:max_queries]
    with Rag.open(place, components={"fuse": comparing}) as rag:
        rag.ingest_documents(document for _, document in documents.values())
        for query in queries:
            rag.search_each([beir.queries[query]], K)
            for name, hits in comparing.found.items():
                found.setdefault(name, {})[query] = [documents[each][0] for each in ranked_documents(hits, K)]
    qrels = {query: beir.qrels[query] for query in queries}
    values = {
        name: {each: list(scores.values()) for each, scores in per_query(run, qrels, MEASURES).items()}
        for name, run in found.items()
    }
    return values, {name: round(1000 * statistics.median(each), 2) for name, each in comparing.seconds.items()}


def report(values: Mapping[str, Mapping[str, Sequence[float]]], milliseconds: Mapping[str, float]) -> dict[str, Any]:
    """Every ranking with its intervals, and its paired difference to the default fusion."""
    result: dict[str, Any] = {"num_queries": len(values[DEFAULT][MEASURES[0]]), "rankings": {}}
    for name, own in values.items():
        row: dict[str, Any] = {each: rounded(interval(own[each]), "mean", "low", "high") for each in MEASURES}
        row["fuse_cpu_milliseconds"] = milliseconds.get(name, 0.0)
        drawn = {each: difference(own[each], values[DEFAULT][each]) for each in MEASURES if name != DEFAULT}
        row["against_the_default"] = {
            each: rounded(one, "mean", "low", "high", "p")
            | {"verdict": "inside the noise" if one.inside_noise else "better" if one.mean > 0 else "worse"}
            for each, one in drawn.items()
        }
        result["rankings"][name] = row
    return result


def rounded(drawn: object, *names: str) -> dict[str, Any]:
    """Some fields, to four digits."""
    return {name: round(getattr(drawn, name), 4) for name in names}


def name_of(folder: Path) -> str:
    """The collection's name: the last part of its path that is one."""
    return [part for part in folder.resolve().parts if not part.startswith("derived") and part != "docs"][-1]


def main() -> None:
    """Prints and records everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=Path, nargs="+", default=FOLDERS)
    parser.add_argument("--settings", type=Path, nargs="*", default=TUNING, metavar="FOLDER", help="sets to try all settings on")
    parser.add_argument("--indexes", type=Path, help="where to keep what was ingested (default: nowhere)")
    options = parser.parse_args()
    result: dict[str, Any] = {"load_average": os.getloadavg(), "fusions": FUSIONS, "sets": {}, "ndcg_at_10_by_setting_of_gqr": {}}
    with TemporaryDirectory(prefix="rag-fusion-") as temporary:
        places = options.indexes or Path(temporary)
        for folder in options.folders:
            name = name_of(folder)
            result["sets"][name] = report(*compare(folder, places / name, FUSIONS, sys.maxsize))
            for ranking, row in result["sets"][name]["rankings"].items():
                against = row["against_the_default"].get("nDCG@10", "")
                print(
                    f"{name:<30} {ranking:<24} {row['nDCG@10']['mean']:.4f} {row['fuse_cpu_milliseconds']:>6} ms {against}",
                    flush=True,
                )
        for folder in options.settings:
            values, _ = compare(folder, places / name_of(folder), {DEFAULT: FUSIONS[DEFAULT], **SETTINGS}, MAX_TUNING_QUERIES)
            result["ndcg_at_10_by_setting_of_gqr"][name_of(folder)] = {
                ranking: round(statistics.fmean(own["nDCG@10"]), 4) for ranking, own in values.items()
            }
    write_result("fusion", result, packages=("ir-measures", "pytrec_eval-terrier"))


if __name__ == "__main__":
    main()
