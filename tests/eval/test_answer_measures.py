"""All measures of an answer: which apply, which fail with a reason, and their means."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Answer, Chunk, Citation, Document, Hit, Span, Usage
from rag.eval import abstention, judge_prompts
from rag.eval.answer_measures import estimate, measure_answer, summarise, versions
from rag.eval.chain_report import AnswerOutcome, Passage, QuestionOutcome
from rag.eval.judge import Judge
from rag.eval.question import Evidence, Question, Turn
from rag.eval.support import MINILM
from rag.eval.support import NAME as SUPPORT
from tests.fakes import HashingEncoder, ToyLM

DOCUMENT = Document(Document.id_of("/files/tower.md"), "/files/tower.md", "The tower is 330 m tall. It is grey.")
TEXTS = {DOCUMENT.source: DOCUMENT.text}
HIT = Hit(Chunk.of(DOCUMENT, Span(0, len(DOCUMENT.text))), 1.0)


def answer(text: str = "The tower is 330 m tall. [1]", *, cited: bool = True, abstained: bool = False) -> Answer:
    citation = Citation(1, DOCUMENT.id, DOCUMENT.source, HIT.chunk.id, 0, 24, DOCUMENT.text[:24])
    return Answer("How tall is it?", text, (citation,) if cited else (), (HIT,), Usage(), {}, abstained)


def question(**known: Any) -> Question:
    evidence = (Evidence(source="tower.md", text="330 m", start=13, end=18),)
    return Question(**{"id": "1", "question": "How tall is it?", "answers": ("330 m",), "evidence": evidence, **known})


def honest(prompt: str) -> str:
    if prompt.startswith(judge_prompts.CLAIMS):
        return json.dumps({"claims": ["The tower is 330 m tall."]})
    return json.dumps({"verdict": "supported"} if prompt.startswith(judge_prompts.VERDICT) else {"score": 5})


def test_everything_that_is_known_is_measured() -> None:
    measures, failures = measure_answer(question(), answer(), TEXTS, ToyLM(answer=honest), HashingEncoder(), calibration=MINILM)
    assert failures == {}
    assert {name: round(value, 4) for name, value in measures.items() if name not in ("bleu", SUPPORT)} == {
        "declined/yes": 0.0,
        "exact_match": 0.0,
        "f1": 0.5714,  # 2 * 2 / (5 + 2)
        "rouge_l": 0.5714,
        "citation_precision": 0.2083,  # 5 of 24 characters
        "citation_recall": 1.0,
        "citations_on_evidence": 1.0,
        "evidence_cited": 1.0,
        "cited_sentences": 1.0,
        "correctness": 5.0,
        "relevance": 5.0,
        "faithfulness": 1.0,
    }
    assert measures[SUPPORT] > 0.9  # the sentence stands in the source


def test_an_abstention_is_wrong_where_there_is_an_answer_and_judged_no_further() -> None:
    measures, failures = measure_answer(
        question(), answer("No idea.", cited=False, abstained=True), TEXTS, ToyLM(answer=honest), HashingEncoder()
    )
    assert failures == {} and measures["declined/yes"] == 1.0 and measures["f1"] == measures["evidence_cited"] == 0.0
    assert "correctness" in measures and not {"faithfulness", "relevance", "cited_sentences", SUPPORT} & measures.keys()


def test_unanswerable_questions_have_no_right_wording() -> None:
    unanswerable = question(answers=("It is not said.",), evidence=(), answerable="no")
    measures, _ = measure_answer(unanswerable, answer(abstained=True), TEXTS, ToyLM(answer=honest))
    assert measures == {"declined/no": 1.0}
    measures, _ = measure_answer(unanswerable, answer(), TEXTS, ToyLM(answer=honest))
    assert measures.keys() == {"declined/no", "cited_sentences", "relevance", "faithfulness"}


def test_an_encoder_without_calibration_is_a_failure() -> None:
    measures, failures = measure_answer(question(), answer(), TEXTS, encoder=HashingEncoder())
    assert SUPPORT not in measures and "no calibration" in failures[SUPPORT]


def test_versions_tell_what_two_runs_must_share() -> None:
    assert versions() == {"answer measures": "1"}
    assert versions(ToyLM(), HashingEncoder(8)) == {"answer measures": "1", "judge": Judge(ToyLM()).version, SUPPORT: "hashing-8"}


def test_the_judge_reads_the_turns_before_the_question() -> None:
    lm = ToyLM(answer=honest)
    measure_answer(question(question="And how tall?", history=(Turn(role="user", text="What is\nEiffel's?"),)), answer(), TEXTS, lm)
    asked = [prompt for prompt in lm.prompts if "BEGIN QUESTION" in prompt]
    assert len(asked) == 3 and all("user: And how tall?" in prompt and "What is Eiffel's?" in prompt for prompt in asked)


def test_what_could_not_be_measured_has_a_reason() -> None:
    known = question(evidence=(Evidence(source="tower.md", text="331 m"),))
    measures, failures = measure_answer(known, answer("---"), TEXTS, Judge(ToyLM(answer=lambda _: "hm")), HashingEncoder())
    assert failures.keys() == {
        "citation_precision", "citation_recall", "citations_on_evidence", "evidence_cited", "cited_sentences", SUPPORT,
        "correctness", "relevance", "faithfulness",
    }  # fmt: skip
    assert "'331 m' is not in 'tower.md'" in failures["citation_recall"] and failures["relevance"] == "it holds no JSON object."
    assert not failures.keys() & measures.keys()


def outcome(
    number: int, answerable: str = "yes", *, abstained: bool | None = False, failed: bool = False, f1: float = 1.0
) -> QuestionOutcome:
    answered = None
    if abstained is not None:
        measures = {} if failed else {"faithfulness": 0.5}
        answered = AnswerOutcome(
            text="x", abstained=abstained, measures={**measures, "f1": f1}, failures={"faithfulness": "no JSON"} if failed else {}
        )
    return QuestionOutcome(
        id=str(number), question="q", type="factual", answerable=answerable, reference="r", answer=answered,
        evidence=[Passage(source="s", start=0, end=1)], error=None if answered else "broke",
    )  # fmt: skip


def test_means_count_failures_and_broken_chains_apart() -> None:
    outcomes = [
        outcome(1),
        outcome(2, f1=0.0),
        outcome(3, failed=True),
        outcome(4, abstained=None),
        outcome(5, "no", abstained=None),
    ]
    found = summarise(outcomes, num_resamples=200)
    assert (found["faithfulness"].mean, found["faithfulness"].num_questions, found["faithfulness"].num_failed) == (0.5, 2, 3)
    assert (round(found["f1"].mean, 4), found["f1"].num_questions, found["f1"].num_failed) == (0.6667, 3, 1)
    assert found["abstention/declined_answerable"].num_failed == 1 and "abstention/f1" not in found


def test_corpus_bleu_is_no_mean_of_answers() -> None:
    rows = [("the cat sat on the mat [1]", "the cat sat on a mat"), ("a b", "a b")]
    outcomes = [
        outcome(number).model_copy(update={"reference": reference, "answer": AnswerOutcome(text=text, abstained=False)})
        for number, (text, reference) in enumerate(rows)
    ]
    found = summarise([*outcomes, outcome(3, abstained=None)])["bleu_corpus"]
    assert (round(found.mean, 4), found.num_questions, found.num_failed) == (0.5584, 2, 1) and found.low <= found.mean <= found.high


def test_a_measure_that_always_failed_is_no_number() -> None:
    found = summarise([outcome(1, failed=True)], num_resamples=50)["faithfulness"]
    assert (found.num_questions, found.num_failed, found.mean) == (0, 1, 0.0)
    assert estimate([], 3).num_failed == 3
    assert summarise([]) == {}


def test_abstention_by_hand() -> None:
    rows = (
        [("no", True)] * 3 + [("no", False)] + [("yes", True)] * 2 + [("yes", False)] * 4 + [("partly", True), ("unclear", False)]
    )
    outcomes = [outcome(number, answerable, abstained=abstained) for number, (answerable, abstained) in enumerate(rows)]
    found = abstention.estimates(outcomes, num_resamples=200)
    assert {name: (round(each.mean, 4), each.num_questions) for name, each in found.items()} == {
        "abstention/declined_unanswerable": (0.75, 4),
        "abstention/declined_answerable": (0.3333, 6),
        "abstention/declined_partly": (1.0, 1),
        "abstention/declined_unclear": (0.0, 1),
        "abstention/precision": (0.6, 10),  # 3 of 5 declined
        "abstention/f1": (0.6667, 10),  # 2 * 3 / (5 + 4)
    }
    assert found == abstention.estimates(outcomes, num_resamples=200)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no", "partly"]), st.sampled_from([True, False, None])), max_size=12))
def test_no_estimate_is_ever_nan(rows: list[tuple[str, bool | None]]) -> None:
    outcomes = [outcome(number, answerable, abstained=abstained) for number, (answerable, abstained) in enumerate(rows)]
    for name, found in summarise(outcomes, num_resamples=20).items():
        assert all(map(math.isfinite, (found.mean, found.low, found.high))), name
        assert 0 <= found.low <= found.high and found.num_questions + found.num_failed <= len(rows)
