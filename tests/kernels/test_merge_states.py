from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rag.kernels.merge_states import merge_states, merge_states_reference
from tests.kernels.cases import limit, rel, states

NOTHING = float("-inf")


@settings(max_examples=40, deadline=None)
@given(num_parts=st.integers(1, 5), tokens=st.integers(0, 9), heads=st.integers(1, 5), dim=st.sampled_from([1, 24, 64]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_parts(num_parts: int, tokens: int, heads: int, dim: int, dtype: torch.dtype) -> None:
    outs, lses = states(num_parts, tokens, heads, dim, dtype)
    merged, total = merge_states(list(outs), list(lses))
    expected, expected_total = merge_states_reference(outs.double(), lses)
    assert merged.dtype == dtype and (merged.shape, total.shape) == ((tokens, heads, dim), (heads, tokens))
    assert rel(merged, expected) < limit(dtype)
    torch.testing.assert_close(total, expected_total, atol=1e-6, rtol=1e-6)
    stacked = merge_states(outs, lses)
    assert torch.equal(stacked[0], merged) and torch.equal(stacked[1], total)


def test_many_rows_on_many_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        outs, lses = states(3, 301, 4, 64, torch.float32)
        assert rel(merge_states(outs, lses)[0], merge_states_reference(outs, lses)[0]) < 2e-6
    finally:
        torch.set_num_threads(before)


def test_by_hand() -> None:
    outs = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 4.0]]]])
    merged, total = merge_states(outs, torch.tensor([[[0.0]], [[3.0]]]).log())  # the first part saw a denominator of zero: nothing
    assert merged.tolist() == [[[0.0, 4.0]]] and float(total) == pytest.approx(1.0986123)
    merged, total = merge_states(outs, torch.tensor([[[1.0]], [[3.0]]]).log())
    torch.testing.assert_close(merged, torch.tensor([[[0.25, 3.0]]]))
    assert float(total) == pytest.approx(1.3862944)


def test_what_saw_nothing_is_not_read_and_what_is_no_number_is_not_hidden() -> None:
    outs, lses = states(2, 3, 2, 8, torch.float32)
    outs[1], lses[1] = float("nan"), NOTHING
    merged, total = merge_states(outs, lses)
    assert torch.equal(merged, outs[0]) and torch.equal(total, lses[0])
    lses[0] = NOTHING
    merged, total = merge_states(outs, lses)
    assert merged.eq(0).all() and total.eq(NOTHING).all()
    lses[1] = float("nan")
    merged, total = merge_states(outs, lses)
    assert merged.isnan().all() and total.isnan().all()


def test_logarithms_far_from_zero() -> None:
    outs, lses = states(2, 3, 2, 8, torch.float32)
    for far in (5000.0, -5000.0):
        torch.testing.assert_close(merge_states(outs, lses + far)[0], merge_states(outs, lses)[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("outs", "lses", "words"),
    [
        ([], [], "0 outputs"),
        ([torch.zeros(3, 2, 4)], [], "1 outputs and 0 logarithms"),
        ([torch.zeros(3, 2, 4), torch.zeros(3, 2, 5)], [torch.zeros(2, 3)] * 2, "part 1 is"),
        ([torch.zeros(3, 2, 4), torch.zeros(3, 2, 4).bfloat16()], [torch.zeros(2, 3)] * 2, "part 1 is torch.bfloat16"),
        ([torch.zeros(3, 2, 4)], [torch.zeros(3, 2)], r"logarithms of part 0 are \(3, 2\)"),
    ],
)
def test_what_does_not_fit_is_named(outs: list[Tensor], lses: list[Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        merge_states(outs, lses)
