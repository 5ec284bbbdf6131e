"""How many configurations are asked how many questions: the plan of successive halving. Knows only numbers.

Successive halving (Jamieson and Talwalkar, AISTATS 2016; Li et al., Hyperband, JMLR 2018) with questions as the resource: every rung
asks the configurations that are left ``eta`` times as many questions as the rung before, and keeps about one in ``eta`` of them. One
evaluation is one question under one configuration; a question that was asked at a lower rung is not asked again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_KEPT = 2
_SHRINK = 0.93


@dataclass(frozen=True, slots=True)
class Plan:
    """``sizes``: questions per rung, growing. ``num_configs``: how many configurations begin."""

    num_configs: int
    sizes: tuple[int, ...]
    eta: int

    def num_kept(self, num_configs: int) -> int:
        """How many of ``num_configs`` go on, by the plan: one in ``eta``, but no fewer than two, so that there is something to compare."""
        return min(num_configs, max(MIN_KEPT, math.ceil(num_configs / self.eta)))

    def cost(self, num_configs: int, rung: int = 0) -> int:
        """Evaluations from ``rung`` on if ``num_configs`` begin it, when all rungs before are done."""
        total = 0
        asked = self.sizes[rung - 1] if rung else 0
        for size in self.sizes[rung:]:
            total += num_configs * (size - asked)
            asked, num_configs = size, self.num_kept(num_configs)
        return total


def plan(num_configs: int, num_questions: int, evaluations: int | None = None, *, eta: int = 3, min_questions: int = 10) -> Plan:
    """The plan that asks most within ``evaluations`` (``None``: no limit).

    Fewer questions come first, down to ``min_questions`` at the lowest rung; then fewer configurations. Raises ``ValueError`` for
    numbers that are too small, and if not even two configurations can be asked ``min_questions`` questions each.
    """
    for name, value, least in (
        ("configurations", num_configs, 1),
        ("questions", num_questions, 1),
        ("eta", eta, 2),
        ("min_questions", min_questions, 1),
    ):
        if value < least:
            raise ValueError(f"{name}: {value}; allowed: {least} or more")
    least_questions = min(min_questions, num_questions)
    number = num_configs
    while True:
        for top in _falling(num_questions, least_questions):
            made = Plan(number, _sizes(number, top, least_questions, eta), eta)
            if evaluations is None or made.cost(number) <= evaluations:
                return made
        if number <= min(MIN_KEPT, num_configs):
            needed = made.cost(number)
            raise ValueError(f"evaluations: {evaluations}; {number} configurations at {least_questions} questions need {needed}")
        number = max(min(MIN_KEPT, num_configs), int(number * _SHRINK))


def _falling(high: int, low: int) -> list[int]:
    found = [high]
    while found[-1] > low:
        found.append(max(low, int(found[-1] * _SHRINK)))
    return found


def _sizes(num_configs: int, top: int, least: int, eta: int) -> tuple[int, ...]:
    """Questions per rung, the last one ``top``: as many rungs as leave few configurations, none with fewer than ``least`` questions."""
    sizes = [top]
    left = num_configs
    while left > eta and sizes[0] // eta >= least:
        sizes.insert(0, math.ceil(sizes[0] / eta))
        left = math.ceil(left / eta)
    return tuple(dict.fromkeys(sizes))


def affordable(made: Plan, candidates: int, rung: int, evaluations: float) -> int:
    """How many of ``candidates`` configurations can begin ``rung`` and be brought to the end of the plan for ``evaluations``."""
    return max((number for number in range(candidates + 1) if made.cost(number, rung) <= evaluations), default=0)


def groups(names: Sequence[str], keys: Sequence[str]) -> list[list[str]]:
    """Names with the same key together, in the order of the first of each.

    >>> groups(["a", "b", "c"], ["x", "y", "x"])
    [['a', 'c'], ['b']]
    """
    found: dict[str, list[str]] = {}
    for name, key in zip(names, keys, strict=True):
        found.setdefault(key, []).append(name)
    return list(found.values())
