"""How the next token is chosen from the logits: the likeliest one, or drawn. Knows no model and no text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.core import digest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Sampling:
    """``temperature`` 0: the likeliest token. Else one drawn from the fewest tokens that hold the probability ``top_p`` together
    (nucleus sampling, arXiv 1904.09751).

    ``seed`` and the prompt decide every draw: the same prompt gets the same text in any batch and any order, and another text for
    another seed. Raises ``ValueError`` for values out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: must be at least 0 (0: the likeliest token) and finite")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must be above 0 and at most 1")

    @property
    def fingerprint(self) -> str:
        """Names what changes a text; "" for the likeliest tokens."""
        return f"temperature {self.temperature:g} top_p {self.top_p:g} seed {self.seed}" if self.temperature else ""

    def choosers(self, prompts: Sequence[Sequence[int]]) -> Callable[[torch.Tensor], list[int]]:
        """Takes the float32 logits ``(prompts, vocabulary)`` of a step, returns a token each; ``prompts`` are token ids."""
        if not self.temperature:
            return lambda logits: logits.argmax(-1).tolist()
        own = [self.chooser(ids) for ids in prompts]
        return lambda logits: [choose(row) for choose, row in zip(own, logits.cpu(), strict=True)]

    def chooser(self, prompt: Sequence[int]) -> Callable[[torch.Tensor], int]:
        """The same for one prompt: takes float32 logits ``(vocabulary,)``, returns a token."""
        if not self.temperature:
            return lambda logits: int(logits.argmax())
        import torch

        generator = torch.Generator().manual_seed(self._seed_of(prompt))
        return lambda logits: self._drawn(logits.cpu(), generator)

    def _seed_of(self, ids: Sequence[int]) -> int:
        return int(digest("sampling", str(self.seed), " ".join(map(str, ids)))[:15], 16)

    def _drawn(self, logits: torch.Tensor, generator: torch.Generator) -> int:
        import torch

        ordered, tokens = (logits / self.temperature).softmax(-1).sort(descending=True, stable=True)
        ordered = torch.where(ordered.cumsum(-1) - ordered < self.top_p, ordered, 0.0)  # the token that crosses top_p is still in
        return int(tokens[torch.multinomial(ordered, 1, generator=generator)])
