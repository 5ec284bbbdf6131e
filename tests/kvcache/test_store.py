"""The store: what goes in comes out, bit by bit, from whatever tier; budgets hold; who holds an entry keeps it."""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from rag.kernels.quantise import dequantise_kv
from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.disk import Disk
from rag.kvcache.draft import Storage
from rag.kvcache.key import BytesKey, KVKey
from rag.kvcache.store import KVStore
from tests.kvcache.chunks import FAST, LAYERS, chunk, files, key_of, same, taken

ENTRY = 4096 * (1 + LAYERS + 1)  # bytes of a small chunk: head, layers, statistics
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 7, 300])
@pytest.mark.parametrize("place", ["ram", "disk", "reopened", "device", "no ram"])
def test_i13_and_i16_round_trip_is_bit_equal_in_every_tier(tmp_path: Path, place: str, tokens: int, dtype: torch.dtype) -> None:
    ram = 0 if place == "no ram" else 1 << 20
    store = KVStore(
        None if place in ("ram", "device") else tmp_path,
        ram,
        0 if place in ("ram", "device") else 1 << 20,
        1 << 20 if place == "device" else 0,
        rates=FAST,
    )
    kv = chunk(tokens, dtype=dtype)
    assert store.get(key_of(kv)) is None and store.holds([key_of(kv)]) == [False]
    assert store.put(key_of(kv), kv, 1.0) and store.holds([key_of(kv)]) == [True]
    store.flush()
    if place == "disk":
        store = KVStore(tmp_path, 0, 1 << 20, rates=FAST)
    if place == "reopened":
        store = KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST)
    for turn in range(3):
        with taken(store, key_of(kv)) as held:
            assert same(held, kv)
        tiers = {"reopened": ["disk", "ram", "ram"], "device": ["ram", "device", "device"]}
        expected = tiers.get(place, [place] * 3)[turn]
        assert held.tier == ("disk" if expected == "no ram" else expected)
    assert store.stats().hit_ratio == (0.75 if place in ("ram", "device", "no ram") else 1.0)


def test_a_chunk_without_statistics_and_one_of_other_head_sizes() -> None:
    store = KVStore(None, 1 << 20)
    kv = ChunkKV((1, 2), torch.randn(1, 1, 2, 5), torch.randn(1, 1, 2, 3))
    store.put(key_of(kv), kv, 1.0)
    assert same(taken(store, key_of(kv)), kv)


@pytest.mark.parametrize(("storage", "levels"), [("int8", 127), ("int4", 7)])
def test_codes_err_by_half_a_step_at_most(tmp_path: Path, storage: Storage, levels: int) -> None:
    kv = chunk(40, dtype=torch.float32)
    with KVStore(tmp_path, 1 << 20, 1 << 20, storage=storage, rates=FAST) as store:
        store.put(key_of(kv), kv, 1.0)
    store = KVStore(tmp_path, 0, 1 << 20, storage=storage, rates=FAST)
    with taken(store, key_of(kv)) as held:
        for number in range(LAYERS):
            layer = held.layer(number)
            assert layer.kind == storage
            keys, values = dequantise_kv(layer)
            key_step = kv.keys[number].abs().amax(1, keepdim=True) / levels
            value_step = kv.values[number].abs().amax(2, keepdim=True) / levels
            assert bool(((keys - kv.keys[number]).abs() <= key_step * 0.5001 + 1e-7).all())
            assert bool(((values - kv.values[number]).abs() <= value_step * 0.5001 + 1e-7).all())
    assert KVStore(tmp_path, 0, 1 << 20, rates=FAST).get(key_of(kv)) is None, "codes answered for numbers"


def test_budgets_are_hard(tmp_path: Path) -> None:
    store = KVStore(tmp_path, 3 * ENTRY, 5 * ENTRY + 100, 2 * ENTRY, rates=FAST)
    for seed in range(12):
        kv = chunk(seed=seed)
        assert store.put(key_of(kv), kv, 1.0)
        with taken(store, key_of(kv)) as held:
            assert same(held, kv)
        store.flush()
        stats = store.stats()
        assert all(stats.bytes_by_tier[tier] <= stats.budget_by_tier[tier] for tier in ("device", "ram", "disk"))
        assert sum(path.stat().st_size for path in files(tmp_path)) == stats.bytes_by_tier["disk"]
    assert stats.entries_by_tier == {"device": 2, "ram": 3, "disk": 5}
    assert stats.evictions_by_tier == {"device": 10, "ram": 9, "disk": 7}
    assert stats.entries == stats.tokens // 7 and 5 <= stats.entries <= 10


def test_an_entry_larger_than_a_tier_goes_to_the_next(tmp_path: Path) -> None:
    store = KVStore(tmp_path, ENTRY - 4096, 2 * ENTRY, rates=FAST)
    kv = chunk()
    assert store.put(key_of(kv), kv, 1.0)
    assert store.stats().entries_by_tier == {"ram": 0, "disk": 1}
    assert same(taken(store, key_of(kv)), kv)
    big = chunk(2000, seed=1)
    assert not store.put(key_of(big), big, 1.0)
    assert store.stats().refused == 1 and store.get(key_of(big)) is None


def test_what_loads_slower_than_it_computes_is_not_kept(tmp_path: Path) -> None:
    kv = chunk()
    store = KVStore(tmp_path, 1 << 20, 1 << 20, rates={"ram": 1e9, "disk": 1e6})
    assert store.put(key_of(kv), kv, 1e-3)
    store.flush()
    assert store.stats().entries_by_tier == {"ram": 1, "disk": 0}
    other = chunk(seed=1)
    assert not store.put(key_of(other), other, 1e-6)
    third = chunk(seed=2)
    assert store.put(key_of(third), third, 1.0)
    store.flush()
    assert store.stats().entries_by_tier == {"ram": 2, "disk": 1}


def test_who_holds_an_entry_keeps_it(tmp_path: Path) -> None:
    for folder, disk_bytes in ((None, 0), (tmp_path, 8 * ENTRY)):
        store = KVStore(folder, 2 * ENTRY, disk_bytes, rates=FAST)
        kvs = [chunk(seed=seed) for seed in range(6)]
        store.put(key_of(kvs[0]), kvs[0], 1.0)
        held = taken(store, key_of(kvs[0]))
        layer = held.layer(0)
        for kv in kvs[1:]:
            assert store.put(key_of(kv), kv, 100.0)
        assert torch.equal(layer.keys, kvs[0].keys[0]) and same(held, kvs[0])
        store.drop([key_of(kvs[0])])
        assert store.get(key_of(kvs[0])) is None and same(held, kvs[0])
        store.clear()
        assert store.stats().entries == 0 and same(held, kvs[0])
        assert store.stats().bytes_by_tier["ram"] == ENTRY, "what is held is counted"
        held.close()
        held.close()
        assert store.stats().bytes_by_tier["ram"] == 0
        with pytest.raises(ValueError, match="given back"):
            held.layer(0)


def test_a_store_full_of_held_entries_refuses_the_next() -> None:
    store = KVStore(None, 2 * ENTRY, rates=FAST)
    kvs = [chunk(seed=seed) for seed in range(3)]
    for kv in kvs[:2]:
        store.put(key_of(kv), kv, 1.0)
    held = [taken(store, key_of(kv)) for kv in kvs[:2]]
    assert not store.put(key_of(kvs[2]), kvs[2], 1e6)
    assert [same(each, kv) for each, kv in zip(held, kvs, strict=False)] == [True, True]
    held[0].close()
    assert store.put(key_of(kvs[2]), kvs[2], 1e6)


def test_an_entry_survives_its_file_while_it_is_read(tmp_path: Path) -> None:
    kv = chunk()
    with KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST) as store:
        store.put(key_of(kv), kv, 1.0)
    for ram in (0, 1 << 20):
        store = KVStore(tmp_path, ram, 1 << 20, rates=FAST)
        held = taken(store, key_of(kv))
        held.layer(0)
        KVStore(tmp_path, 0, 1 << 20).clear()
        assert files(tmp_path) == [] and same(held, kv)
        held.close()
        with KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST) as writer:
            writer.put(key_of(kv), kv, 1.0)


def test_a_hit_that_is_not_read_to_its_end_does_not_climb(tmp_path: Path) -> None:
    kv = chunk()
    with KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST) as store:
        store.put(key_of(kv), kv, 1.0)
    store = KVStore(tmp_path, 1 << 20, 1 << 20, 1 << 20, rates=FAST)
    with taken(store, key_of(kv)) as held:
        held.layer(1)
    assert store.stats().bytes_by_tier["ram"] == store.stats().bytes_by_tier["device"] == 0
    with taken(store, key_of(kv)) as held:
        assert held.tier == "disk" and same(held, kv)
    assert store.stats().entries_by_tier == {"device": 1, "ram": 1, "disk": 1}


def test_put_twice_keeps_the_first_and_writes_once(tmp_path: Path) -> None:
    store = KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST)
    kv = chunk()
    store.put(key_of(kv), kv, 1.0)
    store.flush()
    before = files(tmp_path)[0].stat()
    other = ChunkKV(kv.ids, kv.keys + 1, kv.values)
    assert store.put(key_of(kv), other, 1.0)
    store.flush()
    assert same(taken(store, key_of(kv)), kv)
    assert files(tmp_path)[0].stat().st_ino == before.st_ino
    again = KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST)
    assert again.put(key_of(kv), other, 1.0) and same(taken(again, key_of(kv)), kv)


def test_what_was_dropped_while_it_waited_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, real = threading.Event(), threading.Event(), Disk.write

    def late(*given: Any) -> bool:
        begun.set()
        assert go_on.wait(10)
        return real(*given)

    monkeypatch.setattr(Disk, "write", late)
    kv = chunk()
    store = KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST)
    store.put(key_of(kv), kv, 1.0)
    assert begun.wait(10)
    store.drop([key_of(kv)])
    go_on.set()
    store.flush()
    assert files(tmp_path) == [] and store.get(key_of(kv)) is None and store.stats().bytes_by_tier == {"ram": 0, "disk": 0}


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "kv"
    kv = chunk()
    with KVStore(folder, 1 << 20, 1 << 20, rates=FAST) as store:
        store.put(key_of(kv), kv, 1.0)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_entry_holds_nothing_but_its_own_bytes(tmp_path: Path) -> None:
    kv = ChunkKV((1, 2, 3), torch.ones(1, 1, 3, 5), torch.ones(1, 1, 3, 3), {"one": torch.ones(3)})
    written = []
    for number in range(2):
        with KVStore(tmp_path / str(number), 6 * 4096, 1 << 20, rates=FAST) as store:
            if number:
                store.put_bytes(BytesKey("before"), b"\xaa" * 4096 * 5, 1.0)
                store.drop([BytesKey("before")])
            store.flush()
            store.put(key_of(kv), kv, 1.0)
            store.put_bytes(BytesKey("word"), b"short", 1.0)
        written.append([path.read_bytes() for path in files(tmp_path / str(number))])
    assert written[0] == written[1] and len(written[0]) == 2 and b"\xaa" * 8 not in b"".join(written[1])


def test_it_works_inside_inference_mode_and_outside() -> None:
    with torch.inference_mode():
        store = KVStore(None, 1 << 20, device_bytes=1 << 20)
        first = chunk(seed=1)
    second = chunk(seed=2)
    for kv in (first, second):
        store.put(key_of(kv), kv, 1.0)
    for kv in (first, second):
        with torch.inference_mode(), taken(store, key_of(kv)) as held:
            assert same(held, kv)
        with taken(store, key_of(kv)) as held:
            assert same(held, kv)


def test_saved_seconds_and_what_second_sight_keeps_out() -> None:
    store = KVStore(None, 2 * ENTRY, admission="second", rates={"ram": ENTRY / 0.25})
    kvs = [chunk(seed=seed) for seed in range(3)]
    for kv in kvs:
        assert store.get(key_of(kv)) is None
        assert store.put(key_of(kv), kv, 1.0) == (kv is not kvs[2])
    assert store.get(key_of(kvs[2])) is None
    assert store.put(key_of(kvs[2]), kvs[2], 1.0)
    taken(store, key_of(kvs[2]))
    assert store.stats().saved_seconds == 0.75


def test_many_threads_on_a_store_that_is_too_small(tmp_path: Path) -> None:
    store = KVStore(tmp_path, 4 * ENTRY, 6 * ENTRY, 2 * ENTRY, rates=FAST)
    kvs = [chunk(seed=seed) for seed in range(10)]
    wrong: list[str] = []
    hits = [0] * 6

    def work(number: int) -> None:
        chance = torch.Generator().manual_seed(number)
        for _ in range(120):
            which, what = torch.randint(0, 10, (2,), generator=chance).tolist()
            kv = kvs[which]
            try:
                if what == 0:
                    store.drop([key_of(kv)])
                elif (held := store.get(key_of(kv))) is None:
                    store.put(key_of(kv), kv, 1.0)
                else:
                    with held:
                        hits[number] += 1
                        if not same(held, kv):
                            wrong.append(f"chunk {which}")
            except Exception as error:  # noqa: BLE001 - reported by the main thread
                wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush()
    stats = store.stats()
    assert wrong == [] and sum(hits) > 50 and stats.damaged == stats.failed_writes == 0
    assert all(stats.bytes_by_tier[tier] <= stats.budget_by_tier[tier] for tier in stats.bytes_by_tier)
    store.clear()
    assert set(store.stats().bytes_by_tier.values()) == {0} and files(tmp_path) == []


def test_bad_input(tmp_path: Path) -> None:
    for options, message in (
        ({"storage": "int2"}, "int2"),
        ({"eviction": "fifo"}, "fifo"),
        ({"admission": "never"}, "never"),
        ({"ram_bytes": -1}, "ram_bytes is -1"),
        ({"folder": tmp_path}, "needs both"),
        ({"disk_bytes": 5}, "needs both"),
        ({"rates": {"tape": 1.0}}, "tape"),
    ):
        with pytest.raises(ValueError, match=message):
            KVStore(**options)
    kv, store = chunk(), KVStore(None, 1 << 20)
    with pytest.raises(ValueError, match="others"):
        store.put(KVKey("m", "bare", (1, 2)), kv, 1.0)
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="prefill_seconds"):
            store.put(key_of(kv), kv, seconds)
    store.put(key_of(kv), kv, 1.0)
    with pytest.raises(IndexError):
        taken(store, key_of(kv)).layer(3)
    for ids, keys, values in (
        ((1,), torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4)),
        ((1, 2), torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)),
        ((1, 2), torch.zeros(1, 1, 2, 4), torch.zeros(1, 2, 2, 4)),
        ((1, 2), torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4, dtype=torch.bfloat16)),
        ((1, 2), torch.zeros(1, 1, 2, 4, dtype=torch.int64), torch.zeros(1, 1, 2, 4, dtype=torch.int64)),
        ((), torch.zeros(1, 1, 0, 4), torch.zeros(1, 1, 0, 4)),
    ):
        with pytest.raises(ValueError, match="keys"):
            ChunkKV(ids, keys, values)
