"""Distances between sets of pictures: Fréchet and kernel distance of their features (FID, KID), in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from posterior.errors import UserError
from posterior.metrics.features import PixelFeatures, decode, read_features


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (N, D), (M, D); float64.

    ||mean_x - mean_y||^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) (Heusel et al., NeurIPS 2017); it falls as the sets grow.

    Raises:
        ValueError: if a set has fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("frechet_distance needs at least two rows in each set")
    x, y = x.double(), y.double()
    values, vectors = torch.linalg.eigh(x.T.cov())
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ y.T.cov() @ root).clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * cross)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of two sets of features, kernel (a . b / D + 1)^3 (KID; Binkowski et al., ICLR 2018).

    Unlike the Fréchet distance its mean does not depend on the sets' sizes; it can be negative.

    Args:
        x, y: features (N, D), (M, D).

    Raises:
        ValueError: if a set has fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("kernel_distance needs at least two rows in each set")
    return float(_within(x).mean() + _within(y).mean() - 2 * _kernel(x, y).mean())


def kernel_distance_left_out(x: Tensor, y: Tensor) -> Tensor:
    """`kernel_distance` without row i of x, for every i, (N,): for jackknife errors, also of paired differences.

    Raises:
        ValueError: if x has fewer than three rows or y fewer than two.
    """
    if len(x) < 3 or len(y) < 2:
        raise ValueError("kernel_distance_left_out needs three rows of x and two of y")
    n = len(x)
    within, between = _within(x), _kernel(x, y).mean(dim=1)
    # the mean over ordered pairs without i: of the n (n - 1) pairs, 2 (n - 1) hold i
    without = (within.sum() * (n - 1) - 2 * within * (n - 1)) / ((n - 1) * (n - 2))
    return without + _within(y).mean() - 2 * (between.sum() - between) / (n - 1)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def _within(x: Tensor) -> Tensor:
    """Each row's mean kernel with the other rows."""
    kernel = _kernel(x, x)
    return (kernel.sum(dim=1) - kernel.diagonal()) / (len(x) - 1)


class FeatureDistance(nn.Module):
    """FID and KID of a run: of the first sample of every image, against a reference set.

    Each image's features go into the journal, so that a resumed run has them all; the distances are computed from there
    in float64 at the end.

    Args:
        network: e.g. `Inception`.
        reference: .npz of `python -m benchmarks reference-features`; None: the run's own true images.

    Raises:
        UserError: if the reference is missing, or was made with another network.
    """

    def __init__(self, network: PixelFeatures, reference: Path | None = None) -> None:
        super().__init__()
        self.network = network
        self.reference = None if reference is None else Path(reference)
        if self.reference is not None:
            read_features(self.reference, network.name, network.dimension)  # complain before the run, not after it

    @property
    def name(self) -> str:
        """The network's."""
        return self.network.name


def distances(
    records: Sequence[Mapping[str, object]], references: Mapping[str, str | None]
) -> dict[str, dict[str, float | int | str | None]]:
    """FID and KID by feature network, from a run's records.

    Args:
        records: those of sample 0 and, where the reference is the run's own truth, of sample "truth", with
            ``features``: network -> `encode`\\ d row.
        references: network -> file of reference features; None: the truth.

    Returns:
        network -> fid, kid (None with fewer than two images on a side), images, reference images, reference, and a
        warning (or None).

    Raises:
        UserError: if the reference's file cannot be used, or has not as many features an image as the run.
    """
    found = {}
    for network, file in references.items():
        rows: dict[object, list[np.ndarray]] = {0: [], "truth": []}
        for record in records:
            features = record.get("features")
            if record["sample"] in rows and isinstance(features, Mapping) and network in features:
                rows[record["sample"]].append(decode(str(features[network])))
        ours = torch.from_numpy(np.stack(rows[0])) if rows[0] else torch.zeros(0, 1)
        if file is not None:
            theirs = read_features(Path(file), network)
        else:
            theirs = torch.from_numpy(np.stack(rows["truth"])) if rows["truth"] else torch.zeros(0, 1)
        known = min(len(ours), len(theirs)) >= 2
        if known and ours.shape[1] != theirs.shape[1]:
            raise UserError(
                f"the reference of {network}, {file}, has {theirs.shape[1]} features an image, the images of this run "
                f"have {ours.shape[1]}: make it with the same network"
            )
        few = known and min(len(ours), len(theirs)) < ours.shape[1]
        found[network] = {
            "fid": frechet_distance(ours, theirs) if known else None,
            "kid": kernel_distance(ours, theirs) if known else None,
            "images": len(ours),
            "reference_images": len(theirs),
            "reference": "the run's true images" if file is None else str(file),
            "warning": (
                f"fewer images than the {ours.shape[1]} features: FID is biased upwards, compare it only with sets of "
                "the same size"
                if few
                else None
            ),
        }
    return found
