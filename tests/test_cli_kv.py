"""``rag kv`` and ``rag ask --kv`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rag.cli import app
from rag.errors import RagError
from rag.kvcache.engine import KVEngine
from tests.tiny_models import save_llama

TEXTS = {
    "tower.txt": "The tower is 330 metres tall. It was built in 1889 beside the river.",
    "ducks.txt": "Ducks, geese and swans live by the water. The bridge was opened in 1932.",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index of two files, whose configuration answers by ``kv`` with a random model."""
    folder = tmp_path_factory.mktemp("kv")
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    model = save_llama(folder / "model", max_positions=4096)
    (folder / "rag.yaml").write_text(
        f"models:\n  lm: {{use: transformers, model: {model}, device: cpu}}\nindexes:\n  sparse: {{use: bm25}}\n"
        "generator: {use: kv, max_tokens: 8, prepare_chunks: false}\n"
    )
    done = rag(
        "ingest", *(str(folder / name) for name in TEXTS), "--index", str(folder / "i"), "--config", str(folder / "rag.yaml")
    )
    assert done.exit_code == 0, done.output
    return folder


def rag(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_warm_then_stats_then_clear(place: Path) -> None:
    index = ["--index", str(place / "i")]
    first, second = rag("kv", "warm", *index), rag("kv", "warm", *index)
    assert first.exit_code == 0 and first.output.startswith("2 chunks computed, 0 were there"), first.output
    told = json.loads(rag("kv", "stats", *index, "--json").output)
    assert told["tokens"] > 0
    assert second.output.startswith("0 chunks computed, 2 were there"), second.output
    assert "entries" in rag("kv", "stats", *index).output
    cleared = rag("kv", "clear", *index)
    assert cleared.exit_code == 0 and "3 entries forgotten" in cleared.output, "two chunks and the prefix"
    assert json.loads(rag("kv", "stats", *index, "--json").output)["entries"] == 0


def test_an_interrupted_warming_keeps_what_it_computed_and_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ["--index", str(place / "i")]
    rag("kv", "clear", *index)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)  # the prefix and one chunk are kept by then
        stopped = rag("kv", "warm", *index)
    assert isinstance(stopped.exception, RagError) and "goes on from there" in str(stopped.exception)
    again = rag("kv", "warm", *index)
    assert again.output.startswith("1 chunks computed, 1 were there"), again.output


def test_an_interrupted_check_leaves_the_earlier_verdict(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ["--index", str(place / "i")]
    check = ["kv", "check", *index, "--num-prompts", "2", "--num-tokens", "2", "--shares", "1"]
    rag(*check)
    (verdict,) = (place / "i" / "kv").glob("check-*.json")
    before = verdict.read_bytes()
    rag("kv", "clear", *index)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        stopped = rag(*check)
    assert isinstance(stopped.exception, RagError) and "an earlier one stands" in str(stopped.exception)
    assert verdict.read_bytes() == before
    assert rag("kv", "warm", *index).exit_code == 0


def interrupt_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C at the ``number``-th time that something computed is about to be kept."""
    keep, calls = KVEngine._keep, list[int]()

    def interrupted(engine: KVEngine, *arguments: Any) -> bool:
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return keep(engine, *arguments)

    patch.setattr(KVEngine, "_keep", interrupted)


@pytest.mark.parametrize("word", ["combined", "full"])
def test_ask_by_a_method_says_what_was_cached(place: Path, word: str) -> None:
    index = ["--index", str(place / "i")]
    rag("kv", "warm", *index)
    usage = json.loads(rag("ask", "How tall is the tower?", *index, "--kv", word, "--json").output)["usage"]
    assert (usage["cached_tokens"] > 0) == (word == "combined")
    shown = rag("ask", "How tall is the tower?", *index, "--kv", word).output
    assert ("prompt tokens cached" in shown) == (word == "combined")


def test_another_model_by_its_folder(place: Path, tmp_path: Path) -> None:
    other = save_llama(tmp_path / "other", seed=5, max_positions=4096)
    done = rag("ask", "How tall?", "--index", str(place / "i"), "--kv", "blend", "--lm", str(other), "--json")
    assert done.exit_code == 0 and json.loads(done.output)["usage"]["cached_tokens"] == 0, "another model, another cache"


def test_check_measures_writes_its_verdict_down_and_answers_obey(place: Path) -> None:
    index = ["--index", str(place / "i")]
    done = rag("kv", "check", *index, "--num-prompts", "2", "--num-tokens", "4", "--shares", "0,1", "--json")
    told = json.loads(done.output)
    by_share = {row["recompute"]: row for row in told["measured"]}
    assert by_share[1.0]["kl_nats"] < 1e-6 and by_share[1.0]["answer_match"] == 1.0 and by_share[1.0]["passes"]
    assert told["verdict"]["recompute"] in (0.0, 1.0) and done.exit_code == 0
    assert list((place / "i" / "kv").glob("check-*.json"))


def test_check_asks_the_users_own_questions_and_a_method_with_a_share_of_its_own_once(place: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("How tall is the tower?\n\nWhere do ducks live?\nWhen was the bridge opened?\n")
    asked = ["--questions", str(tmp_path / "asked.txt"), "--num-tokens", "2", "--json"]
    for _ in range(2):  # the second time a verdict is there, and must not decide what is measured
        told = json.loads(rag("kv", "check", "--index", str(place / "i"), "--kv", "block", *asked).output)
        (row,) = told["measured"]
        assert (row["method"], row["recompute"], row["num_prompts"]) == ("block", 0.0, 3)
        assert not row["passes"] and told["verdict"]["recompute"] is None, "a random model's chunks do not keep its answers"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ask", "How?", "--kv", "blnd"], 2, "blnd"),
        (["kv", "check", "--shares", "a"], 2, "--shares 'a'"),
        (["kv", "check", "--shares", "2"], 2, "between 0 and 1"),
        (["kv", "check", "--questions", "empty.txt"], 2, "empty.txt: there is no question in it"),
        (["kv", "stats", "--config", "plain.yaml"], 2, "use: kv"),
    ],
)
def test_bad_calls_are_named(place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str) -> None:
    (place / "plain.yaml").write_text("indexes:\n  sparse: {use: bm25}\n")
    (place / "empty.txt").write_text("\n \n")
    monkeypatch.chdir(place)
    failed = rag(*arguments, "--index", "i")
    assert failed.exception is not None and said in str(failed.exception)
