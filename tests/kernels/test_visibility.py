from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rag.kernels import visibility
from rag.kernels.visibility import hidden_keys, rectangles


@given(
    positions=st.lists(st.integers(0, 90), min_size=1, max_size=40).map(sorted),
    num_keys=st.integers(0, 70),
    window=st.none() | st.integers(1, 30),
    few_rows=st.integers(1, 9),
    few_keys=st.integers(1, 40),
)
def test_rectangles_hold_every_visible_pair_once(
    positions: list[int], num_keys: int, window: int | None, few_rows: int, few_keys: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(visibility, "FEW_KEYS", few_keys)
        found = list(rectangles(positions, num_keys, window, few_rows))
    visible = ~hidden_keys(torch.tensor(positions), 0, num_keys, window)
    times = torch.zeros(visible.shape, dtype=torch.int64)
    for first, last, begin, end, whole in found:
        inside = visible[first:last, begin:end]
        times[first:last, begin:end] += 1
        assert bool(inside.all()) if whole else last - first <= few_rows
        assert inside.shape[1] and bool(inside.any(1).all()), "a row of a rectangle sees none of its keys"
    assert bool((times[visible] == 1).all()) and int(times.max() if times.numel() else 0) <= 1


def test_little_is_computed_that_nobody_sees() -> None:
    positions = torch.randperm(4000, generator=torch.Generator().manual_seed(0))[:600].sort().values
    pairs = sum((last - first) * (end - begin) for first, last, begin, end, _ in rectangles(positions.tolist(), 4000, None, 32))
    assert pairs < 1.06 * int((positions + 1).sum())
