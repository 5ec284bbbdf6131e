"""What a configuration says: which word stands for each part of the pipeline, with which options.

Knows names and shapes, and builds components from them; knows nothing of what a component does. A configuration holds
words of the registry, never a dotted path, so that reading one runs no code of its author.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from rag import registry
from rag.errors import ConfigError

_ENV = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


class Block(BaseModel):
    """``use:`` a word of the registry, and the options of the class it names."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but ``use``."""
        return dict(self.model_extra or {})


class RerankerBlock(Block):
    """A stage of the cascade: a reranker, and how many of the hits before it are handed to it."""

    depth: int | None = Field(None, ge=1, le=1_000, description="hits handed to this reranker; default: search.rerank")


class ReadSettings(BaseModel):
    """Limits for one file; passing one costs that file alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_file_mb: int = Field(256, ge=1)
    max_expanded_mb: int = Field(512, ge=1)
    max_pages: int = Field(20_000, ge=1)
    memory_mb: int = Field(4096, ge=256)
    seconds: float = Field(120.0, gt=0)
    workers: int | None = Field(
        None, ge=1, le=64, description="processes that parse; default: one fewer than there are processors, at most 8"
    )


class SearchSettings(BaseModel):
    """How many candidates go from stage to stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    candidates: int = Field(100, ge=1, le=10_000, description="hits taken from each index")
    rerank: int = Field(30, ge=1, le=1_000, description="fused hits handed to rerankers that name no depth of their own")


class ServeSettings(BaseModel):
    """How ``rag serve`` listens."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    max_body_mb: int = Field(64, ge=1)
    max_query_chars: int = Field(8_000, ge=1)
    max_k: int = Field(200, ge=1)
    max_queued_jobs: int = Field(32, ge=1)
    api_key: str | None = Field(None, description="required as a bearer token when set")
    trust_principals: bool = Field(False, description="let requests say who asks; only behind a server that signs users in")


class Config(BaseModel):
    """The whole pipeline. Every field has a default that works offline on a laptop."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    models: dict[str, Block] = {
        "encoder": Block.model_validate({"use": "sentence-transformers", "model": "embedded"}),
        "token_encoder": Block(use="token-vectors"),
        "tokenizer": Block.model_validate({"use": "huggingface", "model": "embedded"}),
    }
    chunker: Block = Block(use="structure")
    indexes: dict[str, Block] = {"dense": Block(use="faiss"), "sparse": Block(use="bm25")}
    query: Block = Block(use="plain")
    fuse: Block = Block(use="convex")
    rerankers: list[RerankerBlock] = []
    select: Block = Block(use="top")
    generator: Block = Block(use="extractive")
    search: SearchSettings = SearchSettings()  # type: ignore[call-arg]
    read: ReadSettings = ReadSettings()  # type: ignore[call-arg]
    serve: ServeSettings = ServeSettings()  # type: ignore[call-arg]


def raw(source: Path | str | Mapping[str, Any] | Config | None) -> dict[str, Any]:
    """What was given, before ``${env:NAME}`` is filled in: the form that may be stored, since it holds no secret."""
    if source is None:
        return {}
    if isinstance(source, Config):
        return source.model_dump(mode="json")
    return _read(Path(source)) if isinstance(source, (str, Path)) else dict(source)


def load(source: Path | str | Mapping[str, Any] | Config | None) -> Config:
    """A checked configuration from a YAML file, a mapping, or the defaults (``None``). Given blocks replace default blocks whole;
    ``models:`` and the settings are laid over the defaults name by name.

    Raises ``ConfigError`` that names the key, the bad value and what is allowed.
    """
    if isinstance(source, Config):
        return source
    given = raw(source)
    if not isinstance(given.pop("sweep", {}), dict):  # values to try: `rag tune` alone reads them (rag.sweep)
        raise ConfigError("sweep: must map dotted keys to lists of values")
    given = _interpolate(given, "")
    if isinstance(given.get("models"), dict):
        defaults = Config().model_dump(mode="json")["models"]
        given["models"] = {**defaults, **given["models"]}
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        raise ConfigError(_explain(error, Config)) from None
    _check_words(config)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the configuration {path} is not UTF-8 text") from None
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the configuration {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"the configuration {path} must be a mapping, not {type(loaded).__name__}")
    return loaded


def _interpolate(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _interpolate(item, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, f"{key}[{number}]") for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"{key}: the environment variable {match[1]!r} is not set")
        return os.environ[match[1]]

    return _ENV.sub(replaced, value)


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            inner: Any = model
            for part in problem["loc"][:-1]:
                field = getattr(inner, "model_fields", {}).get(part)
                inner = field.annotation if field else inner
            allowed = sorted(getattr(inner, "model_fields", {}))
            near = registry.did_you_mean(str(problem["loc"][-1]), allowed)
            lines.append(f"{key}: unknown key{near}; allowed: {', '.join(allowed) or '(none)'}")
        elif problem["type"] == "missing":
            kind = registry.NESTED_KINDS.get(str(problem["loc"][-1]))
            lines.append(
                f"{key}: is required" + (f", a block such as {{use: {next(iter(registry.table()[kind]))}}}" if kind else "")
            )
        else:
            lines.append(f"{key}: {problem['msg']}, not {problem['input']!r}")
    return "; ".join(lines)


def _blocks(config: Config) -> list[tuple[str, str, Block]]:
    """(registry kind, key, block) of every block."""
    blocks = [(registry.MODEL_KINDS.get(name, ""), f"models.{name}", block) for name, block in config.models.items()]
    blocks.append(("chunker", "chunker", config.chunker))
    blocks += [("index", f"indexes.{name}", block) for name, block in config.indexes.items()]
    blocks.append(("query", "query", config.query))
    blocks.append(("fusion", "fuse", config.fuse))
    blocks += [("reranker", f"rerankers[{number}]", block) for number, block in enumerate(config.rerankers)]
    blocks.append(("selector", "select", config.select))
    blocks.append(("generator", "generator", config.generator))
    return blocks


def _check_words(config: Config) -> None:
    if not config.indexes:
        raise ConfigError("indexes: at least one index is needed")
    for name in config.indexes:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name):
            raise ConfigError(f"indexes.{name}: an index name is a lower-case word of at most 32 letters, digits, '-' or '_'")
    for kind, key, block in _blocks(config):
        if not kind:
            known = sorted(registry.MODEL_KINDS)
            name = key.removeprefix("models.")
            raise ConfigError(f"{key}: unknown model{registry.did_you_mean(name, known)}; allowed: {', '.join(known)}")
        check_word(kind, key, block)


def check_word(kind: str, key: str, block: Block) -> None:
    """Raises ``ConfigError`` with the allowed words unless ``block.use`` is one."""
    known = sorted(registry.table()[kind])
    if block.use not in known:
        near = registry.did_you_mean(block.use, known)
        raise ConfigError(f"{key}.use: unknown {kind} {block.use!r}{near}; allowed: {', '.join(known)}")


def options_model(cls: type[Any]) -> type[BaseModel]:
    """A pydantic model of the options of ``cls``, made from the signature of its ``__init__``."""
    fields: dict[str, Any] = {}
    for name, parameter in registry.options(cls).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigError(f"{cls.__name__}.__init__ takes *{name}: a component names its options")
        default = ... if parameter.default is parameter.empty else parameter.default
        annotation = parameter.annotation
        if name in registry.NESTED_KINDS or name in registry.NESTED_LISTS:
            annotation = list[Block] if name in registry.NESTED_LISTS else Block
        fields[name] = (annotation, default)
    settings = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(cls.__name__, __config__=settings, __module__=cls.__module__, **fields)


def check_options(kind: str, key: str, block: Block) -> dict[str, Any]:
    """The checked options of a block (defaults left out). Raises ``ConfigError`` that names key, value and allowed ones."""
    cls = registry.component(kind, block.use)
    model = options_model(cls)
    try:
        checked = model.model_validate(block.options)
    except ValidationError as error:
        raise ConfigError(f"{key} ({block.use}): {_explain(error, model)}") from None
    found = {name: getattr(checked, name) for name in checked.model_fields_set}
    for inner_kind, name, inner in _inside(found):
        check_word(inner_kind, f"{key}.{name}", inner)
        check_options(inner_kind, f"{key}.{name}", inner)
    return found


def _inside(options: Mapping[str, Any]) -> list[tuple[str, str, Block]]:
    """(registry kind, name, block) of the blocks among checked options; names from a list have their number: ``selectors[0]``."""
    found = [(kind, name, options[name]) for name, kind in registry.NESTED_KINDS.items() if name in options]
    for name, kind in registry.NESTED_LISTS.items():
        found += [(kind, f"{name}[{number}]", block) for number, block in enumerate(options.get(name, ()))]
    return found


def check(config: Config) -> None:
    """Checks the options of every block (this imports the classes). Raises ``ConfigError``."""
    for kind, key, block in _blocks(config):
        check_options(kind, key, block)


def models_of(config: Config, kind: str, block: Block) -> dict[str, Block]:
    """The configured models that the component of ``block`` takes, those of the components inside it, and theirs in turn."""
    found: dict[str, Block] = {}
    waiting = [(kind, block)]
    while waiting:
        kind, block = waiting.pop()
        for name in registry.wanted_models(registry.component(kind, block.use)):
            if name in config.models and name not in found:
                found[name] = config.models[name]
                waiting.append((registry.MODEL_KINDS[name], found[name]))
        waiting += [(inner_kind, inner) for inner_kind, _, inner in _inside(check_options(kind, kind, block))]
    return found


class Assembly:
    """Builds the components of one configuration, each model once, whoever asks for it first."""

    def __init__(self, config: Config, overrides: Mapping[str, Any] | None = None, given: Mapping[str, Any] | None = None) -> None:
        """``overrides``: ready objects by key (``encoder``, ``chunker``, ``generator``, ...), for tests and for own classes.

        ``given``: what components may ask for beside options and models (``registry.GIVEN``).
        """
        self.config = config
        self._given = dict(given or {})
        self._models: dict[str, Any] = {}
        self._begun: list[str] = []  # models that are being built for one another
        self._overrides = dict(overrides or {})

    def model(self, name: str) -> Any:
        """The model called ``name`` under ``models:``, built at its first use; models that it takes itself are built before it.

        Raises ``ConfigError`` if a model needs itself.
        """
        if name in self._overrides:
            return self._overrides[name]
        if name not in self._models:
            if name in self._begun:
                raise ConfigError(f"models.{name} needs itself: {' -> '.join([*self._begun, name])}")
            self._begun.append(name)
            try:
                self._models[name] = self._make(registry.MODEL_KINDS[name], f"models.{name}", self.config.models[name])
            finally:
                self._begun.pop()
        return self._models[name]

    def build(self, kind: str, key: str, block: Block) -> Any:
        """The component of one block. Raises ``ConfigError`` for bad options or a model that is not configured."""
        return self._overrides[key] if key in self._overrides else self._make(kind, key, block)

    def _make(self, kind: str, key: str, block: Block) -> Any:
        cls = registry.component(kind, block.use)
        arguments = check_options(kind, key, block)
        inside = {name: self._make(inner_kind, f"{key}.{name}", inner) for inner_kind, name, inner in _inside(arguments)}
        for name in registry.NESTED_KINDS.keys() & arguments.keys():
            arguments[name] = inside[name]
        for name in registry.NESTED_LISTS.keys() & arguments.keys():
            arguments[name] = [inside[f"{name}[{number}]"] for number in range(len(arguments[name]))]
        for name, required in registry.wanted_models(cls).items():
            if name in self.config.models or name in self._overrides:
                arguments[name] = self.model(name)
            elif required:
                raise ConfigError(f"{key} ({block.use}) needs a model: add `models: {{{name}: {{use: ...}}}}` to the configuration")
        for name, required in registry.given(cls).items():
            if name in self._given:
                arguments[name] = self._given[name]
            elif required:
                raise ConfigError(f"{key} ({block.use}) needs the {name} of an open index: build it with Rag.open")
        try:
            return cls(**arguments)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{key} ({block.use}): {error}") from None


def schema() -> dict[str, Any]:
    """JSON Schema of a configuration, with the options of every word of the registry."""
    whole = Config.model_json_schema()
    definitions: dict[str, Any] = whole.setdefault("$defs", {})
    by_kind: dict[str, list[dict[str, str]]] = {}
    for kind, words in registry.table().items():
        for word in words:
            model = options_model(registry.component(kind, word))
            described = TypeAdapter(model).json_schema(ref_template=f"#/$defs/{kind}.{word}.{{model}}")
            definitions.update({f"{kind}.{word}.{name}": part for name, part in described.pop("$defs", {}).items()})
            described["properties"] = {"use": {"const": word}, **described.get("properties", {})}
            described["required"] = ["use", *described.get("required", [])]
            described["title"] = f"{kind}: {word}"
            if kind == "reranker":
                described["properties"]["depth"] = RerankerBlock.model_json_schema()["properties"]["depth"]
            definitions[f"{kind}.{word}"] = described
            by_kind.setdefault(kind, []).append({"$ref": f"#/$defs/{kind}.{word}"})
    for name, kind in registry.NESTED_KINDS.items():
        for described in definitions.values():
            if name in described.get("properties", {}):
                described["properties"][name] = {"oneOf": by_kind[kind]}
    for name, kind in registry.NESTED_LISTS.items():
        for described in definitions.values():
            if name in described.get("properties", {}):
                described["properties"][name] = {"type": "array", "items": {"oneOf": by_kind[kind]}}
    properties = whole["properties"]
    properties["models"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {"oneOf": by_kind[kind]} for name, kind in registry.MODEL_KINDS.items()},
    }
    properties["indexes"] = {"type": "object", "additionalProperties": {"oneOf": by_kind["index"]}}
    properties["sweep"] = {
        "type": "object",
        "additionalProperties": {"type": "array", "minItems": 1},
        "description": "for rag tune",
    }
    properties["rerankers"] = {"type": "array", "items": {"oneOf": by_kind["reranker"]}}
    single = {"chunker": "chunker", "query": "query", "fuse": "fusion", "select": "selector", "generator": "generator"}
    for key, kind in single.items():
        properties[key] = {"oneOf": by_kind[kind]}
    return whole


def dump(config: Config) -> str:
    """The configuration as YAML that ``load`` reads back."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True)
