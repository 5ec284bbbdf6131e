"""Kills and starves a writer, then looks at what is left: lost commits, unreadable indexes, indexes that disagree.

    python bench/durability.py --rounds 200

Two experiments on the real catalog, dense and sparse indexes (the encoder is a cheap deterministic one):
1. kill -9 at a random moment of a writer that ingests, edits, deletes and compacts in a loop;
2. with a preloaded shim (``faults.c``), every single write, fwrite, pwrite, fsync, ftruncate and rename of an ingest, a delete
   and a compaction fails once with ENOSPC, once with EIO, once after half of its bytes, and once kills the process instead.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.durability_worker import apply, faults_in, open_index, operation, state_after
from bench.record import write_result

KINDS = {1: "ENOSPC", 2: "EIO", 3: "short write", 4: "kill -9 before the call"}


def kill_rounds(num_rounds: int, seed: int, folder: Path) -> tuple[list[str], int]:
    """Faults found after ``num_rounds`` kills of a writer on one index, and how many operations were acknowledged."""
    chance = random.Random(seed)
    index, acks = folder / "index", folder / "acks"
    acks.touch()
    faults: list[str] = []
    first = 0
    for number in range(num_rounds):
        command = [sys.executable, str(ROOT / "bench" / "durability_worker.py"), str(index), str(acks), str(seed), str(first)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()  # "ready": imports are over
        try:
            writer.wait(chance.uniform(0.0, 1.0))
            faults.append(f"round {number}: the writer ended by itself with {writer.returncode}")
        except subprocess.TimeoutExpired:
            writer.kill()
        writer.wait()
        last = int((acks.read_text().split() or ["-1"])[-1])
        before, after = state_after(seed, last), state_after(seed, last + 1)
        found = faults_in(index, before, after)
        faults += [f"round {number}: {fault}" for fault in found]
        first = last + 1
        if not found and not faults_in(index, after):
            first = last + 2  # the operation in flight was committed, only its acknowledgement was lost
            with acks.open("a") as file:
                file.write(f"{last + 1}\n")
    return faults, first


def fault_rounds(shim: Path, folder: Path, every: int, seed: int = 7) -> dict[str, dict[str, int]]:
    """Per operation kind: how many calls were made to fail and how many faults were found. Runs in a process of its own."""
    command = [sys.executable, __file__, "--inject", str(folder), "--every", str(every), "--seed", str(seed)]
    environment = {**os.environ, "LD_PRELOAD": str(shim), "FAULT_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    results: dict[str, dict[str, int]] = {}
    for line in done.stdout.splitlines():
        name, num_calls, num_faults = line.split("\t")[:3]
        results[name] = {"calls": int(num_calls), "faults": int(num_faults)}
    return results


def _child(work: Path, seed: int, number: int, call: int, kind: int) -> int:
    """Applies operation ``number`` on a copy in a forked child whose ``call``-th storage call fails: 0 done, 3 error, else died."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            shim = ctypes.CDLL(None)
            rag = open_index(work)
            shim.faults_arm(ctypes.c_long(call), ctypes.c_long(kind))
            try:
                apply(rag, seed, number)
                code = 0
            except Exception:  # noqa: BLE001 - any error is an answer here; the look afterwards decides
                code = 3
            if call == 0:
                (work.parent / "calls").write_text(str(shim.faults_calls()))
            shim.faults_arm(ctypes.c_long(0), ctypes.c_long(0))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def inject(folder: Path, every: int, seed: int) -> None:
    """Prints ``operation<TAB>calls<TAB>faults`` lines; to be run under the shim."""
    wanted = ["ingest", "delete", "compact"]
    start = folder / "start"
    for number in range(12):
        assert _child(start, seed, number, 0, 0) == 0
    number = 12
    while wanted:
        kind_of_operation = operation(seed, number)[0]
        if kind_of_operation in wanted:
            wanted.remove(kind_of_operation)
            calls, faults = _inject_everywhere(folder, start, every, seed, number)
            print(f"{kind_of_operation}\t{calls}\t{len(faults)}\t{'; '.join(faults[:3])}", flush=True)
            for fault in faults:
                print(fault, file=sys.stderr)
        assert _child(start, seed, number, 0, 0) == 0
        number += 1


def _inject_everywhere(folder: Path, start: Path, every: int, seed: int, number: int) -> tuple[int, list[str]]:
    before, after = state_after(seed, number - 1), state_after(seed, number)
    work = folder / "work"
    faults: list[str] = []

    def fresh() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(start, work)

    fresh()
    assert _child(work, seed, number, 0, 0) == 0
    num_calls = int((folder / "calls").read_text())
    tried = 0
    for kind, name in KINDS.items():
        for call in range(1, num_calls + 1, every):
            fresh()
            code = _child(work, seed, number, call, kind)
            allowed = (after,) if code == 0 else (before, after)
            found = faults_in(work, *allowed)
            if code not in (0, 3, -9):
                found.append(f"the process died with {code}")
            if not found and _child(work, seed, number, 0, 0) != 0:
                found.append("the operation cannot be repeated afterwards")
            if not found:
                found = faults_in(work, after)
            faults += [f"{operation(seed, number)[0]}, {name} at call {call} of {num_calls}: {fault}" for fault in found]
            tried += 1
    return tried, faults


def build_shim(folder: Path) -> Path:
    """Compiles ``faults.c``. Raises ``FileNotFoundError`` without a C compiler."""
    shim = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(shim), str(source), "-ldl"], check=True)
    return shim


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--every", type=int, default=1, help="make every n-th call fail")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--part", choices=["all", "kill", "faults"], default="all")
    parser.add_argument("--inject", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inject:
        inject(options.inject, options.every, options.seed)
        return
    with tempfile.TemporaryDirectory() as name:
        if options.part != "faults":
            faults, acknowledged = kill_rounds(options.rounds, options.seed, Path(name))
            for fault in faults:
                print(fault)
            print(f"kill -9: {options.rounds} rounds, {acknowledged} operations acknowledged, {len(faults)} faults", flush=True)
            counts = {"rounds": options.rounds, "operations_acknowledged": acknowledged}
            write_result("durability_kill", {**counts, "lost_or_unreadable_or_disagreeing": len(faults), "limit": 0})
        if options.part != "kill":
            target = Path(name) / "inject"
            target.mkdir()
            injected = fault_rounds(build_shim(Path(name)), target, options.every)
            print(f"injected: {injected}")
            kinds = list(KINDS.values())
            write_result("durability_faults", {"every": options.every, "kinds": kinds, "injected": injected, "limit_faults": 0})


if __name__ == "__main__":
    main()
