"""Probabilities under a causal transformers network of many rows of ids, where common beginnings are read once. Knows no text.

Slots of the cache are always filled from the right: a row that is shorter than its batch has its unused slots at the left, before
its first token. So every slot is as far from the next one as its position is, and sliding windows, which count slots, hold.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rag.kernels.token_logprob import logprob_of_logits, token_logprob
from rag.lm_nll import MAX_LOGITS, plain_head
from rag.lm_tree import Node, Plan, Row, batches, plan

if TYPE_CHECKING:
    import torch

PLAIN_LAYERS = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer"})
"""Layers of a cache that hold keys and values by token and nothing else."""

UNSTEADY_ROPES = frozenset({"dynamic", "longrope"})
"""Rotary embeddings whose angles change with the length of what is read: keys of a beginning would not be those of the whole."""


class Target(NamedTuple):
    """Asks for the probability of ``token`` after the first ``position + 1`` tokens of a row."""

    position: int
    token: int


@dataclass(frozen=True, slots=True)
class State:
    """What was read of some rows: per layer keys and values ``(rows, heads, slots, dim)``; row ``r`` fills its last ``lengths[r]`` slots."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    lengths: tuple[int, ...]

    @property
    def num_slots(self) -> int:
        """Slots of every row."""
        return self.layers[0][0].shape[2]

    def mask(self) -> torch.Tensor:
        """1 where a slot is filled, int64 ``(rows, slots)``."""
        import torch

        keys = self.layers[0][0]
        unused = self.num_slots - torch.tensor(self.lengths, device=keys.device)
        return (torch.arange(self.num_slots, device=keys.device) >= unused[:, None]).long()

    def expanded(self, rows: Sequence[int]) -> Any:
        """A transformers cache of which row ``n`` is ``rows[n]``. It keeps every token, whatever windows the layers have."""
        import torch

        if len(self.lengths) == 1:  # views: the copy is made where the next tokens are appended
            return _cache([(k.expand(len(rows), -1, -1, -1), v.expand(len(rows), -1, -1, -1)) for k, v in self.layers])
        if list(rows) == list(range(len(self.lengths))):
            return _cache(self.layers)
        index = torch.tensor(rows, device=self.layers[0][0].device)
        return _cache([(k.index_select(0, index), v.index_select(0, index)) for k, v in self.layers])


class SharedReader:
    """Reads rows of ids with ``network``, a common beginning once where ``rag.lm_tree.verdict`` says that it pays.

    At most ``batch_size`` rows are read together, and at most ``batch_tokens`` tokens of them are held, read or cached, padding
    included (a single row may be longer). ``sharing``: ``never`` reads every row whole, the slow reference; ``always`` shares
    whatever is common. ``num_read`` counts the tokens that went through the network, padding included.
    """

    def __init__(
        self, network: Any, batch_size: int, batch_tokens: int, sharing: Literal["auto", "always", "never"] = "auto"
    ) -> None:
        self._network = network
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self._sharing = sharing
        self.num_read = 0

    @cached_property
    def refusal(self) -> str:
        """Why this network must read every row whole; "" if it need not."""
        if self._sharing == "auto":
            return refusal(self._network)
        return "sharing is switched off" if self._sharing == "never" else ""

    def plan(self, rows: Sequence[Row]) -> Plan:
        """How ``rows`` would be read; its ``why`` gives the reasons."""
        made = plan(rows, always=self._sharing == "always")
        if not any(root.children for root in made.roots) or not self.refusal:
            return made  # with nothing to share the network need not be asked
        return plan(rows, self.refusal)

    def logprobs(self, rows: Sequence[Row], targets: Sequence[Sequence[Target]]) -> list[list[float]]:
        """Natural-log probability of every target of every row. No row is empty; positions lie inside their row."""
        made = self.plan(rows)
        asked: dict[int, dict[Target, list[tuple[int, int]]]] = {}
        for i, some in enumerate(targets):
            for number, target in enumerate(some):
                asked.setdefault(made.holder[i], {}).setdefault(target, []).append((i, number))
        found = [[math.nan] * len(some) for some in targets]
        for node, target, value in self._walk(rows, made.roots, None, [0] * len(made.roots), asked):
            for member in node.members:
                for i, number in asked.get(member, {}).get(target, ()):
                    found[i][number] = value
        return found

    def begun(self, rows: Sequence[Row]) -> tuple[torch.Tensor, Any, torch.Tensor] | None:
        """What ``rows`` are continued from, if they share beginnings that pay: float32 logits ``(rows, vocabulary)``, cache, mask.

        A beginning is read once and forked, also one inside another. ``None``: read them whole.
        """
        import torch

        # the last token of a row counts as its own, so that every row ends in a leaf that has its logits
        made = self.plan([[*row[:-1], -1 - number] for number, row in enumerate(rows)])
        if not any(root.children for root in made.roots):
            return None
        ends = dict(self._ends(rows, made.roots, None, [0] * len(made.roots)))
        logits = torch.cat([self._logits(ends[number][0]) for number in range(len(rows))])
        state = _joined([ends[number][1:] for number in range(len(rows))])
        return logits, state.expanded(range(len(rows))), state.mask()

    def _ends(
        self, rows: Sequence[Row], nodes: Sequence[Node], state: State | None, parents: Sequence[int]
    ) -> Iterator[tuple[int, tuple[torch.Tensor, State, int]]]:
        """Per row its last hidden state ``(1, width)``, and the state that holds it with its place there; reads as ``_walk`` does."""
        offsets = [[] if node.children else [node.end - node.begin - 1] for node in nodes]
        for batch in self._batches(nodes, offsets, state.num_slots if state else 0):
            segments = [rows[nodes[n].row][nodes[n].begin : nodes[n].end] for n in batch]
            picks = [(number, offset) for number, n in enumerate(batch) for offset in offsets[n]]
            states, below = self._pass(segments, state, [parents[n] for n in batch], picks, keep=True)
            assert below is not None
            for place, (number, _) in enumerate(picks):
                yield nodes[batch[number]].row, (states[place : place + 1], below, number)
            children = [(child, number) for number, n in enumerate(batch) for child in nodes[n].children]
            if children:
                yield from self._ends(rows, [child for child, _ in children], below, [number for _, number in children])

    # Trees ---------------------------------------------------------------------------------------------------------------

    def _walk(
        self,
        rows: Sequence[Row],
        nodes: Sequence[Node],
        state: State | None,
        parents: Sequence[int],
        asked: Mapping[int, Mapping[Target, object]],
    ) -> Iterator[tuple[Node, Target, float]]:
        """Reads nodes, node ``n`` after row ``parents[n]`` of ``state``, and everything below them."""
        wanted = [
            sorted(
                {target for member in node.members for target in asked.get(member, ()) if node.begin <= target.position < node.end}
            )
            for node in nodes
        ]
        offsets = [sorted({target.position - node.begin for target in some}) for node, some in zip(nodes, wanted, strict=True)]
        for batch in self._batches(nodes, offsets, state.num_slots if state else 0):
            picks = [(number, offset) for number, n in enumerate(batch) for offset in offsets[n]]
            place = {pick: at for at, pick in enumerate(picks)}
            states, below = self._pass(
                [rows[nodes[n].row][nodes[n].begin : nodes[n].end] for n in batch],
                state,
                [parents[n] for n in batch],
                picks,
                keep=bool(nodes[batch[0]].children),
            )
            named = [(nodes[n], number, target) for number, n in enumerate(batch) for target in wanted[n]]
            values = self._values(states, [(place[number, of.position - node.begin], of.token) for node, number, of in named])
            yield from ((node, target, value) for (node, _, target), value in zip(named, values, strict=True))
            children = [(child, number) for number, n in enumerate(batch) for child in nodes[n].children]
            if children:
                yield from self._walk(rows, [child for child, _ in children], below, [number for _, number in children], asked)

    def _batches(self, nodes: Sequence[Node], offsets: Sequence[Sequence[int]], num_cached: int) -> Iterator[list[int]]:
        """Nodes that are read together after ``num_cached`` slots: shared beginnings first, apart from ends of rows."""

        def fits(some: Sequence[int]) -> bool:
            """Whether the logits are few that a network without a plain head has to make of all rows at all places."""
            return len(some) * len({offset for n in some for offset in offsets[n]}) * self._vocabulary <= MAX_LOGITS

        for is_shared in (True, False):
            chosen = [n for n, node in enumerate(nodes) if bool(node.children) == is_shared]
            lengths = {n: nodes[n].end - nodes[n].begin for n in chosen}
            yield from batches(lengths, num_cached, self._batch_size, self._batch_tokens, fits if self._head is None else None)

    # One pass ------------------------------------------------------------------------------------------------------------

    def _pass(
        self, segments: Sequence[Row], state: State | None, parents: Sequence[int], picks: Sequence[tuple[int, int]], keep: bool
    ) -> tuple[torch.Tensor, State | None]:
        """Reads ``segments[n]`` after row ``parents[n]`` of ``state``, padded at the right, where padding changes nothing before it.

        Returns hidden states (or logits, without a plain head) at ``picks``, pairs of segment and offset, ``(picks, width)``; and,
        to ``keep``, the state after the segments.
        """
        import torch

        width = max(map(len, segments))
        device = self._network.device
        ids = torch.tensor([[*segment, *[0] * (width - len(segment))] for segment in segments], device=device)
        mask = torch.tensor([[1] * len(segment) + [0] * (width - len(segment)) for segment in segments], device=device)
        self.num_read += ids.numel()
        extra: dict[str, Any] = {"use_cache": keep or state is not None}
        with torch.inference_mode():
            if state is not None:
                mask = torch.cat([state.mask()[torch.tensor(parents, device=device)], mask], dim=1)
                extra["past_key_values"] = state.expanded(parents)
            elif keep:
                extra["past_key_values"] = _cache()
            if "position_ids" in self._accepts:
                extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -width:]
            states, cache = self._states(ids, mask, picks, extra)
            if not keep:
                return states, None
            before = state.lengths if state is not None else (0,) * (max(parents) + 1)
            lengths = tuple(before[parent] + len(segment) for parent, segment in zip(parents, segments, strict=True))
            return states, _right_aligned(cache, [width - len(segment) for segment in segments], lengths)

    def _states(
        self, ids: torch.Tensor, mask: torch.Tensor, picks: Sequence[tuple[int, int]], extra: dict[str, Any]
    ) -> tuple[torch.Tensor, Any]:
        import torch

        rows, offsets = (torch.tensor([pick[n] for pick in picks], dtype=torch.long, device=ids.device) for n in (0, 1))
        if self._head is not None:
            out = self._network.base_model(input_ids=ids, attention_mask=mask, **extra)
            return out.last_hidden_state[rows, offsets], getattr(out, "past_key_values", None)
        if "logits_to_keep" in self._accepts:
            kept, offsets = torch.unique(offsets, return_inverse=True) if picks else (offsets.new_zeros(1), offsets)
            extra["logits_to_keep"] = kept
        out = self._network(input_ids=ids, attention_mask=mask, **extra)
        return out.logits[rows, offsets], getattr(out, "past_key_values", None)

    def _values(self, states: torch.Tensor, asked: Sequence[tuple[int, int]]) -> list[float]:
        """Log-probabilities of ``asked``, pairs of row of ``states`` (ascending) and token; a few rows at a time."""
        import torch

        step = max(1, MAX_LOGITS // self._vocabulary)
        values: list[float] = []
        with torch.inference_mode():
            for begin in range(0, len(states), step):
                part = states[begin : begin + step]
                some = [(row - begin, token) for row, token in asked if begin <= row < begin + step]
                rows, tokens = (torch.tensor([pair[n] for pair in some], dtype=torch.long, device=part.device) for n in (0, 1))
                if self._head is None:
                    found = logprob_of_logits(part, tokens, rows=rows)
                else:
                    weight, bias = self._head
                    found = token_logprob(part, weight, tokens, bias, rows=rows)
                values += found.tolist()
        return values

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        import torch

        if self._head is None:
            return states.float()
        with torch.inference_mode():
            return torch.nn.functional.linear(states, *self._head).float()

    @cached_property
    def _head(self) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        return plain_head(self._network)

    @cached_property
    def _vocabulary(self) -> int:
        return int(self._network.get_output_embeddings().weight.shape[0])

    @cached_property
    def _accepts(self) -> frozenset[str]:
        network = self._network if self._head is None else self._network.base_model
        return frozenset(inspect.signature(network.forward).parameters)


def _cache(layers: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()) -> Any:
    """A transformers cache that holds keys and values and, made without a configuration, forgets none that leave a window."""
    from transformers import DynamicCache

    return DynamicCache(list(layers) or None)


def _right_aligned(cache: Any, pads: Sequence[int], lengths: tuple[int, ...]) -> State:
    """The state in which row ``r`` has lost the ``pads[r]`` slots at its right and all rows the slots that none of them fills."""
    import torch

    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    keys = layers[0][0]
    num_slots, kept = keys.shape[2], max(lengths)
    if not any(pads) and kept == num_slots:
        return State(layers, lengths)
    shift = torch.tensor(pads, device=keys.device)[:, None]
    index = (torch.arange(num_slots - kept, num_slots, device=keys.device) - shift).clamp(min=0)[:, None, :, None]
    moved = tuple((k.gather(2, index.expand(-1, k.shape[1], -1, k.shape[3])), v.gather(2, index.expand(-1, v.shape[1], -1, v.shape[3])))
                  for k, v in layers)  # fmt: skip
    return State(moved, lengths)


def _joined(parts: Sequence[tuple[State, int]]) -> State:
    """One state of single rows, each given by a state and its place there."""

    lengths = tuple(state.lengths[row] for state, row in parts)
    num_slots = max(lengths)

    def stacked(layer: int, which: int) -> torch.Tensor:
        like = parts[0][0].layers[layer][which]
        made = like.new_zeros(len(parts), like.shape[1], num_slots, like.shape[3])
        for at, ((state, row), length) in enumerate(zip(parts, lengths, strict=True)):
            made[at, :, num_slots - length :] = state.layers[layer][which][row, :, state.num_slots - length :]
        return made

    return State(tuple((stacked(layer, 0), stacked(layer, 1)) for layer in range(len(parts[0][0].layers))), lengths)


def refusal(network: Any) -> str:
    """Why the keys and values of a beginning cannot stand for it in ``network``; "" if they can.

    What is known to fail is named; of everything else a small tree of rows is read both ways and compared.
    """
    from transformers import DynamicCache

    config = network.config.get_text_config()
    if "past_key_values" not in inspect.signature(network.forward).parameters:
        return "the network keeps no keys and values by token"
    if getattr(config, "num_kv_shared_layers", 0):
        return "layers of the network share keys and values"
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return "layers of the network attend to chunks of fixed places"
    if ropes := sorted(UNSTEADY_ROPES & _rope_types(getattr(config, "rope_parameters", None))):
        return f"the angles of {ropes[0]} rotary embeddings depend on the length of what is read"
    try:
        kinds = {type(layer).__name__ for layer in DynamicCache(config=network.config).layers}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"the cache of the network is not known ({type(error).__name__}: {error})"
    if kinds - PLAIN_LAYERS:
        return f"the cache of the network has layers that cannot be given more rows: {', '.join(sorted(kinds - PLAIN_LAYERS))}"
    return _probed(network)


def _rope_types(parameters: object) -> set[str]:
    """The types named in ``rope_parameters``, which may hold one set of them per kind of layer."""
    if not isinstance(parameters, Mapping):
        return set()
    return {str(parameters.get("rope_type"))}.union(*(_rope_types(value) for value in parameters.values()))


def _probed(network: Any) -> str:
    import torch

    most = int(network.get_output_embeddings().weight.shape[0]) - 1
    rows = [
        [min(id_, most) for id_ in row]
        for row in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 7], [1, 2, 5, 5, 5, 1], [1, 2, 5, 5, 5, 4, 9], [1, 2, 8])
    ]
    targets = [[Target(len(row) - 1, min(3, most))] for row in rows]
    try:
        apart = SharedReader(network, 1, 64, "never").logprobs(rows, targets)
        shared = SharedReader(network, 8, 64, "always").logprobs(rows, targets)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"the network cannot continue a cache that was expanded ({type(error).__name__}: {error})"
    tolerance = (1e-4 if network.dtype == torch.float32 else 2e-2) * max(1.0, *(abs(value) for (value,) in apart))
    worst = max(abs(one - other) for (one,), (other,) in zip(apart, shared, strict=True))
    return "" if worst <= tolerance else f"rows that share a beginning come out otherwise by {worst:.2g}"
