"""Runs every benchmark, one after the other, and says which of them failed. ``make bench`` and ``make bench-gpu`` run this.

Each script stands on its own too, writes ``bench/results/<name>.json``, and has ``--help`` where it has options. Scripts that need
test data outside the repository take ``--data`` and are left out, by name, where that data is missing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent
SHARED = BENCH.parent.parent / "shared" / "data"
CORPORA = SHARED / "chunking_evaluation" / "corpora"
CPU: dict[str, tuple[list[str], bool]] = {  # script -> (arguments, whether it needs the shared test data)
    "import_time.py": ([], False),
    "read.py": ([], True),
    "chunkers.py": (["--corpora", str(CORPORA)], True),
    "encode.py": (["--data", str(CORPORA)], True),
    "encode_ray.py": (["--data", str(CORPORA)], True),
    "dense.py": ([], False),
    "dense_stores.py": ([], True),
    "sparse.py": ([], True),
    "learned_sparse.py": ([], False),
    "abstention.py": ([], True),
    "support.py": ([], True),
    "query.py": ([], True),
    "beir.py": ([], True),
    "fusion.py": ([], True),
    "retrieval_table.py": ([], True),
    "rerank.py": ([], True),
    "pooling.py": ([], True),
    "spatial.py": ([], True),
    "meta_chunking.py": (["--corpora", str(CORPORA)], True),
    "chunker_table.py": ([], True),
    "chunker_settings.py": ([], True),
    "chunker_batches.py": (["--documents", str(SHARED / "xquad" / "derived_beir_en")], True),
    "ingest_memory.py": ([], False),
    "kernels_cpu.py": ([], False),
    "kv_store.py": ([], False),
    "ttft.py": (["--dtype", "float32"], False),
    "kv_quality.py": ([], False),
    "selection.py": ([], True),
    "answer_support.py": ([], True),
    "synth_sets.py": ([], True),
    "tune.py": ([], True),
    "full_chain.py": ([], False),
    "shared_stages.py": ([], False),
    "score_prefix.py": (["--pairs", "152"], False),
    "kv_variants.py": (["--num-instances", "120"], False),
    "durability.py": ([], False),
    "durability_peers.py": ([], False),
}


def main() -> int:
    """Exit code 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="the benchmarks that need a GPU")
    parser.add_argument("--only", nargs="*", default=[], help="names of scripts")
    options = parser.parse_args()
    if options.gpu:
        return subprocess.run([sys.executable, str(BENCH / "gpu_kernels.py")], check=False).returncode
    failed = []
    for script, (arguments, needs_data) in CPU.items():
        if options.only and script.removesuffix(".py") not in options.only:
            continue
        if needs_data and not SHARED.is_dir():
            print(f"--- {script}: left out, there is no test data at {SHARED.name}/", flush=True)
            continue
        print(f"--- {script}", flush=True)
        if subprocess.run([sys.executable, str(BENCH / script), *arguments], cwd=BENCH.parent, check=False).returncode:
            failed.append(script)
    print(f"failed: {', '.join(failed)}" if failed else "all done")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
