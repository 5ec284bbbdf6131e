"""Attention in the tiles that a processor gets whose registers hold eight numbers; prints which way it goes. Run by ``test_attention_tiles``."""

from __future__ import annotations

import torch

from rag.kernels import choose, varlen_attention_cpu
from rag.kernels.attention_vectors import MOST_VECTORS, TILE_KEYS
from rag.kernels.selective_attention import selective_attention, selective_attention_reference
from rag.kernels.token_logprob import token_logprob, token_logprob_reference
from rag.kernels.varlen_attention import varlen_attention, varlen_attention_reference
from tests.kernels.cases import ATTENTION, VARLEN, limit, problem, rel, varlen_problem


def main() -> None:
    """Raises ``RuntimeError`` for what is not the reference."""
    varlen_attention_cpu.LONG_TOKENS = 20
    choose.multiplies_bfloat16_tiles = lambda: False  # type: ignore[assignment]
    if (MOST_VECTORS, TILE_KEYS) != (2, 2):
        raise RuntimeError(f"tiles of {MOST_VECTORS} vectors by {TILE_KEYS} keys")
    for case in ATTENTION:
        queries, keys, values, positions, sinks = problem(case)
        more = {"num_keys": case.num_keys, "window": case.window, "softcap": case.softcap, "sinks": sinks, "scale": 0.3}
        out = selective_attention(queries, keys, values, positions, **more)  # type: ignore[call-overload]
        expected, _ = selective_attention_reference(queries.double(), keys.double(), values.double(), positions, **more)  # type: ignore[arg-type]
        if not rel(out, expected) < limit(case.dtype):
            raise RuntimeError(f"{case.name}: {rel(out, expected)}")
    for texts in VARLEN:
        queries, keys, values, starts, options = varlen_problem(texts)
        found = varlen_attention(queries, keys, values, starts, **options)
        expected = varlen_attention_reference(queries.double(), keys.double(), values.double(), starts, **options)
        if not rel(found, expected) < limit(texts.dtype):
            raise RuntimeError(f"{texts.name}: {rel(found, expected)}")
    hidden, weight, targets = torch.randn(9, 40), torch.randn(90, 40), torch.arange(9)
    torch.testing.assert_close(token_logprob(hidden, weight, targets), token_logprob_reference(hidden, weight, targets))
    print(*(choose.processor_way(dtype, 64).why for dtype in (torch.float32, torch.bfloat16)), sep="\n")


if __name__ == "__main__":
    main()
