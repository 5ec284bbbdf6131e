"""Compares chunkers by what a pipeline finds with them. Knows the pipeline's public face and spans; knows no chunker and no index.

Each chunker cuts all documents once; the chunks are indexed and searched by the pipeline itself, as configured (by default dense and
BM25, fused), in a folder of their own; every question is searched once, and all measures come from that one list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np

from rag import config as configuration
from rag.config import Assembly, Config
from rag.core import Chunk, Chunker, Document, Hit, Tokenizer, chunk_many
from rag.eval.axis import Axis
from rag.eval.bootstrap import NUM_RESAMPLES, difference, interval
from rag.eval.chunking_report import OMEGA, ChunkingReport, Row, at_budget, at_k
from rag.eval.contenders import Contender, with_baseline
from rag.eval.overlap import Intervals, size
from rag.eval.report import Comparison
from rag.eval.span_measures import MEASURES, SpanMeasures, placed, segmented, wanted_of
from rag.eval.span_set import SpanSet
from rag.pipeline import Rag

BUDGETS = (100, 200, 400, 800, 1600)
K = 5
BATCH_SIZE = 32

Within = Literal["all", "document"]
"""What is searched for a question: all documents of the set together, or the question's own (a filter on its source)."""


@dataclass(slots=True)
class _Watched:
    """A chunker whose chunks and seconds are kept."""

    inner: Chunker
    chunks: dict[str, list[Chunk]] = field(default_factory=dict)
    seconds: float = 0.0

    def chunk(self, document: Document) -> list[Chunk]:
        return self.chunk_many([document])[0]

    def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        began = time.perf_counter()
        made = chunk_many(self.inner, documents)
        self.seconds += time.perf_counter() - began
        self.chunks.update((document.id, chunks) for document, chunks in zip(documents, made, strict=True))
        return made


@dataclass(frozen=True, slots=True)
class _Task:
    """What is the same for every chunker."""

    spans: SpanSet
    axis: Axis
    tokenizer: Tokenizer
    wanted: Sequence[Mapping[str, Intervals]]
    within: Within
    k: int
    budgets: Sequence[int]
    depth: int
    seed: int
    num_resamples: int


def evaluate_chunking(
    spans: SpanSet,
    contenders: Sequence[Contender],
    *,
    config: Mapping[str, Any] | str | Path | Config | None = None,
    components: Mapping[str, Any] | None = None,
    k: int = K,
    budgets: Sequence[int] = BUDGETS,
    within: Within = "all",
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    on_progress: Callable[[str], None] = lambda said: None,
) -> ChunkingReport:
    """Measures every contender, and compares each with the chunker of the configuration, which joins if it is not among them.

    ``components``: own objects instead of configured ones, as for ``Rag.open`` (``{"encoder": mine}``). ``budgets``: tokens of the
    configured tokenizer, context of the chunks included; a list is cut at the budget, and the chunk that does not fit whole keeps its
    head, as in a prompt. Models are built once for all. ``on_progress`` hears a line before each chunker.

    Raises ``ConfigError`` for a contender that cannot be built, before anything is measured, and ``ValueError`` for a ``k`` or a
    budget below 1, an unknown ``within``, a set without questions, and a span without a token.
    """
    _check(k, budgets, within)
    if not spans.questions:
        raise ValueError(f"set {spans.name!r} has no questions")
    if "chunker" in (components or {}):
        raise ValueError("components hold a chunker, but the chunkers are what is compared: name them as contenders")
    base = configuration.raw(config)
    baseline, contenders = with_baseline(contenders, base)
    configured = {each.name: each.configured(base) for each in contenders}
    ready = dict(components or {})
    tokenizer = _models(configured[baseline], ready, "tokenizer")["tokenizer"]
    axis = Axis(spans.documents, tokenizer)
    wanted = [wanted_of(axis, question) for question in spans.questions]
    task = _Task(
        spans, axis, tokenizer, wanted, within, k, sorted(set(budgets)), configuration.load(base).search.candidates, seed, num_resamples
    )  # fmt: skip
    rows = {}
    for number, each in enumerate(contenders, start=1):
        on_progress(f"{number} of {len(contenders)}: {each.name}")
        rows[each.name] = _row(task, each, configured[each.name], _models(configured[each.name], ready))
    sizes = np.array([size(own["tokens"]) for own in wanted])
    return ChunkingReport(
        name=spans.name,
        num_documents=len(spans.documents),
        num_questions=len(spans.questions),
        num_tokens=axis.num_tokens,
        within=within,
        k=k,
        budgets=task.budgets,
        depth=task.depth,
        baseline=baseline,
        seed=seed,
        num_resamples=num_resamples,
        ceilings={budget: float(np.minimum(1.0, budget / sizes).mean()) for budget in task.budgets},
        rows=rows,
        comparisons=_comparisons(task, rows, baseline),
    )


def _check(k: int, budgets: Sequence[int], within: str) -> None:
    if within not in get_args(Within):
        raise ValueError(f"within is {within!r}; allowed: {', '.join(get_args(Within))}")
    if not budgets:
        raise ValueError("there are no budgets; allowed: one or more numbers of tokens")
    for name, value in (("k", k), *(("a budget", budget) for budget in budgets)):
        if value < 1:
            raise ValueError(f"{name} is {value}; allowed: 1 or more")


def _models(raw: Mapping[str, Any], ready: dict[str, Any], *more: str) -> dict[str, Any]:
    """``ready`` with the models that this configuration uses; those that are missing are built and stay for the next."""
    config = configuration.load(raw)
    blocks = [("chunker", config.chunker), *(("index", block) for block in config.indexes.values())]
    blocks += [("reranker", block) for block in config.rerankers]
    used = {name for kind, block in blocks for name in configuration.models_of(config, kind, block)} | set(more)
    models = Assembly(config, ready)
    for name in sorted(used):
        ready[name] = models.model(name)
    return ready


def _row(task: _Task, contender: Contender, raw: Mapping[str, Any], models: Mapping[str, Any]) -> Row:
    """Cuts, indexes, searches and measures."""
    config = configuration.load(raw)
    watched = _Watched(Assembly(config, models).build("chunker", "chunker", config.chunker))
    with (
        TemporaryDirectory(prefix="rag-eval-") as folder,
        Rag.open(Path(folder) / "index", raw, components={**models, "chunker": watched}) as rag,
    ):
        began = time.perf_counter()
        rag.ingest_documents(task.spans.documents)
        ingest_seconds = time.perf_counter() - began
        ranking, found, search_seconds = _search(rag, task)
    chunks = [chunk for document in task.spans.documents for chunk in watched.chunks[document.id]]
    if not chunks:
        raise ValueError(f"chunker {contender.name!r} made no chunk of {len(task.spans.documents)} documents")
    costs = {text: task.tokenizer.count(text) if text else 0 for text in {chunk.context for chunk in chunks}}
    whole = placed(task.axis, chunks)
    measures = SpanMeasures(task.axis, task.k, task.budgets)
    for question, wanted, hits in zip(task.spans.questions, task.wanted, found, strict=True):
        own = watched.chunks[Document.id_of(question.source)]
        measures.note(wanted, hits, costs, whole, len(own) if task.within == "document" else len(chunks))
    scores = {
        unit: {name: interval(each, seed=task.seed, num_resamples=task.num_resamples) for name, each in values.items()}
        for unit, values in measures.values.items()
    }
    return Row(
        name=contender.name,
        chunker=dict(contender.chunker),
        indexes=dict(contender.indexes),
        ranking=ranking,
        num_chunks=len(chunks),
        mean_tokens=size(whole["tokens"]) / len(chunks),
        mean_context_tokens=sum(costs[chunk.context] for chunk in chunks) / len(chunks),
        returned_tokens=float(np.mean(measures.returned_tokens)),
        chunk_seconds=watched.seconds,
        ingest_seconds=ingest_seconds,
        ms_per_query=1000 * search_seconds / len(found),
        num_short=measures.num_short,
        scores=scores,
        per_question=measures.values,
        segmented=segmented(task.spans.topics, watched.chunks),
    )


def _search(rag: Rag, task: _Task) -> tuple[str, list[Sequence[Hit]], float]:
    """The name of the last ranking, the hits of each question in it, and seconds."""
    questions, names = task.spans.questions, list(rag.indexes)
    ranking = "reranked" if rag.config.rerankers else "fused" if len(names) > 1 else names[0]
    rag.search_each([questions[0].query], task.depth)  # loads the models, untimed
    found: list[Sequence[Hit]] = []
    began = time.perf_counter()
    if task.within == "document":
        for question in questions:
            found.append(rag.search(question.query, task.depth, where={"eq": ["source", question.source]}))
    else:
        for start in range(0, len(questions), BATCH_SIZE):
            batch = [question.query for question in questions[start : start + BATCH_SIZE]]
            found += [answer[ranking] for answer in rag.search_each(batch, task.depth)]
    return ranking, found, time.perf_counter() - began


def _comparisons(task: _Task, rows: Mapping[str, Row], baseline: str) -> list[Comparison]:
    measures = [at_k(name, task.k) for name in MEASURES] + [OMEGA]
    measures += [at_budget("recall", budget) for budget in task.budgets]
    compared = []
    for name, row in rows.items():
        for measure in measures if name != baseline else ():
            values, against = (each.per_question["tokens"][measure] for each in (row, rows[baseline]))
            drawn = difference(values, against, seed=task.seed, num_resamples=task.num_resamples)
            compared.append(Comparison(measure, name, baseline, drawn))
    return compared
