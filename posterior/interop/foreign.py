"""Measurements by another library's linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from posterior import waits
from posterior.errors import UserError
from posterior.operators.base import LinearOperator, Operator


class ForeignOperator(LinearOperator):
    """A linear map that knows only how to be applied; measurements are seen as (B, m, 1, 1).

    The adjoint is autograd's, so that it is the exact transpose. What differs from image to image within the map stays
    as it is, so that other rows than all in their order cannot be taken from it.

    Args:
        apply: A x, (B, C, H, W) -> (B, ...), differentiable.
        image_shape: (C, H, W).
        y: a measurement (B, ...): its size, and the dtype and device of which A is.
    """

    def __init__(self, apply: Callable[[Tensor], Tensor], image_shape: Sequence[int], y: Tensor) -> None:
        super().__init__(image_shape)
        self.apply = apply
        self.count, self.size = len(y), y[0].numel()
        self.device, self.dtype = y.device, y.dtype

    def rows(self, index: Tensor) -> Self:
        """Itself.

        Raises:
            UserError: if the rows are not those of the measurements in their order.
        """
        own = torch.arange(self.count, device=index.device)
        if len(index) != self.count or not waits.fetch("rows of a foreign operator", (index == own).all()):
            raise UserError("a sampler with particles, or more than one at once, needs an operator of this library")
        return self

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (self.size, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply(x).reshape(len(x), *self.measurement_shape)

    def adjoint(self, v: Tensor) -> Tensor:
        return Operator.vjp(self, v.new_zeros(len(v), *self.image_shape), v)

    def norm(self) -> Tensor:
        """A bound on ||A|| of any of the images, (): power iteration, and 2 % more."""
        x = torch.randn(1, *self.image_shape, generator=torch.Generator().manual_seed(0)).to(self.device, self.dtype)
        x, length = x.expand(self.count, -1, -1, -1), x.new_ones(1, 1, 1, 1)
        for _ in range(100):
            x = self.adjoint(self.forward(x / length))
            length = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
        return 1.02 * length.max().sqrt()
