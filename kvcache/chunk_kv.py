"""Keys and values of one chunk as a model computed them. Knows neither the model nor how they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class ChunkKV:
    """``keys [L, Hkv, T, Dk]`` before rotation, ``values [L, Hkv, T, Dv]``, and the ``T`` token ids they belong to.

    ``statistics``: further tensors about the chunk under short names (mean key, norms of values ...), kept as they are.
    Raises ``ValueError`` for shapes, types or counts that do not fit together.
    """

    ids: tuple[int, ...]
    keys: Tensor
    values: Tensor
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys, values = tuple(self.keys.shape), tuple(self.values.shape)
        if len(keys) != 4 or keys[:3] != values[:3] or len(values) != 4:
            raise ValueError(f"keys are {keys} and values {values}: both must be [layers, heads, tokens, dimensions]")
        if not self.ids or 0 in keys or 0 in values:
            raise ValueError(f"keys are {keys} and values {values} for {len(self.ids)} ids: a chunk needs some of everything")
        if len(self.ids) != keys[2]:
            raise ValueError(f"{len(self.ids)} ids, but keys of {keys[2]} tokens")
        if self.keys.dtype != self.values.dtype or self.dtype not in DTYPES:
            raise ValueError(f"keys are {self.keys.dtype} and values {self.values.dtype}: both must be one of {', '.join(DTYPES)}")

    @property
    def num_tokens(self) -> int:
        """``T``."""
        return len(self.ids)

    @property
    def dtype(self) -> str:
        """Name of the torch type of keys and values."""
        return str(self.keys.dtype).removeprefix("torch.")
