"""The models of several configurations, each built once and counted. Knows encoders and language models; knows no index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag import config as configuration
from rag.config import Assembly, Config
from rag.core import digest
from rag.lm_metered import MeteredLM
from rag.registry import MODEL_KINDS


class SharedModels:
    """Builds each configured model once for all configurations whose block of it is equal."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def of(self, config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
        """The models that ``config`` uses, by name, without those that are ``given``."""
        ready = dict(given)
        assembly = Assembly(config, ready)
        found = {}
        for name in sorted(_used(config) - ready.keys()):
            key = digest(name, *(f"{each} {config.models[each].model_dump_json()}" for each in _needed(config, name)))
            if key not in self._built:
                self._built[key] = _counted(name, assembly.model(name))
            found[name] = self._built[key]
        return found


ENCODERS = ("encoder", "token_encoder", "sparse_encoder")


class CountedEncoder:
    """An encoder that counts the calls that encode; everything else is the encoder's own."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.num_encode_calls = 0

    def __getattr__(self, name: str) -> Any:
        if name == "_encoder":  # not yet there: a copy is being made
            raise AttributeError(name)
        found = getattr(self._encoder, name)
        if not name.startswith("encode") or not callable(found):
            return found

        def counted(*arguments: Any, **options: Any) -> Any:
            self.num_encode_calls += 1
            return found(*arguments, **options)

        return counted


def _counted(name: str, model: Any) -> Any:
    if name in ENCODERS:
        return CountedEncoder(model)
    return MeteredLM(model) if MODEL_KINDS[name] == "lm" else model


def _used(config: Config) -> set[str]:
    blocks = [("chunker", config.chunker), ("query", config.query), ("fusion", config.fuse), ("selector", config.select)]
    blocks.append(("generator", config.generator))
    blocks += [("index", block) for block in config.indexes.values()]
    blocks += [("reranker", block) for block in config.rerankers]
    return {name for kind, block in blocks for name in configuration.models_of(config, kind, block)}


def _needed(config: Config, name: str) -> list[str]:
    """The model and those it takes itself."""
    return [name, *sorted(configuration.models_of(config, MODEL_KINDS[name], config.models[name]))]
