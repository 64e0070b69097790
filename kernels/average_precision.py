"""Average precision of many neurons at once.

AP = sum over distinct scores s, from high to low, of (R(s) - R(previous)) * P(s): examples with the same score enter
together, as in scikit-learn's `average_precision_score`.
"""

import numpy as np


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of every neuron, float64 [neurons].

    scores: [neurons, examples], any float dtype; higher means "more like label 1". A neuron with a NaN gets NaN.
    labels: [examples], 0 or 1. Raises ValueError without a positive.
    """
    positive = np.asarray(labels).astype(bool)
    if scores.ndim != 2 or positive.shape != scores.shape[1:]:
        raise ValueError(f"scores {scores.shape} and labels {positive.shape} do not fit: expected [n, m] and [m]")
    if not positive.any():
        raise ValueError("average precision needs at least one positive example")
    order = np.argsort(scores, axis=1)[:, ::-1]
    ordered = np.take_along_axis(scores, order, axis=1)
    hits = np.cumsum(positive[order], axis=1, dtype=np.float64)
    precision = hits / np.arange(1, scores.shape[1] + 1)
    last_of_tie = np.ones(scores.shape, dtype=bool)
    last_of_tie[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    # Recall rises where a group of ties ends, by the hits since the end of the group before.
    hits_at_ends = np.where(last_of_tie, hits, 0)
    before = np.maximum.accumulate(np.pad(hits_at_ends, ((0, 0), (1, 0)))[:, :-1], axis=1)
    ap = np.sum(np.where(last_of_tie, (hits - before) * precision, 0), axis=1) / positive.sum()
    return np.where(np.isnan(scores).any(axis=1), np.nan, ap)
