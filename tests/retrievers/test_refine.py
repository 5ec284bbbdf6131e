"""Query refinement: closed-form gradients and steps against torch autograd and torch's own Adam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.retrievers.refine import Candidates, refined, softmax

LAWS = settings(deadline=None, max_examples=40)
Arrays = NDArray[np.float64]
SHAPES = st.tuples(st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 6), st.integers(0, 999))


def made_up(shape: tuple[int, list[int], int, int]) -> tuple[Arrays, list[Arrays], Arrays]:
    """A query ``(q, dim)``, chunks ``(t, dim)``, and a distribution over the chunks."""
    num_query_rows, lengths, dim, seed = shape
    rng = np.random.default_rng(seed)
    chunks = [rng.standard_normal((length, dim)) for length in lengths]
    return rng.standard_normal((num_query_rows, dim)), chunks, softmax(3 * rng.standard_normal(len(lengths)))


def reference_loss(query: Any, chunks: list[Arrays], guide: Arrays, temperature: float, towards: str = "mean") -> Any:
    """``KL(target || p1)`` as the paper writes it, for autograd."""
    scores = torch.stack([(query @ torch.from_numpy(rows).T).max(dim=1).values.sum() for rows in chunks])
    log_own = torch.log_softmax(scores / temperature, dim=0)
    other = torch.from_numpy(guide)
    target = ((log_own.exp() + other) / 2).detach() if towards == "mean" else other
    return (target * (target.log() - log_own)).sum()


def reference_steps(
    query: Arrays, chunks: list[Arrays], guide: Arrays, steps: int, rate: float, temperature: float, towards: str = "mean"
) -> Arrays:
    moved = torch.tensor(query, requires_grad=True)
    adam = torch.optim.Adam([moved], lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        reference_loss(moved, chunks, guide, temperature, towards).backward()
        adam.step()
    found: Arrays = moved.detach().numpy()
    return found


@LAWS
@given(SHAPES)
def test_scores_are_sums_of_best_products(shape: tuple[int, list[int], int, int]) -> None:
    query, chunks, _ = made_up(shape)
    by_hand = [sum(max(float(row @ token) for token in rows) for row in query) for rows in chunks]
    np.testing.assert_allclose(Candidates(chunks).scores(query), by_hand, rtol=1e-12, atol=1e-12)


@LAWS
@given(SHAPES, st.sampled_from([0.05, 1.0, 7.0]))
def test_the_gradient_is_that_of_autograd(shape: tuple[int, list[int], int, int], temperature: float) -> None:
    query, chunks, guide = made_up(shape)
    moved = torch.tensor(query, requires_grad=True)
    reference_loss(moved, chunks, guide, temperature).backward()
    assert moved.grad is not None
    found = Candidates(chunks).gradient(query, guide, temperature)
    np.testing.assert_allclose(found, moved.grad.numpy(), rtol=1e-9, atol=1e-12)


@LAWS
@given(SHAPES, st.integers(0, 12), st.sampled_from([1e-3, 0.05]), st.sampled_from([0.2, 1.0]))
def test_the_steps_are_those_of_torch(shape: tuple[int, list[int], int, int], steps: int, rate: float, temperature: float) -> None:
    query, chunks, guide = made_up(shape)
    if len(chunks) == 1:  # nothing to learn: the gradient is rounding alone, and Adam divides it by its own size
        return
    found = refined(query, Candidates(chunks), guide, steps=steps, learning_rate=rate, temperature=temperature)
    np.testing.assert_allclose(found, reference_steps(query, chunks, guide, steps, rate, temperature), rtol=1e-7, atol=1e-9)


@LAWS
@given(SHAPES)
@example((1, [1, 1, 2], 6, 0))  # the product of fewer rows differs in its last bit
def test_candidates_in_a_space_of_their_own_are_those_turned_back(shape: tuple[int, list[int], int, int]) -> None:
    query, chunks, guide = made_up(shape)
    basis = np.random.default_rng(1).standard_normal((query.shape[1], query.shape[1] + 2))
    turned = [rows @ basis for rows in chunks]
    own, plain = Candidates(turned, basis), Candidates([rows @ basis.T for rows in turned])
    np.testing.assert_allclose(own.scores(query), plain.scores(query), rtol=1e-9, atol=1e-9)
    found, wanted = own.gradient(query, guide, 1.0), plain.gradient(query, guide, 1.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    count = 1 + len(chunks) // 2
    some = own.first(count)
    np.testing.assert_array_equal(some.scores(query), Candidates(turned[:count], basis).scores(query))
    np.testing.assert_allclose(some.scores(query), own.scores(query)[:count], rtol=1e-13, atol=1e-13)


def test_the_mean_as_target_walks_like_the_guide_as_target() -> None:
    """What the module says of the two aims: the same way, since Adam takes the size out of a gradient."""
    query, chunks, guide = made_up((3, [2, 4, 1, 3, 5], 6, 7))
    ends = [reference_steps(query, chunks, guide, 30, 0.01, 1.0, towards) for towards in ("mean", "guide")]
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)
    assert np.abs(ends[0] - query).max() > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_query_comes_nearer_to_the_guide(seed: int) -> None:
    query, chunks, guide = made_up((1, [1] * 20, 8, seed))
    candidates = Candidates(chunks)

    def distance(asked: Arrays) -> float:
        return float((guide * np.log(guide / softmax(candidates.scores(asked)))).sum())

    far = [distance(refined(query, candidates, guide, steps=steps, learning_rate=0.02)) for steps in (0, 10, 40)]
    assert far[0] > far[1] > far[2]
    assert distance(query) == far[0]


def test_float32_stays_float32() -> None:
    query, chunks, guide = made_up((2, [3, 1, 2], 5, 0))
    candidates = Candidates([rows.astype(np.float32) for rows in chunks])
    found = refined(query.astype(np.float32), candidates, guide, steps=5, learning_rate=0.01)
    assert found.dtype == candidates.scores(found).dtype == np.float32
    np.testing.assert_allclose(found, reference_steps(query, chunks, guide, 5, 0.01, 1.0), atol=1e-4)


@pytest.mark.parametrize("chunks", [[], [np.ones((1, 2)), np.ones((0, 2))]])
def test_candidates_need_vectors(chunks: list[Arrays]) -> None:
    with pytest.raises(ValueError, match="at least one vector"):
        Candidates(chunks)


def test_there_are_no_more_candidates_than_there_are() -> None:
    with pytest.raises(ValueError, match="there are 1 candidates, not 2"):
        Candidates([np.ones((1, 2))]).first(2)
