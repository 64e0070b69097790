"""Pooling over the tokens of an example: one value a neuron from a segment of rows."""

from typing import Literal

import torch

Pool = Literal["max", "mean", "min"]


def pool(values: torch.Tensor, segments: list[tuple[int, int]], operation: Pool) -> torch.Tensor:
    """Reduce each segment [start, stop) of `values` [rows, width] to one row: [segments, width].

    max and min keep the dtype; mean is accumulated and returned in float32. A NaN in a segment gives NaN. Segments may
    differ in length, overlap or leave rows out (pads); an empty one raises ValueError.
    """
    dtype = torch.float32 if operation == "mean" else values.dtype
    out = torch.empty((len(segments), values.shape[1]), dtype=dtype, device=values.device)
    for i, (start, stop) in enumerate(segments):
        if stop <= start:
            raise ValueError(f"segment {i} is empty: [{start}, {stop})")
        rows = values[start:stop]
        if operation == "max":
            torch.amax(rows, 0, out=out[i])
        elif operation == "min":
            torch.amin(rows, 0, out=out[i])
        else:
            out[i] = rows.mean(0, dtype=torch.float32)
    return out
