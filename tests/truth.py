"""The exact posterior of a Gaussian problem, and samples held against it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posterior import Streams


class WideStreams(Streams):
    """Streams of float64: for problems that are given so."""

    def __init__(self, rows: int) -> None:
        super().__init__(0, [str(number) for number in range(rows)])

    def randn(self, purpose: str, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        return super().randn(purpose, shape, torch.float64)


def posterior(mu: Tensor, covariance: Tensor, matrix: Tensor, y: Tensor, sigma_y: float) -> tuple[Tensor, Tensor]:
    """Mean (n,) and covariance (n, n) of x0 ~ N(mu, covariance) given y = A x0 + sigma_y n.

    Args:
        mu: (n,).
        covariance: (n, n).
        matrix: A, (m, n).
        y: (m,).
        sigma_y: > 0.
    """
    of_y = matrix @ covariance @ matrix.mT + sigma_y**2 * torch.eye(len(matrix), dtype=matrix.dtype)
    gain = torch.linalg.solve(of_y, matrix @ covariance).mT
    return mu + gain @ (y - matrix @ mu), covariance - gain @ matrix @ covariance


def whitened(samples: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Samples (N, ...) in the coordinates in which the exact posterior is N(0, I), (N, n)."""
    root = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(root, (samples.flatten(1).double() - mean).mT, upper=False).mT
