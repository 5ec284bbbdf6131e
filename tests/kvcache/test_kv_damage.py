"""Whatever happens to the bytes of an entry, the answer is what was stored, or none."""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag.kvcache import slab
from rag.kvcache.checksum import checksum
from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.key import KVKey
from rag.kvcache.slab import DamagedKV, read_head
from rag.kvcache.store import KVStore
from tests.kvcache.chunks import FAST, LAYERS, chunk, files, key_of, same, taken

KV = chunk(150, seed=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with KVStore(folder, 1 << 20, 1 << 22, rates=FAST) as store:
        assert store.put(key_of(KV), KV, 1.0)
    return files(folder)[0]


def answer(folder: Path, ram_bytes: int, kv: ChunkKV = KV) -> str:
    """``whole``, ``miss`` or ``damaged``, after which it must be a miss; anything else fails."""
    store = KVStore(folder, ram_bytes, 1 << 22, rates=FAST)
    return ask(store, kv)


def ask(store: KVStore, kv: ChunkKV = KV, key: KVKey | None = None) -> str:
    key = key or key_of(kv)
    held = store.get(key)
    if held is None:
        return "miss"
    with held:
        try:
            assert same(held, kv), "a wrong answer"
        except DamagedKV:
            assert store.get(key) is None and store.stats().damaged == 1, "damage must be a miss from then on"
            assert files(store._disk.folder) == [] if store._disk else True
            return "damaged"
    return "whole"


def damaged(whole: Path, folder: Path, change: Callable[[bytearray], bytes | bytearray], ram_bytes: int) -> str:
    folder.mkdir(exist_ok=True)
    (folder / whole.name).write_bytes(change(bytearray(whole.read_bytes())))
    found = answer(folder, ram_bytes)
    for path in folder.iterdir():
        path.unlink()
    return found


def regions(entry: bytes) -> dict[str, tuple[int, int]]:
    """Where each part of an entry begins and ends."""
    head = read_head(entry)
    ids = slab.FIXED_BYTES + len(head.places) * slab._PLACE.size
    meta = ids + 8 * len(head.ids)
    named = {"magic": (0, 8), "version": (8, 12), "sizes": (12, 32), "kind and geometry": (32, 52), "seconds": (52, 60)}
    named |= {
        "digest": (60, 92),
        "proof": (92, 124),
        "first checksum": (124, slab.FIXED_BYTES),
        "slab table": (slab.FIXED_BYTES, ids),
    }
    named |= {"ids": (ids, meta), "meta": (meta, meta + 60), "padding": (meta + 400, head.head_bytes - 8)}
    named |= {"head checksum": (head.head_bytes - 8, head.head_bytes)}
    for number, place in enumerate(head.places):
        end = place.offset + place.num_bytes
        named[f"slab {number}"] = (place.offset, end)
        named[f"end of slab {number}"] = (end - 8, end)
    return named


REGIONS = [
    "magic",
    "version",
    "sizes",
    "kind and geometry",
    "seconds",
    "digest",
    "proof",
    "first checksum",
    "slab table",
    "ids",
    "meta",
]
REGIONS += ["padding", "head checksum", *(f"{part}slab {number}" for number in range(LAYERS + 1) for part in ("", "end of "))]


@pytest.mark.parametrize("region", REGIONS)
def test_a_flipped_bit_in(whole: Path, tmp_path: Path, region: str) -> None:
    named = regions(whole.read_bytes())
    assert set(named) == set(REGIONS)
    start, end = named[region]
    chance = random.Random(region)
    for ram_bytes in (0, 1 << 22):
        for position in {start, end - 1, *(chance.randrange(start, end) for _ in range(6))}:
            bit = chance.randrange(8)

            def flip(entry: bytearray, position: int = position, bit: int = bit) -> bytearray:
                entry[position] ^= 1 << bit
                return entry

            expected = "damaged" if "slab " in region and region != "slab table" else "miss"
            assert damaged(whole, tmp_path / "kv", flip, ram_bytes) == expected, (position, bit)


def test_what_an_entry_is_worth_is_not_believed_unchecked(whole: Path, tmp_path: Path) -> None:
    content = bytearray(whole.read_bytes())
    content[57] ^= 64
    (tmp_path / whole.name).write_bytes(content)
    store = KVStore(tmp_path, 0, 1 << 22, rates=FAST)
    assert store.stats().damaged == 1 and store.stats().entries == 0 and files(tmp_path) == []


def test_bits_flipped_anywhere(whole: Path, tmp_path: Path) -> None:
    chance = random.Random(17)
    length = whole.stat().st_size
    for _ in range(150):

        def flip(entry: bytearray) -> bytearray:
            for _ in range(chance.choice([1, 1, 2, 5])):
                entry[chance.randrange(length)] ^= 1 << chance.randrange(8)
            return entry

        assert damaged(whole, tmp_path / "kv", flip, chance.choice([0, 1 << 22])) in ("damaged", "miss")


def test_cut_short_grown_and_zeroed(whole: Path, tmp_path: Path) -> None:
    length = whole.stat().st_size
    chance = random.Random(3)
    lengths = {0, 1, 7, 8, 100, slab.FIXED_BYTES - 1, slab.FIXED_BYTES, 4095, 4096, 4097, length - 4096, length - 1}
    for cut in sorted(lengths | {chance.randrange(length) for _ in range(20)}):
        assert damaged(whole, tmp_path / "kv", lambda entry, cut=cut: entry[:cut], 0) == "miss", cut  # type: ignore[misc]
        zeroed = damaged(whole, tmp_path / "kv", lambda entry, cut=cut: entry[:cut] + bytes(length - cut), 0)  # type: ignore[misc]
        nothing_lost = not any(whole.read_bytes()[cut:])
        assert zeroed in (("whole",) if nothing_lost else ("miss", "damaged")), f"zeros from {cut} on, as after a power cut"
    assert damaged(whole, tmp_path / "kv", lambda entry: entry + b"\0", 0) == "miss"
    assert damaged(whole, tmp_path / "kv", lambda entry: entry + entry, 0) == "miss"


def test_blocks_of_an_older_or_another_entry(whole: Path, tmp_path: Path) -> None:
    """A disk that lost some of the writes: each block is from this entry or from what was there before."""
    other = ChunkKV(KV.ids, KV.keys + 1, KV.values, KV.statistics)
    with KVStore(tmp_path / "other", 1 << 20, 1 << 22, rates=FAST) as store:
        store.put(key_of(other), other, 1.0)
    before = files(tmp_path / "other")[0].read_bytes()
    chance = random.Random(1)
    for _ in range(20):

        def mixed(entry: bytearray) -> bytearray:
            for start in range(0, len(entry), 4096):
                if chance.random() < 0.3:
                    entry[start : start + 4096] = before[start : start + 4096]
            return entry

        try:
            assert damaged(whole, tmp_path / "kv", mixed, 0) in ("miss", "damaged", "whole")
        except AssertionError:
            assert False, "blocks of two entries made one answer"


def test_damage_while_the_store_is_open(whole: Path, tmp_path: Path) -> None:
    target = tmp_path / whole.name
    for spoil in ("flip", "cut", "zero", "gone"):
        target.write_bytes(whole.read_bytes())
        store = KVStore(tmp_path, 0, 1 << 22, rates=FAST)
        held = taken(store, key_of(KV))
        first = held.layer(0)
        if spoil == "flip":
            with target.open("r+b") as file:
                file.seek(slab.FIXED_BYTES + 4096 * 9)
                file.write(b"\xff" * 32)
        elif spoil == "gone":
            target.unlink()
        else:
            os.truncate(target, 4096)  # in place: a mapped file would kill the process here
            if spoil == "zero":
                os.truncate(target, whole.stat().st_size)
        assert (first.keys == KV.keys[0]).all(), "what was read stays"
        if spoil == "gone":
            assert same(held, KV)
        else:
            with pytest.raises(DamagedKV):
                same(held, KV)
        held.close()
        assert ask(store) == "miss"
        assert not target.exists()


def test_a_damaged_entry_is_replaced_by_the_next_put(whole: Path, tmp_path: Path) -> None:
    content = bytearray(whole.read_bytes())
    content[-5000] ^= 4
    (tmp_path / whole.name).write_bytes(content)
    with KVStore(tmp_path, 1 << 22, 1 << 22, rates=FAST) as store:
        assert ask(store) == "damaged"
        assert store.put(key_of(KV), KV, 1.0)
        assert ask(store) == "whole"
    assert answer(tmp_path, 0) == "whole"


def test_damage_does_not_delete_what_another_process_wrote_in_its_place(whole: Path, tmp_path: Path) -> None:
    content = bytearray(whole.read_bytes())
    content[-5000] ^= 4
    target = tmp_path / whole.name
    target.write_bytes(content)
    store = KVStore(tmp_path, 0, 1 << 22, rates=FAST)
    held = taken(store, key_of(KV))
    (tmp_path / "new").write_bytes(whole.read_bytes())
    (tmp_path / "new").rename(target)
    with pytest.raises(DamagedKV):
        same(held, KV)
    held.close()
    assert ask(store) == "whole"


def test_strangers_and_other_versions_are_left_alone(whole: Path, tmp_path: Path) -> None:
    content = bytearray(whole.read_bytes())
    content[8:12] = struct.pack("<I", 7)
    older = tmp_path / ("ab" * 32 + "-plain.kv")
    older.write_bytes(content)
    strangers = [tmp_path / name for name in ("notes.txt", "x.kv", "y.part", ".hidden", "ab" * 32 + ".kv")]
    for path in strangers:
        path.write_bytes(b"mine")
    (tmp_path / "folder.kv").mkdir()
    (tmp_path / ("cd" * 32 + "-plain.kv")).symlink_to(strangers[0])
    os.mkfifo(tmp_path / ("ef" * 32 + "-plain.kv"))
    store = KVStore(tmp_path, 0, 1 << 20, rates=FAST)
    assert store.stats().foreign == 1 + len(strangers) + 3
    assert store.stats().entries == 0 and store.stats().damaged == 0
    small = chunk()
    assert store.put(key_of(small), small, 1.0) and same(taken(store, key_of(small)), small)
    store.clear()
    assert older.exists() and all(path.read_bytes() == b"mine" for path in strangers)


@pytest.mark.parametrize("planted", ["symlink", "fifo", "folder", "unreadable"])
def test_what_is_no_file_under_the_name_of_an_entry(whole: Path, tmp_path: Path, planted: str) -> None:
    folder = tmp_path / "kv"
    store = KVStore(folder, 0, 1 << 22, rates=FAST)
    target = folder / whole.name
    match planted:
        case "symlink":
            target.symlink_to(whole)
        case "fifo":
            os.mkfifo(target)
        case "folder":
            target.mkdir()
        case _:
            if os.geteuid() == 0:
                pytest.skip("root reads everything")
            target.write_bytes(whole.read_bytes())
            target.chmod(0)
    assert ask(store) == "miss"
    assert whole.exists()


@pytest.mark.parametrize("kind", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_to_read(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    real = os.preadv
    for failing in range(LAYERS + 1):
        (tmp_path / whole.name).write_bytes(whole.read_bytes())
        calls = iter(range(100))

        def preadv(*given: Any, failing: int = failing, calls: Any = calls) -> int:
            if next(calls) == failing:
                raise OSError(kind, os.strerror(kind))
            return real(*given)

        monkeypatch.setattr(os, "preadv", preadv)
        assert answer(tmp_path, 0) == "damaged"
        monkeypatch.undo()


def test_a_disk_that_reads_a_little_at_a_time(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / whole.name).write_bytes(whole.read_bytes())
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: real(file, [buffers[0][:1000]], offset))
    assert answer(tmp_path, 0) == "whole"


def forged(whole: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    """An entry whose head says something else under checksums that are right."""
    entry = whole.read_bytes()
    head = read_head(entry)
    fields = {name: getattr(head, name) for name in head.__dataclass_fields__}
    change(fields)
    made = slab.Head(**fields)
    return slab._packed(made) + entry[head.head_bytes :]


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.update(geometry=head["geometry"]._replace(num_heads=1 << 30)),
        lambda head: head.update(geometry=head["geometry"]._replace(key_dim=999_999)),
        lambda head: head.update(geometry=head["geometry"]._replace(num_layers=1)),
        lambda head: head.update(geometry=slab.Geometry()),
        lambda head: head.update(seconds=float("nan")),
        lambda head: head.update(seconds=1e300),
        lambda head: head.update(kind="int4"),
        lambda head: head.update(places=(head["places"][0]._replace(offset=0), *head["places"][1:])),
        lambda head: head.update(places=(head["places"][0]._replace(num_bytes=1 << 40), *head["places"][1:])),
        lambda head: head.update(num_bytes=1 << 50),
        lambda head: head.update(meta={"statistics": [["a", 1 << 40, "float32", [3]]]}),
        lambda head: head.update(meta={"statistics": [["a", 0, "load", [3]]]}),
        lambda head: head.update(meta={"statistics": 5}),
    ],
)
def test_a_head_that_lies(whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    try:
        content = forged(whole, change)
    except struct.error:  # it cannot even be written
        return
    (tmp_path / whole.name).write_bytes(content)
    assert answer(tmp_path, 0) in ("miss", "damaged")


def test_the_checksum_sees_every_single_bit() -> None:
    content = bytearray(random.Random(2).randbytes(300))
    seen = {checksum(bytes(content))}
    for position in range(len(content) * 8):
        content[position // 8] ^= 1 << position % 8
        seen.add(checksum(bytes(content)))
        content[position // 8] ^= 1 << position % 8
    assert len(seen) == 300 * 8 + 1
