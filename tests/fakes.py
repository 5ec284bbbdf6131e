"""Small, honest stand-ins for heavy components: same protocols, no model, deterministic."""

from __future__ import annotations

import hashlib
import json
import math
import re
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag.core import (
    Chunk,
    Citation,
    CitationEvent,
    Completion,
    Document,
    Event,
    Facts,
    Hit,
    Interaction,
    KeptInFolder,
    Matches,
    OnProgress,
    Prompt,
    Segment,
    Span,
    SparseVectors,
    Stretch,
    TextEvent,
    TokenLogprobs,
    Usage,
    UsageEvent,
)
from rag.errors import NoVectors


def heed_interrupts() -> None:
    """For ``preexec_fn``: a shell that starts a job in the background makes it ignore SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class HashingEncoder:
    """Bag of hashed words, L2-normalised: equal texts have equal vectors, shared words make texts similar."""

    def __init__(self, dim: int = 64) -> None:
        self.dim = dim
        self.fingerprint = f"hashing-{dim}"
        self.num_texts_encoded = 0

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.num_texts_encoded += len(texts)
        return self.encode_queries(texts)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                vectors[row, int(hashlib.md5(word.encode()).hexdigest(), 16) % self.dim] += 1.0
            vectors[row, 0] += 1e-3
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


class HashingTokenEncoder:
    """One vector per word: equal words have equal vectors, others are nearly at right angles. A text without words has one vector."""

    def __init__(self, dim: int = 64) -> None:
        self.dim = dim
        self.fingerprint = f"hashing-tokens-{dim}"
        self.num_texts_encoded = 0

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        self.num_texts_encoded += len(texts)
        return self.encode_queries(texts)

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return [np.stack([self._vector(word) for word in re.findall(r"\w+", text.lower()) or [""]]) for text in texts]

    def _vector(self, word: str) -> NDArray[np.float32]:
        seed = int(hashlib.md5(word.encode()).hexdigest()[:12], 16)
        vector = np.random.default_rng(seed).standard_normal(self.dim).astype(np.float32)
        return vector / np.linalg.norm(vector)


class HashingSparseEncoder:
    """Hashed words weighed by how often they occur: ``1 + ln(count)``; with ``binary`` every word weighs 1."""

    def __init__(self, num_terms: int = 1 << 16, *, binary: bool = False) -> None:
        self.num_terms = num_terms
        self.binary = binary
        self.fingerprint = f"hashing-sparse-{num_terms}-{binary}"
        self.num_texts_encoded = 0

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        self.num_texts_encoded += len(texts)
        return self.encode_queries(texts)

    def encode_queries(self, texts: Sequence[str]) -> SparseVectors:
        rows = []
        for text in texts:
            counts = Counter(_number(word) % self.num_terms for word in re.findall(r"\w+", text.lower()))
            rows.append(sorted((term, 1.0 if self.binary else 1 + math.log(count)) for term, count in counts.items()))
        return sparse_vectors(rows)


def sparse_vectors(rows: Sequence[Sequence[tuple[int, float]]]) -> SparseVectors:
    """Pairs of term id and weight per text, as an encoder gives them."""
    flat = [pair for row in rows for pair in row]
    return SparseVectors(
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        np.array([term for term, _ in flat], np.int32),
        np.array([weight for _, weight in flat], np.float32),
    )


class SameWordResolver:
    """One cluster: the first capitalised word of the text and every ``he``, ``she`` and ``it``."""

    def clusters(self, text: str) -> list[list[Span]]:
        names = [Span(*match.span()) for match in re.finditer(r"\b[A-Z][a-z]+\b", text) if match.group() not in ("He", "She", "It")]
        pronouns = [Span(*match.span()) for match in re.finditer(r"(?i)\b(?:he|she|it)\b", text)]
        return [[*names[:1], *pronouns]] if pronouns else []


class WordSegment:
    """Keys and the words of each chunk."""

    def __init__(self, keys: NDArray[np.int64], texts: list[str]) -> None:
        self.keys = keys
        self.texts = texts

    def save(self, folder: Path) -> None:
        (folder / "words.json").write_text(json.dumps({"keys": self.keys.tolist(), "texts": self.texts}), encoding="utf-8")

    def facts(self) -> Facts:
        return {"words": sum(len(text.split()) for text in self.texts), "mean_words": 2.5, "kind": "plain"}


class WordIndex(KeptInFolder):
    """Counts the query's words in every chunk: the plainest index there is."""

    fingerprint = "words"
    reads_documents = False
    trains = False
    efforts: Mapping[str, Sequence[float]] = {}

    def __init__(self) -> None:
        self.num_built = 0

    def build(
        self,
        keys: NDArray[np.int64],
        chunks: Sequence[Chunk],
        texts: Mapping[str, str] | None = None,
        beside: Sequence[Segment] = (),
    ) -> WordSegment:
        self.num_built += len(chunks)
        return WordSegment(keys, [chunk.indexed_text.lower() for chunk in chunks])

    def load(self, folder: Path) -> WordSegment:
        stored = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        return WordSegment(np.array(stored["keys"], dtype=np.int64), stored["texts"])

    def merge(
        self,
        segments: Sequence[Segment],
        live: NDArray[np.bool_],
        beside: Sequence[Segment] = (),
        on_progress: OnProgress | None = None,
    ) -> WordSegment:
        kept = sorted((int(key), text) for s in segments for key, text in zip(s.keys, s.texts, strict=True) if live[key])  # type: ignore[attr-defined]
        return WordSegment(np.array([key for key, _ in kept], dtype=np.int64), [text for _, text in kept])

    def reader(self, segments: Sequence[Segment], live: NDArray[np.bool_]) -> WordReader:
        return WordReader([(int(k), t) for s in segments for k, t in zip(s.keys, s.texts, strict=True) if live[k]])  # type: ignore[attr-defined]


class WordReader:
    def __init__(self, entries: list[tuple[int, str]]) -> None:
        self._entries = entries

    def search(self, queries: Sequence[str], k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        found = []
        for query in queries:
            words = re.findall(r"\w+", query.lower())
            scored = [
                (float(sum(text.count(word) for word in words)), key)
                for key, text in self._entries
                if allow is None or (key < len(allow) and allow[key])
            ]
            best = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: (-pair[0], pair[1]))[:k]
            keys = np.array([key for _, key in best], dtype=np.int64)
            found.append(Matches(keys, np.array([score for score, _ in best], dtype=np.float32)))
        return found

    def vectors(self, queries: Sequence[str], keys: Sequence[NDArray[np.int64]]) -> list[Interaction]:
        raise NoVectors("words")


class ShareIndex(WordIndex):
    """Compares hashed words, but only of the first ``share`` of its chunks: an index that trades recall for time in plain sight."""

    fingerprint = "share"
    efforts: Mapping[str, Sequence[float]] = {"share": (0.25, 0.5, 1.0)}

    def __init__(self, encoder: HashingEncoder, share: float = 0.5) -> None:
        super().__init__()
        self.encoder = encoder
        self.share = share

    def reader(self, segments: Sequence[Segment], live: NDArray[np.bool_]) -> ShareReader:  # type: ignore[override]
        entries = [(int(k), t) for s in segments for k, t in zip(s.keys, s.texts, strict=True) if live[k]]  # type: ignore[attr-defined]
        return ShareReader(sorted(entries), self)


class ShareReader:
    def __init__(self, entries: list[tuple[int, str]], index: ShareIndex) -> None:
        self._rows = dict(
            zip([key for key, _ in entries], index.encoder.encode_queries([text for _, text in entries]), strict=True)
        )
        self._seen = list(self._rows)[: math.ceil(index.share * len(entries))]
        self._encoder = index.encoder

    def search(self, queries: Sequence[str], k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        keys = np.array([key for key in self._seen if allow is None or allow[key]], np.int64)
        found = []
        for query in queries:
            (vector,) = self._encoder.encode_queries([query])
            scores = np.array([self._rows[key] @ vector for key in keys.tolist()], np.float32)
            best = np.lexsort((keys, -scores))[:k]
            found.append(Matches(keys[best], scores[best]))
        return found

    def vectors(self, queries: Sequence[str], keys: Sequence[NDArray[np.int64]]) -> list[Interaction]:
        asked = self._encoder.encode_queries(queries)
        return [
            Interaction(query[None], [self._rows[key][None] for key in some.tolist()])
            for query, some in zip(asked, keys, strict=True)
        ]


class ParagraphChunker:
    """One chunk per paragraph."""

    def chunk(self, document: Document) -> list[Chunk]:
        spans = [Span(*match.span()) for match in re.finditer(r"\S(?:.|\n(?!\n))*", document.text)]
        return [Chunk.of(document, span) for span in spans if span.of(document.text).strip()]


class QuotingGenerator:
    """Quotes the first hit, whole."""

    def __init__(self) -> None:
        self.num_prepared = 0

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        self.num_prepared += len(chunks)

    def keep_only(self, chunks: Iterable[Chunk]) -> int:
        return 0

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        if not hits:
            yield TextEvent("The sources do not say.")
            yield UsageEvent(Usage(), abstained=True)
            return
        chunk = hits[0].chunk
        yield TextEvent(f"{chunk.text} [1]")
        yield CitationEvent(Citation(1, chunk.doc_id, "", chunk.id, chunk.span.start, chunk.span.end, chunk.text))
        yield UsageEvent(Usage(completion_tokens=len(chunk.text.split())))


class ToyLM:
    """A causal language model of words with a memory: a word is the likelier the more often it came before in the same text.

    ``p(word | before) = (times it came before + 1) / (words before + 1000)``, in nats; a token is a word or a mark with the blanks
    before it. ``answer(prompt as one string)`` is what ``complete`` writes (default: two lines of words of the prompt's end). Choices
    are scored by a hash of the prompt, or by ``judge(prompt)``: one probability each. ``num_calls`` and ``prompts`` (the last 1000)
    say what was asked.
    """

    fingerprint = "toy"

    def __init__(
        self,
        context_tokens: int | None = None,
        answer: Callable[[str], str] | None = None,
        judge: Callable[[str], Sequence[float]] | None = None,
    ) -> None:
        self.context_tokens = context_tokens
        self.answer = answer
        self.judge = judge
        self.num_calls = 0
        self.prompts: deque[str] = deque(maxlen=1000)

    def count_tokens(self, prompt: Prompt) -> int:
        return len(_TOKEN.findall(_as_text(prompt)))

    def complete(self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), max_tokens: int = 256) -> list[Completion]:
        return [self._complete(text, stop, max_tokens) for text in self._asked(prompts)]

    def stream(self, prompt: Prompt, *, stop: Sequence[str] = (), max_tokens: int = 256) -> Iterator[str | Completion]:
        completion = self.complete([prompt], stop=stop, max_tokens=max_tokens)[0]
        yield from _TOKEN.findall(completion.text)
        yield completion

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        rows = []
        for text in self._asked(prompts):
            weights = self.judge(text) if self.judge else [1 + _number(text, choice) % 1000 for choice in choices]
            rows.append([math.log(max(weight, 1e-9) / max(sum(weights), 1.0)) for weight in weights])
        return rows

    def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
        return [
            TokenLogprobs(tuple(Span(*match.span()) for match in _TOKEN.finditer(text)), tuple(self._values(text)))
            for text in self._asked(texts)
        ]

    def continuation_logprobs(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[float]:
        sums = []
        for text, more in zip(self._asked(prompts), continuations, strict=True):
            before = len(_TOKEN.findall(text))
            sums.append(math.fsum(self._values(text + " " + more)[before:]))
        return sums

    def _values(self, text: str) -> list[float]:
        """The log-probability of each token; nan for the first."""
        counts: Counter[str] = Counter()
        values = []
        for place, match in enumerate(_TOKEN.finditer(text)):
            word = match.group().strip().lower()
            values.append(math.log((counts[word] + 1) / (place + 1000)) if place else math.nan)
            counts[word] += 1
        return values

    def _asked(self, prompts: Sequence[Prompt]) -> list[str]:
        texts = [_as_text(prompt) for prompt in prompts]
        self.num_calls += 1
        self.prompts += texts
        return texts

    def _complete(self, prompt: str, stop: Sequence[str], max_tokens: int) -> Completion:
        words = re.findall(r"\w+", prompt[-400:])[-12:]
        whole = self.answer(prompt) if self.answer else f"- It is about {' '.join(words[:6])}.\n- It says {' '.join(words[6:])}."
        ended = min([whole.find(mark) for mark in stop if mark in whole], default=len(whole))
        tokens = _TOKEN.findall(whole[:ended])
        finish: Literal["stop", "length"] = "length" if len(tokens) > max_tokens else "stop"
        tokens = tokens[:max_tokens]
        return Completion("".join(tokens), len(prompt) // 4, len(tokens), finish)


class ListCorpus:
    """Documents in memory with their chunks, as ``rag.core.Corpus``; ``reads`` lists the documents that were asked for."""

    def __init__(self, documents: Sequence[Document], chunks: Sequence[Chunk]) -> None:
        self.texts = {each.id: each.text for each in documents}
        self._chunks: dict[str, list[Chunk]] = {}
        for chunk in sorted(chunks, key=lambda chunk: chunk.span):
            self._chunks.setdefault(chunk.doc_id, []).append(chunk)
        self.reads: list[str] = []

    def near(self, doc_id: str, span: Span, before: int, after: int) -> Stretch:
        self.reads.append(doc_id)
        chunks = self._chunks.get(doc_id, [])
        if not chunks:
            return Stretch(0, ())
        first = max([number for number, chunk in enumerate(chunks) if chunk.span.start <= span.start], default=0)
        last = max([number for number, chunk in enumerate(chunks) if chunk.span.end <= span.end], default=0)
        begin = max(0, first - before)
        return Stretch(begin, tuple(chunks[begin : max(first, last) + after + 1]))

    def text(self, doc_id: str, span: Span) -> str:
        self.reads.append(doc_id)
        return span.of(self.texts.get(doc_id, ""))


_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


def _as_text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(message.content for message in prompt)


def _number(*parts: str) -> int:
    return int(hashlib.md5("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12], 16)


def document(source: str, text: str, **options: object) -> Document:
    return Document(Document.id_of(source), source, text, **options)  # type: ignore[arg-type]
