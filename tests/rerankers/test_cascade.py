"""A list of rerankers as a cascade: each stage is handed as many hits as its block says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag import config
from rag.core import Hit, reordered
from rag.errors import ConfigError
from rag.pipeline import Rag
from tests.fakes import ParagraphChunker, QuotingGenerator, WordIndex, document

TEXT = "\n\n".join(f"Ducks number {number} swim." for number in range(12))


class Reversing:
    """Ranks what it is handed the other way round, and remembers how many that was."""

    def __init__(self) -> None:
        self.num_handed: list[int] = []

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        self.num_handed.append(len(hits))
        return reordered("reversed", [(hit, float(place)) for place, hit in enumerate(hits)])


def opened(folder: Path, rerankers: list[dict[str, Any]], **settings: Any) -> tuple[Rag, list[Reversing]]:
    stages = [Reversing() for _ in rerankers]
    parts = {"indexes.words": WordIndex(), "chunker": ParagraphChunker(), "generator": QuotingGenerator()}
    blocks = {"indexes": {"words": {"use": "bm25"}}, "chunker": {"use": "fixed"}, "rerankers": rerankers, **settings}
    components = {**parts, **{f"rerankers[{number}]": stage for number, stage in enumerate(stages)}}
    rag = Rag.open(folder, blocks, components=components)
    rag.ingest_documents([document("ducks.txt", TEXT)])
    return rag, stages


def test_each_stage_takes_its_depth(tmp_path: Path) -> None:
    rag, (first, second, third) = opened(
        tmp_path, [{"use": "maxsim", "depth": 9}, {"use": "pointwise"}, {"use": "pairwise", "depth": 3}], search={"rerank": 5}
    )
    stages = {event.stage: event.hits for event in rag.stages("ducks swim")}
    assert (first.num_handed, second.num_handed, third.num_handed) == ([9], [5], [3])
    assert [len(stages[name]) for name in ("rerank:maxsim", "rerank:pointwise", "rerank:pairwise")] == [9, 5, 3]
    assert [hit.chunk for hit in stages["rerank:maxsim"]] == [hit.chunk for hit in stages["words"][:9][::-1]]


def test_without_a_depth_all_take_what_search_says(tmp_path: Path) -> None:
    rag, stages = opened(tmp_path, [{"use": "pointwise"}, {"use": "pointwise"}], search={"rerank": 7})
    rag.search("ducks")
    assert [stage.num_handed for stage in stages] == [[7], [7]]


def test_depth_is_checked_written_and_described() -> None:
    with pytest.raises(ConfigError, match=r"rerankers.0.depth: Input should be greater than or equal to 1, not 0"):
        config.load({"rerankers": [{"use": "pointwise", "depth": 0}]})
    loaded = config.load({"rerankers": [{"use": "pointwise", "depth": 4, "batch_size": 2}]})
    assert loaded.rerankers[0].options == {"batch_size": 2}
    config.check(loaded)
    assert config.load(yaml.safe_load(config.dump(loaded))) == loaded
    schema = config.schema()
    for word in ("pointwise", "cross-encoder", "listwise"):
        assert schema["$defs"][f"reranker.{word}"]["properties"]["depth"]["anyOf"][0]["minimum"] == 1
    assert "depth" not in schema["$defs"]["selector.top"]["properties"]


@pytest.mark.parametrize("word", ["maxsim", "pointwise", "likelihood", "graded", "pairwise", "setwise", "listwise"])
def test_every_word_is_built_from_a_configuration(word: str) -> None:
    loaded = config.load({"models": {"lm": {"use": "transformers", "model": "none"}}, "rerankers": [{"use": word}]})
    built = config.Assembly(loaded).build("reranker", "rerankers[0]", loaded.rerankers[0])
    assert callable(built.rerank_with_report)


def test_an_option_that_is_none_is_named() -> None:
    loaded = config.load({"rerankers": [{"use": "setwise", "num_candidate": 3}]})
    with pytest.raises(ConfigError, match=r"rerankers.0. .setwise.: num_candidate: unknown key .did you mean 'num_candidates'"):
        config.check(loaded)
