"""The steps of a multi-vector search beside their float64 references: centroids, interaction, the best rows, codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rag.kernels.warp_score import (
    SPAN,
    centroid_scores,
    centroid_scores_reference,
    document_scores,
    document_scores_reference,
    interaction,
    interaction_reference,
    lanes_of,
    top_rows,
    top_rows_reference,
)
from rag.kernels.warp_score_codes import middles, num_fine, row_bytes, unpacked
from tests.kernels.cases import coded_documents, unit_rows

LAWS = settings(deadline=None, max_examples=30)


@pytest.mark.parametrize("num_tokens", [1, 16, 17, 32])
def test_lanes_keep_the_numbers_of_a_query(num_tokens: int) -> None:
    query = unit_rows(num_tokens, 48, 1)
    lanes = lanes_of(query)
    assert lanes.numbers.shape == (16 if num_tokens <= 16 else 32, 48) and lanes.num_tokens == num_tokens
    found = lanes.numbers[:num_tokens] * lanes.units[:num_tokens, None]
    torch.testing.assert_close(found, query, atol=float(query.abs().max()) / 250, rtol=0)
    assert not lanes.units[num_tokens:].any() and not lanes.numbers[num_tokens:].any()


@pytest.mark.parametrize("num_tokens", [1, 16, 17, 32])
def test_centroid_scores_and_their_table(num_tokens: int) -> None:
    made = torch.Generator().manual_seed(num_tokens)
    levels = torch.randint(0, 256, (5001, 48), generator=made).to(torch.uint8)
    steps = torch.rand(5001, generator=made) / 300
    lanes = lanes_of(unit_rows(num_tokens, 48, 2))
    found, wanted = centroid_scores(lanes, levels, steps), centroid_scores_reference(lanes, levels, steps)
    torch.testing.assert_close(found.scores, wanted.scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.floors, wanted.floors, atol=1e-5, rtol=1e-5)
    assert (found.table.int() - wanted.table.int()).abs().max() <= 1  # a border may round either way
    torch.testing.assert_close(found.floors, found.scores.amax(0) - SPAN)
    assert found.table[:, :num_tokens].amax(0).tolist() == [255] * num_tokens


@LAWS
@given(seed=st.integers(0, 10**6), width=st.sampled_from([16, 32]), masked=st.booleans())
def test_interaction(seed: int, width: int, masked: bool) -> None:
    made = torch.Generator().manual_seed(seed)
    table = torch.randint(0, 256, (50, width), generator=made).to(torch.uint8)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), torch.randint(0, 9, (20,), generator=made).cumsum(0)])
    runs = torch.randint(0, 50, (int(starts[-1]),), generator=made).to(torch.uint16)
    allowed = torch.rand(20, generator=made) < 0.5 if masked else None
    assert torch.equal(interaction(table, runs, starts, allowed), interaction_reference(table, runs, starts, allowed))


@LAWS
@given(values=st.lists(st.integers(-1, 20), max_size=60), wanted=st.integers(1, 70))
def test_best_rows_are_the_largest_and_of_equal_ones_the_first(values: list[int], wanted: int) -> None:
    given_values = torch.tensor(values, dtype=torch.int32)
    order = sorted((row for row, value in enumerate(values) if value >= 0), key=lambda row: (-values[row], row))[:wanted]
    assert top_rows(given_values, wanted, 20).tolist() == order == top_rows_reference(given_values, wanted).tolist()


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
@pytest.mark.parametrize(("num_tokens", "dim"), [(5, 64), (32, 128), (17, 192)])
def test_scores_from_codes(bits: int, num_tokens: int, dim: int) -> None:
    levels, steps, coded = coded_documents([3, 0, 1, 40, 300, 7], bits, dim, 30)
    lanes = lanes_of(unit_rows(num_tokens, dim, 3))
    centroids = centroid_scores(lanes, levels, steps)
    rows = torch.tensor([3, 0, 5, 1, 3, 4])
    found, wanted = document_scores(lanes, centroids, coded, rows), document_scores_reference(lanes, centroids, coded, rows)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    assert found[3] == float("-inf") and found[0] == found[4]


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_codes_stand_for_the_levels_that_were_packed(bits: int) -> None:
    dim = 96
    made = torch.Generator().manual_seed(bits)
    levels = torch.randint(0, 2**bits, (9, dim), generator=made)
    levels[:, num_fine(dim, bits) :] &= -2 if bits == 5 else -1
    width = 4 if bits == 5 else bits
    codes = torch.zeros(9, row_bytes(dim, bits), dtype=torch.uint8)
    plain = dim * width // 8
    for place in range(dim):  # bit by bit, as the docstring says
        upper = levels[:, place] >> (bits - width)
        codes[:, place % plain] |= (upper << (place // plain * width)).to(torch.uint8)
        if bits == 5 and place < num_fine(dim, bits):
            codes[:, plain + place // 8] |= ((levels[:, place] & 1) << (place % 8)).to(torch.uint8)
    assert torch.equal(unpacked(codes, dim, bits).long(), levels)
    spread = (torch.from_numpy(middles(dim, bits)) - (2**bits - 1) / 2).unique().tolist()
    assert spread == ([-0.5, 0.0] if bits == 5 else [0.0])


def test_a_planted_fault_is_seen() -> None:
    """What these tests are worth: a lowest bit that is read from the next byte changes scores beyond their bound."""
    levels, steps, coded = coded_documents([50], 5, 128, 30)
    lanes = lanes_of(unit_rows(8, 128, 3))
    centroids = centroid_scores(lanes, levels, steps)
    wrong = replace(coded, codes=torch.cat([coded.codes[:, :64], coded.codes[:, 64:].roll(1, 1)], 1).contiguous())
    rows = torch.tensor([0])
    found, wanted = document_scores(lanes, centroids, wrong, rows), document_scores_reference(lanes, centroids, coded, rows)
    assert (found - wanted).abs() > 1e-3


def _given() -> dict[str, Any]:
    levels, steps, coded = coded_documents([3, 4], 4, 64, 30)
    lanes = lanes_of(unit_rows(4, 64, 3))
    return {"lanes": lanes, "levels": levels, "steps": steps, "coded": coded, "centroids": centroid_scores(lanes, levels, steps)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: lanes_of(torch.zeros(33, 64)), "1 to 32 tokens"),
        (lambda g: lanes_of(torch.zeros(3, 60)), "a multiple of 16 dimensions"),
        (lambda g: centroid_scores(g["lanes"], g["levels"].int(), g["steps"]), r"must be uint8 \(C, 64\)"),
        (lambda g: centroid_scores(g["lanes"], g["levels"], g["steps"][:3]), r"must be uint8 \(C, 64\)"),
        (lambda g: centroid_scores(g["lanes"], g["levels"][:0], g["steps"][:0]), "at least one centroid"),
        (lambda g: interaction(g["centroids"].scores, g["coded"].runs, g["coded"].run_starts), "table must be uint8"),
        (lambda g: interaction(g["centroids"].table, g["coded"].runs.int(), g["coded"].run_starts), "runs must be uint16"),
        (
            lambda g: interaction(g["centroids"].table, g["coded"].runs, g["coded"].run_starts, torch.ones(3, dtype=torch.bool)),
            r"allowed must be bool \(2,\)",
        ),
        (lambda g: top_rows(torch.zeros(3), 1, 1), "values must be int32"),
        (lambda g: top_rows(torch.zeros(3, dtype=torch.int32), 0, 1), "k must be at least 1"),
        (
            lambda g: document_scores(g["lanes"], g["centroids"], replace(g["coded"], bits=5), torch.tensor([0])),
            "codes of 5 bits must have 38 bytes a row, not",
        ),
        (
            lambda g: document_scores(lanes_of(torch.ones(1, 32)), g["centroids"], g["coded"], torch.tensor([0])),
            "the query has 32 dimensions and the codes 64",
        ),
        (lambda g: document_scores(g["lanes"], g["centroids"], g["coded"], torch.tensor([0.0])), "rows must be int64"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[dict[str, Any]], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(_given())
