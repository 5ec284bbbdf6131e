from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.kernels.cascade_decode import cascade_decode, cascade_decode_reference
from rag.kernels.selective_attention import selective_attention
from tests.kernels.cases import CASCADE, Cascade, limit, rel, requests


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASCADE, ids=[case.name for case in CASCADE])
def test_it_is_attention_over_both_sets_of_keys(case: Cascade, threads: int) -> None:
    made, sinks = requests(case)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out = cascade_decode(*made, scale=0.3, softcap=case.softcap, sinks=sinks)
    finally:
        torch.set_num_threads(before)
    assert out.dtype == case.dtype and out.shape == (len(case.own), case.heads, case.value_dim)
    assert rel(out, cascade_decode_reference(*made.wide(), scale=0.3, softcap=case.softcap, sinks=sinks)) < limit(case.dtype)


@settings(max_examples=40, deadline=None)
@given(own=st.lists(st.integers(0, 40), min_size=1, max_size=6), num_common=st.integers(0, 60), group=st.sampled_from([1, 2, 8]))
def test_any_lengths(own: list[int], num_common: int, group: int) -> None:
    made, _ = requests(Cascade("any", tuple(own), num_common, heads=2 * group), seed=num_common)
    torch.testing.assert_close(cascade_decode(*made, scale=0.3), cascade_decode_reference(*made, scale=0.3), atol=1e-5, rtol=1e-5)


def test_one_request_is_plain_attention() -> None:
    made, _ = requests(Cascade("one", (9,), 20))
    keys, values = torch.cat([made.common_keys, made.keys[0]], 1), torch.cat([made.common_values, made.values[0]], 1)
    expected = selective_attention(made.queries[0][:, None], keys, values, torch.tensor([28]), num_keys=29, scale=0.25)  # one row
    torch.testing.assert_close(cascade_decode(*made, scale=0.25), expected)


def test_no_request_is_no_row() -> None:
    made, _ = requests(Cascade("none", ()))
    assert cascade_decode(*made, scale=0.3).shape == (0, 4, 16)
    assert cascade_decode_reference(*made, scale=0.3).shape == (0, 4, 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"common_keys": torch.zeros(3, 6, 16)}, "heads must divide"),
        ({"common_values": torch.zeros(2, 5, 16)}, "heads or rows differ"),
        ({"num_keys": [1]}, "one of each a request"),
        ({"num_keys": [1, 5]}, "request 1 has 5 keys in a buffer of 4"),
        ({"num_keys": [-1, 1]}, "request 0 has -1 keys"),
        ({"values": [torch.zeros(2, 4, 16), torch.zeros(2, 4, 8)]}, "request 1 has"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], words: str) -> None:
    fitting: dict[str, Any] = {
        "queries": torch.zeros(2, 4, 16),
        "common_keys": torch.zeros(2, 6, 16),
        "common_values": torch.zeros(2, 6, 16),
        "keys": [torch.zeros(2, 4, 16)] * 2,
        "values": [torch.zeros(2, 4, 16)] * 2,
        "num_keys": [1, 2],
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=words):
        cascade_decode(**{**fitting, **change})
