"""How long `import rag` takes, and the first use of its face and of the command, each in fresh processes. Limit: 0.3 s for the import.

    python bench/import_time.py

The bare interpreter and the vector store modules of peers that happen to be installed are timed beside it, in turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result

ROUNDS = 11
LIMIT_SECONDS = 0.3
STATEMENTS = {
    "nothing": "pass",
    "import rag": "import rag",
    "from rag import Rag": "from rag import Rag",
    "import rag.cli": "import rag.cli",
}
PEERS = {
    "langchain_core": "import langchain_core.vectorstores",
    "llama_index": "import llama_index.core",
    "haystack": "import haystack",
    "sentence_transformers": "import sentence_transformers",
}


def main() -> None:
    """Prints and records the medians."""
    statements = STATEMENTS | {f"{name} (peer)": line for name, line in PEERS.items() if find_spec(name)}
    seconds: dict[str, list[float]] = {name: [] for name in statements}
    for number in range(ROUNDS + 1):
        for name in sorted(statements, reverse=number % 2 == 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", statements[name]], cwd=ROOT, check=True)
            if number:  # the first round warms the file cache
                seconds[name].append(time.perf_counter() - started)
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    net = round(medians["import rag"] - medians["nothing"], 3)
    for name, value in medians.items():
        print(f"{value:8.3f} s  {name}")
    print(f"{net:8.3f} s  import rag, without the interpreter's own start; limit {LIMIT_SECONDS}")
    write_result(
        "import_time", {"rounds": ROUNDS, "median_seconds": medians, "import_rag_net_seconds": net, "limit_seconds": LIMIT_SECONDS}
    )


if __name__ == "__main__":
    main()
