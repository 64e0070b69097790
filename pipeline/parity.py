"""The parity receipt: how far what is captured is from plain transformers, on a few of the run's own texts.

The reference is as plain as can be: each text alone, no pads, the full model to its LM head, and hooks that keep a copy.
"""

from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from .batches import make_batch
from .capture import Capture
from .prepare import Prepared
from .sites import Point

# Largest difference allowed, as a share of the largest value of the layer.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1.5e-1}
_TEXTS = 3
_LONGEST = 256  # tokens; enough to see an error of masks or positions, and cheap


def parity_receipt(model: torch.nn.Module, points: list[Point], prepared: Prepared, device: torch.device) -> dict[str, Any]:
    """Compare a padded, truncated, hooked batch with plain forward passes: {site: largest difference} and more.

    Raises ModelError when a site is off by more than the tolerance of the dtype.
    """
    chosen = _choose(prepared.tokens.lengths)
    batch = make_batch(prepared.tokens, chosen, prepared.pad_id, prepared.request.spec.capture.padding, device)
    captured: dict[tuple[str, int], torch.Tensor] = {}
    capture = Capture(model, points)
    with capture.hooks():
        capture.forward(batch, lambda point, values: captured.update({(point.site, point.plane): values.clone()}))

    worst = {point.site: (0.0, 0.0) for point in points}  # relative, absolute
    for i, example in enumerate(chosen):
        ids = torch.from_numpy(prepared.tokens.ids_of(example).astype(np.int64)).to(device)
        start = int(batch.starts[i])
        for point, reference in _plain_forward(model, points, ids).items():
            found = captured[point.site, point.plane][start : start + len(ids)]
            off, scale = _difference(found.float(), reference.float())
            relative, absolute = worst[point.site]
            worst[point.site] = max(relative, off / scale), max(absolute, off)

    tolerance = TOLERANCE[prepared.dtype]
    bad = {site: relative for site, (relative, _) in worst.items() if not relative <= tolerance}
    if bad:
        raise ModelError(
            f"What is captured differs from plain transformers by more than {tolerance:g} of a layer's largest value: "
            f"{', '.join(f'{site} by {r:.2g}' for site, r in bad.items())}. Nothing was stored. Padding or position ids may "
            "not be supported by this model's code; try capture.padding: left or right."
        )
    return {
        "texts": [prepared.request.examples.ids[i] for i in chosen],
        "tokens": int(prepared.tokens.lengths[chosen].sum()),
        "dtype": prepared.dtype,
        "tolerance": tolerance,
        "relative": {site: relative for site, (relative, _) in worst.items()},
        "absolute": {site: absolute for site, (_, absolute) in worst.items()},
    }


def _choose(lengths: np.ndarray) -> np.ndarray:
    """The shortest, the middle and the longest of the texts that are not too long; else the shortest alone."""
    order = np.argsort(lengths, kind="stable")
    short = order[lengths[order] <= _LONGEST]
    if not len(short):
        return order[:1]
    return np.unique(short[np.linspace(0, len(short) - 1, _TEXTS).astype(int)])


@torch.inference_mode()
def _plain_forward(model: torch.nn.Module, points: list[Point], ids: torch.Tensor) -> dict[Point, torch.Tensor]:
    found: dict[Point, torch.Tensor] = {}

    def keep(point: Point, values: Any) -> None:
        value = values[point.item] if isinstance(values, tuple) else values
        found[point] = value.reshape(len(ids), -1).clone()

    handles = []
    for point in points:
        module = model.get_submodule(point.module)
        if point.side == "input":
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, p=point: keep(p, (*args, *kwargs.values())), with_kwargs=True
                )
            )
        else:
            handles.append(module.register_forward_hook(lambda _, __, output, p=point: keep(p, output)))
    try:
        model(input_ids=ids[None])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _difference(found: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """(largest difference, largest value); infinite where only one of the two is finite."""
    if not torch.equal(found.isfinite(), reference.isfinite()):
        return float("inf"), 1.0
    difference = torch.nan_to_num(found - reference, 0.0, 0.0, 0.0).abs().max().item()
    scale = torch.nan_to_num(reference, 0.0, 0.0, 0.0).abs().max().item()
    return difference, scale or 1.0
