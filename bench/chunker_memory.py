"""The memory of one chunker, in this process, which holds nothing but what that chunker loads; ``bench/chunkers.py`` starts it.

python bench/chunker_memory.py "chonkie recursive" minilm ../shared/data/chunking_evaluation/corpora
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.chunker_peers import HashedWords, plain, semantic


def peak_mib() -> float:
    """The most this process ever held resident."""
    with open("/proc/self/status", encoding="ascii") as file:  # ru_maxrss would start from the parent's peak
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM"].split()[0]) / 1024


def main() -> None:
    name, vocabulary, corpora = sys.argv[1:]
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(corpora).glob("*.md"))]
    made = semantic(HashedWords()) if "semantic" in name else plain(vocabulary)
    chunk = made[name]()
    if not name.startswith("ours"):
        assert not [module for module in sys.modules if module.split(".")[0] == "rag"], "ours is charged to a peer"
    chunk("One short text. It has two sentences.")
    before = peak_mib()
    for text in texts:
        chunk(text)
    print(json.dumps({"peak_mib": round(peak_mib(), 1), "growth_mib": round(peak_mib() - before, 1)}))


if __name__ == "__main__":
    main()
