"""The configurations that one configuration with ``sweep:`` stands for. Knows keys and values; builds no component and measures nothing.

    chunker: {use: structure}
    sweep:
      chunker.max_tokens: [128, 256]
      search.candidates: [20, 40]
      select: [{use: top, k: 3}, {use: top, k: 6}]

Every key under ``sweep:`` is an axis: a key of the configuration, dotted, and the list of values to try. Shorter keys are set first, so an
axis may choose a block and another one set an option inside it.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rag import config as configuration
from rag.config import Config
from rag.errors import ConfigError
from rag.registry import did_you_mean

KEY = "sweep"
MAX_CONFIGS = 10_000


class Named(NamedTuple):
    """One configuration of a sweep: its name says what it has of each axis; ``raw`` is what ``rag.config.load`` takes."""

    name: str
    raw: dict[str, Any]


def read(path: Path | str) -> dict[str, Any]:
    """A configuration file with its ``sweep:``. Raises ``ConfigError`` as ``rag.config.load`` would, and for an axis that stands there twice."""
    raw = configuration.raw(path)
    node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if name.value == KEY and isinstance(value, yaml.MappingNode):
            keys = [key.value for key, _ in value.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise ConfigError(f"sweep.{key}: the axis stands there twice")
    return raw


def axes_of(raw: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The axes of a configuration, shorter keys first. Raises ``ConfigError`` that names the axis, the bad value and what is allowed."""
    given = raw.get(KEY, {})
    if not isinstance(given, Mapping) or not given:
        said = "is missing" if KEY not in raw else f"must map dotted keys to lists of values, not {given!r}"
        raise ConfigError(f"{KEY}: {said}; for example {KEY}: {{chunker.max_tokens: [128, 256]}}")
    for key, values in given.items():
        if not isinstance(values, list):
            raise ConfigError(f"{KEY}.{key}: must be a list of values to try, not {values!r}")
        if not values:
            raise ConfigError(f"{KEY}.{key}: the list is empty; name the values to try")
        seen = [_canonical(value) for value in values]
        for place, value in enumerate(values):
            if seen[place] in seen[:place]:
                raise ConfigError(f"{KEY}.{key}: {json.dumps(value, default=str)} stands in the list twice")
        first = str(key).split(".")[0]
        if first not in Config.model_fields:
            allowed = list(Config.model_fields)
            raise ConfigError(f"{KEY}.{key}: unknown key {first!r}{did_you_mean(first, allowed)}; allowed: {', '.join(allowed)}")
    return dict(sorted(given.items(), key=lambda axis: str(axis[0]).count(".")))


def expand(raw: Mapping[str, Any], *, check: bool = True) -> list[Named]:
    """Every combination of the axes' values, named, each checked as ``rag.config.load`` and ``rag.config.check`` do.

    ``check=False`` leaves out the options of components, whose classes must be imported for it. Raises ``ConfigError``.
    """
    axes = axes_of(raw)
    num_configs = 1
    for values in axes.values():
        num_configs *= len(values)
    if num_configs > MAX_CONFIGS:
        sizes = " x ".join(f"{len(values)} ({key})" for key, values in axes.items())
        raise ConfigError(f"{KEY}: {sizes} = {num_configs:,} configurations; at most {MAX_CONFIGS:,} are allowed")
    base = {key: value for key, value in raw.items() if key != KEY}
    shown = _short_keys(list(axes))
    made: list[Named] = []
    known: dict[str, str] = {}
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        name = " ".join(f"{shown[key]}={_said(value)}" for key, value in chosen.items())
        whole = copy.deepcopy(base)
        for key, value in chosen.items():
            _set(whole, str(key), copy.deepcopy(value))
        _checked(name, whole, check=check)
        same = known.setdefault(_canonical(whole), name)
        if same != name:
            raise ConfigError(f"{KEY}: {same!r} and {name!r} are the same configuration: one axis overwrites what another one sets")
        made.append(Named(name, whole))
    return _with_unique_names(made)


def _checked(name: str, raw: Mapping[str, Any], *, check: bool) -> None:
    try:
        loaded = configuration.load(raw)
        if check:
            configuration.check(loaded)
    except ConfigError as error:
        raise ConfigError(f"{KEY}: the configuration {name!r}: {error}") from None


def _set(whole: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key. What lies on the way and is not given is taken from the defaults, since a given block replaces a default one."""
    parts = key.split(".")
    defaults: Any = _defaults()
    here: Any = whole
    for depth, part in enumerate(parts[:-1]):
        laid_over = depth == 0 or parts[0] == "models"  # elsewhere what is given replaces the default as a whole
        defaults = defaults.get(part) if laid_over and isinstance(defaults, Mapping) else None
        reached = ".".join(parts[: depth + 1])
        if isinstance(here, list):
            here = here[_place(key, reached, part, here)]
        else:
            if part not in here and defaults is None:
                known = ", ".join(map(str, here)) or "(none)"
                raise ConfigError(f"{KEY}.{key}: there is no {reached!r} in the configuration; there are: {known}")
            here = here.setdefault(part, copy.deepcopy(defaults))
        if not isinstance(here, (dict, list)):
            raise ConfigError(f"{KEY}.{key}: {reached!r} is {here!r}, which holds no key {parts[depth + 1]!r}")
    if isinstance(here, list):
        here[_place(key, key, parts[-1], here)] = value
    else:
        here[parts[-1]] = value


@cache
def _defaults() -> dict[str, Any]:
    return Config().model_dump(mode="json")


def _place(key: str, reached: str, part: str, items: Sequence[Any]) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(f"{KEY}.{key}: {reached!r} names no item of a list of {len(items)}; allowed: 0 to {len(items) - 1}")
    return int(part)


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last words of each key, as many as tell it apart from the others."""
    short = {}
    for key in keys:
        parts = str(key).split(".")
        for count in range(1, len(parts) + 1):
            tail = parts[-count:]
            if count == len(parts) or not any(other != key and str(other).split(".")[-count:] == tail for other in keys):
                short[key] = ".".join(tail)
                break
    return short


def _said(value: Any) -> str:
    """A value as a few characters: ``256``, ``top(k=3)``, ``[cross-encoder(top_k=5)]``."""
    if isinstance(value, Mapping):
        options = ", ".join(f"{key}={_said(item)}" for key, item in value.items() if key != "use")
        word = str(value.get("use", ""))
        return f"{word}({options})" if options or not word else word
    if isinstance(value, list):
        return f"[{', '.join(map(_said, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def _with_unique_names(configs: Iterable[Named]) -> list[Named]:
    """``1`` and ``"1"`` look alike: what looks alike gets a number."""
    made: list[Named] = []
    taken: set[str] = set()
    for name, raw in configs:
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name} ({count})"
        taken.add(unique)
        made.append(Named(unique, raw))
    return made


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
