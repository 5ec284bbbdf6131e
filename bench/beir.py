"""Ranking quality of the default pipeline on folders in the BEIR layout: each index alone and fused, with bootstrap intervals.

    python bench/beir.py --folders ../shared/data/anthropic_cookbook_retrieval/docs/derived_beir ...

The floors are what BM25 (k1 .9, b .4, whole documents) gives on the same sets.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result

DATA = ROOT.parent / "shared" / "data"
FLOORS = {
    DATA / "anthropic_cookbook_retrieval" / "docs" / "derived_beir": 0.596,
    DATA / "mtrag_un_reference" / "derived_beir": 0.72,
}


def main() -> None:
    """Prints the tables and records nDCG@10, recall and MRR of every ranking."""
    from rag.eval.run import run_beir

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=Path, nargs="+", default=list(FLOORS))
    options = parser.parse_args()
    rows = {}
    for folder in options.folders:
        report = run_beir(folder)
        print(report.table(), flush=True)
        name = "/".join(part for part in folder.resolve().parts[-3:] if not part.startswith("derived") and part != "docs")
        rows[name] = {"bm25_floor_ndcg_at_10": FLOORS.get(folder), **report.as_dict()}
    write_result("beir", {"sets": rows}, packages=("ir-measures", "pytrec_eval-terrier"))


if __name__ == "__main__":
    main()
