"""Text -> weighted terms of a vocabulary, with any sparse model of sentence-transformers. Knows no index and no posting.

Three kinds of model come this way, all as one folder or hub id: SPLADE (the same network for questions and documents), models with one
network for each, and inference-free ones, whose questions cost a tokenizer and a table of weights (a ``Router`` to
``SparseStaticEmbedding``). A bare masked language model gets SPLADE's pooling, and is as good as its training.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rag.core import SparseVectors, digest, tell
from rag.errors import ConfigError, ModelError
from rag.quiet import quiet_loading
from rag.retrievers.encoder_identity import content_name, find_folder
from rag.retrievers.posting_merge import starts_of

if TYPE_CHECKING:
    from rag.retrievers.encoder_ragged import RaggedModel

Row = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Terms of a text, ascending, and their weights."""
_CHARACTERS_PER_TOKEN = 4
_MOST_TOKENS = 512
_TEXTS_AT_ONCE = 1024  # so that who waits is told


class SentenceTransformersSparseEncoder:
    """Weights of a ``sentence_transformers.SparseEncoder``, by path or hub id. A ``rag.core.SparseEncoder``.

    Nothing heavy is loaded before the first text is encoded. ``query_prompt`` and ``document_prompt`` replace the prompts that the model
    brings along. ``max_query_terms`` and ``max_document_terms`` keep the heaviest terms of a text alone (``None``: all that the model
    gives). ``tokens_per_batch`` bounds memory: the network makes one number per token and vocabulary entry, 250 MB for 2048 tokens of
    BERT's. Texts are read without padding where the model allows it (``how`` says so, and why not). Safe to use from several threads.
    """

    def __init__(
        self,
        model: str,
        device: str | None = None,
        tokens_per_batch: int = 2048,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_query_terms: int | None = None,
        max_document_terms: int | None = None,
    ) -> None:
        for name, value in (
            ("tokens_per_batch", tokens_per_batch),
            ("max_query_terms", max_query_terms),
            ("max_document_terms", max_document_terms),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        self.model = model
        self.device = device
        self.tokens_per_batch = tokens_per_batch
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.max_query_terms = max_query_terms
        self.max_document_terms = max_document_terms
        self._lock = threading.RLock()
        self._model: Any = None  # sentence_transformers.SparseEncoder
        self._ragged: RaggedModel | None = None
        self._how = ""
        self._num_terms: int | None = None
        self._fingerprint: str | None = None

    @property
    def num_terms(self) -> int:
        """As long as a vector of the model: what the model says of itself before its first text is not (sentence-transformers 6.2)."""
        model = self._loaded()
        with self._lock:
            if self._num_terms is None:
                self._num_terms = int(model.encode_document("a", show_progress_bar=False).shape[-1])
            return self._num_terms

    @property
    def how(self) -> str:
        """Which path texts take, and why. For people."""
        self._loaded()
        return self._how

    @property
    def binary(self) -> bool:
        return False

    @property
    def fingerprint(self) -> str:
        """Changes with the model's files, the prompts given here and ``max_document_terms``; not with the device."""
        with self._lock:
            if self._fingerprint is None:
                folder = find_folder(self.model)
                if folder is None:  # a hub id that is not on this machine yet
                    self._loaded()
                    folder = find_folder(self.model)
                name = content_name(folder) if folder is not None else self.model
                options = [self.query_prompt, self.document_prompt, self.max_document_terms]
                self._fingerprint = digest("sparse sentence-transformers", name, *map(repr, options))
            return self._fingerprint

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        return self._encode(texts, "document", self.document_prompt, self.max_document_terms)

    def encode_queries(self, texts: Sequence[str]) -> SparseVectors:
        return self._encode(texts, "query", self.query_prompt, self.max_query_terms)

    def _encode(
        self, texts: Sequence[str], task: Literal["query", "document"], prompt: str | None, max_terms: int | None
    ) -> SparseVectors:
        model = self._loaded()
        if self._ragged is not None:
            rows = self._without_padding(self._ragged, texts, task, prompt, max_terms)
        else:
            rows = self._padded(model.encode_query if task == "query" else model.encode_document, texts, prompt, max_terms)
        return SparseVectors(
            starts_of(np.array([len(ids) for ids, _ in rows], np.int64)),
            np.concatenate([_NO_IDS, *(ids for ids, _ in rows)]),
            np.concatenate([_NO_WEIGHTS, *(weights for _, weights in rows)]),
        )

    def _without_padding(
        self,
        ragged: RaggedModel,
        texts: Sequence[str],
        task: Literal["query", "document"],
        prompt: str | None,
        max_terms: int | None,
    ) -> list[Row]:
        rows: list[Row] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[start : start + _TEXTS_AT_ONCE]
            rows += ragged.of_each(some, task, prompt, lambda features: self._rows(features["sentence_embedding"], max_terms))
            tell(len(some))
        return rows

    def _rows(self, vectors: Any, max_terms: int | None) -> list[Row]:
        """Terms and weights of dense vectors ``(texts, terms)``."""
        from sentence_transformers.util import select_max_active_dims

        kept = select_max_active_dims(vectors.float().cpu(), max_terms or self._model.max_active_dims).numpy()
        ids = [vector.nonzero()[0] for vector in kept]
        return [(some.astype(np.int32), vector[some]) for some, vector in zip(ids, kept, strict=True)]

    def _padded(self, encode: Callable[..., Any], texts: Sequence[str], prompt: str | None, max_terms: int | None) -> list[Row]:
        """By sentence-transformers, texts of about one length together."""
        rows: list[Row] = [(_NO_IDS, _NO_WEIGHTS)] * len(texts)
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        start = 0
        while start < len(order):
            # Characters stand in for tokens, as a text is tokenized inside; only the size of a batch hangs on it.
            longest = min(len(texts[order[start]]) // _CHARACTERS_PER_TOKEN + 2, _MOST_TOKENS)
            batch = order[start : start + max(1, self.tokens_per_batch // longest)]
            with self._lock:  # a fast tokenizer refuses to be set up by two threads at once
                found = encode(
                    [texts[row] for row in batch],
                    prompt=prompt,
                    batch_size=len(batch),
                    max_active_dims=max_terms,
                    show_progress_bar=False,
                    save_to_cpu=True,
                ).coalesce()
            places, ids = found.indices().numpy()
            bounds = np.searchsorted(places, np.arange(len(batch) + 1))
            weights = found.values().float().numpy()
            for number, row in enumerate(batch):
                part = slice(bounds[number], bounds[number + 1])
                rows[row] = ids[part].astype(np.int32), weights[part]
            start += len(batch)
            tell(len(batch))
        return rows

    def _loaded(self) -> Any:
        with self._lock:
            if self._model is None:
                from sentence_transformers import SparseEncoder

                try:
                    with quiet_loading():
                        model = SparseEncoder(self.model, device=self.device)
                except (OSError, ValueError) as error:
                    raise ModelError(f"the sparse encoder {self.model!r} could not be loaded: {error}") from error
                self._refuse_dense(model)
                self._model = model.eval()
                self._read_without_padding(model)
            return self._model

    def _read_without_padding(self, model: Any) -> None:
        from rag.retrievers.encoder_linear import choose_linear
        from rag.retrievers.encoder_ragged import RaggedModel, Refusal, objection

        reason = objection(model)
        if reason is None:
            try:
                self._ragged = RaggedModel(model, [choose_linear("float32").kind], self.tokens_per_batch)
                self._how = f"{self._ragged.how}; {self._ragged.kind}"
                return
            except Refusal as refused:
                reason = str(refused)
        self._how = f"SparseEncoder.encode, because {reason}"

    def _refuse_dense(self, model: Any) -> None:
        """Of a dense model sentence-transformers makes a sparse one with random weights, and says so in a log line."""
        folder = find_folder(self.model)
        layout = folder / "modules.json" if folder is not None else None
        listed = layout.read_text(encoding="utf-8") if layout is not None and layout.is_file() else ""
        made_up = any(type(module).__name__ == "SparseAutoEncoder" for module in model.modules())
        if folder is not None and made_up and "SparseAutoEncoder" not in listed:
            raise ModelError(
                f"the sparse encoder {self.model!r} is no sparse model: sentence-transformers would put random weights on top of it; "
                "allowed: a SparseEncoder model (SPLADE, inference-free, ...) or a masked language model"
            )


_NO_IDS = np.zeros(0, np.int32)
_NO_WEIGHTS = np.zeros(0, np.float32)
