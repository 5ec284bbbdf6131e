"""What segments tell: kept beside them, put together by the rules of ``rag.core.Facts``, shown without opening any."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from rag.core import Facts
from rag.errors import DamagedIndex
from rag.facts import read_facts, together, write_facts
from rag.pipeline import Rag
from tests.fakes import document


def test_counts_add_up_rates_are_averaged_words_are_listed() -> None:
    parts: list[tuple[int, Facts]] = [
        (10, {"build_seconds": 1.5, "vectors": 10, "recall": 0.9, "store": "int8", "only_here": 1}),
        (30, {"build_seconds": 0.25, "vectors": 30, "recall": 0.5, "store": "float32"}),
    ]
    assert together(parts) == {"build_seconds": 1.75, "vectors": 40, "recall": 0.6, "store": "float32, int8"}
    assert together([]) == together([(1, {"vectors": 1}), (2, {})]) == {}
    assert together([(0, {"recall": 0.5})]) == {"recall": 0.5}


def test_written_and_read(tmp_path: Path) -> None:
    write_facts(tmp_path, {"vectors": 3, "recall": 1.0, "store": "int8"}, 1.23456)
    assert read_facts(tmp_path) == {"vectors": 3, "recall": 1.0, "store": "int8", "build_seconds": 1.235}


@pytest.mark.parametrize("content", ["", "[]", '{"a": null}', '{"a": [1]}'])
def test_damage_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "facts.json").write_text(content)
    with pytest.raises(DamagedIndex, match="facts.json"):
        read_facts(tmp_path)


def test_stats_tell_what_the_segments_told(open_light: Callable[..., Rag], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("rag.segments.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    with open_light() as rag:
        rag.ingest_documents([document("one.txt", "a duck\n\na long sentence here"), document("two.txt", "pond")])
        rag.ingest_documents([document("three.txt", "weed and reed")])
        (stats,) = rag.stats()["indexes"].values()
        assert stats["words"] == 2 + 4 + 1 + 3 and stats["mean_words"] == 2.5 and stats["kind"] == "plain"
        assert stats["segments"] == 2 and stats["build_seconds"] == 4, "a tick to build and one to save, twice"
        assert stats["bytes_per_document"] == round(stats["bytes"] / 3)
        rag.delete("one.txt")
        (after,) = rag.compact()["indexes"].values()
        assert after["words"] == 4 and after["segments"] == 1
        assert after["build_seconds"] == 4 + 2, "what was spent on the parts is part of it"


def test_stats_of_segments_from_before_there_were_facts(open_light: Callable[..., Rag], tmp_path: Path) -> None:
    with open_light() as rag:
        rag.ingest_documents([document("one.txt", "a duck")])
        with rag.catalog.reading() as read:
            (row,) = read.segments()
        path = tmp_path / "index" / "segments" / row.name / "facts.json"
        assert json.loads(path.read_text())["words"] == 2
        path.write_text("{")
        with pytest.raises(DamagedIndex, match="facts.json"):
            rag.stats()
        path.unlink()
        old = type(row)(row.name, row.index_name, row.num_chunks, tuple(file for file in row.files if file.name != "facts.json"))
        with rag.catalog.writing() as write:
            write.drop_segments([row.name])
            write.add_segment(old)
        assert set(rag.stats()["indexes"]["words"]) == {"use", "segments", "chunks_on_disk", "bytes", "bytes_per_document"}
        rag.compact()
