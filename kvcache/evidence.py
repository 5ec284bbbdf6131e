"""What may decide which cached tokens are computed anew, and the protocol of the rules that decide. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch

Part = Literal["k", "v", "kv"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The reused tokens of one prompt, in prompt order, and what is known of each; every tensor is ``[C]`` on one device.

    ``slots``: where they stand in the prompt; ``chunk``: which reused chunk (0, 1, ...) they belong to; ``offset``: their place
    in it. ``prior``: retrieval score of their chunk. ``mass``: attention that the question's rows paid to them over all
    layers and heads, on stale keys. ``deviation``: squared distance of their fresh keys and values from the stale ones at the
    check layer. ``need``: of their chunk, and ``leaning``: how wrong they are behind the chunks before them (see
    ``rag.kvcache.dependence``). A measure that was not asked for, or is not known of any chunk, is ``None``.
    """

    slots: torch.Tensor
    chunk: torch.Tensor
    offset: torch.Tensor
    prior: torch.Tensor
    mass: torch.Tensor | None = None
    deviation: torch.Tensor | None = None
    need: torch.Tensor | None = None
    leaning: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self.slots.shape[0])

    def at(self, kept: torch.Tensor) -> Evidence:
        """The same for the tokens with these indices."""

        def known(column: torch.Tensor | None) -> torch.Tensor | None:
            return None if column is None else column[kept]

        measured = [known(column) for column in (self.mass, self.deviation, self.need, self.leaning)]
        return Evidence(self.slots[kept], self.chunk[kept], self.offset[kept], self.prior[kept], *measured)


class Selector(Protocol):
    """A rule that chooses which reused tokens are computed anew.

    ``wants_mass``: the question is run over the stale keys first. ``check_layers``: layers (ascending, from 1) at whose beginning
    deviation is measured and ``narrow`` is asked; all tokens that ``first`` chose are computed up to the first of them.
    """

    @property
    def wants_mass(self) -> bool: ...

    @property
    def check_layers(self) -> tuple[int, ...]: ...

    @property
    def part(self) -> Part:
        """What deviation is measured on: keys ``k``, values ``v`` or both ``kv``."""
        ...

    def first(self, evidence: Evidence, budget: int) -> torch.Tensor:
        """Indices into ``evidence`` of the tokens that start; at most ``budget`` of them if there are no check layers."""
        ...

    def narrow(self, evidence: Evidence, budget: int, stage: int) -> torch.Tensor:
        """Indices into ``evidence`` (the tokens still under way, with deviation) of those that pass check layer ``stage``.

        At most ``budget`` at the last stage. ``budget`` counts tokens.
        """
        ...


class Unchecked:
    """What a rule that measures no deviation has to say about it."""

    check_layers: tuple[int, ...] = ()
    part: Part = "kv"

    def narrow(self, evidence: Evidence, budget: int, stage: int) -> torch.Tensor:
        """Never asked: there is no check layer."""
        raise AssertionError(f"{type(self).__name__} has no check layers")


def top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` largest scores, ascending; of equal scores the earlier tokens, so a larger count holds a smaller one."""
    import torch

    if count <= 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    order = torch.sort(scores, descending=True, stable=True).indices[:count]
    return order.sort().values
