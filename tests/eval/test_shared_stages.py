"""Stages with equal input are made once for all configurations, and nothing but the time of the run shows it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.config import Block, load
from rag.core import Finding, Found, Hit, Message
from rag.eval.chain import evaluate_chain
from rag.eval.chain_models import SharedModels
from rag.eval.chain_report import ChainReport
from rag.eval.part_prints import draws, part_print
from rag.eval.peak_memory import PeakMemory
from rag.eval.spending import Meter, Spent
from rag.eval.stage_forms import Form, hits_form, said, step_form
from rag.eval.stage_memo import StageMemo
from rag.eval.watch import Watch, WatchedQueryStage, WatchedReranker
from rag.lm_metered import MeteredLM
from tests.contract.test_query_stages import hits as some_hits
from tests.eval.chain_corpus import Paragraphs, Quoting, Tearing, handbook
from tests.eval.test_chain import without_times
from tests.fakes import HashingEncoder, HashingTokenEncoder, ToyLM

SET = handbook(6)
HYBRID: Mapping[str, Any] = {
    "models": {"tokenizer": {"use": "words"}},
    "indexes": {"dense": {"use": "faiss"}, "words": {"use": "bm25"}},
    "rerankers": [{"use": "maxsim"}],
}


class Encoder(HashingEncoder):
    """Counts the searches that it was called for, and takes its time over them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_queries = 0

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if texts and texts[0].startswith("When"):
            self.num_queries += 1
            time.sleep(0.01)
        return super().encode_queries(texts)


class Turning:
    """Moves the best ``number`` hits to the end, slowly. Counts its calls."""

    def __init__(self, number: int, fingerprint: str | None = "turning") -> None:
        self.number = number
        self.fingerprint = fingerprint and f"{fingerprint} {number}"
        self.num_calls = 0

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        self.num_calls += 1
        time.sleep(0.01)
        turned = [*hits[self.number :], *hits[: self.number]]
        return [hit.placed("turning", 1 / rank, rank) for rank, hit in enumerate(turned, start=1)]


def evaluate(
    configs: Mapping[str, Mapping[str, Any]], parts: Mapping[str, Mapping[str, Any]], folder: Path | None = None, **options: Any
) -> ChainReport:
    return evaluate_chain(SET, configs, components=parts, cache_folder=folder, **options)


def plain(report: ChainReport) -> Any:
    found = without_times(report)
    found["remarks"] = [remark for remark in found["remarks"] if "used again" not in remark]
    for config in found["configs"]:
        for question in config["questions"]:
            del question["reused"]
    return found


def four(encoder: Encoder, first: Turning, second: Turning) -> tuple[dict[str, Mapping[str, Any]], dict[str, dict[str, Any]]]:
    """A baseline; another selector; another reranker; another chunker."""
    top = {"select": {"use": "top", "k": 2}}
    configs = {"base": HYBRID, "top": {**HYBRID, **top}, "turned": HYBRID, "torn": HYBRID}
    shared = {"encoder": encoder, "token_encoder": HashingTokenEncoder(), "generator": Quoting()}
    parts: dict[str, dict[str, Any]] = {
        "base": {**shared, "chunker": Paragraphs(), "rerankers[0]": first},
        "top": {**shared, "chunker": Paragraphs(), "rerankers[0]": first},
        "turned": {**shared, "chunker": Paragraphs(), "rerankers[0]": second},
        "torn": {**shared, "chunker": Tearing(), "rerankers[0]": first},
    }
    return configs, parts


def test_a_stage_is_made_once_for_each_different_input_and_the_results_are_those_without_sharing() -> None:
    encoder, first, second = Encoder(), Turning(1), Turning(2)
    shared = evaluate(*four(encoder, first, second))
    assert encoder.num_queries == 12, (
        "two indexes of six questions: another selector or reranker searches no more, another chunker does"
    )
    assert (first.num_calls, second.num_calls) == (12, 6)
    reused = [{tuple(question.reused) for question in config.questions} for config in shared.configs]
    assert reused == [{()}, {("dense", "words", "rerank:maxsim")}, {("dense", "words")}, {()}]
    assert sum("used again" in remark for remark in shared.remarks) == 2
    encoder, first, second = Encoder(), Turning(1), Turning(2)
    alone = evaluate(*four(encoder, first, second), share=False)
    assert (encoder.num_queries, first.num_calls, second.num_calls) == (24, 18, 6)
    assert plain(shared) == plain(alone)


def test_a_configuration_is_as_dear_as_it_would_be_alone() -> None:
    report = evaluate(*four(Encoder(), Turning(1), Turning(2)))
    for config in report.configs:
        for question in config.questions:
            for stage in ("dense", "rerank:maxsim"):
                assert question.cost[f"seconds/{stage}"] >= 0.01
                outcome = next(each for each in question.stages if each.stage == stage)
                assert outcome.seconds == question.cost[f"seconds/{stage}"]
    base, top = (config.questions for config in report.configs[:2])
    for one, other in zip(base, top, strict=True):
        assert {name for name in one.cost if name.startswith("peak")} == {name for name in other.cost if name.startswith("peak")}
        if PeakMemory().since_mark_mb() is not None:
            assert one.cost["peak_memory_mb/dense"] == other.cost["peak_memory_mb/dense"]


def test_objects_without_a_name_are_asked_by_every_configuration() -> None:
    nameless = Turning(1, None)
    evaluate(*four(Encoder(), nameless, Turning(2)))
    assert nameless.num_calls == 18


def test_a_later_run_with_another_selector_searches_nothing_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    def interrupt(progress: Any) -> None:
        if progress.num_done == 4:
            raise KeyboardInterrupt

    encoder, first = Encoder(), Turning(1)
    configs, parts = four(encoder, first, Turning(2))
    with pytest.raises(KeyboardInterrupt):
        evaluate({"base": configs["base"]}, {"base": parts["base"]}, tmp_path, on_progress=interrupt)
    assert first.num_calls == encoder.num_queries == 4
    evaluate({"top": configs["top"]}, {"top": parts["top"]}, tmp_path)
    assert first.num_calls == encoder.num_queries == 6
    again = evaluate({"base": configs["base"]}, {"base": parts["base"]}, tmp_path)
    assert first.num_calls == encoder.num_queries == 6
    assert plain(again) == plain(evaluate({"base": configs["base"]}, {"base": parts["base"]}, share=False))


def test_a_fusion_that_reads_vectors_finds_the_same() -> None:
    config = {**HYBRID, "rerankers": [], "fuse": {"use": "gqr", "complement": "words"}}
    configs = {"one": config, "two": {**config, "select": {"use": "top", "k": 1}}, "other": {**HYBRID, "rerankers": []}}
    encoder = Encoder()
    parts = {name: {"encoder": encoder, "generator": Quoting(), "chunker": Paragraphs()} for name in configs}
    shared = evaluate(configs, parts)
    assert encoder.num_queries == 12, "another fusion searches for itself, since this one needs the query encoded"
    assert {tuple(question.reused) for question in shared.configs[1].questions} == {("dense", "words", "fuse")}
    assert plain(shared) == plain(evaluate(configs, parts, share=False))


def test_a_query_stage_that_asks_on_by_what_it_found_is_made_once_and_finds_the_same() -> None:
    config = {**HYBRID, "rerankers": [], "query": {"use": "multi-hop", "max_rounds": 2}}
    configs = {"one": config, "two": {**config, "select": {"use": "top", "k": 2}}, "few": {**config, "search": {"candidates": 3}}}

    def run(**options: Any) -> tuple[ChainReport, int]:
        lm = ToyLM(answer=lambda prompt: f"When {prompt.split()[-3]}")
        parts = {name: {"encoder": Encoder(), "generator": Quoting(), "chunker": Paragraphs(), "lm": lm} for name in configs}
        return evaluate(configs, parts, **options), lm.num_calls

    (shared, calls), (alone, calls_alone) = run(), run(share=False)
    assert plain(shared) == plain(alone) and calls < calls_alone
    assert all("query:multi-hop" in question.reused for question in shared.configs[1].questions)


class Hops:
    """Asks on by the best hit of the round before; counts what it works."""

    rewrites = True

    def __init__(self) -> None:
        self.num_steps = 0

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        hits: Sequence[Hit] = ()
        query = question
        for _ in range(2):
            self.num_steps += 1
            (hits,) = yield [query]
            query = hits[0].chunk.text
        self.num_steps += 1
        return Found(query, list(hits), notes=("two rounds",))


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(Meter(PeakMemory(), (), ()), StageMemo(tmp_path))


def through(stage: WatchedQueryStage, answers: Sequence[list[Hit]]) -> Found:
    finding = stage.find("q", ())
    next(finding)
    with pytest.raises(StopIteration) as stop:
        for hits in answers:
            finding.send([hits])
    found: Found = stop.value.value
    return found


def test_a_query_stage_goes_on_alone_where_its_hits_are_others(watch: Watch) -> None:
    first, second, third = ([hit] for hit in some_hits()[:3])
    inner = Hops()
    stage = WatchedQueryStage(inner, watch, "query:hops", "name")
    one = through(stage, [first, second])
    assert inner.num_steps == 3 and through(stage, [first, second]) == one and inner.num_steps == 3
    watch.begin()
    other = through(stage, [first, third])
    assert other == through(WatchedQueryStage(Hops(), watch, "query:hops", None), [first, third]) != one
    assert inner.num_steps == 6, "the steps that were known are made again to come to the new one"
    assert watch.accounts["query:hops"].num_reused == 2


def test_what_raises_and_what_would_not_come_back_as_it_is_is_not_kept(watch: Watch) -> None:
    calls: list[int] = []

    class Odd:
        def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
            calls.append(1)
            if query == "bad":
                raise OSError("disk")
            return [Hit(hit.chunk, float("nan"), hit.why) for hit in hits]

    stage = WatchedReranker(Odd(), watch, "rerank:odd", "name")
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            stage.rerank("bad", some_hits())
        stage.rerank("good", some_hits())
    assert len(calls) == 4


def test_hits_and_steps_come_back_as_they_are() -> None:
    given = some_hits()
    changed = [given[1].placed("stage", 0.1 + 0.2, 1), Hit(given[0].chunk.part(given[0].chunk.span), -1e-300)]
    pairs: list[tuple[Form[Any], Any]] = [
        (hits_form(given), changed),
        (hits_form(()), changed),
        (step_form(given), ["a", "b"]),
        (step_form(()), Found("q", changed, notes=("n",))),
    ]
    assert all(form.text(value) is not None for form, value in pairs), "the text is read again and compared"
    assert said(changed) != said(given[:2]) and said(changed) == said(list(changed))


def test_costs_add_up() -> None:
    assert Spent(1.0, 2, 3, 4, 5, 6.0) + Spent(1.0, 1, 1, 1, 1, 5.0) == Spent(2.0, 3, 4, 5, 6, 6.0)


def test_language_models_that_draw_are_asked_anew() -> None:
    cold = {"use": "openai", "model": "m", "base_url": "http://localhost:1/v1"}
    for lm, drawn in (
        (cold, False),
        ({**cold, "temperature": 0.7}, True),
        ({"use": "cached", "folder": "x", "inner": {**cold, "temperature": 1}}, True),
    ):
        config = load({"models": {"lm": lm}, "rerankers": [{"use": "pointwise"}]})
        assert draws(config.models["lm"]) == drawn
        assert (part_print(config, {}, "reranker", "rerankers[0]", config.rerankers[0]) is None) == drawn


def test_a_part_is_named_by_its_options_and_by_those_of_its_models() -> None:
    def name(models: Mapping[str, Any], own: Mapping[str, Any] | None = None, **options: Any) -> str | None:
        config = load({"models": models, "rerankers": [{"use": "maxsim", **options}]})
        return part_print(config, own or {}, "reranker", "rerankers[0]", config.rerankers[0])

    encoder = {"encoder": {"use": "sentence-transformers", "model": "a"}}
    other = {"encoder": {"use": "sentence-transformers", "model": "b"}}
    assert name(encoder) == name(encoder) != name(other)
    assert name(encoder) != name(encoder, depth=3)
    assert name(encoder, {"token_encoder": HashingEncoder()}) not in (None, name(encoder))
    assert name(encoder, {"token_encoder": object()}) is None
    assert draws(Block.model_validate({"use": "x", "temperature": 0})) is False


def test_tokens_of_a_reranker_are_in_its_account_also_when_it_is_not_asked(tmp_path: Path) -> None:
    lm = MeteredLM(ToyLM())

    class Asking:
        def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
            lm.complete([f"{query} one two"])
            return list(hits)

    watch = Watch(Meter(PeakMemory(), (), (lm,)), StageMemo(tmp_path))
    stage = WatchedReranker(Asking(), watch, "rerank:asking", "name")
    stage.rerank("q", some_hits())
    made = watch.accounts["rerank:asking"].spent
    watch.begin()
    stage.rerank("q", some_hits())
    again = watch.accounts["rerank:asking"]
    assert lm.usage().calls == 1 and again.num_reused == 1
    used = lm.usage()
    assert made.lm_calls == again.spent.lm_calls == again.reused.lm_calls == 1
    assert made.prompt_tokens == again.spent.prompt_tokens == used.prompt_tokens > 0
    assert made.completion_tokens == again.spent.completion_tokens == used.completion_tokens > 0


def test_models_of_a_configuration_are_built_counted() -> None:
    config = load(
        {
            "models": {"lm": {"use": "openai", "model": "m", "base_url": "http://localhost:1/v1"}},
            "rerankers": [{"use": "pointwise"}],
            "indexes": {"words": {"use": "bm25"}},
        }
    )
    models = SharedModels()
    first, second = models.of(config, {}), models.of(config, {})
    assert isinstance(first["lm"], MeteredLM) and first["lm"] is second["lm"]


def test_a_model_that_was_trained_anew_in_its_folder_is_another(tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"old")
    config = load({"rerankers": [{"use": "cross-encoder", "model": str(tmp_path)}]})

    def name() -> str | None:
        return part_print(config, {}, "reranker", "rerankers[0]", config.rerankers[0])

    before = name()
    assert before is not None and name() == before
    weights.write_bytes(b"newer")
    assert name() != before
