"""What rows behind a chunk have to hold when every chunk is encoded alone, for the block-tuned twin to learn. Knows rows and ids, no loop.

Under the block mask a chunk that begins "She works as a baker." cannot know who she is; only rows that see several chunks can: the labels and the
question. So the label behind a chunk (the question behind the last) has to hold what the chunk's facts were in full attention. Left to itself a
network does not find that out (dev/LOG.md); it learns it from two kinds of lessons, both left behind when training ends:

- words: the last row of the label before such a chunk holds the name that the chunk before ended with, after ``NAME_DEPTH`` layers; two rows behind the
  chunk hold name and value, one fact each, after ``FACT_DEPTH``;
- likeness: these two rows are, after the layers ``LIKE_DEPTHS``, like the rows of the values in full attention, where the layers behind look them up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rag.eval.reader.batches import Encoder, Row
from rag.eval.reader.network import Network
from rag.eval.reader.tasks import Fact, Instance

NAME_DEPTH, FACT_DEPTH = 3, 4
LIKE_DEPTHS = (4, 5)
SLOTS = ("next name", "next family", "name", "family", "value", "value family")
_BEHIND = (2, 3)  # rows of a label, counted from its end, that hold the facts of the chunk before it


class Word(NamedTuple):
    """Row ``at`` shall hold the token ``id`` in ``slot`` after ``depth`` layers."""

    at: int
    slot: str
    depth: int
    id: int


class Likeness(NamedTuple):
    """Row ``at`` shall be like row ``of`` in full attention."""

    at: int
    of: int


def lessons(encoder: Encoder, instance: Instance, row: Row) -> tuple[list[Word], list[Likeness]]:
    """The lessons of one row, ``encoder.row(instance, ...)``."""
    starts: dict[int, int] = {}
    for at, owner in enumerate(row.owners):
        if owner > 0:
            starts.setdefault(owner, at)
    words, likenesses = list[Word](), list[Likeness]()
    for chunk, facts in _carried(instance).items():
        name = encoder.encoded(f" {facts[0].subject}")
        words += _words(starts[chunk] - 1, ("next name", "next family"), NAME_DEPTH, name)
        ends = [tuple(starts[chunk + 1] - back for back in _BEHIND)] if chunk + 1 in starts else _questions(encoder, row)
        for rows in ends:
            for at, fact in zip(rows, [facts[0], facts[-1]], strict=True):  # one fact in both, or two
                value = encoder.encoded(f" {fact.value}")
                words += _words(at, ("name", "family"), FACT_DEPTH, name) + _words(at, ("value", "value family"), FACT_DEPTH, value)
                likenesses.append(Likeness(at, _first(row.ids, value, starts[chunk])))
    return words, likenesses


class Slots(nn.Module):
    """What reads the tokens of ``SLOTS`` out of hidden states; thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in SLOTS)
        for head in self.heads:
            nn.init.eye_(head.weight)  # type: ignore[arg-type]

    def loss(self, network: Network, depths: Sequence[Tensor], words: Sequence[Sequence[Word]]) -> Tensor:
        """Cross-entropy of ``words`` (one list per row of the batch), averaged over slots; ``depths[d] [rows, tokens, width]`` after d layers."""
        by_place: dict[tuple[str, int], list[tuple[int, int, int]]] = defaultdict(list)
        for number, of_row in enumerate(words):
            for word in of_row:
                by_place[word.slot, word.depth].append((number, word.at, word.id))
        total = torch.zeros(())
        for (slot, depth), places in by_place.items():
            rows, at, ids = (torch.tensor(column) for column in zip(*places, strict=True))
            held = self.heads[SLOTS.index(slot)](network.model.norm(depths[depth][rows, at]))
            total = total + F.cross_entropy(network.logits(held).float(), ids) / len(SLOTS)
        return total


def unlikeness(depths: Sequence[Tensor], whole: Sequence[Tensor], likenesses: Sequence[Sequence[Likeness]]) -> Tensor:
    """One minus the cosine, summed over ``LIKE_DEPTHS``: ``depths`` under the block mask, ``whole`` in full attention, as ``Slots.loss`` has them."""
    places = [(number, like.at, like.of) for number, of_row in enumerate(likenesses) for like in of_row]
    if not places:
        return torch.zeros(())
    rows, at, of = (torch.tensor(column) for column in zip(*places, strict=True))
    near = [F.cosine_similarity(depths[d][rows, at].float(), whole[d][rows, of].float(), dim=-1).mean() for d in LIKE_DEPTHS]
    return len(LIKE_DEPTHS) - torch.stack(near).sum()


def _carried(instance: Instance) -> dict[int, list[Fact]]:
    """The facts told by a pronoun, by chunk (from 1)."""
    found: dict[int, list[Fact]] = defaultdict(list)
    for fact in instance.facts:
        if fact.carried:
            found[fact.chunk + 1].append(fact)
    return found


def _words(at: int, slots: tuple[str, str], depth: int, ids: Sequence[int]) -> list[Word]:
    return [Word(at, slot, depth, token) for slot, token in zip(slots, ids, strict=False)]


def _questions(encoder: Encoder, row: Row) -> list[tuple[int, ...]]:
    """The first two rows of every question block (not of sentences said again)."""
    first = encoder.encoded("Question")[0]
    begins = [at for at in range(1, len(row.ids)) if row.groups[at] > 0 and row.groups[at] != row.groups[at - 1]]
    return [(at, at + 1) for at in begins if row.ids[at] == first]


def _first(ids: Sequence[int], part: Sequence[int], start: int) -> int:
    """Where ``part`` begins for the first time in ``ids`` from ``start`` on."""
    while list(ids[start : start + len(part)]) != list(part):
        start += 1
    return start
