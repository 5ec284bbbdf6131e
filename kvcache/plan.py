"""Which parts of a prompt come out of the cache and which are computed. Knows no model; the planner decides, this holds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

from rag.kvcache.dependence import Dependence, first_tokens
from rag.kvcache.evidence import Evidence
from rag.kvcache.prompt import Prompt

if TYPE_CHECKING:
    import torch

    from rag.kernels.assemble import LayerKV

Source = Literal["exact", "reused", "computed"]


class Cached(Protocol):
    """Keys and values of some tokens, un-rotated, layer by layer."""

    @property
    def num_tokens(self) -> int: ...

    def layer(self, index: int) -> LayerKV:
        """Keys and values of one layer. Raises ``DamagedKV`` if they are not what was stored."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One segment of the prompt in slots ``[start, start + num_tokens)``.

    ``exact``: its cached keys and values are those of this very prompt (a prefix); nothing of it is computed. ``reused``: they
    were made elsewhere; a rule may have some of its tokens computed anew. ``computed``: all of it is. ``need``: how much of a reused
    one ought to be; ``dependence``: what it leaned on, behind the chunks ``now`` (``rag.kvcache.dependence``); for rules that ask.
    """

    start: int
    num_tokens: int
    source: Source
    cached: Cached | None = None
    prior: float = 0.0
    need: float | None = None
    dependence: Dependence | None = None
    now: tuple[int, ...] = ()

    @property
    def slots(self) -> range:
        """Its slots."""
        return range(self.start, self.start + self.num_tokens)


@dataclass(frozen=True)
class Plan:
    """The parts of a prompt in order. ``positions``: per slot what it is rotated to, ``None``: the slot itself.

    ``reasons``: sentences for people, why the parts are what they are.
    """

    prompt: Prompt
    parts: tuple[Part, ...]
    reasons: tuple[str, ...] = ()
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        assert sum(part.num_tokens for part in self.parts) == len(self.prompt)
        assert all((part.source == "computed") == (part.cached is None) for part in self.parts if part.num_tokens)
        assert self.parts[-1].source == "computed", "the question is always computed"
        sources = [part.source for part in self.parts if part.num_tokens]
        assert "exact" not in sources[sources.count("exact") :], "an exact part can only follow exact parts"

    def slots(self, source: Source) -> list[int]:
        """All slots whose part comes from ``source``, ascending."""
        return [slot for part in self.parts if part.source == source for slot in part.slots]

    @cached_property
    def num_question_tokens(self) -> int:
        """Tokens of the last segment."""
        return self.parts[-1].num_tokens

    def cached_parts(self) -> Iterator[tuple[Cached, int]]:
        """What is to be loaded, and the slot where it begins."""
        for part in self.parts:
            if part.cached is not None and part.num_tokens:
                yield part.cached, part.start

    def evidence(self, device: torch.device | str = "cpu") -> Evidence:
        """The reused tokens, before anything was measured."""
        import torch

        reused = [part for part in self.parts if part.source == "reused"]
        known = bool(reused) and all(part.need is not None for part in reused)

        def column(values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return Evidence(
            slots=column([slot for part in reused for slot in part.slots], torch.int64),
            chunk=column([number for number, part in enumerate(reused) for _ in part.slots], torch.int64),
            offset=column([offset for part in reused for offset in range(part.num_tokens)], torch.int64),
            prior=column([part.prior for part in reused for _ in part.slots], torch.float32),
            need=column([float(part.need or 0.0) for part in reused for _ in part.slots], torch.float32) if known else None,
            leaning=torch.cat([_leaning(part) for part in reused]).to(device) if known else None,
        )


def _leaning(part: Part) -> torch.Tensor:
    return first_tokens(part.num_tokens) if part.dependence is None else part.dependence.leaning(part.now)
