"""The singular vectors of linear operators whose matrix is small."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posterior.operators.base import Diagonal, LinearOperator
from posterior.operators.dense import matrix_of

MOST_COLUMNS = 4096
"""Numbers of an image up to which a decomposition costs less than it saves; beyond it conjugate gradients solve."""


def gram_basis(operator: LinearOperator, like: Tensor) -> Diagonal | None:
    """The basis in which A^T A is diagonal, from its eigenvectors in float64; None beyond `MOST_COLUMNS`.

    Args:
        operator: the same for all images.
        like: a tensor of the operator, whose device and dtype the basis gets.
    """
    if math.prod(operator.image_shape) > MOST_COLUMNS:
        return None
    matrix = matrix_of(operator, like.device)
    values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    basis, gains = vectors.to(like), values.clamp_min(0).to(like).view(1, *operator.image_shape)

    def turned(x: Tensor, by: Tensor) -> Tensor:
        return (x.flatten(1) @ by).view_as(x)

    return Diagonal(gains, lambda x: turned(x, basis), lambda c: turned(c, basis.mT))


def own_range(picture: Tensor) -> Tensor:
    """Pictures (B, C, H, W), each stretched from its least and greatest value to [-1, 1], to look at."""
    low, high = picture.amin(dim=(1, 2, 3), keepdim=True), picture.amax(dim=(1, 2, 3), keepdim=True)
    return 2 * (picture - low) / (high - low).clamp_min(1e-30) - 1
