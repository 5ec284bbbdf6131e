"""How a model rotates its keys: found out by trying, kept as plain tables of cosines. Knows no cache and no method.

Sources: RoFormer (Su et al. 2021), arXiv 2104.09864, for the rotation; the pairings, the share of rotated dimensions, the
frequencies and the scaling of cosines differ between models, so none of them is assumed: what the model does to a key is
compared with each known rotation, and a model that does none of them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Style = Literal["none", "half", "interleaved"]
Slice = Literal["first half", "every second", "whole"]


@dataclass(frozen=True, slots=True)
class Rotary:
    """The rotation of some layers of one model.

    ``module`` makes the cosines and sines when it is called with positions (and ``extra`` keywords, such as a layer type);
    ``taken`` says which of its columns hold one value per rotated pair; ``style`` says which dimensions form a pair.
    """

    module: Any
    extra: tuple[tuple[str, Any], ...]
    style: Style
    taken: Slice

    def table(self, positions: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, float32 ``[T, R/2]``, of ``positions [T]``, as the model computes them for states like ``like``.

        Models whose frequencies depend on the length (dynamic NTK, LongRoPE) take it from the largest position of the call:
        ask for all positions of a prompt at once.
        """
        import torch

        with torch.inference_mode():
            cos, sin = self.module(like, position_ids=positions[None], **dict(self.extra))
        return taken(cos, self.taken), taken(sin, self.taken)


def taken(table: torch.Tensor, part: Slice) -> torch.Tensor:
    """One float32 column per pair of a model's own table ``[1, T, R]``."""
    rows = table[0].float()
    width = rows.shape[-1]
    match part:
        case "first half":
            return rows[:, : width // 2].contiguous()
        case "every second":
            return rows[:, ::2].contiguous()
        case "whole":
            return rows.contiguous()


CANDIDATES: tuple[tuple[Style, Slice], ...] = (
    ("half", "first half"),
    ("interleaved", "first half"),
    ("interleaved", "every second"),
    ("half", "whole"),
    ("interleaved", "whole"),
)


def recognised(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, tolerance: float
) -> tuple[Style, Slice] | None:
    """The rotation that turns every tensor of ``before`` (``[H, T, D]``) into its twin of ``after``; ``None`` if there is none.

    ``cos``, ``sin``: the model's own tables ``[1, T, R]``. ``tolerance``: largest difference, as a share of the largest entry.
    """
    from rag.kernels.rotate import rotate

    if all(_near(before[name], after[name], tolerance) for name in before):
        return "none", "whole"
    for style, part in CANDIDATES:
        table_cos, table_sin = taken(cos, part), taken(sin, part)
        if 2 * table_cos.shape[-1] > next(iter(before.values())).shape[-1]:
            continue
        if all(_near(rotate(before[name], table_cos, table_sin, style), after[name], tolerance) for name in before):
            return style, part
    return None


def _near(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    scale = max(float(other.float().abs().max()), 1e-9)
    return bool((one.float() - other.float()).abs().max() <= tolerance * scale)
