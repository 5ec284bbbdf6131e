"""Reading a tiny collection that each test writes, whole and damaged."""

from pathlib import Path

import pytest

from rag.core import Document
from rag.errors import ReadError
from rag.eval.beir import Record, document_of, read_beir
from tests.eval.birds import write_birds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_birds(tmp_path)


def test_reads_the_three_files(folder: Path) -> None:
    beir = read_beir(folder)
    assert (beir.name, beir.split) == ("birds", "test")
    assert beir.queries["q3"] == "colour of swans"
    assert beir.qrels == {"q1": {"duck": 2, "goose": 1}, "q2": {"goose": 1}, "q3": {"untitled": 0, "gone": 0}}
    assert beir.unjudged_queries == ["q4"]
    assert list(beir.corpus)[:2] == [
        Record("duck", "Ducks", "Ducks swim.\n\nDucks eat leaves."),
        Record("goose", "Geese", "Geese fly south."),
    ]
    assert list(beir.corpus) == list(beir.corpus), "a corpus can be walked through again"


def test_another_split(folder: Path) -> None:
    assert read_beir(folder, "dev").qrels == {"q4": {"duck": 1}}
    with pytest.raises(ValueError, match=r"split 'train' is not in .*qrels'; allowed: dev, test"):
        read_beir(folder, "train")
    with pytest.raises(ValueError, match=r"split '../queries' is not in"):
        read_beir(folder, "../queries")


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl"])
def test_a_folder_without_the_layout_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=f"has no {missing}"):
        read_beir(folder)


def test_windows_line_ends_a_byte_order_mark_blank_lines_and_numbers_as_ids_are_read(folder: Path) -> None:
    (folder / "queries.jsonl").write_bytes(b'\xef\xbb\xbf{"_id": 7, "text": "seven"}\r\n\r\n{"_id": "8", "text": "a\xe2\x80\xa8b"}')
    (folder / "qrels" / "test.tsv").write_bytes(b"7\tduck\t1\r\n8\tduck\t1\r\n8\tduck\t1\r\n")
    beir = read_beir(folder)
    assert beir.queries == {"7": "seven", "8": "a\u2028b"}
    assert beir.qrels == {"7": {"duck": 1}, "8": {"duck": 1}}, "no head: the first line counts; saying a thing twice is no harm"


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("queries.jsonl", "{", "not JSON"),
        ("queries.jsonl", "[" * 100_000, "not JSON"),
        ("queries.jsonl", "[1]", "expected a JSON object, found list"),
        ("queries.jsonl", '{"text": "x"}', "has no _id"),
        ("queries.jsonl", '{"_id": null, "text": "x"}', "_id is None"),
        ("queries.jsonl", '{"_id": "", "text": "x"}', "_id is ''"),
        ("queries.jsonl", '{"_id": true, "text": "x"}', "_id is True"),
        ("queries.jsonl", '{"_id": "new"}', "has no text"),
        ("queries.jsonl", '{"_id": "new", "text": 3}', "text is 3; expected a string"),
        ("queries.jsonl", '{"_id": "new", "text": " "}', "the text of query 'new' is blank"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}', "_id 'q1' stands on an earlier line already"),
        ("corpus.jsonl", "nonsense", "not JSON"),
        ("corpus.jsonl", '{"_id": "duck", "text": "x"}', "_id 'duck' stands on line 1 already"),
        ("corpus.jsonl", '{"_id": "new", "title": ["x"], "text": "x"}', r"title is \['x'\]; expected a string"),
        ("corpus.jsonl", '{"_id": "new", "title": "x"}', "has no text"),
        ("qrels/test.tsv", "q1 duck 1", "expected 3 columns .* found 1"),
        ("qrels/test.tsv", "q1\t0\tduck\t1", "expected 3 columns .* found 4"),
        ("qrels/test.tsv", "q1\tswan\t0.5", "the judgement '0.5' is not a whole number"),
        ("qrels/test.tsv", "q1\tduck\t1", "query 'q1', document 'duck': judged 1 here and 2 before"),
        ("qrels/test.tsv", "q9\tduck\t1", "query 'q9' is not in queries.jsonl"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(folder: Path, name: str, line: str, reason: str) -> None:
    path = folder / name
    number = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ReadError, match=f"{path.name}: line {number}: {reason}"):
        list(read_beir(folder).corpus)


def test_bytes_that_are_not_utf8_are_named_by_line(folder: Path) -> None:
    with (folder / "corpus.jsonl").open("ab") as file:
        file.write(b'{"_id": "latin", "text": "caf\xe9"}\n')
    with pytest.raises(ReadError, match=r"corpus.jsonl: line 6: not UTF-8"):
        list(read_beir(folder).corpus)


def test_files_that_hold_nothing_are_refused(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(ReadError, match="holds no judgement"):
        read_beir(folder)
    (folder / "queries.jsonl").write_text("")
    with pytest.raises(ReadError, match="holds no query"):
        read_beir(folder)


def test_a_record_becomes_a_document_with_exact_elements() -> None:
    document = document_of(Record("duck", " Ducks\nand  coots ", "One.\n\n \nTwo\nlines.\n"))
    assert document is not None
    assert document.text == "Ducks and coots\n\nOne.\n\n \nTwo\nlines."
    assert [(element.kind, element.level, element.span.of(document.text)) for element in document.elements] == [
        ("heading", 1, "Ducks and coots"),
        ("paragraph", None, "One."),
        ("paragraph", None, "Two\nlines."),
    ]
    assert document.source == "beir:duck" and document.id == Document.id_of("beir:duck")
    assert document.meta == {"beir_id": "duck", "title": "Ducks and coots"}


def test_records_without_title_or_text() -> None:
    untitled, text_free = document_of(Record("a", "", "Text.")), document_of(Record("b", "Title", ""))
    assert untitled is not None and text_free is not None
    assert (untitled.text, [element.kind for element in untitled.elements]) == ("Text.", ["paragraph"])
    assert (text_free.text, [element.kind for element in text_free.elements]) == ("Title", ["heading"])
    assert document_of(Record("c", " ", "\n")) is None


def test_half_a_character_does_not_reach_the_index() -> None:
    document = document_of(Record("a", "x\ud800", "y\udfff"))
    assert document is not None and document.text.encode() == "x\ufffd\n\ny\ufffd".encode()
