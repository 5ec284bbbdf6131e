"""Which chunks the question turns out to look at, layer by layer, so that others need not be mended to the end. Knows attention, no store.

Source: the focused chunks of Cache-Craft, arXiv 2502.15734. The attention from the question to each chunk is added up over the layers; once
the chunks that lead have led in the same order for some layers, tokens of all others are no longer computed: in the layers behind, their
cached keys and values stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.kvcache.cached_pass import Attending, Rows
from rag.kvcache.plan import Plan
from rag.kvcache.variants import Leaning

if TYPE_CHECKING:
    import torch


class Focus:
    """Watches a pass through ``leaning`` and says which of its rows go on.

    ``share``: of the chunks, how many are focused on (at least one). ``patience``: over how many layers in a row the leading chunks have to
    be the same, in the same order. Raises ``ValueError`` for a share outside 0 to 1 or a patience below 1.
    """

    def __init__(self, leaning: Leaning, plan: Plan, share: float = 0.5, patience: int = 2) -> None:
        if not 0 < share <= 1 or patience < 1:
            raise ValueError(f"share={share}, patience={patience}: share must be above 0 and at most 1, patience at least 1")
        self.leaning, self._plan, self._patience = leaning, plan, patience
        self._num_focused = max(1, round(share * len(leaning.parts)))
        self._leading: tuple[int, ...] = ()
        self._num_layers_led = 0
        self.num_layers, self.num_stopped = 0, 0

    def __call__(self, attending: Attending) -> None:
        """One layer more: who leads now?"""
        self.leaning(attending)
        if self.settled or not self.leaning.parts:
            return
        self.num_layers += 1
        asked = self.leaning.total[-self._plan.num_question_tokens :].sum(0)
        leading = tuple(asked.sort(descending=True, stable=True).indices[: self._num_focused].tolist())
        self._num_layers_led = self._num_layers_led + 1 if leading == self._leading else 1
        self._leading = leading

    @property
    def settled(self) -> bool:
        """Whether it is known which chunks are focused on."""
        return self._num_layers_led >= self._patience

    def going(self, rows: Rows) -> torch.Tensor | None:
        """Indices of the rows that go on, ``None``: all of them. Only tokens of reused chunks stop, and all of them at one layer."""
        import torch

        if not self.settled or self.num_stopped:
            return None
        parts = [self._plan.parts[number] for column, number in enumerate(self.leaning.parts) if column not in self._leading]
        slots = [slot for part in parts if part.source == "reused" for slot in part.slots]
        stops = torch.isin(rows.slots, torch.tensor(slots, dtype=torch.int64, device=rows.slots.device))
        self.num_stopped = int(stops.sum())
        return (~stops).nonzero()[:, 0] if self.num_stopped else None
