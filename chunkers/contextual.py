"""A chunker around another one: a language model says, from the whole document, what each chunk is about. Knows the LM protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from rag.chunkers.addition import check_context_limit, with_addition
from rag.chunkers.quoting import Quoter, spoken
from rag.core import LM, Chunk, Chunker, Completion, Document, Message, Span, Tokenizer, chunk_many
from rag.errors import ModelError
from rag.sentences import sentence_spans

BATCH = 64
"""Prompts per call of the model: each holds a copy of the document."""

MIN_DOCUMENT_TOKENS = 32
SLACK_TOKENS = 16

TASK = """You help a search engine to find passages of a document.
You see the document (or the part of it around the passage) and then one passage from it. Write 50 to 100 words that place the passage
in the document: what the document is, who or what the passage is about (with the full names that it only refers to), and which part,
time or case it treats. Do not repeat the passage, do not judge it, and write nothing else."""


class ContextualChunker:
    """The chunks of ``chunker``; before the context of each, what a language model writes to place it in its document.

    Contextual retrieval (Anthropic, 2024): the words are searched, by vector and by keyword, and never quoted: spans and texts stay
    those of ``chunker``. The document comes first in every prompt and the chunk last, so a server that caches prefixes reads
    the document once. At most ``max_document_tokens`` of it are shown (fewer if the model's context is smaller): from a longer
    one, the part around the chunk, one of a few windows that overlap by half, so neighbours still share a prefix.

    The context of a chunk has at most ``max_context_tokens`` tokens (the model's words are cut first, then ``chunker``'s): what an
    encoder reads is that and the chunk, so choose the inner ``max_tokens`` to leave room. The model writes at most
    ``max_answer_tokens`` of its own tokens; an answer cut there loses its last, broken sentence. An empty answer leaves the chunk as
    it was. One question per chunk: an unchanged document is not chunked again by an ingest, so it costs nothing, but an
    edited document is asked about anew, all chunks of it.

    ``chunk`` raises ``ModelError`` if the model does not answer or its context cannot hold a chunk and a bit of document.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        lm: LM,
        chunker: Chunker,
        max_context_tokens: int = 120,
        max_answer_tokens: int = 160,
        max_document_tokens: int = 8000,
    ) -> None:
        check_context_limit(max_context_tokens, max_answer_tokens=max_answer_tokens, max_document_tokens=max_document_tokens)
        self._tokenizer = tokenizer
        self._lm = lm
        self.chunker = chunker
        self.max_context_tokens = max_context_tokens
        self.max_answer_tokens = max_answer_tokens
        self.max_document_tokens = max_document_tokens

    def chunk(self, document: Document) -> list[Chunk]:
        return self.chunk_many([document])[0]

    def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        made = list(zip(documents, chunk_many(self.chunker, documents), strict=True))
        answers = self._answers(chain.from_iterable(self._prompts(document, chunks) for document, chunks in made if chunks))
        return [
            [
                with_addition(document, chunk, _placed(next(answers)), self._tokenizer, self.max_context_tokens, {})
                for chunk in chunks
            ]
            for document, chunks in made
        ]

    def _answers(self, prompts: Iterator[list[Message]]) -> Iterator[Completion]:
        while batch := list(islice(prompts, BATCH)):
            yield from self._lm.complete(batch, max_tokens=self.max_answer_tokens)

    def _prompts(self, document: Document, chunks: Sequence[Chunk]) -> Iterator[list[Message]]:
        quoter = Quoter(document.text)
        windows = Windows(document.text, self._lm, self._room(quoter, chunks))
        quoted: dict[Span, str] = {}  # the windows are few, the chunks many
        for chunk in chunks:
            window = windows.around(chunk.span)
            if window not in quoted:
                quoted[window] = quoter.quote("DOCUMENT", window.of(document.text))
            yield _prompt(quoter, quoted[window], chunk.text)

    def _room(self, quoter: Quoter, chunks: Sequence[Chunk]) -> int:
        """How many tokens of the document fit beside the longest chunk."""
        if self._lm.context_tokens is None:
            return self.max_document_tokens
        longest = max((chunk.text for chunk in chunks), key=len)
        used = self._lm.count_tokens(_prompt(quoter, quoter.quote("DOCUMENT", ""), longest)) + self.max_answer_tokens + SLACK_TOKENS
        room = self._lm.context_tokens - used
        if room < MIN_DOCUMENT_TOKENS:
            raise ModelError(
                f"the language model takes {self._lm.context_tokens} tokens; the contextual chunker needs {used} for its question, "
                f"a chunk of {len(longest)} characters and the answer, and {MIN_DOCUMENT_TOKENS} for the document"
            )
        return min(room, self.max_document_tokens)


class Windows:
    """Parts of ``text`` of at most ``max_tokens`` tokens as ``lm`` counts; the whole of it if that fits."""

    def __init__(self, text: str, lm: LM, max_tokens: int) -> None:
        self._text = text
        self._lm = lm
        self._max_tokens = max_tokens
        self._known: dict[int, Span] = {}
        num_tokens = lm.count_tokens(text)
        self._num_chars = len(text) if num_tokens <= max_tokens else max(len(text) * max_tokens // num_tokens, 2)

    def around(self, span: Span) -> Span:
        """The window in whose middle half the middle of ``span`` lies (or the first, or the last)."""
        if self._num_chars == len(self._text):
            return Span(0, len(self._text))
        step = self._num_chars // 2
        number = max(((span.start + span.end) // 2 - step // 2) // step, 0)
        number = min(number, (len(self._text) - 1) // step - 1)
        if number not in self._known:
            self._known[number] = self._fitted(number * step, min(number * step + self._num_chars, len(self._text)))
        return self._known[number]

    def _fitted(self, start: int, end: int) -> Span:
        """Some places of a text have more tokens per character than the average: such a window loses a bit at its inner ends."""
        is_first, is_last = start == 0, end == len(self._text)
        while end - start > 1 and self._lm.count_tokens(self._text[start:end]) > self._max_tokens:
            cut = max((end - start) // 20, 1)
            start += 0 if is_first else cut
            end -= 0 if is_last else cut
        return Span(start, max(start, end))


def _prompt(quoter: Quoter, quoted_document: str, chunk: str) -> list[Message]:
    return quoter.messages(TASK, f"{quoted_document}\n\n{quoter.quote('PASSAGE', chunk)}\n\nThe passage in its document:")


def _placed(answer: Completion) -> str:
    """The answer on one line."""
    text = spoken(answer.text)
    spans = sentence_spans(text)
    if answer.finish == "length" and len(spans) > 1:
        text = text[: spans[-1].start]
    return " ".join(text.split())
