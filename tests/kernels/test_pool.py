import numpy as np
import pytest
import torch

from actlake.kernels.median import median
from actlake.kernels.pool import pool

OPERATIONS = {"max": np.max, "min": np.min, "mean": np.mean}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-6), (torch.float16, 1e-6)])
def test_equals_numpy_on_segments_of_odd_lengths(operation: str, dtype: torch.dtype, tolerance: float) -> None:
    values = torch.randn(50, 17, generator=torch.Generator().manual_seed(1)).to(dtype)
    segments = [(0, 1), (1, 8), (10, 50), (7, 9)]
    found = pool(values, segments, operation)  # type: ignore[arg-type]
    assert found.dtype == (torch.float32 if operation == "mean" else dtype)
    for row, (start, stop) in zip(found.double().numpy(), segments, strict=True):
        expected = OPERATIONS[operation](values[start:stop].double().numpy(), axis=0)
        np.testing.assert_allclose(row, expected, rtol=tolerance, atol=tolerance)


def test_nan_is_not_hidden_and_rows_outside_do_not_count() -> None:
    values = torch.zeros(4, 2)
    values[1, 0] = torch.nan
    values[3] = 100  # a pad
    found = pool(values, [(0, 3)], "max")
    assert torch.isnan(found[0, 0])
    assert found[0, 1] == 0


def test_refuses_an_empty_segment() -> None:
    with pytest.raises(ValueError, match="empty"):
        pool(torch.zeros(4, 2), [(2, 2)], "max")


def test_median_is_numpys() -> None:
    values = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    np.testing.assert_array_equal(median(values), np.median(values.astype(np.float64), axis=1))
