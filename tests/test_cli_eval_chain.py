"""`rag eval chain` and `rag eval data` as a user runs them: exit codes, one-line errors, files; a real process where Ctrl-C matters."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from rag.cli import main
from rag.eval.chain_report import ChainReport
from rag.eval.read_own import write_own
from tests.eval.chain_corpus import handbook
from tests.fakes import heed_interrupts

ROOT = Path(__file__).parents[1]
LIGHT = "indexes: {words: {use: bm25}}\nmodels: {tokenizer: {use: words}}\nchunker: {use: fixed}\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_own(handbook(20), tmp_path / "set")
    (tmp_path / "light.yaml").write_text(LIGHT)
    (tmp_path / "narrow.yaml").write_text(LIGHT + "select: {use: top, k: 1}\n")
    return tmp_path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


class Done(NamedTuple):
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def rag(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs ``rag eval ...`` in ``home``, in this process."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["rag", "eval", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_a_run_writes_a_report_and_prints_the_stages(home: Path, rag: Callable[..., Done]) -> None:
    done = rag("chain", "light.yaml,narrow.yaml", "set", "--out", "out", "--no-answers", "--limit", "12")
    assert done.returncode == 0, done.stderr
    assert all(
        word in done.stdout
        for word in ("A  light: ", "B  narrow: ", "questions lost", "retrieve", "select", "Against the baseline")
    )
    report = ChainReport.load(home / "out" / "report.json")
    assert (
        [config.name for config in report.configs] == ["light", "narrow"]
        and report.num_questions == 12
        and report.baseline == "light"
    )
    assert {question.id for question in report.configs[0].questions} < {question.id for question in handbook(20).questions}


def test_fail_under_is_an_exit_code(rag: Callable[..., Done]) -> None:
    arguments = ("chain", "light.yaml", "set", "--no-answers", "--limit", "5", "--fail-under")
    assert rag(*arguments, "recall@select=0.1").returncode == 0
    failed = rag(*arguments, "recall@select=1.1")
    assert failed.returncode == 1 and "light: recall@select is 1.0000, below 1.1" in failed.stderr
    for bad, said in (
        ("recall@select", "is not MEASURE=NUMBER"),
        ("recall@answer=1", "no question has a value of 'recall@answer'; there are"),
    ):
        wrong = rag(*arguments, bad)
        assert wrong.returncode == 2 and said in wrong.stderr and "Traceback" not in wrong.stderr


def test_bad_calls_are_one_line(rag: Callable[..., Done]) -> None:
    for arguments, said in (
        (("light.yaml", "nowhere"), "nowhere: there is no such file or folder"),
        (("absent.yaml", "set"), "cannot read the configuration absent.yaml"),
        (("light.yaml,light.yaml", "set"), "is named twice"),
        (("light.yaml", "light.yaml"), "is no question set"),
    ):
        done = rag("chain", *arguments)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) <= 4, done.stderr


def test_ctrl_c_keeps_what_was_finished(home: Path, rag: Callable[..., Done]) -> None:
    write_own(handbook(1000), home / "large")
    command = [sys.executable, "-m", "rag", "eval", "chain", "light.yaml", "large", "--out", "out", "--no-answers"]
    running = subprocess.Popen(command, cwd=home, env=environment(), stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)  # noqa: PLW1509
    deadline = time.monotonic() + 120
    while num_kept(home) < 10 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 1 and "the questions that were finished are kept" in said, said
    kept = num_kept(home)
    assert 10 <= kept < 1000 and not (home / "out" / "report.json").exists()
    assert rag("chain", "light.yaml", "large", "--out", "out", "--no-answers").returncode == 0
    assert num_kept(home) == 1000


def num_kept(home: Path) -> int:
    path = home / "out" / "cache" / "outcomes.sqlite"
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(path) as connection:
            return int(connection.execute("SELECT count(*) FROM texts").fetchone()[0])
    except sqlite3.OperationalError:  # not yet made
        return 0


def test_check_and_convert(home: Path, rag: Callable[..., Done]) -> None:
    checked = rag("data", "check", "set")
    assert checked.returncode == 0 and "nothing is wrong" in checked.stdout and "information points" in checked.stdout
    assert rag("data", "convert", "set", "again").returncode == 0
    first = json.loads((home / "again" / "questions.jsonl").read_text().splitlines()[0])
    assert first["points"] and first["coarse"]
    (home / "again" / "questions.jsonl").write_text(json.dumps({"id": "q", "question": "?", "sources": ["no such file"]}) + "\n")
    wrong = rag("data", "check", "again")
    assert (
        wrong.returncode == 1 and "missing documents: 1" in wrong.stdout and "'no such file', named by 1 questions" in wrong.stdout
    )
    assert rag("data", "convert", "set", "again").returncode == 2, "nothing is written over"
