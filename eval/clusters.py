"""How well two ways of grouping the same items agree: normalised mutual information and purity. Knows labels; knows no text.

Both take one label per item, any hashable or number, and optionally a weight per item (how many characters it stands for).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def nmi(labels: Sequence[Any] | NDArray[Any], truth: Sequence[Any] | NDArray[Any], weights: ArrayLike | None = None) -> float:
    """Normalised mutual information I(A; B) / ((H(A) + H(B)) / 2), in [0, 1]; 1 if both put everything in one group.

    Arithmetic normalisation, as scikit-learn's ``normalized_mutual_info_score`` has it; 0 if there are no items. Raises
    ``ValueError`` if the lengths differ or a weight is negative.

    >>> nmi([0, 0, 1, 1], ["a", "a", "b", "b"]), round(nmi([0, 0, 1, 1], ["a", "b", "a", "b"]), 6)
    (1.0, 0.0)
    """
    joint = _shares(labels, truth, weights)
    if not joint.size:
        return 0.0
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    mean_entropy = (_entropy(rows) + _entropy(columns)) / 2.0
    if mean_entropy == 0.0:
        return 1.0
    mutual = _entropy(rows) + _entropy(columns) - _entropy(joint.ravel())
    return float(min(max(mutual / mean_entropy, 0.0), 1.0))


def purity(labels: Sequence[Any] | NDArray[Any], truth: Sequence[Any] | NDArray[Any], weights: ArrayLike | None = None) -> float:
    """Share of the items that are of the most frequent true label of their group, in (0, 1]; 0 if there are no items.

    Many small groups are always pure, so it means something only at an equal number of groups. Raises as ``nmi``.

    >>> purity([0, 0, 1, 1], ["a", "a", "a", "b"])
    0.75
    """
    joint = _shares(labels, truth, weights)
    return float(joint.max(axis=1).sum()) if joint.size else 0.0


def _shares(
    labels: Sequence[Any] | NDArray[Any], truth: Sequence[Any] | NDArray[Any], weights: ArrayLike | None
) -> NDArray[np.float64]:
    """Share of the whole weight in each pair of groups, ``(groups, true groups)``; empty if there is no weight."""
    if len(labels) != len(truth):
        raise ValueError(f"{len(labels)} labels and {len(truth)} true labels: must be as many")
    weight = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != (len(labels),):
        raise ValueError(f"weights of shape {weight.shape}: must be ({len(labels)},)")
    if not (weight >= 0.0).all():
        raise ValueError("weights must not be negative")
    rows, columns = (_numbers(each) for each in (labels, truth))
    joint = np.zeros((int(rows.max(initial=-1)) + 1, int(columns.max(initial=-1)) + 1))
    np.add.at(joint, (rows, columns), weight)
    whole = joint.sum()
    return joint / whole if whole else np.empty((0, 0))


def _numbers(labels: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Equal labels as equal numbers from 0."""
    known: dict[Any, int] = {}
    each = labels.tolist() if isinstance(labels, np.ndarray) else labels
    return np.array([known.setdefault(label, len(known)) for label in each], dtype=np.int64)


def _entropy(shares: NDArray[np.float64]) -> float:
    """In nats; empty groups add nothing."""
    solid = shares[shares > 0.0]
    return float(-(solid * np.log(solid)).sum()) if len(solid) > 1 else 0.0
