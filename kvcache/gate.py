"""The verdict on reuse for one model: measured on the user's own chunks, kept beside the store, obeyed. Knows no model and no text.

Reuse changes what a model sees. How much that changes its answers depends on the model, and no paper's number is about yours: ``rag kv
check`` compares answers over cached chunks with answers over the full prefill and writes down, per method and share, whether they agree.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rag.core import digest
from rag.kvcache.methods import METHODS, Method

MAX_KL = 0.05
MIN_MATCH = 0.9


@dataclass(frozen=True, slots=True)
class Measured:
    """One method at one share: mean KL(full || reuse) in nats over the first answer tokens, share of equal greedy answers, prompts."""

    method: str
    recompute: float
    kl_nats: float
    answer_match: float
    num_prompts: int

    @property
    def passes(self) -> bool:
        """Whether answers are those of the full prefill, as far as the sample tells."""
        return self.kl_nats <= MAX_KL and self.answer_match >= MIN_MATCH


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the measurements say about a configured method and share. ``recompute`` is ``None`` if no measured share passes."""

    recompute: float | None
    why: str

    def applied(self, method: Method, recompute: float) -> tuple[Method, float]:
        """The method and share to run instead."""
        return (METHODS["prefix"], 1.0) if self.recompute is None else (method, max(recompute, self.recompute))


class Gate:
    """The measurements on one model, in ``folder`` (``None``: kept nowhere)."""

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self._path = None if folder is None else folder / f"check-{digest(fingerprint)}.json"

    def measured(self) -> list[Measured]:
        """Everything that was measured; empty if nothing was, or if the file cannot be read."""
        if self._path is None or not self._path.is_file():
            return []
        try:
            return [Measured(**row) for row in json.loads(self._path.read_text("utf-8"))]
        except (ValueError, TypeError):
            return []

    def record(self, rows: Sequence[Measured]) -> None:
        """Replaces what was measured on the same methods."""
        if self._path is None:
            return
        kept = [row for row in self.measured() if row.method not in {new.method for new in rows}]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self._path.parent, delete=False) as file:
            json.dump([asdict(row) for row in (*kept, *rows)], file)
        os.replace(file.name, self._path)

    def verdict(self, method: str, recompute: float) -> Verdict | None:
        """What to do with a configured method and share; ``None`` if the method was never measured on this model."""
        rows = sorted((row for row in self.measured() if row.method == method), key=lambda row: row.recompute)
        if not rows or METHODS[method].exact:
            return None
        passing = [row for row in rows if row.passes]
        if not passing:
            return Verdict(
                None, f"{method} does not keep this model's answers at any share tried; everything but true prefixes is computed"
            )
        return Verdict(passing[0].recompute, f"{method} keeps this model's answers from a share of {passing[0].recompute:g} on")
