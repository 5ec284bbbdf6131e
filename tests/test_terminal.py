"""What an ingest says of the files it left out: few lines, nothing uncounted."""

from __future__ import annotations

import pytest

from rag.ingest import IngestReport, Refusal
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
