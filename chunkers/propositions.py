"""A chunker around another one: a language model lists the single statements of each chunk. Knows the LM protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from rag.chunkers.addition import check_context_limit, with_addition
from rag.chunkers.quoting import Quoter, spoken
from rag.core import LM, Chunk, Chunker, Completion, Document, Message, Tokenizer, chunk_many

BATCH = 64
"""Prompts per call of the model."""

TASK = """You rewrite passages as lists of single statements, for a search engine.
Each statement says one fact, is a whole sentence, and can be understood alone: put names in place of pronouns. Use only what the passage
(and the heading line above it, if there is one) says. Write one statement per line, each after "- ", and nothing else."""

_ITEM = re.compile(r"\s*(?:[-*\u2022\u2013]|\d{1,3}[.)])\s+(?=\S)")


class Statements(NamedTuple):
    """What an answer lists, without repetitions, and how many of its lines are no items of a list."""

    statements: tuple[str, ...]
    num_malformed: int


class PropositionsChunker:
    """The chunks of ``chunker``; before the context of each, the statements that a language model finds in it, one per line.

    After Dense X Retrieval (arXiv 2312.06648), which indexes the statements instead of the text; but a statement that a model wrote
    stands nowhere in the document and cannot be cited. So the statements are searched and the source is quoted: spans and texts
    stay those of ``chunker``. As many statements are kept as fit into ``max_context_tokens`` together with ``chunker``'s context; what
    an encoder reads is that and the chunk, so choose the inner ``max_tokens`` to leave room.

    ``meta`` of a chunk: ``num_statements`` that it carries, ``num_malformed_lines`` of the answer. Lines that are no items are left out; an
    answer without any item leaves the chunk as it was (``num_statements`` 0). One question per chunk: an unchanged document is not
    chunked again by an ingest, so it costs nothing, but an edited document is asked about anew, all chunks of it.

    ``chunk`` raises ``ModelError`` if the model does not answer.
    """

    def __init__(
        self, tokenizer: Tokenizer, lm: LM, chunker: Chunker, max_context_tokens: int = 160, max_answer_tokens: int = 400
    ) -> None:
        check_context_limit(max_context_tokens, max_answer_tokens=max_answer_tokens)
        self._tokenizer = tokenizer
        self._lm = lm
        self.chunker = chunker
        self.max_context_tokens = max_context_tokens
        self.max_answer_tokens = max_answer_tokens

    def chunk(self, document: Document) -> list[Chunk]:
        return self.chunk_many([document])[0]

    def chunk_many(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        made = list(zip(documents, chunk_many(self.chunker, documents), strict=True))
        answers = self._answers(chain.from_iterable(_prompts(document, chunks) for document, chunks in made))
        return [[self._with_statements(document, chunk, listed(next(answers))) for chunk in chunks] for document, chunks in made]

    def _answers(self, prompts: Iterator[Sequence[Message]]) -> Iterator[Completion]:
        while batch := list(islice(prompts, BATCH)):
            yield from self._lm.complete(batch, max_tokens=self.max_answer_tokens)

    def _with_statements(self, document: Document, chunk: Chunk, found: Statements) -> Chunk:
        kept = list(found.statements)
        while len(kept) > 1 and self._tokenizer.count("\n".join([*kept, chunk.context])) > self.max_context_tokens:
            kept.pop()
        meta = {"num_statements": len(kept), "num_malformed_lines": found.num_malformed}
        return with_addition(document, chunk, "\n".join(kept), self._tokenizer, self.max_context_tokens, meta)


def listed(answer: Completion) -> Statements:
    """The items of the list that ``answer`` is. Its last line is left out if the answer was cut there.

    >>> listed(Completion("Statements:\\n- Ducks swim.\\n2. Ducks fly.\\n- Ducks swim.", 9, 9, "stop"))
    Statements(statements=('Ducks swim.', 'Ducks fly.'), num_malformed=1)
    """
    lines = [line for line in spoken(answer.text).split("\n") if line.strip()]
    if answer.finish == "length":
        lines = lines[:-1]
    items = [" ".join(line[match.end() :].split()) for line in lines if (match := _ITEM.match(line))]
    return Statements(tuple(dict.fromkeys(items)), len(lines) - len(items))


def _prompts(document: Document, chunks: Sequence[Chunk]) -> Iterator[list[Message]]:
    quoter = Quoter(document.text)
    return (_prompt(quoter, chunk) for chunk in chunks)


def _prompt(quoter: Quoter, chunk: Chunk) -> list[Message]:
    heading = f"{quoter.quote('HEADING', chunk.context)}\n\n" if chunk.context else ""
    return quoter.messages(TASK, f"{heading}{quoter.quote('PASSAGE', chunk.text)}\n\nThe statements of the passage:")
