"""Linear operators and their matrices, for small problems."""

from __future__ import annotations

import math
from collections.abc import Sequence

import scipy.sparse.csgraph
import torch
from torch import Tensor

from posterior import waits
from posterior.operators.base import Diagonal, LinearOperator


def matrix_of(operator: LinearOperator, device: torch.device | str = "cpu", block: int = 512) -> Tensor:
    """A of one image, (M, d), in float64, on the operator's device: A of the unit images, ``block`` at a time."""
    basis = torch.eye(math.prod(operator.image_shape), dtype=torch.float64, device=device)
    wide = operator.to(torch.float64)
    columns = [wide.forward(part.view(-1, *operator.image_shape)).flatten(1) for part in basis.split(block)]
    return torch.cat(columns).mT.contiguous()


def blocks_of(gram: Tensor) -> list[Tensor]:
    """Which rows of a symmetric matrix (n, n), on the CPU, belong together: (count, size), a tensor for each size.

    Entries below 1e-12 of the largest are rounding. A A^T and A^T A fall apart by colours where A does not mix them,
    and further where it measures pixels one by one.
    """
    linked = scipy.sparse.csr_array((gram.abs() > 1e-12 * gram.abs().max()).numpy())
    labels = torch.from_numpy(scipy.sparse.csgraph.connected_components(linked, directed=False)[1])
    sizes = labels.bincount()
    blocks = labels.argsort(stable=True).split(sizes.tolist())
    return [torch.stack([block for block in blocks if len(block) == size]) for size in sizes.unique().tolist()]


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

    def view(self, y: Tensor) -> Tensor:
        """A^T y: y itself is no picture."""
        return self.adjoint(y).clamp(-1, 1)

    def norm(self) -> Tensor:
        return waits.on_host("operator norm", _spectral_norm, self.matrix)

    def diagonal(self) -> Diagonal | None:
        if self.matrix.shape[1] > 4096:  # a d x d decomposition costs more than it saves: conjugate gradients
            return None
        values, vectors = torch.linalg.eigh(self.matrix.mT.double() @ self.matrix.double())
        basis = vectors.to(self.matrix)

        def turn(x: Tensor, matrix: Tensor) -> Tensor:
            return (x.flatten(1) @ matrix).view_as(x)

        gains = values.clamp_min(0).to(self.matrix).view(1, *self.image_shape)
        return Diagonal(gains, lambda x: turn(x, basis), lambda c: turn(c, basis.mT))


def _spectral_norm(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix.double(), 2)
