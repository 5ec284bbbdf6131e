"""Which parts of a chain are watched, under which stage and under which name. Knows configurations; measures nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag import registry
from rag.config import Block, Config
from rag.core import digest
from rag.eval.part_prints import part_print
from rag.eval.watch import Watch, WatchedFusion, WatchedIndex, WatchedQueryStage, WatchedReranker
from rag.parts import Wrap

_WATCHED: Mapping[str, Any] = {
    "index": WatchedIndex,
    "query": WatchedQueryStage,
    "fusion": WatchedFusion,
    "reranker": WatchedReranker,
    "selector": WatchedReranker,
}


def rerank_stages(config: Config) -> list[str]:
    """The names of the cascade's stages; those that are called alike are numbered: ``rerank:cross-encoder#2``."""
    words = [block.use for block in config.rerankers]
    numbers = [words[: place + 1].count(word) for place, word in enumerate(words)]
    return [f"rerank:{word}#{number}" if number > 1 else f"rerank:{word}" for word, number in zip(words, numbers, strict=True)]


def watching(config: Config, own: Mapping[str, Any], content: str, watch: Watch) -> Wrap:
    """What ``Rag.open`` takes to have every stage between the question and the prompt watched.

    ``own``: objects that stand in for configured parts. ``content``: names the index and all that can change what is found in it.
    """
    stages = _stages(config)

    def wrap(kind: str, key: str, component: Any) -> Any:
        if kind not in _WATCHED or (kind == "query" and not component.rewrites):  # a question searched as it is has no stage
            return component
        stage, block = stages[key]
        name = part_print(config, own, kind, key, block)
        if kind == "index" and name is not None and _reads_vectors(config, own):
            # Such a fusion finds the query encoded, because the index has just searched for it. So both are made anew or neither is.
            fusion = part_print(config, own, "fusion", "fuse", config.fuse)
            name = digest(name, fusion) if fusion else None
        return _WATCHED[kind](component, watch, stage, digest(content, key, name) if name else None)

    return wrap


def _stages(config: Config) -> dict[str, tuple[str, Block]]:
    """Key of the configuration -> stage and block."""
    stages = {f"indexes.{name}": (name, block) for name, block in config.indexes.items()}
    stages["query"] = (f"query:{config.query.use}", config.query)
    stages["fuse"] = ("fuse", config.fuse)
    for number, (stage, block) in enumerate(zip(rerank_stages(config), config.rerankers, strict=True)):
        stages[f"rerankers[{number}]"] = (stage, block)
    stages["select"] = ("select", config.select)
    return stages


def _reads_vectors(config: Config, own: Mapping[str, Any]) -> bool:
    fusion = own["fuse"] if "fuse" in own else registry.component("fusion", config.fuse.use)
    return len(config.indexes) > 1 and bool(getattr(fusion, "reads_vectors", True))
