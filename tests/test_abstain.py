"""Full, partly, none: the thresholds, what they are calibrated to, and what the reader is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag import config
from rag.abstain import AbstainGenerator, Calibration, calibrate
from rag.core import Answer, Event, Hit, Support, TextEvent, Usage, UsageEvent
from rag.errors import ConfigError
from rag.extractive import ExtractiveGenerator
from rag.pipeline import Rag
from tests.conftest import LIGHT
from tests.fakes import HashingEncoder, ParagraphChunker, QuotingGenerator, ToyLM, WordIndex, document
from tests.test_map_reduce import hits

LABELS: tuple[Support, ...] = ("full", "partly", "none")


class Answering(QuotingGenerator):
    """Answers, or declines, or answers in part, as told; counts how often it was asked."""

    def __init__(self, support: Support = "full") -> None:
        super().__init__()
        self.support = support
        self.num_asked = 0

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        self.num_asked += 1
        yield TextEvent("It is so.")
        yield UsageEvent(Usage(lm_calls=1), self.support == "none", self.support)


def run(chance: float, inner: Answering | None = None, **options: object) -> tuple[str, UsageEvent, ToyLM]:
    lm = ToyLM(judge=lambda prompt: (chance, 1 - chance))
    generator = AbstainGenerator(inner or Answering(), lm=lm, **options)  # type: ignore[arg-type]
    *events, last = generator.generate("When was the bridge opened?", hits())
    assert isinstance(last, UsageEvent)
    return "".join(event.text for event in events if isinstance(event, TextEvent)), last, lm


@pytest.mark.parametrize(
    ("chance", "support", "text"),
    [
        (0.9, "full", "It is so."),
        (0.3, "partly", "It is so. The sources answer this only in part."),
        (0.1, "none", "The sources do not answer this question."),
    ],
)
def test_the_chance_decides_and_the_reader_is_told(chance: float, support: Support, text: str) -> None:
    inner = Answering()
    said, last, lm = run(chance, inner)
    assert said == text and last.support == support and last.abstained == (support == "none")
    assert inner.num_asked == (support != "none") and last.usage.lm_calls == 1 + inner.num_asked and lm.num_calls == 1


def test_what_the_generator_inside_says_of_itself_stands() -> None:
    said, last, _ = run(0.9, Answering("none"))
    assert last.abstained and last.support == "none" and "in part" not in said
    said, last, _ = run(0.9, Answering("partly"), partly="")
    assert last.support == "partly" and said == "It is so."


def test_no_hits_ask_nobody() -> None:
    lm, inner = ToyLM(), Answering()
    *_, last = AbstainGenerator(inner, lm=lm).generate("When?", [])
    assert isinstance(last, UsageEvent) and last.abstained and (lm.num_calls, inner.num_asked) == (0, 0)


def test_the_question_about_the_sources_quotes_them_and_fits() -> None:
    lm = ToyLM(context_tokens=700, judge=lambda prompt: (0.9, 0.1))
    AbstainGenerator(Answering(), lm=lm).score("When? <|im_end|>", hits(["<|im_start|> fact " * 400] * 3))
    assert "<|" not in lm.prompts[0] and lm.count_tokens(lm.prompts[0]) < 700 and lm.prompts[0].endswith("Yes or No?")


@pytest.mark.parametrize("encoder", [None, HashingEncoder()])
def test_without_a_model_the_support_of_the_best_sentence_decides(encoder: HashingEncoder | None) -> None:
    extractive = ExtractiveGenerator(encoder)
    generator = AbstainGenerator(extractive, encoder=encoder)
    near, usage = generator.score("When was the bridge opened by the premier in March?", hits())
    far, _ = generator.score("Which giraffe sings?", hits())
    assert generator.by == "support" and 0 <= far < near <= 1 and usage == Usage()
    assert near == extractive.support("When was the bridge opened by the premier in March?", hits())
    *_, last = generator.generate("Which giraffe sings?", hits())
    assert isinstance(last, UsageEvent) and last.support == "none"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from(LABELS)), min_size=1, max_size=40), st.floats(0.01, 1), st.floats(0.01, 1)
)
def test_calibration_keeps_the_targets_and_no_lower_threshold_is_needed(
    rows: list[tuple[float, Support]], target: float, full_target: float
) -> None:
    scores, labels = [score for score, _ in rows], [label for _, label in rows]
    full = [score for score, label in rows if label == "full"]
    if not full:
        with pytest.raises(ValueError, match="no question is labelled 'full'"):
            calibrate(scores, labels, target, full_target)
        return
    found = calibrate(scores, labels, target, full_target)
    answerable = [score for score, label in rows if label != "none"]
    assert sum(score >= found.min_full for score in full) >= full_target * len(full) - 1e-6
    assert sum(score >= found.min_partly for score in answerable) >= target * len(answerable) - 1e-6
    assert sum(score > found.min_full for score in full) < full_target * len(full)  # the next higher threshold would not do
    assert (found.num_full, found.num_partly, found.num_none) == tuple(labels.count(label) for label in LABELS)
    assert [found.support(score) for score in (1.0, found.min_partly)] == [
        "full",
        "full" if found.min_partly == found.min_full else "partly",
    ]


@pytest.mark.parametrize(
    ("scores", "labels", "target", "message"),
    [
        ([0.5], [], 0.9, "1 scores but 0 labels"),
        ([0.5], ["yes"], 0.9, "unknown label 'yes'; allowed: full, partly, none"),
        ([1.5], ["full"], 0.9, "the score 1.5 is not between 0 and 1"),
        ([float("nan")], ["full"], 0.9, "is not between 0 and 1"),
        ([0.5], ["full"], 0.0, "target=0.0"),
    ],
)
def test_what_cannot_be_calibrated_on_is_named(scores: list[float], labels: list[Support], target: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(scores, labels, target)


def test_the_share_without_reservation_is_the_target_unless_it_is_given() -> None:
    scores: list[float] = [0.9, 0.8, 0.7, 0.6]
    assert calibrate(scores, ["full"] * 4, 0.75).min_full == 0.7 and calibrate(scores, ["full"] * 4, 1.0, 0.25).min_full == 0.9
    with pytest.raises(ValueError, match="full_target=0"):
        calibrate(scores, ["full"] * 4, 1.0, 0)


def test_a_calibration_is_plain_json_and_comes_back(tmp_path: Path) -> None:
    found = calibrate([0.9, 0.5, 0.4, 0.1], ["full", "full", "partly", "none"], 1.0)
    found.save(tmp_path / "thresholds.json")
    assert Calibration.load(tmp_path / "thresholds.json") == found
    generator = AbstainGenerator(Answering(), lm=ToyLM(), calibration=str(tmp_path / "thresholds.json"))
    assert (generator.thresholds.min_full, generator.thresholds.min_partly) == (0.5, 0.4)


@pytest.mark.parametrize(
    "content", ["no json", "[]", '{"min_full": 1}', '{"min_full": 0.1, "min_partly": 0.2}', '{"min_full": "a", "min_partly": 0}']
)
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.json is no calibration"):
        Calibration.load(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match=r"cannot read the calibration .*none\.json"):
        Calibration.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AbstainGenerator(Answering(), by="lm"), "needs a model"),
        (lambda: AbstainGenerator(Answering(), by="luck"), "by='luck': allowed are lm, support"),  # type: ignore[arg-type]
        (lambda: AbstainGenerator(Answering(), min_partly=0.9, min_full=0.2), "min_partly=0.9, min_full=0.2"),
        (lambda: AbstainGenerator(Answering(), calibration="x.json", min_full=0.2), "not both"),
        (lambda: AbstainGenerator(Answering(), max_prompt_tokens=0), "max_prompt_tokens=0"),
    ],
)
def test_bad_options_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_support_and_abstaining_cannot_contradict_each_other() -> None:
    assert UsageEvent(Usage()).support == "full" and UsageEvent(Usage(), abstained=True).support == "none"
    assert Answer("q", "t", (), (), Usage(), {}, support="partly").support == "partly"
    for abstained, support in ((True, "full"), (True, "partly"), (False, "none")):
        with pytest.raises(ValueError, match="contradict each other"):
            UsageEvent(Usage(), abstained, support)  # type: ignore[arg-type]


def test_the_support_reaches_the_answer_and_its_json(tmp_path: Path) -> None:
    from rag.terminal import plain

    block = {"use": "abstain", "generator": {"use": "extractive"}, "by": "support", "min_partly": 0.01, "min_full": 1.0}
    parts = {"indexes.words": WordIndex(), "chunker": ParagraphChunker(), "encoder": HashingEncoder()}
    with Rag.open(tmp_path / "index", {**LIGHT, "generator": block}, components=parts) as rag:
        rag.ingest_documents([document("ducks", "Ducks eat weed on ponds.")])
        answer = rag.ask("Do ducks eat weed on lakes?")
    assert answer.support == "partly" and not answer.abstained and answer.citations
    assert answer.text.endswith("The sources answer this only in part.") and plain(answer)["support"] == "partly"


def test_a_wrapper_is_configured_as_a_block_around_a_block() -> None:
    inner = {"use": "feedback", "generator": {"use": "extractiv"}}
    with pytest.raises(ConfigError, match=r"generator\.generator\.generator\.use: unknown generator 'extractiv'"):
        config.check(config.load({"generator": {"use": "abstain", "generator": inner}}))
    with pytest.raises(ConfigError, match="generator: is required"):
        config.check(config.load({"generator": {"use": "abstain"}}))
