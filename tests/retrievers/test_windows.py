"""Windows over long token sequences: nothing lost, nothing read more than the bound says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.retrievers.windows import plan_windows


@given(st.integers(0, 3000), st.integers(1, 300), st.data())
def test_every_token_is_kept_once_from_where_it_lies_most_centrally(num_tokens: int, room: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, room - 1))
    windows = plan_windows(num_tokens, room, overlap)
    kept = [token for window in windows for token in range(window.first, window.last)]
    assert kept == list(range(num_tokens))
    for window in windows:
        assert window.start <= window.first < window.last <= window.stop <= window.start + room
    num_read = sum(window.stop - window.start for window in windows)
    assert num_read <= num_tokens * (1 + overlap / (room - overlap)) + 1e-6
    for window, following in itertools.pairwise(windows):
        assert window.stop - following.start == overlap
        for token in range(following.start, window.stop):  # as far from its nearer edge as in the other window, or farther
            here, there = window.stop - 1 - token, token - following.start
            assert (here >= there - 1) if token < window.last else (there >= here - 1)


def test_a_text_within_the_room_is_one_window() -> None:
    assert plan_windows(6, 6, 5) == [(0, 6, 0, 6)]
    assert plan_windows(0, 6, 5) == []


@pytest.mark.parametrize("overlap", [-1, 6, 7])
def test_an_overlap_that_leaves_no_token_of_its_own_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=f"overlap={overlap}: must be between 0 and 5"):
        plan_windows(10, 6, overlap)
