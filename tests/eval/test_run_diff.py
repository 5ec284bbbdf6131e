"""Two runs side by side, and `rag eval report`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rag import cli
from rag.eval.chain_report import ChainReport, QuestionOutcome
from rag.eval.html_report import render
from rag.eval.run_diff import compare_runs
from rag.eval.run_diff_page import changes_section, changes_tables
from tests.eval.generated_report import generated_report


@pytest.fixture(scope="module")
def before() -> ChainReport:
    return generated_report(50, 2)


def broken(report: ChainReport, stage: str, share: float) -> ChainReport:
    """The first configuration loses ``share`` of what it still had at ``stage`` and everything after it."""
    draw = random.Random(0)
    config = report.configs[0]
    questions = [
        _without(question, stage) if question.points and draw.random() < share else question for question in config.questions
    ]
    return report.model_copy(update={"configs": [config.model_copy(update={"questions": questions}), *report.configs[1:]]})


def _without(question: QuestionOutcome, stage: str) -> QuestionOutcome:
    names = [outcome.stage for outcome in question.stages]
    later = names[names.index(stage) :]
    stages = [
        each.model_copy(update={"found": [False] * len(each.found)}) if each.stage in later else each for each in question.stages
    ]
    return question.model_copy(
        update={"stages": stages, "lost_at": question.lost_at if question.lost_at in names[: names.index(stage)] else stage}
    )


def test_a_stage_that_got_worse_is_named_with_the_questions_it_cost(before: ChainReport) -> None:
    now = broken(before, "select", 0.4)
    first, second = compare_runs(now, before)
    by_stage = {change.stage: change for change in first.stages}
    for stage in ("read", "chunk", "fuse"):
        found = by_stage[stage].difference
        assert found is not None and found.mean == 0 and found.inside_noise
    worse = by_stage["select"].difference
    assert worse is not None and not worse.inside_noise and worse.mean < 0
    came_through = {question.id for question in before.configs[0].questions if question.lost_at is None and question.points}
    lost_now = {question.id for question in now.configs[0].questions if question.lost_at is not None}
    assert {moved.id for moved in first.newly_lost} == came_through & lost_now and {moved.now for moved in first.newly_lost} == {
        "select"
    }
    assert not first.newly_found and "select worse" in first.words()
    assert not (second.newly_lost or second.newly_found or second.moved) and "outside the noise: nothing" in second.words()


def test_it_is_the_same_the_other_way_round(before: ChainReport) -> None:
    now = broken(before, "fuse", 0.5)
    forth, back = compare_runs(now, before)[0], compare_runs(before, now)[0]
    assert {moved.id for moved in forth.newly_lost} == {moved.id for moved in back.newly_found}
    for one, two in zip(forth.stages, back.stages, strict=True):
        assert (one.before, one.now, one.lost_before, one.lost_now) == (two.now, two.before, two.lost_now, two.lost_before)
        assert one.difference is not None and two.difference is not None
        assert one.difference.mean == pytest.approx(-two.difference.mean) and one.difference.p == two.difference.p


def test_only_what_both_runs_have_is_compared(before: ChainReport) -> None:
    fewer = before.configs[0].model_copy(update={"questions": before.configs[0].questions[10:]})
    (change,) = compare_runs(before.model_copy(update={"configs": [fewer]}), before)
    assert (change.num_questions, change.num_only_now, change.num_only_before) == (40, 0, 10)
    renamed = before.model_copy(update={"configs": [before.configs[0].model_copy(update={"name": "renamed"})]})
    single = before.model_copy(update={"configs": before.configs[:1]})
    assert compare_runs(renamed, single)[0].words().startswith("renamed (before: structure 256, convex)")
    with pytest.raises(ValueError, match="no configuration in common: renamed here, structure 256, convex, fixed 128"):
        compare_runs(renamed, before)
    other = before.configs[0].model_copy(
        update={"questions": [before.configs[0].questions[0].model_copy(update={"id": "another"})]}
    )
    with pytest.raises(ValueError, match="no question in common"):
        compare_runs(before.model_copy(update={"configs": [other]}), before)


def test_the_changes_are_on_the_page_and_in_the_tables(before: ChainReport) -> None:
    changes = compare_runs(broken(before, "select", 0.4), before)
    page = render(before, [changes_section(changes, "<before>")])
    assert "&lt;before&gt;" in page and "<before>" not in page and f"Newly lost: {len(changes[0].newly_lost)}" in page
    assert [table.row_count for table in changes_tables(changes)] == [
        10,
        min(10, len(changes[0].newly_lost)),
        len(changes[1].stages),
    ]


def test_the_command(
    before: ChainReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(before, "select", 0.4).save(tmp_path / "now.json")
    before.save(tmp_path / "before.json")
    (tmp_path / "wrong.json").write_text('{"name": 1}')

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["rag", "eval", "report", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    now, page = str(tmp_path / "now.json"), str(tmp_path / "page.html")
    code, said, _ = run(now, "--out", page)
    assert code == 0 and "recall at the stage answer" in said and "accuracy %, coarse filter" in said
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    code, said, _ = run(now, "--compare", str(tmp_path / "before.json"), "--out", page)
    assert code == 0 and "newly lost by structure 256, convex" in said and "What changed" in (tmp_path / "page.html").read_text()
    for arguments, message in (
        (["none.json"], "none.json: there is no such report"),
        ([str(tmp_path / "wrong.json")], "wrong.json is no report of rag eval chain: name: Input should be a valid string"),
        ([now, "--out", str(tmp_path / "none" / "page.html")], "there is no such folder for the page"),
    ):
        code, _, error = run(*arguments)
        assert code == 2 and message in error and "Traceback" not in error
