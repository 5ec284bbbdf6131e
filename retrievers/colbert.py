"""Text -> one vector per kept token, with any multi-vector model of sentence-transformers. Knows no index and pools nothing.

Prompts, query expansion, skip-lists and lengths are the model's: they stand in its folder, and ``MultiVectorEncoder.encode_query``
and ``encode_document`` apply them. This file adds what indexing needs: batches by length, checked unit vectors, a name.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rag.core import digest
from rag.errors import ConfigError, ModelError
from rag.quiet import quiet_loading
from rag.retrievers.encoder_identity import content_name, find_folder

if TYPE_CHECKING:
    from rag.retrievers.encoder_ragged import RaggedModel

DType = Literal["auto", "float32", "bfloat16", "float16"]

_MULTI_VECTOR_TYPES = ("MultiVectorEncoder", "ColBERT")
_MULTI_VECTOR_KEYS = {"query_prefix", "document_prefix", "query_length", "document_length", "skiplist_words", "do_query_expansion"}


class ColBERTEncoder:
    """Token vectors, L2-normalised float32, of a ColBERT or XTR type model, by folder or hub id.

    What is left out of documents (punctuation, say), what queries are padded with and where texts are cut is the model's
    business. A document of which the model keeps no token has one vector, the mean of all of them. Nothing heavy is loaded before
    the first text is encoded. Texts are read without padding where the model allows it (``how`` says so, and why not); what queries are expanded
    with is no padding. ``dtype="auto"``
    is bfloat16 where a GPU computes in it, else float32. ``tokens_per_batch`` bounds the tokens, padding included, that are read at once. Safe to use from several threads; one batch is computed at a time.
    Raises ``ConfigError`` for options out of range and for a model of another type, ``ModelError`` if it cannot be loaded or
    gives vectors that are not finite.
    """

    def __init__(
        self,
        model: str,
        device: str | None = None,
        dtype: DType = "auto",
        tokens_per_batch: int = 4096,
    ) -> None:
        if dtype not in get_args(DType):
            raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(get_args(DType))}")
        if tokens_per_batch < 1:
            raise ConfigError(f"tokens_per_batch must be at least 1, not {tokens_per_batch}")
        self.model = model
        self.device = device
        self.dtype = dtype
        self.tokens_per_batch = tokens_per_batch
        self.num_texts_encoded = 0
        # The tokenizer's padding and truncation are switched between queries and documents, so one batch runs at a time.
        self._lock = threading.RLock()
        self._model: Any = None  # sentence_transformers.MultiVectorEncoder
        self._ragged: RaggedModel | None = None
        self._how = ""
        self._fingerprint: str | None = None

    @property
    def dim(self) -> int:
        return int(self._full_model().get_embedding_dimension())

    @property
    def how(self) -> str:
        """Which path texts take, and why. For people."""
        self._full_model()
        return self._how

    @property
    def fingerprint(self) -> str:
        """Changes with the model's files: weights, tokeniser, prompts, skip-list, lengths. Not with ``dtype`` or ``device``."""
        with self._lock:
            if self._fingerprint is None:
                folder = find_folder(self.model)
                if folder is None:  # a hub id that is not on this machine yet
                    self._full_model()
                    folder = find_folder(self.model)
                self._fingerprint = digest("colbert", content_name(folder) if folder is not None else self.model)
            return self._fingerprint

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """``(tokens, dim)`` per text: those that the model keeps, at least one."""
        return self._encode(texts, "document")

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """``(tokens, dim)`` per text, expansion tokens included where the model has them."""
        return self._encode(texts, "query")

    def _encode(self, texts: Sequence[str], task: Literal["query", "document"]) -> list[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(texts)
        if not len(texts):
            return found
        model = self._full_model()
        if self._ragged is not None:
            with self._lock:
                self.num_texts_encoded += len(texts)
            lists = self._ragged.token_lists(texts, task)
            return [self._checked(some) if len(some) else self._mean_of_all(row, texts, task) for row, some in enumerate(lists)]
        encode: Callable[..., list[Any]] = model.encode_query if task == "query" else model.encode_document
        most, least = _limits(model, task)
        # Characters stand in for tokens: a quarter of them, as BERT's vocabularies give for English. Only the batch size hangs on it.
        lengths = [max(least, min(len(text) // 4 + 4, most)) for text in texts]
        order = sorted(range(len(texts)), key=lambda row: (-lengths[row], -len(texts[row])))
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, self.tokens_per_batch // lengths[order[start]])]
            with self._lock:
                some = encode([texts[row] for row in rows], batch_size=len(rows), show_progress_bar=False)
                self.num_texts_encoded += len(rows)
            for row, vectors in zip(rows, some, strict=True):
                found[row] = self._checked(vectors) if len(vectors) else self._mean_of_all(row, texts, task)
            start += len(rows)
        return found

    def _checked(self, vectors: Any) -> NDArray[np.float32]:
        """Unit vectors in float32 (lower precisions leave lengths off by a per cent). A vector of zeros stays: it is near nothing."""
        found = np.asarray(vectors.float().cpu().numpy(), np.float32)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            raise ModelError(f"the token encoder {self.model!r} gives vectors that are not finite: are its weights damaged?")
        unit: NDArray[np.float32] = np.divide(found, lengths, where=lengths > 0, out=np.zeros(found.shape, np.float32))
        return unit

    def _mean_of_all(self, row: int, texts: Sequence[str], task: str = "document") -> NDArray[np.float32]:
        model = self._full_model()
        encode = model.encode_query if task == "query" else model.encode_document
        with self._lock:
            whole = encode([texts[row]], output_value=None, show_progress_bar=False)[0]["token_embeddings"]
        return self._checked(whole.float().mean(0, keepdim=True))

    def _full_model(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = self._read_model()
            return self._model

    def _read_model(self) -> Any:
        import torch
        from sentence_transformers import MultiVectorEncoder

        from rag.kernels.narrow_linear import widen_products

        wants_cpu = self.device == "cpu" or (self.device is None and not torch.cuda.is_available())
        if wants_cpu and self.dtype == "float16":
            raise ConfigError("dtype 'float16' is slower than float32 on a CPU; allowed there: auto, float32, bfloat16")
        self._refuse_other_types(find_folder(self.model))
        try:
            with quiet_loading():
                model = MultiVectorEncoder(self.model, device=self.device)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"the token encoder {self.model!r} could not be loaded: {error}") from error
        self._refuse_other_types(find_folder(self.model))
        dtype = self.dtype
        if dtype == "auto":
            dtype = "bfloat16" if model.device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        model.eval()
        if model.device.type != "cpu":
            model.to(getattr(torch, dtype))
        if not self._read_without_padding(model):
            widen_products(model.to(getattr(torch, dtype)))
        return model

    def _read_without_padding(self, model: Any) -> bool:
        from rag.retrievers.encoder_linear import choose_linear
        from rag.retrievers.encoder_ragged import RaggedModel, Refusal, objection

        reason = objection(model)
        if reason is None:
            precision = "bfloat16" if self.dtype == "bfloat16" else "float32"  # of the products; auto means float32 here
            kinds = list(dict.fromkeys((choose_linear(precision).kind, choose_linear("float32").kind)))
            try:
                self._ragged = RaggedModel(model, kinds, self.tokens_per_batch)
                self._how = f"{self._ragged.how}; {self._ragged.kind}"
                return True
            except Refusal as refused:
                reason = str(refused)
        self._how = f"MultiVectorEncoder.encode, because {reason}"
        return False

    def _refuse_other_types(self, folder: Path | None) -> None:
        if folder is not None and not _is_multi_vector(folder):
            raise ConfigError(
                f"the model {self.model!r} is no multi-vector model, it would get a random projection to token vectors; "
                "allowed: models of type ColBERT or XTR, and `use: token-vectors` for the token vectors of any other encoder"
            )


def _is_multi_vector(folder: Path) -> bool:
    """Whether sentence-transformers finds trained token vectors in ``folder``; it would make some up from any encoder."""
    settings, network = _settings(folder / "config_sentence_transformers.json"), _settings(folder / "config.json")
    if settings.get("model_type") in _MULTI_VECTOR_TYPES or _MULTI_VECTOR_KEYS & settings.keys():
        return True
    return any(name == "HF_ColBERT" or name.endswith("ForRetrieval") for name in network.get("architectures") or [])


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} could not be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _limits(model: Any, task: str) -> tuple[int, int]:
    """The most tokens that a text of this task has, and the least."""
    first = model[0]
    expansion = getattr(first, "query_expansion", None) if task == "query" else None
    own = getattr(first, "query_length" if task == "query" else "document_length", None)
    least = int(expansion["length"]) if expansion else 1
    if expansion and expansion["strategy"] == "fixed":
        return least, least
    return max(least, int(own or model.max_seq_length or 512)), least
