"""What tells two entries apart, and what an entry knows of its key."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from rag.kvcache.key import POLICIES, BytesKey, KVKey, model_identity
from rag.kvcache.store import KVStore
from tests.kvcache.chunks import FAST, chunk, files, key_of, same, taken

IDENTITY = {
    "weights": "m@1",
    "dtype": "bfloat16",
    "rotation": {"rope_theta": 1e4, "factor": 8},
    "geometry": {"num_layers": 3, "num_kv_heads": 2},
}
BASE = KVKey(model_identity(**IDENTITY), "shared-prefix", (1, 2, 3), (9, 8), "tenant")  # type: ignore[arg-type]
SAME_DIGEST = property(lambda key: "ab" * 32)
SAME_PROOF = property(lambda key: b"p" * 32)


def neighbours() -> list[KVKey]:
    """Keys that differ from ``BASE`` in one thing each."""
    changed: list[KVKey] = []
    for name, value in (
        ("weights", "m@2"),
        ("dtype", "float16"),
        ("rotation", {"rope_theta": 1e4, "factor": 8.5}),
        ("rotation", {"rope_theta": 1e4}),
        ("geometry", {"num_layers": 3, "num_kv_heads": 1}),
    ):
        changed.append(dataclasses.replace(BASE, model=model_identity(**{**IDENTITY, name: value})))  # type: ignore[arg-type]
    changed += [
        dataclasses.replace(BASE, policy=policy, prefix_ids=BASE.prefix_ids if policy != "bare" else ()) for policy in POLICIES
    ]
    changed += [dataclasses.replace(BASE, ids=ids) for ids in ((1, 2), (1, 2, 4), (3, 2, 1), (1, 2, 3, 3), (12, 3))]
    changed += [dataclasses.replace(BASE, prefix_ids=ids) for ids in ((), (9,), (8, 9), (9, 8, 1), (98,))]
    changed += [dataclasses.replace(BASE, ids=(8, 1, 2, 3), prefix_ids=(9,))]  # the same tokens, cut elsewhere
    changed += [dataclasses.replace(BASE, salt=salt) for salt in ("", "tenant2", "tenant\0", "TENANT", "x" * 65, "x" * 66)]
    return [key for key in changed if key != BASE]


def test_every_field_changes_digest_and_proof() -> None:
    keys = [BASE, *neighbours()]
    assert len(keys) == 27
    for one, other in itertools.combinations(keys, 2):
        assert one.digest != other.digest and one.proof != other.proof, (one, other)


def test_a_change_of_any_field_is_a_miss(tmp_path: Path) -> None:
    kv = dataclasses.replace(chunk(3), ids=BASE.ids)
    for store in (KVStore(None, 1 << 20, rates=FAST), KVStore(tmp_path, 0, 1 << 20, rates=FAST)):
        assert store.put(BASE, kv, 1.0)
        assert [store.get(key) for key in neighbours()] == [None] * len(neighbours())
        assert not any(store.holds(neighbours()))
        assert same(taken(store, BASE), kv)


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_keys_of_one_digest_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(KVKey, "digest", SAME_DIGEST)
    kv = dataclasses.replace(chunk(3), ids=BASE.ids)
    store = KVStore(None, 1 << 20, rates=FAST) if place == "ram" else KVStore(tmp_path, 0, 1 << 20, rates=FAST)
    store.put(BASE, kv, 1.0)
    for key in neighbours():
        assert store.get(key) is None, key
    assert same(taken(store, BASE), kv)
    other = chunk(4, seed=1)
    assert store.put(key_of(other), other, 1.0), "the newer one takes the place"
    assert store.get(BASE) is None and same(taken(store, key_of(other)), other)


def test_ids_are_compared_even_if_both_hashes_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KVKey, "digest", SAME_DIGEST)
    monkeypatch.setattr(KVKey, "proof", SAME_PROOF)
    kv = chunk(4)
    for store in (KVStore(None, 1 << 20, rates=FAST), KVStore(tmp_path, 0, 1 << 20, rates=FAST)):
        store.put(key_of(kv), kv, 1.0)
        assert store.get(key_of(chunk(4, seed=1))) is None
        assert same(taken(store, key_of(kv)), kv)


def test_the_salt_is_nowhere_to_be_read(tmp_path: Path) -> None:
    kv, salt = chunk(), "a secret of 28 characters ok"
    with KVStore(tmp_path, 1 << 20, 1 << 20, rates=FAST) as store:
        store.put(key_of(kv, salt=salt), kv, 1.0)
        store.put_bytes(BytesKey("word", salt), b"x", 1.0)
    assert len(files(tmp_path)) == 2
    assert not any(salt.encode() in path.read_bytes() for path in files(tmp_path))
    assert salt not in repr(key_of(kv, salt=salt)) + repr(BytesKey("word", salt))


def test_the_digest_is_what_it_was() -> None:
    """Entries on disks out there are found by it: a change needs another FORMAT_VERSION."""
    assert KVKey("m", "bare", (1, 2, 3)).digest == "0bb67de99e7feca93b358e93a0e9a0c2657d87139a8c9f9193b5eda8bd917a14"


def test_bad_keys() -> None:
    with pytest.raises(ValueError, match="'chained'"):
        KVKey("m", "chained", (1,))
    with pytest.raises(ValueError, match="without tokens"):
        KVKey("m", "bare", ())
    with pytest.raises(ValueError, match="2 tokens"):
        KVKey("m", "bare", (1,), (2, 3))
    with pytest.raises(ValueError, match="Out of range"):
        model_identity("m", "float32", {"factor": float("nan")}, {})
