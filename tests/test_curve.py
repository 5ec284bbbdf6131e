"""Latency and recall of an index over its settings: the truth, the turns, the queries, the plot, and the command around them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag import cli, registry
from rag.config import Block
from rag.core import Matches
from rag.curve import Curve, Point, exhaustive, measure, recall, settings_of
from rag.curve_plot import draw
from rag.curve_queries import draw_queries, read_queries
from rag.errors import ConfigError, MissingExtra
from rag.pipeline import Rag
from rag.registry import component, options, table, wanted_models
from tests.fakes import HashingEncoder, HashingSparseEncoder, HashingTokenEncoder, document

WORDS = ["apple", "banana", "cherry", "river", "mountain", "engine", "valve", "pressure", "invoice", "contract"]
MODELS: dict[str, Any] = {
    "encoder": HashingEncoder(),
    "token_encoder": HashingTokenEncoder(),
    "sparse_encoder": HashingSparseEncoder(),
}


class Plugin:
    """An entry point of somebody else's package."""

    name = "shares"

    def load(self) -> Mapping[str, Mapping[str, str]]:
        return {"index": {"share": "tests.fakes:ShareIndex"}}


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Plugin()])
    table.cache_clear()
    yield
    table.cache_clear()


def opened(folder: Path, index: dict[str, Any], num_documents: int = 40) -> Rag:
    words = {"encoder": "sentence-transformers", "token_encoder": "token-vectors", "sparse_encoder": "uhd", "tokenizer": "words"}
    rag = Rag.open(
        folder,
        {
            "indexes": {"mine": index},
            "chunker": {"use": "recursive"},
            "models": {name: {"use": use} for name, use in words.items()},
        },
        components=MODELS,
    )
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 6)).capitalize() + ". More follows here." for _ in range(num_documents)]
    rag.ingest_documents(document(f"{number}.txt", text) for number, text in enumerate(texts))
    return rag


@pytest.mark.usefixtures("plugged")
def test_the_index_of_a_plugin_is_swept_over_what_it_names(tmp_path: Path) -> None:
    rag = opened(tmp_path / "index", {"use": "share", "share": 0.75})
    curve = measure(rag, "mine", ["apple river", "engine valve", "contract"], 5, rounds=2)
    assert [(point.option, point.value, point.configured) for point in curve.points] == [
        ("share", 0.25, False), ("share", 0.5, False), ("share", 0.75, True), ("share", 1.0, False),
    ]  # fmt: skip
    found = [point.recall for point in curve.points if point.recall is not None]
    assert found == sorted(found) and found[0] < 1.0 and found[-1] == 1.0
    assert all(0 < point.p50_milliseconds <= point.p95_milliseconds for point in curve.points)
    assert (curve.num_chunks, curve.num_queries, curve.k, curve.exact) == (40, 3, 5, False)
    assert curve.encode_milliseconds > 0


@pytest.mark.usefixtures("plugged")
def test_queries_are_encoded_once_however_many_settings_and_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rag = opened(tmp_path / "index", {"use": "faiss"})
    asked: list[str] = []
    monkeypatch.setattr(HashingEncoder, "encode_queries", _recording(asked))
    measure(rag, "mine", ["apple river", "contract"], 5, rounds=3)
    assert sorted(asked) == ["apple river", "contract"]


def _recording(asked: list[str]) -> Any:
    encode = HashingEncoder.encode_queries

    def encode_queries(self: HashingEncoder, texts: Any) -> Any:
        asked.extend(texts)
        return encode(self, texts)

    return encode_queries


@pytest.mark.parametrize("use", ["bm25", "impact"])
def test_an_exact_index_has_its_time_and_no_recall(tmp_path: Path, use: str) -> None:
    curve = measure(opened(tmp_path / "index", {"use": use}), "mine", ["apple"], rounds=1)
    assert curve.exact and [(point.recall, point.configured) for point in curve.points] == [(None, True)]


def test_what_warp_finds_in_coded_segments_is_held_against_its_own_codes(tmp_path: Path) -> None:
    rag = opened(tmp_path / "index", {"use": "warp", "exact_below": 0, "dim": 16, "num_threads": 1}, num_documents=300)
    curve = measure(rag, "mine", ["apple river mountain", "engine valve"], 10, rounds=1)
    values = [point.value for point in curve.points]
    assert values == sorted(component("index", "warp").efforts.fget(None)["confidence"])
    assert all(point.recall is not None and point.recall > 0.7 for point in curve.points)


@pytest.mark.parametrize("use", sorted(table()["index"]))
def test_every_index_names_options_that_it_has_and_that_need_no_rebuild(use: str) -> None:
    cls = component("index", use)
    models = {name: MODELS[name] for name in wanted_models(cls)}
    for more in [{}, {"store": "binary"}] if use == "faiss" else [{}]:
        base = cls(**models, **more)
        for option, values in base.efforts.items():
            assert option in options(cls) and list(values) == sorted(set(values)) and len(values) > 2
            assert options(cls)[option].default in values
            assert {cls(**models, **more, **{option: value}).fingerprint for value in values} == {base.fingerprint}


def test_truth_is_the_sum_of_the_best_products_over_all_blocks(tmp_path: Path) -> None:
    rag = opened(tmp_path / "index", {"use": "warp"}, num_documents=150)  # more than two blocks
    index = rag.indexes["mine"]
    with rag.catalog.reading() as read:
        texts = {key: chunk.indexed_text for key, chunk in read.all_chunks()}
    chunks = {key: MODELS["token_encoder"].encode_queries([text])[0] for key, text in texts.items()}
    (query,) = MODELS["token_encoder"].encode_queries(["apple river"])
    from rag.segments import SegmentStore
    from rag.snapshot import take

    with rag.catalog.reading() as read:
        reader = take(read, SegmentStore(rag.folder / "segments"), {"mine": index}).readers["mine"]
    scores = exhaustive(reader, ["apple river"], np.array(sorted(texts)))
    assert scores is not None
    np.testing.assert_allclose(scores[0], [(query @ chunks[key].T).max(1).sum() for key in sorted(texts)], atol=2e-3)


def test_recall_counts_ties_and_looks_at_the_first_k() -> None:
    truth, keys = np.array([[0.9, 0.5, 0.5, 0.1]], np.float32), np.array([3, 5, 7, 9])

    def of(*found: int) -> float:
        return recall(truth, keys, [Matches(np.array(found), np.zeros(len(found), np.float32))], 2)

    assert of(3, 5) == of(3, 7) == of(7, 3) == 1.0  # either of two that score the same
    assert of(3, 9) == 0.5 and of(9, 9) == 0.0 and of(9, 3, 5) == 0.5
    everything = [Matches(keys, truth[0])]
    assert recall(truth, keys, everything, 100) == 1.0  # no more is wanted than there is


def test_the_configured_value_takes_its_place_among_the_others() -> None:
    block = Block.model_validate({"use": "faiss", "ef_search": 100})
    assert settings_of(block, {"ef_search": (16, 128)}) == [("ef_search", 16), ("ef_search", 100), ("ef_search", 128)]
    assert settings_of(block, {}) == [("", None)]


def test_queries_come_from_lines_and_from_the_beir_layout(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("\ufeffone\n\n  two \n", encoding="utf-8")
    assert read_queries(tmp_path / "q.txt") == ["one", "two"]
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "three"}\n\n{"_id": "2", "text": "four"}\n')
    assert read_queries(tmp_path / "queries.jsonl") == ["three", "four"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", b"\n \n", "holds no query"),
        ("q.txt", b"caf\xe9\n", "byte 3 is not UTF-8"),
        ("q.jsonl", b'{"text": "x"}\nnope\n', r"line 2: must be a JSON object with a \"text\", not 'nope'"),
        ("q.jsonl", b'{"text": 5}\n', "line 1"),
        ("q.jsonl", b"[1]\n", "line 1"),
    ],
)
def test_a_file_without_queries_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_queries(tmp_path / name)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(ValueError, match=f"cannot read the queries {path}: (Is a directory|No such file)"):
            read_queries(path)


def test_drawn_queries_are_first_sentences_and_the_same_for_a_seed(tmp_path: Path) -> None:
    catalog = opened(tmp_path / "index", {"use": "bm25"}).catalog
    drawn = draw_queries(catalog, 5, seed=3)
    assert len(drawn) == len(set(drawn)) == 5 and all(each.endswith(".") and "More" not in each for each in drawn)
    assert draw_queries(catalog, 5, seed=3) == drawn != draw_queries(catalog, 5, seed=4)
    assert len(draw_queries(catalog, 1000, seed=0)) == 40
    with pytest.raises(ValueError, match="at least 1, not 0"):
        draw_queries(catalog, 0, seed=0)


def test_bad_numbers_and_names_are_refused(tmp_path: Path) -> None:
    rag = opened(tmp_path / "index", {"use": "bm25"})
    for bad, message in (
        ({"k": 0}, "k must be at least 1, not 0"), ({"rounds": 0}, "rounds must"), ({"queries": []}, "number of queries must"),
    ):  # fmt: skip
        given: dict[str, Any] = {"name": "mine", "queries": ["apple"], **bad}
        with pytest.raises(ValueError, match=message):
            measure(rag, **given)
    with pytest.raises(ConfigError, match=r"there is no index 'mime' \(did you mean 'mine'\?\); allowed: mine"):
        measure(rag, "mime", ["apple"])
    rag.delete([each.source for each in rag.documents()])
    with pytest.raises(ValueError, match="holds no chunks"):
        measure(rag, "mine", ["apple"])
    with pytest.raises(ValueError, match="no chunks to draw"):
        draw_queries(rag.catalog, 5, seed=0)


def test_the_plot_shows_curves_and_exact_indexes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [Point("beam", value, value == 2, 0.8 + value / 20, 0.5 * value, value) for value in (1.0, 2.0, 4.0)]
    curves = [
        Curve("dense", "faiss", 10, 5, 3, 1, False, 0.0, tuple(points)),
        Curve("words", "bm25", 10, 5, 3, 1, True, 0.0, (Point("", None, True, None, 0.2, 0.4),)),
    ]
    draw(curves, tmp_path / "curve.svg")
    drawn = (tmp_path / "curve.svg").read_text(encoding="utf-8")
    assert "dense: beam" in drawn and "words: as configured" in drawn and "recall@10" in drawn
    draw(curves[1:], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


# The command ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docs").mkdir()
    for number, word in enumerate(WORDS):
        (tmp_path / "docs" / f"{number}.txt").write_text(f"The {word} stands alone. Nothing else does.\n")
    light = "indexes: {words: {use: bm25}, more: {use: bm25}}\nmodels: {tokenizer: {use: words}}\nchunker: {use: recursive}\n"
    (tmp_path / "light.yaml").write_text(light)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAG_INDEX", raising=False)
    monkeypatch.delenv("RAG_CONFIG", raising=False)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["rag", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_measures_prints_and_draws(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert run(monkeypatch, "ingest", "docs", "--config", "light.yaml") == 0
    capsys.readouterr()
    assert run(monkeypatch, "bench", "index", "--json", "--num-queries", "4", "--plot", "curve.png") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["queries"] == {"sentences_drawn": 4, "seed": 0}
    assert [(each["index"], each["num_chunks"], each["num_queries"]) for each in told["indexes"]] == [
        ("words", 10, 4),
        ("more", 10, 4),
    ]
    assert told["indexes"][0]["points"][0]["p50_milliseconds"] > 0
    assert (home / "curve.png").read_bytes().startswith(b"\x89PNG")
    (home / "q.txt").write_text("apple\nriver\n")
    assert run(monkeypatch, "bench", "index", "--name", "more", "--queries", "q.txt", "-k", "3", "--rounds", "1") == 0
    shown = capsys.readouterr().out
    assert "2 queries, 10 chunks, 1 rounds" in shown and "recall@3" in shown
    assert "more (bm25)" in shown and "words" not in shown and "more: searches exactly" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--index", "nowhere"], 2, "there is no index at nowhere"),
        (["--name", "dense"], 2, "there is no index 'dense'; allowed: words, more"),
        (["-k", "0"], 2, "-k"),
        (["--rounds", "0"], 2, "--rounds"),
        (["--queries", "none.txt"], 2, "cannot read the queries none.txt: No such file"),
        (["--plot", "curve.gif"], 2, "allowed: .png, .svg, .pdf"),
    ],
)
def test_misuse_is_one_clear_line(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    run(monkeypatch, "ingest", "docs", "--config", "light.yaml")
    capsys.readouterr()
    assert run(monkeypatch, "bench", "index", *arguments) == code
    assert message in capsys.readouterr().err


def test_without_matplotlib_nothing_is_measured(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "ingest", "docs", "--config", "light.yaml")
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(monkeypatch, "bench", "index", "--plot", "curve.png") == 1
    told = capsys.readouterr()
    assert "--plot needs the package 'matplotlib': pip install 'ragstone[report]'" in told.err and not told.out
    with pytest.raises(MissingExtra):
        draw([], home / "curve.png")
