"""Which chunkers are to be compared: words, or a YAML file of blocks. Knows configurations; knows no chunker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rag import config as configuration
from rag.config import Config
from rag.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Contender:
    """A chunker under a name: its block (``{"use": "recursive", "max_tokens": 100}``), and index blocks that replace those of the
    same name (``{"dense": {"use": "faiss", "pooling": "late"}}``), for ways of chunking that an index takes part in.
    """

    name: str
    chunker: Mapping[str, Any]
    indexes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def configured(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """``base``, a configuration before ``${env:NAME}`` is filled in, with this chunker and these index blocks.

        The generator is the one that needs no model, since nothing is answered. Raises ``ConfigError`` that names the contender.
        """
        indexes = base.get("indexes") or Config().model_dump(mode="json")["indexes"]
        raw = {**base, "chunker": dict(self.chunker), "indexes": {**indexes, **self.indexes}, "generator": {"use": "extractive"}}
        try:
            configuration.check(configuration.load(raw))
        except ConfigError as error:
            raise ConfigError(f"chunker {self.name!r}: {error}") from None
        return raw


def contenders_of(words: str) -> list[Contender]:
    """Words of the registry between commas, or the path of a YAML file, see ``read_contenders``.

    >>> [each.name for each in contenders_of("structure, fixed")]
    ['structure', 'fixed']
    """
    if words.lower().endswith((".yaml", ".yml")):
        return read_contenders(Path(words))
    return distinct(Contender(word.strip(), {"use": word.strip()}) for word in words.split(",") if word.strip())


def read_contenders(path: Path) -> list[Contender]:
    """A YAML mapping of names to chunker blocks, each ``{use: word, options ...}`` or ``{chunker: block, indexes: {name: block}}``.

    Raises ``ConfigError`` that names the file and the entry.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the chunkers in {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must map names to chunker blocks, such as `small: {{use: recursive, max_tokens: 100}}`")
    return distinct(_contender(path, str(name), entry) for name, entry in loaded.items())


def _contender(path: Path, name: str, entry: Any) -> Contender:
    if not isinstance(entry, dict) or ("use" in entry) == ("chunker" in entry):
        raise ConfigError(f"{path}: {name}: expected a block with `use:`, or with `chunker:` and `indexes:`, not {entry!r}")
    if "use" in entry:
        return Contender(name, entry)
    if unknown := sorted(set(entry) - {"chunker", "indexes"}):
        raise ConfigError(f"{path}: {name}: unknown key {unknown[0]!r}; allowed: chunker, indexes")
    chunker, indexes = entry["chunker"], entry.get("indexes") or {}
    if not isinstance(chunker, dict) or not isinstance(indexes, dict):
        raise ConfigError(f"{path}: {name}: chunker is a block, indexes map names to blocks")
    return Contender(name, chunker, indexes)


def distinct(given: Iterable[Contender]) -> list[Contender]:
    """``given`` as a list. Raises ``ConfigError`` if there are none or two have one name."""
    contenders = list(given)
    if not contenders:
        raise ConfigError("no chunkers to compare; name some, such as structure,recursive")
    names = [each.name for each in contenders]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise ConfigError(f"chunker {twice!r} is named twice")
    return contenders


def with_baseline(contenders: Sequence[Contender], base: Mapping[str, Any]) -> tuple[str, list[Contender]]:
    """The name of the contender that the others are compared with, and all of them, it first.

    It is the one that has the chunker (and the indexes) of the configuration; if none has, that chunker joins. Raises
    ``ConfigError`` if two contenders have one name.
    """
    block = configuration.load({**base}).chunker.model_dump(mode="json")
    for each in contenders:
        if dict(each.chunker) == block and not each.indexes:
            return each.name, distinct([each, *(other for other in contenders if other is not each)])
    names = {each.name for each in contenders}
    name = block["use"] if block["use"] not in names else f"{block['use']} (configured)"
    return name, distinct([Contender(name, block), *contenders])
