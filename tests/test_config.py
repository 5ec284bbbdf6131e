from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rag import config, registry
from rag.core import Chunker
from rag.errors import ConfigError
from rag.starter import STARTER


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chunkr": {}}, "chunkr: unknown key (did you mean 'chunker'?); allowed: chunker, fuse"),
        ({"chunker": {}}, "chunker.use: is required"),
        (
            {"chunker": {"use": "structur"}},
            "chunker.use: unknown chunker 'structur' (did you mean 'structure'?); allowed: contextual",
        ),
        ({"indexes": {}}, "indexes: at least one"),
        ({"indexes": {"../x": {"use": "bm25"}}}, "indexes.../x: an index name"),
        ({"models": {"encodr": {"use": "x"}}}, "models.encodr: unknown model (did you mean 'encoder'?)"),
        ({"search": {"candidates": 0}}, "search.candidates: Input should be greater than or equal to 1, not 0"),
        ({"search": {"k": 3}}, "search.k: unknown key; allowed: candidates, rerank"),
        (
            {"generator": {"use": "lm", "x": "${env:NO_SUCH_NAME}"}},
            "generator.x: the environment variable 'NO_SUCH_NAME' is not set",
        ),
        ({"rerankers": [{"use": "magic"}]}, "rerankers[0].use: unknown reranker 'magic'; allowed: cross-encoder"),
    ],
)
def test_a_bad_configuration_names_key_value_and_what_is_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(given)
    assert message in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    for name, content in {"list.yaml": b"- 1", "broken.yaml": b"a: [", "binary.yaml": b"\xff\xfe\x00"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            config.load(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path / "none.yaml")


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("chunker: !!python/object/apply:os.system ['true']")
    with pytest.raises(ConfigError, match="not YAML"):
        config.load(tmp_path / "evil.yaml")


def test_environment_variables_are_filled_in_but_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "s3cret")
    given = {"serve": {"api_key": "${env:SOME_KEY}"}}
    assert config.load(given).serve.api_key == "s3cret"
    assert "s3cret" not in str(config.raw(given))


def test_models_are_laid_over_the_defaults() -> None:
    loaded = config.load({"models": {"lm": {"use": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}}})
    assert set(loaded.models) == {"encoder", "token_encoder", "tokenizer", "lm"}


def test_dump_and_load_are_inverse() -> None:
    loaded = config.load({"chunker": {"use": "fixed", "max_tokens": 99}})
    assert config.load(yaml.safe_load(config.dump(loaded))) == loaded


def test_the_starter_configuration_is_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "rag.yaml").write_text(STARTER)
    assert config.load(tmp_path / "rag.yaml") == config.load(None)


def test_the_defaults_pass_their_own_check() -> None:
    config.check(config.load(None))


@pytest.mark.parametrize(("kind", "word"), [(kind, word) for kind, words in registry.TABLE.items() for word in words])
def test_every_word_names_a_class_whose_options_can_be_described(kind: str, word: str) -> None:
    cls = registry.component(kind, word)
    model = config.options_model(cls)
    assert model.model_json_schema()["type"] == "object"
    assert cls.__doc__, f"{kind} {word} has no docstring"


def test_unknown_options_and_bad_values_are_named() -> None:
    with pytest.raises(ConfigError, match=r"chunker \(fixed\): max_token: unknown key \(did you mean 'max_tokens'\?\)"):
        config.check(config.load({"chunker": {"use": "fixed", "max_token": 3}}))
    with pytest.raises(ConfigError, match=r"chunker \(fixed\): max_tokens: .* not 'many'"):
        config.check(config.load({"chunker": {"use": "fixed", "max_tokens": "many"}}))


def test_a_component_that_needs_a_model_says_which() -> None:
    assembly = config.Assembly(config.load({"generator": {"use": "lm"}}))
    with pytest.raises(ConfigError, match="generator .lm. needs a model: add `models: {lm:"):
        assembly.build("generator", "generator", assembly.config.generator)


def test_the_schema_lists_every_word() -> None:
    found = config.schema()
    for kind, words in registry.TABLE.items():
        for word in words:
            assert f"{kind}.{word}" in found["$defs"]


def test_a_plugin_may_not_take_a_word_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        name = "rude"

        def load(self) -> dict[str, dict[str, str]]:
            return {"chunker": {"fixed": "json:loads"}}

    monkeypatch.setattr(registry, "entry_points", lambda group: [Plugin()])
    registry.table.cache_clear()
    try:
        with pytest.raises(ConfigError, match="'rude' takes the chunker word 'fixed'"):
            registry.table()
    finally:
        monkeypatch.undo()
        registry.table.cache_clear()


class Wrapper:
    """Holds another chunker."""

    def __init__(self, chunker: Chunker, width: int = 1) -> None:
        self.chunker = chunker
        self.width = width


@pytest.fixture
def wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {kind: dict(words) for kind, words in registry.table().items()}
    found["chunker"]["wrapper"] = f"{__name__}:Wrapper"
    monkeypatch.setattr(registry, "table", lambda: found)


@pytest.mark.usefixtures("wrapper")
def test_a_block_inside_a_block_is_built_with_its_own_options_and_models() -> None:
    from rag.chunkers.fixed import FixedChunker

    inner = {"use": "fixed", "max_tokens": 33}
    given = config.load({"models": {"tokenizer": {"use": "words"}}, "chunker": {"use": "wrapper", "width": 2, "chunker": inner}})
    built = config.Assembly(given).build("chunker", "chunker", given.chunker)
    assert isinstance(built, Wrapper)
    assert isinstance(built.chunker, FixedChunker)
    assert (built.width, built.chunker.max_tokens) == (2, 33)
    assert set(config.models_of(given, "chunker", given.chunker)) == {"tokenizer"}
    assert config.schema()["$defs"]["chunker.wrapper"]["properties"]["chunker"]["oneOf"][0] == {"$ref": "#/$defs/chunker.fixed"}


@pytest.mark.usefixtures("wrapper")
@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ({"use": "fixd"}, r"chunker\.chunker\.use: unknown chunker 'fixd' \(did you mean 'fixed'\?\)"),
        ({"use": "fixed", "max_token": 3}, r"chunker\.chunker \(fixed\): max_token: unknown key"),
        ({"use": "fixed", "max_tokens": 0}, r"chunker\.chunker \(fixed\): max_tokens=0: must be at least 1"),
        ("fixed", r"chunker \(wrapper\): chunker: "),
        (None, r"chunker \(wrapper\): chunker: "),
    ],
)
def test_a_bad_block_inside_a_block_is_named(inner: object, message: str) -> None:
    block = {"use": "wrapper"} if inner is None else {"use": "wrapper", "chunker": inner}
    with pytest.raises(ConfigError, match=message):
        loaded = config.load({"models": {"tokenizer": {"use": "words"}}, "chunker": block})
        config.Assembly(loaded).build("chunker", "chunker", loaded.chunker)


class Needy:
    """A model that takes the encoder, and an encoder that takes it."""

    def __init__(self, token_encoder: object) -> None:
        self.token_encoder = token_encoder


def test_models_are_handed_to_models_each_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {kind: dict(words) for kind, words in registry.table().items()}
    found["index"]["needy"] = found["encoder"]["needy"] = f"{__name__}:Needy"
    monkeypatch.setattr(registry, "table", lambda: found)
    given = config.load({"indexes": {"tokens": {"use": "needy"}}})
    assert set(config.models_of(given, "index", given.indexes["tokens"])) == {"token_encoder", "encoder"}
    assembly = config.Assembly(given)
    built = assembly.build("index", "indexes.tokens", given.indexes["tokens"])
    assert built.token_encoder is assembly.model("token_encoder")
    assert built.token_encoder.encoder is assembly.model("encoder")
    circle = config.load({"models": {"encoder": {"use": "needy"}}, "indexes": {"tokens": {"use": "needy"}}})
    assert set(config.models_of(circle, "index", circle.indexes["tokens"])) == {"token_encoder", "encoder"}
    assembly = config.Assembly(circle)
    for _ in range(2):  # a failed attempt leaves nothing behind
        with pytest.raises(ConfigError, match=r"models\.token_encoder needs itself: token_encoder -> encoder -> token_encoder"):
            assembly.model("token_encoder")


def test_a_list_of_blocks_inside_a_block_is_built_in_its_order() -> None:
    steps = [{"use": "mmr", "k": 20}, {"use": "steps", "selectors": [{"use": "budget", "max_tokens": 99}]}, {"use": "order"}]
    given = config.load({"models": {"tokenizer": {"use": "words"}}, "select": {"use": "steps", "selectors": steps}})
    config.check(given)
    built = config.Assembly(given).build("selector", "select", given.select)
    assert [type(step).__name__ for step in built.selectors] == ["MMRSelector", "StepsSelector", "OrderSelector"]
    assert built.selectors[0].k == 20 and built.selectors[1].selectors[0].max_tokens == 99
    assert set(config.models_of(given, "selector", given.select)) == {"encoder", "tokenizer"}
    described = config.schema()["$defs"]["selector.steps"]["properties"]["selectors"]
    assert described["type"] == "array" and {"$ref": "#/$defs/selector.mmr"} in described["items"]["oneOf"]
    assert config.load(yaml.safe_load(config.dump(given))) == given


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"use": "mmr"}, {"use": "budgt"}], r"select\.selectors\[1\]\.use: unknown selector 'budgt' \(did you mean 'budget'\?\)"),
        ([{"use": "mmr", "kk": 3}], r"select\.selectors\[0\] \(mmr\): kk: unknown key"),
        (
            [{"use": "steps", "selectors": [{"use": "mmr", "k": 0}]}],
            r"select\.selectors\[0\]\.selectors\[0\] \(mmr\): k=0: must be at least 1",
        ),
        ([], r"select \(steps\): selectors is empty"),
        ({"use": "mmr"}, r"select \(steps\): selectors: "),
        (["mmr"], r"select \(steps\): selectors\.0: "),
    ],
)
def test_a_bad_block_in_a_list_is_named_with_its_number(steps: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded = config.load({"select": {"use": "steps", "selectors": steps}})
        config.Assembly(loaded).build("selector", "select", loaded.select)


def test_a_reranker_inside_a_selector() -> None:
    block = {"use": "corag", "reward": "reranker", "reranker": {"use": "pointwise", "max_passage_tokens": 9}}
    given = config.load({"models": {"lm": {"use": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}}, "select": block})
    built = config.Assembly(given).build("selector", "select", given.select)
    assert built.reranker.max_passage_tokens == 9
    assert "lm" in config.models_of(given, "selector", given.select)


def test_a_name_that_holds_blocks_is_no_plain_option_of_another_word() -> None:
    """Such names hold for all kinds, so one that some class uses for a number would take that option away."""
    for kind, words in registry.TABLE.items():
        for word in words:
            for name, parameter in registry.options(registry.component(kind, word)).items():
                if name in registry.NESTED_KINDS or name in registry.NESTED_LISTS:
                    assert not any(plain in str(parameter.annotation) for plain in ("int", "float", "str", "bool")), (
                        f"{kind} {word} {name}"
                    )


def test_what_works_on_an_open_index_only_says_so() -> None:
    given = config.load({"select": {"use": "neighbours"}})
    with pytest.raises(ConfigError, match=r"select \(neighbours\) needs the corpus of an open index"):
        config.Assembly(given).build("selector", "select", given.select)
    corpus = object()
    assert config.Assembly(given, given={"corpus": corpus}).build("selector", "select", given.select).corpus is corpus
