"""From a plan to a filled arena and the logits of the first answer token. Knows no store and no text.

The order of work is the same for every method: load what is cached; if the rule wants to know what the question looks at, run the
question over the stale keys; choose tokens; compute them together with everything that is not cached. Rules are ``Selector``s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rag.kvcache.arena import Arena
from rag.kvcache.cached_pass import Attending, Attention, CachedPass, Going, Narrow, Rows, Watch
from rag.kvcache.evidence import Selector
from rag.kvcache.hooked import decoder_layers
from rag.kvcache.load import Loading, Tables, load
from rag.kvcache.plan import Plan
from rag.kvcache.probe import Traits, probe

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Decoder:
    """A causal LM whose keys can be reused, and what the probe found out about it."""

    network: Any
    layers: tuple[Any, ...]
    traits: Traits

    @classmethod
    def of(cls, network: Any) -> Decoder:
        """Probes a transformers causal LM. Raises ``Unsupported`` with the reason if its keys cannot be reused."""
        return cls(network, tuple(decoder_layers(network)), probe(network))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.device  # type: ignore[no-any-return]

    def ids(self, ids: Sequence[int]) -> torch.Tensor:
        """Tokens as an int64 tensor ``[T]`` on the device."""
        import torch

        return torch.tensor(ids, dtype=torch.int64, device=self.device)


@dataclass(frozen=True, slots=True)
class Trace:
    """What a prefill did. Tokens: of the prompt, exact, reused (chosen ones included), chosen among the reused, computed in all.

    ``num_chosen`` counts what was computed in every layer; ``num_row_layers`` sums over layers how many of the reused tokens were computed.
    ``seconds`` by phase: ``plan``; ``load`` and ``assemble`` run beside the others when they overlap; ``question`` is the pass that asks
    what matters; ``compute`` the layers; ``first token`` what comes after them.
    """

    num_tokens: int
    num_exact: int
    num_reused: int
    num_chosen: int
    num_computed: int
    num_row_layers: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class Prefilled:
    """A prompt ready to be continued: its arena, float32 logits ``[vocabulary]`` of the next token, the chosen slots, the trace.

    ``next_position``: what the next token is rotated to. ``computed``: slots that were computed, and with ``capture`` layer by layer
    their un-rotated keys and values. ``attention``: what attends instead of plain causal attention, in the answer too.
    """

    arena: Arena
    logits: torch.Tensor
    chosen: torch.Tensor
    trace: Trace
    next_position: int
    computed: torch.Tensor
    captured: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None
    attention: Attention | None = None


def prefill(
    decoder: Decoder,
    plan: Plan,
    selector: Selector,
    recompute: float,
    *,
    room: int = 0,
    overlap: bool = True,
    attention: Attention | None = None,
    capture: bool = False,
    watch: Watch | None = None,
    going: Going | None = None,
) -> Prefilled:
    """Computes ``plan``: a share ``recompute`` (0 to 1) of its reused tokens, as ``selector`` chooses, and all that is not cached.

    ``room``: slots to keep free for the answer. ``attention``, ``watch``, ``going``: see ``Rows``. ``capture``: see ``Prefilled``. Raises ``ValueError`` for a share outside 0 to 1 and
    ``DamagedKV`` if a cached part turns out not to be what was stored.
    """
    import torch

    if not 0 <= recompute <= 1:
        raise ValueError(f"recompute={recompute}: the share of reused tokens to compute anew must be between 0 and 1")
    with torch.inference_mode():
        return _Prefill(decoder, plan, selector, recompute, room, overlap, attention, capture, watch, going).run()


class _Prefill:
    """The state of one prefill while it runs."""

    def __init__(
        self,
        decoder: Decoder,
        plan: Plan,
        selector: Selector,
        recompute: float,
        room: int,
        overlap: bool,
        attention: Attention | None,
        capture: bool,
        watch: Watch | None,
        going: Going | None,
    ) -> None:
        import torch

        self._decoder, self._plan, self._selector, self._attention = decoder, plan, selector, attention
        self._ids = decoder.ids(plan.prompt.ids)
        slots = torch.arange(len(plan.prompt), device=decoder.device)
        self._positions = slots if plan.positions is None else decoder.ids(plan.positions)
        self._computed = decoder.ids(plan.slots("computed"))
        self._evidence = plan.evidence(decoder.device)
        self._budget = math.floor(recompute * len(self._evidence) + 0.5)
        self._arena = Arena(decoder.traits.geometry, len(plan.prompt) + room, decoder.device)
        self._arena.num_tokens = len(plan.prompt)
        self._overlap, self._watch, self._going, self._seconds = overlap, watch, going, dict[str, float]()
        self._captured: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = {} if capture else None

    def run(self) -> Prefilled:
        loading = load(self._arena, self._decoder.traits, list(self._plan.cached_parts()), self._tables(), self._overlap)
        try:
            started = time.perf_counter()
            if self._selector.wants_mass and 0 < self._budget < len(self._evidence):
                self._evidence = replace(self._evidence, mass=self._question_mass())
                self._seconds["question"] = time.perf_counter() - started
            started = time.perf_counter()
            logits, chosen = self._compute()
            self._seconds["first token"] = time.perf_counter() - self._through
            self._seconds["compute"] = self._through - started
        finally:
            loading.join()
        return self._prefilled(logits, chosen, loading)

    def _tables(self) -> Tables:
        import torch

        like, every = self._arena.keys[0], torch.arange(int(self._positions.max()) + 1, device=self._decoder.device)
        tables = [rotary.table(every, like) for rotary in self._decoder.traits.rotaries]
        return [(cos[self._positions], sin[self._positions]) for cos, sin in tables]

    def _rows(self, slots: torch.Tensor, arena: Arena) -> Rows:
        return Rows(arena, slots, self._positions[slots], attention=self._attention)

    def _pass(self, rows: Rows, ids: torch.Tensor, narrow: Mapping[int, Sequence[Narrow]] | None = None) -> torch.Tensor:
        one = CachedPass(self._decoder.network, self._decoder.layers, self._decoder.traits, [rows], narrow)
        logits = one.logits([ids])[0][-1]
        self._through = one.through_layers
        return logits

    # What the question looks at --------------------------------------------------------------------------------------------

    def _question_mass(self) -> torch.Tensor:
        """Attention from the question to each reused token, over all layers and heads, float32 ``[C]``; on stale keys."""
        import torch

        from rag.kernels.column_mass import column_mass
        from rag.kernels.window_scores import window_scores

        num_question = self._plan.num_question_tokens
        mass = torch.zeros(len(self._plan.prompt), dtype=torch.float32, device=self._decoder.device)

        def watch(attending: Attending) -> None:
            queries, slots = attending.queries[:, -num_question:], attending.rows.slots[-num_question:]
            options, num_keys = dict(attending.options), attending.num_keys
            if attending.lse is None:
                mass.add_(column_mass(queries, attending.keys, slots, num_keys=num_keys, **options))
                return
            del options["sinks"]  # the denominators have them
            lse = attending.lse[:, -num_question:]
            mass.add_(window_scores(queries, attending.keys, slots, lse, num_keys=num_keys, **options).sum(0))

        rows = self._rows(self._computed, self._arena)
        rows.watch = watch
        self._pass(rows, self._ids[rows.slots])
        return mass[self._evidence.slots]

    # The tokens themselves -------------------------------------------------------------------------------------------------

    def _compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[vocabulary]`` of the next token, and the reused slots that were computed in all layers."""
        import torch

        evidence = self._evidence.at(self._first())
        slots = torch.cat([self._still_to_compute(evidence.slots), evidence.slots]).sort().values
        self._underway = evidence
        stages = self._selector.check_layers if 0 < self._budget < len(self._evidence) else ()
        narrow = {layer: [self._narrowing(stage)] for stage, layer in enumerate(stages)}
        assert not narrow or self._captured is None, "rows that stop at a check layer have no keys in the layers behind it"
        rows = self._rows(slots, self._arena)
        rows.captured, rows.watch, rows.going = self._captured, self._watch, self._going
        logits = self._pass(rows, self._ids[slots], narrow)
        self._slots, self._num_row_layers = rows.slots, rows.num_row_layers - (len(slots) - len(evidence)) * len(self._arena.keys)
        chosen = self._underway.slots
        return logits, chosen[torch.isin(chosen, rows.slots)]

    def _still_to_compute(self, chosen: torch.Tensor) -> torch.Tensor:
        """Slots that are not cached, without those that the question's pass left as they have to be: all before the first chosen one."""
        if "question" not in self._seconds or self._captured is not None or not len(chosen):
            return self._computed
        question = len(self._plan.prompt) - self._plan.num_question_tokens
        return self._computed[self._computed >= min(int(chosen.min()), question)]

    def _first(self) -> torch.Tensor:
        import torch

        if self._budget >= len(self._evidence):
            return torch.arange(len(self._evidence), device=self._decoder.device)
        if self._budget == 0:
            return torch.arange(0, device=self._decoder.device)
        chosen = self._selector.first(self._evidence, self._budget)
        assert self._selector.check_layers or len(chosen) <= self._budget
        return chosen

    def _narrowing(self, stage: int) -> Narrow:
        from rag.kernels.deviation import kv_deviation

        def narrow(rows: Rows, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            import torch

            layer = self._selector.check_layers[stage]
            reused = torch.isin(rows.slots, self._underway.slots)
            stale = rows.slots[reused]
            arena = rows.arena
            old = (arena.keys[layer][:, stale], arena.values[layer][:, stale])
            deviation = kv_deviation(keys[:, reused], values[:, reused], *old, part=self._selector.part)
            evidence = replace(self._underway, deviation=deviation)
            self._underway = evidence.at(self._selector.narrow(evidence, self._budget, stage))
            going = ~reused | torch.isin(rows.slots, self._underway.slots)
            return going.nonzero()[:, 0]

        return narrow

    def _prefilled(self, logits: torch.Tensor, chosen: torch.Tensor, loading: Loading) -> Prefilled:
        plan = self._plan
        self._seconds |= {"load": loading.read_seconds, "assemble": loading.assemble_seconds}
        num_exact, num_reused = len(plan.slots("exact")), len(self._evidence)
        trace = Trace(
            len(plan.prompt), num_exact, num_reused, len(chosen), len(chosen) + len(self._computed), self._num_row_layers,
            self._seconds, plan.reasons,
        )  # fmt: skip
        following = int(self._positions.max()) + 1
        return Prefilled(self._arena, logits, chosen, trace, following, self._slots, self._captured, self._attention)
