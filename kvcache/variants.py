"""The ways a chunk was computed behind other chunks, kept beside it: which fits best, and what is kept next. Knows the store's names.

Cache-Craft (arXiv 2502.15734) keeps several variants of a chunk, each with what it leaned on. A variant is named by the chunk and a
number, so that a handful of names is all there is to try; what stood before it is told by the entry itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.kvcache.cached_pass import Attending
from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.dependence import Dependence, chunk_name, need_alone
from rag.kvcache.key import KVKey
from rag.kvcache.plan import Part, Plan
from rag.kvcache.prompt import Prompt

if TYPE_CHECKING:
    import torch

    from rag.kvcache.prefill import Prefilled
    from rag.kvcache.store import Held, KVStore

NUM_VARIANTS = 4
"""Of one chunk, at most. The store's budgets decide how many of them stay."""


def names_before(prompt: Prompt, number: int) -> tuple[int, ...]:
    """The chunks before segment ``number``."""
    return tuple(chunk_name(segment.ids) for segment in prompt.segments[:number] if segment.kind == "chunk" and segment.ids)


@dataclass(frozen=True, slots=True)
class Variants:
    """The kept variants of the chunks of one model and tenant."""

    store: KVStore
    model: str
    salt: str = ""

    def key(self, ids: Sequence[int], number: int) -> KVKey:
        """The name of variant ``number``."""
        return KVKey(self.model, "variant", tuple(ids), (number,), self.salt)

    def best(self, ids: Sequence[int], now: Sequence[int], alone: Held | None) -> tuple[Held, float, Dependence | None] | None:
        """The one that needs least behind the chunks ``now``, ``alone`` among them; ``None`` if there is none. The others are given back."""
        from rag.kvcache.store import DamagedKV

        found: list[tuple[Held, float, Dependence | None]] = []
        if alone is not None:
            found.append((alone, need_alone(now), None))
        for key, there in zip(self._keys(ids), self.store.holds(self._keys(ids)), strict=True):
            held = self.store.get(key) if there and now else None
            if held is None:
                continue
            try:
                dependence = Dependence.of(held.statistics)
            except DamagedKV:
                held.close()
                continue
            found.append((held, dependence.need(now), dependence))
        chosen = min(found, key=lambda each: each[1], default=None)
        for each in found:
            if each is not chosen:
                each[0].close()
        return chosen

    def keep(self, ids: Sequence[int], kv: ChunkKV, dependence: Dependence, seconds: float) -> bool:
        """Keeps a variant in the place of one of the same ``before``, in a free one, or in that of the one that fits worst now."""
        key = self._place(ids, dependence.before)
        self.store.drop([key])
        return self.store.put(key, ChunkKV(kv.ids, kv.keys, kv.values, dependence.statistics()), seconds)

    def _keys(self, ids: Sequence[int]) -> list[KVKey]:
        return [self.key(ids, number) for number in range(NUM_VARIANTS)]

    def _place(self, ids: Sequence[int], before: Sequence[int]) -> KVKey:
        from rag.kvcache.store import DamagedKV

        needs: list[tuple[float, KVKey]] = []
        free: KVKey | None = None
        for key in self._keys(ids):
            held = self.store.get(key)
            if held is None:
                free = free or key
                continue
            with held:
                try:
                    known = Dependence.of(held.statistics)
                except DamagedKV:
                    free = free or key
                    continue
            if list(known.before) == list(before):
                return key
            needs.append((known.need(before), key))
        return free or max(needs, key=lambda each: each[0])[1]


class Leaning:
    """Watches a pass and adds up which chunk each computed row attends to, over all layers, averaged over heads."""

    def __init__(self, plan: Plan) -> None:
        import torch

        kinds = [segment.kind for segment in plan.prompt.segments]
        self.parts = [number for number, part in enumerate(plan.parts) if kinds[number] == "chunk" and part.num_tokens]
        columns = torch.zeros(len(plan.prompt), len(self.parts))
        for column, number in enumerate(self.parts):
            columns[plan.parts[number].start : plan.parts[number].start + plan.parts[number].num_tokens, column] = 1.0
        self._columns, self._num_layers = columns, 0
        self._mass: torch.Tensor | None = None
        self._slots = torch.empty(0, dtype=torch.int64)

    def __call__(self, attending: Attending) -> None:
        """Attention with "which chunk" in the place of values is the mass that each chunk gets: ``[rows, chunks]``."""
        import torch

        from rag.kernels.selective_attention import selective_attention

        if not self.parts:
            return
        keys, num_keys = attending.keys, attending.num_keys
        where = self._columns.to(keys.device, keys.dtype).expand(keys.shape[0], -1, -1)
        mass = selective_attention(
            attending.queries, keys[:, :num_keys], where, attending.rows.slots, num_keys=num_keys, **attending.options
        )
        mass, slots = mass.float().mean(1), attending.rows.slots
        if self._mass is not None:
            if len(slots) < len(self._mass):  # rows that were not taken any further are forgotten
                self._mass = self._mass[torch.isin(self._slots, slots)]
            mass = self._mass + mass
        self._mass, self._slots = mass, slots
        self._num_layers += 1

    @property
    def total(self) -> torch.Tensor:
        """Float32 ``[rows, chunks]``, summed over the layers seen so far."""
        assert self._mass is not None
        return self._mass

    @property
    def mass(self) -> torch.Tensor:
        """Float32 ``[rows, chunks]``, averaged over the layers."""
        return self.total.cpu() / self._num_layers


def repaired(plan: Plan, done: Prefilled, leaning: Leaning, number: int) -> tuple[ChunkKV, Dependence] | None:
    """Segment ``number`` as this prompt has it now: the computed rows, the others as they were; ``None`` if nothing of it was computed."""
    part, segment = plan.parts[number], plan.prompt.segments[number]
    computed = done.computed.cpu()
    rows = ((computed >= part.start) & (computed < part.start + part.num_tokens)).nonzero()[:, 0]
    if not len(rows):
        return None
    offsets = computed[rows] - part.start
    keys, values = _rows(part, done, rows, offsets)
    return ChunkKV(segment.ids, keys, values), _dependence(plan, leaning, number, offsets, leaning.mass[rows])


def _dependence(plan: Plan, leaning: Leaning, number: int, offsets: torch.Tensor, mass: torch.Tensor) -> Dependence:
    """From the ``mass`` of the computed rows; what the chunk as a whole leaned on is estimated from them."""
    import torch

    part, column = plan.parts[number], leaning.parts.index(number)
    before = names_before(plan.prompt, number)
    scale = part.num_tokens / len(offsets)
    inter, intra = mass[:, :column].sum(0) * scale, mass[:, column].sum() * scale
    token_inter, fresh = torch.full((part.num_tokens,), float("nan")), torch.zeros(part.num_tokens, dtype=torch.bool)
    base, old = part.need or 0.0, part.dependence
    if old is not None:
        token_inter = old.token_inter.clone()
        if old.before == before:  # the same place once more: what was computed here earlier counts, too
            fresh, base = old.fresh.clone(), old.base
            share = len(offsets) / (len(offsets) + int(fresh.sum()))
            inter, intra = inter.lerp(torch.tensor(old.inter), 1 - share), intra.lerp(torch.tensor(old.intra), 1 - share)
    token_inter[offsets], fresh[offsets] = mass[:, :column].sum(1), True
    sizes = tuple(plan.parts[each].num_tokens for each in leaning.parts[:column])
    return Dependence(before, sizes, tuple(inter.tolist()), float(intra), token_inter, fresh, base)


def _rows(part: Part, done: Prefilled, rows: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys ``[L, Hkv, T, Dk]`` before rotation and values ``[L, Hkv, T, Dv]`` of the part, computed rows in their places."""
    import torch

    from rag.kernels.quantise import dequantise_kv

    assert done.captured is not None
    layers = [done.captured[index] for index in range(len(done.captured))]
    fresh = [(keys[:, rows], values[:, rows]) for keys, values in layers]
    if part.cached is None:
        return torch.stack([keys for keys, _ in fresh]), torch.stack([values for _, values in fresh])
    dtype = str(fresh[0][0].dtype).removeprefix("torch.")
    mixed = []
    for index, (keys, values) in enumerate(fresh):
        old = [each.clone() for each in dequantise_kv(part.cached.layer(index), dtype)]
        old[0][:, offsets], old[1][:, offsets] = keys.to(old[0].device), values.to(old[1].device)
        mixed.append(old)
    return torch.stack([keys for keys, _ in mixed]), torch.stack([values for _, values in mixed])
