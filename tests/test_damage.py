"""Bit flips and truncations of every file of an index: an error that names the file, or the right answer. Never a wrong one."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.durability_worker import apply, marker, open_index
from rag.errors import DamagedIndex, RagError

SEED, NUM_OPERATIONS = 3, 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "index"
    with open_index(folder) as rag:
        for number in range(NUM_OPERATIONS):
            apply(rag, SEED, number)
    return folder


Everything = tuple[dict[str, str], list[dict[str, list[tuple[str, float]]]], list[str]]


def everything(folder: Path) -> Everything:
    """What an index answers: all texts, and each index's ranking for a query of its own words and for a common word."""
    with open_index(folder) as rag:
        sources = sorted(row.source for row in rag.documents())
        with rag.catalog.reading() as read:
            texts = {row.source: read.document(row.id).text for row in read.documents()}
        found = [
            {stage: [(hit.chunk.text, hit.score) for hit in hits] for stage, hits in stages.items()}
            for stages in rag.search_each([marker(sources[0]), "mallard pond"], 20)
        ]
        filtered = [hit.chunk.text for hit in rag.search("weed", where=f"source = '{sources[-1]}'")]
        return texts, found, filtered


def check(whole: Path, work: Path, name: str, change: Callable[[bytes], bytes], expected: Everything) -> None:
    shutil.copytree(whole, work)
    target = work / name
    target.write_bytes(change(target.read_bytes()))
    try:
        answered = everything(work)
    except RagError as error:
        assert target.name in str(error) or name.startswith("catalog.sqlite") and "catalog" in str(error), error
    else:
        assert answered == expected, f"{name}: a wrong answer"
    finally:
        shutil.rmtree(work)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "writer.lock")


def test_every_file_of_the_index_survives_being_damaged(whole: Path, tmp_path: Path) -> None:
    expected = everything(whole)
    names = files(whole)
    assert any(name.startswith("segments/dense") for name in names) and any(name.startswith("segments/sparse") for name in names)
    chance = random.Random(5)
    for name in names:
        num_bytes = (whole / name).stat().st_size
        positions = {0, num_bytes - 1, *chance.sample(range(num_bytes), min(num_bytes, 40 if name == "catalog.sqlite" else 3))}
        for position in sorted(positions):

            def flipped(content: bytes, position: int = position) -> bytes:
                changed = bytearray(content)
                changed[position] ^= 1 << chance.randrange(8)
                return bytes(changed)

            check(whole, tmp_path / "work", name, flipped, expected)
        for length in (0, num_bytes // 2, num_bytes - 1):
            check(whole, tmp_path / "work", name, lambda content, length=length: content[:length], expected)  # type: ignore[misc]


def test_text_of_the_catalog_that_is_no_longer_utf_8_is_damage(whole: Path, tmp_path: Path) -> None:
    with open_index(whole) as rag, rag.catalog.reading() as read:
        old = read.all_chunks(-1, 1)[0][1].id.encode()
    spoiled = bytes([old[0] | 0x80]) + old[1:]
    changed = (whole / "catalog.sqlite").read_bytes().replace(old, spoiled)
    assert spoiled in changed
    shutil.copytree(whole, tmp_path / "work")
    (tmp_path / "work" / "catalog.sqlite").write_bytes(changed)
    with pytest.raises(DamagedIndex, match="UTF-8"):
        everything(tmp_path / "work")


def test_a_missing_segment_is_named_and_can_be_rebuilt(whole: Path, tmp_path: Path) -> None:
    expected = everything(whole)
    work = tmp_path / "work"
    shutil.copytree(whole, work)
    gone = min((work / "segments").iterdir())
    shutil.rmtree(gone)
    with pytest.raises(RagError, match=gone.name):
        everything(work)
    with open_index(work) as rag:
        assert any(gone.name in fault for fault in rag.verify())
        assert rag.verify(repair=True) == []
    texts, found, filtered = everything(work)
    assert (texts, filtered) == (expected[0], expected[2])
    for stages, before in zip(found, expected[1], strict=True):
        assert [text for text, _ in stages["sparse"]] == [text for text, _ in before["sparse"]]
