"""Both layouts, and that a set whose spans do not say what they claim is refused by row."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rag.core import Span
from rag.errors import ReadError
from rag.eval.span_set import disjoint, document_of
from rag.eval.spans import read_spans
from rag.eval.transcripts import topic_starts

FIXTURES = Path(__file__).parents[1] / "fixtures" / "spans"
SHARED = Path(__file__).parents[2] / "../shared/data"


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "corpora_layout", tmp_path / "corpora_layout"))


@pytest.fixture
def meetings(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "meetings_layout", tmp_path / "meetings_layout"))


def rewrite(folder: Path, row: int, **cells: str) -> None:
    path = folder / "questions_df.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row - 1].update(cells)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def reference(content: Any, start: Any, end: Any) -> str:
    return json.dumps([{"content": content, "start_index": start, "end_index": end}])


def test_corpora_are_read_character_by_character(corpora: Path) -> None:
    spans = read_spans(corpora)
    assert spans.name == "corpora_layout" and not spans.topics
    assert [document.source for document in spans.documents] == ["clocks.md", "ponds.md", "unasked.md"], "unasked ones stay in"
    ponds = spans.documents[1]
    assert ponds.text == (corpora / "corpora" / "ponds.md").read_text(encoding="utf-8")
    assert len(ponds.elements) == 5 and all(element.span.of(ponds.text).strip() for element in ponds.elements)
    assert len(spans.questions) == 7
    mud = spans.questions[1]
    assert mud.source == "ponds.md"
    assert [span.of(ponds.text) for span in mud.spans] == [
        "The pond is drained every third winter.",
        "The mud goes to the gardens, which need it badly.",
    ]
    assert mud.spans[1].start > ponds.text.index("The mud goes"), "the second of two equal passages, as the offsets say"


def test_line_breaks_are_left_as_they_are(corpora: Path) -> None:
    (corpora / "corpora" / "clocks.md").write_bytes("Tick.\r\n\r\nTock – tack.\r".encode())
    (corpora / "questions_df.csv").write_text(
        'question,references,corpus_id\nWhat?,"[{""content"": ""Tock –"", ""start_index"": 9, ""end_index"": 15}]",clocks\n',
        encoding="utf-8",
    )
    spans = read_spans(corpora)
    assert spans.documents[0].text == "Tick.\r\n\r\nTock – tack.\r"
    assert [element.span.of(spans.documents[0].text) for element in spans.documents[0].elements] == ["Tick.", "Tock – tack."]
    assert spans.questions[0].spans == (Span(9, 15),)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"references": reference("carp", 31, 35)}, "row 2: characters 31 to 35 of 'ponds' are 'he l', not 'carp'"),
        ({"references": reference("x", 5000, 5001)}, "row 2: span 5000 to 5001 is empty or outside the"),
        ({"references": reference("", 3, 3)}, "row 2: span 3 to 3 is empty"),
        ({"references": reference("C", -578, 1)}, "row 2: span -578 to 1 is empty or outside"),
        ({"references": reference(" ", 4, 5)}, "row 2: span 4 to 5 holds nothing but blanks"),
        ({"references": reference("C", "0", 1)}, "row 2: references.0.start_index: Input should be a valid integer"),
        ({"references": reference("C", 0.0, 1)}, "row 2: references.0.start_index"),
        ({"references": "[{}]"}, "row 2: references.0.content: Field required"),
        ({"references": "[]"}, "row 2: references is an empty list"),
        ({"references": "carp"}, "row 2: references: Invalid JSON"),
        ({"corpus_id": "../../secret"}, "row 2: corpus_id '../../secret' is not in corpora/; allowed: clocks, ponds, unasked"),
        ({"question": "  "}, "row 2: the question is blank"),
    ],
)
def test_a_bad_row_is_named(corpora: Path, cells: dict[str, str], message: str) -> None:
    rewrite(corpora, 2, **cells)
    with pytest.raises(ReadError) as caught:
        read_spans(corpora)
    assert message in str(caught.value) and "questions_df.csv" in str(caught.value)


def test_files_that_are_not_in_the_layout(corpora: Path) -> None:
    questions = corpora / "questions_df.csv"
    whole = questions.read_text(encoding="utf-8")
    for text, message in (
        (whole.replace("corpus_id", "corpus", 1), "has no column corpus_id"),
        ("question,references,corpus_id\n", "holds no question"),
        ("question,references,corpus_id\nWho?,[]\n", "row 1: has not as many cells as the head"),
        ('question,references,corpus_id\n"Who?,[],x\n', "not CSV"),
    ):
        questions.write_text(text, encoding="utf-8")
        with pytest.raises(ReadError, match=message):
            read_spans(corpora)
    questions.write_text(whole, encoding="utf-8")
    (corpora / "corpora" / "bytes.md").write_bytes(b"caf\xe9")
    with pytest.raises(ReadError, match=r"bytes.md: not UTF-8 \(.* at byte 3\)"):
        read_spans(corpora)
    shutil.rmtree(corpora / "corpora")
    with pytest.raises(ReadError, match="holds no .md file"):
        read_spans(corpora)


def test_the_size_limit_of_csv_cells_is_put_back(corpora: Path) -> None:
    before = csv.field_size_limit()
    rewrite(corpora, 1, question="How many " + "very " * 40_000 + "old carp?")
    assert len(read_spans(corpora).questions[0].query) > before
    assert csv.field_size_limit() == before


def test_meetings_become_lines_and_turn_ranges_become_characters(meetings: Path) -> None:
    spans = read_spans(meetings)
    assert [document.source for document in spans.documents] == ["meetings-1", "meetings-2"]
    first = spans.documents[0]
    assert first.text.split("\n")[3] == "Cleo: And when does the ferry start?"
    assert [element.span.of(first.text) for element in first.elements] == first.text.split("\n")
    assert [question.source for question in spans.questions] == ["meetings-1", "meetings-1", "meetings-2"]
    ferry, bench, flour = spans.questions
    assert "\n".join(span.of(first.text) for span in ferry.spans) == "\n".join(first.text.split("\n")[1:3])
    assert [span.of(first.text).count("\n") for span in bench.spans] == [0, 1], (
        "two ranges, one turn and two turns, kept apart by a break"
    )
    assert flour.spans[0].of(spans.documents[1].text).startswith("Emil: Flour is short"), "numbers do as well as strings"


def test_topics_come_from_their_list_else_from_the_questions(meetings: Path) -> None:
    topics = read_spans(meetings).topics
    assert (topics["meetings-1"].starts, topics["meetings-1"].labels) == ((6, 10), "topics")
    assert (topics["meetings-2"].starts, topics["meetings-2"].labels) == ((3,), "questions")
    assert len(topics["meetings-1"].units) == 13


def test_where_topics_start() -> None:
    assert topic_starts([(0, 4), (5, 9)], 10) == (5,)
    assert topic_starts([(5, 9), (0, 4)], 10) == (5,), "in any order"
    assert topic_starts([(2, 4), (7, 9)], 12) == (7,), "two turns before, between and behind are too few for a stretch"
    assert topic_starts([(3, 4), (8, 9)], 13) == (3, 5, 8, 10), "three turns are a stretch of their own"
    assert topic_starts([(0, 9), (3, 5)], 10) == (3,), "a topic inside another"
    assert topic_starts([(0, 9)], 10) == () == topic_starts([], 2)


def test_a_bad_meeting_is_named(meetings: Path) -> None:
    path = meetings / "meetings.jsonl"
    first, second = path.read_text(encoding="utf-8").splitlines()

    def raised(line: str) -> str:
        path.write_text(f"{first}\n\n{line}\n", encoding="utf-8")
        with pytest.raises(ReadError) as caught:
            read_spans(meetings)
        return str(caught.value)

    assert "row 3: specific_query_list.0: turns 3 to 7 are out of order or outside the 7 turns" in raised(
        second.replace("[[3, 4]]", "[[3, 7]]")
    )
    assert "row 3: specific_query_list.0: turns 4 to 3" in raised(second.replace("[[3, 4]]", "[[4, 3]]"))
    assert "row 3: specific_query_list.0.relevant_text_span.0.1: Input should be a valid integer" in raised(
        second.replace("[[3, 4]]", '[[3, "x"]]')
    )
    assert "row 3: Invalid JSON" in raised("{")
    assert "row 3: meeting_transcripts: Field required" in raised("{}")
    assert "row 3: specific_query_list.0: the query is blank" in raised(second.replace("How many sacks of flour are left?", " "))
    topics = second.replace('"topic_list": []', '"topic_list": [{"relevant_text_span": [["9", "9"]]}]')
    assert "row 3: topic_list.0: turns 9 to 9" in raised(topics)


def test_a_folder_in_neither_layout_or_in_both_is_refused(corpora: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "other.jsonl").write_text('{"_id": 1}\n')
    with pytest.raises(ValueError, match="holds neither of these: questions_df.csv"):
        read_spans(tmp_path / "empty")
    with pytest.raises(ValueError, match="holds neither of these"):
        read_spans(tmp_path / "nowhere")
    shutil.copy(FIXTURES / "meetings_layout" / "meetings.jsonl", corpora)
    with pytest.raises(ValueError, match="holds both of these"):
        read_spans(corpora)


def test_paragraphs_are_what_stands_between_blank_lines() -> None:
    document = document_of("s", "\n a\nb \n \t\n\nc\n\n")
    assert [element.span.of(document.text) for element in document.elements] == ["a\nb", "c"]
    assert document.text == "\n a\nb \n \t\n\nc\n\n"


def test_spans_that_overlap_or_touch_are_joined() -> None:
    assert disjoint([(4, 6), (0, 2), (6, 9), (5, 6), (12, 13)]) == (Span(0, 2), Span(4, 9), Span(12, 13))
    assert disjoint([]) == ()


@pytest.mark.parametrize(
    ("name", "documents", "questions", "spans"), [("chunking_evaluation", 5, 472, 790), ("qmsum_test", 35, 244, None)]
)
def test_the_published_sets_load(name: str, documents: int, questions: int, spans: int | None) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"there is no test data shared/data/{name}")
    found = read_spans(SHARED / name)
    assert (len(found.documents), len(found.questions)) == (documents, questions)
    assert spans is None or sum(len(question.spans) for question in found.questions) <= spans, "some touch and are joined"
