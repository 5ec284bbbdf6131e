"""Which beginnings rows of token ids share, whether reading them once pays, what is read together. Knows ids and counts, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

NODE_TOKENS = 16
"""What reading a shared beginning by itself costs beyond its tokens, in tokens: a pass has a price however little it reads."""

COPIES_PER_TOKEN = 32
"""Tokens whose keys and values are copied in the time in which one is read. Low on purpose: far more on most machines."""

PASS_TOKENS = 128
"""What one more batch costs, in tokens of padding that would be as dear."""

MAX_LEVELS = 8
"""Beginnings inside one another: the keys and values of each level are held until the last row below is read."""

Row = list[int]


class Verdict(NamedTuple):
    """Whether a beginning is read once for all its rows, and why."""

    pays: bool
    why: str


def verdict(num_rows: int, num_shared: int, num_cached: int = 0, level: int = 1, refusal: str = "") -> Verdict:
    """Weighs the tokens that ``num_rows`` rows need not read again against the copies that each row gets of them.

    ``num_shared`` tokens come after ``num_cached`` that a beginning of ``level - 1`` levels has read already. ``refusal`` says why
    the network cannot do it at all.
    """
    if refusal:
        return Verdict(False, refusal)
    if level > MAX_LEVELS:
        return Verdict(False, f"beginnings lie inside one another {level} deep; {MAX_LEVELS} are held at most")
    saved = (num_rows - 1) * num_shared
    spent = NODE_TOKENS + (num_cached + num_rows * num_shared) // COPIES_PER_TOKEN
    return Verdict(saved > spent, f"{num_rows} rows share {num_shared} tokens: {saved} saved, {spent} spent on a pass and copies")


@dataclass(slots=True)
class Node:
    """``rows[row][begin:end]``, the same in all ``members``, read after what its parent has read. A leaf ends a row."""

    row: int
    begin: int
    end: int
    members: list[int]
    level: int
    why: str = ""
    children: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """The trees in which all rows are read. ``holder[i]``: the row that is read in place of row ``i`` (equal, or longer).

    ``num_tokens`` go through the network instead of ``num_given``, padding aside.
    """

    roots: list[Node]
    holder: list[int]
    num_given: int
    num_tokens: int = 0
    refusal: str = ""

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents first."""
        waiting = list(self.roots)
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children

    @property
    def why(self) -> str:
        """What is shared, beginning by beginning, in words."""
        reasons = [node.why for node in self.nodes() if node.children]
        why_not = self.refusal or "no common beginning is long enough to pay"
        return f"{self.num_tokens} of {self.num_given} tokens are read; " + ("; ".join(reasons) or why_not)


def plan(rows: Sequence[Row], refusal: str = "", always: bool = False) -> Plan:
    """How to read ``rows`` (none empty). ``refusal``: why nothing may be shared; ``always``: share whatever is common, for tests.

    A row that another one continues is not read by itself.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    holder = list(range(len(rows)))
    for one, following in zip(order[-2::-1], order[:0:-1], strict=True):
        if common_tokens(rows[one], rows[following]) == len(rows[one]):
            holder[one] = holder[following]
    kept = [i for i in order if holder[i] == i]
    shared = [0, *(common_tokens(rows[a], rows[b]) for a, b in pairwise(kept))]
    made = Plan([], holder, sum(map(len, rows)), refusal=refusal)
    waiting: list[tuple[int, int, Node | None]] = [(0, len(kept), None)] if kept else []
    while waiting:
        low, high, parent = waiting.pop()
        begin, level = (parent.end, parent.level + 1) if parent else (0, 1)
        siblings = parent.children if parent else made.roots
        if high - low == 1:
            siblings.append(Node(kept[low], begin, len(rows[kept[low]]), [kept[low]], level))
            continue
        end = min(shared[low + 1 : high])
        if end > begin:
            pays, why = verdict(high - low, end - begin, begin, level, refusal)
            if pays or (always and level <= MAX_LEVELS):
                parent = Node(kept[low], begin, end, kept[low:high], level, why)
                siblings.append(parent)
        cuts = [low, *(at for at in range(low + 1, high) if shared[at] == end), high]
        waiting += [(a, b, parent) for a, b in pairwise(cuts)]
    made.num_tokens = sum(node.end - node.begin for node in made.nodes())
    return made


def common_tokens(one: Row, other: Row) -> int:
    """The length of the longest common beginning, by halving: comparing slices is quick, comparing ids one by one is not."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def batches(
    lengths: Mapping[int, int],
    num_cached: int,
    batch_size: int,
    batch_tokens: int,
    fits: Callable[[Sequence[int]], bool] | None = None,
) -> list[list[int]]:
    """Rows, given by length, in the batches that cost least: padding included, and ``PASS_TOKENS`` for each batch.

    A batch has at most ``batch_size`` rows, holds at most ``batch_tokens`` tokens (``num_cached`` of each row among them), and
    ``fits``; a single row is always taken. Optimal by dynamic programming: in the best partition each batch is a run of the lengths
    in order.
    """
    order = sorted(lengths, key=lambda row: lengths[row])
    costs, begins = [0], [0]
    for end in range(1, len(order) + 1):
        width = lengths[order[end - 1]]
        best, chosen = costs[end - 1] + width + PASS_TOKENS, end - 1
        for begin in range(end - 2, max(end - batch_size, 0) - 1, -1):
            num_rows = end - begin
            if num_rows * (num_cached + width) > batch_tokens or (fits and not fits(order[begin:end])):
                break
            cost = costs[begin] + num_rows * width + PASS_TOKENS
            if cost <= best:
                best, chosen = cost, begin
        costs.append(best)
        begins.append(chosen)
    found = []
    end = len(order)
    while end:
        found.append(order[begins[end] : end])
        end = begins[end]
    return found[::-1]
