"""Medians of many neurons at once."""

import numpy as np


def median(values: np.ndarray) -> np.ndarray:
    """Median over the last axis, as `numpy.median`, float64. A slice with a NaN gives NaN."""
    return np.median(np.asarray(values, dtype=np.float64), axis=-1)
