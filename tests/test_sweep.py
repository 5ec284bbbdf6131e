"""What `sweep:` in a configuration stands for, and what is said of one that is wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag import config
from rag.errors import ConfigError
from rag.sweep import expand, read

LIGHT: dict[str, Any] = {
    "models": {"tokenizer": {"use": "words"}},
    "chunker": {"use": "fixed"},
    "indexes": {"words": {"use": "bm25"}},
}


def test_every_combination_is_named_and_complete() -> None:
    swept = {**LIGHT, "sweep": {"chunker.max_tokens": [128, 256], "select": [{"use": "top", "k": 3}, {"use": "top", "k": 6}]}}
    named = expand(swept)
    assert [name for name, _ in named] == [
        "select=top(k=3) max_tokens=128", "select=top(k=3) max_tokens=256", "select=top(k=6) max_tokens=128", "select=top(k=6) max_tokens=256",
    ]  # fmt: skip
    assert named[1].raw == {**LIGHT, "chunker": {"use": "fixed", "max_tokens": 256}, "select": {"use": "top", "k": 3}}
    assert "max_tokens" not in swept["chunker"]  # what was given is as it was


def test_what_is_not_given_comes_from_the_defaults() -> None:
    (first, second) = expand({"sweep": {"chunker.max_tokens": [128, 256]}})
    assert first.raw == {"chunker": {"use": "structure", "max_tokens": 128}}
    assert expand({"sweep": {"search.candidates": [20]}})[0].raw["search"] == {"candidates": 20, "rerank": 30}
    dense = expand({"sweep": {"indexes.dense.pooling": ["late", "none"]}}, check=False)[0].raw["indexes"]
    assert dense == {"dense": {"use": "faiss", "pooling": "late"}, "sparse": {"use": "bm25"}}
    assert second.name == "max_tokens=256"


def test_an_axis_may_choose_a_block_and_another_one_an_option_in_it() -> None:
    swept = {**LIGHT, "sweep": {"chunker.max_tokens": [64, 128], "chunker": [{"use": "fixed"}, {"use": "recursive"}]}}
    assert [raw["chunker"] for _, raw in expand(swept)] == [
        {"use": word, "max_tokens": size} for word in ("fixed", "recursive") for size in (64, 128)
    ]
    listed = {**LIGHT, "rerankers": [{"use": "cross-encoder", "model": "m"}], "sweep": {"rerankers.0.model": ["a", "b"]}}
    assert [raw["rerankers"][0]["model"] for _, raw in expand(listed, check=False)] == ["a", "b"]


def test_names_tell_axes_with_the_same_last_word_apart() -> None:
    swept = {**LIGHT, "sweep": {"search.rerank": [5], "search.candidates": [9], "indexes.words.k1": [0.9, 1.2], "serve.max_k": [1]}}
    assert expand(swept, check=False)[0].name == "rerank=5 candidates=9 max_k=1 k1=0.9"
    alike = {**LIGHT, "sweep": {"chunker.max_tokens": [1, 2], "generator.max_tokens": [7]}}
    assert expand(alike, check=False)[0].name == "chunker.max_tokens=1 generator.max_tokens=7"


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (None, "sweep: must map dotted keys to lists of values, not None"),
        ({}, "sweep: must map dotted keys to lists of values"),
        ({"chunker.max_tokens": 128}, "sweep.chunker.max_tokens: must be a list of values to try, not 128"),
        ({"chunker.max_tokens": []}, "sweep.chunker.max_tokens: the list is empty"),
        ({"chunker.max_tokens": [1, 2, 1]}, "sweep.chunker.max_tokens: 1 stands in the list twice"),
        ({"chunkr.max_tokens": [1]}, "sweep.chunkr.max_tokens: unknown key 'chunkr' (did you mean 'chunker'?); allowed: models, chunker"),
        ({"chunker.max_token": [64]}, "the configuration 'max_token=64': chunker (fixed): max_token: unknown key (did you mean 'max_tokens'?)"),
        ({"indexes.dense.k1": [1]}, "sweep.indexes.dense.k1: there is no 'indexes.dense' in the configuration; there are: words"),
        ({"rerankers.0.k": [1]}, "sweep.rerankers.0.k: 'rerankers.0' names no item of a list of 0"),
        ({"chunker.use.x": [1]}, "sweep.chunker.use.x: 'chunker.use' is 'fixed', which holds no key 'x'"),
        ({"search.candidates": [0]}, "the configuration 'candidates=0': search.candidates: Input should be greater than or equal to 1"),
        (
            {"chunker.max_tokens": [9], "chunker": [{"use": "fixed", "max_tokens": 7}, {"use": "fixed", "max_tokens": 8}]},
            "are the same configuration: one axis overwrites what another one sets",
        ),
        ({"search.candidates": list(range(1, 200)), "search.rerank": list(range(1, 200))}, "199 (search.rerank) = 39,601 configurations"),
    ],
)  # fmt: skip
def test_a_wrong_sweep_names_axis_value_and_what_is_allowed(sweep: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand({**LIGHT, "sweep": sweep})
    assert message in str(caught.value)


def test_without_a_sweep_there_is_nothing_to_expand() -> None:
    with pytest.raises(ConfigError, match=r"sweep: is missing; for example sweep: \{chunker.max_tokens: \[128, 256\]\}"):
        expand(LIGHT)


def test_an_axis_that_stands_in_the_file_twice_is_no_silent_loss(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("sweep:\n  search.rerank: [1]\n  search.rerank: [2]\n")
    with pytest.raises(ConfigError, match=r"sweep.search.rerank: the axis stands there twice"):
        read(tmp_path / "twice.yaml")
    (tmp_path / "once.yaml").write_text("sweep:\n  search.rerank: [1, 2]\n")
    assert len(expand(read(tmp_path / "once.yaml"))) == 2


def test_a_configuration_with_a_sweep_is_a_configuration(tmp_path: Path) -> None:
    swept = {**LIGHT, "sweep": {"chunker.max_tokens": [128]}}
    assert config.load(swept) == config.load(LIGHT) and "sweep" in swept
    with pytest.raises(ConfigError, match="sweep: must map dotted keys"):
        config.load({**LIGHT, "sweep": [1]})
    assert config.schema()["properties"]["sweep"]["type"] == "object"


KEYS = ("search.candidates", "search.rerank", "read.max_pages", "serve.max_k")


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any))
def test_a_sweep_is_the_product_of_its_axes(sizes: list[int]) -> None:
    axes = {key: list(range(1, size + 1)) for key, size in zip(KEYS, sizes, strict=True) if size}
    named = expand({**LIGHT, "sweep": axes}, check=False)
    assert len(named) == len({name for name, _ in named}) == math.prod(map(len, axes.values()))
    for key, values in axes.items():
        block, option = key.split(".")
        assert {raw[block][option] for _, raw in named} == set(values)
