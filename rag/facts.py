"""What the segments of an index tell of themselves, kept beside each and put together for people. Knows no kind of index.

``facts.json`` lies in every segment folder and is sealed with it. It is read alone: no segment is opened, no model loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag.core import Facts
from rag.errors import DamagedIndex

FILE = "facts.json"
BUILD_SECONDS = "build_seconds"
"""The one fact of every segment, measured by whoever had it built: adds up, like counts do."""


def write_facts(folder: Path, facts: Facts, build_seconds: float) -> None:
    """Writes the file; the caller makes it durable."""
    told = {**facts, BUILD_SECONDS: round(build_seconds, 3)}
    (folder / FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """What ``write_facts`` wrote. Raises ``DamagedIndex`` that names the file."""
    path = folder / FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedIndex(path, f"it cannot be read: {error}") from error
    if not isinstance(told, dict) or not all(isinstance(value, (int, float, str)) for value in told.values()):
        raise DamagedIndex(path, "it is not a JSON object of numbers and words")
    return told


def together(parts: Sequence[tuple[int, Facts]]) -> dict[str, int | float | str]:
    """Facts of an index from those of its segments, each with its number of chunks; see ``rag.core.Facts`` for the rules.

    A fact that only some segments tell is left out: half a sum says nothing.

    >>> together([(1, {"vectors": 1, "recall": 1.0, "graph": "none"}), (3, {"vectors": 3, "recall": 0.6, "graph": "HNSW"})])
    {'vectors': 4, 'recall': 0.7, 'graph': 'HNSW, none'}
    """
    names = [name for name in (parts[0][1] if parts else ()) if all(name in facts for _, facts in parts)]
    return {name: _one(name, [(num_chunks, facts[name]) for num_chunks, facts in parts]) for name in names}


def _one(name: str, told: Sequence[tuple[int, int | float | str]]) -> int | float | str:
    numbers = [(num_chunks, value) for num_chunks, value in told if not isinstance(value, str)]
    if len(numbers) < len(told):
        return ", ".join(sorted({str(value) for _, value in told}))
    if name == BUILD_SECONDS:
        return round(sum(value for _, value in numbers), 3)
    if all(isinstance(value, int) for _, value in numbers):
        return sum(value for _, value in numbers)
    total = sum(num_chunks for num_chunks, _ in numbers)
    return round(sum(num_chunks * value for num_chunks, value in numbers) / total, 4) if total else numbers[0][1]
