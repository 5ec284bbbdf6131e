"""Twenty kills and every tenth storage call made to fail: nothing lost, nothing unreadable, nothing that disagrees.

``bench/durability.py`` does the same with more rounds and every call.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.durability import build_shim, fault_rounds, kill_rounds
from bench.durability_worker import apply, faults_in, open_index, state_after
from rag.storage import writer_lock

ROOT = Path(__file__).parents[1]


def test_kill_nine(tmp_path: Path) -> None:
    faults, num_acknowledged = kill_rounds(20, seed=11, folder=tmp_path)
    assert faults == []
    assert num_acknowledged > 0


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler")
def test_failing_writes_and_flushes(tmp_path: Path) -> None:
    (tmp_path / "inject").mkdir()
    results = fault_rounds(build_shim(tmp_path), tmp_path / "inject", every=10)
    assert set(results) == {"ingest", "delete", "compact"}
    assert all(result["calls"] > 0 and result["faults"] == 0 for result in results.values()), results


def test_the_look_afterwards_would_notice(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with open_index(folder) as rag:
        for number in range(3):
            apply(rag, 11, number)
    assert faults_in(folder, state_after(11, 2)) == []
    assert faults_in(folder, state_after(11, 0))
    victim = min((folder / "segments").iterdir())
    shutil.rmtree(victim)
    assert any(victim.name in fault for fault in faults_in(folder, state_after(11, 2)))


def test_two_writers(tmp_path: Path) -> None:
    """A second process is refused while the first one holds the lock, and writes once it is free; nothing is harmed."""
    folder, acks = tmp_path / "index", tmp_path / "acks"
    with open_index(folder) as rag:
        apply(rag, 11, 0)
    worker = [sys.executable, str(ROOT / "bench" / "durability_worker.py"), str(folder), str(acks), "11", "1"]
    with writer_lock(folder):
        refused = subprocess.run(worker, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 1 and "IndexLocked" in refused.stderr and f"process {os.getpid()}" in refused.stderr
    assert faults_in(folder, state_after(11, 0)) == []
    admitted = subprocess.Popen(worker)
    while not acks.exists() or not acks.read_text():
        assert admitted.poll() is None
        time.sleep(0.02)
    admitted.kill()
    admitted.wait()
    last = int(acks.read_text().split()[-1])
    assert faults_in(folder, state_after(11, last), state_after(11, last + 1)) == []
