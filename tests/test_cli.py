"""The command as a user runs it: real processes, real files, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes import heed_interrupts

ROOT = Path(__file__).parents[1]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ducks.md").write_text("# Ducks\n\nMallards nest close to water. They eat weed and snails.\n")
    (tmp_path / "docs" / "cats.txt").write_text("Cats sleep most of the day. At night they hunt mice.\n")
    light = "indexes: {words: {use: bm25}}\nmodels: {tokenizer: {use: words}}\nchunker: {use: recursive}\n"
    (tmp_path / "light.yaml").write_text(light)
    return tmp_path


def rag(home: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "rag", *arguments]
    return subprocess.run(command, check=False, cwd=home, env=environment, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def ingested(home: Path) -> None:
    done = rag(home, "ingest", "docs", "--config", "light.yaml")
    assert done.returncode == 0, done.stderr
    assert "2 added; 2 chunks encoded" in done.stdout


def test_ingest_search_delete_and_verify(home: Path) -> None:
    ingested(home)
    assert "2 unchanged; 0 chunks encoded" in rag(home, "ingest", "docs").stdout
    found = json.loads(rag(home, "search", "where do mallards nest", "--json").stdout)
    assert "nest close to water" in found[0]["chunk"]["text"]
    assert found[0]["why"]["words"]["rank"] == 1
    assert "docs/ducks.md" in rag(home, "search", "mallards").stdout
    assert rag(home, "delete", "docs/ducks.md").stdout.startswith("1 document deleted")
    assert json.loads(rag(home, "search", "mallards", "--json").stdout) == []
    assert rag(home, "index", "verify").stdout == "no damage found\n"
    assert json.loads(rag(home, "index", "compact").stdout)["documents"] == 1
    assert json.loads(rag(home, "index", "stats").stdout)["chunks"] == 1


def test_verify_names_damage_and_what_it_repaired(home: Path) -> None:
    ingested(home)
    victim = next((home / "rag.index" / "segments").rglob("keys.npy"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    found = rag(home, "index", "verify")
    assert found.returncode == 1 and "keys.npy: its bytes have changed" in found.stdout
    as_json = json.loads(rag(home, "index", "verify", "--json").stdout)
    assert as_json == {"damaged": [found.stdout.strip()], "repaired": []}
    repaired = rag(home, "index", "verify", "--repair")
    assert repaired.returncode == 0 and repaired.stdout.startswith("repaired: ") and "keys.npy" in repaired.stdout
    assert rag(home, "index", "verify").stdout == "no damage found\n"
    assert json.loads(rag(home, "delete", "docs/cats.txt", "--json").stdout) == {"deleted": 1}


def test_ask_prints_a_checked_citation(home: Path) -> None:
    ingested(home)
    done = rag(home, "ask", "Where do mallards nest?", "--json")
    answer = json.loads(done.stdout)
    (citation, *_) = answer["citations"]
    assert "Mallards nest close to water." in citation["quote"]
    assert citation["source"].endswith("docs/ducks.md")
    assert {"words", "select", "generate"} <= set(answer["seconds"])
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ask", "hello"], 2, "error: there is no index at rag.index (`rag ingest PATH --index rag.index` makes one)"),
        (["ingest", "nowhere"], 2, "nowhere"),
        (["ingets"], 2, "No such command"),
        (["ingest", "docs", "--config", "none.yaml"], 2, "error: cannot read the configuration none.yaml"),
        (["search", "x", "-k", "0"], 2, "-k"),
        (["config", "show", "--config", "light.yaml", "--index", "light.yaml"], 0, ""),
        (["init", "light.yaml"], 2, "error: light.yaml exists already"),
        (["eval", "beir", "docs"], 2, "corpus.jsonl"),
    ],
)
def test_misuse_is_one_clear_line(home: Path, arguments: list[str], code: int, message: str) -> None:
    done = rag(home, *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(home: Path) -> None:
    assert "Traceback" in rag(home, "ask", "hello", "--debug").stderr


def test_one_bad_file_costs_one_file_and_the_exit_code_says_so(home: Path) -> None:
    (home / "docs" / "broken.pdf").write_bytes(b"%PDF-1.7\nthis is not a pdf")
    done = rag(home, "ingest", "docs", "--config", "light.yaml")
    assert done.returncode == 1
    assert "failed docs/broken.pdf:" in done.stderr
    assert "2 added, 1 failed" in done.stdout


def test_filters_and_readers(home: Path) -> None:
    rag(home, "ingest", "docs", "--config", "light.yaml", "--readers", "user:ann")
    assert json.loads(rag(home, "search", "mallards", "--json").stdout) == []
    assert len(json.loads(rag(home, "search", "mallards", "--json", "--as", "user:ann").stdout)) == 1
    assert json.loads(rag(home, "search", "mallards", "--json", "--as", "user:ann", "--where", "title = 'x'").stdout) == []
    done = rag(home, "search", "mallards", "--where", "title ==")
    assert (done.returncode, "filter" in done.stderr) == (2, True)


def test_init_writes_a_configuration_that_works(home: Path) -> None:
    assert rag(home, "init", "mine.yaml").returncode == 0
    shown = rag(home, "config", "show", "--config", "mine.yaml")
    assert shown.returncode == 0 and "chunker:" in shown.stdout
    schema = json.loads(rag(home, "config", "schema").stdout)
    assert "chunker.structure" in schema["$defs"]


def test_chat_answers_line_by_line(home: Path) -> None:
    ingested(home)
    done = rag(home, "chat", input="Where do mallards nest?\n\n")
    assert done.returncode == 0 and "close to water" in done.stdout


@pytest.mark.parametrize("module", ["typer", "rag.terminal"])
def test_an_interrupt_before_anything_is_done_shows_no_traceback(home: Path, module: str) -> None:
    program = (
        "import sys, importlib.abc\n"
        "class Interrupts(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from rag.__main__ import main\n"
        "main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, "search", "x"], check=False, cwd=home, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 130 and not done.stderr.strip() and not done.stdout.strip()


def test_an_interrupt_leaves_a_valid_index(home: Path) -> None:
    for number in range(400):
        (home / "docs" / f"{number}.txt").write_text(f"File number {number}.\n\n" + "Words stand here in a row. " * 200)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from rag.__main__ import main; main()", "ingest", "docs", "--config", "light.yaml"]
    running = subprocess.Popen(
        command,
        cwd=home,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509 - no thread of this process holds a lock that matters to it
    )
    while not (home / "rag.index" / "catalog.sqlite").exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert "interrupted" in errors and "Traceback" not in errors, errors
    assert running.returncode == 1
    assert rag(home, "index", "verify").stdout == "no damage found\n"
    assert rag(home, "ingest", "docs").returncode == 0
    assert json.loads(rag(home, "index", "stats").stdout)["documents"] == 402
