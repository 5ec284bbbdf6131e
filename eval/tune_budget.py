"""How much a tuning may still ask, in evaluations or in time. Knows what was spent so far; knows no configuration and no question."""

from __future__ import annotations

from rag.eval.tune_ledger import Ledger

STEP, PROBE = 0.1, 0.15
"""Of the time: what one call may take at the pace so far, and what is spent on finding the pace before the plan is made."""


class Budget:
    """Time is turned into evaluations at the pace so far. ``None`` is no limit of that kind."""

    def __init__(self, book: Ledger, evaluations: int | None, seconds: float | None) -> None:
        self._book = book
        self._evaluations = evaluations
        self._seconds = seconds

    @property
    def is_timed(self) -> bool:
        """Whether there is a limit of time."""
        return self._seconds is not None

    @property
    def is_probed(self) -> bool:
        """Whether enough time was spent to judge the rest by."""
        return self._seconds is None or self._book.seconds >= PROBE * self._seconds

    def left(self) -> float:
        """Evaluations that may still be made; infinite before there is a pace to judge the time by."""
        by_count = float("inf") if self._evaluations is None else self._evaluations - self._book.num_evaluations
        if self._seconds is None:
            return by_count
        remaining = self._seconds - self._book.seconds
        if remaining <= 0:
            return 0.0
        pace = self._book.pace()
        return min(by_count, remaining / pace if pace else float("inf"))

    def total(self) -> int | None:
        """Evaluations in all, made and to be made; ``None`` without a limit."""
        left = self.left()
        return None if left == float("inf") else self._book.num_evaluations + int(left)

    def step(self, num_configs: int) -> int | None:
        """How many more questions ``num_configs`` configurations are asked before the clock is looked at; ``None``: it is not looked at."""
        if self._seconds is None:
            return None
        pace = self._book.pace()
        return max(1, int(STEP * self._seconds / (pace * num_configs))) if pace else 1
