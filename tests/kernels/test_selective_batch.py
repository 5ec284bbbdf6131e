"""Attention of several requests at once: equal to each request alone, in every way a processor has."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from rag.kernels.choose import Way
from rag.kernels.selective_attention import selective_attention, with_sinks
from rag.kernels.selective_batch import selective_attention_batch, selective_batch_reference
from tests.kernels.cases import BATCH, Batch, batch, limit, rel


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", BATCH, ids=lambda case: case.name)
def test_it_is_the_reference(case: Batch, threads: int) -> None:
    given, more = batch(case)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out, lse = selective_attention_batch(*given, **more)
    finally:
        torch.set_num_threads(before)
    sinks = more.pop("sinks")
    wide = [given[0].double(), given[1], [x.double() for x in given[2]], [x.double() for x in given[3]], given[4]]
    expected, expected_lse = with_sinks(*selective_batch_reference(*wide, **more), sinks)
    assert out.dtype == case.dtype and rel(out, expected) < limit(case.dtype)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("case", BATCH, ids=lambda case: case.name)
def test_requests_go_one_by_one_where_there_are_no_vectors(case: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("attention_cpu", "selective_batch"):
        monkeypatch.setattr(f"rag.kernels.{module}.processor_way", lambda dtype, dim: Way("torch", "test"))
    given, more = batch(case)
    out, _ = selective_attention_batch(*given, **more)
    sinks = more.pop("sinks")
    expected, _ = with_sinks(*selective_batch_reference(*given, **more), sinks)
    assert rel(out, expected) < limit(case.dtype)


def test_each_request_is_what_it_is_alone() -> None:
    given, more = batch(Batch("alone", window=9, sinks=True))
    queries, starts, keys, values, positions = given
    out, lse = selective_attention_batch(*given, **more)
    counts = more.pop("num_keys")
    for (start, end), seen, shown, count in zip(pairwise(starts), keys, values, counts, strict=True):
        alone, log = selective_attention(
            queries[:, start:end], seen, shown, positions[start:end], num_keys=count, return_lse=True, **more
        )
        torch.testing.assert_close(out[start:end], alone)
        torch.testing.assert_close(lse[:, start:end], log)


def test_no_request_is_no_row() -> None:
    given, more = batch(Batch("none", rows=(), num_keys=()))
    assert selective_attention_batch(*given, **more)[0].shape[0] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"starts": [0, 2]}, "one of each a request"),
        ({"starts": [0, 3, 2]}, "ascend from 0 to 4"),
        ({"starts": [0, 2, 3]}, "ascend from 0 to 4"),
        ({"num_keys": [3, 9]}, "9 keys in a buffer of 5"),
        ({"positions": torch.tensor([0, 1, 2, 1])}, "must ascend"),
        ({"values": [torch.zeros(2, 5, 16), torch.zeros(2, 4, 16)]}, "request 1 has"),
        ({"keys": [torch.zeros(2, 5, 16), torch.zeros(4, 5, 16)]}, "request 1 has"),
        ({"window": 0}, "window of 0"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], words: str) -> None:
    fitting: dict[str, Any] = {
        "queries": torch.zeros(4, 4, 16),
        "starts": [0, 2, 4],
        "keys": [torch.zeros(2, 5, 16)] * 2,
        "values": [torch.zeros(2, 5, 16)] * 2,
        "positions": torch.tensor([0, 1, 0, 2]),
        "num_keys": [5, 5],
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=words):
        selective_attention_batch(**{**fitting, **change})
