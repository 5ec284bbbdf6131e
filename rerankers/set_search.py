"""Searches ordered sets under a budget, greedily or as a tree. Knows numbers, costs and a reward; knows no hit and no model.

The tree search is that of CORAG (arXiv 2411.00744): a node is an ordered set, a child has one member more, and the next node to
grow is found from the root by the greatest

``mean reward below the child + explore * sqrt(ln N / n) - cost_weight * cost / budget``

(``N``, ``n``: rewards seen below the parent and below the child). Here the mean and the cost are first divided by the range of the
rewards seen so far, so that ``explore`` means the same for probabilities and for logits. Nothing is drawn by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rag.rerankers.rewards import HitSet, SetScore


@dataclass(slots=True)
class _Node:
    chosen: HitSet
    cost: int
    parent: _Node | None
    untried: list[int]
    children: list[_Node] = field(default_factory=list)
    total: float = 0.0
    num_seen: int = 0

    def is_closed(self) -> bool:
        """Whether nothing below it is left to try."""
        return not self.untried and all(child.is_closed() for child in self.children)


class SetSearch:
    """Rewards that were paid for, each once, and the best set among them.

    ``value`` of a set: ``reward - cost_weight * cost / budget``. At most ``max_rewards`` sets are ever scored, ``batch_size`` at a
    time; no set costs more than ``budget``.
    """

    def __init__(
        self,
        score: SetScore,
        costs: Sequence[int],
        budget: int,
        *,
        cost_weight: float = 0.0,
        explore: float = 1.41,
        max_rewards: int = 200,
        batch_size: int = 8,
    ) -> None:
        self._score, self._costs, self._budget = score, costs, budget
        self._cost_weight, self._explore = cost_weight, explore
        self._left, self._batch_size = max_rewards, batch_size
        self.rewards: dict[HitSet, float] = {}

    def value(self, chosen: HitSet) -> float:
        """Of a set whose reward is known."""
        return self.rewards[chosen] - self._cost_weight * self._cost(chosen) / self._budget

    def best(self) -> HitSet:
        """The set of the greatest value; among equal ones the cheapest, then the one that was found first. Empty if none fits."""
        return max(self.rewards, key=lambda chosen: (self.value(chosen), -self._cost(chosen)), default=())

    def greedy(self) -> HitSet:
        """Adds what makes the greatest value, until nothing raises it, nothing fits, or the rewards are used up."""
        chosen: HitSet = ()
        while options := self._pay([(*chosen, number) for number in self._fitting(chosen)]):
            best = max(options, key=self.value)
            if chosen and self.value(best) <= self.value(chosen):
                break
            chosen = best
        return chosen

    def tree(self) -> HitSet:
        """Goes on after ``greedy``, whose rewards it knows, as long as there are rewards left; never ends with a lesser value."""
        self.greedy()
        root = _Node((), 0, None, self._fitting(()))
        while self._left and not root.is_closed():
            node = root
            while not node.untried:
                node = max((child for child in node.children if not child.is_closed()), key=self._bound)
            self._grow(node)
        return self.best()

    def _grow(self, node: _Node) -> None:
        """Gives the node its next children and tells all above it what they are worth."""
        tried, node.untried = node.untried[: self._batch_size], node.untried[self._batch_size :]
        for chosen in self._pay([(*node.chosen, number) for number in tried]):
            child = _Node(chosen, self._cost(chosen), node, self._fitting(chosen))
            node.children.append(child)
            above: _Node | None = child
            while above is not None:
                above.total += self.rewards[chosen]
                above.num_seen += 1
                above = above.parent

    def _bound(self, child: _Node) -> float:
        low, high = min(self.rewards.values()), max(self.rewards.values())
        range_ = (high - low) or 1.0
        cost = self._cost_weight * child.cost / self._budget
        assert child.parent is not None
        curiosity = self._explore * math.sqrt(math.log(child.parent.num_seen) / child.num_seen)
        return (child.total / child.num_seen - low - cost) / range_ + curiosity

    def _pay(self, sets: Sequence[HitSet]) -> list[HitSet]:
        """Scores those that are new, as far as rewards are left; returns those whose reward is known then, in order."""
        fresh = [chosen for chosen in sets if chosen not in self.rewards][: self._left]
        for start in range(0, len(fresh), self._batch_size):
            some = fresh[start : start + self._batch_size]
            self.rewards.update(zip(some, self._score(some), strict=True))
        self._left -= len(fresh)
        return [chosen for chosen in sets if chosen in self.rewards]

    def _cost(self, chosen: HitSet) -> int:
        return sum(self._costs[number] for number in chosen)

    def _fitting(self, chosen: HitSet) -> list[int]:
        room = self._budget - self._cost(chosen)
        return [number for number, cost in enumerate(self._costs) if cost <= room and number not in chosen]
