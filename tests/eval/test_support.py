"""Support by similarity: what it sees, what it cannot see, and its calibration."""

from __future__ import annotations

import math

import pytest

from rag.errors import MissingExtra
from rag.eval.support import MINILM, NAME, Calibration, calibration_of, fitted, nearest_cosines, support
from rag.retrievers.encoder import SentenceTransformersEncoder
from tests.fakes import HashingEncoder

SOURCES = ["The tower is tall. It is grey.", "Ducks swim on the pond."]


def test_a_quotation_is_near_and_a_stranger_is_far() -> None:
    near, far = nearest_cosines(["Ducks swim on the pond.", "Carmen sings."], SOURCES, HashingEncoder(512))
    assert near == pytest.approx(1.0, abs=1e-5) and far < 0.5


def test_it_is_the_largest_cosine_over_all_sentences_of_all_sources() -> None:
    encoder = HashingEncoder(512)
    one, two, both = (
        nearest_cosines(["It is grey and swims."], sources, encoder)[0] for sources in ([SOURCES[0]], [SOURCES[1]], SOURCES)
    )
    assert both == pytest.approx(max(one, two))


def test_no_source_supports_nothing_and_no_sentence_is_an_error() -> None:
    assert nearest_cosines(["x"], [], HashingEncoder()) == [-1.0]
    assert nearest_cosines([], SOURCES, HashingEncoder()) == []
    assert support(["x"], [" "], HashingEncoder(), MINILM) < 0.01
    with pytest.raises(ValueError, match="no sentences"):
        support([], SOURCES, HashingEncoder())


def test_a_denial_is_as_near_as_the_statement_so_the_name_says_what_it_is() -> None:
    (denied,) = nearest_cosines(["The tower is not tall."], SOURCES, HashingEncoder(512))
    assert denied > 0.85 and "not entailment" in NAME


def test_the_curve_is_fitted_to_both_groups_alike() -> None:
    supported, unsupported = [0.6, 0.7, 0.8, 0.9] * 20, [0.1, 0.2, 0.3, 0.4] * 2
    curve = fitted(supported, unsupported, "mine")
    assert 0.4 < curve.midpoint < 0.6 and curve(curve.midpoint) == pytest.approx(0.5) and curve.encoder == "mine"
    assert curve(0.9) > 0.9 and curve(0.1) < 0.1
    assert MINILM(-1.0) < MINILM(0.5) < MINILM(1.0) and math.isfinite(Calibration(1e9, 0.5)(-1.0))


def test_an_encoder_that_cannot_tell_them_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot tell them apart"):
        fitted([0.1, 0.2], [0.8, 0.9])
    with pytest.raises(ValueError, match="0 supported and 1 unsupported"):
        fitted([], [0.5])


def test_only_the_embedded_encoder_has_a_calibration() -> None:
    with pytest.raises(ValueError, match="this encoder has no calibration"):
        support(["x"], SOURCES, HashingEncoder())
    embedded = SentenceTransformersEncoder()
    try:
        assert calibration_of(embedded) is MINILM
    except MissingExtra as missing:
        pytest.skip(str(missing))
