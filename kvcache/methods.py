"""The words for ways of reusing cached keys and values, and what each is made of. Knows no model and no store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from rag.kvcache.blend import Blend
from rag.kvcache.cache_craft import CacheCraft
from rag.kvcache.combined import Combined
from rag.kvcache.evidence import Selector
from rag.kvcache.first_k import FirstK, Lot
from rag.kvcache.query_driven import QueryDriven

Reads = Literal["nothing", "prefixes", "chunks"]
Policy = Literal["shared-prefix", "bare", "bos-dropped"]


@dataclass(frozen=True, slots=True)
class Method:
    """``reads``: what it takes from the cache. ``recompute``: its share of reused tokens, if it is not the user's to choose.

    ``exact``: the answer is that of the full prefill. ``parallel``: chunks lie side by side (APE). ``variants``: a chunk is kept as it was
    computed behind others, too, and the kept one that fits best is taken (Cache-Craft); ``focused``: of these, only what the question looks at
    is computed in all layers. ``policy``: what chunks are encoded behind, unless the user says otherwise. ``about``: one line for people.
    """

    name: str
    about: str
    reads: Reads
    selector: Callable[[], Selector]
    recompute: float | None = None
    exact: bool = False
    parallel: bool = False
    variants: bool = False
    focused: bool = False
    policy: Policy = "shared-prefix"


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("full", "computes everything", "nothing", Lot, 1.0, exact=True),
        Method(
            "prefix",
            "reuses what begins the prompt exactly as before (RAGCache, arXiv 2404.12457)",
            "prefixes",
            Lot,
            1.0,
            exact=True,
        ),
        Method("reuse", "takes every chunk as it was encoded alone (PromptCache, arXiv 2311.04934)", "chunks", Lot, 0.0),
        Method(
            "block",
            "takes every chunk as it was encoded alone, behind nothing: for models tuned to it (Block-Attention, arXiv 2409.15355)",
            "chunks",
            Lot,
            0.0,
            policy="bare",
        ),
        Method("ape", "chunks side by side, with a temperature (APE, arXiv 2502.05431)", "chunks", Lot, 0.0, parallel=True),
        Method("lot", "computes tokens drawn by lot: the control", "chunks", Lot),
        Method("first-k", "computes the first tokens of chunks (EPIC, arXiv 2410.15332)", "chunks", FirstK),
        Method("blend", "computes the tokens that deviate most (CacheBlend, arXiv 2405.16444)", "chunks", Blend),
        Method(
            "cache-craft",
            "computes what leaned on chunks that are not there now, and keeps the result (Cache-Craft, arXiv 2502.15734)",
            "chunks",
            CacheCraft,
            variants=True,
        ),
        Method(
            "focused",
            "the same, and stops at the layer where it is clear which chunks the question looks at for all others",
            "chunks",
            CacheCraft,
            variants=True,
            focused=True,
        ),
        Method("query", "computes the tokens that the question looks at (ProphetKV, arXiv 2602.02579)", "chunks", QueryDriven),
        Method(
            "combined",
            "computes the first tokens of chunks, most where retrieval scores are high and just behind",
            "chunks",
            Combined,
        ),
    )
}
"""Word -> method, from the most work to the most thought."""


def method(word: str) -> Method:
    """The method that ``word`` names. Raises ``ValueError`` with the allowed words."""
    if word not in METHODS:
        raise ValueError(f"method={word!r}: allowed are {', '.join(METHODS)}")
    return METHODS[word]
