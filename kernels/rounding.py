"""Rounding to fewer mantissa bits.

Batched arithmetic breaks exact ties at random, by about 1e-7 in float32; a ranking should not see that.
"""

import numpy as np

MANTISSA_BITS = 23  # stored ones of a float32; with the implicit one, a value has 24 significant bits


def round_significant(values: np.ndarray, bits: int) -> np.ndarray:
    """float32 `values` rounded to `bits` significant bits (1 to 24), to nearest, ties to even.

    Infinities and NaN stay; a value that rounds beyond the largest float32 becomes infinite.
    """
    if not 1 <= bits <= MANTISSA_BITS + 1:
        raise ValueError(f"significant bits must be 1 to {MANTISSA_BITS + 1}, not {bits}")
    values = np.ascontiguousarray(values, dtype=np.float32)
    drop = np.uint32(MANTISSA_BITS + 1 - bits)
    if drop == 0:
        return values
    raw = values.view(np.uint32)
    half = np.uint32((1 << (int(drop) - 1)) - 1)
    rounded = (raw + half + ((raw >> drop) & np.uint32(1))) >> drop << drop
    return np.where(np.isfinite(values), rounded.view(np.float32), values)
