"""Which word of a configuration names which class. Knows no class: the table holds strings, so nothing heavy loads.

A component is a plain class; the keywords of its ``__init__`` are its options. Parameters named after a model kind
(``encoder``, ``tokenizer``, ``lm``, ...) are not options: the pipeline builds those once and hands them in.
Plugins of others add words through the entry point group ``rag.plugins``: each entry point names a mapping
``{kind: {word: "package.module:Class"}}``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from rag.errors import ConfigError

TABLE: Mapping[str, Mapping[str, str]] = {
    "encoder": {
        "sentence-transformers": "rag.retrievers.encoder:SentenceTransformersEncoder",
        "asymmetric": "rag.retrievers.encoder_asymmetric:AsymmetricEncoder",
        "ray": "rag.retrievers.encoder_ray:RayEncoder",
    },
    "token_encoder": {
        "token-vectors": "rag.retrievers.token_vectors:TokenVectorsEncoder",
        "colbert": "rag.retrievers.colbert:ColBERTEncoder",
    },
    "sparse_encoder": {
        "sentence-transformers": "rag.retrievers.sparse_encoder:SentenceTransformersSparseEncoder",
        "uhd": "rag.retrievers.sparse_uhd:UhdEncoder",
    },
    "tokenizer": {
        "huggingface": "rag.tokenizer_huggingface:HuggingFaceTokenizer",
        "words": "rag.tokenizer:WordTokenizer",
    },
    "splitter": {
        "nupunkt": "rag.splitter:NupunktSplitter",
        "sat": "rag.splitter:SatSplitter",
    },
    "resolver": {
        "fastcoref": "rag.coref:FastcorefResolver",
    },
    "lm": {
        "transformers": "rag.lm:TransformersLM",
        "openai": "rag.lm_openai:OpenAILM",
        "cached": "rag.lm_cached:CachedLM",
        "metered": "rag.lm_metered:MeteredLM",
    },
    "chunker": {
        "fixed": "rag.chunkers.fixed:FixedChunker",
        "sentence": "rag.chunkers.sentence:SentenceChunker",
        "recursive": "rag.chunkers.recursive:RecursiveChunker",
        "structure": "rag.chunkers.structure:StructureChunker",
        "spatial": "rag.chunkers.spatial:SpatialChunker",
        "semantic": "rag.chunkers.semantic:SemanticChunker",
        "hyperseg": "rag.chunkers.hyperseg:HypersegChunker",
        "coref": "rag.chunkers.coref:CorefChunker",
        "perplexity": "rag.chunkers.perplexity:PerplexityChunker",
        "margin": "rag.chunkers.margin:MarginChunker",
        "contextual": "rag.chunkers.contextual:ContextualChunker",
        "propositions": "rag.chunkers.propositions:PropositionsChunker",
    },
    "index": {
        "faiss": "rag.retrievers.dense:FaissIndex",
        "bm25": "rag.retrievers.bm25:BM25Index",
        "warp": "rag.retrievers.warp.index:WarpIndex",
        "impact": "rag.retrievers.impact:ImpactIndex",
        "qdrant": "rag.retrievers.qdrant:QdrantIndex",
        "pgvector": "rag.retrievers.pgvector:PgvectorIndex",
    },
    "query": {
        "plain": "rag.query.plain:PlainQuery",
        "carry": "rag.query.carry:CarryQuery",
        "rewrite": "rag.query.rewrite:RewriteQuery",
        "hyde": "rag.query.hyde:HydeQuery",
        "multi-query": "rag.query.several:MultiQuery",
        "decompose": "rag.query.several:DecomposeQuery",
        "multi-hop": "rag.query.multi_hop:MultiHopQuery",
        "route": "rag.query.route:RouteQuery",
    },
    "fusion": {
        "rrf": "rag.retrievers.fuse:ReciprocalRankFusion",
        "convex": "rag.retrievers.fuse:ConvexFusion",
        "gqr": "rag.retrievers.fuse_gqr:GuidedQueryRefinement",
    },
    "reranker": {
        "cross-encoder": "rag.rerankers.cross_encoder:CrossEncoderReranker",
        "maxsim": "rag.rerankers.maxsim:MaxSimReranker",
        "pointwise": "rag.rerankers.pointwise:PointwiseReranker",
        "likelihood": "rag.rerankers.likelihood:LikelihoodReranker",
        "graded": "rag.rerankers.graded:GradedReranker",
        "pairwise": "rag.rerankers.pairwise:PairwiseReranker",
        "setwise": "rag.rerankers.setwise:SetwiseReranker",
        "listwise": "rag.rerankers.listwise:ListwiseReranker",
    },
    "selector": {
        "top": "rag.rerankers.top:TopSelector",
        "budget": "rag.rerankers.budget:BudgetSelector",
        "mmr": "rag.rerankers.mmr:MMRSelector",
        "facility": "rag.rerankers.facility:FacilitySelector",
        "score-drop": "rag.rerankers.score_drop:ScoreDropSelector",
        "chunkrag": "rag.rerankers.chunk_filter:ChunkFilterSelector",
        "corag": "rag.rerankers.corag:CoragSelector",
        "compress": "rag.rerankers.compress:CompressSelector",
        "neighbours": "rag.rerankers.neighbours:NeighboursSelector",
        "parents": "rag.rerankers.parents:ParentsSelector",
        "order": "rag.rerankers.order:OrderSelector",
        "steps": "rag.rerankers.steps:StepsSelector",
    },
    "generator": {
        "extractive": "rag.extractive:ExtractiveGenerator",
        "lm": "rag.generate:LMGenerator",
        "kv": "rag.kvcache.generator:KVGenerator",
        "map-reduce": "rag.map_reduce:MapReduceGenerator",
        "margins": "rag.margins:MarginsGenerator",
        "feedback": "rag.feedback:FeedbackGenerator",
        "abstain": "rag.abstain:AbstainGenerator",
    },
}

MODEL_KINDS: Mapping[str, str] = {
    "encoder": "encoder",
    "token_encoder": "token_encoder",
    "sparse_encoder": "sparse_encoder",
    "tokenizer": "tokenizer",
    "splitter": "splitter",
    "resolver": "resolver",
    "lm": "lm",
    "judge": "lm",
}
"""Names under ``models:`` in a configuration (and of injected parameters) -> registry kind."""


NESTED_KINDS: Mapping[str, str] = {
    "chunker": "chunker",
    "query_encoder": "encoder",
    "document_encoder": "encoder",
    "then": "query",
    "simple": "query",
    "complex": "query",
    "generator": "generator",
    "reranker": "reranker",
    "inner": "lm",
}
"""Parameters that take another component, written as a block inside the block -> its registry kind."""


NESTED_LISTS: Mapping[str, str] = {"selectors": "selector"}
"""Parameters that take several components, written as a list of blocks inside the block -> their registry kind."""


GIVEN = ("index_folder", "corpus")
"""Parameters that are neither options nor models: the pipeline hands in what it knows itself (the folder of its index, what it stores)."""


@cache
def table() -> Mapping[str, Mapping[str, str]]:
    """The built-in words and those of installed plugins. Raises ``ConfigError`` if a plugin takes a word that is taken."""
    words = {kind: dict(entries) for kind, entries in TABLE.items()}
    for plugin in entry_points(group="rag.plugins"):
        for kind, entries in plugin.load().items():
            for word, target in entries.items():
                if kind not in words:
                    raise ConfigError(f"plugin {plugin.name!r} adds to the unknown kind {kind!r}; known kinds: {', '.join(words)}")
                if word in words[kind]:
                    raise ConfigError(f"plugin {plugin.name!r} takes the {kind} word {word!r}, which names {words[kind][word]}")
                words[kind][word] = target
    return words


def component(kind: str, word: str) -> type[Any]:
    """The class that ``word`` names. Raises ``ConfigError`` with the allowed words (and the nearest) if there is none."""
    known = table()[kind]
    if word not in known:
        raise ConfigError(f"unknown {kind} {word!r}{did_you_mean(word, known)}; allowed: {', '.join(sorted(known))}")
    module, _, name = known[word].partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def options(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """The keywords of ``cls.__init__`` that a configuration may set."""
    return {name: parameter for name, parameter in _parameters(cls).items() if name not in MODEL_KINDS and name not in GIVEN}


def wanted_models(cls: type[Any]) -> dict[str, bool]:
    """The models that ``cls`` takes -> whether it cannot do without."""
    return {
        name: parameter.default is inspect.Parameter.empty for name, parameter in _parameters(cls).items() if name in MODEL_KINDS
    }


def given(cls: type[Any]) -> dict[str, bool]:
    """Which of ``GIVEN`` the class takes -> whether it cannot do without."""
    return {name: parameter.default is inspect.Parameter.empty for name, parameter in _parameters(cls).items() if name in GIVEN}


def _parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    if cls.__init__ is object.__init__:
        return {}
    parameters = dict(inspect.signature(cls.__init__).parameters)
    parameters.pop("self", None)
    return parameters


def did_you_mean(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
