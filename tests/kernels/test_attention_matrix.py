"""Attention in matrix registers, where the processor has them: the reference, at every edge of a register; every fault planted into it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.kernels.choose import processor_way
from rag.kernels.selective_attention import selective_attention, selective_attention_reference
from rag.kernels.token_logprob import token_logprob, token_logprob_reference
from rag.kernels.varlen_attention import varlen_attention, varlen_attention_reference
from tests.kernels.cases import Attention, Varlen, limit, problem, rel, varlen_problem
from tests.kernels.planted import Planted, must_be_seen

pytestmark = pytest.mark.skipif(processor_way(torch.bfloat16, 64).name != "matrix", reason="no matrix registers here")
BF16: Any = {"dtype": torch.bfloat16}
CASES = [
    Attention("whole", heads=8, key_heads=2, key_dim=64, value_dim=64, num_keys=128, num_rows=128, positions="all", **BF16),
    Attention("odd-keys", heads=6, key_heads=3, key_dim=32, value_dim=48, num_keys=301, num_rows=77, **BF16),
    Attention("odd-values", key_dim=96, value_dim=41, num_keys=97, num_rows=31, sinks=True, **BF16),
    Attention("few-values", key_dim=32, value_dim=5, num_keys=70, num_rows=20, **BF16),
    Attention("window", heads=9, key_heads=3, key_dim=128, value_dim=128, num_keys=500, num_rows=210, window=37, **BF16),
    Attention("softcap", heads=4, key_heads=1, key_dim=256, value_dim=256, num_keys=190, num_rows=90, softcap=3.0, **BF16),
    Attention("two-keys", key_dim=64, value_dim=64, num_keys=2, num_rows=2, positions="all", **BF16),
]
FAULTS = [
    Planted(
        "attention_matrix",
        "whole(64 * v)), whole(64 * vectors))\n    factors",
        "whole(0)), whole(64 * vectors))\n    factors",
        "whole",
    ),
    Planted("attention_matrix", 'fcmp_unordered("!="', 'fcmp_unordered(">"', "odd-keys"),
    Planted("attention_matrix", "builder.select(inside, whole(key), whole(0))", "whole(key)", "nan-behind"),
    Planted("attention_tiles_cpu", "spare * vectors * LANES", "0", "odd-keys"),
    Planted("attention_tiles_cpu", "range(whole, padded)", "range(whole, whole)", "odd-values"),
    Planted("attention_tiles_cpu", "2 * skipped if in_matrix", "4 * skipped if in_matrix", "window"),
]


def _check(name: str) -> None:
    if name == "nan-behind":
        _check_nothing_behind_is_read()
        return
    (case,) = (case for case in CASES if case.name == name)
    queries, keys, values, positions, sinks = problem(case)
    more: dict[str, Any] = {"num_keys": case.num_keys, "window": case.window, "softcap": case.softcap, "sinks": sinks, "scale": 0.3}
    out, lse = selective_attention(queries, keys, values, positions, **more, return_lse=True)
    expected, expected_lse = selective_attention_reference(queries.double(), keys.double(), values.double(), positions, **more)
    assert rel(out, expected) < limit(case.dtype)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-5)


def _check_nothing_behind_is_read() -> None:
    """37 keys in a buffer of no numbers: what stands behind the last, inside the same register, must not come in."""
    queries = torch.randn(4, 40, 64).bfloat16()
    keys, values = torch.full((2, 2, 64, 64), float("nan")).bfloat16()
    keys[:, :37], values[:, :37] = torch.randn(2, 2, 37, 64)
    positions = torch.arange(40)
    out = selective_attention(queries, keys, values, positions, num_keys=37, scale=0.3)
    expected, _ = selective_attention_reference(queries.double(), keys.double(), values.double(), positions, num_keys=37, scale=0.3)
    assert rel(out, expected) < limit(torch.bfloat16)


@pytest.mark.parametrize("name", [*(case.name for case in CASES), "nan-behind"])
def test_it_is_the_reference(name: str) -> None:
    _check(name)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=4),
    dim=st.sampled_from([32, 64, 96]),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 33]),
)
def test_texts_of_any_lengths(lengths: list[int], dim: int, causal: bool, window: int | None) -> None:
    case = Varlen("any", lengths, key_dim=dim, value_dim=dim, causal=causal, window=window, dtype=torch.bfloat16)
    queries, keys, values, starts, options = varlen_problem(case)
    found = varlen_attention(queries, keys, values, starts, **options)
    expected = varlen_attention_reference(queries.double(), keys.double(), values.double(), starts, **options)
    assert rel(found, expected) < limit(torch.bfloat16)


def test_words_are_keys_without_values() -> None:
    made = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(70, 96, generator=made).bfloat16(), torch.randn(1001, 96, generator=made).bfloat16()
    targets = torch.randint(0, 1001, (70,), generator=made)
    torch.testing.assert_close(
        token_logprob(hidden, weight, targets), token_logprob_reference(hidden, weight, targets), atol=2e-3, rtol=1e-4
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.right[:30])
def test_a_planted_fault_is_seen(fault: Planted) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        must_be_seen(fault, lambda: _check(fault.case), ["attention_tiles_cpu"] if fault.module != "attention_tiles_cpu" else [])
    finally:
        torch.set_num_threads(before)
