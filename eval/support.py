"""Support of an answer by its sources as an encoder sees it: **similarity, not entailment**. Knows vectors, no language model.

Each sentence of the answer is compared with every sentence of the shown sources; its largest cosine becomes a chance by a logistic
curve that was fitted to sentences with and without support. A stand-in where no judge is configured. Measured on MTRAG-UN with the
embedded encoder (``bench/answer_support.py``, conversations held out): AUC .98 between a reference answer's own passages and those of
another conversation, 93 % and 95 % of sentences on the right side. But of sentences with a number changed it notices 5 %, of denied
ones 6 %: it tells an answer about something else from one about the sources, and not a true statement from a false one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rag.core import Encoder
from rag.sentences import sentence_spans

NAME = "support (encoder similarity, not entailment)"
MAX_CHARS = 600  # of a sentence that is encoded: tables and lists can be one endless line


@dataclass(frozen=True, slots=True)
class Calibration:
    """Cosine -> chance of support: ``1 / (1 + exp(-slope * (cosine - midpoint)))``. ``encoder``: the fingerprint it was fitted
    for."""

    slope: float
    midpoint: float
    encoder: str = ""

    def __call__(self, cosine: float) -> float:
        """The chance, 0 to 1, rising with the cosine."""
        return 1.0 / (1.0 + math.exp(max(-700.0, min(700.0, -self.slope * (cosine - self.midpoint)))))


MINILM = Calibration(slope=15.55, midpoint=0.520, encoder="01fdebef5afa45e3f7798eae59b468f0")
"""Fitted to the embedded encoder."""


def calibration_of(encoder: Encoder) -> Calibration:
    """The curve that is known for ``encoder``. Raises ``ValueError`` for others: each has its own scale of cosines."""
    if encoder.fingerprint != MINILM.encoder:
        raise ValueError("this encoder has no calibration: the embedded one has, for others `rag.eval.support.fitted` makes one")
    return MINILM


def nearest_cosines(sentences: Sequence[str], sources: Sequence[str], encoder: Encoder) -> list[float]:
    """Per sentence its largest cosine with a sentence of ``sources``; -1 if those have none."""
    read = list(dict.fromkeys(span.of(source)[:MAX_CHARS] for source in sources for span in sentence_spans(source)))
    if not sentences:
        return []
    if not read:
        return [-1.0] * len(sentences)
    cosines = encoder.encode_documents([text[:MAX_CHARS] for text in sentences]) @ encoder.encode_documents(read).T
    return [float(cosine) for cosine in cosines.max(axis=1)]


def support(sentences: Sequence[str], sources: Sequence[str], encoder: Encoder, calibration: Calibration | None = None) -> float:
    """Mean chance of support over the answer's ``sentences``; ``calibration``: by default the one known for the encoder.

    Raises ``ValueError`` without sentences, and for an encoder without calibration.
    """
    if not sentences:
        raise ValueError("the answer has no sentences that could be supported")
    calibration = calibration or calibration_of(encoder)
    return sum(map(calibration, nearest_cosines(sentences, sources, encoder))) / len(sentences)


def fitted(supported: Sequence[float], unsupported: Sequence[float], encoder: str = "") -> Calibration:
    """The logistic curve of greatest likelihood for these cosines, both groups weighing the same (Platt, 1999).

    Raises ``ValueError`` if a group is empty or the cosines do not rise with support.
    """
    if not supported or not unsupported:
        raise ValueError(f"{len(supported)} supported and {len(unsupported)} unsupported sentences: both are needed")
    from sklearn.linear_model import LogisticRegression

    cosines = [[cosine] for cosine in (*supported, *unsupported)]
    labels = [1] * len(supported) + [0] * len(unsupported)
    model = LogisticRegression(C=100.0, class_weight="balanced").fit(cosines, labels)
    slope, offset = float(model.coef_[0][0]), float(model.intercept_[0])
    if slope <= 0:
        raise ValueError("supported sentences have no higher cosines than unsupported ones: this encoder cannot tell them apart")
    return Calibration(slope, -offset / slope, encoder)
