"""Looks a prompt up in the store and decides what to take from it. Knows names, tiers and measured rates; computes nothing.

Prefixes are found by walking: the name of a segment's true keys holds all ids before it, so names make the tree. Chunks are found
wherever they stand, by their ids and the prefix they were encoded behind. What is found is pinned until the plan is let go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rag.kvcache.ape import side_by_side
from rag.kvcache.key import KVKey
from rag.kvcache.methods import Method
from rag.kvcache.plan import Part, Plan, Source
from rag.kvcache.prompt import Prompt, Segment
from rag.kvcache.variants import Variants, names_before
from rag.kvcache.worth import Worth

if TYPE_CHECKING:
    from rag.kvcache.store import Held, KVStore


class Planner:
    """``model``: identity of the model (``rag.kvcache.key.model_identity``). ``policy``: what chunks are encoded behind.

    ``start_ids``: the model's start tokens, the context of the policy ``bos-dropped``. ``salt``: secret of the tenant. ``compares``: plans for comparisons of
    methods reuse chunks as they were encoded alone, also where the store has them in place or loading does not pay: what a method does to answers is asked.
    """

    compares = False

    def __init__(
        self, store: KVStore, model: str, worth: Worth, policy: str = "shared-prefix", start_ids: Sequence[int] = (), salt: str = ""
    ) -> None:
        self.store, self.model, self.worth, self.policy, self.salt = store, model, worth, policy, salt
        self.start_ids = tuple(start_ids)
        self.variants = Variants(store, model, salt)

    def context(self, prefix: Sequence[int]) -> tuple[int, ...]:
        """The ids that a chunk of prompts with this ``prefix`` is encoded behind."""
        return {"shared-prefix": tuple(prefix), "bos-dropped": self.start_ids, "bare": ()}[self.policy]

    def chunk_key(self, ids: Sequence[int], prefix: Sequence[int]) -> KVKey:
        """The name of a chunk wherever it stands."""
        context = self.context(prefix)
        return KVKey(self.model, self.policy if context else "bare", tuple(ids), context, self.salt)

    def place_key(self, prompt: Prompt, number: int) -> KVKey:
        """The name of segment ``number`` as it is behind everything before it."""
        return self._place_key(prompt.ids[: prompt.starts[number]], prompt.segments[number].ids)

    def _place_key(self, before: tuple[int, ...], ids: tuple[int, ...]) -> KVKey:
        return KVKey(self.model, "in-situ" if before else "bare", ids, before, self.salt)

    def knows(self, segments: Sequence[Segment]) -> bool:
        """Whether the last of ``segments`` is in the store as it is behind the others."""
        before = tuple(token for segment in segments[:-1] for token in segment.ids)
        return self.store.holds([self._place_key(before, segments[-1].ids)])[0]

    @contextmanager
    def planned(self, prompt: Prompt, method: Method) -> Iterator[Plan]:
        """The plan for ``prompt``; what it names stays in the store until the end of the block."""
        held: list[Held] = []
        try:
            yield self._plan(prompt, method, held)
        finally:
            for each in held:
                each.close()

    def _plan(self, prompt: Prompt, method: Method, held: list[Held]) -> Plan:
        parts: list[Part] = []
        walking = method.reads != "nothing"
        for number in range(len(prompt.segments)):
            part = self._part(prompt, number, method, walking, held)
            walking = part.source == "exact"
            parts.append(part)
        plan = self._worth_it(Plan(prompt, tuple(parts), _reasons(prompt.segments, parts)), held)
        return side_by_side(plan) if method.parallel else plan

    def _part(self, prompt: Prompt, number: int, method: Method, walking: bool, held: list[Held]) -> Part:
        """A segment with what the store has for it, which joins ``held``. ``walking``: everything before it is exact."""
        segment, start = prompt.segments[number], prompt.starts[number]

        def part(source: Source, found: Held | None = None) -> Part:
            if found is not None:
                held.append(found)
            return Part(start, len(segment.ids), source, found, segment.prior)

        if segment.kind == "question" or method.reads == "nothing":
            return part("computed")
        if not segment.ids:
            return part("exact" if walking else "computed")
        alone_only = self.compares and method.reads == "chunks" and segment.kind == "chunk"
        if walking and not alone_only and (found := self.store.get(self.place_key(prompt, number))):
            return part("exact", found)
        if method.reads != "chunks" or segment.kind != "chunk":
            return part("computed")
        alone = self.store.get(self.chunk_key(segment.ids, prompt.prefix))
        in_place = walking and self.context(prompt.prefix) == prompt.ids[:start] and not method.parallel
        if not method.variants or (alone is not None and in_place):
            return part("computed" if alone is None else "exact" if in_place else "reused", alone)
        now = names_before(prompt, number)
        best = self.variants.best(segment.ids, now, alone)
        if best is None:
            return part("computed")
        return replace(part("reused", best[0]), need=best[1], dependence=best[2], now=now)

    def _worth_it(self, plan: Plan, held: Sequence[Held]) -> Plan:
        """The plan, or one that computes everything if the measured rates say that loading takes longer."""
        verdict = self.worth.verdict(plan, held)
        parts = plan.parts
        if not (verdict.reuse or self.compares):
            parts = tuple(replace(part, source="computed", cached=None) for part in parts)
        return Plan(plan.prompt, parts, (*plan.reasons, "reused: methods are compared" if self.compares else verdict.why))


def _reasons(segments: Sequence[Segment], parts: Sequence[Part]) -> tuple[str, ...]:
    counts = {source: sum(part.num_tokens for part in parts if part.source == source) for source in ("exact", "reused", "computed")}
    chunks = [part for segment, part in zip(segments, parts, strict=True) if segment.kind == "chunk"]
    num_found = sum(part.cached is not None for part in chunks)
    return (
        f"{num_found} of {len(chunks)} chunks are cached",
        f"{counts['exact']} tokens as they were, {counts['reused']} reused, {counts['computed']} not cached",
    )
