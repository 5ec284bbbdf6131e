"""Text -> one vector each, with any sentence-transformers model. Knows no index, no chunk and no segment.

Several paths lead to the same vectors. ``SentenceTransformersEncoder.reference`` is plain ``SentenceTransformer.encode``. On real tokens only,
``PackedEncoder`` computes plain BERT folders and ``RaggedModel`` all others that can be. ``how`` tells which one a model takes, and why.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rag.core import TokenBlock, digest, tell
from rag.embedded import resolve
from rag.errors import ConfigError, ModelError
from rag.quiet import quiet_loading
from rag.retrievers.encoder_identity import content_name, find_folder

if TYPE_CHECKING:
    from rag.retrievers.encoder_parts import BertParts
    from rag.retrievers.encoder_tokens import Hidden, Wording

Task = Literal["query", "document"]
DType = Literal["auto", "float32", "bfloat16", "float16"]


_UNLIMITED_TOKENS = 1 << 20
_TEXTS_A_THREAD = 64
"""Encoded between two words to whoever waits: some full packs for every thread, a few seconds' work."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    encode: Callable[[Sequence[str], Task, str | None], NDArray[np.float32]]
    hidden: Hidden
    how: str
    dim: int
    max_tokens: int
    prompts: Mapping[str, str]
    pooling: str
    wording: Callable[[], Wording]


class SentenceTransformersEncoder:
    """L2-normalised vectors of any ``SentenceTransformer``, by path or hub id; ``embedded`` is the model that ships offline.

    Nothing heavy is loaded before the first text is encoded. ``query_prompt`` and ``document_prompt`` replace the prompts
    that the model brings along (``None``: the model's own, if it has any). ``dtype="auto"`` is bfloat16 where the processor or
    the GPU computes in it natively, else float32. ``tokens_per_batch`` bounds the tokens of one pack (16384 is no faster than
    4096 and takes four times the memory per core). Safe to use from several threads.
    """

    def __init__(
        self,
        model: str = "embedded",
        device: str | None = None,
        dtype: DType = "auto",
        tokens_per_batch: int = 4096,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        if dtype not in get_args(DType):
            raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(get_args(DType))}")
        if tokens_per_batch < 1:
            raise ConfigError(f"tokens_per_batch must be at least 1, not {tokens_per_batch}")
        self.model = model
        self.device = device
        self.dtype = dtype
        self.tokens_per_batch = tokens_per_batch
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.num_texts_encoded = 0
        self._lock = threading.RLock()
        self._loaded: _Loaded | None = None
        self._model: Any = None  # sentence_transformers.SentenceTransformer, where it is needed
        self._fingerprint: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in a worker process of Ray for instance, has the same options and has loaded nothing."""
        options = (self.model, self.device, self.dtype, self.tokens_per_batch, self.query_prompt, self.document_prompt)
        return type(self), options

    @property
    def dim(self) -> int:
        return self._load().dim

    @property
    def fingerprint(self) -> str:
        """Changes with the model's files (weights, tokeniser, pooling, prompts, maximal length) and with the prompts given here.

        Not with ``dtype`` or ``device``: those turn a vector by a cosine of .9999 at most (that of a single token .9997), and may differ
        between two machines that share an index.
        """
        with self._lock:
            if self._fingerprint is None:
                folder = find_folder(resolve(self.model))
                if folder is None:  # a hub id that is not on this machine yet
                    self._load()
                    folder = find_folder(resolve(self.model))
                name = content_name(folder) if folder is not None else self.model
                prompts = [repr(self.query_prompt), repr(self.document_prompt)]
                self._fingerprint = digest("sentence-transformers", name, *prompts)
            return self._fingerprint

    @property
    def how(self) -> str:
        """Which path this model takes on this machine, and why. For people."""
        return self._load().how

    @property
    def max_tokens(self) -> int:
        """Where the model cuts a text, special tokens included."""
        return self._load().max_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` for this model, special tokens included, nothing cut off."""
        wording = self._load().wording()
        return len(wording.before) + len(wording.tokenize(text).ids) + len(wording.after)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode(texts, "document", self.document_prompt)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode(texts, "query", self.query_prompt)

    def reference(self, texts: Sequence[str], task: Task = "document") -> NDArray[np.float32]:
        """What ``SentenceTransformer.encode`` gives with its own defaults; slower, and what the fast path is held against."""
        prompt = self.query_prompt if task == "query" else self.document_prompt
        return self._plain(texts, task, prompt, batch_size=32)

    @property
    def pooling(self) -> str:
        """How token vectors become the vector of a text (``mean``, ``cls``, ``lasttoken``, ...), and what comes after it."""
        return self._load().pooling

    def token_vectors(self, texts: Sequence[str], overlap_tokens: int, task: Task = "document") -> Iterator[TokenBlock]:
        """The last hidden state of every token of every text, in order, each token once; see ``rag.retrievers.windows``.

        Raises ``ModelError`` if the tokenizer gives no offsets, ``ValueError`` if the overlap is as long as the model's input.
        """
        from rag.retrievers.encoder_tokens import token_blocks

        loaded = self._load()
        with self._lock:
            self.num_texts_encoded += len(texts)
        given = self.query_prompt if task == "query" else self.document_prompt
        prompt = loaded.prompts[task] if given is None else given
        return token_blocks(texts, loaded.wording(), loaded.hidden, overlap_tokens, prompt)

    def _encode(self, texts: Sequence[str], task: Task, prompt: str | None) -> NDArray[np.float32]:
        if not len(texts):
            return np.empty((0, self.dim), np.float32)
        loaded = self._load()
        with self._lock:
            self.num_texts_encoded += len(texts)
        import torch

        at_once = _TEXTS_A_THREAD * torch.get_num_threads()
        if len(texts) <= at_once:
            return loaded.encode(texts, task, prompt)
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))  # texts of about one length go together
        vectors = np.empty((len(texts), loaded.dim), np.float32)
        for start in range(0, len(order), at_once):
            rows = order[start : start + at_once]
            vectors[rows] = loaded.encode([texts[row] for row in rows], task, prompt)
            tell(len(rows))
        return vectors

    def _padded(self, max_tokens: int, texts: Sequence[str], task: Task, prompt: str | None) -> NDArray[np.float32]:
        """By ``SentenceTransformer.encode``, texts of about one length together."""
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        vectors = np.empty((len(texts), self.dim), np.float32)
        start = 0
        while start < len(order):
            # Characters stand in for tokens: a quarter of them, as BERT's vocabularies give for English. Only the batch size hangs on it.
            longest = min(len(texts[order[start]]) // 4 + 2, max_tokens)
            rows = order[start : start + max(1, self.tokens_per_batch // longest)]
            vectors[rows] = self._plain([texts[row] for row in rows], task, prompt, batch_size=len(rows))
            start += len(rows)
        return vectors

    def _plain(self, texts: Sequence[str], task: str, prompt: str | None, batch_size: int) -> NDArray[np.float32]:
        model = self._full_model()
        encode = model.encode_query if task == "query" else model.encode_document
        vectors = encode(list(texts), prompt=prompt, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    def _load(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read_model()
            return self._loaded

    def _full_model(self) -> Any:
        """The ``SentenceTransformer`` itself, in the dtype of the plain path."""
        with self._lock:
            if self._model is None:
                self._model = self._read_whole()
            return self._model

    def _read_whole(self) -> Any:
        from sentence_transformers import SentenceTransformer

        try:
            with quiet_loading():
                model = SentenceTransformer(resolve(self.model), device=self.device)
        except (OSError, ValueError) as error:
            raise ModelError(f"the encoder {self.model!r} could not be loaded: {error}") from error
        return model.eval()

    def _read_model(self) -> _Loaded:
        import torch

        from rag.kernels.narrow_linear import widen_products
        from rag.retrievers.encoder_linear import choose_linear
        from rag.retrievers.encoder_parts import objection as folder_objection
        from rag.retrievers.encoder_parts import read_parts
        from rag.retrievers.encoder_ragged import RaggedModel, Refusal, objection

        wants_cpu = self.device == "cpu" or (self.device is None and not torch.cuda.is_available())
        if wants_cpu and self.dtype == "float16":
            raise ConfigError("dtype 'float16' is slower than float32 on a CPU; allowed there: auto, float32, bfloat16")
        folder = find_folder(resolve(self.model))
        try:
            parts = read_parts(folder) if wants_cpu and folder is not None and folder_objection(folder) is None else None
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"the encoder {self.model!r} could not be loaded: {error}") from error
        if parts is not None:
            return self._packed_path(parts)
        model = self._read_whole()
        if model.device.type != "cpu":
            model.to(getattr(torch, self._resident_dtype(model)))
        reason = objection(model)
        if reason is None:
            products = {choice.kind: choice.why for choice in (choose_linear(self.dtype), choose_linear("float32"))}
            try:
                ragged = RaggedModel(model, list(products), self.tokens_per_batch)
                why = f"{ragged.how}; {ragged.kind}: {products.get(ragged.kind, 'no other product comes near enough')}"
                return self._loaded_of(model, ragged.encode, ragged.hidden, why)
            except Refusal as refused:
                reason = str(refused)
        self._model = model.to(getattr(torch, self._resident_dtype(model)))
        widen_products(model)
        return self._plain_path(model, reason)

    def _resident_dtype(self, model: Any) -> str:
        """Of the weights that torch itself computes with; products in bfloat16 on a processor are another matter."""
        import torch

        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if model.device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"

    def _packed_path(self, parts: BertParts) -> _Loaded:
        from rag.retrievers.encoder_linear import choose_linear
        from rag.retrievers.encoder_packed import PackedEncoder
        from rag.retrievers.encoder_tokens import wording_of_backend

        linear = choose_linear(self.dtype)
        packed = PackedEncoder(parts, linear.kind, self.tokens_per_batch)

        def encode(texts: Sequence[str], task: Task, prompt: str | None) -> NDArray[np.float32]:
            prefix = parts.prompts[task] if prompt is None else prompt
            return packed.encode([prefix + text for text in texts] if prefix else texts)

        dim = parts.tensors["embeddings.word_embeddings.weight"].shape[1]
        how, described = f"packed; {linear.kind}: {linear.why}", parts.described_tokenizer
        wording = cache(lambda: wording_of_backend(described(), parts.max_tokens))
        return _Loaded(encode, packed.hidden, how, dim, parts.max_tokens, parts.prompts, parts.pooling, wording)

    def _plain_path(self, model: Any, reason: str) -> _Loaded:
        from rag.retrievers.encoder_tokens import plain_hidden

        how = f"SentenceTransformer.encode in {self._resident_dtype(model)}, because {reason}"
        padded = partial(self._padded, _most_tokens(model))
        return self._loaded_of(model, padded, partial(plain_hidden, model), how)

    def _loaded_of(
        self, model: Any, encode: Callable[[Sequence[str], Task, str | None], NDArray[np.float32]], hidden: Hidden, how: str
    ) -> _Loaded:
        from rag.retrievers.encoder_parts import task_prompts
        from rag.retrievers.encoder_tokens import pooling_of, wording_of

        dim, max_tokens = int(model.get_embedding_dimension()), _most_tokens(model)
        prompts = task_prompts(model.prompts, model.default_prompt_name)
        wording = cache(lambda: wording_of(model.tokenizer, max_tokens))
        return _Loaded(encode, hidden, how, dim, max_tokens, prompts, pooling_of(model), wording)


def _most_tokens(model: Any) -> int:
    """Where ``model`` cuts a text; some say nothing, or infinity."""
    limit = model.max_seq_length
    return min(int(limit), _UNLIMITED_TOKENS) if limit is not None and math.isfinite(limit) else _UNLIMITED_TOKENS
