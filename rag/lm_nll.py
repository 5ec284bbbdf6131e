"""Log-probabilities of whole texts under a causal transformers network, in little memory. Knows token ids; no text, no prompt.

Three things would be large and are never made: the logits of all positions (read in blocks), the logits of all words of a
large vocabulary at once (see ``rag.kernels.token_logprob``), and a cache longer than the context (read in windows).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from rag.kernels.token_logprob import logprob_of_logits, token_logprob

if TYPE_CHECKING:
    import torch

BLOCK_TOKENS = 512
"""Positions per forward pass, all rows together."""

MAX_LOGITS = 2**24
"""Logits per forward pass of a network that has to make all of them."""

SCALINGS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "logits_scale",
    "lm_head_multiplier",
    "output_multiplier_scale",
)
"""What configurations call the ways to change logits after the last layer."""

NEUTRAL = (None, 1, 1.0, False)


class Window(NamedTuple):
    """``ids[begin:end]`` are read from an empty cache; those from ``scored`` on get their log-probability here."""

    begin: int
    scored: int
    end: int


def windows(num_tokens: int, room: int) -> list[Window]:
    """How a text is read by a network that takes ``room`` of its tokens: each token but the first is scored once.

    A full cache gives up all but its newest quarter, which is read again as the beginning of a fresh window, so no position and
    no rotary distance occurs that training did not have (cutting entries out of the cache would shift distances, and what is
    left would still know of what was cut). A token sees at least ``room // 4`` tokens before it, or all there are, and at most a
    third more tokens are read than there are (a ``room`` of 2 or 3 aside).

    >>> [tuple(window) for window in windows(10, 4)]
    [(0, 1, 4), (3, 4, 7), (6, 7, 10)]
    """
    found = [Window(0, 1, min(num_tokens, room))]
    while found[-1].end < num_tokens:
        scored = found[-1].end
        begin = scored - min(max(room // 4, 1), room - 1)
        found.append(Window(begin, scored, min(num_tokens, begin + room)))
    return found


class TokenReader:
    """Reads rows of token ids with ``network`` and says how likely each token was.

    ``starts``: ids before every window (a start token, or none). ``context_tokens``: the most the network takes (``None``: no
    limit); the cache holds at most so many tokens. ``batch_size``: rows read together, as long as they fill no larger cache.
    ``num_read`` counts the tokens that went through the network, padding included.
    """

    def __init__(self, network: Any, starts: Sequence[int], context_tokens: int | None, batch_size: int = 8) -> None:
        self._network = network
        self._starts = list(starts)
        self._context_tokens = context_tokens
        self._batch_size = batch_size
        self.num_read = 0

    def read(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Per row and token its natural-log probability given the tokens before it; the first of a row has nan."""
        found = [[math.nan] * min(len(row), 1) for row in rows]
        longest = max(map(len, rows), default=0)
        room = max(longest, 1) if self._context_tokens is None else self._context_tokens - len(self._starts)
        for batch in self._batches(rows, room):
            scored = self._score([[*self._starts, *rows[i]] for i in batch], [len(self._starts) + 1] * len(batch))
            for i, values in zip(batch, scored, strict=True):
                found[i] += values
        for i, row in enumerate(rows):
            if len(row) > room:
                for begin, first, end in windows(len(row), room):
                    window = [*self._starts, *row[begin:end]]
                    found[i] += self._score([window], [len(self._starts) + first - begin])[0]
        return found

    def _batches(self, rows: Sequence[Sequence[int]], room: int) -> Iterator[list[int]]:
        """Rows that fit the context, like lengths together: less padding."""
        batch: list[int] = []
        for i in sorted((i for i, row in enumerate(rows) if 2 <= len(row) <= room), key=lambda i: len(rows[i])):
            if batch and (len(batch) == self._batch_size or (len(batch) + 1) * len(rows[i]) > max(room, BLOCK_TOKENS)):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _score(self, rows: Sequence[Sequence[int]], firsts: Sequence[int]) -> list[list[float]]:
        """Log-probabilities of ``rows[i][firsts[i]:]``. Rows are padded at the right: what comes later changes nothing."""
        import torch

        device = self._network.device
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
        places = torch.arange(1, longest, device=device)  # of the targets
        low, high = (torch.tensor(values, device=device)[:, None] for values in (firsts, [len(row) for row in rows]))
        wanted = (places >= low) & (places < high)  # (rows, longest - 1)
        values: list[list[float]] = [[] for _ in rows]
        cache = None
        step = self._num_positions(len(rows))
        with torch.inference_mode():
            for begin in range(0, longest - 1, step):
                end = min(begin + step, longest - 1)
                picked = wanted[:, begin:end].nonzero(as_tuple=True)
                out, cache = self._forward(ids, begin, end, cache, more=end < longest - 1, is_wanted=len(picked[0]) > 0)
                if len(picked[0]):
                    logprobs = self._logprobs(out[picked], ids[:, begin + 1 : end + 1][picked])
                    for row, value in zip(picked[0].tolist(), logprobs.tolist(), strict=True):
                        values[row].append(value)
        return values

    def _num_positions(self, num_rows: int) -> int:
        most = BLOCK_TOKENS
        if self._head is None:
            most = min(most, MAX_LOGITS // self._network.get_output_embeddings().weight.shape[0])
        return max(1, most // num_rows)

    def _forward(
        self, ids: torch.Tensor, begin: int, end: int, cache: Any, *, more: bool, is_wanted: bool
    ) -> tuple[torch.Tensor, Any]:
        """Hidden states (or logits, without a plain head) at ``ids[:, begin:end]`` after ``cache``, and the cache if ``more`` comes."""
        import torch

        self.num_read += len(ids) * (end - begin)
        network = self._network if self._head is None else self._network.base_model
        extra: dict[str, Any] = {}
        accepts = self._accepts
        if "position_ids" in accepts:
            extra["position_ids"] = torch.arange(begin, end, device=ids.device).expand(len(ids), -1)
        if self._head is None and not is_wanted and "logits_to_keep" in accepts:
            extra["logits_to_keep"] = 1
        if more or cache is not None:
            extra |= {"past_key_values": cache, "use_cache": True}
        else:
            extra["use_cache"] = False
        out = network(input_ids=ids[:, begin:end], attention_mask=torch.ones_like(ids[:, :end]), **extra)
        return out.logits if self._head is None else out.last_hidden_state, getattr(out, "past_key_values", None)

    @cached_property
    def _accepts(self) -> frozenset[str]:
        network = self._network if self._head is None else self._network.base_model
        return frozenset(inspect.signature(network.forward).parameters)

    def _logprobs(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self._head is not None:
            weight, bias = self._head
            return token_logprob(states, weight, targets, bias)
        return logprob_of_logits(states, targets)

    @cached_property
    def _head(self) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        return plain_head(self._network)


def plain_head(network: Any) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Weight and bias of the last layer, if the logits are its plain output; else ``None``: the network must make them itself.

    Some architectures scale or cap their logits after that layer (or the states before it), each in a place of its own. So a
    configuration that names such a thing, a layer that is no plain ``Linear`` (quantised, adapted), or a difference between the
    network's own logits of a few tokens and ours leads to ``None``.
    """
    import torch

    from rag.kernels.narrow_linear import WidenedLinear

    head = network.get_output_embeddings()
    config = network.config.get_text_config()
    is_scaled = any(getattr(config, name, None) not in NEUTRAL for name in SCALINGS)
    if type(head) not in (torch.nn.Linear, WidenedLinear) or is_scaled or network.base_model is network:
        return None
    probe = torch.arange(min(8, len(head.weight)), device=network.device)[None]
    with torch.inference_mode():
        ours = head(network.base_model(input_ids=probe, use_cache=False).last_hidden_state).float()
        theirs = network(input_ids=probe, use_cache=False).logits.float()
    tolerance = 1e-4 if head.weight.dtype == torch.float32 else 2e-2
    is_same = ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())
    return (head.weight.detach(), None if head.bias is None else head.bias.detach()) if is_same else None
