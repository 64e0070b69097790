import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from actlake.kernels.average_precision import average_precision

DTYPES = [np.float16, np.float32, np.float64]


@settings(max_examples=200, deadline=None)
@given(
    neurons=st.integers(1, 6),
    examples=st.integers(1, 40),
    levels=st.integers(1, 12),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_scikit_learn_with_ties(neurons: int, examples: int, levels: int, dtype: type, seed: int) -> None:
    r = np.random.default_rng(seed)
    scores = (r.integers(-levels, levels + 1, (neurons, examples)) / 4).astype(dtype)
    labels = r.integers(0, 2, examples)
    labels[r.integers(examples)] = 1
    expected = [average_precision_score(labels, row) for row in scores.astype(np.float64)]
    np.testing.assert_allclose(average_precision(scores, labels), expected, rtol=0, atol=1e-12)


def test_zeros_of_both_signs_and_infinities_tie_as_in_scikit_learn() -> None:
    scores = np.array([[0.0, -0.0, 1.0, -0.0, 0.0]], dtype=np.float32)
    labels = np.array([1, 0, 0, 1, 0])
    assert average_precision(scores, labels)[0] == pytest.approx(average_precision_score(labels, scores[0]), abs=1e-15)
    top = np.array([[np.inf, np.inf, -np.inf, 3.0]], dtype=np.float32)
    finite = np.array([9.0, 9.0, -9.0, 3.0])
    labels = np.array([1, 0, 1, 1])
    assert average_precision(top, labels)[0] == pytest.approx(average_precision_score(labels, finite), abs=1e-15)


def test_equal_columns_give_the_share_of_positives() -> None:
    assert average_precision(np.full((1, 8), 2.5), np.array([1, 0, 0, 0, 1, 0, 0, 0]))[0] == 0.25


def test_nan_gives_nan_for_that_neuron_only() -> None:
    scores = np.array([[1.0, np.nan, 0.0], [3.0, 2.0, 1.0]])
    found = average_precision(scores, np.array([1, 0, 1]))
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(5 / 6)


def test_refuses_labels_without_a_positive_and_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="at least one positive"):
        average_precision(np.ones((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="do not fit"):
        average_precision(np.ones((2, 3)), np.ones(4))
