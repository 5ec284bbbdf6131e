"""Boundary clarity and chunk stickiness, with numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag.core import TokenLogprobs
from rag.errors import ModelError
from rag.eval.boundary import boundary_clarity, chunk_stickiness, dependence, stickiness
from rag.lm import TransformersLM
from tests.fakes import ToyLM
from tests.tiny_models import save_llama

DUCKS = "ducks swim and ducks fly and ducks eat"
BANKS = "banks lend money at a low rate"


def test_clarity_by_hand() -> None:
    """p = (times before + 1) / (tokens before + 1000); the first word of the second chunk has no probability when it is read alone."""
    (clarity,) = boundary_clarity(ToyLM(), ["a b", "b a a"])
    # after "a b": "b" at place 2, "a" at 3 (one before), "a" at 4 (two before); alone: "a" at 1 (none before), "a" at 2 (one before)
    given = -math.log(2 / 1003) - math.log(3 / 1004)
    alone = -math.log(1 / 1001) - math.log(2 / 1002)
    assert clarity == pytest.approx(math.exp((given - alone) / 2))
    assert clarity < 1


def test_a_chunk_that_repeats_the_one_before_has_no_clear_boundary() -> None:
    same, other = boundary_clarity(ToyLM(), [DUCKS, DUCKS, BANKS])
    assert same < 0.5
    assert other > 0.99
    assert boundary_clarity(ToyLM(), [DUCKS]) == boundary_clarity(ToyLM(), []) == []
    assert math.isnan(boundary_clarity(ToyLM(), [DUCKS, "one"])[0])


def test_the_edges_are_one_minus_clarity_in_both_directions_or_one() -> None:
    chunks = [DUCKS, DUCKS + " more", BANKS]
    complete, incomplete = dependence(ToyLM(), chunks), dependence(ToyLM(), chunks, complete=False)
    assert np.isnan(np.diag(complete)).all() and np.isfinite(complete).sum() == 6
    assert np.isfinite(incomplete).sum() == 3 and np.isnan(incomplete[np.tril_indices(3)]).all()
    assert [complete[0, 1], complete[1, 2]] == pytest.approx([1 - value for value in boundary_clarity(ToyLM(), chunks)])
    assert incomplete[0, 2] == complete[0, 2]


def test_stickiness_by_hand() -> None:
    nan = math.nan
    edges = np.array([[nan, 0.9, 0.9], [0.1, nan, 0.1], [0.85, 0.1, nan]])
    # 0-1, 0-2, 2-0: degrees 3, 1, 2
    expected = -(3 / 6 * math.log2(3 / 6) + 1 / 6 * math.log2(1 / 6) + 2 / 6 * math.log2(2 / 6))
    assert stickiness(edges) == pytest.approx(expected)
    assert stickiness(edges, threshold=0.89) == pytest.approx(1.5)  # degrees 2, 1, 1
    assert stickiness(edges, threshold=0.95) == 0.0
    assert stickiness(edges, distance_weight=0.1) == pytest.approx(1.0)  # 0-2 weighs 0.8 now: only 0-1 is left
    assert stickiness(np.full((1, 1), nan)) == stickiness(np.empty((0, 0))) == 0.0


def test_chunks_that_depend_on_each_other_stick() -> None:
    alike, apart = [DUCKS] * 4, [DUCKS, BANKS, "rain falls on hills", "clocks tick"]
    for complete in (True, False):
        assert chunk_stickiness(ToyLM(), alike, 0.3, complete) > 1.9
        assert chunk_stickiness(ToyLM(), apart, 0.3, complete) == 0.0


def test_a_real_network_reads_in_batches(tmp_path: Path) -> None:
    lm = TransformersLM(str(save_llama(tmp_path)), device="cpu")
    clarity = boundary_clarity(lm, [DUCKS, BANKS, DUCKS])
    tokens = {text: lm.logprobs([text])[0] for text in ("\n\n" + BANKS, f"{DUCKS}\n\n{BANKS}")}
    means = []
    for text, found in tokens.items():
        start = text.index(BANKS)
        scored = zip(found.spans, found.logprobs, strict=True)
        values = [value for span, value in scored if span.end > start and span.of(text).strip()]
        means.append(-sum(values) / len(values))
    assert clarity[0] == pytest.approx(math.exp(means[1] - means[0]), rel=1e-3)


def test_a_model_without_log_probabilities_is_an_error() -> None:
    class Silent(ToyLM):
        def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
            return [TokenLogprobs(each.spans, (math.nan,) * len(each.spans)) for each in super().logprobs(texts)]

    with pytest.raises(ModelError, match="log-probabilities"):
        boundary_clarity(Silent(), [DUCKS, BANKS])
