"""Writers of a key-value folder that are killed or starved, and the look at what is left. Each runs as a process of its own.

    python tests/kvcache/kv_faults.py kill FOLDER 200 SEED
    LD_PRELOAD=faults.so FAULT_DIR=FOLDER python tests/kvcache/kv_faults.py starve FOLDER RAM_BYTES
    python tests/kvcache/kv_faults.py write FOLDER FIRST_SEED

Prints JSON. ``kill``: kill -9 of a writer at a random moment. ``starve``: every storage call of three puts fails once in each of the
ways of ``bench/faults.c``. ``write``: puts, reads and drops until it is killed.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from rag.kvcache.slab import DamagedKV
from rag.kvcache.store import KVStore
from tests.kvcache.chunks import FAST, chunk, files, key_of, same, taken

NUM_CHUNKS, NUM_TOKENS = 8, 60
ENTRY = 4096 * 8  # head, three layers of two blocks, statistics
DISK_BYTES = 4 * ENTRY
KINDS = {1: "ENOSPC", 2: "EIO", 3: "short write", 4: "kill -9 before the call"}


def look(folder: Path) -> tuple[int, list[str]]:
    """How many chunks are there, and everything that is wrong."""
    store = KVStore(folder, 0, DISK_BYTES, rates=FAST)
    found, faults = 0, []
    for seed in range(NUM_CHUNKS):
        kv = chunk(NUM_TOKENS, seed=seed)
        held = store.get(key_of(kv))
        if held is not None:
            with held:
                try:
                    found += 1
                    faults += [] if same(held, kv) else [f"chunk {seed} is another"]
                except DamagedKV as error:
                    faults.append(f"chunk {seed} was kept damaged: {error}")
    stats = store.stats()
    if stats.damaged or stats.foreign:
        faults.append(f"{stats.damaged} damaged, {stats.foreign} strangers")
    if sum(path.stat().st_size for path in files(folder)) > DISK_BYTES:
        faults.append("the budget is passed")
    if list(folder.glob("*.part")):
        faults.append("leftovers of a dead writer")
    return found, faults


def write(folder: Path, first: int) -> None:
    """Without end; raises if an answer is wrong."""
    kvs = [chunk(NUM_TOKENS, seed=seed) for seed in range(first, first + 6)]
    store = KVStore(folder, 2 * ENTRY, DISK_BYTES, rates=FAST)
    for turn in itertools.count():
        kv = kvs[turn % len(kvs)]
        held = store.get(key_of(kv))
        if held is None:
            store.put(key_of(kv), kv, 1.0)
            if turn % 5 == 0:
                store.flush()
                assert not store.stats().failed_writes, "writers got into each other's way"
        else:
            with held:
                assert same(held, kv), "a wrong answer"
            if turn % 3 == 0:
                store.drop([key_of(kv)])


def forked(work: Callable[[], None]) -> int:
    """Runs ``work`` in a child and returns its process id; the child ends with 70 if it raises."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def kill(folder: Path, num_rounds: int, seed: int) -> dict[str, Any]:
    """Kills a writer at a random moment, again and again, in one folder."""
    chance, found = random.Random(seed), 0
    faults: list[str] = []
    for number in range(num_rounds):
        child = forked(lambda: write(folder, 0))
        time.sleep(chance.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            faults.append(f"round {number}: the writer ended by itself")
        here, wrong = look(folder)
        found += here
        faults += [f"round {number}: {fault}" for fault in wrong]
    return {"rounds": num_rounds, "found": found, "faults": faults}


def _puts(folder: Path, ram_bytes: int, call: int, kind: int, told: Path) -> None:
    shim = ctypes.CDLL(None)
    store = KVStore(folder, ram_bytes, DISK_BYTES, rates=FAST)
    shim.faults_arm(ctypes.c_long(call), ctypes.c_long(kind))
    for seed in range(3, 6):
        kv = chunk(NUM_TOKENS, seed=seed)
        kept = store.put(key_of(kv), kv, 2.0)
        assert kept or not ram_bytes, "what memory holds is kept, whatever the disk says"
        if ram_bytes:
            with taken(store, key_of(kv)) as held:
                assert held.tier == "ram" and same(held, kv)
    store.flush()
    calls = shim.faults_calls()
    shim.faults_arm(ctypes.c_long(0), ctypes.c_long(0))
    told.write_text(f"{calls} {store.stats().failed_writes}")


def starve(folder: Path, ram_bytes: int) -> dict[str, Any]:
    """Makes every storage call of three puts, which push one entry out, fail."""
    told = folder.with_name("told")
    start = folder.with_name("start")
    with KVStore(start, 0, DISK_BYTES, rates=FAST) as store:
        for seed in range(2):
            store.put(key_of(chunk(NUM_TOKENS, seed=seed)), chunk(NUM_TOKENS, seed=seed), 1.0)

    def child(call: int, kind: int) -> int:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder)
        return os.waitstatus_to_exitcode(os.waitpid(forked(lambda: _puts(folder, ram_bytes, call, kind, told)), 0)[1])

    assert child(0, 0) == 0
    num_calls = int(told.read_text().split()[0])
    faults: list[str] = []
    for kind, name in KINDS.items():
        for call in range(1, num_calls + 1):
            code = child(call, kind)
            found = [f"the process ended with {code}"] if code != (-9 if kind == 4 else 0) else []
            if kind != 4 and not int(told.read_text().split()[1]):
                found.append("a failed write was not counted")
            faults += [f"{name} at call {call} of {num_calls}: {fault}" for fault in found + look(folder)[1]]
    return {"calls": num_calls, "faults": faults}


if __name__ == "__main__":
    mode, where = sys.argv[1], Path(sys.argv[2])
    match mode:
        case "kill":
            print(json.dumps(kill(where, int(sys.argv[3]), int(sys.argv[4]))))
        case "starve":
            print(json.dumps(starve(where, int(sys.argv[3]))))
        case "write":
            print("ready", flush=True)
            write(where, int(sys.argv[3]))
