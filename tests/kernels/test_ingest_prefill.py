from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.kernels.assemble import LayerKV
from rag.kernels.ingest_prefill import chunk_of, ingest_prefill, ingest_prefill_reference, room_for
from rag.kernels.quantise import dequantise_kv, quantise_kv
from rag.kernels.rotate import rotate
from rag.kernels.selective_attention import selective_attention
from tests.kernels.cases import INGEST, Ingest, chunks, limit, rel

NAMES = [case.name for case in INGEST]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", INGEST, ids=NAMES)
def test_it_is_the_reference(case: Ingest, threads: int) -> None:
    made, more = chunks(case)
    other = made._replace(into=made.room())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out = ingest_prefill(*made, **more)
    finally:
        torch.set_num_threads(before)
    assert out.dtype == case.dtype and out.shape == (sum(case.lengths), case.heads, case.value_dim)
    assert rel(out, ingest_prefill_reference(*other, **more)) < limit(case.dtype)
    for one, another in zip(made.into[:4], other.into[:4], strict=True):
        assert (one is None) == (another is None) and (one is None or another is None or torch.equal(one, another))


@pytest.mark.parametrize("case", INGEST, ids=NAMES)
def test_every_chunk_is_what_it_is_alone(case: Ingest) -> None:
    """Attention by position over beginning and chunk, and what is kept is the chunk's own, as ``quantise_kv`` codes it."""
    made, more = chunks(case)
    out = ingest_prefill(*made, **more)
    before = more["before"] or (made.keys[:, :0], made.values[:, :0])
    named = {name: value for name, value in more.items() if name != "before"}
    for number, (first, last) in enumerate(pairwise(made.borders)):
        end = case.num_before + last - first
        turns = (made.cos[case.num_before : end], made.sin[case.num_before : end], case.style)
        keys = torch.cat([before[0], rotate(made.keys[:, first:last], *turns)], 1)
        values = torch.cat([before[1], made.values[:, first:last]], 1)
        alone = selective_attention(
            rotate(made.queries[:, first:last], *turns), keys, values, torch.arange(case.num_before, end), num_keys=end, **named
        )
        assert rel(out[first:last], alone) < limit(case.dtype)
        own = LayerKV(made.keys[:, first:last], made.values[:, first:last])
        expected = own if case.kind == "plain" else quantise_kv(own.keys, own.values, case.kind)
        kept = chunk_of(made.into, number, made.borders)
        assert kept.kind == case.kind
        for one, another in zip(dequantise_kv(kept), dequantise_kv(expected), strict=True):
            assert torch.equal(one, another)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    num_before=st.integers(0, 40),
    window=st.none() | st.integers(1, 30),
)
def test_any_lengths(lengths: list[int], num_before: int, window: int | None) -> None:
    made, more = chunks(Ingest("any", tuple(lengths), num_before, window=window, kind="int8"), seed=num_before)
    out = ingest_prefill(*made, **more)
    torch.testing.assert_close(out, ingest_prefill_reference(*made, **more), atol=1e-5, rtol=1e-5)


def test_what_one_chunk_holds_changes_no_other() -> None:
    made, more = chunks(Ingest("plain", kind="int8"))
    out, kept = ingest_prefill(*made, **more), made.room()
    second = slice(made.borders[1], made.borders[2])
    for tensor in made[:3]:
        tensor[:, second] += 9.0
    changed = ingest_prefill(*made, **more)
    others = torch.ones(len(out), dtype=torch.bool)
    others[second] = False
    assert torch.equal(out[others], changed[others]) and not torch.equal(out[second], changed[second])
    for number in (0, 2, 3):
        for one, another in zip(
            chunk_of(kept, number, made.borders)[:4], chunk_of(made.into, number, made.borders)[:4], strict=True
        ):
            assert one is not None and another is not None and torch.equal(one, another)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"borders": [0, 3]}, "ascend from 0 to 5"),
        ({"borders": [0, 3, 3, 5]}, "without an empty chunk"),
        ({"keys": torch.zeros(3, 5, 16)}, "heads must divide"),
        ({"cos": torch.zeros(4, 8), "sin": torch.zeros(4, 8)}, "has 4 rows, 5 are needed"),
        ({"before": (torch.zeros(2, 2, 8), torch.zeros(2, 2, 16))}, "what stands before"),
        ({"window": 0}, "window of 0"),
        ({"into": room_for(2, 2, 4, 16, 16, "plain", torch.float32)}, "room for plain"),
        ({"into": room_for(2, 1, 5, 16, 16, "int8", torch.float32)}, r"\(2, 2, 16\)"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], words: str) -> None:
    fitting: dict[str, Any] = {
        "queries": torch.zeros(4, 5, 16),
        "keys": torch.zeros(2, 5, 16),
        "values": torch.zeros(2, 5, 16),
        "borders": [0, 2, 5],
        "cos": torch.zeros(9, 8),
        "sin": torch.zeros(9, 8),
        "style": "half",
        "into": room_for(2, 2, 5, 16, 16, "plain", torch.float32),
        "before": (torch.zeros(2, 2, 16), torch.zeros(2, 2, 16)),
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=words):
        ingest_prefill(**{**fitting, **change})
