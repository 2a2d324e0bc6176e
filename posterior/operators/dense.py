"""A linear operator given by its matrix, for small problems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posterior.operators.base import LinearOperator


class Dense(LinearOperator):
    """y = M vec(x), measurement shape (m, 1, 1).

    Args:
        matrix: M, (m, C * H * W).
        image_shape: (C, H, W).
    """

    def __init__(self, matrix: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self.matrix = matrix

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (len(self.matrix), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.mT).view(-1, *self.measurement_shape)

    def adjoint(self, v: Tensor) -> Tensor:
        return (v.flatten(1) @ self.matrix).view(-1, *self.image_shape)

    def norm(self) -> Tensor:
        return torch.linalg.matrix_norm(self.matrix.cpu().double(), 2)
