"""What may be said after a prompt, and how likely it is: spellings of a choice, sums over tokens. Knows ids and a reader of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rag.core import Prompt
from rag.lm_shared import SharedReader, Target


def spellings(choice: str) -> list[str]:
    """The ways a model may write ``choice``: as given, lower case, capitalised, upper case; each with and without a leading blank.

    >>> spellings("yes")
    ['yes', 'Yes', 'YES', ' yes', ' Yes', ' YES']
    """
    bare = choice.strip()
    cased = dict.fromkeys([bare, bare.lower(), bare[:1].upper() + bare[1:], bare.upper()])
    return [blank + word for blank in ("", " ") for word in cased]


def logsumexp(values: Iterable[float]) -> float:
    """The log of the sum of probabilities whose logs are ``values``."""
    logs = list(values)
    largest = max(logs)
    return largest + math.log(sum(math.exp(value - largest) for value in logs)) if largest > -math.inf else largest


def check_paired(prompts: Sequence[Prompt], continuations: Sequence[str]) -> None:
    """Raises ``ValueError`` unless there is one continuation per prompt."""
    if len(prompts) != len(continuations):
        raise ValueError(f"{len(continuations)} continuations for {len(prompts)} prompts: each prompt has one")


def sums(
    reader: SharedReader, asked: Sequence[tuple[Sequence[int], Sequence[tuple[int, ...]]]]
) -> list[dict[tuple[int, ...], float]]:
    """Natural-log probability of every sequence that is asked for after the ids of a prompt, prompt by prompt."""
    rows: list[list[int]] = []
    targets: list[list[Target]] = []
    places: list[tuple[int, tuple[int, ...]]] = []
    for number, (ids, sequences) in enumerate(asked):
        by_stem: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for sequence in filter(None, sequences):
            by_stem.setdefault(sequence[:-1], []).append(sequence)
        for stem, some in by_stem.items():  # all sequences of a stem are told by one row
            rows.append([*ids, *stem])
            targets.append([Target(len(ids) - 1 + j, token) for sequence in some for j, token in enumerate(sequence)])
            places += [(number, sequence) for sequence in some]
    found = iter([value for row in reader.logprobs(rows, targets) for value in row])
    totals = [dict.fromkeys(sequences, 0.0) for _, sequences in asked]
    for number, sequence in places:
        totals[number][sequence] = sum(next(found) for _ in sequence)
    return totals
