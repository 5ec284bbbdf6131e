"""Outcomes of single questions on disk, by the content they depend on. Knows keys and records; knows no pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from rag.eval.chain_report import QuestionOutcome
from rag.eval.sealed_rows import SealedRows

FILE = "outcomes.sqlite"


class OutcomeCache:
    """The outcomes in ``folder``; with ``None`` nothing is kept and nothing is found."""

    def __init__(self, folder: Path | None) -> None:
        self._rows = None if folder is None else SealedRows(folder / FILE)

    @property
    def is_kept(self) -> bool:
        """Whether anything outlasts the run."""
        return self._rows is not None

    def get(self, key: str) -> QuestionOutcome | None:
        """What was put under ``key``, if it can be read."""
        text = self._rows.get(key) if self._rows else None
        try:
            return None if text is None else QuestionOutcome.model_validate_json(text)
        except ValidationError:
            return None

    def put(self, key: str, outcome: QuestionOutcome) -> None:
        """Keeps ``outcome``; when this returns it survives the end of the process."""
        if self._rows is not None:
            self._rows.put(key, outcome.model_dump_json())

    def close(self) -> None:
        """Closes the file."""
        if self._rows is not None:
            self._rows.close()


@contextmanager
def outcome_cache(folder: Path | None) -> Iterator[OutcomeCache]:
    """An ``OutcomeCache`` that is closed at the end."""
    cache = OutcomeCache(folder)
    try:
        yield cache
    finally:
        cache.close()
