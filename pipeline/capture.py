"""The forward pass with hooks: hand every captured tensor to a sink, and stop after the last one.

A hook sees a tensor while the model is still running: whoever receives it must copy what it needs at once, since
fused kernels and in-place residuals overwrite their buffers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ..errors import ModelError
from .batches import Batch
from .model import forward_arguments
from .sites import Point

Sink = Callable[[Point, torch.Tensor], None]


class _AllCaptured(Exception):  # noqa: N818 - it carries no fault: it ends the forward pass
    """Nothing more is wanted of this forward pass: the blocks above and the LM head are not run."""


class Capture:
    """Hooks on `points` of `model`, for as long as `hooks()` is open."""

    def __init__(self, model: torch.nn.Module, points: list[Point]) -> None:
        self._model = model
        self._points = points
        self._arguments = forward_arguments(model)
        self._sink: Sink | None = None
        self._positions = 0  # batch x padded length of the batch in flight
        self._waiting: set[tuple[str, int]] = set()

    @contextmanager
    def hooks(self) -> Iterator[None]:
        modules = dict(self._model.named_modules())
        handles = []
        try:
            for point in self._points:
                module = modules[point.module]
                if point.side == "input":
                    hook = partial(self._on_input, point)
                    handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    handles.append(module.register_forward_hook(partial(self._on_output, point)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def forward(self, batch: Batch, sink: Sink) -> None:
        """Run `batch` and call `sink(point, values [batch x padded length, width])` once for every point.

        Rows of `values` are the batch's positions in row-major order, pads included. Raises ModelError when a hook did
        not fire or when the captured tensor does not have one row per position.
        """
        self._sink, self._positions = sink, batch.input_ids.numel()
        self._waiting = {(p.site, p.plane) for p in self._points}
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "use_cache": False,
        }
        try:
            self._model(**{name: value for name, value in inputs.items() if name in self._arguments})
        except _AllCaptured:
            pass
        finally:
            self._sink = None
        if self._waiting:
            site, plane = min(self._waiting)
            module = next(p.module for p in self._points if (p.site, p.plane) == (site, plane))
            raise ModelError(
                f"The module {module} of the site {site} exists but was never called in the forward pass, so nothing of "
                "it can be captured: the model computes it another way. Choose another site or module path."
            )

    def _on_input(self, point: Point, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._take(point, (*args, *kwargs.values()))

    def _on_output(self, point: Point, _: Any, __: Any, output: Any) -> None:
        self._take(point, output if isinstance(output, tuple) else (output,))

    def _take(self, point: Point, found: tuple[Any, ...]) -> None:
        if self._sink is None:
            return  # someone else is using the model
        if (point.site, point.plane) not in self._waiting:
            raise ModelError(
                f"The module {point.module} was called twice in one forward pass; it has no single value to keep."
            )
        value = found[point.item] if point.item < len(found) else None
        if (
            not isinstance(value, torch.Tensor)
            or value.numel() % self._positions
            or value.shape[-1] * self._positions != value.numel()
        ):
            shape = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ModelError(
                f"The {point.side} {point.item} of {point.module} is {shape}; expected one row for each of the "
                f"{self._positions} positions of the batch. Choose another module, or :{point.side}.N for another item."
            )
        self._sink(point, value.reshape(self._positions, -1))
        self._waiting.remove((point.site, point.plane))
        if not self._waiting:
            raise _AllCaptured


def widths(model: torch.nn.Module, points: list[Point], batch: Batch) -> dict[str, int]:
    """The width of every site, from one forward pass; `model` may be on the meta device.

    Raises ModelError when a site's layers differ in width (they could not share an array).
    """
    found: dict[str, set[int]] = {}
    capture = Capture(model, points)
    with capture.hooks():
        capture.forward(batch, lambda point, values: found.setdefault(point.site, set()).add(values.shape[1]))
    for site, sizes in found.items():
        if len(sizes) > 1:
            raise ModelError(f"The site {site} has blocks of different widths {sorted(sizes)}: choose layers of one width.")
    return {site: sizes.pop() for site, sizes in found.items()}
