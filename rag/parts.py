"""The components of one pipeline, each built when it is first needed and then kept. Knows the registry's kinds; knows no data."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

from rag.config import Assembly, Block, Config
from rag.core import Fusion, Index, QueryStage, Reranker

Wrap = Callable[[str, str, Any], Any]
"""(kind of the registry, key of the configuration, component) -> what takes its place."""


class Parts:
    """What ``assembly`` configures, by its place in the chain. ``wrap`` is given each component once and returns what takes its place.

    Safe to use from several threads. Every property raises ``ConfigError`` for a block that cannot be built.
    """

    def __init__(self, assembly: Assembly, wrap: Wrap | None = None) -> None:
        self.assembly = assembly
        self.config: Config = assembly.config
        self._wrap = wrap
        self._built: dict[str, Any] = {}
        self._lock = threading.RLock()

    def _component(self, kind: str, key: str, block: Block) -> Any:
        with self._lock:
            if key not in self._built:
                built = self.assembly.build(kind, key, block)
                self._built[key] = self._wrap(kind, key, built) if self._wrap else built
            return self._built[key]

    @property
    def chunker(self) -> Any:
        """The configured chunker."""
        return self._component("chunker", "chunker", self.config.chunker)

    @property
    def indexes(self) -> dict[str, Index]:
        """The configured indexes by name."""
        return {name: self._component("index", f"indexes.{name}", block) for name, block in self.config.indexes.items()}

    @property
    def query_stage(self) -> QueryStage:
        """The configured query stage."""
        return cast("QueryStage", self._component("query", "query", self.config.query))

    @property
    def fusion(self) -> Fusion:
        """The configured fusion."""
        return cast("Fusion", self._component("fusion", "fuse", self.config.fuse))

    @property
    def rerankers(self) -> list[tuple[str, Reranker]]:
        """The cascade, each with the name of its stage."""
        return [
            (f"rerank:{block.use}", self._component("reranker", f"rerankers[{number}]", block))
            for number, block in enumerate(self.config.rerankers)
        ]

    @property
    def selector(self) -> Reranker:
        """The configured selector."""
        return cast("Reranker", self._component("selector", "select", self.config.select))

    @property
    def generator(self) -> Any:
        """The configured generator."""
        return self._component("generator", "generator", self.config.generator)
