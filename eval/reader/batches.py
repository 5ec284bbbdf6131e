"""Prompts as id segments, and many questions about one context as one masked sequence. Knows ids and masks, no network.

A prompt is a concatenation of segments, each tokenised by itself: the prefix, then for every chunk its label (always computed
at request time) and its body (what a cache holds), then the question. In training many question blocks follow one context; a
block sees the context and itself, and its positions go on from the context's end, so each is exactly the prompt asked at test time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rag.eval.reader.tasks import Instance, Question
from rag.eval.reader.vocabulary import BOS, EOS

Policy = Literal["shared-prefix", "bare"]
"""What a chunk is encoded behind, in the words of the product's cache."""
PREFIX = BOS + "Answer the question from the sources.\n\n"
_SHARED, _LINK = 0, -1  # owners of rows that are no chunk's: the prefix; labels and questions
_PADDING = -1
_NUM_GIVEN = 3  # first tokens of a sentence said again that are no targets: they tell which sentence it is
_MAX_KNOWN = 4096  # texts whose ids are remembered


def label(number: int) -> str:
    """The label segment of source ``number`` (from 1)."""
    return f"[{number}]\n"


def body(text: str) -> str:
    """The chunk segment of a source: all that is cached of it."""
    return f"BEGIN SOURCE\n{text}\nEND SOURCE\n\n"


def asked(question: str) -> str:
    """The last segment of a prompt."""
    return f"Question: {question}\n\nAnswer:"


def answered(answer: str) -> str:
    """What the model is to write."""
    return f" {answer}.{EOS}"


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence before padding. ``owners`` are chunk numbers from 1, 0 the prefix, -1 the rest; ``groups`` are 0 for the
    context and the number of the question block (from 1); ``targets`` marks tokens of answers."""

    ids: list[int]
    positions: list[int]
    owners: list[int]
    groups: list[int]
    targets: list[bool]


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded sequences ``[rows, tokens]`` and the additive mask ``[rows, 1, tokens, tokens]`` (0 or minus infinity)."""

    ids: Tensor
    positions: Tensor
    groups: Tensor
    targets: Tensor
    mask: Tensor


class Encoder:
    """Segments to ids, remembering every segment it has met (labels and the prefix come again in each prompt)."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}
        self.prefix = self.encoded(PREFIX)
        self.pad: int = tokenizer.pad_token_id

    def segments(self, chunks: Sequence[str], question: str) -> tuple[list[int], list[tuple[list[int], list[int]]], list[int]]:
        """Ids of the prefix, of every (label, body), and of the question."""
        return (
            self.prefix,
            [(self.encoded(label(n)), self.encoded(body(text))) for n, text in enumerate(chunks, 1)],
            self.encoded(asked(question)),
        )

    def row(self, instance: Instance, questions: Sequence[Question], recalled: Sequence[str] = ()) -> Row:
        """The context of ``instance`` and one block for each of ``questions`` with its answer, then one for each sentence said again."""
        prefix, sources, _ = self.segments(instance.chunks, "")
        ids, owners = list(prefix), [_SHARED] * len(prefix)
        for number, (mark, chunk) in enumerate(sources, 1):
            ids += mark + chunk
            owners += [_LINK] * len(mark) + [number] * len(chunk)
        context = len(ids)
        positions, groups, targets = list(range(context)), [0] * context, [False] * context
        for group, question in enumerate(questions, 1):
            ask, answer = self.encoded(asked(question.text)), self.encoded(answered(question.answer))
            block = ask + answer
            ids += block
            positions += range(context, context + len(block))
            owners += [_LINK] * len(block)
            groups += [group] * len(block)
            targets += [False] * len(ask) + [True] * len(answer)
        for group, sentence in enumerate(recalled, 1 + len(questions)):
            block = self.encoded(sentence)
            ids += block
            positions += range(context, context + len(block))
            owners += [_LINK] * len(block)
            groups += [group] * len(block)
            targets += [number >= _NUM_GIVEN for number in range(len(block))]
        return Row(ids, positions, owners, groups, targets)

    def block_length(self, question: Question) -> int:
        """Tokens of a question block with its answer."""
        return len(self.encoded(asked(question.text))) + len(self.encoded(answered(question.answer)))

    def batch(
        self, rows: Sequence[Row], blocked: Sequence[bool], length: int | None = None, policy: Policy = "shared-prefix"
    ) -> Batch:
        """``rows`` padded to ``length`` (the longest); ``blocked[i]``: row i's chunks see the prefix and themselves only, or, ``bare``, themselves."""
        length = length or max(len(row.ids) for row in rows)
        if length < max(len(row.ids) for row in rows):
            raise ValueError(f"a row of {max(len(row.ids) for row in rows)} tokens does not fit into {length}")

        def padded(values: Sequence[Sequence[int]], fill: int) -> Tensor:
            return torch.tensor([[*value, *[fill] * (length - len(value))] for value in values])

        groups = padded([row.groups for row in rows], _PADDING)
        owners = padded([row.owners for row in rows], _LINK)
        sees = visible(groups, owners, torch.tensor(list(blocked)), policy)
        return Batch(
            padded([row.ids for row in rows], self.pad),
            padded([row.positions for row in rows], 0),
            groups,
            padded([[int(target) for target in row.targets] for row in rows], 0).bool(),
            torch.zeros(sees.shape).masked_fill_(~sees, float("-inf"))[:, None],
        )

    def encoded(self, text: str) -> list[int]:
        """Ids of one segment; callers do not change them."""
        if text not in self.known:
            if len(self.known) >= _MAX_KNOWN:
                self.known.clear()
            self.known[text] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return self.known[text]


def visible(groups: Tensor, owners: Tensor, blocked: Tensor, policy: Policy) -> Tensor:
    """Which token sees which, ``[rows, tokens, tokens]``: earlier ones of the context and of its own block; see ``Encoder.batch``."""
    length = groups.shape[1]
    order = torch.arange(length)
    earlier = order[:, None] >= order
    block = (groups[:, None, :] == 0) | (groups[:, None, :] == groups[:, :, None])
    free = owners[:, :, None] <= 0
    inside = owners[:, None, :] == owners[:, :, None]
    if policy == "shared-prefix":
        inside = inside | (owners[:, None, :] == _SHARED)
    return earlier & block & (free | inside | ~blocked[:, None, None]) | torch.eye(length, dtype=torch.bool)
