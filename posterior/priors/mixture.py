"""Gaussian mixtures: multi-modal priors whose posteriors are known exactly, from a few numbers to small images."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from posterior import waits
from posterior.checkpoint import check_values
from posterior.checks import MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.priors.base import ClosedFormPrior
from posterior.reading import read_state

OVERSAMPLING = 8
"""Directions beyond the rank that the fit follows, so that the last ones wanted converge."""


class GaussianMixturePrior(ClosedFormPrior):
    """p(x) = sum_k w_k N(m_k, S_k) with S_k = U_k diag(v_k - s_k) U_k^T + s_k I: low rank plus a multiple of I.

    A mixture of probabilistic PCA (Tipping and Bishop, Neural Computation 1999), or, with as many directions as
    dimensions, of any Gaussians (`full`). Smoothing and a noisy view of x itself leave the form as it is.

    Args:
        weights: w, (K,), > 0, summing to 1.
        means: m, (K, C, H, W).
        directions: U, (K, d, r), orthonormal columns, d = C H W.
        variances: v, (K, r), > 0, along the directions.
        rest: s, (K,), > 0, the variance in every other direction (of no effect if r = d).

    Raises:
        UserError: if shapes do not fit, weights do not sum to 1 or a variance is not positive.
    """

    weights: Tensor
    means: Tensor
    directions: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(self, weights: Tensor, means: Tensor, directions: Tensor, variances: Tensor, rest: Tensor) -> None:
        super().__init__()
        count, size, rank = len(weights), means[0].numel(), variances.shape[-1]
        shapes = (means.shape[0], *directions.shape, *variances.shape, *rest.shape)
        if means.ndim != 4 or shapes != (count, count, size, rank, count, rank, count):
            raise UserError("GaussianMixturePrior: weights, means, directions and variances do not fit together")
        if not torch.isclose(weights.sum(), torch.ones_like(weights[0])) or not weights.min() >= 0:
            raise UserError("GaussianMixturePrior: weights must be >= 0 and sum to 1")
        if not min(variances.min(), rest.min()) > 0:  # so that NaN is refused, too
            raise UserError("GaussianMixturePrior: a covariance is not positive definite")
        if not all(torch.isfinite(value).all() for value in (means, directions, variances, rest)):
            raise UserError("GaussianMixturePrior: holds NaN or infinite values")
        least = variances.min() if rank == size else torch.minimum(variances.min(), rest.min())
        self.least_variance = float(least)
        self.channels, self.size, self.size_multiple = means.shape[1], (means.shape[2], means.shape[3]), None
        for name, value in zip(self.PARTS, (weights, means, directions, variances, rest), strict=True):
            self.register_buffer(name, value)

    PARTS = ("weights", "means", "directions", "variances", "rest")

    @classmethod
    def full(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixturePrior:
        """Of covariance matrices (K, d, d), symmetric positive definite.

        Raises:
            UserError: see the class.
        """
        variances, directions = torch.linalg.eigh(covariances)
        return cls(weights, means, directions, variances, torch.ones_like(weights))

    @classmethod
    def from_file(cls, path: Path) -> GaussianMixturePrior:
        """Of a file written by `save`.

        Raises:
            UserError: naming the file, if it is missing or holds something else.
        """
        state, name = read_state(path, "mixture"), f"mixture {path}"
        if {key: value.ndim for key, value in state.items()} != dict(zip(cls.PARTS, (1, 4, 3, 2, 1), strict=True)):
            raise UserError(
                f"{name} is not a file of a Gaussian mixture: it must hold {', '.join(cls.PARTS)} of 1, 4, 3, 2 and 1 "
                "dimensions"
            )
        if not all(value.numel() for value in state.values()):
            raise UserError(f"{name} is not a file of a Gaussian mixture: a part of it is empty")
        check_values(state, dict.fromkeys(cls.PARTS, torch.float32), name)
        parts = {key: value.float() for key, value in state.items()}
        parts["directions"], _ = torch.linalg.qr(parts["directions"])  # orthonormal again, if they were rounded
        try:
            return cls(*(parts[name] for name in cls.PARTS))
        except UserError as error:
            raise UserError(f"{name} is not a file of a Gaussian mixture: {error}") from error

    def save(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a safetensors file; the directions are stored in ``dtype``, all else in float32."""
        parts = {name: getattr(self, name).float().cpu().contiguous() for name in self.PARTS}
        safetensors.torch.save_file(parts | {"directions": parts["directions"].to(dtype)}, path)

    @property
    def covariances(self) -> Tensor:
        """(K, d, d); for small d."""
        scaled = self.directions * (self.variances - self.rest[:, None])[:, None]
        identity = torch.eye(self.directions.shape[1]).to(self.means)
        return scaled @ self.directions.mT + self.rest[:, None, None] * identity

    def _along(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where x lies in each component's directions.

        Returns:
            U_k^T (x - m_k), (B, K, r); smoothed variances along the directions, (K, r) or (B, K, r), and elsewhere,
            (K,) or (B, K).
        """
        added = sigma.flatten()[:, None] ** 2 if isinstance(sigma, Tensor) else sigma**2
        along = torch.einsum("bd,kdr->bkr", x.flatten(1), self.directions)
        along = along - (self.means.flatten(1)[:, None] @ self.directions)[:, 0]
        variances = self.variances + (added[..., None] if isinstance(added, Tensor) else added)
        return along, variances, self.rest + added

    def _log_joint(self, x: Tensor, along: Tensor, variances: Tensor, rest: Tensor) -> Tensor:
        """Log of weight times smoothed density, (B, K), from what `_along` gives.

        No (B, K, d) tensor is made: at the size of images those take longer than the products.
        """
        dimension, rank = self.directions.shape[1:]
        squared = (along.square() / variances).sum(dim=-1)
        if rank < dimension:
            means = self.means.flatten(1)
            distance = torch.cdist(x.flatten(1), means, compute_mode="donot_use_mm_for_euclid_dist")
            squared = squared + (distance.square() - along.square().sum(dim=-1)).clamp_min(0) / rest
        log_det = variances.log().sum(dim=-1) + (dimension - rank) * rest.log()
        log_density = -0.5 * (squared + log_det + dimension * math.log(2 * math.pi))
        return self.weights.log() + log_density

    def _log_components(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The same at a level of noise."""
        return self._log_joint(x, *self._along(x, sigma))

    def log_prob(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """log p_sigma(x), (B,)."""
        return self._log_components(x, self._checked(x, sigma)).logsumexp(dim=1)

    def responsibilities(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Probability of each component given x0 + sigma n = x, (B, K)."""
        return self._log_components(x, self._checked(x, sigma)).softmax(dim=1)

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        along, variances, rest = self._along(x, sigma)
        alone = len(self.weights) == 1  # then its share is 1, whatever the densities are
        shares = torch.ones_like(along[..., 0]) if alone else self._log_joint(x, along, variances, rest).softmax(dim=1)
        inside = shares[..., None] * along * (1 / rest[..., None] - 1 / variances)
        toward = shares / rest
        score = inside.flatten(1) @ self.directions.mT.reshape(inside[0].numel(), -1)
        score = score + toward @ self.means.flatten(1) - toward.sum(dim=1, keepdim=True) * x.flatten(1)
        return score.view_as(x)

    def curvature(self, sigma: float) -> float:
        return 1 / (self.least_variance + sigma**2)

    def times_covariance(self, component: int, v: Tensor, power: float = 1.0) -> Tensor:
        """S_k^power v for rows v (N, d), in their dtype."""
        directions, rest = self.directions[component].to(v), self.rest[component].to(v) ** power
        along = (v @ directions) * (self.variances[component].to(v) ** power - rest)
        return along @ directions.mT + rest * v

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact samples (count, C, H, W)."""
        device = generator.device  # numbers are drawn there, and the samples made where the prior is
        component = torch.multinomial(self.weights.to(device), count, replacement=True, generator=generator)
        noise = torch.randn(count, self.directions.shape[1], generator=generator, dtype=self.means.dtype, device=device)
        return self.transform(component.to(self.means.device), noise.to(self.means.device))

    def transform(self, component: Tensor, noise: Tensor) -> Tensor:
        """Samples (N, C, H, W) of components (N,) from standard normal numbers (N, d): m_k + S_k^(1/2) n."""
        out = torch.empty_like(noise)
        for k, rows in rows_of_components(component, len(self.weights)):
            out[rows] = self.times_covariance(k, noise[rows], 0.5)
        return self.means[component] + out.view(-1, *self.means.shape[1:])

    def given_anchor(self, anchor: Tensor, anchor_sigma: float) -> GaussianMixturePrior:
        """Exact p(x | x0), x0 = x + N(0, anchor_sigma^2 I) = anchor (C, H, W): a mixture of the same form.

        Raises:
            ValueError: if anchor_sigma <= 0.
        """
        if not anchor_sigma > 0:
            raise ValueError(f"given_anchor: anchor_sigma must be > 0, got {anchor_sigma}")
        along, variances, rest = self._along(anchor[None], anchor_sigma)
        log_joint = self._log_joint(anchor[None], along, variances, rest)
        # Tweedie's formula for each component: its mean given x0 is x0 + anchor_sigma^2 times its smoothed score
        shift = anchor.flatten() - self.means.flatten(1)
        pulled = torch.einsum("kdr,kr->kd", self.directions, along[0] * (1 / rest[:, None] - 1 / variances))
        scores = pulled - shift / rest[:, None]
        means = anchor + anchor_sigma**2 * scores.view_as(self.means)
        precision = 1 / anchor_sigma**2
        return GaussianMixturePrior(
            log_joint[0].softmax(dim=0),
            means,
            self.directions,
            1 / (1 / self.variances + precision),
            1 / (1 / self.rest + precision),
        )

    @classmethod
    def fit(
        cls,
        images: Tensor,
        num_components: int = 12,
        rank: int = 32,
        num_steps: int = 40,
        floor: float = 1e-4,
        seed: int = 0,
        observe: Callable[[int, float], None] = lambda step, log_likelihood: None,
    ) -> GaussianMixturePrior:
        """Fit a mixture of probabilistic PCA by expectation maximisation (Tipping and Bishop 1999, section 3.3).

        Starts from k-means. The leading directions of each component follow by subspace iteration, started at those
        of the step before.

        Args:
            images: (N, C, H, W), N >= num_components.
            num_components: K >= 1.
            rank: r, 1 <= r < d.
            num_steps: >= 1.
            floor: least variance of any direction, > 0.
            seed: of the start.
            observe: called with (step, mean log likelihood of an image before the step).

        Raises:
            UserError: if a number is out of range.
        """
        count, size = len(images), images[0].numel()
        real("GaussianMixturePrior.fit", "floor", floor, above=0)
        whole("GaussianMixturePrior.fit", "num_steps", num_steps, 1, MOST_STEPS)
        if not 1 <= num_components <= count or not 1 <= rank < size:
            raise UserError(
                f"GaussianMixturePrior.fit: cannot fit {num_components} components of rank {rank} to {count} images "
                f"of {size} numbers"
            )
        generator = torch.Generator().manual_seed(seed)
        flat = images.flatten(1)
        shares = torch.nn.functional.one_hot(_k_means(flat, num_components, generator), num_components).to(flat)
        basis = torch.randn(num_components, size, min(rank + OVERSAMPLING, size), generator=generator).to(flat)
        mixture: GaussianMixturePrior | None = None
        for step in range(num_steps):
            if mixture is not None:
                joint = torch.cat([mixture._log_components(part, 0.0) for part in images.split(256)])
                observe(step, float(joint.logsumexp(dim=1).double().mean()))
                shares = joint.softmax(dim=1)
            weights = (shares.sum(dim=0) + 1e-3) / (count + 1e-3 * num_components)
            means, variances, rest = [], [], []
            for k in range(num_components):
                rows = shares[:, k] > 1e-8
                share = shares[rows, k][:, None] / shares[rows, k].sum().clamp_min(1e-8)
                mean = (share * flat[rows]).sum(dim=0)
                centred = share.sqrt() * (flat[rows] - mean)
                basis[k], values = _leading(centred, basis[k], num_passes=2 if mixture else 6)
                values = values[:rank].clamp_min(floor)
                rest.append(((centred.square().sum() - values.sum()) / (size - rank)).clamp_min(floor))
                means.append(mean.view(images.shape[1:]))
                variances.append(torch.maximum(values, rest[-1]))
            mixture = cls(weights, torch.stack(means), basis[..., :rank], torch.stack(variances), torch.stack(rest))
        assert mixture is not None
        return mixture


def rows_of_components(component: Tensor, count: int) -> list[tuple[int, Tensor]]:
    """Which rows (n,) belong to each component, of component numbers (N,) below ``count``; without the empty ones."""
    sizes = (component[:, None] == torch.arange(count, device=component.device)).sum(dim=0)
    rows = component.argsort(stable=True).split(waits.fetch("mixture components", sizes))
    return [(k, part) for k, part in enumerate(rows) if len(part)]


def _leading(rows: Tensor, basis: Tensor, num_passes: int) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors (d, q) of rows (N, d), and their squared singular values, falling."""
    for _ in range(num_passes):
        basis, _ = torch.linalg.qr(rows.mT @ (rows @ basis))
    projected = rows @ basis
    values, turn = torch.linalg.eigh(projected.mT @ projected)
    return (basis @ turn).flip(-1), values.flip(-1)


def _k_means(points: Tensor, count: int, generator: torch.Generator, num_steps: int = 10) -> Tensor:
    """Which of ``count`` centres each point (N, d) belongs to, (N,), by Lloyd's algorithm from random points."""
    centres = points[torch.randperm(len(points), generator=generator)[:count]]
    for _ in range(num_steps):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return torch.cdist(points, centres).argmin(dim=1)
