"""Scores a query and a passage together with a cross-encoder. Knows sentence-transformers, no index and no corpus."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

from rag.core import Hit, reordered
from rag.errors import ModelError
from rag.quiet import quiet_loading
from rag.rerankers.report import ReportingReranker, Reranked, RerankReport


class CrossEncoderReranker(ReportingReranker):
    """Orders hits by a ``sentence_transformers.CrossEncoder`` with one output, over ``chunk.indexed_text``.

    ``model``: path or hub id, loaded at the first query. ``batch_size``: pairs per forward pass. ``device``: torch
    device, default: what sentence-transformers finds. ``max_length_tokens``: query and passage together, default: the model's own.
    Equal scores keep the order in which the hits came. Loads safetensors only and runs no code from the model's folder. Raises
    ``ModelError`` if the model cannot be loaded or gives more than one number for a pair, or something that is no number.
    """

    def __init__(self, model: str, batch_size: int = 32, device: str | None = None, max_length_tokens: int | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if max_length_tokens is not None and max_length_tokens < 8:
            raise ValueError(f"max_length_tokens={max_length_tokens}: must be at least 8")
        self.model = model
        self.batch_size = batch_size
        self.device = device
        self.max_length_tokens = max_length_tokens
        self._loaded: Any = None
        self._lock = threading.Lock()

    def rerank_with_report(self, query: str, hits: Sequence[Hit]) -> Reranked:
        """All hits, best first, each with the model's score and ``why["cross-encoder"]``; tokens are those that were read."""
        if not hits:
            return Reranked([], RerankReport())
        started = time.perf_counter()
        encoder = self._encoder()
        texts = [hit.chunk.indexed_text for hit in hits]
        # each text once: the last bits of a score depend on the row of the batch, and equal passages must tie
        pairs = [(query, text) for text in dict.fromkeys(texts)]
        scores = encoder.predict(pairs, batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True)
        if scores.shape != (len(pairs),):
            raise ModelError(f"the cross-encoder {self.model!r} gives {scores.shape[1:]} numbers for a pair; one is needed")
        if any(math.isnan(score) for score in scores):
            raise ModelError(f"the cross-encoder {self.model!r} gives a score that is not a number: are its weights damaged?")
        known = {text: float(score) for (_, text), score in zip(pairs, scores, strict=True)}
        ranked = reordered("cross-encoder", zip(hits, (known[text] for text in texts), strict=True))
        lengths = _lengths_tokens(encoder.tokenizer, pairs)
        limit = encoder.max_seq_length or max(lengths)
        report = RerankReport(
            num_calls=-(-len(pairs) // self.batch_size),
            num_prompts=len(pairs),
            prompt_tokens=sum(min(length, limit) for length in lengths),
            num_truncated=sum(length > limit for length in lengths),
            seconds=time.perf_counter() - started,
        )
        return Reranked(ranked, report)

    def _encoder(self) -> Any:
        with self._lock:
            if self._loaded is None:
                from sentence_transformers import CrossEncoder

                try:
                    with quiet_loading():
                        encoder = CrossEncoder(
                            self.model,
                            device=self.device,
                            max_length=self.max_length_tokens,
                            trust_remote_code=False,
                            model_kwargs={"use_safetensors": True},
                        )
                except (OSError, ValueError, ImportError) as error:
                    raise ModelError(f"cannot load the cross-encoder {self.model!r}: {error}") from error
                encoder.eval()
                self._loaded = encoder
        return self._loaded


def _lengths_tokens(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Tokens of each pair, special ones included, before anything is cut."""
    read = tokenizer([query for query, _ in pairs], [text for _, text in pairs], truncation=False, padding=False, verbose=False)
    return [len(ids) for ids in read["input_ids"]]
