"""Measurements by another library's linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from posterior import waits
from posterior.errors import UserError
from posterior.operators.function import LinearFunctionOperator


class ForeignOperator(LinearFunctionOperator):
    """A linear map that knows only how to be applied, and may differ from image to image.

    What differs stays within the map as it is, so that other rows than all in their order cannot be taken from it.

    Args:
        apply: A x, (B, C, H, W) -> (B, ...), differentiable.
        image_shape: (C, H, W).
        y: the measurements (B, ...).
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], image_shape: Sequence[int], y: Tensor) -> None:
        super().__init__(apply, image_shape, y, len(y))

    def rows(self, index: Tensor) -> Self:
        """Itself.

        Raises:
            UserError: if the rows are not those of the measurements in their order.
        """
        own = torch.arange(self.count, device=index.device)
        if len(index) != self.count or not waits.fetch("rows of a foreign operator", (index == own).all()):
            raise UserError("a sampler with particles, or more than one at once, needs an operator of this library")
        return self
