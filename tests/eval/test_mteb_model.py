"""The pipeline as an MTEB model: the shape of the protocol without MTEB, and MTEB's own evaluation where it is installed."""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.core import Hit, rescored
from rag.errors import MissingExtra
from rag.eval.metrics import per_query
from rag.eval.mteb_model import MtebPipeline, falling
from tests.conftest import LIGHT
from tests.fakes import ParagraphChunker, WordIndex

CORPUS = [
    {
        "id": "d1",
        "title": "Tower",
        "text": "Tower The tower is 330 m tall.",
        "body": "The tower is 330 m tall.\n\nA tower in Paris.",
    },
    {"id": "d2", "title": "", "text": "Ducks swim on the pond.\n\nDucks eat weed."},
    {"id": "d3", "text": "Swans swim on the pond near the tower."},
    {"id": "d4", "title": "", "text": ""},
]
QUERIES = [
    {"id": "q1", "text": "tower tall"},
    {"id": "q2", "text": "ducks swim", "instruction": "find ducks"},
    {"id": "q3", "text": " "},
]
CALL: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "encode_kwargs": {}, "num_proc": None}


class Backwards:
    """A reranker that turns two hits round and drops the rest."""

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        return rescored("backwards", [(hit, float(place)) for place, hit in enumerate(hits[:2])])


def pipeline(**components: Any) -> MtebPipeline:
    config = {**LIGHT, "rerankers": [{"use": "pointwise"}] if "rerankers[0]" in components else []}
    return MtebPipeline(
        config, components={"indexes.words": WordIndex(), "chunker": ParagraphChunker(), **components}, batch_size=2
    )


def test_documents_by_their_best_chunk_with_falling_scores() -> None:
    model = pipeline()
    model.index(CORPUS, **CALL)
    found = model.search(QUERIES, top_k=10, **CALL)
    assert {query: list(scores) for query, scores in found.items()} == {"q1": ["d1", "d3"], "q2": ["d2", "d3"], "q3": []}
    assert all(a > b for scores in found.values() for a, b in itertools.pairwise(scores.values()))
    assert list(model.search(QUERIES[:1], top_k=1, **CALL)["q1"]) == ["d1"]


def test_what_was_not_reranked_follows() -> None:
    model = pipeline(**{"rerankers[0]": Backwards()})
    model.index(CORPUS, **CALL)
    plain = pipeline()
    plain.index(CORPUS, **CALL)
    before = plain.search([{"id": "q", "text": "swim pond"}], top_k=10, **CALL)["q"]
    after = model.search([{"id": "q", "text": "swim pond"}], top_k=10, **CALL)["q"]
    assert list(before) == list(after)[::-1] and len(after) == 2


def test_a_reranking_task_gets_its_documents_and_no_others() -> None:
    model = pipeline()
    model.index(CORPUS, **CALL)
    found = model.search(QUERIES[:1], top_k=10, top_ranked={"q1": ["d2", "d3", "d4"]}, **CALL)["q1"]
    assert list(found) == ["d3", "d2", "d4"]


def test_a_new_corpus_replaces_the_old_one_and_its_files() -> None:
    model = pipeline()
    model.index(CORPUS, **CALL)
    first = Path(model._rag.folder) if model._rag else Path()
    model.index([{"id": "only", "text": "tower"}], **CALL)
    assert not first.exists() and list(model.search(QUERIES[:1], top_k=5, **CALL)["q1"]) == ["only"]
    second = Path(model._rag.folder) if model._rag else Path()
    model.close()
    assert not second.exists()
    with pytest.raises(ValueError, match="index a corpus"):
        model.search(QUERIES, top_k=5, **CALL)


def test_no_searchable_document_is_no_error() -> None:
    model = pipeline()
    model.index([{"id": "d", "text": ""}], **CALL)
    assert model.search(QUERIES[:1], top_k=5, **CALL) == {"q1": {}}


def test_conversations_are_read_as_lines() -> None:
    model = pipeline()
    model.index(CORPUS, **CALL)
    turns = [{"role": "user", "content": "ducks"}, {"role": "user", "content": "swim?"}]
    assert list(model.search([{"id": "q", "text": turns}], top_k=1, **CALL)["q"]) == ["d2"]


def test_scores_fall_as_32_bit_floats_too() -> None:
    scores = list(falling([("a", 1.0), ("b", 1.0), ("c", 1.0 - 1e-12), ("d", 0.5), ("e", -2.0)]).values())
    narrow = [float(np.float32(score)) for score in scores]
    assert narrow == scores and all(a > b for a, b in itertools.pairwise(scores)) and all(map(math.isfinite, scores))
    assert scores[3:] == [0.5, -2.0]


def test_the_protocol_has_this_shape() -> None:
    for name, wanted in (("index", {"corpus"}), ("search", {"queries", "top_k", "top_ranked"})):
        parameters = inspect.signature(getattr(MtebPipeline, name)).parameters
        assert wanted <= parameters.keys() and any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    assert isinstance(inspect.getattr_static(MtebPipeline, "mteb_model_meta"), property)
    assert not any(hasattr(MtebPipeline, name) for name in ("encode", "predict"))  # or MTEB would take it for an encoder


def test_mteb_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", None)
    with pytest.raises(MissingExtra, match="mteb"):
        _ = MtebPipeline().mteb_model_meta
    with pytest.raises(ValueError, match="batch_size=0"):
        MtebPipeline(batch_size=0)


def test_mteb_itself_evaluates_it() -> None:
    mteb: Any = pytest.importorskip("mteb")
    datasets: Any = pytest.importorskip("datasets")
    mocks: Any = pytest.importorskip("mteb.mocks.mock_tasks")
    models: Any = pytest.importorskip("mteb.models")
    model = pipeline()
    assert isinstance(model, models.SearchProtocol) and not isinstance(model, (models.EncoderProtocol, models.CrossEncoderProtocol))
    task = mocks.MockRetrievalTask()
    task.load_data()
    qrels = {"q1": {"d1": 1}, "q2": {"d3": 2, "d2": 1}}
    corpus = [{"id": each["id"], "title": each.get("title", ""), "text": each.get("body", each["text"])} for each in CORPUS]
    queries = [{"id": each["id"], "text": each["text"]} for each in QUERIES[:2]]
    task.dataset["default"]["test"] |= {
        "corpus": datasets.Dataset.from_list(corpus), "queries": datasets.Dataset.from_list(queries), "relevant_docs": qrels,
    }  # fmt: skip
    (result,) = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False).task_results
    (scores,) = result.scores["test"]
    values = per_query({"q1": ["d1", "d3"], "q2": ["d2", "d3"]}, qrels)["nDCG@10"].values()
    assert scores["ndcg_at_10"] == pytest.approx(sum(values) / 2, abs=1e-5) and scores["ndcg_at_10"] < 1.0
    assert model.mteb_model_meta.name == "ragstone/pipeline"
