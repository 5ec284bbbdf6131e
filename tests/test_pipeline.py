from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from rag.core import Chunk, Citation, CitationEvent, Document, TextEvent, Usage, UsageEvent
from rag.errors import ConfigError, IndexLocked, IndexMismatch, IndexNotFound
from rag.pipeline import Rag
from rag.storage import writer_lock
from tests.fakes import ParagraphChunker, QuotingGenerator, WordIndex, document

DUCKS = document("ducks.txt", "Ducks swim on ponds.\n\nDucks eat weed.", meta={"topic": "birds", "year": 2020})
CATS = document("cats.txt", "Cats sleep.\n\nCats eat fish.", meta={"topic": "mammals", "year": 2022})

Open = Callable[..., Rag]


def texts(rag: Rag, query: str, **options: object) -> list[str]:
    return [hit.chunk.text for hit in rag.search(query, **options)]  # type: ignore[arg-type]


def test_ask_answers_with_a_checked_citation(open_light: Open) -> None:
    rag = open_light()
    rag.ingest_documents([DUCKS, CATS])
    answer = rag.ask("What do cats eat? fish")
    (citation,) = answer.citations
    assert answer.text == "Cats eat fish. [1]"
    assert CATS.text[citation.start : citation.end] == citation.quote == "Cats eat fish."
    assert citation.source == "cats.txt"
    assert set(answer.seconds) == {"words", "select", "generate"}


def test_a_citation_that_is_not_in_the_document_is_dropped_and_counted(open_light: Open) -> None:
    class Liar(QuotingGenerator):
        def generate(self, query, hits):  # type: ignore[no-untyped-def]
            chunk = hits[0].chunk
            yield TextEvent("Cats fly. [1]")
            yield CitationEvent(Citation(1, chunk.doc_id, "", chunk.id, chunk.span.start, chunk.span.end, "Cats fly."))
            yield CitationEvent(Citation(2, "no such document", "", chunk.id, 0, 4, "Cats"))
            yield UsageEvent(Usage())

    rag = open_light(generator=Liar())
    rag.ingest_documents([CATS])
    answer = rag.ask("cats")
    assert answer.citations == ()
    assert answer.usage.dropped_citations == 2


def test_ingesting_again_builds_nothing(open_light: Open) -> None:
    index, generator = WordIndex(), QuotingGenerator()
    rag = open_light(**{"indexes.words": index, "generator": generator})
    assert rag.ingest_documents([DUCKS, CATS]).num_chunks_added == 4
    report = rag.ingest_documents([DUCKS, CATS])
    assert (report.num_chunks_added, report.unchanged) == (0, ("ducks.txt", "cats.txt"))
    assert (index.num_built, generator.num_prepared) == (4, 4)


def test_documents_are_cut_together_in_bounded_batches(open_light: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[str]] = []

    class Together(ParagraphChunker):
        def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
            batches.append([each.source for each in documents])
            return [self.chunk(each) for each in documents]

    monkeypatch.setattr("rag.ingest.CUT_DOCUMENTS", 3)
    monkeypatch.setattr("rag.ingest.CUT_CHARS", 100)
    rag = open_light(chunker=Together())
    short = [document(f"{number}.txt", "Ducks swim.") for number in range(4)]
    report = rag.ingest_documents([*short, document("long.txt", "Cats sleep. " * 9), CATS])
    assert batches == [["0.txt", "1.txt", "2.txt"], ["3.txt", "long.txt"], ["cats.txt"]]
    assert report.num_chunks_added == 4 + 1 + 2
    assert texts(rag, "eat fish") == ["Cats eat fish."]


def test_an_edit_encodes_only_the_changed_chunk(open_light: Open) -> None:
    index = WordIndex()
    rag = open_light(**{"indexes.words": index})
    rag.ingest_documents([DUCKS])
    report = rag.ingest_documents([document("ducks.txt", "Ducks fly far.\n\nDucks eat weed.")])
    assert (report.changed, report.num_chunks_added, report.num_chunks_deleted, index.num_built) == (("ducks.txt",), 1, 1, 3)
    assert texts(rag, "swim") == []
    assert texts(rag, "fly") == ["Ducks fly far."]
    (hit,) = rag.search("weed")
    assert hit.chunk.span.of("Ducks fly far.\n\nDucks eat weed.") == "Ducks eat weed."


def test_deleting_one_of_two_equal_documents_leaves_the_other(open_light: Open) -> None:
    rag = open_light()
    rag.ingest_documents([document("a", DUCKS.text), document("b", DUCKS.text)])
    assert rag.delete("a") == 1
    assert {hit.chunk.doc_id for hit in rag.search("ducks")} == {document("b", "").id}
    assert len(rag.search("ducks")) == 2


def test_deleting_what_is_not_there_names_it_and_deletes_nothing(open_light: Open) -> None:
    rag = open_light()
    rag.ingest_documents([DUCKS])
    with pytest.raises(ValueError, match="'dogs.txt'"):
        rag.delete(["ducks.txt", "dogs.txt"])
    assert texts(rag, "swim")
    assert rag.delete(["ducks.txt", "dogs.txt"], missing_ok=True) == 1


def test_filters_apply_before_the_top_k(open_light: Open) -> None:
    rag = open_light()
    rag.ingest_documents([DUCKS, CATS])
    assert texts(rag, "eat", k=1, where="year >= 2021") == ["Cats eat fish."]
    assert texts(rag, "eat", k=1, where={"eq": ["topic", "birds"]}) == ["Ducks eat weed."]
    assert texts(rag, "eat", where="source = 'cats.txt' and not exists nothing") == ["Cats eat fish."]
    with pytest.raises(ConfigError, match="filter"):
        rag.search("eat", where="year >=")


def test_documents_are_found_only_by_their_readers(open_light: Open) -> None:
    rag = open_light()
    secret = document("secret", "Ducks own gold.", principals=("user:ann", "group:duckery"))
    nobodys = document("nobody", "Ducks own silver.", principals=())
    rag.ingest_documents([DUCKS, secret, nobodys])
    assert texts(rag, "own") == []
    assert texts(rag, "own", principals=["user:bob"]) == []
    assert texts(rag, "own", principals=["user:ann"]) == ["Ducks own gold."]
    assert texts(rag, "own", principals=["group:duckery"]) == ["Ducks own gold."]
    assert rag.ask("own").abstained


def test_taking_a_reader_away_hides_the_document_at_once(open_light: Open) -> None:
    rag = open_light()
    rag.ingest_documents([document("a", "Ducks own gold.")])
    assert texts(rag, "gold")
    report = rag.ingest_documents([document("a", "Ducks own gold.", principals=("user:ann",))])
    assert (report.changed, report.num_chunks_added) == (("a",), 0)
    assert texts(rag, "gold") == []


def test_a_second_process_sees_commits_and_keeps_its_own_view_meanwhile(open_light: Open) -> None:
    writer, reader = open_light(), open_light()
    writer.ingest_documents([DUCKS])
    assert texts(reader, "swim") == ["Ducks swim on ponds."]
    writer.ingest_documents([CATS])
    writer.compact()
    assert texts(reader, "sleep") == ["Cats sleep."]
    writer.delete("cats.txt")
    assert texts(reader, "sleep") == []


def test_many_small_commits_are_merged_and_compaction_leaves_one_segment(open_light: Open) -> None:
    rag = open_light()
    for number in range(20):
        rag.ingest_documents([document(f"d{number}", f"Ducks number {number}.")])
    assert rag.stats()["indexes"]["words"]["segments"] < 10
    assert len(rag.search("ducks", k=50)) == 20
    rag.delete([f"d{number}" for number in range(0, 20, 2)])
    assert rag.compact()["indexes"]["words"] == {**rag.stats()["indexes"]["words"], "segments": 1, "chunks_on_disk": 10}
    assert len(rag.search("ducks", k=50)) == 10
    assert len(list((rag.folder / "segments").iterdir())) == 1


def test_compaction_of_an_emptied_index(open_light: Open) -> None:
    rag = open_light()
    rag.ingest_documents([DUCKS])
    rag.delete("ducks.txt")
    assert rag.compact()["chunks"] == 0
    assert texts(rag, "ducks") == []


def test_deleted_text_is_physically_gone_after_compaction(open_light: Open) -> None:
    rag = open_light()
    rag.ingest_documents([document("s", "The password is kumquat."), CATS])
    rag.delete("s")
    rag.compact()
    rag.close()
    for path in rag.folder.rglob("*"):
        assert not path.is_file() or b"kumquat" not in path.read_bytes(), path


def test_one_writer_at_a_time(open_light: Open) -> None:
    rag = open_light()
    rag.ingest_documents([DUCKS])
    with writer_lock(rag.folder), pytest.raises(IndexLocked, match="process"):
        rag.ingest_documents([CATS])
    rag.ingest_documents([CATS])


def test_searching_before_the_first_ingest_says_so(open_light: Open) -> None:
    with pytest.raises(IndexNotFound, match="rag ingest"):
        open_light().search("x")


def test_other_settings_are_refused_until_rebuilt(open_light: Open) -> None:
    open_light().ingest_documents([DUCKS])
    other = WordIndex()
    other.fingerprint = "other words"
    rag = open_light(**{"indexes.words": other})
    with pytest.raises(IndexMismatch, match="rebuild"):
        rag.search("ducks")
    with pytest.raises(IndexMismatch, match="rebuild"):
        rag.ingest_documents([CATS])
    rag.rebuild()
    assert texts(rag, "swim") == ["Ducks swim on ponds."]


@pytest.mark.parametrize("query", ["", "  \n", 7])
def test_a_query_must_be_text(open_light: Open, query: object) -> None:
    rag = open_light()
    rag.ingest_documents([DUCKS])
    with pytest.raises(ValueError, match="query"):
        rag.search(query)  # type: ignore[arg-type]


def test_another_key_for_the_language_model_cuts_no_document_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = {"use": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "api_key": "${env:SOME_KEY}"}
    chunker = {"use": "contextual", "chunker": {"use": "fixed"}}
    models = {"tokenizer": {"use": "words"}, "lm": lm}
    settings = []
    for key, model in (("old", "m"), ("new", "m"), ("new", "another")):
        monkeypatch.setenv("SOME_KEY", key)
        config = {"models": {**models, "lm": {**lm, "model": model}}, "chunker": chunker}
        settings.append(Rag.open(tmp_path / "index", config)._settings)
    assert settings[0] == settings[1] != settings[2]


class ReadingIndex(WordIndex):
    """Finds a chunk by any word of its document."""

    reads_documents = True

    def build(self, keys, chunks, texts=None, beside=()):  # type: ignore[no-untyped-def]
        segment = super().build(keys, chunks, texts, beside)
        segment.texts = [texts[chunk.doc_id].lower() for chunk in chunks]
        return segment


def test_an_index_that_reads_documents_builds_all_chunks_of_an_edited_one(open_light: Open) -> None:
    index = ReadingIndex()
    rag = open_light(**{"indexes.words": index})
    rag.ingest_documents([DUCKS, CATS])
    assert sorted(texts(rag, "fish")) == ["Cats eat fish.", "Cats sleep."]
    edited = document("cats.txt", "Cats sleep.\n\nCats eat mice.")
    report = rag.ingest_documents([DUCKS, edited])
    assert (report.num_chunks_added, report.num_chunks_deleted, index.num_built) == (2, 2, 6)
    assert texts(rag, "fish") == []
    assert sorted(texts(rag, "mice")) == ["Cats eat mice.", "Cats sleep."]
    assert rag.ingest_documents([DUCKS, document("cats.txt", edited.text, meta={"year": 2023})]).num_chunks_added == 0
    rag.rebuild()
    assert sorted(texts(rag, "mice")) == ["Cats eat mice.", "Cats sleep."]


def test_a_failing_encoder_leaves_the_last_commit(open_light: Open) -> None:
    class Failing(WordIndex):
        def build(self, keys, chunks, texts=None, beside=()):  # type: ignore[no-untyped-def]
            if any("Cats" in chunk.text for chunk in chunks):
                raise OSError("the disk is full")
            return super().build(keys, chunks, texts, beside)

    rag = open_light(**{"indexes.words": Failing()})
    rag.ingest_documents([DUCKS])
    with pytest.raises(OSError, match="full"):
        rag.ingest_documents([CATS])
    assert texts(rag, "swim") == ["Ducks swim on ponds."]
    assert rag.verify() == []


async def test_the_async_twins_agree(open_light: Open) -> None:
    rag = open_light()
    rag.ingest_documents([DUCKS, CATS])
    assert await rag.asearch("fish") == rag.search("fish")
    assert (await rag.aask("fish")).text == rag.ask("fish").text
    assert [type(event) async for event in rag.astream("fish")] == [type(event) for event in rag.stream("fish")]
    assert await rag.adelete("ducks.txt") == 1


def test_langchain_documents_keep_their_source_and_never_overwrite_each_other(open_light: Open) -> None:
    from langchain_core.documents import Document as LangChainDocument

    rag = open_light()
    given = [
        LangChainDocument("Ducks swim.", metadata={"source": "a.pdf", "page": 0}),
        LangChainDocument("Ducks eat.", metadata={"source": "a.pdf", "page": 1}),
        LangChainDocument("Ducks sleep.", metadata={"source": "b"}),
        LangChainDocument("Ducks fly.", metadata={"source": "b"}),
    ]
    assert len(rag.ingest_documents(given).added) == 4
    assert rag.ingest_documents(given).num_chunks_added == 0
    assert len(rag.search("ducks")) == 4
    with pytest.raises(ValueError, match="source"):
        rag.ingest_documents([LangChainDocument("nameless")])


def test_ingest_takes_documents_and_loaders_too(open_light: Open) -> None:
    from langchain_core.document_loaders import BaseLoader
    from langchain_core.documents import Document as LangChainDocument

    class Loader(BaseLoader):
        def lazy_load(self) -> Iterator[LangChainDocument]:
            yield LangChainDocument("Newts hide.", metadata={"source": "newts"})

    rag = open_light()
    assert rag.ingest([DUCKS, CATS]).added == ("ducks.txt", "cats.txt")
    assert rag.ingest(Loader()).added == ("newts",)
    assert texts(rag, "hide") == ["Newts hide."]
    with pytest.raises(ValueError, match="expected a Document of rag or of LangChain, not int"):
        rag.ingest([7])
