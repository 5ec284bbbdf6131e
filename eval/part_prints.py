"""Names of the parts of a configuration, by everything that decides what they do. Knows configurations; builds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag import config as configuration
from rag.config import Block, Config
from rag.core import digest
from rag.registry import MODEL_KINDS


def identity(component: Any) -> str:
    """A name of an object that stands in for a component: its ``fingerprint``; without one it equals only itself."""
    fingerprint = getattr(component, "fingerprint", None)
    return f"{type(component).__qualname__} {fingerprint if isinstance(fingerprint, str) else hex(id(component))}"


def is_lasting(component: Any) -> bool:
    """Whether ``identity`` means the same in the next process."""
    return isinstance(getattr(component, "fingerprint", None), str)


def part_print(config: Config, own: Mapping[str, Any], kind: str, key: str, block: Block) -> str | None:
    """Names a component by its options and its models; ``None`` if equal input need not give equal output in the next process.

    ``own``: objects that stand in for configured components. These are told by their ``fingerprint``. Components keep the law that
    the contract tests check: the same for the same input. Language models that draw are taken out of it.
    """
    if key in own:
        return identity(own[key]) if is_lasting(own[key]) else None
    parts = [kind, block.model_dump_json(), weights_print(block)]
    for name, model in sorted(configuration.models_of(config, kind, block).items()):
        given = own.get(name)
        if MODEL_KINDS[name] == "lm" and draws(given if name in own else model):
            return None
        if name in own and not is_lasting(given):
            return None
        parts.append(f"{name} {identity(given) if name in own else model.model_dump_json() + weights_print(model)}")
    return digest(*parts)


def weights_print(block: Any) -> str:
    """Names, sizes and times of the files of every local ``model:`` in a block or in one inside it: one that was trained anew is another."""
    if isinstance(block, Block):
        return weights_print(block.options)
    if not isinstance(block, Mapping):
        return "".join(map(weights_print, block)) if isinstance(block, list) else ""
    told = "".join(weights_print(value) for value in block.values())
    model = block.get("model")
    if isinstance(model, str) and Path(model).exists():
        files = sorted(each for each in (Path(model), *Path(model).rglob("*")) if each.is_file())
        told += digest(*(f"{each} {each.stat().st_size} {each.stat().st_mtime_ns}" for each in files))
    return told


def draws(lm: Any) -> bool:
    """Whether a language model, or the block of one, or one inside it, draws its tokens (``temperature`` above 0)."""
    if isinstance(lm, Block):
        return draws(lm.options)
    if isinstance(lm, Mapping):
        return bool(lm.get("temperature")) or draws(lm.get("inner"))
    return bool(getattr(getattr(lm, "sampling", None), "temperature", 0.0)) or (hasattr(lm, "inner") and draws(lm.inner))
