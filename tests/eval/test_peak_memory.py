from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rag.eval.peak_memory import PeakMemory

MEGABYTES = 96
SCRIPT = f"""
import json, numpy as np
from rag.eval.peak_memory import PeakMemory
memory = PeakMemory()
before = memory.since_mark_mb()
held = np.ones({MEGABYTES} << 20, dtype=np.uint8)
assert held[-1] == 1
del held
print(json.dumps([before, memory.since_mark_mb(), memory.since_mark_mb(), memory.highest_mb()]))
"""


def test_what_was_held_and_let_go_is_seen_once() -> None:
    if PeakMemory().since_mark_mb() is None:
        pytest.skip("this system does not tell the peak of a while")
    # A process of its own: in this one, what other tests mapped and left comes and goes.
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    before, during, after, highest = json.loads(told)
    assert during > before + MEGABYTES / 2 and after < during - MEGABYTES / 2
    assert highest >= during
