from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rag.errors import ReadError
from rag.ingest import Progress
from rag.pipeline import Rag
from tests.fakes import WordIndex

Open = Callable[..., Rag]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "ducks.txt").write_text("Ducks swim on ponds.\n\nDucks eat weed.")
    (folder / "sub" / "cats.md").write_text("# Cats\n\nCats eat fish.")
    age(folder)
    return folder


def age(folder: Path) -> None:
    """Makes all files look old, as files of a user are: a file changed a moment ago is always read again."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 60, time.time() - 60 - len(path.name)))


def names(sources: tuple[str, ...]) -> list[str]:
    return sorted(Path(source).name for source in sources)


def test_the_second_ingest_does_nothing(open_light: Open, docs: Path) -> None:
    index = WordIndex()
    rag = open_light(**{"indexes.words": index})
    first = rag.ingest(docs)
    assert names(first.added) == ["cats.md", "ducks.txt"]
    commits = rag.stats()["commits"]
    second = rag.ingest(docs)
    assert (names(second.unchanged), second.num_chunks_added, index.num_built) == (
        ["cats.md", "ducks.txt"],
        0,
        first.num_chunks_added,
    )
    assert rag.stats()["commits"] == commits


def test_edits_renames_and_removals_are_applied(open_light: Open, docs: Path) -> None:
    index = WordIndex()
    rag = open_light(**{"indexes.words": index})
    rag.ingest(docs)
    built = index.num_built
    (docs / "ducks.txt").write_text("Ducks fly.\n\nDucks eat weed.")
    (docs / "sub" / "cats.md").rename(docs / "felines.md")
    (docs / "new.txt").write_text("Newts hide.")
    report = rag.ingest(docs)
    assert (names(report.changed), names(report.renamed), names(report.added), report.deleted) == (
        ["ducks.txt"],
        ["felines.md"],
        ["new.txt"],
        (),
    )
    assert index.num_built == built + 2
    (docs / "felines.md").unlink()
    assert names(rag.ingest(docs).deleted) == ["felines.md"]
    assert rag.search("fish") == []
    assert [hit.chunk.text for hit in rag.search("fly")] == ["Ducks fly."]


def test_an_edit_that_keeps_size_and_time_of_a_fresh_file_is_seen(open_light: Open, docs: Path) -> None:
    rag = open_light()
    now = time.time()
    target = docs / "ducks.txt"
    target.write_text("Ducks swim.")
    os.utime(target, (now, now))
    rag.ingest(docs)
    target.write_text("Ducks sink.")
    os.utime(target, (now, now))
    assert names(rag.ingest(docs).changed) == ["ducks.txt"]


def test_a_touched_file_is_hashed_but_not_read_again(open_light: Open, docs: Path) -> None:
    rag = open_light()
    rag.ingest(docs)
    os.utime(docs / "ducks.txt", (1, 1))
    report = rag.ingest(docs)
    assert (len(report.unchanged), report.changed, report.num_chunks_added) == (2, (), 0)


def test_equal_files_live_and_die_apart(open_light: Open, docs: Path) -> None:
    rag = open_light()
    (docs / "copy.txt").write_text((docs / "ducks.txt").read_text())
    rag.ingest(docs)
    assert len(rag.search("swim")) == 2
    (docs / "copy.txt").unlink()
    report = rag.ingest(docs)
    assert names(report.deleted) == ["copy.txt"]
    assert [hit.chunk.text for hit in rag.search("swim")] == ["Ducks swim on ponds."]


def test_swapping_two_files(open_light: Open, docs: Path) -> None:
    rag = open_light()
    (docs / "other.txt").write_text("Geese honk.")
    rag.ingest(docs)
    (docs / "ducks.txt").rename(docs / "x")
    (docs / "other.txt").rename(docs / "ducks.txt")
    (docs / "x").rename(docs / "other.txt")
    assert names(rag.ingest(docs).changed) == ["ducks.txt", "other.txt"]
    with rag.catalog.reading() as read:
        assert {Path(row.source).name: read.document(row.id).text[:5] for row in read.documents()} == {
            "cats.md": "Cats\n", "ducks.txt": "Geese", "other.txt": "Ducks",
        }  # fmt: skip
    assert rag.verify() == []


def test_a_bad_file_is_reported_and_its_old_version_kept(open_light: Open, docs: Path) -> None:
    rag = open_light()
    rag.ingest(docs)
    (docs / "ducks.txt").write_bytes(b"\x00\x01\x02" * 100)
    (docs / "empty.txt").touch()
    report = rag.ingest(docs)
    assert {Path(refusal.source).name for refusal in report.failed} == {"ducks.txt", "empty.txt"}
    assert all(refusal.reason and "\n" not in refusal.reason for refusal in report.failed)
    assert rag.search("swim")


def test_one_folder_does_not_delete_what_came_from_another(open_light: Open, docs: Path, tmp_path: Path) -> None:
    other = tmp_path / "docs2"
    other.mkdir()
    (other / "geese.txt").write_text("Geese honk.")
    rag = open_light()
    rag.ingest([docs, other])
    rag.ingest(docs)
    assert rag.search("honk")
    rag.ingest(docs / "ducks.txt")
    assert rag.search("fish")


def test_a_dry_run_changes_nothing(open_light: Open, docs: Path) -> None:
    rag = open_light()
    report = rag.ingest(docs, dry_run=True)
    assert (report.dry_run, len(report.added)) == (True, 2)
    assert not rag.folder.exists()
    rag.ingest(docs)
    (docs / "ducks.txt").write_text("Ducks fly.")
    (docs / "sub" / "cats.md").unlink()
    report = rag.ingest(docs, dry_run=True)
    assert (names(report.changed), names(report.deleted)) == (["ducks.txt"], ["cats.md"])
    assert rag.search("swim") and rag.search("fish")


def test_include_exclude_and_readers(open_light: Open, docs: Path) -> None:
    rag = open_light()
    rag.ingest(docs, include=["*.md"], readers=["group:cats"], meta={"shelf": 3})
    assert rag.search("fish") == []
    assert rag.search("fish", principals=["group:cats"], where="shelf = 3")
    assert len(rag.documents()) == 1


def test_a_path_that_does_not_exist_is_named(open_light: Open, tmp_path: Path) -> None:
    with pytest.raises((FileNotFoundError, ReadError), match="nowhere"):
        open_light().ingest(tmp_path / "nowhere")


def test_many_readers_leave_the_order_of_files_as_it_is(docs: Path, tmp_path: Path) -> None:
    for number in range(30):
        (docs / f"{number:02}.md").write_text(f"# Duck {number}\n\n" + "It is asleep. " * (90 - 3 * number))
    found = []
    for workers in (1, 4):
        config = {"indexes": {"words": {"use": "bm25"}}, "models": {"tokenizer": {"use": "words"}}, "read": {"workers": workers}}
        with Rag.open(tmp_path / str(workers), config) as rag:
            assert len(rag.ingest(docs).added) == 32
            with rag.catalog.reading() as read:
                found.append([(key, chunk.id) for key, chunk in read.all_chunks(-1, 1000)])
    assert found[0] == found[1] and len(found[0]) >= 32


def test_progress_tells_of_files_and_of_the_chunks_of_each_index(docs: Path, tmp_path: Path) -> None:
    (docs / "long.txt").write_text("\n\n".join(f"Duck number {number} is asleep." for number in range(300)))
    told: list[Progress] = []
    config = {"chunker": {"use": "recursive", "max_tokens": 6}, "models": {"tokenizer": {"use": "words"}}}
    with Rag.open(tmp_path / "index", config) as rag:
        report = rag.ingest(docs, on_progress=told.append)
    files = [step for step in told if not step.index]
    assert [step.num_files_done for step in files] == [1, 2, 3] and {step.num_files for step in told} == {3}
    dense = [step for step in told if step.index == "dense"]
    counts = [step.num_done for step in dense]
    assert counts[0] == 0 and counts == sorted(counts) and counts[-1] == report.num_chunks_added == dense[0].num_chunks
    assert len(set(counts)) > 2, "one word at the end is no progress"
    assert [step.num_done for step in told if step.index == "sparse"] == [0]


@pytest.mark.parametrize("index", [{"use": "faiss", "pooling": "late"}, {"use": "warp"}], ids=["late", "warp"])
def test_progress_of_token_vectors_is_told_in_chunks(docs: Path, tmp_path: Path, index: dict[str, str]) -> None:
    for number in range(12):
        (docs / f"{number}.txt").write_text("\n\n".join(f"Duck {number} of pond {pond} is asleep." for pond in range(9)))
    told: list[Progress] = []
    config = {"chunker": {"use": "recursive", "max_tokens": 9}, "indexes": {"it": index}}
    with Rag.open(tmp_path / "index", config) as rag:
        num_chunks = rag.ingest(docs, on_progress=told.append).num_chunks_added
    counts = [step.num_done for step in told if step.index]
    assert counts == sorted(counts) and num_chunks / 2 < counts[-1] <= num_chunks and len(set(counts)) > 5


def test_an_interrupted_ingest_goes_on_where_it_stopped(open_light: Open, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rag import ingest

    monkeypatch.setattr(ingest, "CUT_DOCUMENTS", 1)
    monkeypatch.setattr(ingest, "BATCH_CHUNKS", 1)  # one commit per document

    def interrupt(progress: Progress) -> None:
        if not progress.index:
            raise KeyboardInterrupt

    rag = open_light()
    with pytest.raises(KeyboardInterrupt):
        rag.ingest(docs, on_progress=interrupt)
    assert rag.verify() == []
    assert len(rag.documents()) == 1
    report = rag.ingest(docs)
    assert (len(report.unchanged), len(report.added)) == (1, 1)


def test_an_index_below_the_folder_is_not_read(open_light: Open, docs: Path) -> None:
    rag = open_light(docs / "deeper" / "rag.index")
    first, second = rag.ingest(docs), rag.ingest(docs)
    assert first.skipped == second.skipped == () and len(second.unchanged) == 2
    (told,) = rag.ingest(docs / "deeper" / "rag.index").skipped
    assert told.reason == "is an index of this program, not a folder of documents"
    (docs / "segments").mkdir()
    (docs / "catalog.sqlite").touch()  # names alone do not make an index: all of them do
    assert [refusal.source for refusal in rag.ingest(docs).skipped] == [str(docs / "catalog.sqlite")]
    assert len(rag.documents()) == 2
