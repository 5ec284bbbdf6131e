"""A model, a store and a method together: prompts of ids in, prefilled arenas out, chunks remembered. Knows no text and no hit."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from rag.kvcache.ape import parallel_attention
from rag.kvcache.chunk_kv import ChunkKV
from rag.kvcache.chunk_prefill import FreshKV, prefill_chunks
from rag.kvcache.focus import Focus
from rag.kvcache.hooked import Unsupported
from rag.kvcache.key import POLICIES, KVKey, model_identity
from rag.kvcache.methods import Method
from rag.kvcache.plan import Cached, Plan
from rag.kvcache.planner import Planner
from rag.kvcache.prefill import Decoder, Prefilled, prefill
from rag.kvcache.prompt import Prompt
from rag.kvcache.store import DamagedKV, KVStore
from rag.kvcache.variants import Leaning, repaired
from rag.kvcache.worth import Worth


@dataclass(frozen=True, slots=True)
class Warmed:
    """What ``warm`` did: chunks computed, chunks that were there already, chunks the store refused, seconds."""

    num_computed: int
    num_known: int
    num_refused: int
    seconds: float


class KVEngine:
    """``weights``: a name that changes with the model's weights. ``method``: see ``METHODS``. ``recompute``: its share, 0 to 1.

    ``policy``: what chunks are encoded behind (``shared-prefix``: the beginning of the prompt; ``bare``; ``bos-dropped``).
    ``start_ids``: the model's start tokens. ``salt``: secret of the tenant; entries of two salts are never shared.
    Calls are serialised: a model computes one thing at a time. Raises ``ValueError`` for bad options.
    """

    def __init__(
        self,
        decoder: Decoder,
        store: KVStore,
        weights: str,
        method: Method,
        recompute: float = 0.15,
        policy: str = "shared-prefix",
        start_ids: Sequence[int] = (),
        salt: str = "",
        overlap: bool = True,
        lock: Any = None,
    ) -> None:
        if policy not in POLICIES[:3]:
            raise ValueError(f"policy={policy!r}: allowed are {', '.join(POLICIES[:3])}")
        if policy == "bos-dropped" and not start_ids:
            raise ValueError("policy='bos-dropped': the model has no start token; use 'shared-prefix' or 'bare'")
        if not 0 <= recompute <= 1:
            raise ValueError(f"recompute={recompute}: the share of reused tokens to compute anew must be between 0 and 1")
        if method.parallel and any(layer.window for layer in decoder.traits.layers):
            raise Unsupported(
                "chunks side by side (method 'ape') need layers that see the whole prompt; this model has sliding windows"
            )
        self.decoder, self.store, self.method, self.overlap = decoder, store, method, overlap
        self.recompute = recompute if method.recompute is None else method.recompute
        self.selector = method.selector()
        self.worth = Worth(self.recompute)
        self.planner = Planner(store, identity(decoder, weights), self.worth, policy, start_ids, salt)
        self._lock = lock or threading.RLock()

    # Chunks ----------------------------------------------------------------------------------------------------------------

    def warm(self, prefix: Sequence[int], chunks: Sequence[Sequence[int]]) -> Warmed:
        """Computes and keeps what is missing of the ``prefix`` of prompts and of ``chunks`` behind it."""
        started, refused = time.perf_counter(), 0
        with self._lock, ExitStack() as pinned:
            keys = list({self.planner.chunk_key(ids, prefix): None for ids in chunks if ids})
            missing = [key for key, there in zip(keys, self.store.holds(keys), strict=True) if not there]
            before = {ids: self._beginning(ids, pinned) for ids in (tuple(prefix), self.planner.context(prefix)) if ids}
            context = before.get(self.planner.context(prefix))
            ids = [key.ids for key in missing]
            fresh = prefill_chunks(self.decoder, [(context, 0)] if context else [], ids, kind=self.store.storage)
            for key, computed in zip(missing, fresh, strict=True):
                refused += not self._keep(key, computed)
        return Warmed(len(missing), len(keys) - len(missing), refused, time.perf_counter() - started)

    def _beginning(self, ids: tuple[int, ...], pinned: ExitStack) -> Cached:
        """The keys and values of a run of tokens with nothing before it, from the store or computed for it."""
        key = KVKey(self.planner.model, "bare", ids, (), self.planner.salt)
        held = self.store.get(key)
        if held is not None:
            return pinned.enter_context(held)
        (fresh,) = prefill_chunks(self.decoder, [], [ids], kind=self.store.storage)
        self._keep(key, fresh)
        return fresh

    def _keep(self, key: KVKey, fresh: FreshKV) -> bool:
        self.worth.saw_compute(fresh.num_tokens, fresh.seconds)
        if fresh.kv.kind == "plain":  # to be coded as the store codes
            return self.store.put(key, ChunkKV(key.ids, fresh.kv.keys, fresh.kv.values), fresh.seconds)
        return self.store.put_layers(key, fresh.kv, self.decoder.traits.geometry.dtype, fresh.seconds)

    # Prompts ---------------------------------------------------------------------------------------------------------------

    def prefill(self, prompt: Prompt, room: int = 0) -> Prefilled:
        """``prompt`` ready to be continued by up to ``room`` tokens. A damaged entry is a miss, noticed late: the plan is made anew."""
        with self._lock:
            for _ in range(len(prompt.segments) + 1):
                started = time.perf_counter()
                with self.planner.planned(prompt, self.method) as plan:
                    seconds = time.perf_counter() - started
                    try:
                        done = self._prefill(plan, room)
                    except DamagedKV:
                        continue
                    done.trace.seconds["plan"] = seconds
                    return done
        raise AssertionError("every entry was damaged, and yet there was another one")

    def _prefill(self, plan: Plan, room: int) -> Prefilled:
        attention = parallel_attention(plan) if self.method.parallel else None
        share = 1.0 if self.method.exact else self.recompute
        keeps = self.method.reads == "prefixes"
        leaning = Leaning(plan) if self.method.variants else None
        focus = Focus(leaning, plan) if leaning is not None and self.method.focused else None
        done = prefill(
            self.decoder, plan, self.selector, share, room=room, overlap=self.overlap, attention=attention,
            capture=keeps or leaning is not None, watch=focus or leaning,
            going=None if focus is None else focus.going,
        )  # fmt: skip
        self._measure(plan, done)
        if keeps:
            self._keep_in_place(plan, done)
        if leaning is not None:
            self._keep_variants(plan, done, leaning)
        return done

    def _measure(self, plan: Plan, done: Prefilled) -> None:
        self.worth.saw_compute(done.trace.num_computed, done.trace.seconds["compute"])
        held = [part.cached for part in plan.parts if part.cached is not None]
        by_tier: dict[str, int] = {}
        for each in held:
            tier = getattr(each, "tier", "ram")
            by_tier[tier] = by_tier.get(tier, 0) + getattr(each, "num_bytes", 0)
        seconds = done.trace.seconds["load"] + done.trace.seconds["assemble"]
        for tier, num_bytes in by_tier.items():
            self.worth.saw_load(tier, num_bytes, seconds * num_bytes / max(sum(by_tier.values()), 1))

    def _keep_in_place(self, plan: Plan, done: Prefilled) -> None:
        """Keeps what was computed of an exact prompt under the names of its segments, for prompts that begin the same."""
        import torch

        from rag.kernels.assemble import LayerKV

        assert done.captured is not None
        first = int(done.computed[0])
        layers = [done.captured[index] for index in range(len(done.captured))]
        keys, values = torch.stack([part[0] for part in layers]), torch.stack([part[1] for part in layers])
        per_token = done.trace.seconds["compute"] / len(done.computed)
        for number, part in enumerate(plan.parts[:-1]):
            if part.source == "computed" and part.num_tokens:
                rows = slice(part.start - first, part.start - first + part.num_tokens)
                fresh = LayerKV(keys[:, :, rows].contiguous(), values[:, :, rows].contiguous())
                self._keep(self.planner.place_key(plan.prompt, number), FreshKV(fresh, per_token * part.num_tokens))

    def _keep_variants(self, plan: Plan, done: Prefilled, leaning: Leaning) -> None:
        """Keeps the chunks of which something was computed as they are behind the chunks of this prompt."""
        per_token = done.trace.seconds["compute"] / len(done.computed)
        for number in leaning.parts[1:]:  # the first has no chunk to lean on
            now = repaired(plan, done, leaning, number)
            if now is not None:
                self.planner.variants.keep(now[0].ids, *now, per_token * now[0].num_tokens)

    def remember(self, prompt: Prompt) -> Warmed:
        """Computes and keeps the chunks of ``prompt`` that are not in the store, so that the next prompt with them finds them."""
        if self.method.reads != "chunks":
            return Warmed(0, 0, 0, 0.0)
        return self.warm(prompt.prefix, [segment.ids for segment in prompt.segments if segment.kind == "chunk"])

    def with_method(self, method: Method, recompute: float) -> KVEngine:
        """The same model and store under another method, for comparisons (see ``Planner.compares``)."""
        other = KVEngine(
            self.decoder, self.store, json.loads(self.planner.model)["weights"], method, recompute,
            self.planner.policy, self.planner.start_ids, self.planner.salt, self.overlap, self._lock,
        )  # fmt: skip
        other.planner.compares = True
        return other


def identity(decoder: Decoder, weights: str) -> str:
    """What the keys of a model depend on, for the names of entries."""
    config, geometry = decoder.network.config.get_text_config(), asdict(decoder.traits.geometry)
    rope = json.loads(json.dumps(getattr(config, "rope_parameters", None) or {}, default=str))
    return model_identity(weights, geometry.pop("dtype"), rope, geometry)
