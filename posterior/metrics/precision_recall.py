"""Precision and recall of a set of pictures: how many look real, and how much of what is real they reach."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior.checks import whole
from posterior.errors import UserError

BLOCK = 2048
"""Rows of a matrix of distances at a time: 164 MB in float64 against 10,000."""


def precision_recall(samples: Tensor, real: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of samples within the manifold of real pictures, and of real pictures within that of samples.

    A set's manifold is the union of balls around its features, each as large as the distance to the ``neighbours``-th
    nearest other one. Source: Kynkaanniemi, Karras, Laine, Lehtinen and Aila, "Improved Precision and Recall Metric for
    Assessing Generative Models", NeurIPS 2019, equations 1 and 2. Both depend on the sets' sizes: compare equal ones,
    and with the value of two real sets.

    Args:
        samples, real: features (N, D), (M, D).
        neighbours: k, >= 1, below N and M.

    Raises:
        UserError: if a set has no more than k rows, a number of features differs, or a value is not finite.
    """
    whole("precision_recall", "neighbours", neighbours, 1, min(len(samples), len(real)) - 1)
    if samples.shape[1:] != real.shape[1:]:
        raise UserError(f"precision_recall: features {tuple(samples.shape[1:])} and {tuple(real.shape[1:])}")
    if not (samples.isfinite().all() and real.isfinite().all()):
        raise UserError("precision_recall: a feature is NaN or infinite")
    samples, real = samples.double(), real.double()
    return _share_within(samples, real, neighbours), _share_within(real, samples, neighbours)


def _share_within(x: Tensor, other: Tensor, neighbours: int) -> float:
    """Share of x (N, D) within the manifold of other (M, D)."""
    radii = [torch.cdist(part, other).kthvalue(neighbours + 1, dim=1).values for part in other.split(BLOCK)]
    inside = [(torch.cdist(part, other) <= torch.cat(radii)).any(dim=1) for part in x.split(BLOCK)]
    return float(torch.cat(inside).double().mean())
