"""Ways to fuse dense and BM25, on folders in the BEIR layout: paired bootstrap intervals, and what a fusion costs per query.

    python bench/fusion.py --folders ../shared/data/anthropic_cookbook_retrieval/docs/derived_beir ...

The options of ``gqr`` were chosen on the XQuAD and PubMedQA sets (``--settings`` repeats that), not on the ones it is reported on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
from numpy.typing import NDArray

from bench.record import write_result
from rag.core import Encoder
from rag.eval.beir import BeirSet, read_beir
from rag.eval.bootstrap import difference, interval
from rag.eval.run import FUSED, evaluate_beir
from rag.pipeline import Rag
from rag.retrievers.encoder import SentenceTransformersEncoder

DATA = ROOT.parent / "shared" / "data"
FOLDERS = [DATA / "anthropic_cookbook_retrieval" / "docs" / "derived_beir", DATA / "mtrag_un_reference" / "derived_beir"]
TUNING = [DATA / "xquad" / "derived_beir_en", DATA / "pubmedqa_pqal" / "derived_beir"]
MAX_TUNING_QUERIES = 300
MEASURES = ("nDCG@10", "recall@10", "recall@100")
DEFAULT = "convex"
FUSIONS: dict[str, dict[str, Any]] = {
    "rrf": {"use": "rrf"},
    DEFAULT: {"use": "convex"},
    "convex, minmax": {"use": "convex", "normalise": "minmax"},
    "convex, zscore": {"use": "convex", "normalise": "zscore"},
    "gqr": {"use": "gqr"},
    "gqr, scores as they are": {"use": "gqr", "scale": "none", "temperature": 1.0},
    "gqr, no steps": {"use": "gqr", "steps": 0},
}
SETTINGS: dict[str, dict[str, Any]] = {
    f"{steps} steps of {rate:g}, temperature {temperature:g}, scale {scale}": {
        "use": "gqr", "steps": steps, "learning_rate": rate, "temperature": temperature, "scale": scale,
    }
    for steps, rate, (scale, temperature) in product(
        (10, 25, 50), (1e-4, 2e-4, 4e-4, 1e-3, 3e-3), (("deviation", 1.0), ("deviation", 2.0), ("none", 1.0))
    )
}  # fmt: skip


class Remembering:
    """An encoder that encodes a query once for all fusions that are compared."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[str, NDArray[np.float32]] = {}
        self.dim, self.fingerprint = encoder.dim, encoder.fingerprint
        self.encode_documents = encoder.encode_documents

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            self._known.update(zip(missing, self._encoder.encode_queries(missing), strict=True))
        return np.stack([self._known[text] for text in texts])


@cache
def encoder() -> Remembering:
    """The embedded one."""
    return Remembering(SentenceTransformersEncoder())


def per_query(place: Path, beir: BeirSet, fuse: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Ranking -> measure -> a value per query."""
    with Rag.open(place, {"fuse": fuse}, components={"encoder": encoder()}) as rag:
        report = evaluate_beir(rag, beir, num_resamples=1)
    return {
        name: {measure: list(ranking.per_query[measure].values()) for measure in MEASURES}
        for name, ranking in report.rankings.items()
    }


def fuse_milliseconds(place: Path, beir: BeirSet, fuse: Mapping[str, Any], num_queries: int = 60) -> float:
    """Median time of the stage ``fuse`` for one query, everything loaded."""
    with Rag.open(place, {"fuse": fuse}, components={"encoder": encoder()}) as rag:
        queries = [beir.queries[query] for query in list(beir.qrels)[:num_queries]]
        seconds = [event.seconds for query in [queries[0], *queries] for event in rag.stages(query) if event.stage == "fuse"]
    return round(1000 * statistics.median(seconds[1:]), 2)


def measure(folder: Path, place: Path) -> dict[str, Any]:
    """All rankings of one collection, and each against the default fusion."""
    beir = read_beir(folder, "test")
    found: dict[str, dict[str, list[float]]] = {}
    for name, fuse in FUSIONS.items():
        rankings = per_query(place, beir, fuse)
        found |= {("bm25" if single == "sparse" else single): values for single, values in rankings.items() if single != FUSED}
        found[name] = rankings[FUSED]
    result: dict[str, Any] = {"num_queries": len(beir.qrels), "scores": {}, "against_the_default": {}, "fuse_milliseconds": {}}
    for name, values in found.items():
        result["scores"][name] = {each: rounded(interval(values[each]), "mean", "low", "high") for each in MEASURES}
        if name != DEFAULT:
            result["against_the_default"][name] = {
                each: rounded(drawn := difference(values[each], found[DEFAULT][each]), "mean", "low", "high", "p")
                | {"verdict": "inside the noise" if drawn.inside_noise else "better" if drawn.mean > 0 else "worse"}
                for each in MEASURES
            }
    result["fuse_milliseconds"] = {name: fuse_milliseconds(place, beir, fuse) for name, fuse in FUSIONS.items()}
    return result


def rounded(drawn: object, *names: str) -> dict[str, Any]:
    """Some fields, to four digits."""
    return {name: round(getattr(drawn, name), 4) for name in names}


def tune(folder: Path, place: Path) -> dict[str, float]:
    """nDCG@10 of every setting of ``gqr``, over the first queries of one collection."""
    beir = read_beir(folder, "test")
    beir = replace(beir, qrels=dict(islice(beir.qrels.items(), MAX_TUNING_QUERIES)))
    return {
        name: round(statistics.fmean(per_query(place, beir, fuse)[FUSED]["nDCG@10"]), 4)
        for name, fuse in {DEFAULT: FUSIONS[DEFAULT], **SETTINGS}.items()
    }


def main() -> None:
    """Prints and records everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=Path, nargs="+", default=FOLDERS)
    parser.add_argument("--settings", type=Path, nargs="*", default=TUNING, metavar="FOLDER", help="sets to try all settings on")
    parser.add_argument("--indexes", type=Path, help="where to keep what was ingested (default: nowhere)")
    options = parser.parse_args()
    result: dict[str, Any] = {"load_average": os.getloadavg(), "fusions": FUSIONS, "sets": {}, "settings_of_gqr": {}}
    with TemporaryDirectory(prefix="rag-fusion-") as temporary:
        places = options.indexes or Path(temporary)
        for folder in options.folders:
            name = name_of(folder)
            result["sets"][name] = measure(folder, places / name)
            for ranking, scores in result["sets"][name]["scores"].items():
                against = result["sets"][name]["against_the_default"].get(ranking, {}).get("nDCG@10", "")
                print(f"{name:<30} {ranking:<24} nDCG@10 {scores['nDCG@10']['mean']:.4f}  {against}", flush=True)
            print(result["sets"][name]["fuse_milliseconds"], flush=True)
        for folder in options.settings:
            result["settings_of_gqr"][name_of(folder)] = tune(folder, places / name_of(folder))
    write_result("fusion", result, packages=("ir-measures", "pytrec_eval-terrier"))


def name_of(folder: Path) -> str:
    """The collection's name: the last part of its path that is one."""
    return [part for part in folder.resolve().parts if not part.startswith("derived") and part != "docs"][-1]


if __name__ == "__main__":
    main()
