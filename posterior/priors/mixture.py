"""Gaussian mixtures: multi-modal priors whose posteriors are mixtures again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.priors.base import ClosedFormPrior


class GaussianMixturePrior(ClosedFormPrior):
    """p(x) = sum_k weights_k N(means_k, covariances_k), for small images (full covariances).

    Args:
        weights: (K,), >= 0, summing to 1.
        means: (K, C, H, W).
        covariances: (K, d, d), symmetric positive definite, d = C H W.

    Raises:
        UserError: if shapes do not fit, weights do not sum to 1 or a covariance is not positive definite.
    """

    weights: Tensor
    means: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        size = means[0].numel()
        if weights.shape != means.shape[:1] or covariances.shape != (len(weights), size, size):
            raise UserError("GaussianMixturePrior: weights, means and covariances do not fit together")
        eigenvalues, eigenvectors = torch.linalg.eigh(covariances)
        if not torch.isclose(weights.sum(), torch.ones_like(weights[0])) or weights.min() < 0:
            raise UserError("GaussianMixturePrior: weights must be >= 0 and sum to 1")
        if eigenvalues.min() <= 0:
            raise UserError("GaussianMixturePrior: a covariance is not positive definite")
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("eigenvectors", eigenvectors)

    @property
    def covariances(self) -> Tensor:
        """(K, d, d)."""
        return (self.eigenvectors * self.eigenvalues[:, None]) @ self.eigenvectors.mT

    def _log_joint(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """Per component: log of weight times smoothed density (B, K), and the component's score (B, K, d)."""
        added = sigma.flatten()[:, None, None] ** 2 if isinstance(sigma, Tensor) else sigma**2
        variances = self.eigenvalues + added  # (K, d) or (B, K, d)
        shift = x.flatten(1)[:, None] - self.means.flatten(1)  # (B, K, d)
        turned = torch.einsum("kij,bki->bkj", self.eigenvectors, shift)
        log_density = -0.5 * (turned.square() / variances + variances.log() + math.log(2 * math.pi)).sum(dim=-1)
        score = -torch.einsum("kij,bkj->bki", self.eigenvectors, turned / variances)
        return self.weights.log() + log_density, score

    def log_prob(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """log p_sigma(x), (B,)."""
        return self._log_joint(x, self._checked(x, sigma))[0].logsumexp(dim=1)

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        log_joint, scores = self._log_joint(x, sigma)
        return torch.einsum("bk,bki->bi", log_joint.softmax(dim=1), scores).view_as(x)

    def posterior(self, matrix: Tensor, y: Tensor, noise_variances: Tensor) -> GaussianMixturePrior:
        """The exact posterior given one linear measurement y = matrix vec(x) + noise, again a mixture.

        Several measurements (y of the data, and the anchor x0 of Algorithm 2) are stacked as rows.

        Args:
            matrix: (m, d).
            y: (m,).
            noise_variances: (m,), > 0.
        """
        covariances, means = self.covariances, self.means.flatten(1)
        innovation = matrix @ covariances @ matrix.mT + torch.diag(noise_variances)  # (K, m, m)
        residual = y - means @ matrix.mT  # (K, m)
        cross = covariances @ matrix.mT  # (K, d, m)
        gain = torch.linalg.solve(innovation, cross.mT).mT
        new_covariances = covariances - gain @ cross.mT
        whitened = torch.linalg.solve(innovation, residual[..., None])[..., 0]
        log_weights = self.weights.log() - 0.5 * (
            (residual * whitened).sum(dim=1) + torch.linalg.slogdet(innovation).logabsdet
        )
        new_means = means + (gain @ residual[..., None])[..., 0]
        return GaussianMixturePrior(
            log_weights.softmax(dim=0), new_means.view_as(self.means), (new_covariances + new_covariances.mT) / 2
        )

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact samples (count, C, H, W)."""
        device = generator.device  # numbers are drawn there, and the samples made where the prior is
        component = torch.multinomial(self.weights.to(device), count, replacement=True, generator=generator)
        noise = torch.randn(
            count, self.eigenvalues.shape[1], generator=generator, dtype=self.means.dtype, device=device
        )
        component, noise = component.to(self.means.device), noise.to(self.means.device)
        spread = torch.einsum("bij,bj->bi", self.eigenvectors[component], self.eigenvalues[component].sqrt() * noise)
        return self.means[component] + spread.view(-1, *self.means.shape[1:])
