"""Any causal language model that transformers loads: completion, streaming, choice scores. Knows no prompt of ours.

Everything is stepped by hand, with one key-value cache per batch: ``generate`` would follow whatever sampling, penalties and
warnings a model's folder asks for, and could not share one pass over a beginning among many prompts and choices.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.core import Completion, Message, OpenModel, Prompt, Span, TokenLogprobs, digest
from rag.errors import ModelError
from rag.lm_choices import check_paired, logsumexp, spellings, sums
from rag.lm_nll import TokenReader
from rag.lm_plain import PLAIN_STOP, plain_text, spaced
from rag.lm_sampling import Sampling
from rag.lm_shared import SharedReader
from rag.quiet import quiet_loading
from rag.stops import Writer

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")


class TransformersLM:
    """The causal LM at ``model`` (a folder or a hub id), loaded at first use from safetensors, without code of the model's own.

    ``device``: a torch device; default: cuda if there is one, else cpu. ``dtype``: ``auto`` (as stored), ``float32``,
    ``bfloat16`` or ``float16``. ``max_context_tokens``: prompt and completion together; default: what the model's
    configuration says. ``chat_template``: render messages with the tokenizer's template; without one (or with ``False``) they are
    written as ``System: ...``, ``User: ...``, ``Assistant:``, and ``\\nUser:`` ends the answer. In messages, strings of the
    tokenizer's special tokens are made inert (a blank after their first character), so quoted text cannot open a role; a prompt
    that is a ``str`` is taken as it is.

    ``batch_size``: the most rows, and ``batch_tokens``: the most tokens of them (read or cached, padding included), per forward pass;
    a single row may be longer. ``temperature`` 0 writes the likeliest tokens; above it they are drawn, with ``top_p`` and ``seed`` as
    ``rag.lm_sampling.Sampling`` says. Scores and log-probabilities know no temperature.

    Raises ``ModelError`` if the model cannot be loaded or a prompt does not fit its context.
    """

    def __init__(
        self,
        model: str,
        device: str | None = None,
        dtype: str = "auto",
        max_context_tokens: int | None = None,
        chat_template: bool = True,
        batch_size: int = 32,
        batch_tokens: int = 8192,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r}: allowed are {', '.join(DTYPES)}")
        if max_context_tokens is not None and max_context_tokens < 2:
            raise ValueError(f"max_context_tokens={max_context_tokens}: must be at least 2")
        for name, value in (("batch_size", batch_size), ("batch_tokens", batch_tokens)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.model = model
        self.device = device
        self.dtype = dtype
        self.max_context_tokens = max_context_tokens
        self.chat_template = chat_template
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.sampling = Sampling(temperature, top_p, seed)
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"TransformersLM({self.model!r}, device={self.device!r}, dtype={self.dtype!r})"

    @property
    def fingerprint(self) -> str:
        """Names the weights (for a folder: its configuration and the sizes of its files) and the settings that matter."""
        folder = Path(self.model)
        stored = ""
        if folder.is_dir():
            sizes = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())
            config = folder / "config.json"
            stored = json.dumps(sizes) + (config.read_text("utf-8") if config.is_file() else "")
        more = [] if self.max_context_tokens is None else [f"context {self.max_context_tokens}"]
        more += [self.sampling.fingerprint] if self.sampling.fingerprint else []
        name = self.model if not stored else folder.name
        return "transformers:" + digest(name, stored, self.dtype, str(self.chat_template), *more)

    def opened(self) -> OpenModel:
        """The network, the tokenizer and how text becomes ids, for those who work on keys and values."""
        with self._lock:
            plain = not self._has_template
            return OpenModel(
                network=self._network,
                tokenizer=self._tokenizer,
                render=self._rendered,
                encode=lambda text: list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]),
                inert=self._inert,
                start_ids=tuple(self._starts) if plain else (),
                end_ids=self._ends,
                stops=(PLAIN_STOP,) if plain else (),
                lock=self._lock,
            )

    # The model and its words --------------------------------------------------------------------------------------------

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ModelError(f"cannot load the tokenizer of {self.model!r}: {error}") from error
        if not tokenizer.is_fast:
            raise ModelError(f"the tokenizer of {self.model!r} gives no character offsets (no tokenizer.json)")
        return tokenizer

    @cached_property
    def _network(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        from rag.kernels.narrow_linear import widen_products

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = "auto" if self.dtype == "auto" else getattr(torch, self.dtype)
        try:
            with quiet_loading():
                network: Any = AutoModelForCausalLM.from_pretrained(
                    self.model, dtype=dtype, use_safetensors=True, trust_remote_code=False
                )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ModelError(f"cannot load the model {self.model!r}: {error}") from error
        widen_products(network.to(device).eval())
        return network

    @cached_property
    def context_tokens(self) -> int | None:
        """Tokens of prompt and completion together that the model takes; ``None`` if neither option nor configuration tells."""
        if self.max_context_tokens is not None:
            return self.max_context_tokens
        with self._lock:
            found = getattr(self._network.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 1 else None

    def count_tokens(self, prompt: Prompt) -> int:
        """The length of ``prompt`` in the model's tokens, template included."""
        with self._lock:
            return len(self._ids(prompt))

    @cached_property
    def _ends(self) -> frozenset[int]:
        ends: set[int] = set()
        for source in (self._network.generation_config, self._network.config, self._tokenizer):
            value = getattr(source, "eos_token_id", None)
            ends.update(value if isinstance(value, (list, tuple)) else [] if value is None else [value])
        return frozenset(ends)

    @cached_property
    def _has_template(self) -> bool:
        return self.chat_template and bool(self._tokenizer.chat_template)

    def _is_plain(self, prompt: Prompt) -> bool:
        return not isinstance(prompt, str) and not self._has_template

    def _ids(self, prompt: Prompt) -> list[int]:
        rendered = prompt if isinstance(prompt, str) else self._rendered(prompt)
        if not isinstance(prompt, str) and self._has_template:  # the template writes the special tokens itself
            return list(self._tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])
        return self._starts + list(self._tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])

    @cached_property
    def _starts(self) -> list[int]:
        """The start token, if the tokenizer puts one before a text. An end token after it would end what is to be continued."""
        bos = self._tokenizer.bos_token_id
        return [bos] if bos is not None and self._tokenizer("a", add_special_tokens=True)["input_ids"][:1] == [bos] else []

    def _rendered(self, messages: Sequence[Message]) -> str:
        if not self._has_template:
            return plain_text([Message(role, self._inert(content)) for role, content in messages])
        turns = [{"role": role, "content": self._inert(content)} for role, content in messages]
        from jinja2.exceptions import TemplateError

        try:
            return self._template(turns)
        except TemplateError:  # templates without a system role say so by raising
            system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
            others = [turn for turn in turns if turn["role"] != "system"]
            if not system or not others:
                raise
            others[0] = {"role": "user", "content": f"{system}\n\n{others[0]['content']}"}
            return self._template(others)

    def _template(self, turns: list[dict[str, str]]) -> str:
        # models that can think aloud before they answer are asked not to; other templates ignore the word
        rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        return str(rendered)

    @cached_property
    def _special_strings(self) -> tuple[str, ...]:
        special = [str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        return tuple(sorted({text for text in special if len(text) > 1}, key=len, reverse=True))

    def _inert(self, content: str) -> str:
        for text in self._special_strings:
            content = content.replace(text, f"{text[0]} {text[1:]}")
        return content

    # Completion ----------------------------------------------------------------------------------------------------------

    def complete(self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), max_tokens: int = 256) -> list[Completion]:
        """The continuation of each prompt, in batches; the text ends before the first stop string."""
        _check_max_tokens(max_tokens)
        done: dict[int, Completion] = {}
        with self._lock:
            encoded = [self._fitting(prompt) for prompt in prompts]
            for rows in self._batches([len(ids) + max_tokens for ids in encoded]):
                writers = [self._writer(prompts[i], encoded[i], stop, max_tokens) for i in rows]
                for _ in self._steps([encoded[i] for i in rows], writers):
                    pass
                done.update(zip(rows, (writer.completion() for writer in writers), strict=True))
        return [done[i] for i in range(len(prompts))]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Rows that are read together; like lengths, so that there is less padding."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            if batch and (len(batch) == self.batch_size or (len(batch) + 1) * lengths[i] > self.batch_tokens):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def stream(self, prompt: Prompt, *, stop: Sequence[str] = (), max_tokens: int = 256) -> Iterator[str | Completion]:
        """The text of ``complete([prompt])`` piece by piece, a piece as soon as its characters are whole; then the completion."""
        _check_max_tokens(max_tokens)
        with self._lock:
            ids = self._fitting(prompt)
            writer = self._writer(prompt, ids, stop, max_tokens)
        steps = self._steps([ids], [writer])
        while True:
            with self._lock:  # held per step: a slow reader of this stream blocks nobody
                piece = next(steps, None)
            if piece is None:
                break
            if piece[0]:
                yield piece[0]
        yield writer.completion()

    def _writer(self, prompt: Prompt, ids: Sequence[int], stop: Sequence[str], max_tokens: int) -> Writer:
        plain = self._is_plain(prompt)
        room = max_tokens if self.context_tokens is None else min(max_tokens, self.context_tokens - len(ids))
        return Writer(
            self._tokenizer, self._ends, [*stop, PLAIN_STOP] if plain else stop, len(ids), room, strip=not isinstance(prompt, str)
        )

    def _fitting(self, prompt: Prompt, num_more: int = 1) -> list[int]:
        """The ids of a prompt that leaves room for ``num_more`` tokens."""
        ids = self._ids(prompt)
        if not ids:
            raise ValueError("an empty prompt cannot be continued: the model needs at least one token")
        if self.context_tokens is not None and len(ids) + num_more > self.context_tokens:
            raise ModelError(f"the prompt has {len(ids)} tokens; {self.model!r} takes {self.context_tokens} with the answer")
        return ids

    def _steps(self, rows: Sequence[list[int]], writers: Sequence[Writer]) -> Iterator[list[str]]:
        """One token per unfinished row and step; yields the new text of each row."""
        import torch

        chosen = self.sampling.choosers(rows)
        with torch.inference_mode():
            logits, cache, mask = self._read(rows)
        while True:
            tokens = chosen(logits)
            yield [writer.push(token) for writer, token in zip(writers, tokens, strict=True)]
            if all(writer.finish for writer in writers):
                yield [writer.rest() for writer in writers]
                return
            with torch.inference_mode():
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
                ids = torch.tensor(tokens, device=mask.device)[:, None]
                logits, cache = self._forward(ids, mask, cache)
                logits = logits[:, -1]

    def _read(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Reads the prompts, a common beginning once. Logits of the next token ``(rows, vocabulary)``, cache, mask ``(rows, tokens)``."""
        import torch

        if (begun := self._shared.begun(rows)) is not None:
            return begun
        longest = max(map(len, rows))
        device = self._network.device
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        logits, cache = self._forward(ids, mask, None, keep=1)
        return logits[:, -1], cache, mask

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, keep: int = 0) -> tuple[torch.Tensor, Any]:
        """Float32 logits ``(rows, tokens, vocabulary)`` of ``ids`` after ``cache``; ``mask`` covers the cached tokens too.

        ``keep=1`` computes the last position only, where the model can.
        """
        extra: dict[str, Any] = {}
        if "position_ids" in self._accepts:
            extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if keep and "logits_to_keep" in self._accepts:
            extra["logits_to_keep"] = keep
        out = self._network(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        return out.logits.float(), out.past_key_values

    @cached_property
    def _accepts(self) -> frozenset[str]:
        return frozenset(inspect.signature(self._network.forward).parameters)

    # Probabilities -------------------------------------------------------------------------------------------------------

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """Natural-log probability of each choice, ``(prompts, choices)``: the log of the sum over ``spellings(choice)``.

        Each prompt is read once for all choices, and what prompts have in common is read once for all of them where that pays
        (``rag.lm_tree.verdict``). Raises ``ValueError`` for no or empty choices.
        """
        if not choices or not all(choice.strip() for choice in choices):
            raise ValueError(f"choices={list(choices)!r}: at least one is needed and none may be empty")
        with self._lock:
            spelled = [self._continuations(choice) for choice in choices]
            sequences = sorted({ids for choice in spelled for ids in choice})
            longest = max([1, *(len(ids) - 1 for ids in sequences)])
            values = sums(self._shared, [(ids, sequences) for ids in (self._fitting(prompt, longest) for prompt in prompts)])
        return [[logsumexp(row[ids] for ids in choice) for choice in spelled] for row in values]

    def sharing(self, prompts: Sequence[Prompt]) -> str:
        """What ``score`` would read once for several of ``prompts``, and why or why not, in words."""
        with self._lock:
            return self._shared.plan([self._fitting(prompt) for prompt in prompts]).why

    def continuation_logprobs(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[float]:
        """Natural-log probability of ``continuations[i]``, its own tokens, after prompt ``i``; common beginnings are read once.

        After messages that are written without a template a blank stands before it. An empty continuation has 0. Raises ``ValueError``
        if there is not one continuation per prompt.
        """
        check_paired(prompts, continuations)
        with self._lock:
            texts = [spaced(text) if self._is_plain(prompt) else text for prompt, text in zip(prompts, continuations, strict=True)]
            pairs = [(prompt, self._continued(text)) for prompt, text in zip(prompts, texts, strict=True)]
            values = sums(self._shared, [(self._fitting(prompt, max(1, len(ids))), [ids]) for prompt, ids in pairs])
        return [row[ids] for row, (_, ids) in zip(values, pairs, strict=True)]

    def _continuations(self, choice: str) -> list[tuple[int, ...]]:
        """The distinct token sequences of the choice's spellings; none extends another, so their probabilities add."""
        found = {ids for ids in map(self._continued, spellings(choice)) if ids}
        return sorted(ids for ids in found if not any(ids != other and ids[: len(other)] == other for other in found))

    def _continued(self, text: str) -> tuple[int, ...]:
        """The ids of a text that continues another. Some tokenizers put a blank before whatever begins a text, so an anchor begins it."""
        anchor = "\n"
        anchored = self._tokenizer(anchor, add_special_tokens=False)["input_ids"]
        ids = self._tokenizer(anchor + text, add_special_tokens=False, verbose=False)["input_ids"]
        if ids[: len(anchored)] == anchored:
            return tuple(ids[len(anchored) :])
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
        """Per token its characters and log-probability given the text before it (after the model's own start token, if any).

        Each text is tokenised once. One longer than the context is read in windows that share a quarter (``rag.lm_nll.windows``),
        so a token still sees at least a quarter of a context; this is the only place where "all tokens before it" has an end. A smaller
        ``max_context_tokens`` makes long texts faster.
        """
        with self._lock:
            encoded = [
                self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False) for text in texts
            ]
            values = self._reader.read([each["input_ids"] for each in encoded])
        spans = [tuple(Span(*offset) for offset in each["offset_mapping"]) for each in encoded]
        return [TokenLogprobs(of, tuple(found)) for of, found in zip(spans, values, strict=True)]

    @cached_property
    def _reader(self) -> TokenReader:
        return TokenReader(self._network, self._starts, self.context_tokens, self.batch_size)

    @cached_property
    def _shared(self) -> SharedReader:
        return SharedReader(self._network, self.batch_size, self.batch_tokens)


def _check_max_tokens(max_tokens: int) -> None:
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: must be at least 1")
