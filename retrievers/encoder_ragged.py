"""Any model of sentence-transformers without padding. Knows its modules and features; knows no index and no architecture by name.

Texts lie end to end, so that every layer but attention sees real tokens only, and attention looks at one text at a time. Pooling and what comes
after it are the model's own: sentence-transformers reads such inputs as those of flash attention. Whether a model can be fed that way is found
out when it is loaded, by computing a few texts both ways. One that cannot is given texts of equal length together, which needs no padding
either, and one that fails at that is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag.kernels.crew import each
from rag.quiet import quiet_loading
from rag.retrievers import encoder_attention
from rag.retrievers.encoder_layout import EndToEnd, EqualLengths, Ids, Layout, without_padding
from rag.retrievers.encoder_linear import Kind, swapped_linears
from rag.retrievers.encoder_packed import plan
from rag.retrievers.encoder_parts import task_prompts

Task = Literal["query", "document"]
Kept = TypeVar("Kept")
Keep = Callable[[Mapping[str, Any]], Sequence[Kept]]
"""Takes of the features that the model made of some texts what is wanted of each."""

_TOKENIZED_AT_ONCE = 256  # texts, of about one length: bounds the padding that the tokeniser adds and we take away
_WINDOW_TEXTS = 8192
_PROBE_LENGTHS = (7, 1, 12, 12)
_MOST_PROBE_TOKENS = 520
_SAME = 1e-4  # relative error that float32 explains
_NEAR = 0.03  # and that products in bfloat16 do
_WIDEST_BYTES = (
    8 << 20
)  # of the widest activation of a pack: larger ones are given back to the system and cleared again at every layer


class Refusal(Exception):
    """Why a model must be computed by sentence-transformers itself."""


class RaggedModel:
    """A ``SentenceTransformer``, ``MultiVectorEncoder`` or ``SparseEncoder`` whose texts are computed without padding, in packs that share the cores.

    Takes the model over: its attention and, in memory, its linear layers are set to ours (the first of ``kinds`` that comes near enough; ``kind``
    says which). Its tokenizer is used by one thread at a time. Raises ``Refusal`` with the reason if neither layout gives the vectors that the
    model gives to each text alone.
    """

    def __init__(self, model: Any, kinds: Sequence[Kind], tokens_per_batch: int) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._in_memory = model.device.type == "cpu"
        self._plain = {name: value for name, value in model.preprocess(["a"]).items() if not isinstance(value, Tensor)}
        self._prompts = task_prompts(model.prompts, model.default_prompt_name)
        if self._in_memory:
            model.float()
        probes = _probe_texts(model)
        with torch.inference_mode():
            wanted = [self._probed([ids], EqualLengths()) for ids in probes]
            self._layout, why = self._choose_layout(probes, wanted)
            self.kind = self._choose_product(kinds if self._in_memory else (), probes, wanted)
        self.how = f"without padding, {why}"
        widths = [layer.out_features for layer in model[0].auto_model.modules() if hasattr(layer, "out_features")]
        fitting = _WIDEST_BYTES // (4 * max(widths, default=1))
        self._tokens_per_pack = min(tokens_per_batch, max(1, fitting)) if self._in_memory else tokens_per_batch

    def encode(self, texts: Sequence[str], task: Task, prompt: str | None) -> NDArray[np.float32]:
        """Unit vectors ``(texts, dim)``; ``prompt`` ``None`` is the model's own."""

        def unit(features: Mapping[str, Any]) -> Sequence[NDArray[np.float32]]:
            vectors = features["sentence_embedding"][:, : self._model.truncate_dim].float()
            return list(torch.nn.functional.normalize(vectors, dim=1).cpu().numpy())

        return np.stack(self.of_each(texts, task, prompt, unit))

    def token_lists(self, texts: Sequence[str], task: Task) -> list[Tensor]:
        """``(kept tokens, dim)`` per text, as a ``MultiVectorEncoder`` gives them, but of any length."""

        def kept(features: Mapping[str, Any]) -> Sequence[Tensor]:
            real = features["attention_mask"].bool()
            return [vectors[some] for vectors, some in zip(features["token_embeddings"], real, strict=True)]

        return self.of_each(texts, task, None, kept)

    def of_each(self, texts: Sequence[str], task: Task, prompt: str | None, keep: Keep[Kept]) -> list[Kept]:
        """What ``keep`` takes of the model's features, text by text in order; ``keep`` is called for some texts at a time, in several threads."""
        found: dict[int, Kept] = {}
        given = self._prompts[task] if prompt is None else prompt
        by_length = sorted(range(len(texts)), key=lambda row: -len(texts[row]))

        def take(rows: Sequence[int], features: Mapping[str, Any]) -> None:
            found.update(zip(rows, keep(features), strict=True))

        for start in range(0, len(texts), _WINDOW_TEXTS):
            self._window(texts, by_length[start : start + _WINDOW_TEXTS], task, given, take)
        return [found[row] for row in range(len(texts))]

    def hidden(self, inputs: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """Last hidden states ``(tokens, dim)`` of texts given as token ids, special tokens included."""
        found: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(inputs)

        def compute(rows: list[int]) -> None:
            states = self._network(self._layout.features({"input_ids": [inputs[row] for row in rows]}))
            for row, some in zip(rows, torch.split(states, [len(inputs[row]) for row in rows]), strict=True):
                found[row] = some.float().cpu().numpy()

        self._share([len(ids) for ids in inputs], compute)
        return found

    def _window(
        self,
        texts: Sequence[str],
        window: list[int],
        task: Task,
        prompt: str,
        take: Callable[[Sequence[int], Mapping[str, Any]], None],
    ) -> None:
        """Hands ``take`` the rows of ``window`` with their features, some at a time and in any order."""
        rows: list[int] = []
        tokens: list[Mapping[str, Ids]] = []
        scalars: dict[str, Any] = {}
        for first in range(0, len(window), _TOKENIZED_AT_ONCE):
            some = window[first : first + _TOKENIZED_AT_ONCE]
            with self._lock:  # a fast tokenizer refuses to be set up by two threads at once
                padded = self._model.preprocess([texts[row] for row in some], prompt=prompt or None, task=task)
            real = without_padding(padded)
            if real is None:
                self._padded(some, padded, task, take)
                continue
            rows += some
            tokens += real
            scalars = {name: value for name, value in padded.items() if not isinstance(value, Tensor)}

        def compute(places: list[int]) -> None:
            laid = self._layout.features({name: [tokens[place][name] for place in places] for name in tokens[places[0]]})
            take([rows[place] for place in places], self._through({**laid, **scalars}, task))

        self._share([len(each_text["input_ids"]) for each_text in tokens], compute)

    def _padded(
        self, rows: list[int], padded: Mapping[str, Any], task: Task, take: Callable[[Sequence[int], Mapping[str, Any]], None]
    ) -> None:
        """As the tokeniser laid them: what has more than tokens needs its padding."""
        size = max(1, self._tokens_per_pack // max(1, padded["input_ids"].shape[1]))
        for first in range(0, len(rows), size):
            some = slice(first, first + size)
            part = {name: value[some] if isinstance(value, Tensor) else value for name, value in padded.items()}
            take(rows[some], self._through(part, task))

    def _share(self, lengths: Sequence[int], compute: Callable[[list[int]], None]) -> None:
        """``compute`` of the places of texts that are laid together, on all cores."""
        if not lengths:
            return
        packs = plan(np.array(lengths), self._tokens_per_pack, torch.get_num_threads() if self._in_memory else 1)
        parts = [pack[run].tolist() for pack in packs for run in self._layout.runs([lengths[place] for place in pack])]
        if self._in_memory:
            each(parts, compute)
            return
        with torch.inference_mode():
            for part in parts:
                compute(part)

    def _through(self, features: Mapping[str, Any], task: Task) -> Mapping[str, Any]:
        """All modules of the model."""
        with torch.inference_mode():
            found: Mapping[str, Any] = self._model({**self._plain, **self._moved(features)}, task=task)
        return found

    def _network(self, features: Mapping[str, Any]) -> Tensor:
        """Hidden states ``(tokens, dim)``: the network alone, without pooling."""
        states: Tensor = self._model[0].auto_model(**self._moved(features)).last_hidden_state
        return states.flatten(0, 1)

    def _moved(self, features: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value.to(self._model.device) if isinstance(value, Tensor) else value for name, value in features.items()}

    def _choose_layout(self, probes: list[Ids], wanted: list[list[Tensor]]) -> tuple[Layout, str]:
        network = self._model[0].auto_model
        before = network.config._attn_implementation
        limit = _SAME if self._in_memory else _NEAR
        try:
            encoder_attention.register()
            with quiet_loading():  # transformers warns of models that have no such choice, and so do we, in ``how``
                network.set_attn_implementation(encoder_attention.NAME)
            padding = getattr(network.config, "pad_token_id", None)
            for first in (0, *([padding + 1] if isinstance(padding, int) else [])):  # RoBERTa's positions begin after the padding's
                if self._distance(EndToEnd(first), probes, wanted) < limit:
                    return EndToEnd(first), "attention within texts"
            why = "attention within texts gives other vectors"
        except Exception as error:  # noqa: BLE001 - a stranger's code, fed in a way it may not know; the reason is told
            why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        network.set_attn_implementation(before)
        if not self._in_memory:
            raise Refusal(why)
        if self._distance(EqualLengths(), probes, wanted) > limit:
            raise Refusal(f"{why}, and texts of equal length together do too")
        return EqualLengths(), f"texts of equal length together ({why})"

    def _choose_product(self, kinds: Sequence[Kind], probes: list[Ids], wanted: list[list[Tensor]]) -> Kind:
        for kind in kinds:
            undo = swapped_linears(self._model[0].auto_model, kind)
            try:
                if self._distance(self._layout, probes, wanted) < (_NEAR if kind == "bfloat16" else _SAME):
                    return kind
            except (RuntimeError, TypeError, ValueError):  # a network that mixes types where torch does not
                pass
            undo()
        return "torch"

    def _distance(self, layout: Layout, probes: list[Ids], wanted: list[list[Tensor]]) -> float:
        """Largest relative error over all probes, of hidden states and of vectors."""
        found = [self._probed([probes[row] for row in run], layout) for run in layout.runs([len(ids) for ids in probes])]
        errors = [0.0]
        for number, expected in enumerate(zip(*wanted, strict=True)):
            one, other = torch.cat([part[number] for part in found]), torch.cat(expected)
            if one.shape != other.shape or not one.isfinite().all():
                return float("inf")
            errors.append(float((one - other).norm() / other.norm().clamp(min=1e-30)))
        return max(errors)

    def _probed(self, texts: list[Ids], layout: Layout) -> list[Tensor]:
        """The hidden states (of a network that has a vocabulary on top: none), and what the modules after them make of them."""
        laid = layout.features({"input_ids": texts})
        features = self._through(laid, "document")
        if "sentence_embedding" in features:
            vectors = features["sentence_embedding"]
        else:
            vectors = features["token_embeddings"][features["attention_mask"].bool()]
        states = [self._network(laid)] if self._model[0].transformer_task == "feature-extraction" else []
        return [each_kind.float().cpu() for each_kind in (*states, vectors)]


def objection(model: Any) -> str | None:
    """Why a model is not even tried; ``None`` if it is."""
    first = model[0]
    if type(first).__name__ not in ("Transformer", "MLMTransformer"):
        return f"its first module is {type(first).__name__}"
    if first.backend != "torch" or first.transformer_task not in ("feature-extraction", "fill-mask"):
        return "its network is not a torch network that gives token vectors or words"
    if first.modalities != ["text"]:
        return f"it reads {', '.join(map(str, first.modalities))}"
    return None


def _probe_texts(model: Any) -> list[Ids]:
    """Words drawn at random; one text is longer than the window of the network, if that is a short one."""
    tokenizer, config = model.tokenizer, model[0].auto_model.config
    windows = [value for name in ("sliding_window", "local_attention") if isinstance(value := getattr(config, name, None), int)]
    limit = model.max_seq_length or _MOST_PROBE_TOKENS
    longest = min(limit, _MOST_PROBE_TOKENS, max([24, *(window + 8 for window in windows)]))
    special = set(tokenizer.all_special_ids)
    words = np.array([word for word in range(min(len(tokenizer), config.vocab_size)) if word not in special], np.int64)
    drawn = np.random.default_rng(0)
    return [drawn.choice(words, int(min(length, limit))) for length in (*_PROBE_LENGTHS, longest)]
