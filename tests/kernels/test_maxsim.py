from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rag.kernels.maxsim import maxsim, maxsim_reference, maxsim_rows
from tests.kernels.cases import texts


def near(found: Tensor, expected: Tensor, error: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=error, atol=error * 10)


@settings(max_examples=40, deadline=None)
@given(
    asked=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    lengths=st.lists(st.integers(0, 30), max_size=9),
    dim=st.sampled_from([3, 16, 96]),
)
def test_any_lengths_and_borders(asked: list[int], lengths: list[int], dim: int) -> None:
    (queries, query_starts), (vectors, starts) = texts(asked, dim, 1), texts(lengths, dim, 2)
    found, nearest = maxsim_rows(queries, query_starts, vectors, starts)
    rows = torch.empty_like(nearest)
    near(maxsim(queries, query_starts, vectors, starts), maxsim_reference(queries, query_starts, vectors, starts, rows=rows))
    assert torch.equal(found, maxsim(queries, query_starts, vectors, starts))
    assert torch.equal(nearest, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8])
def test_coded_documents(dtype: torch.dtype) -> None:
    (queries, query_starts), (vectors, starts) = texts([7, 32], 64, 1), texts([5, 0, 40, 1], 64, 2)
    scales = None
    if dtype == torch.int8:
        scales = vectors.abs().amax(1) / 127
        vectors = (vectors / scales[:, None]).round()
    coded = vectors.to(dtype)
    near(maxsim(queries, query_starts, coded, starts, scales), maxsim_reference(queries, query_starts, coded, starts, scales))


def test_more_tokens_than_a_block_and_one_document_larger_than_it() -> None:
    (queries, query_starts), (vectors, starts) = texts([3], 8, 1), texts([9000, 17000, 3, 8000, 8500], 8, 2)
    near(maxsim(queries, query_starts, vectors, starts), maxsim_reference(queries, query_starts, vectors, starts))


def test_a_document_without_vectors_matches_nothing_and_a_query_without_vectors_asks_nothing() -> None:
    (queries, query_starts), (vectors, starts) = texts([2, 0], 8, 1), texts([0, 4], 8, 2)
    found = maxsim(queries, query_starts, vectors, starts)
    assert found[0, 0] == float("-inf") and found[1].tolist() == [0.0, 0.0]


def test_by_hand() -> None:
    queries, vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 1.0], [1.0, -1.0], [0.5, 0.5]])
    found = maxsim(queries, torch.tensor([0, 2]), vectors, torch.tensor([0, 2, 3]))
    assert found.tolist() == [[3.0 + 2.0, 0.5 + 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_by_hand(dtype: torch.dtype) -> None:
    """Of equal ones the first; none in a document without vectors. In float64 the reference answers, in float64."""
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    vectors = torch.tensor([[0.0, 1.0], [2.0, 0.0], [2.0, 1.0], [-3.0, -3.0]], dtype=dtype)
    scores, rows = maxsim_rows(queries, torch.tensor([0, 2]), vectors, torch.tensor([0, 3, 3, 4]))
    assert rows.tolist() == [[1, -1, 3], [0, -1, 3]]
    assert scores.tolist() == [[3.0, float("-inf"), -6.0]]
    assert scores.dtype == dtype


def test_rows_of_documents_past_a_block() -> None:
    (queries, query_starts), (vectors, starts) = texts([3, 2], 8, 1), texts([9000, 17000, 3, 8000, 8500], 8, 2)
    rows = torch.empty(5, 5, dtype=torch.int64)
    near(
        maxsim_rows(queries, query_starts, vectors, starts).scores,
        maxsim_reference(queries, query_starts, vectors, starts, rows=rows),
    )
    assert torch.equal(maxsim_rows(queries, query_starts, vectors, starts).rows, rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": torch.zeros(4, 7)}, "the same dimension"),
        ({"vectors": torch.zeros(4, 8, dtype=torch.int8)}, "scales belong to int8"),
        ({"scales": torch.zeros(4)}, "scales belong to int8"),
        ({"starts": torch.tensor([0, 3])}, "starts must ascend from 0 to 4"),
        ({"starts": torch.tensor([0, 3, 2, 4])}, "starts must ascend"),
        ({"starts": torch.tensor([0.0, 4.0])}, "int64"),
        ({"query_starts": torch.tensor([1, 2])}, "query_starts must ascend from 0 to 2"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor], message: str) -> None:
    given = {
        "queries": torch.zeros(2, 8), "query_starts": torch.tensor([0, 2]), "vectors": torch.zeros(4, 8), "starts": torch.tensor([0, 4])
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        maxsim(**{**given, **change})
