"""Words that a model adds to a chunk: they go before its context, within a limit. Knows tokens; knows no model and no prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag.chunkers.ruler import Ruler
from rag.core import Chunk, Document, Tokenizer


def with_addition(
    document: Document, chunk: Chunk, addition: str, tokenizer: Tokenizer, max_context_tokens: int, meta: Mapping[str, Any]
) -> Chunk:
    """``chunk`` with ``addition`` before its context and ``meta`` beside its own; span and text stay, the id follows the context.

    Where both together are above the limit, the addition is cut at its end, to no less than half of the limit; then the context is.
    Without an addition the context stays as it is.
    """
    context = _joined(addition, chunk.context, tokenizer, max_context_tokens) if addition else chunk.context
    return Chunk.of(document, chunk.span, context, {**chunk.meta, **meta})


def check_context_limit(max_context_tokens: int, **tokens: int) -> None:
    """Raises ``ValueError`` unless each of these numbers is at least 1."""
    for name, value in {"max_context_tokens": max_context_tokens, **tokens}.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


def _joined(addition: str, context: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    whole = f"{addition}\n{context}".strip()
    if tokenizer.count(whole) <= max_tokens:
        return whole
    room = max(max_tokens - tokenizer.count(context), max_tokens // 2)
    return beginning(f"{beginning(addition, tokenizer, room)}\n{context}".strip(), tokenizer, max_tokens)


def beginning(text: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    """As much of ``text`` from its start as has at most ``max_tokens`` tokens by itself, cut at a word if there is one."""
    limit = max_tokens
    while tokenizer.count(text) > max_tokens:
        text = text[: Ruler(text, tokenizer).cut(0, len(text), limit)].rstrip() if limit > 0 else ""
        limit -= 1
    return text
