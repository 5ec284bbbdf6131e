"""UHD codes: what a token's terms are, that near vectors share them, and that the index finds by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.config import Assembly, load
from rag.core import Chunk, Span, TokenBlock
from rag.errors import ConfigError
from rag.retrievers.impact import ImpactIndex
from rag.retrievers.sparse_uhd import UhdEncoder
from tests.fakes import HashingEncoder


class WordVectors(HashingEncoder):
    """A random vector per word, each word a token; texts come in blocks of two tokens."""

    pooling = "mean"

    def token_vectors(
        self, texts: Sequence[str], overlap_tokens: int, task: Literal["query", "document"] = "document"
    ) -> Iterator[TokenBlock]:
        for row, text in enumerate(texts):
            words = text.split()
            for start in range(0, len(words), 2):
                some = words[start : start + 2]
                vectors = np.array([self.vector(word) for word in some], np.float32)
                yield TokenBlock(row, np.zeros((len(some), 2), np.int64), vectors)

    def vector(self, word: str) -> NDArray[np.float64]:
        seed = int(hashlib.md5(word.encode()).hexdigest()[:8], 16)
        return np.random.RandomState(seed).standard_normal(self.dim)


def test_winners_are_the_nearest_directions() -> None:
    encoder = UhdEncoder(WordVectors(16), num_buckets=3, width=8)
    vectors = np.random.RandomState(5).standard_normal((20, 16)).astype(np.float32)
    found = encoder.winners(vectors)
    assert found.shape == (20, 3) and found.dtype == np.int32
    directions = encoder._directions
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, rtol=1e-5)
    for vector, terms in zip(vectors, found.tolist(), strict=True):
        for bucket, term in enumerate(terms):
            near = [
                (sign * float(vector @ directions[:, bucket * 4 + d]), bucket * 8 + 2 * d + (sign < 0))
                for d in range(4)
                for sign in (1, -1)
            ]
            assert term == max(near)[1]


def test_near_vectors_share_more_terms_than_far_ones() -> None:
    encoder = UhdEncoder(WordVectors(64), num_buckets=64, width=64)
    random = np.random.RandomState(1)
    vector = random.standard_normal(64)
    shared = []
    for noise in (0.1, 0.5, 1.0, 4.0):
        moved = vector + noise * random.standard_normal(64)
        one, other = encoder.winners(np.array([vector, moved], np.float32))
        shared.append(int((one == other).sum()))
    assert shared == sorted(shared, reverse=True) and shared[0] > 40 and shared[-1] < 10
    one, other = encoder.winners(np.array([vector, -vector], np.float32))
    assert (one // 2 == other // 2).all() and (one != other).all()


def test_a_text_has_the_winners_of_all_its_tokens_once() -> None:
    encoder = UhdEncoder(WordVectors(32), num_buckets=5, width=16)
    found = encoder.encode_documents(["apple pear apple plum", "", "apple"])
    words = [np.array([WordVectors(32).vector(word)], np.float32) for word in ("apple", "pear", "plum")]
    wanted = np.unique(np.concatenate([encoder.winners(vector) for vector in words]))
    assert found.term_ids[: found.starts[1]].tolist() == wanted.tolist()
    assert np.diff(found.starts).tolist() == [len(wanted), 0, 5]
    np.testing.assert_allclose(found.weights, [len(wanted) ** -0.5] * len(wanted) + [5**-0.5] * 5, rtol=1e-6)
    asked = encoder.encode_queries(["apple pear apple plum"])
    assert asked.term_ids.tolist() == wanted.tolist() and (asked.weights == 1).all()
    assert (found.term_ids < encoder.num_terms).all()


def test_the_index_finds_by_codes() -> None:
    index = ImpactIndex(UhdEncoder(WordVectors(32), num_buckets=8, width=64))
    words = ["apple", "river", "engine", "contract", "valve"]
    chunks = [Chunk(str(n), "d", Span(0, 1), f"{word} alone") for n, word in enumerate(words)]
    reader = index.reader([index.build(np.arange(5), chunks)], np.ones(5, np.bool_))
    assert [int(found.keys[0]) for found in reader.search(words, 2)] == [0, 1, 2, 3, 4]


def test_a_configuration_builds_it_around_its_encoder() -> None:
    blocks = {
        "models": {"sparse_encoder": {"use": "uhd", "width": 64}},
        "indexes": {"learned": {"use": "impact", "store": "float32"}},
    }
    loaded = load(blocks)
    index = Assembly(loaded, {"encoder": WordVectors(32)}).build("index", "indexes.learned", loaded.indexes["learned"])
    assert isinstance(index, ImpactIndex) and index.store == "float32"
    assert isinstance(index.sparse_encoder, UhdEncoder) and index.sparse_encoder.width == 64
    bare = load({"indexes": blocks["indexes"]})
    with pytest.raises(ConfigError, match=r"indexes.learned \(impact\) needs a model: add `models: \{sparse_encoder"):
        Assembly(bare).build("index", "indexes.learned", bare.indexes["learned"])


def test_the_fingerprint_follows_the_options() -> None:
    own = UhdEncoder(WordVectors(16)).fingerprint
    assert own == UhdEncoder(WordVectors(16)).fingerprint
    others = [UhdEncoder(WordVectors(16), **{name: 8}).fingerprint for name in ("num_buckets", "width", "overlap_tokens")]
    assert len({own, UhdEncoder(WordVectors(8)).fingerprint, *others}) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_buckets": 0}, "num_buckets must be at least 1, not 0"),
        ({"width": 7}, "width must be an even number of at least 2, not 7"),
        ({"width": 0}, "width must be an even number"),
        ({"num_buckets": 1 << 20, "width": 1 << 20}, "must be below"),
        ({"overlap_tokens": -1}, "overlap_tokens must be at least 0, not -1"),
        ({"encoder": HashingEncoder()}, "HashingEncoder has none"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UhdEncoder(**{"encoder": WordVectors(16), **options})
