"""``rag chunk`` as a user runs it, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag import cli

EXAMPLE = Path(__file__).parents[1] / "examples" / "documents" / "word-processor-history.pdf"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ducks.md").write_text("# Ducks\n\nMallards nest [close] to water.\n\n# Geese\n\nGeese graze on grass.\n")
    settings = "models: {tokenizer: {use: words}}\nchunker: {use: structure, min_tokens: 0}\n"
    (tmp_path / "light.yaml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAG_CONFIG", "light.yaml")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["rag", "chunk", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_lists_chunks(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "ducks.md") == 0
    first, second, total = capsys.readouterr().out.splitlines()
    assert first.split() == ["1", "9", "tokens", "Ducks", "Mallards", "nest", "[close]", "to", "water."]
    assert second.split() == ["2", "6", "tokens", "Geese", "Geese", "graze", "on", "grass."]
    assert total == "2 chunks, 15 tokens, the longest 9"


def test_a_word_or_a_block_takes_the_place_of_the_chunker(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "ducks.md", "--chunker", "recursive") == 0
    assert capsys.readouterr().out.endswith("1 chunks, 15 tokens, the longest 15\n")
    assert run(monkeypatch, "ducks.md", "--chunker", "{use: fixed, max_tokens: 5}", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["chunker"] == {"use": "fixed", "max_tokens": 5}
    assert [row["tokens"] for row in printed["chunks"]] == [5, 5, 5]
    assert [row["number"] for row in printed["chunks"]] == [1, 2, 3]
    assert printed["chunks"][0]["span"] == {"start": 0, "end": len("Ducks\n\nMallards nest [close")}
    assert run(monkeypatch, "ducks.md", "--chunker", "structure") == 0  # with its configured options
    assert capsys.readouterr().out.endswith("2 chunks, 15 tokens, the longest 9\n")


def test_draws_pages(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL")
    assert run(monkeypatch, str(EXAMPLE), "--draw", "out.png", "--page", "2") == 0
    printed = capsys.readouterr().out
    assert printed.endswith("drew page 2 into out.png\n")
    assert " p. 2 " in printed and " p. 3 " not in printed
    assert (home / "out.png").read_bytes().startswith(b"\x89PNG")
    assert run(monkeypatch, str(EXAMPLE), "--draw", "all.png", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["chunks"]) > 5
    assert sorted(path.name for path in home.glob("all*")) == [f"all-{number}.png" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.md"], 2, "none.md: there is no such file"),
        (["."], 2, "is a folder, not a file"),
        (["ducks.md", "--chunker", "recusive"], 2, "did you mean 'recursive'?"),
        (["ducks.md", "--chunker", "{use: fixed, max_token: 5}"], 2, "max_token"),
        (["ducks.md", "--chunker", "{fixed"], 2, "must be a word, or a block such as '{use: spatial, mode: s2}'"),
        (["ducks.md", "--chunker", "{max_tokens: 5}"], 2, "must be a word, or a block"),
        (["ducks.md", "--draw", "out.png"], 2, "ducks.md has no boxes to draw; only PDF pages have"),
        (["ducks.md", "--draw", "out.png", "--page", "1"], 2, "cannot be drawn, only PDF pages can"),
        (["ducks.md", "--draw", "nowhere/out.png"], 2, "nowhere: there is no such folder for the picture"),
        ([str(EXAMPLE), "--draw", "out.png", "--page", "9"], 2, "has pages 1 to 5"),
        (["ducks.md", "--page", "0"], 2, "--page"),
    ],
)
def test_misuse_is_one_clear_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run(monkeypatch, *arguments) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (home / "out.png").exists()


def test_drawing_without_pillow_says_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    assert run(monkeypatch, str(EXAMPLE), "--draw", "out.png", "--page", "1") == 1
    assert "pip install 'ragstone[ocr]'" in capsys.readouterr().err
