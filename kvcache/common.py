"""What several requests' arenas begin with in common, and whether it is worth reading together. Knows arenas; no prompt, no model.

Requests of one system prompt, or about the same documents in the same order, hold the same first rows. They are found by comparing the rows
themselves, bit for bit: where they come from is not asked, so nothing can be taken for common that is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from rag.kvcache.arena import Arena

LEAST_SAVED = 2048
"""Rows of a layer that must be saved a step (all requests but one would read them again): merging two states has a price of its own."""


def common_slots(arenas: Sequence[Arena]) -> int:
    """How many first slots hold the same keys and values in all layers of all ``arenas``; 0 where it does not pay.

    One read of the arenas, which is what every decoding step reads without it.
    """
    if len(arenas) < 2:
        return 0
    first = arenas[0]
    num = min(arena.num_tokens for arena in arenas)
    for arena in arenas[1:]:
        for layer in range(len(first.keys)):
            if (len(arenas) - 1) * num < LEAST_SAVED:
                return 0
            for ours, theirs in ((first.keys, arena.keys), (first.values, arena.values)):
                differ = (ours[layer, :, :num] != theirs[layer, :, :num]).any(2).any(0)
                if bool(differ.any()):
                    num = int(differ.nonzero()[0])
    return num if (len(arenas) - 1) * num >= LEAST_SAVED else 0
