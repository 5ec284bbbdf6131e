"""Attention within texts: the processor's path against the reference in float64, and the reference against texts taken one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.kernels import varlen_attention_cpu
from rag.kernels.varlen_attention import varlen_attention, varlen_attention_reference
from tests.kernels.cases import VARLEN, Varlen, limit, rel, varlen_problem


@pytest.fixture(autouse=True)
def in_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems too, and those of both kinds."""
    monkeypatch.setattr(varlen_attention_cpu, "LONG_TOKENS", 20)


@pytest.mark.parametrize("case", VARLEN, ids=lambda case: case.name)
def test_the_processors_path_is_the_reference(case: Varlen) -> None:
    queries, keys, values, starts, more = varlen_problem(case)
    found = varlen_attention(queries, keys, values, starts, **more)
    expected = varlen_attention_reference(queries.double(), keys.double(), values.double(), starts, **more)
    assert found.dtype == case.dtype and found.shape == (queries.shape[1], case.heads, case.value_dim)
    assert rel(found, expected) < limit(case.dtype)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=9),
    causal=st.booleans(),
    window=st.one_of(st.none(), st.integers(1, 50)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    repeats=st.integers(1, 3),
)
def test_any_lengths(lengths: list[int], causal: bool, window: int | None, dtype: torch.dtype, repeats: int) -> None:
    case = Varlen("any", sorted(lengths * repeats), causal=causal, window=window, dtype=dtype)
    queries, keys, values, starts, more = varlen_problem(case)
    found = varlen_attention(queries, keys, values, starts, **more)
    expected = varlen_attention_reference(queries.double(), keys.double(), values.double(), starts, **more)
    assert not found.isnan().any() and rel(found, expected) < limit(dtype)


def test_the_reference_is_the_attention_of_each_text_alone() -> None:
    queries, keys, values, starts, more = varlen_problem(Varlen("alone", [3, 9, 1], causal=True, window=4))
    found = varlen_attention_reference(queries, keys, values, starts, **more)
    seen = torch.ones(9, 9, dtype=torch.bool).tril().triu(-3)
    alone = torch.nn.functional.scaled_dot_product_attention(
        queries[:, 3:12], keys[:, 3:12], values[:, 3:12], attn_mask=seen, scale=more["scale"], enable_gqa=True
    )
    torch.testing.assert_close(found[3:12], alone.transpose(0, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"starts": torch.tensor([0, 4])}, "from 0 to 5"),
        ({"starts": torch.tensor([0, 3, 2, 5])}, "ascend"),
        ({"starts": torch.tensor([1, 5])}, "ascend from 0"),
        ({"starts": torch.tensor([0.0, 5.0])}, "whole numbers"),
        ({"longest": 4}, "more than longest=4"),
        ({"window": 0}, "window of 0"),
        ({"keys": torch.zeros(3, 5, 16)}, "heads must divide"),
        ({"values": torch.zeros(2, 4, 16)}, "heads or tokens differ"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], words: str) -> None:
    fitting: dict[str, Any] = {
        "queries": torch.zeros(4, 5, 16),
        "keys": torch.zeros(2, 5, 16),
        "values": torch.zeros(2, 5, 16),
        "starts": torch.tensor([0, 5]),
        "longest": 5,
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=words):
        varlen_attention(**{**fitting, **change})
