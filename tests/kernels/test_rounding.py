import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlake.kernels.rounding import round_significant

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@given(value=FLOATS, bits=st.integers(1, 24))
def test_rounds_to_nearest_of_that_many_bits(value: float, bits: int) -> None:
    found = float(round_significant(np.array([value], dtype=np.float32), bits)[0])
    mantissa, exponent = np.frexp(np.float64(value))
    expected = float(np.ldexp(np.rint(mantissa * 2**bits) / 2**bits, exponent))  # rint: ties to even
    assert found == expected or abs(expected) > np.finfo(np.float32).max


def test_makes_noise_ties_and_keeps_differences() -> None:
    noisy = np.float32(3.3) * (1 + np.array([0, 1e-7, -1e-7], dtype=np.float32))
    assert len(set(round_significant(noisy, 12).tolist())) == 1
    assert len(set(round_significant(np.array([1.0, 1.01], dtype=np.float32), 12).tolist())) == 2


def test_leaves_what_is_not_finite() -> None:
    found = round_significant(np.array([np.inf, -np.inf, np.nan], dtype=np.float32), 5)
    assert found[0] == np.inf
    assert found[1] == -np.inf
    assert np.isnan(found[2])


def test_refuses_more_bits_than_there_are() -> None:
    with pytest.raises(ValueError, match="1 to 24"):
        round_significant(np.zeros(1, dtype=np.float32), 25)
