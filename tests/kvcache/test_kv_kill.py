"""Killed writers, full disks, disks that fail, several processes in one folder: a miss at worst."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.durability import build_shim
from rag.kvcache.store import KVStore
from tests.kvcache.chunks import FAST, chunk, files, key_of, same, taken
from tests.kvcache.kv_faults import DISK_BYTES, NUM_CHUNKS, NUM_TOKENS, look

SCRIPT = Path(__file__).with_name("kv_faults.py")


def started(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def told(*arguments: object, **environment: str) -> dict[str, Any]:
    process = started(*arguments, **environment)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0
    return json.loads(out)  # type: ignore[no-any-return]


def test_kill_nine(tmp_path: Path) -> None:
    result = told("kill", tmp_path / "kv", 20, 5)
    assert result["faults"] == [] and result["found"] > 0


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler")
@pytest.mark.parametrize("ram_bytes", [0, 1 << 20])
def test_every_storage_call_fails_once(tmp_path: Path, ram_bytes: int) -> None:
    folder = tmp_path / "kv"
    result = told("starve", folder, ram_bytes, LD_PRELOAD=str(build_shim(tmp_path)), FAULT_DIR=str(folder))
    assert result["faults"] == [] and result["calls"] >= 6, "each of three entries is written and renamed"


def test_the_look_would_notice(tmp_path: Path) -> None:
    kv = chunk(NUM_TOKENS)
    with KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST) as store:
        for seed in range(6):
            store.put(key_of(chunk(NUM_TOKENS, seed=seed)), chunk(NUM_TOKENS, seed=seed), 1.0)
    assert look(tmp_path) == (4, []), "the smaller budget is applied"
    path = next(path for path in files(tmp_path))
    content = bytearray(path.read_bytes())
    content[-9000] ^= 1
    path.write_bytes(content)
    assert any("kept damaged" in fault for fault in look(tmp_path)[1])
    other = chunk(NUM_TOKENS, seed=9)
    with KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST) as store:
        store.clear()
        store.put(key_of(kv), type(kv)(kv.ids, other.keys, other.values), 1.0)
    assert "chunk 0 is another" in look(tmp_path)[1]


def test_a_writer_that_died_halfway_holds_up_nobody(tmp_path: Path) -> None:
    kv = chunk(NUM_TOKENS)
    part = tmp_path / f"{key_of(kv).digest}-plain.part"
    part.write_bytes(b"half")
    with KVStore(tmp_path, 1 << 20, DISK_BYTES, rates=FAST) as store:
        assert not part.exists()
        part.write_bytes(b"half of another one that died just now")
        assert store.put(key_of(kv), kv, 1.0)
    assert look(tmp_path) == (1, [])


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    """Three processes with overlapping chunks in a folder that holds four: every answer right, the budget kept."""
    kvs = [chunk(NUM_TOKENS, seed=seed) for seed in range(NUM_CHUNKS)]
    writers = [started("write", tmp_path, first) for first in (0, 2)]
    for process in writers:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    store = KVStore(tmp_path, 0, DISK_BYTES, rates=FAST)
    hits, end = 0, time.monotonic() + 2.0
    while time.monotonic() < end:
        for kv in kvs:
            held = store.get(key_of(kv))
            if held is not None:
                with held:
                    assert same(held, kv)
                hits += 1
        sizes = []
        for path in tmp_path.iterdir():
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue
        assert sum(sizes) <= DISK_BYTES + 2 * (DISK_BYTES // 4), "files may come and go while they are counted, but not many"
    assert [process.poll() for process in writers] == [None, None]
    for process in writers:
        process.kill()
        process.wait()
    assert hits > 20 and store.stats().damaged == 0
    found, faults = look(tmp_path)
    assert faults == [] and found > 0


def test_what_another_process_wrote_is_found_and_what_it_deleted_is_missed(tmp_path: Path) -> None:
    mine, theirs = (KVStore(tmp_path, 0, 1 << 20, rates=FAST) for _ in range(2))
    kv = chunk()
    assert mine.get(key_of(kv)) is None
    theirs.put(key_of(kv), kv, 1.0)
    assert mine.holds([key_of(kv)]) == [True]
    with taken(mine, key_of(kv)) as held:
        assert same(held, kv)
    theirs.clear()
    assert mine.holds([key_of(kv)]) == [False] and mine.get(key_of(kv)) is None and mine.stats().entries == 0
