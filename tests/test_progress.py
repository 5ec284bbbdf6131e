"""The bar: shown on a terminal, absent elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rag import terminal
from rag.progress import progress_bar


def test_it_is_drawn_on_a_terminal_and_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=written, force_terminal=True, width=120))
    with progress_bar("questions kept") as on_progress:
        assert on_progress is not None
        on_progress(3, 7)
    assert "questions kept" in written.getvalue() and "3/7" in written.getvalue()


def test_elsewhere_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "err", Console(file=io.StringIO(), force_terminal=False))
    with progress_bar("questions kept") as on_progress:
        assert on_progress is None
