"""One pass of chosen rows of one or more prompts over their arenas. Knows no store and no rule by which rows are chosen.

The same pass serves every method: all rows (full prefill), a few rows in the middle of a prompt (selective recomputation), the
question alone (plain reuse), one row per request (decoding). Rows write their own keys and values before they attend, and see
exactly the slots up to their own, wherever they stand: a bottom-right mask, as CacheBlend (arXiv 2405.16444) and LMCache hand
to their kernels, would let them see the future.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rag.kvcache.arena import Arena
from rag.kvcache.hooked import Projected, projections, run
from rag.kvcache.probe import Traits

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Rows:
    """Some rows of one prompt in a pass.

    ``slots`` int64 ``[T]``, ascending: where they stand in the prompt. ``positions`` ``[T]``: what they are rotated to, the
    slots themselves unless a method says otherwise. ``num_logits``: how many of the last rows are asked for logits.
    ``attention``: what attends instead of plain causal attention. ``watch``: shown what each layer has attended with.
    ``captured``: takes, if given, the un-rotated keys and values ``[Hkv, T, D]`` of each layer. ``going``: asked before each layer which
    rows go on. ``num_row_layers``: counts rows, layer by layer.
    """

    arena: Arena
    slots: torch.Tensor
    positions: torch.Tensor
    num_logits: int = 1
    attention: Attention | None = None
    watch: Watch | None = None
    going: Going | None = None
    captured: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None
    tables: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    num_row_layers: int = 0

    def keep(self, kept: torch.Tensor) -> None:
        """Only the rows with these indices (ascending) go on; what was captured of the others is forgotten."""
        self.slots, self.positions = self.slots[kept], self.positions[kept]
        self.tables = [(cos[kept], sin[kept]) for cos, sin in self.tables]
        for index, (keys, values) in (self.captured or {}).items():
            self.captured[index] = (keys[:, kept], values[:, kept])  # type: ignore[index]


@dataclass(frozen=True, slots=True)
class Attending:
    """What a layer attends with: rotated ``queries [Hq, T, Dk]`` of some rows, and the keywords of the attention kernels.

    ``lse``: for who watches plain causal attention, the logarithms of its denominators ``[Hq, T]``.
    """

    layer: int
    queries: torch.Tensor
    rows: Rows
    options: Mapping[str, Any]
    lse: torch.Tensor | None = None

    @property
    def keys(self) -> torch.Tensor:
        """The layer's keys ``[Hkv, capacity, Dk]``."""
        return self.rows.arena.keys[self.layer]

    @property
    def values(self) -> torch.Tensor:
        """The layer's values ``[Hkv, capacity, Dv]``."""
        return self.rows.arena.values[self.layer]

    @property
    def num_keys(self) -> int:
        """Slots in use."""
        return self.rows.arena.num_tokens


Attention = Callable[[Attending], "torch.Tensor"]
Watch = Callable[[Attending], None]
Going = Callable[[Rows], "torch.Tensor | None"]
"""Rows -> indices of those that go on, ``None``: all."""
Narrow = Callable[[Rows, "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""Rows and their fresh rotated keys and values ``[Hkv, T, D]`` at a check layer -> indices of the rows that go on."""


def causal(attending: Attending) -> torch.Tensor:
    """Attention by absolute slot, ``[T, Hq, Dv]``."""
    return causal_state(attending)[0]


def causal_state(attending: Attending) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by absolute slot, ``[T, Hq, Dv]``, and the logarithms of its denominators, float32 ``[Hq, T]``."""
    from rag.kernels.selective_attention import selective_attention

    return selective_attention(
        attending.queries,
        attending.keys,
        attending.values,
        attending.rows.slots,
        num_keys=attending.num_keys,
        return_lse=True,
        **attending.options,
    )


def causal_states(every: Sequence[Attending]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same of several requests in one layer, computed together."""
    import torch

    from rag.kernels.selective_batch import selective_attention_batch

    if len(every) < 2:
        return [causal_state(attending) for attending in every]
    lengths = [attending.queries.shape[1] for attending in every]
    out, lse = selective_attention_batch(
        torch.cat([attending.queries for attending in every], 1),
        [0, *accumulate(lengths)],
        [attending.keys for attending in every],
        [attending.values for attending in every],
        torch.cat([attending.rows.slots for attending in every]),
        num_keys=[attending.num_keys for attending in every],
        **every[0].options,
    )
    return list(zip(torch.split(out, lengths), torch.split(lse, lengths, 1), strict=True))


class CachedPass:
    """A pass of ``requests``, whose rows lie one after another in the hidden states; padding does not exist.

    ``narrow``: check layer -> per request what decides there which of its rows go on. The fresh keys and values of every row
    that arrives at a check layer replace the stale ones of that layer. ``common``: first slots that hold the same in all requests, each
    of which has one row, the one behind its last; layers without a window read them once for all.
    """

    def __init__(
        self,
        network: Any,
        layers: Sequence[Any],
        traits: Traits,
        requests: Sequence[Rows],
        narrow: Mapping[int, Sequence[Narrow]] | None = None,
        common: int = 0,
    ) -> None:
        self._network, self._layers, self._traits = network, layers, traits
        self._requests, self._narrow, self._common = list(requests), dict(narrow or {}), common
        self.through_layers = 0.0

    def logits(self, ids: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Per request float32 ``[num_logits, vocabulary]`` after its last rows. ``ids``: the tokens of its rows, each ``[T]``."""
        import torch

        like = self._requests[0].arena.keys[0]
        for rows in self._requests:
            rows.tables = [rotary.table(rows.positions, like) for rotary in self._traits.rotaries]
        positions = torch.cat([rows.positions for rows in self._requests])
        logits = run(self._network, self._layers, torch.cat(list(ids)), positions, self)
        return list(torch.split(logits, [rows.num_logits for rows in self._requests]))

    # The places where a cache matters --------------------------------------------------------------------------------------

    def before_layer(self, index: int, layer: Any, hidden: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
        """Neutral rotation for the layer; at a check layer, fewer rows."""
        kwargs["position_embeddings"] = self._traits.neutral[index]
        hidden = self._still_going(hidden)
        if index not in self._narrow:
            return hidden
        import torch

        projected = projections(self._network, layer, hidden, kwargs)
        kept, start = [], 0
        for rows, narrow in zip(self._requests, self._narrow[index], strict=True):
            end = start + len(rows.slots)
            rows.arena.wait(index)
            keys, values = self._rotated(index, rows, projected.keys[:, start:end]), projected.values[:, start:end]
            chosen = narrow(rows, keys, values)
            rows.arena.write(index, rows.slots, keys, values)
            rows.keep(chosen)
            kept.append(chosen + start)
            start = end
        return hidden[:, torch.cat(kept)]

    def _still_going(self, hidden: torch.Tensor) -> torch.Tensor:
        """Without the rows that their request does not take any further."""
        import torch

        if all(rows.going is None for rows in self._requests):
            return hidden
        parts, lengths = [], [len(rows.slots) for rows in self._requests]
        for rows, part in zip(self._requests, torch.split(hidden, lengths, dim=1), strict=True):
            kept = None if rows.going is None else rows.going(rows)
            if kept is not None:
                rows.keep(kept)
            parts.append(part if kept is None else part[:, kept])
        return torch.cat(parts, 1)

    def attend(self, index: int, projected: Projected) -> torch.Tensor:
        """Writes the rows' keys and values, then attends, all requests at once but for those with an attention of their own: ``[T, Hq, Dv]``."""
        import torch

        if self._common and self._traits.layers[index].window is None:
            return self._attend_together(index, projected)
        every, start = [], 0
        for rows in self._requests:
            end = start + len(rows.slots)
            queries, keys, values = (part[:, start:end] for part in projected[:3])
            rows.arena.wait(index)
            rows.num_row_layers += end - start
            if rows.captured is not None:
                rows.captured[index] = (keys, values)
            rows.arena.write(index, rows.slots, self._rotated(index, rows, keys), values)
            every.append(
                Attending(index, self._rotated(index, rows, queries), rows, attention_options(self._traits, index, projected))
            )
            start = end
        states = iter(causal_states([attending for attending in every if attending.rows.attention is None]))
        outs = []
        for attending in every:
            if attending.rows.attention is None:
                out, lse = next(states)
                attending = replace(attending, lse=lse)
            else:
                out = attending.rows.attention(attending)
            if attending.rows.watch is not None:
                attending.rows.watch(attending)
            outs.append(out)
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _attend_together(self, index: int, projected: Projected) -> torch.Tensor:
        """One row a request: the common slots are read once, what lies behind them request by request."""
        import torch

        from rag.kernels.cascade_decode import cascade_decode

        queries = []
        for number, rows in enumerate(self._requests):
            query, keys, values = (part[:, number : number + 1] for part in projected[:3])
            rows.arena.write(index, rows.slots, self._rotated(index, rows, keys), values)
            queries.append(self._rotated(index, rows, query))
        arenas = [rows.arena for rows in self._requests]
        options = attention_options(self._traits, index, projected)
        del options["window"]
        return cascade_decode(
            torch.cat(queries, 1).transpose(0, 1),
            arenas[0].keys[index, :, : self._common],
            arenas[0].values[index, :, : self._common],
            [arena.keys[index, :, self._common :] for arena in arenas],
            [arena.values[index, :, self._common :] for arena in arenas],
            [arena.num_tokens - self._common for arena in arenas],
            **options,
        )

    def after_layers(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last rows of each request; ``through_layers`` is set to when they came out."""
        import torch

        self.through_layers = time.perf_counter()
        wanted, end = [], 0
        for rows in self._requests:
            end += len(rows.slots)
            wanted.append(torch.arange(end - rows.num_logits, end, device=hidden.device))
        return hidden[:, torch.cat(wanted)]

    def _rotated(self, index: int, rows: Rows, states: torch.Tensor) -> torch.Tensor:
        from rag.kernels.rotate import rotate

        which = self._traits.layers[index].rotary
        if which is None:
            return states
        cos, sin = rows.tables[which]
        return rotate(states, cos, sin, self._traits.rotaries[which].style)


def attention_options(traits: Traits, index: int, projected: Projected) -> dict[str, Any]:
    """The keywords of the attention kernels at layer ``index``: scale, window, softcap, sinks."""
    extras = projected.extras
    scale = extras.get("scaling")
    return {
        "scale": projected.queries.shape[-1] ** -0.5 if scale is None else float(scale),
        "window": traits.layers[index].window,
        "softcap": extras.get("softcap"),
        "sinks": extras.get("s_aux"),
    }
