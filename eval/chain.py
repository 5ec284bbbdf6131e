"""The whole chain on a set of questions, under one or several configurations. Knows the pipeline's public face and the cache.

Each configuration ingests the documents (or shares the index of one that ingests alike), answers every question, and has every stage judged.
What is known of a question under a configuration is kept on disk by its content: an interrupted run goes on where it was.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rag import config as configuration
from rag.config import Assembly, Config
from rag.core import digest
from rag.eval.answer_outcome import MeasureAnswer, answer_measure
from rag.eval.axis import Axis
from rag.eval.chain_cache import OutcomeCache, outcome_cache
from rag.eval.chain_facts import remarks, reported_texts, versions
from rag.eval.chain_index import Indexed, ingest_print, ingested, print_of_set
from rag.eval.chain_models import CountedEncoder, SharedModels
from rag.eval.chain_question import Examiner
from rag.eval.chain_report import FORMAT, ChainReport, ConfigOutcome, QuestionOutcome
from rag.eval.chain_summary import compared, summarised
from rag.eval.chain_tokens import BUDGETS, TokenMeasures
from rag.eval.chain_watch import watching
from rag.eval.part_prints import identity, is_lasting, weights_print
from rag.eval.peak_memory import PeakMemory
from rag.eval.question_set import QuestionSet
from rag.eval.spending import Meter
from rag.eval.stage_memo import StageMemo, stage_memo
from rag.eval.watch import Watch
from rag.lm_metered import MeteredLM
from rag.pipeline import Rag

Source = Mapping[str, Any] | str | Path | Config | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. ``num_kept``: questions of this configuration that an earlier run had done."""

    config: str
    num_done: int
    num_questions: int
    num_kept: int


@dataclass(frozen=True)
class _Run:
    """What is the same for every configuration, and what they share while it lasts."""

    given: QuestionSet
    configs: Mapping[str, Source]
    components: Mapping[str, Mapping[str, Any]]
    on_progress: Callable[[Progress], None]
    folder: Path
    cache: OutcomeCache
    memo: StageMemo | None
    seed: int
    answers: bool
    measure: MeasureAnswer | None
    stack: ExitStack
    models: SharedModels = field(default_factory=SharedModels)
    memory: PeakMemory = field(default_factory=PeakMemory)
    indexes: dict[str, Indexed] = field(default_factory=dict)
    axes: dict[str, Axis] = field(default_factory=dict)

    @cached_property
    def tokenizer(self) -> Any:
        """Counts returned tokens, for all configurations alike: the first one's."""
        name, source = next(iter(self.configs.items()))
        return Assembly(configuration.load(source), self.components.get(name)).model("tokenizer")

    @cached_property
    def tokenizer_print(self) -> str:
        """Names that tokenizer without loading it."""
        name, source = next(iter(self.configs.items()))
        given = self.components.get(name, {})
        return identity(given["tokenizer"]) if "tokenizer" in given else str(configuration.load(source).models.get("tokenizer"))


def evaluate_chain(
    given: QuestionSet,
    configs: Mapping[str, Source],
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    cache_folder: Path | None = None,
    seed: int = 0,
    answers: bool = True,
    components: Mapping[str, Mapping[str, Any]] | None = None,
    measure: MeasureAnswer | None = None,
    share: bool = True,
) -> ChainReport:
    """Judges every stage of every configuration on every question, and each configuration against the first.

    ``configs``: name -> what ``Rag.open`` takes; ``None`` is the built-in configuration. ``components``: name of a configuration -> own objects
    instead of configured parts, as for ``Rag.open``; results of objects without a ``fingerprint`` are not kept. ``answers``: whether to generate and
    judge answers; without, the chain ends at ``select``. ``measure``: measures an answer (see ``rag.eval.answer_outcome``). ``cache_folder``: keeps
    indexes, outcomes and what stages handed on, so that a run can be interrupted and a second one costs nothing. ``share``: whether what a
    stage made of its input is used again where another configuration has an equal stage for an equal input; the cost tables count it as if it
    had been made again.

    Raises ``ConfigError`` for a configuration that cannot be built, before any question is asked, and ``ValueError`` for a set without
    questions or documents, for ids that are not unique, and for no configuration.
    """
    _check(given, configs, components or {})
    loaded = {name: configuration.load(source) for name, source in configs.items()}
    for config in loaded.values():
        configuration.check(config)
    with ExitStack() as stack:
        folder = Path(cache_folder or stack.enter_context(TemporaryDirectory(prefix="rag-eval-")))
        cache = stack.enter_context(outcome_cache(Path(cache_folder) if cache_folder else None))
        memo = stack.enter_context(stage_memo(folder)) if share else None
        run = _Run(given, configs, components or {}, on_progress, folder, cache, memo, seed, answers, measure, stack)
        for name, config in loaded.items():
            _check_parts(run, name, config)
        outcomes = [_configured(run, name, config) for name, config in loaded.items()]
        texts = reported_texts(run.indexes.values(), outcomes)
    baseline = outcomes[0].name
    return ChainReport(
        name=given.name,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        versions=versions(),
        machine={"system": platform.platform(), "processors": str(os.cpu_count()), "python": platform.python_version()},
        seed=seed,
        num_questions=len(given.questions),
        num_documents=int(max(outcome.ingest["num_documents"] for outcome in outcomes)),
        baseline=baseline if len(outcomes) > 1 else None,
        configs=outcomes,
        comparisons=compared(outcomes, baseline, seed),
        documents=texts,
        remarks=[*given.remarks, *remarks(given, outcomes)],
    )


def _check(given: QuestionSet, configs: Mapping[str, Source], components: Mapping[str, Any]) -> None:
    if not configs:
        raise ValueError("there is no configuration; allowed: one or more")
    if not given.questions:
        raise ValueError(f"set {given.name!r} has no questions")
    if not given.documents and not given.files:
        raise ValueError(f"set {given.name!r} has no documents")
    seen: set[str] = set()
    for question in given.questions:
        if question.id in seen:
            raise ValueError(f"set {given.name!r} has two questions with the id {question.id!r}")
        seen.add(question.id)
    if unknown := [name for name in components if name not in configs]:
        raise ValueError(f"components for {unknown[0]!r}, which is no configuration; allowed: {', '.join(configs)}")


def _check_parts(run: _Run, name: str, config: Config) -> None:
    """Builds every part once: what cannot be built is a fault of the configuration, and better told before anything is asked."""
    with Rag.open(run.folder / "none", configuration.raw(run.configs[name]), components=_parts(run, name, config)) as opened:
        parts = opened.parts
        _ = parts.chunker, parts.indexes, parts.query_stage, parts.fusion, parts.rerankers, parts.selector, parts.generator


def _parts(run: _Run, name: str, config: Config) -> dict[str, Any]:
    """Given objects, and the models that are built once for all configurations."""
    own = run.components.get(name, {})
    return {**run.models.of(config, own), **own}


def _configured(run: _Run, name: str, config: Config) -> ConfigOutcome:
    """Ingests, asks every question and sums up."""
    own = dict(run.components.get(name, {}))
    parts = _parts(run, name, config)
    written = as_written(run.configs[name], config)
    index = _indexed(run, name, config, own, parts)
    watch = _watch(run, parts)
    content = digest(ingest_print(config, own, index.content), *(f"{each} {told}" for each, told in versions().items()))
    wrap = watching(config, own, content, watch)
    with Rag.open(index.rag.folder, configuration.raw(run.configs[name]), components=parts, wrap=wrap) as opened:
        judge = parts.get("judge") or (Assembly(config, parts).model("judge") if "judge" in config.models and run.answers else None)
        hook, measure = ("own", run.measure) if run.measure else answer_measure(judge, parts.get("encoder"))
        is_kept = run.measure is None and all(map(is_lasting, own.values()))
        name_of_all = digest(
            "chain", str(FORMAT), str(written), weights_print(config.model_dump(mode="json")), *(f"{key} {identity(part)}" for key, part in sorted(own.items())),
            print_of_set(run.given), index.content, str(run.answers), hook, run.tokenizer_print, *(f"{each} {told}" for each, told in versions().items()),
        )  # fmt: skip
        questions = _asked(run, name, name_of_all if is_kept else None, lambda: _examiner(run, opened, index, watch, measure))
    facts = {**index.facts, "process_peak_memory_mb": run.memory.highest_mb()}
    return summarised(name, written, facts, questions, run.seed)


def _asked(run: _Run, name: str, key: str | None, make: Callable[[], Examiner]) -> list[QuestionOutcome]:
    """The outcome of every question: a kept one where there is one, else asked and kept. Without a ``key`` nothing is kept.

    A question whose chain broke off is not kept, so that the next run tries it again.
    """
    examiner: Examiner | None = None
    outcomes: list[QuestionOutcome] = []
    num_kept = 0
    for number, question in enumerate(run.given.questions):
        run.on_progress(Progress(name, number, len(run.given.questions), num_kept))
        own_key = digest(key, question.model_dump_json()) if key else None
        outcome = run.cache.get(own_key) if own_key else None
        if outcome is None:
            examiner = examiner or make()
            outcome = examiner.outcome(question)
            if own_key and outcome.error is None:
                run.cache.put(own_key, outcome)
        else:
            num_kept += 1
        outcomes.append(outcome)
    run.on_progress(Progress(name, len(outcomes), len(outcomes), num_kept))
    return outcomes


def _indexed(run: _Run, name: str, config: Config, own: Mapping[str, Any], parts: Mapping[str, Any]) -> Indexed:
    """The index of this configuration, made now unless one before it ingests alike."""
    key = ingest_print(config, own, print_of_set(run.given))
    if key not in run.indexes:
        run.on_progress(Progress(name, 0, len(run.given.questions), 0))
        folder = run.folder
        if run.cache.is_kept and not all(map(is_lasting, own.values())):
            folder = Path(run.stack.enter_context(TemporaryDirectory(prefix="rag-eval-")))
        opened = Rag.open(folder / "indexes" / key, configuration.raw(run.configs[name]), components=parts)
        opened.folder.mkdir(parents=True, exist_ok=True)
        run.indexes[key] = ingested(run.stack.enter_context(opened), run.given)
    return run.indexes[key]


def _watch(run: _Run, parts: Mapping[str, Any]) -> Watch:
    encoders = [part for part in parts.values() if isinstance(part, CountedEncoder)]
    lms = [part for part in parts.values() if isinstance(part, MeteredLM)]
    return Watch(Meter(run.memory, encoders, lms), run.memo)


def _examiner(run: _Run, opened: Rag, index: Indexed, watch: Watch, measure: MeasureAnswer) -> Examiner:
    tokens = None
    if any(question.evidence for question in run.given.questions):
        key = str(index.rag.folder)
        if key not in run.axes:
            run.axes[key] = index.axis(run.tokenizer)
        tokens = TokenMeasures(run.axes[key], run.tokenizer.count, index.chunks, BUDGETS)
    return Examiner(opened, index, run.answers, measure, tokens, watch, run.memory)


def as_written(source: Source, config: Config) -> dict[str, Any]:
    """The configuration with its defaults filled in and with ``${env:NAME}`` as it was written: a report holds no secret."""
    written = configuration.raw(source)
    whole = config.model_dump(mode="json")
    models = {**whole["models"], **(written.get("models") or {})}
    return {**whole, **written, "models": models}
