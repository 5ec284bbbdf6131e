"""The stored documents as selectors see them, and selectors inside the whole chain."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from rag.core import PUBLIC, Document, Span
from rag.corpus import CatalogCorpus, anchors
from rag.errors import DamagedIndex
from rag.pipeline import Rag
from tests.fakes import ParagraphChunker, QuotingGenerator, WordIndex, document

TEXT = "The first part.\n\nThe iron tower.\n\nThe third part.\n\nThe last part."
SECRET = "A secret before.\n\nThe iron safe of the tower.\n\nA secret behind."


def opened(folder: Path, select: dict[str, object]) -> Rag:
    config = {"indexes": {"words": {"use": "bm25"}}, "models": {"tokenizer": {"use": "words"}}, "select": select}
    parts = {"chunker": ParagraphChunker(), "indexes.words": WordIndex(), "generator": QuotingGenerator()}
    rag = Rag.open(folder, config, components=parts)
    rag.ingest_documents([document("open", TEXT), document("closed", SECRET, principals=("user:ann",))])
    return rag


def selected(rag: Rag, query: str, *principals: str) -> list[str]:
    *_, last = rag.stages(query, principals=principals)
    assert last.stage == "select"
    return [hit.chunk.text for hit in last.hits]


def test_near_and_text(tmp_path: Path) -> None:
    rag = opened(tmp_path, {"use": "top"})
    corpus = CatalogCorpus(lambda: rag.catalog)
    doc_id, start = Document.id_of("open"), TEXT.index("The iron")
    stretch = corpus.near(doc_id, Span(start, start + 15), 1, 1)
    assert stretch.first == 0 and [chunk.text[:9] for chunk in stretch.chunks] == ["The first", "The iron ", "The third"]
    assert [chunk.text for chunk in corpus.near(doc_id, Span(start + 4, start + 8), 0, 0).chunks] == ["The iron tower."]
    both = corpus.near(doc_id, Span(start, len(TEXT)), 0, 0)
    assert both.first == 1 and len(both.chunks) == 3
    assert corpus.text(doc_id, Span(start, start + 8)) == "The iron"
    assert corpus.near("no such document", Span(0, 1), 1, 1) == (0, ())
    assert corpus.text("no such document", Span(0, 1)) == ""
    with pytest.raises(ValueError, match="before=-1"):
        corpus.near(doc_id, Span(0, 1), -1, 0)


def test_before_the_first_ingest_there_is_nothing(tmp_path: Path) -> None:
    rag = Rag.open(tmp_path / "none")
    corpus = CatalogCorpus(lambda: rag.catalog)
    assert corpus.near("d", Span(0, 1), 1, 1) == (0, ()) and corpus.text("d", Span(0, 1)) == ""


def test_anchors_of_what_lies_between_chunks() -> None:
    places = [Span(2, 5), Span(8, 9), Span(12, 20)]
    assert anchors(places, Span(0, 1)) == (0, 0)
    assert anchors(places, Span(6, 7)) == (0, 0)
    assert anchors(places, Span(8, 30)) == (1, 2)
    assert anchors(places, Span(13, 15)) == (2, 2)


@pytest.mark.parametrize("select", [{"use": "neighbours"}, {"use": "parents", "min_share": 0.25}])
def test_only_documents_that_were_found_for_the_asker_are_widened(tmp_path: Path, select: dict[str, object]) -> None:
    rag = opened(tmp_path, select)
    assert PUBLIC not in rag.documents()[0].principals or PUBLIC not in rag.documents()[1].principals
    for_all = selected(rag, "iron tower")
    assert len(for_all) == 1 and for_all[0] in TEXT and len(for_all[0]) > len("The iron tower.")
    for_ann = selected(rag, "iron tower", "user:ann")
    assert len(for_ann) == 2 and SECRET in for_ann
    answer = rag.ask("iron tower")
    assert [citation.quote for citation in answer.citations] == for_all


def test_pieces_and_joined_chunks_are_cited_exactly(tmp_path: Path) -> None:
    steps = [{"use": "neighbours"}, {"use": "compress", "max_tokens": 5}, {"use": "budget"}, {"use": "order", "by": "document"}]
    rag = opened(tmp_path, {"use": "steps", "selectors": steps})
    answer = rag.ask("iron tower")
    (citation,) = answer.citations
    assert TEXT[citation.start : citation.end] == citation.quote == "The iron tower."
    assert answer.usage.dropped_citations == 0
    assert set(answer.hits[0].why) == {"words", "neighbours", "compress", "budget", "order", "steps"}


def test_a_text_that_is_not_what_was_stored_is_named(tmp_path: Path) -> None:
    rag = opened(tmp_path, {"use": "neighbours"})
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        connection.execute("UPDATE texts SET text = replace(text, 'iron tower', 'lead tower')")
    with pytest.raises(DamagedIndex, match="the text of document"):
        selected(rag, "iron tower")
