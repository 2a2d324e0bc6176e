"""Measurements by another library's linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from posterior import waits
from posterior.errors import UserError
from posterior.operators.function import ROUNDING, LinearFunctionOperator
from posterior.random import Streams


class ForeignOperator(LinearFunctionOperator):
    """A linear map that knows only how to be applied, and may differ from image to image.

    Entries at which A x is 0 for both images that it is tried on are not measured. What differs stays within the map as
    it is, so that other rows than all in their order cannot be taken from it.

    Args:
        apply: A x, (B, C, H, W) -> (B, ...), differentiable.
        image_shape: (C, H, W).
        y: the measurements (B, ...).
        who: that asks, for messages.

    Raises:
        UserError: if A x has another shape than y, or A is not linear: tried on two normal images.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], image_shape: Sequence[int], y: Tensor, who: str) -> None:
        x, z = Streams(0, ["x", "z"], device=y.device).randn("images", tuple(image_shape), y.dtype).split(1)
        of_x, of_z, of_both = (apply(one.expand(len(y), -1, -1, -1)) for one in (x, z, 2 * x - 3 * z))
        if of_x.shape != y.shape:
            raise UserError(f"{who}: A gives {tuple(of_x.shape)}, y is {tuple(y.shape)}")
        gap, size = torch.linalg.vector_norm(torch.stack([of_both - 2 * of_x + 3 * of_z, of_both]).flatten(1), dim=1)
        if not waits.fetch("linear?", gap <= ROUNDING * size):
            raise UserError(f"{who}: A is not linear, A (2 x - 3 z) is not 2 A x - 3 A z: leave noise and offsets out")
        seen = ((of_x != 0) | (of_z != 0)).flatten(1)[..., None, None].to(y.dtype)
        super().__init__(apply, image_shape, y, len(y), None if seen.all() else seen)

    def rows(self, index: Tensor) -> Self:
        """Itself.

        Raises:
            UserError: if the rows are not those of the measurements in their order.
        """
        own = torch.arange(self.count, device=index.device)
        if len(index) != self.count or not waits.fetch("rows of a foreign operator", (index == own).all()):
            raise UserError("a sampler with particles, or more than one at once, needs an operator of this library")
        return self
