"""The report page: it holds, it says what the report says, and no document can write into it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.eval.chain_report import AnswerOutcome, ChainReport, Passage, QuestionOutcome, StageOutcome
from rag.eval.html_questions import excerpt, question_data
from rag.eval.html_report import render, write_html
from rag.eval.html_shapes import apart, ticks
from rag.eval.html_text import clean, json_for_script, tag
from rag.eval.report_tables import tables
from rag.eval.report_values import check_measure, default_measure, stages_of, value_of, values_of
from rag.eval.report_words import headline, num_with_points, pareto, signed
from tests.eval.generated_report import generated_report

VOID = {"meta", "br", "input", "hr", "col"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> <!-- ]]> \u2028\u2029 \x00\ud800 ' \" & \u202e"


class Page(HTMLParser):
    """Elements with their attributes and own text; raises on a tag that closes what is not open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open, [self.elements[place][0] for place in self._open]

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes), []))
        if name not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, name: str) -> None:
        opened = self.elements[self._open.pop()][0]
        assert opened == name, f"</{name}> closes <{opened}>"

    def handle_data(self, text: str) -> None:
        if self._open:
            self.elements[self._open[-1]][2].append(text)

    def texts(self, name: str) -> list[str]:
        return ["".join(text) for found, _, text in self.elements if found == name]

    def data(self) -> Any:
        return json.loads(next("".join(text) for name, attributes, text in self.elements if attributes.get("id") == "data"))


@pytest.fixture(scope="module")
def report() -> ChainReport:
    return generated_report(30)


@pytest.fixture(scope="module")
def page(report: ChainReport) -> Page:
    return Page(render(report))


def hostile(report: ChainReport) -> ChainReport:
    """The report with every text of a stranger replaced by something that wants out."""
    source = f"folder/{HOSTILE}.pdf"
    passage = Passage(source=source, start=3, end=3 + len(HOSTILE), text=HOSTILE, score=math.inf, rank=1)
    answer = AnswerOutcome(text=HOSTILE, abstained=False, citations=[passage], measures={HOSTILE: 1.0}, failures={HOSTILE: HOSTILE})
    stage = StageOutcome(stage=HOSTILE, found=[True], found_filtered=[False], passages=[passage], seconds=0.1)
    question = QuestionOutcome(
        id=HOSTILE, question=HOSTILE, type=HOSTILE, answerable=HOSTILE, reference=HOSTILE, points=[HOSTILE], evidence=[passage], stages=[stage], answer=answer,
        lost_at=HOSTILE, error=HOSTILE, cost={HOSTILE: math.nan}, measures={HOSTILE: 2.0},
    )  # fmt: skip
    renamed = [summary.model_copy(update={"stage": HOSTILE}) for summary in report.configs[0].stages[:1]]
    update = {
        "name": HOSTILE,
        "questions": [question],
        "stages": renamed,
        "config": {HOSTILE: [HOSTILE]},
        "answers": {},
        "cost": {HOSTILE: 1.0},
    }
    config = report.configs[0].model_copy(update=update)
    compared = report.comparisons[0].model_copy(update={"config": HOSTILE, "baseline": HOSTILE, "measure": HOSTILE})
    return report.model_copy(
        update={
            "name": HOSTILE, "created": HOSTILE, "baseline": HOSTILE, "configs": [config], "comparisons": [compared], "remarks": [HOSTILE],
            "versions": {HOSTILE: HOSTILE}, "machine": {HOSTILE: HOSTILE}, "documents": {source: "abc" + HOSTILE + "xyz"},
        }
    )  # fmt: skip


def test_no_document_can_write_into_the_page(report: ChainReport) -> None:
    text = render(hostile(report))
    found = Page(text)
    assert [attributes.get("type") for name, attributes, _ in found.elements if name == "script"] == ["application/json", None]
    assert not [name for name, _, _ in found.elements if name in ("img", "iframe", "object", "link", "form", "base")]
    assert not [key for _, attributes, _ in found.elements for key in attributes if key.startswith("on") or key in ("src", "style")]
    text.encode("utf-8")  # no surrogate is left
    assert not re.search("[\x00-\x08\u2028\u2029]", text[text.index('id="data"') :])
    (question,) = found.data()["questions"]
    assert [clean(part) for part in question["evidence"][0][3]] == ["abc", clean(HOSTILE), "xyz"]
    assert clean(question["question"]) == clean(question["runs"][0]["answer"]["text"]) == clean(HOSTILE)


def test_the_page_is_one_file_that_asks_for_nothing(report: ChainReport) -> None:
    text = render(report)
    assert not re.search(r"https?://|@import|url\(|\bsrc=|<link", text)
    assert "innerHTML" not in text and "eval(" not in text and "document.write" not in text


def test_only_the_pages_own_script_and_style_may_run(page: Page) -> None:
    policy = str(
        next(
            attributes["content"] for _, attributes, _ in page.elements if attributes.get("http-equiv") == "Content-Security-Policy"
        )
    )
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for kind, name in (("style", "style"), ("script", "script")):
        digest = base64.b64encode(hashlib.sha256(page.texts(name)[-1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_the_numbers_are_there_without_a_script(report: ChainReport, page: Page) -> None:
    cells = page.texts("td") + page.texts("span") + page.texts("th") + page.texts("b")
    for config in report.configs:
        for summary in config.stages:
            assert f"{100 * summary.recall.mean:.1f}" in cells and f"{100 * summary.accuracy_filtered.mean:.1f}" in cells
            assert summary.stage in cells and f"{summary.num_lost:,}" in cells
    assert (
        sum(name == "svg" and attributes.get("class") == "chart" for name, attributes, _ in page.elements)
        == len(report.configs) + 2
    )
    assert {question.question for question in report.configs[0].questions} <= set(cells)


def test_a_waterfall_ends_with_those_that_came_through(report: ChainReport, page: Page) -> None:
    said = page.texts("text")
    for config in report.configs:
        kept = sum(question.lost_at is None for question in config.questions if question.points)
        assert f"{kept} ({kept / num_with_points(config):.0%})" in said


def test_the_close_up_data_says_what_the_report_says(report: ChainReport, page: Page) -> None:
    data = page.data()
    for number, config in enumerate(report.configs):
        for given_question, kept in zip(config.questions, data["questions"], strict=True):
            run = kept["runs"][number]
            assert given_question.lost_at == (None if run["lost"] is None else data["stages"][run["lost"]])
            for stage, (name, found, *_, placed, total) in zip(given_question.stages, run["stages"], strict=True):
                assert (stage.stage, stage.found, len(stage.passages)) == (
                    data["stages"][name],
                    [bit == "1" for bit in found],
                    total,
                )
                for passage, (place, rank, score) in zip(stage.passages, placed, strict=False):
                    source, start, end, parts = kept["passages"][place]
                    assert (passage.source, passage.start, passage.end) == (data["sources"][source], start, end)
                    assert (passage.rank, passage.score) == (rank, score)
                    assert "".join(parts).strip("\u2026") in report.documents[passage.source]
        assert [kept["evidence"][0][3][1] for kept in data["questions"] if kept["evidence"]] == [
            question.evidence[0].text for question in config.questions if question.evidence
        ]


def test_a_large_report_is_cut_and_says_so(report: ChainReport) -> None:
    whole, nothing = question_data(report)
    for max_bytes in (300_000, 120_000, 20_000):
        made, remarks = question_data(report, max_bytes)
        assert len(json_for_script(made).encode()) < 1.25 * max_bytes and remarks
    assert not nothing and len(whole["questions"]) == 30 > len(made["questions"]) and "first" in remarks[0]
    middle, _ = question_data(report, 300_000)
    kept = [part for question in middle["questions"] for _, _, _, parts in question["passages"] for part in parts[1::2]]
    assert kept  # passages with evidence outlive the others


@given(st.text("ab \n", max_size=60), st.lists(st.tuples(st.integers(-3, 60), st.integers(-3, 60)), max_size=4), st.integers(1, 70))
def test_an_excerpt_is_a_piece_of_the_text_with_the_marked_characters_marked(
    text: str, spans: list[tuple[int, int]], size: int
) -> None:
    parts = excerpt(text, spans, size)
    marked = {place for start, end in spans for place in range(max(start, 0), min(end, len(text)))}
    joined = "".join(parts)
    body = joined.removeprefix("\u2026").removesuffix("\u2026")
    assert len(body) == min(size, len(text))
    flags = [number % 2 == 1 for number, part in enumerate(parts) for letter in part if letter != "\u2026"]
    fits = [
        start for start in range(len(text) - len(body) + 1)
        if text[start : start + len(body)] == body and flags == [place in marked for place in range(start, start + len(body))]
    ]  # fmt: skip
    assert fits
    if marked and len(text) > size:
        assert any(flags)


@pytest.mark.parametrize("num_configs", [1, 2, 12, 30])
def test_any_number_of_configurations(num_configs: int) -> None:
    report = generated_report(8, num_configs)
    page = Page(render(report))
    charts = [attributes for name, attributes, _ in page.elements if name == "svg" and attributes.get("class") == "chart"]
    assert len(charts) == min(num_configs, 6) + 2
    listed = page.texts("li")
    assert all(any(config.name in item for item in listed) for config in report.configs)


def test_what_a_report_lacks_is_left_out() -> None:
    bare = generated_report(6, 1, answers=False)
    config = bare.configs[0].model_copy(
        update={"recall_by_budget": {}, "precision_by_budget": {}, "iou_by_budget": {}, "cost": {}, "ingest": {}}
    )
    page = Page(render(bare.model_copy(update={"configs": [config], "comparisons": [], "remarks": [], "baseline": None})))
    anchors = [attributes["id"] for name, attributes, _ in page.elements if name == "section"]
    assert anchors == ["stages", "losses", "types", "questions", "made"]
    with pytest.raises(ValueError, match="has no configuration"):
        render(bare.model_copy(update={"configs": []}))


def test_writing(report: ChainReport, tmp_path: Path) -> None:
    write_html(report, tmp_path / "page.html", [("own", "Own", tag("section", "said < here", id="own"))])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and "said &lt; here" in text and 'href="#own"' in text
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_html(report, tmp_path / "none" / "page.html")


def test_the_headline_tells_noise_from_difference(report: ChainReport) -> None:
    questions = report.configs[0].questions
    worst = [
        question.model_copy(
            update={"stages": [each.model_copy(update={"found": [False] * len(each.found)}) for each in question.stages]}
        )
        for question in questions
    ]
    right = next(place for place, question in enumerate(questions) if question.points and question.lost_at is None)
    update = {
        "name": "twin",
        "cost": {"seconds/all": 0.01},
        "questions": [*questions[:right], worst[right], *questions[right + 1 :]],
    }
    twin = report.configs[0].model_copy(update=update)
    said = " ".join(headline(report.model_copy(update={"configs": [report.configs[0], twin], "comparisons": []})))
    assert "inside the noise" in said and "B (twin) is not told apart from it and takes 98% less time per question" in said
    said = " ".join(
        headline(report.model_copy(update={"configs": [report.configs[0], twin.model_copy(update={"questions": worst})]}))
    )
    assert "outside the noise" in said and said.startswith("A (structure 256, convex)")


def test_what_is_level_is_called_level(report: ChainReport) -> None:
    twin = report.configs[0].model_copy(update={"name": "twin"})
    said = headline(report.model_copy(update={"configs": [report.configs[0], twin], "comparisons": []}))
    assert said[0].startswith("A (structure 256, convex) and B (twin) have the same recall at the stage answer: ")
    assert not any("lead" in sentence for sentence in said)
    assert [signed("recall@answer", value) for value in (-0.0001, 0.0, -0.25, 0.5)] == ["0.0", "0.0", "\u221225.0", "+50.0"]


def test_the_headline_and_the_table_of_comparisons_say_the_same(report: ChainReport) -> None:
    best = max(report.configs, key=lambda config: config.stages[-1].recall.mean).name
    assert best != report.baseline
    for inside in (True, False):
        compared = [each.model_copy(update={"inside_noise": inside, "p_adjusted": 0.123}) for each in report.comparisons]
        said = headline(report.model_copy(update={"comparisons": compared}))
        (sentence,) = [sentence for sentence in said if "(structure 256, convex)" in sentence and "baseline" in sentence]
        assert ("inside the noise" in sentence) is inside and "p = 0.12 after correction" in sentence


def test_the_terminal_tables_hold_the_same_numbers(report: ChainReport) -> None:
    from rich.console import Console

    console = Console(width=250, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - the console closes nothing
    for table in tables(report):
        console.print(table)
    said = console.export_text()
    for config in report.configs:
        assert f"{config.name}: {sum(each.num_lost for each in config.stages)} of {num_with_points(config)} questions lost" in said
        assert f"{100 * config.stages[-1].recall.mean:.1f} (" in said
    assert "inside the noise" in said or "better" in said


def test_values_of_a_question() -> None:
    stage = StageOutcome(stage="select", found=[True, False], found_filtered=[False, False])
    question = QuestionOutcome(
        id="1", question="?", type="x", answerable="yes", points=["a", "b"], stages=[stage], measures={"select/iou": 0.25}
    )
    wanted = {
        "recall@select": 0.5,
        "accuracy@select": 0.0,
        "recall_filtered@select": 0.0,
        "select/iou": 0.25,
        "recall@answer": None,
        "f1": None,
    }
    assert {measure: value_of(question, measure) for measure in wanted} == wanted
    broken = question.model_copy(update={"error": "it broke"})
    assert [value_of(broken, measure) for measure in ("recall@answer", "f1", "select/iou")] == [0.0, 0.0, 0.25]
    answer = AnswerOutcome(text="", abstained=True, measures={"declined/yes": 1.0})
    assert value_of(question.model_copy(update={"answer": answer}), "declined/yes") == 1.0


def test_measures_are_checked_with_the_names_there_are(report: ChainReport) -> None:
    assert default_measure(report) == "recall@answer"
    for measure in ("token_f1", "recall_filtered@select", "fuse/ndcg@10"):
        check_measure(report, measure)
    with pytest.raises(ValueError, match=r"'recall@anser' \(did you mean 'recall@answer'\?\); there are: recall@read"):
        check_measure(report, "recall@anser")
    assert list(values_of(report.configs[0], "recall@select")) == [
        question.id for question in report.configs[0].questions if question.points
    ]


def test_stages_of_different_chains_keep_their_order(report: ChainReport) -> None:
    merged = stages_of(report.configs)
    for config in report.configs:
        own = [summary.stage for summary in config.stages]
        assert [stage for stage in merged if stage in own] == own


POINTS = st.lists(st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float)), min_size=1, max_size=9)


@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    front = [points[number] for number in pareto(points)]
    beaten = [one for one in points if any(two[0] <= one[0] and two[1] >= one[1] and two != one for two in points)]
    assert set(front) == set(points) - set(beaten) and len(set(front)) == len(front)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.floats(0, 1000), st.floats(0.1, 1000))
@settings(max_examples=50)
def test_labels_keep_their_distance_and_ticks_lie_inside(wanted: list[float], low: float, span: float) -> None:
    placed = sorted(apart(wanted, 15.0, 0.0, 100.0))
    assert all(two - one >= 15.0 - 1e-9 for one, two in itertools.pairwise(placed))
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 8 and all(low - 1e-6 * span <= tick <= low + span * 1.000001 for tick in found)
