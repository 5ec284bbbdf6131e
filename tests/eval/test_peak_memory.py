from __future__ import annotations

import numpy as np
import pytest

from rag.eval.peak_memory import PeakMemory

MEGABYTES = 96


def test_what_was_held_and_let_go_is_seen_once() -> None:
    memory = PeakMemory()
    if memory.since_mark_mb() is None:
        pytest.skip("this system does not tell the peak of a while")
    before = memory.since_mark_mb()
    held = np.ones(MEGABYTES << 20, dtype=np.uint8)
    assert held[-1] == 1
    del held
    during, after = memory.since_mark_mb(), memory.since_mark_mb()
    assert before is not None and during is not None and after is not None
    assert during > before + MEGABYTES / 2 and after < during - MEGABYTES / 2
    assert memory.highest_mb() >= during
