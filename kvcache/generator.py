"""Answers written by a local language model over cached keys and values of the chunks. Knows hits, a model and a store; no index."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from rag.citations import MIN_SUPPORT
from rag.core import Chunk, Completion, Event, Hit, LocalLM, OpenModel, StageEvent, TextEvent, Usage, UsageEvent
from rag.errors import ConfigError
from rag.generate import checked_answer
from rag.kvcache.decode import decode
from rag.kvcache.engine import KVEngine, Warmed
from rag.kvcache.gate import Gate
from rag.kvcache.methods import Policy
from rag.kvcache.methods import method as method_named
from rag.kvcache.prefill import Decoder, Prefilled
from rag.kvcache.prompt_writer import SYSTEM, PromptWriter, Written
from rag.kvcache.slab import ALIGNMENT
from rag.kvcache.store import KVStore
from rag.lm_sampling import Sampling
from rag.prompt import ABSTENTION
from rag.stops import Writer

GIGABYTE = 1 << 30


class KVGenerator:
    """Lets ``lm`` (``use: transformers``) answer from the hits, reusing what it once computed of their chunks.

    ``method``: how (``rag.kvcache.methods``: combined, first-k, cache-craft, focused, blend, query, reuse, block, ape, prefix, full). ``recompute``: share of the
    reused tokens that is computed anew. ``policy``: what chunks are encoded behind: ``shared-prefix`` (the instructions; the default), ``bare`` (that of
    ``method: block``), ``bos-dropped``. ``ram_gb``, ``disk_gb``, ``device_gb``: budgets of the store's tiers; ``storage``: ``plain``, ``int8`` or ``int4``. ``salt``:
    secret of the tenant, best as ``${env:NAME}``. ``prepare_chunks``: compute chunks when they are ingested (as far as the budgets go), else when they are
    first used. ``overlap``: load later layers while earlier ones compute. ``reorder``: with ``method: prefix``, put sources first that stood
    first before, so that more of the prompt begins as one before it did (CacheWeaver, arXiv 2606.19667). ``temperature``, ``top_p``, ``seed``: sampling.
    ``check``: obey the verdict of ``rag kv check`` on this model (see ``rag.kvcache.gate``). The rest as in ``use: lm``.

    Raises ``ConfigError`` if ``lm`` runs elsewhere, ``Unsupported`` (at first use) if its keys cannot be reused.
    """

    def __init__(
        self,
        lm: LocalLM,
        method: str = "combined",
        recompute: float = 0.15,
        policy: Policy | None = None,
        ram_gb: float = 1.0,
        disk_gb: float = 10.0,
        device_gb: float = 0.0,
        storage: Literal["plain", "int8", "int4"] = "plain",
        salt: str = "",
        prepare_chunks: bool = True,
        overlap: bool = True,
        reorder: bool = False,
        max_tokens: int = 400,
        max_prompt_tokens: int | None = None,
        min_support: float = MIN_SUPPORT,
        abstention: str = ABSTENTION,
        system: str | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        check: bool = True,
        index_folder: Path | None = None,
    ) -> None:
        if not hasattr(type(lm), "opened"):
            raise ConfigError(
                f"generator kv reuses keys and values of a model in this process; {lm!r} runs elsewhere (`use: transformers`)"
            )
        for name, value, least in (
            ("ram_gb", ram_gb, 0),
            ("disk_gb", disk_gb, 0),
            ("device_gb", device_gb, 0),
            ("max_tokens", max_tokens, 1),
        ):
            if value < least:
                raise ValueError(f"{name}={value}: must be at least {least}")
        self.lm, self.method, self.recompute = lm, method_named(method), recompute
        self.policy: Policy = policy or self.method.policy
        self.max_tokens, self.max_prompt_tokens = max_tokens, max_prompt_tokens
        self.min_support, self.abstention = min_support, abstention
        self.system = (system or SYSTEM).replace(ABSTENTION, abstention)
        self.sampling = Sampling(temperature, top_p, seed)
        self._reorders = reorder and self.method.reads == "prefixes"
        self._ram_bytes, self._disk_bytes, self._device_bytes = (int(gb * GIGABYTE) for gb in (ram_gb, disk_gb, device_gb))
        self._storage, self._salt, self._prepares, self._overlap, self._check = storage, salt, prepare_chunks, overlap, check
        self._folder = None if index_folder is None else Path(index_folder) / "kv"
        self._lock = threading.RLock()

    # Parts -----------------------------------------------------------------------------------------------------------------

    @cached_property
    def store(self) -> KVStore:
        """The store; opening it loads no model."""
        with self._lock:
            folder = self._folder if self._disk_bytes else None
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            store = KVStore(folder, self._ram_bytes, self._disk_bytes if folder else 0, self._device_bytes, storage=self._storage)
            weakref.finalize(self, store.close)  # at the latest when the process ends: what is still to be written is written
            return store

    @cached_property
    def engine(self) -> KVEngine:
        """The probed model over the store."""
        with self._lock:
            model = self._model
            share, method = self.recompute, self.method
            if self._check and (verdict := self.gate.verdict(method.name, share)) is not None:
                method, share = verdict.applied(method, share)
            return KVEngine(
                Decoder.of(model.network), self.store, self.lm.fingerprint, method, share, self.policy,
                model.start_ids, self._salt, self._overlap, model.lock,
            )  # fmt: skip

    @cached_property
    def gate(self) -> Gate:
        """What ``rag kv check`` found out about this model."""
        return Gate(self._folder, self.lm.fingerprint)

    @cached_property
    def writer(self) -> PromptWriter:
        """Writes the prompts."""
        return PromptWriter(self._model, self.system)

    @cached_property
    def _model(self) -> OpenModel:
        return self.lm.opened()

    # The generator ---------------------------------------------------------------------------------------------------------

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        """Computes the keys and values of the chunks, if that is wanted at ingest, as far as there is room for them.

        What does not fit would push out what was computed just before; it is computed when it is first used. Raises ``Unsupported``
        (without chunks, too) if the keys of the model cannot be reused.
        """
        if not self._prepares or self.method.reads != "chunks":
            return
        _ = self.engine
        if chunks:
            told = self.store.stats()
            room = max(told.budget_by_tier[tier] - told.bytes_by_tier[tier] for tier in told.budget_by_tier)
            room -= self._plain_bytes(len(self.writer.prefix))
            self.warm([chunk for chunk in chunks if (room := room - self._plain_bytes(len(self.writer.chunk_ids(chunk)))) >= 0])

    def keep_only(self, chunks: Iterable[Chunk]) -> int:
        """Deletes what is kept of other chunks, so that no token of a deleted document stays on the disk; how many entries went.

        A store that holds nothing is left alone, and then no model is loaded.
        """
        if (self._folder is None or not self._folder.is_dir()) and "store" not in self.__dict__:
            return 0
        if not self.store.stats().entries:
            return 0
        live = {self.writer.chunk_ids(chunk) for chunk in chunks}
        return self.store.keep_only(live | {self.writer.prefix, self.engine.planner.context(self.writer.prefix)})

    def _plain_bytes(self, num_tokens: int) -> int:
        """What an entry takes that is not coded: a head, and a slab per layer, each in whole blocks of ``ALIGNMENT`` bytes."""
        geometry = self.engine.decoder.traits.geometry
        blocks = -(-num_tokens * geometry.bytes_per_token // geometry.num_layers // ALIGNMENT)
        return (geometry.num_layers * blocks + 1 + num_tokens * 8 // ALIGNMENT) * ALIGNMENT

    def warm(self, chunks: Sequence[Chunk]) -> Warmed:
        """Computes and keeps what is missing of ``chunks``."""
        return self.engine.warm(self.writer.prefix, [self.writer.chunk_ids(chunk) for chunk in chunks])

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        """What the prompt shows, text, citations at the ends of sentences, then the usage with what the cache did.

        No hits: abstains without the model.
        """
        if not hits:
            yield StageEvent("prompt", (), 0.0)
            yield TextEvent(self.abstention)
            yield UsageEvent(Usage(), abstained=True)
            return
        written = self.writer.write(query, self._ordered(hits), self.room())
        yield StageEvent("prompt", written.shown, 0.0)
        ready = self.engine.prefill(written.prompt, room=self.max_tokens)
        for event in checked_answer(self._pieces(written, ready), written.hits, self.min_support, self.abstention):
            if isinstance(event, UsageEvent):
                event = replace(event, usage=event.usage + self._usage(ready))
            yield event
        self.engine.remember(written.prompt)

    def _ordered(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits; with ``reorder`` those first that continue a prompt whose keys are kept, best first at every step."""
        first, left = list[Hit](), list(hits)
        segments = self.writer.first()
        while self._reorders and left:
            for hit in left:
                longer = [*segments, *self.writer.source(len(first) + 1, hit)]
                if self.engine.planner.knows(longer):
                    break
            else:
                break
            segments = longer
            first.append(hit)
            left.remove(hit)
        return first + left

    def room(self) -> int:
        """Tokens that a prompt may have."""
        known = self.lm.context_tokens
        room = 6000 if known is None else known - self.max_tokens
        return room if self.max_prompt_tokens is None else min(room, self.max_prompt_tokens)

    def _pieces(self, written: Written, ready: Prefilled) -> Iterator[str | Completion]:
        model = self._model
        writer = Writer(model.tokenizer, model.end_ids, model.stops, len(written.prompt), self.max_tokens, strip=True)
        steps = decode(
            self.engine.decoder, [ready], lambda number, token: not writer.finish, [self.sampling.chooser(written.prompt.ids)]
        )
        while True:
            with model.lock:  # held per step: a slow reader of this stream blocks nobody
                tokens = next(steps, None)
            if tokens is None:
                break
            assert tokens[0] is not None
            if piece := writer.push(tokens[0]):
                yield piece
            if writer.finish:
                break
        if rest := writer.rest():
            yield rest
        yield writer.completion()

    def _usage(self, ready: Prefilled) -> Usage:
        trace = ready.trace
        cached = trace.num_exact + trace.num_reused
        saved = self.engine.worth.compute_seconds(cached - trace.num_chosen)
        spent = trace.seconds["load"] + trace.seconds["assemble"]
        return Usage(cached_tokens=cached, recomputed_tokens=trace.num_chosen, saved_seconds=max((saved or 0.0) - spent, 0.0))
