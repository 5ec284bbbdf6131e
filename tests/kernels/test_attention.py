from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.kernels.column_mass import column_mass, column_mass_reference
from rag.kernels.merge_states import merge_states
from rag.kernels.selective_attention import selective_attention, selective_attention_reference
from rag.kernels.window_scores import window_scores, window_scores_reference
from tests.kernels.cases import ATTENTION, Attention, limit, problem, rel

NAMES = [case.name for case in ATTENTION]


@pytest.mark.parametrize("case", ATTENTION, ids=NAMES)
def test_i9_attention_is_that_of_the_reference(case: Attention) -> None:
    queries, keys, values, positions, sinks = problem(case)
    more: dict[str, Any] = {"num_keys": case.num_keys, "window": case.window, "softcap": case.softcap, "sinks": sinks}
    out, lse = selective_attention(queries, keys, values, positions, scale=0.3, return_lse=True, **more)
    wide = (queries.double(), keys.double(), values.double())
    expected, expected_lse = selective_attention_reference(*wide, positions, scale=0.3, **more)
    assert out.dtype == case.dtype and lse.dtype == torch.float32
    assert rel(out, expected) < limit(case.dtype)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("case", ATTENTION, ids=NAMES)
def test_column_mass_is_that_of_the_reference(case: Attention) -> None:
    queries, keys, _, positions, sinks = problem(case)
    more: dict[str, Any] = {"num_keys": case.num_keys, "window": case.window, "softcap": case.softcap, "sinks": sinks}
    mass = column_mass(queries, keys, positions, scale=0.3, **more)
    expected = column_mass_reference(queries.double(), keys.double(), positions, scale=0.3, **more)
    assert mass.shape == (case.num_keys,) and rel(mass, expected) < 1e-5


@pytest.mark.parametrize("case", ATTENTION, ids=NAMES)
def test_window_scores_are_those_of_the_reference_and_add_up_to_the_column_mass(case: Attention) -> None:
    queries, keys, values, positions, sinks = problem(case)
    more: dict[str, Any] = {"num_keys": case.num_keys, "window": case.window, "softcap": case.softcap, "scale": 0.3}
    _, lse = selective_attention(queries, keys, values, positions, sinks=sinks, return_lse=True, **more)
    scores = window_scores(queries, keys, positions, lse, **more)
    expected = window_scores_reference(queries.double(), keys.double(), positions, lse, **more)
    assert scores.shape == (case.key_heads, case.num_keys) and rel(scores, expected) < 1e-5
    mass = column_mass_reference(queries.double(), keys.double(), positions, sinks=sinks, **more)
    assert rel(scores.sum(0), mass) < (2e-5 if case.dtype == torch.float32 else 2e-2)
    with pytest.raises(ValueError, match="logarithms are"):
        window_scores(queries, keys, positions, lse[:, :0], **more)


def test_the_reference_is_torch_s_attention() -> None:
    queries, keys, values, positions, _ = problem(Attention("every-position", num_rows=45, positions="all"))
    out, lse = selective_attention_reference(queries, keys, values, positions, num_keys=45, scale=0.25)
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries[None], keys[None, :, :45], values[None, :, :45], is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(out, expected[0].transpose(0, 1))
    scores = (queries @ keys[:, :45].repeat_interleave(2, 0).transpose(1, 2)) * 0.25
    expected_lse = scores.masked_fill(torch.ones(45, 45).triu(1).bool(), float("-inf")).logsumexp(2)
    torch.testing.assert_close(lse, expected_lse)


@settings(max_examples=40, deadline=None)
@given(
    positions=st.lists(st.integers(-2, 90), min_size=1, max_size=40),
    num_keys=st.integers(0, 70),
    window=st.none() | st.integers(1, 30),
    group=st.sampled_from([1, 2, 8]),
)
def test_any_ascending_positions(positions: list[int], num_keys: int, window: int | None, group: int) -> None:
    made = torch.Generator().manual_seed(1)
    queries, keys = torch.randn(2 * group, len(positions), 16, generator=made), torch.randn(2, 71, 16, generator=made)
    keys[:, num_keys:] = float("inf")
    rows = torch.tensor(sorted(positions))
    out, lse = selective_attention(queries, keys, keys, rows, num_keys=num_keys, scale=0.3, window=window, return_lse=True)
    expected, expected_lse = selective_attention_reference(queries, keys, keys, rows, num_keys=num_keys, scale=0.3, window=window)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse, expected_lse, atol=1e-5, rtol=1e-5)
    mass = column_mass(queries, keys, rows, num_keys=num_keys, scale=0.3, window=window)
    expected_mass = column_mass_reference(queries, keys, rows, num_keys=num_keys, scale=0.3, window=window)
    torch.testing.assert_close(mass, expected_mass, atol=1e-5, rtol=1e-5)
    scores = window_scores(queries, keys, rows, lse, num_keys=num_keys, scale=0.3, window=window)
    torch.testing.assert_close(scores.sum(0), expected_mass, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [5, 40, 45])
def test_many_tiles_are_one_attention(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TILE_ROWS", "EDGE_ROWS", "SCORE_ROWS"):
        monkeypatch.setattr(f"rag.kernels.attention_torch_cpu.{name}", 8)
    queries, keys, values, positions, _ = problem(Attention("tiles", num_rows=rows))
    out = selective_attention(queries, keys, values, positions, num_keys=45, scale=0.3)
    assert rel(out, selective_attention_reference(queries, keys, values, positions, num_keys=45, scale=0.3)[0]) < 2e-6


def test_attention_over_two_sets_of_keys_is_attention_over_both() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(4, 5, 16), torch.randn(4, 30, 16), torch.randn(4, 30, 16)
    last = torch.full((5,), 29)
    whole = selective_attention(queries, keys, values, last, num_keys=30, scale=0.25, return_lse=True)
    first = selective_attention(queries, keys, values, last, num_keys=12, scale=0.25, return_lse=True)
    second = selective_attention(queries, keys[:, 12:], values[:, 12:], last - 12, num_keys=18, scale=0.25, return_lse=True)
    nothing = selective_attention(queries, keys, values, torch.full((5,), -1), num_keys=30, scale=0.25, return_lse=True)
    merged = merge_states([first[0], nothing[0], second[0]], [first[1], nothing[1], second[1]])
    torch.testing.assert_close(merged, whole)
    assert nothing[0].eq(0).all() and nothing[1].eq(float("-inf")).all()
    with pytest.raises(ValueError, match="0 outputs"):
        merge_states([], [])


def test_a_key_that_is_no_number_is_not_hidden() -> None:
    queries, keys, values, positions, _ = problem(Attention("plain"))
    keys[:, 0] = float("nan")
    assert selective_attention(queries, keys, values, positions, num_keys=45, scale=0.3).isnan().all()
    assert selective_attention(queries[:, -1:], keys, values, positions[-1:], num_keys=45, scale=0.3).isnan().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": torch.tensor([3, 2])}, "ascend"),
        ({"positions": torch.tensor([3])}, "2 queries"),
        ({"num_keys": 10}, "10 keys in a buffer of 9"),
        ({"window": 0}, "window of 0"),
        ({"keys": torch.zeros(3, 9, 16)}, "heads must divide"),
        ({"values": torch.zeros(2, 8, 16)}, "rows differ"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], words: str) -> None:
    fitting: dict[str, Any] = {
        "queries": torch.zeros(4, 2, 16),
        "keys": torch.zeros(2, 9, 16),
        "values": torch.zeros(2, 9, 16),
        "positions": torch.tensor([2, 3]),
        "num_keys": 9,
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=words):
        selective_attention(**{**fitting, **change})
