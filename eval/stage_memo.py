"""What stages made of their input before, and what that had cost, on disk. Knows keys and records; knows no stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from rag.eval.sealed_rows import SealedRows
from rag.eval.spending import Spent
from rag.eval.stage_forms import Form

T = TypeVar("T")

FILE = "stages.sqlite"


class StageMemo:
    """The records in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._rows = SealedRows(folder / FILE)

    def get(self, key: str, form: Form[T]) -> tuple[T, Spent] | None:
        """What was put under ``key``."""
        text = self._rows.get(key)
        if text is None:
            return None
        record = json.loads(text)
        return form.read(record["value"]), Spent(**record["spent"])

    def put(self, key: str, value: T, spent: Spent, form: Form[T]) -> None:
        """Keeps ``value`` and what it cost, unless it would not come back exactly as it is."""
        text = form.text(value)
        if text is not None:
            self._rows.put(key, f'{{"spent": {json.dumps(asdict(spent))}, "value": {text}}}')

    def close(self) -> None:
        """Closes the file."""
        self._rows.close()


@contextmanager
def stage_memo(folder: Path) -> Iterator[StageMemo]:
    """A ``StageMemo`` that is closed at the end."""
    memo = StageMemo(folder)
    try:
        yield memo
    finally:
        memo.close()
