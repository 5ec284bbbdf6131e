"""Random workloads on a store beside a dictionary: an answer is the last thing that was put, or there is none."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.eviction import Policy
from rag.kvcache.key import BytesKey
from rag.kvcache.slab import DamagedKV
from rag.kvcache.store import Admission, Held, KVStore
from tests.kvcache.chunks import FAST, bytes_in, chunk, files, key_of, same

SEEDS = st.integers(0, 7)
KVS = [chunk(1 + 25 * (seed % 4), seed=seed) for seed in range(8)]
UNIT = 4096 * 5


class StoreMachine(RuleBasedStateMachine):
    """``possible``: chunks that were put and not dropped since; only they may be answered with."""

    @initialize(
        ram=st.integers(0, 5),
        disk=st.integers(0, 6),
        device=st.sampled_from([0, 0, 2]),
        policy=st.sampled_from(["benefit", "lru"]),
        admission=st.sampled_from(["always", "second"]),
    )
    def begin(self, ram: int, disk: int, device: int, policy: Policy, admission: Admission) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kv-model-"))
        self.options = (ram * UNIT, disk * UNIT, device * UNIT, policy, admission)
        self.possible: set[int] = set()
        self.words: dict[str, bytes] = {}
        self.held: list[tuple[Held, ChunkKV]] = []
        self.spoiled: set[str] = set()
        self.open()

    def open(self) -> None:
        ram, disk, device, policy, admission = self.options
        folder = self.folder if disk else None
        self.store = KVStore(folder, ram, disk, device, eviction=policy, admission=admission, rates=FAST)

    def close(self) -> None:
        for held, _ in self.held:
            held.close()
        self.held = []
        self.store.close()

    @rule(seed=SEEDS, seconds=st.sampled_from([1e-3, 1.0, 50.0]))
    def put(self, seed: int, seconds: float) -> None:
        kept = self.store.put(key_of(KVS[seed]), KVS[seed], seconds)
        if kept:
            self.possible.add(seed)
            self.get(seed, must=not self.spoiled)

    @rule(seed=SEEDS)
    def get(self, seed: int, must: bool = False) -> None:
        held = self.store.get(key_of(KVS[seed]))
        assert held is not None or not must or self.options[1], "what was just kept is there"
        if held is not None:
            assert seed in self.possible, "an answer out of nothing"
            with held:
                self.read(held, KVS[seed])

    def read(self, held: Held, kv: ChunkKV) -> None:
        try:
            assert same(held, kv)
        except DamagedKV:
            assert self.spoiled
            assert self.store.get(key_of(kv)) is None

    @rule(seed=SEEDS)
    def hold(self, seed: int) -> None:
        held = self.store.get(key_of(KVS[seed]))
        if held is not None:
            self.held.append((held, KVS[seed]))

    @rule()
    def release(self) -> None:
        if self.held:
            held, kv = self.held.pop(0)
            self.read(held, kv)
            held.close()

    @rule(seed=SEEDS)
    def drop(self, seed: int) -> None:
        self.store.drop([key_of(KVS[seed])])
        self.possible.discard(seed)
        self.get(seed)

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.possible, self.words = set(), {}
        assert self.store.stats().entries == 0 and files(self.folder) == []

    @rule(word=st.sampled_from("ab"), size=st.integers(0, 30_000), byte=st.integers(0, 255))
    def put_bytes(self, word: str, size: int, byte: int) -> None:
        self.words[word] = bytes([byte]) * size
        self.store.put_bytes(BytesKey(word), self.words[word], 1.0)

    @rule(word=st.sampled_from("ab"))
    def get_bytes(self, word: str) -> None:
        found = self.store.get_bytes(BytesKey(word))
        assert found is None or found == self.words[word]

    @rule()
    def reopen(self) -> None:
        self.close()
        self.open()

    @rule()
    def another_process(self) -> None:
        if self.options[1]:
            self.store.flush()
            with KVStore(self.folder, 0, self.options[1], rates=FAST) as other:
                for seed, kv in enumerate(KVS):
                    held = other.get(key_of(kv))
                    if held is not None:
                        assert seed in self.possible
                        with held:
                            self.read_elsewhere(other, held, kv)

    def read_elsewhere(self, other: KVStore, held: Held, kv: ChunkKV) -> None:
        try:
            assert same(held, kv)
        except DamagedKV:
            assert self.spoiled and other.get(key_of(kv)) is None

    @rule(number=st.integers(0, 1 << 32), cut=st.booleans())
    def damage(self, number: int, cut: bool) -> None:
        self.store.flush()
        chance = random.Random(number)  # what is there depends on threads, what hypothesis draws must not
        there = [path for path in files(self.folder) if path.stat().st_size]
        if there:
            path = chance.choice(there)
            content = bytearray(path.read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content[: chance.randrange(len(content))] if cut else content)
            self.spoiled.add(path.name)

    @invariant()
    def within_budgets(self) -> None:
        if hasattr(self, "store"):
            stats = self.store.stats()
            assert all(stats.bytes_by_tier[tier] <= stats.budget_by_tier[tier] for tier in stats.bytes_by_tier)
            assert bytes_in(self.folder) <= self.options[1] or self.store._writer.busy
            assert (not stats.damaged or self.spoiled) and not stats.failed_writes and not stats.foreign

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for held, kv in self.held:
                self.read(held, kv)
            self.close()
            stats = self.store.stats()
            self.store.clear()
            assert set(self.store.stats().bytes_by_tier.values()) == {0}, "nothing is held and nothing is there"
            assert stats.entries >= 0
            shutil.rmtree(self.folder)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
