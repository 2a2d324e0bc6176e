"""What an operator sees of decoded latents."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from posterior.operators.base import Operator


class Decoded(Operator):
    """z -> A(g(z)), g a decoder: the measurement map of latents. It is not linear, even where A is.

    Args:
        operator: A, of images (B, C, H, W).
        decode: g, (B, c, h, w) -> (B, C, H, W), differentiable, each row by itself. It stays where it is: `to` moves A.
        latent_shape: (c, h, w).
    """

    def __init__(self, operator: Operator, decode: Callable[[Tensor], Tensor], latent_shape: Sequence[int]) -> None:
        super().__init__(latent_shape)
        self.operator, self.decode = operator, decode

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.operator.measurement_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.forward(self.decode(x))

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            images = self.decode(x)
        (grad,) = torch.autograd.grad(images, x, self.operator.vjp(images.detach(), v))
        return grad

    def restrict(self, y: Tensor) -> Tensor:
        return self.operator.restrict(y)

    def num_measured(self) -> Tensor:
        return self.operator.num_measured()

    def view(self, y: Tensor) -> Tensor:
        return self.operator.view(y)

    def parameters_view(self) -> Tensor | None:
        return self.operator.parameters_view()

    def rows(self, index: Tensor) -> Self:
        return self._of(self.operator.rows(index))

    def to(self, device: torch.device | str | torch.dtype) -> Self:
        return self._of(self.operator.to(device))

    def _of(self, operator: Operator) -> Self:
        other = copy.copy(self)
        other.operator = operator
        return other
