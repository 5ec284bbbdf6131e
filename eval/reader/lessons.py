"""What rows behind a chunk have to hold when every chunk is encoded alone, for the block-tuned twin to learn. Knows rows and ids, no loop.

Under the block mask a chunk that begins "She works as a baker." cannot know who she is; only rows that see several chunks can: the labels and the
question. So the label behind a chunk (the question behind the last) has to hold what the chunk's facts were in full attention. Left to itself a
network does not find that out (dev/LOG.md); it learns it from two kinds of lessons, both left behind when training ends:

- words: the last row of the label before such a chunk holds the name that the chunk before ended with, after ``NAME_DEPTH`` layers; two rows behind the
  chunk hold name and value, one fact each, after ``FACT_DEPTH``;
- likeness: rows behind the chunk are, after the layers ``LIKE_DEPTHS``, like those rows of the chunk that the answer was read from in full attention, one row for
  each token of the value. Which these are is looked up, not assumed: the first name of a person is read from the sentence after it, anything else where it stands.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rag.eval.reader.batches import Batch, Encoder, Row
from rag.eval.reader.network import Layer, Network, rotation
from rag.eval.reader.tasks import Fact, Instance

NAME_DEPTH, FACT_DEPTH = 3, 4
LIKE_DEPTHS = (4, 5)
SLOTS = ("next name", "next family", "name", "family", "value", "value family")
_BEHIND = ((2, 4), (3, 1))  # by fact: the rows, counted from the label's end, for the first token of its value and for the second
_ASKING = ((0, 2), (1, 3))  # the same behind the last chunk, counted from the question's beginning
MAX_TELLINGS = 8  # facts of an instance that are asked in full attention, to see where their answers are read
_ENDING = 2  # tokens of an answer behind the value: full stop and end mark


class Word(NamedTuple):
    """Row ``at`` shall hold the token ``id`` in ``slot`` after ``depth`` layers."""

    at: int
    slot: str
    depth: int
    id: int


class Telling(NamedTuple):
    """In full attention row ``by`` says the token ``id``, read from one of the rows ``among`` (first, last + 1); the rows ``at`` shall be like that one."""

    by: int
    id: int
    among: tuple[int, int]
    at: tuple[int, ...]


class Likeness(NamedTuple):
    """Row ``at`` shall be like row ``of`` in full attention."""

    at: int
    of: int


def lessons(encoder: Encoder, instance: Instance, row: Row) -> list[Word]:
    """The words that rows of ``row``, ``encoder.row(instance, ...)``, are to hold."""
    starts, words = _starts(row), list[Word]()
    for chunk, facts in _carried(instance).items():
        name = encoder.encoded(f" {facts[0].subject}")
        words += _words(starts[chunk] - 1, ("next name", "next family"), NAME_DEPTH, name)
        for fact, (at, _) in zip((facts[0], facts[-1]), _behind(row, starts, chunk), strict=True):  # one fact in both, or two
            value = encoder.encoded(f" {fact.value}")
            words += _words(at, ("name", "family"), FACT_DEPTH, name) + _words(at, ("value", "value family"), FACT_DEPTH, value)
    return words


def tellings(encoder: Encoder, instance: Instance, row: Row, seed: int) -> tuple[Row, list[Telling]]:
    """The context asked for (at most ``MAX_TELLINGS``, drawn by ``seed``) facts told by a pronoun, and which rows of it rows of ``row`` shall be like."""
    carried = [fact for fact in instance.facts if fact.carried]
    asking = [question for question in instance.questions if question.kind == "cross-chunk"]  # in the order of the facts
    drawn = random.Random(seed).sample(list(zip(carried, asking, strict=True)), min(MAX_TELLINGS, len(carried)))
    told = encoder.row(instance, [question for _, question in drawn])
    starts, by_chunk, found = _starts(row), _carried(instance), list[Telling]()
    for group, (fact, _) in enumerate(drawn, 1):
        chunk, value = fact.chunk + 1, encoder.encoded(f" {fact.value}")
        said = len(told.groups) - told.groups[::-1].index(group) - _ENDING - len(value)  # where the answer says the value
        stands, end = _first(told.ids, value, starts[chunk]), starts[chunk] + told.owners.count(chunk)
        slots = [slot for slot, each in enumerate((by_chunk[chunk][0], by_chunk[chunk][-1])) if each == fact]
        behind = _behind(row, starts, chunk)
        for number, token in enumerate(value):
            at = tuple(behind[slot][number] for slot in slots)
            found.append(Telling(said + number - 1, token, (stands + number, end), at))
    return told, found


def likenesses(network: Network, whole: Sequence[Tensor], batch: Batch, told: Sequence[Sequence[Telling]]) -> list[list[Likeness]]:
    """Where every token of ``told`` was read: the row of most attention, over the layers behind ``LIKE_DEPTHS`` and their heads.

    ``whole[d] [rows, tokens, width]``: states of ``batch`` after d layers in full attention. A token that is not said as it should be teaches nothing.
    """
    found: list[list[Likeness]] = [[] for _ in told]
    flat = [(number, telling) for number, of_row in enumerate(told) for telling in of_row]
    if not flat:
        return found
    rows, by = torch.tensor([number for number, _ in flat]), torch.tensor([telling.by for _, telling in flat])
    cos, sin = rotation(batch.positions, network.shape.head_dim, network.shape.rope_theta)
    looks = torch.zeros(len(flat), batch.ids.shape[1])
    for depth in LIKE_DEPTHS:
        layer = network.model.layers[depth]
        assert isinstance(layer, Layer)
        looks += layer.looks(whole[depth], cos, sin, batch.mask, rows, by).sum(1)
    said = network.logits(network.model.norm(whole[-1][rows, by])).argmax(-1)
    for (number, telling), look, token in zip(flat, looks, said, strict=True):
        if int(token) == telling.id:
            first, end = telling.among
            of = first + int(look[first:end].argmax())
            found[number] += [Likeness(at, of) for at in telling.at]
    return found


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


def unlikeness(depths: Sequence[Tensor], whole: Sequence[Tensor], like: Sequence[Sequence[Likeness]]) -> Tensor:
    """One minus the cosine, summed over ``LIKE_DEPTHS``: ``depths`` under the block mask, ``whole`` in full attention, as ``Slots.loss`` has them."""
    places = [(number, each.at, each.of) for number, of_row in enumerate(like) for each in of_row]
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


def _starts(row: Row) -> dict[int, int]:
    """The first row of every chunk."""
    starts: dict[int, int] = {}
    for at, owner in enumerate(row.owners):
        if owner > 0:
            starts.setdefault(owner, at)
    return starts


def _behind(row: Row, starts: Mapping[int, int], chunk: int) -> list[tuple[int, int]]:
    """By fact (two of a chunk): rows behind ``chunk`` for the tokens of its value, in the label or in the first question (one is enough: two of its rows are those of all)."""
    if chunk + 1 in starts:
        return [(starts[chunk + 1] - one, starts[chunk + 1] - two) for one, two in _BEHIND]
    at = row.groups.count(0)
    return [(at + one, at + two) for one, two in _ASKING]


def _first(ids: Sequence[int], part: Sequence[int], start: int) -> int:
    """Where ``part`` begins for the first time in ``ids`` from ``start`` on."""
    while list(ids[start : start + len(part)]) != list(part):
        start += 1
    return start
