"""What an ingest shows while it works, and what it says of the files it left out: few lines, nothing uncounted."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from rag import terminal
from rag.ingest import IngestReport, Progress, Refusal
from rag.terminal import print_report, skipped_lines

NOT_READ = "files of this type are not read"


def test_files_left_out_for_one_reason_share_a_line() -> None:
    images = [Refusal(f"pictures/{number}.GIF", NOT_READ) for number in range(11)]
    others = [Refusal("a.zip", NOT_READ), Refusal("b/LICENSE", NOT_READ)]
    link = Refusal("c.md", "is a link to d.md, which is read under its own name")
    assert skipped_lines([*images, link, *others]) == [
        f"13 files (11 .gif, 1 .zip, 1 no suffix): {NOT_READ}",
        "c.md: is a link to d.md, which is read under its own name",
    ]
    assert skipped_lines([others[0]]) == [f"a.zip: {NOT_READ}"]
    assert skipped_lines([]) == []


def test_many_suffixes_and_many_reasons_are_counted_too() -> None:
    kinds = [Refusal(f"x.{chr(97 + number)}", NOT_READ) for number in range(20)]
    (line,) = skipped_lines(kinds)
    assert line.startswith("20 files (1 .a, 1 .b, ") and line.endswith(f"1 .l, 8 of other types): {NOT_READ}")
    links = [Refusal(f"{number}.md", f"is a link to {number}.txt, which is read under its own name") for number in range(40)]
    lines = skipped_lines([*links, *kinds])
    assert lines[0] == line and len(lines) == 13
    assert lines[-1] == "29 more files for other reasons; --json lists them all"
    assert len(skipped_lines(links[:12])) == 12


def test_files_that_failed_are_all_named(capsys: pytest.CaptureFixture[str]) -> None:
    failed = tuple(Refusal(f"{number}.pdf", "is damaged") for number in range(30))
    print_report(IngestReport(failed=failed, skipped=(Refusal("a.zip", NOT_READ), Refusal("b.zip", NOT_READ))))
    told = capsys.readouterr()
    assert told.err.count("failed ") == 30 and "skipped 2 files (2 .zip)" in told.err
    assert "30 failed, 2 skipped" in told.out


def test_bars_show_files_and_the_chunks_of_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=said, force_terminal=True, width=120))
    with terminal.ingest_progress(quiet=False) as advance:
        assert advance is not None
        for step in (
            Progress(2, 2, 0, "b.md"),
            Progress(2, 2, 0, "b.md", "dense", 0, 700),
            Progress(2, 2, 0, "b.md", "dense", 64, 700),
        ):
            advance(step)
        time.sleep(0.3)  # the bar is drawn ten times a second
    assert "b.md" in said.getvalue() and "2/2" in said.getvalue()
    assert "dense" in said.getvalue() and "64/700" in said.getvalue()


def test_no_bars_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal.ingest_progress(quiet=True) as advance:
        assert advance is None
    monkeypatch.setattr(terminal, "err", Console(file=io.StringIO()))
    with terminal.ingest_progress(quiet=False) as advance:
        assert advance is None
