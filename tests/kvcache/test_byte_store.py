from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.stores import BaseStore
from langchain_tests.integration_tests import BaseStoreAsyncTests, BaseStoreSyncTests

from rag.kvcache.byte_store import KVByteStore
from rag.kvcache.store import KVStore
from tests.kvcache.chunks import FAST, chunk, files, key_of, same, taken

THREE = (b"foo", b"", b"\x00\xff" * 5000)


class TestSyncInMemory(BaseStoreSyncTests[bytes]):
    @pytest.fixture()
    def kv_store(self) -> BaseStore[str, bytes]:
        return KVByteStore(KVStore(None, 1 << 20))

    @pytest.fixture()
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return THREE


class TestSyncOnDisk(TestSyncInMemory):
    @pytest.fixture()
    def kv_store(self, tmp_path: Path) -> BaseStore[str, bytes]:
        return KVByteStore(KVStore(tmp_path, 0, 1 << 20))


class TestAsync(BaseStoreAsyncTests[bytes]):
    @pytest.fixture()
    async def kv_store(self, tmp_path: Path) -> BaseStore[str, bytes]:
        return KVByteStore(KVStore(tmp_path, 1 << 20, 1 << 20))

    @pytest.fixture()
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return THREE


def test_bytes_and_chunks_share_a_folder_and_a_budget(tmp_path: Path) -> None:
    kv = chunk()
    with KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST) as store:
        bytes_of = KVByteStore(store)
        bytes_of.mset([("a/1", b"one"), ("a/2", b"two"), ("b", b"three")])
        store.put(key_of(kv), kv, 1.0)
        store.flush()
        assert len(files(tmp_path)) == 4 and store.stats().entries == 4 and store.stats().tokens == kv.num_tokens
    again = KVByteStore(KVStore(tmp_path, 0, 1 << 20, rates=FAST))
    assert list(again.yield_keys(prefix="a/")) == ["a/1", "a/2"]
    assert again.mget(["a/2", "b", "c"]) == [b"two", b"three", None]
    assert same(taken(again.store, key_of(kv)), kv)
    again.mset([(str(number), bytes(60_000)) for number in range(40)])
    stats = again.store.stats()
    assert stats.bytes_by_tier["disk"] <= 1 << 20 and stats.evictions_by_tier["disk"] > 20


def test_tenants_see_their_own(tmp_path: Path) -> None:
    store = KVStore(tmp_path, 1 << 20, 1 << 20)
    one, other = KVByteStore(store, salt="one"), KVByteStore(store, salt="other")
    one.mset([("word", b"1")])
    assert other.mget(["word"]) == [None] and list(other.yield_keys()) == []
    other.mset([("word", b"2")])
    assert list(one.yield_keys()) == list(other.yield_keys()) == ["word"]
    other.mdelete(["word"])
    assert one.mget(["word"]) == [b"1"] and list(one.yield_keys()) == ["word"]


def test_a_replaced_value_never_comes_back(tmp_path: Path) -> None:
    for number in range(30):
        with KVStore(tmp_path, 1 << 16, 1 << 20) as store:
            bytes_of = KVByteStore(store)
            assert bytes_of.mget(["k"]) == [str(number - 1).encode() if number else None]
            bytes_of.mset([("k", b"passing")])
            bytes_of.mset([("k", str(number).encode())])
            assert bytes_of.mget(["k"]) == [str(number).encode()]
    with KVStore(tmp_path, 1 << 16, 1 << 20) as store:
        bytes_of = KVByteStore(store)
        bytes_of.mset([("gone", b"x")])
        bytes_of.mdelete(["gone", "k"])
    assert KVByteStore(KVStore(tmp_path, 0, 1 << 20)).mget(["k", "gone"]) == [None, None] and files(tmp_path) == []


def test_a_damaged_value_is_no_value(tmp_path: Path) -> None:
    with KVStore(tmp_path, 0, 1 << 20) as store:
        KVByteStore(store).mset([("k", b"value")])
        path = files(tmp_path)[0]
        content = bytearray(path.read_bytes())
        content[4098] ^= 1
        path.write_bytes(content)
        assert KVByteStore(store).mget(["k"]) == [None] and files(tmp_path) == []
