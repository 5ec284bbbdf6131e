"""Answers that are kept: right ones or none, whatever happens to the file, among threads and processes."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rag import config
from rag.core import LM, Completion, Message, Prompt
from rag.errors import ConfigError, ModelError
from rag.lm import TransformersLM
from rag.lm_answers import ENTRY_BYTES, AnswerStore
from rag.lm_cached import CachedLM
from tests.fakes import ToyLM
from tests.tiny_models import save_llama

ROOT = Path(__file__).parents[1]
PROMPTS: list[Prompt] = ["Where?", [Message("user", "Where?")], "naïve \ud800 東京", "Where?", ""]
TEXTS = ["a b a", "a", ""]


def asked(lm: LM) -> list[Any]:
    """Every method, with doubles, odd characters and empty lists."""
    return [
        lm.complete(PROMPTS, stop=["x"], max_tokens=5),
        lm.complete([]),
        lm.score(PROMPTS, ("yes", "no")),
        [[tuple(map(tuple, each.spans)), [str(value) for value in each.logprobs]] for each in lm.logprobs(TEXTS)],  # nan equals nan
        lm.continuation_logprobs(PROMPTS[:3], ["a a", "b", "東"]),
        list(lm.stream("Where to?", max_tokens=4))[-1],
    ]


def test_answers_are_those_of_the_inner_model_and_asked_once(tmp_path: Path) -> None:
    inner, expected = ToyLM(), asked(ToyLM())
    first = CachedLM(inner, tmp_path / "new" / "folder")
    assert asked(first) == expected
    num_calls = inner.num_calls
    assert (first.hits, first.misses) == (0, 5 + 5 + 3 + 3 + 1) and num_calls == 5
    again = CachedLM(inner, tmp_path / "new" / "folder")
    assert asked(again) == expected and asked(first) == expected
    assert inner.num_calls == num_calls and (again.hits, again.misses) == (17, 0)


def test_only_what_is_missing_is_asked_in_one_call_and_once(tmp_path: Path) -> None:
    inner = ToyLM()
    lm = CachedLM(inner, tmp_path)
    lm.score(["a", "b"], ("yes", "no"))
    inner.prompts.clear()
    scores = lm.score(["c", "a", "d", "c", "b"], ("yes", "no"))
    assert list(inner.prompts) == ["c", "d"] and inner.num_calls == 2
    assert scores == ToyLM().score(["c", "a", "d", "c", "b"], ("yes", "no"))


def test_everything_that_matters_is_part_of_the_question(tmp_path: Path) -> None:
    inner = ToyLM()
    lm = CachedLM(inner, tmp_path)
    calls: list[Any] = [
        lambda: lm.complete(["a"]),
        lambda: lm.complete(["a"], max_tokens=7),
        lambda: lm.complete(["a"], stop=["b"]),
        lambda: lm.complete(["a"], stop=["b", "c"]),
        lambda: lm.complete([[Message("user", "a")]]),
        lambda: lm.complete([[Message("system", "a")]]),
        lambda: lm.score(["a"], ("x", "y")),
        lambda: lm.score(["a"], ("y", "x")),
        lambda: lm.score(["a"], ("x",)),
        lambda: lm.logprobs(["a"]),
        lambda: lm.continuation_logprobs(["a"], ["b"]),
        lambda: lm.continuation_logprobs(["a"], ["c"]),
    ]
    for number, call in enumerate(calls, start=1):
        call()
        assert inner.num_calls == number
    inner.fingerprint = "another"
    calls[0]()
    assert inner.num_calls == len(calls) + 1


def test_a_stream_is_kept_when_it_was_read_to_its_end(tmp_path: Path) -> None:
    inner = ToyLM(answer=lambda _: "one two three")
    lm = CachedLM(inner, tmp_path)
    stream = lm.stream("a")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    pieces = list(lm.stream("a"))
    assert inner.num_calls == 2 and len(pieces) > 2
    assert list(lm.stream("a")) == ["one two three", pieces[-1]]
    assert lm.complete(["a"]) == [pieces[-1]] and inner.num_calls == 2
    empty = CachedLM(ToyLM(answer=lambda _: ""), tmp_path / "b")
    assert list(empty.stream("a")) == list(empty.stream("a")) == [Completion("", 0, 0, "stop")]


def test_the_longest_unused_answers_go_first(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, 4 * (ENTRY_BYTES + 10))
    keys = [bytes([n]) * 16 for n in range(8)]
    for key in keys[:4]:
        store.put({key: "x" * 10})
    assert store.get(keys[:1])
    store.put({keys[4]: "y" * 10, keys[5]: "y" * 10})
    assert sorted(store.get(keys)) == [keys[0], keys[3], keys[4], keys[5]]
    assert len(store) == 4 and store.num_bytes() == 4 * (ENTRY_BYTES + 10)
    store.put({keys[6]: "z" * 1000})
    assert len(store) == 4 and keys[6] not in store.get(keys)
    store.put({keys[0]: "x" * 3})
    assert store.get(keys[:1]) == {keys[0]: "xxx"} and store.num_bytes() == 4 * (ENTRY_BYTES + 10) - 7


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=25), st.integers(1, 900))
def test_the_store_never_holds_more_than_it_may(puts: list[tuple[int, int]], max_bytes: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = AnswerStore(Path(folder), max_bytes)
        latest: dict[bytes, str] = {}
        for key, length in puts:
            latest[bytes([key]) * 16] = "t" * length
            store.put({bytes([key]) * 16: "t" * length})
            assert store.num_bytes() <= max_bytes
            if length + ENTRY_BYTES <= max_bytes:
                assert store.get([bytes([key]) * 16]) == {bytes([key]) * 16: "t" * length}
        found = store.get(list(latest))
        assert store.num_bytes() == sum(len(text) + ENTRY_BYTES for text in found.values())
        store.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[bytes, str]]:
    """The bytes of a file with everything in it, and what it holds."""
    folder = tmp_path_factory.mktemp("whole")
    store = AnswerStore(folder, 1 << 20)
    texts = {bytes([n]) * 16: f'["answer {n}", {n}]' * (1 + 40 * (n % 3)) for n in range(60)}
    store.put(texts)
    store.close()  # the last connection writes the log back
    return store.path.read_bytes(), texts


def damage(data: bytes, kind: str, place: float, noise: int) -> bytes:
    at = int(place * (len(data) - 1))
    if kind == "cut":
        return data[:at]
    if kind == "byte":
        return data[:at] + bytes([data[at] ^ (noise % 255 + 1)]) + data[at + 1 :]
    page = at // 4096 * 4096
    filler = bytes(4096) if kind == "zeros" else data[(noise * 4096) % len(data) :][:4096].ljust(4096, b"\0")
    return data[:page] + filler + data[page + 4096 :]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["cut", "byte", "zeros", "page"]), st.floats(0, 1), st.integers(0, 999))
@example("byte", 0.02988348134546804, 127)  # sqlite's message quotes bytes that are no text
@example("byte", 0.029296875, 127)
def test_a_damaged_file_gives_right_answers_or_none(
    whole: tuple[bytes, dict[bytes, str]], tmp_path: Path, kind: str, place: float, noise: int
) -> None:
    data, texts = whole
    store = AnswerStore(tmp_path, 1 << 20)
    for path in tmp_path.iterdir():
        path.unlink()
    store.path.write_bytes(damage(data, kind, place, noise))
    try:
        for key, text in store.get(list(texts)).items():
            assert text == texts[key]
        store.put({b"n" * 16: "new"})
        assert store.get([b"n" * 16]) in ({b"n" * 16: "new"}, {})
    except ModelError as error:
        assert str(store.path) in str(error) and "delete it" in str(error)
    finally:
        store.close()


@pytest.mark.parametrize("content", [b"my diary, not a database" * 300, b"SQLite format 3\0 and then nonsense" * 300])
def test_a_file_of_somebody_else_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    lm = CachedLM(ToyLM(), tmp_path)
    lm.store.path.write_bytes(content)
    with pytest.raises(ModelError, match="answers-1.sqlite"):
        lm.complete(["a"])
    assert lm.store.path.read_bytes() == content


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    lm = CachedLM(ToyLM(), tmp_path)
    with sqlite3.connect(lm.store.path) as db:
        db.execute("CREATE TABLE answers (mine)")
    db.close()
    with pytest.raises(ModelError, match="another program"):
        lm.complete(["a"])
    with pytest.raises(ModelError, match="folder"):
        CachedLM(ToyLM(), lm.store.path / "below").complete(["a"])


def test_a_store_that_is_locked_loses_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.lm_answers.BUSY_SECONDS", 0.01)
    lm = CachedLM(ToyLM(), tmp_path)
    lm.complete(["a"])
    other = sqlite3.connect(lm.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert lm.complete(["a", "b"]) == ToyLM().complete(["a", "b"])
    assert lm.store.num_unsaved == 1
    other.execute("ROLLBACK")
    other.close()
    assert lm.complete(["b"]) == ToyLM().complete(["b"]) and lm.misses == 3


def test_threads_share_a_store(tmp_path: Path) -> None:
    lm = CachedLM(ToyLM(), tmp_path)
    prompts = [f"question {n}" for n in range(30)]
    expected = ToyLM().score(prompts, ("yes", "no"))
    found: list[list[list[float]]] = []

    def ask() -> None:
        found.extend(lm.score(prompts, ("yes", "no")) for _ in range(3))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 18
    assert lm.hits + lm.misses == 18 * 30 and len(lm.store) == 30


WORKER = """
import itertools, sys
from rag.lm_answers import AnswerStore
from pathlib import Path
store = AnswerStore(Path(sys.argv[1]), 20_000)
print("ready", flush=True)
for n in itertools.count() if sys.argv[2] == "forever" else range(int(sys.argv[2])):
    key = bytes([n % 251]) * 16
    store.put({key: f"text {n % 251} " * 20})
    for other, text in store.get([bytes([(n * 7) % 251]) * 16]).items():
        assert text == f"text {other[0]} " * 20
"""


def worker(folder: Path, rounds: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), rounds], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def intact(folder: Path) -> int:
    """The number of entries, each of which is right."""
    store = AnswerStore(folder, 20_000)
    found = store.get([bytes([n]) * 16 for n in range(251)])
    assert all(text == f"text {key[0]} " * 20 for key, text in found.items())
    assert len(store) == len(found) and store.num_bytes() <= 20_000
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    db.close()
    return len(found)


def test_processes_share_a_store(tmp_path: Path) -> None:
    workers = [worker(tmp_path, "120") for _ in range(3)]
    for process in workers:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert intact(tmp_path) > 20


def test_a_killed_process_leaves_a_whole_store(tmp_path: Path) -> None:
    for _ in range(2):
        process = worker(tmp_path, "forever")
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        threading.Event().wait(0.15)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
        assert intact(tmp_path) > 0


def test_a_forked_child_opens_the_file_anew(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, 1 << 20)
    store.put({b"a" * 16: "one"})
    parent = store._opened
    store._opened = (os.getpid() + 1, parent[1]) if parent else None
    assert store.get([b"a" * 16]) == {b"a" * 16: "one"} and store._opened != parent


# In a configuration -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield save_llama(tmp_path_factory.mktemp("llama"))


def test_a_configuration_puts_models_inside_one_another(tmp_path: Path, llama: Path) -> None:
    inner = {"use": "metered", "max_calls": 2, "inner": {"use": "transformers", "model": str(llama), "device": "cpu"}}
    block = {"use": "cached", "folder": str(tmp_path), "max_bytes": 10_000, "inner": inner}
    lm = config.Assembly(config.load({"models": {"lm": block}})).model("lm")
    assert isinstance(lm, CachedLM) and isinstance(lm.inner.inner, TransformersLM)  # type: ignore[attr-defined]
    assert lm.opened().network is lm.inner.inner._network  # type: ignore[attr-defined]
    plain = TransformersLM(str(llama), device="cpu")
    assert (lm.fingerprint, lm.context_tokens, lm.count_tokens("Ducks")) == (plain.fingerprint, 512, plain.count_tokens("Ducks"))
    for _ in range(4):
        assert lm.score(["Ducks"], ("yes", "no")) == plain.score(["Ducks"], ("yes", "no"))
    assert lm.inner.usage().calls == 1  # type: ignore[attr-defined]
    assert all(math.isfinite(value) for value in lm.logprobs(["Ducks and geese"])[0].logprobs[1:])
    assert "inner" in str(config.schema()["$defs"]["lm.cached"]["properties"])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"use": "cached", "folder": "x", "inner": {"use": "transformer", "model": "m"}},
            "models.lm.inner.use.*did you mean 'transformers'",
        ),
        (
            {"use": "cached", "folder": "x", "inner": {"use": "transformers"}},
            r"models.lm.inner \(transformers\): model: is required",
        ),
        ({"use": "cached", "inner": {"use": "transformers", "model": "m"}}, "folder: is required"),
        ({"use": "cached", "folder": "x", "max_bytes": 0, "inner": {"use": "transformers", "model": "m"}}, "max_bytes=0"),
    ],
)
def test_bad_blocks_are_named(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.Assembly(config.load({"models": {"lm": block}})).model("lm")


def test_what_runs_elsewhere_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not run in this process"):
        CachedLM(ToyLM(), tmp_path).opened()
