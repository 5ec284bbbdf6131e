"""A judge beside people: agreement against scikit-learn and scipy, the verdict in all its cases, the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from rag import cli, cli_eval_judge
from rag.errors import ReadError
from rag.eval.judge import Judge
from rag.eval.judge_agreement import agreement, confusion, kappa, spearman
from rag.eval.judge_check import check_judge
from rag.eval.judge_labels import LabelledAnswer, read_labels
from tests.fakes import ToyLM

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30)


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_kappa_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    human, judge = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for weighted in (False, True):
        found = kappa(human, judge, 5, weighted=weighted)
        if len({*human, *judge}) == 1:
            assert found is None
        elif found:
            known = cohen_kappa_score(human, judge, weights="quadratic" if weighted else None, labels=range(5))
            assert found.mean == pytest.approx(known) and found.low <= found.high


def test_kappa_by_hand() -> None:
    human, judge = [0] * 25 + [1] * 25, [0] * 20 + [1] * 5 + [0] * 10 + [1] * 15
    found = kappa(human, judge, 2)
    assert found and round(found.mean, 4) == 0.4  # observed .7, by chance .5
    assert confusion(human, judge, 2) == [[20, 5], [10, 15]]
    same = agreement(human, judge, 2)
    assert same and same.mean == pytest.approx(0.7) and 0.55 < same.low < 0.62 and 0.78 < same.high < 0.84


@settings(max_examples=15, deadline=None)
@given(PAIRS)
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    human, judge = [float(pair[0]) for pair in pairs], [float(pair[1]) for pair in pairs]
    found = spearman(human, judge)
    if len(set(human)) > 1 and len(set(judge)) > 1:
        assert found and found.mean == pytest.approx(float(spearmanr(human, judge).statistic))
    else:
        assert found is None


def test_nothing_to_compare_is_none_and_wrong_classes_are_named() -> None:
    assert kappa([], [], 2) is None and agreement([], [], 2) is None and spearman([], []) is None
    with pytest.raises(ValueError, match="from 0 to 1"):
        kappa([0, 2], [0, 1], 2)
    with pytest.raises(ValueError, match="2 labels cannot be paired with 1"):
        confusion([0, 1], [0], 2)


def labelled(number: int, **labels: float) -> LabelledAnswer:
    return LabelledAnswer.model_validate(
        {"id": str(number), "question": "q", "answer": f"answer {number}.", "sources": ["s"], "references": ["r"], "labels": labels}
    )


def rater(wrong: set[int] = frozenset(), broken: set[int] = frozenset()) -> Judge:  # type: ignore[assignment]
    """Rates answer ``n`` with ``n % 5 + 1``, but 6 less that where ``wrong``."""

    def answer(prompt: str) -> str:
        number = int(prompt.split("answer ")[-1].split(".")[0])
        score = number % 5 + 1
        return "?" if number in broken else json.dumps({"score": 6 - score if number in wrong else score})

    return Judge(ToyLM(answer=answer))


def test_a_judge_that_agrees_is_trusted() -> None:
    done: list[tuple[int, int]] = []
    answers = [labelled(n, relevance=n % 5 + 1) for n in range(60)]
    (found,) = check_judge(rater({1}), answers, on_progress=lambda *step: done.append(step)).measures
    assert found.is_trusted and found.measure == "relevance" and done[-1] == (60, 60)
    assert (
        found.weighted_kappa
        and found.weighted_kappa.mean > 0.9
        and found.agreement
        and found.agreement.mean == pytest.approx(59 / 60)
    )
    assert sum(map(sum, found.confusion)) == 60 and found.confusion[1][3] == 1


@pytest.mark.parametrize(
    ("judge", "number", "reason"),
    [
        (rater(set(range(0, 60, 2))), 60, "kappa is"),
        (rater(broken={1, 2, 3, 4}), 60, "4 of 60 judgements failed"),
        (rater(), 49, "only 49 answers are labelled, 50 are needed"),
    ],
)
def test_a_judge_is_not_trusted_for_a_stated_reason(judge: Judge, number: int, reason: str) -> None:
    (found,) = check_judge(judge, [labelled(n, relevance=n % 5 + 1) for n in range(number)]).measures
    assert not found.is_trusted and any(reason in why for why in found.why)


def test_labels_of_one_kind_prove_nothing() -> None:
    always = Judge(ToyLM(answer=lambda _: '{"score": 5}'))
    (found,) = check_judge(always, [labelled(n, correctness=5) for n in range(60)]).measures
    assert not found.is_trusted and found.kappa is None and found.agreement and found.agreement.mean == 1.0
    assert any("always says the same" in why for why in found.why)


def test_failures_are_counted_and_left_out_of_the_sums() -> None:
    (found,) = check_judge(rater(broken={7}), [labelled(n, relevance=n % 5 + 1) for n in range(60)]).measures
    assert found.failures.keys() == {"7"} and found.is_trusted and sum(map(sum, found.confusion)) == 59


def test_faithful_means_every_claim() -> None:
    judge = Judge(ToyLM(judge=lambda prompt: [0.9, 0.1] if "fine" in prompt.split("BEGIN CLAIM")[1] else [0.2, 0.8]), "score")
    rows = [
        LabelledAnswer.model_validate(
            {"question": "q", "answer": text, "sources": ["s"], "labels": {"faithfulness": label}, "id": str(place)}
        )
        for place, (text, label) in enumerate([("All fine.", 1), ("This is fine. That is bad.", 0.5), ("All bad.", 0)])
    ]
    (found,) = check_judge(judge, rows).measures
    assert found.confusion == [[2, 0], [0, 1]] and found.spearman and found.spearman.mean == pytest.approx(1.0)
    assert math.isfinite(found.spearman.low)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "line 2: not JSON"),
        ("[]", "expected an object, not list"),
        ('{"question": "q", "answer": "a", "labels": {}}', "labels are empty"),
        ('{"question": "q", "answer": "a", "labels": {"relevance": 6}}', "less than or equal to 5"),
        ('{"question": "q", "answer": "a", "labels": {"correctness": 3}}', "no references"),
        ('{"question": "q", "answer": "---", "labels": {"relevance": 3}}', "no words"),
    ],
)
def test_bad_labels_are_named_by_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"question": "q", "answer": "a", "labels": {"relevance": 3}}\n' + line + "\n")
    with pytest.raises(ReadError, match="line 2") as error:
        read_labels(path)
    assert reason in str(error.value)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [labelled(n, relevance=n % 5 + 1).model_dump() for n in range(60)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def model(config: Any, name: str) -> ToyLM:
        assert name == "judge"
        return rater().lm  # type: ignore[return-value]

    monkeypatch.setattr(cli_eval_judge, "configured_model", model)
    command = ["eval", "judge", str(tmp_path / "labels.jsonl"), "--json", str(tmp_path / "report.json")]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 0, done.output
    assert "relevance: trusted: kappa 1.00" in done.output
    assert json.loads((tmp_path / "report.json").read_text())["judge"].startswith("prompts ")


def test_the_command_without_a_judge_says_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text(labelled(1, relevance=2).model_dump_json())
    done = CliRunner().invoke(cli.app, ["eval", "judge", str(tmp_path / "labels.jsonl")])
    assert done.exit_code == 1 and "add `models: {judge:" in str(done.exception)
