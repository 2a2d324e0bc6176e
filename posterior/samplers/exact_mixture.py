"""Exact posteriors under a Gaussian mixture prior, at the scale of small images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior import waits
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.operators import blocks_of, matrix_of
from posterior.priors.base import Prior
from posterior.priors.mixture import GaussianMixturePrior, rows_of_components
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, unobserved


class MixturePosterior:
    """Exact p(x | y) under a Gaussian mixture: again a mixture, whose covariances are not written out.

    Component k has weight w_k N(y; A m_k, G_k), G_k = A S_k A^T + sigma_y^2 I, and mean
    m_k + S_k A^T G_k^-1 (y - A m_k); a sample is made from one of the prior, x_k and simulated noise n, as
    x_k + S_k A^T G_k^-1 (y + sigma_y n - A x_k) (docs/method.md section 6). Linear algebra is in float64: G_k is
    B_k + F diag(e) F^T, where B_k = s_k A A^T + sigma_y^2 I falls apart where A A^T does, and F = A U_k has few columns
    (Woodbury: G^-1 = B^-1 - B^-1 F (I + e F^T B^-1 F)^-1 e F^T B^-1).

    Args:
        prior: the mixture.
        measurement: of one image; linear operator, Gaussian noise. An anchor is given to the prior first
            (`GaussianMixturePrior.given_anchor`).

    Raises:
        UserError: if the operator is not linear, the noise not Gaussian, or there are several images.
    """

    def __init__(self, prior: GaussianMixturePrior, measurement: Measurement) -> None:
        operator, sigma_y = (
            measurement.linear_operator("MixturePosterior"),
            measurement.gaussian_sigma("MixturePosterior"),
        )
        if len(measurement.y) != 1:
            raise UserError(f"MixturePosterior: takes the measurement of one image, got {len(measurement.y)}")
        self.prior, self.sigma_y = prior, sigma_y
        measured = operator.restrict(torch.ones_like(measurement.y)).flatten() != 0
        entries = torch.tensor([n for n, seen in enumerate(waits.fetch("measured entries", measured)) if seen])
        self.measured = waits.to_device("measured entries", entries, measurement.y)  # (m,)
        self.num_entries = len(measured)
        self.matrix = matrix_of(operator, measurement.y.device)[self.measured]  # A, (m, d)
        self.y = measurement.y.flatten()[self.measured].double()
        gram = self.matrix @ self.matrix.mT
        blocks = waits.on_host("blocks", blocks_of, gram)
        self.blocks = [waits.to_device("blocks", block, self.y) for block in blocks]
        self.parts: list[_Factors] = []
        log_weights, means = [], []
        for k, mean in enumerate(prior.means.flatten(1).double()):
            part, log_det = self._factors(gram, k)
            self.parts.append(part)
            residual = (self.y - self.matrix @ mean)[None]
            whitened = (residual * self._solved(part, residual)).sum()
            log_weights.append(prior.weights[k].double().log() - 0.5 * (whitened + log_det))
            means.append(mean + self._pulled(k, residual)[0])
        joint = torch.stack(log_weights) - 0.5 * len(self.y) * math.log(2 * math.pi)
        self.log_evidence = joint.logsumexp(dim=0)
        """log p(y)."""
        self.weights = joint.softmax(dim=0)
        """(K,) float64."""
        self.means = torch.stack(means).view_as(prior.means)
        """(K, C, H, W) float64."""

    def _factors(self, gram: Tensor, component: int) -> tuple[_Factors, Tensor]:
        """What solves with G_k, and log det G_k."""
        rest = self.prior.rest[component].double()
        seen = self.matrix @ self.prior.directions[component].double()
        excess = (self.prior.variances[component] - self.prior.rest[component]).double()
        with waits.inside("factorisation"):
            bases = [
                torch.linalg.cholesky(
                    rest * gram[block[:, :, None], block[:, None]]
                    + self.sigma_y**2 * torch.eye(block.shape[1], dtype=gram.dtype, device=gram.device)
                )
                for block in self.blocks
            ]
            scaled = self._base_solved(bases, seen.mT).mT
            core = torch.eye(len(excess)).to(gram) + excess[:, None] * (seen.mT @ scaled)
            factor, pivots = torch.linalg.lu_factor(core)
        log_det = factor.diagonal().abs().log().sum()
        log_det = log_det + sum(2 * base.diagonal(dim1=1, dim2=2).log().sum() for base in bases)
        return _Factors(bases, seen, excess, scaled, factor, pivots), log_det

    def _base_solved(self, bases: list[Tensor], residual: Tensor) -> Tensor:
        """B_k^-1 r for rows r, (N, m)."""
        solved = torch.empty_like(residual)
        for block, base in zip(self.blocks, bases, strict=True):
            of_block = residual[:, block].permute(1, 2, 0)  # (count, size, N)
            solved[:, block] = torch.cholesky_solve(of_block, base).permute(2, 0, 1)
        return solved

    def _solved(self, part: _Factors, residual: Tensor) -> Tensor:
        """G_k^-1 r for rows r, (N, m)."""
        solved = self._base_solved(part.bases, residual)
        along = torch.linalg.lu_solve(part.factor, part.pivots, (solved @ part.seen * part.excess).mT)
        return solved - along.mT @ part.scaled.mT

    def _pulled(self, component: int, residual: Tensor) -> Tensor:
        """S_k A^T G_k^-1 r for rows r, (N, m) -> (N, d)."""
        return self.prior.times_covariance(component, self._solved(self.parts[component], residual) @ self.matrix)

    @property
    def mean(self) -> Tensor:
        """E[x | y], (C, H, W) float64."""
        return torch.einsum("k,kchw->chw", self.weights, self.means)

    def covariance(self, component: int) -> Tensor:
        """Of one component, (d, d) float64; for small d."""
        identity = torch.eye(self.matrix.shape[1], dtype=self.matrix.dtype, device=self.matrix.device)
        prior = self.prior.times_covariance(component, identity)
        return prior - self._pulled(component, (prior @ self.matrix.mT))

    def transform(self, component: Tensor, noise: Tensor, measured_noise: Tensor) -> Tensor:
        """Samples (N, C, H, W), in the prior's dtype, of components (N,) from standard normal numbers.

        Args:
            component: (N,).
            noise: (N, d).
            measured_noise: (N, M), M the entries of y, those too that are not measured.
        """
        like = self.prior.means
        x = self.prior.transform(component, noise.to(like)).flatten(1).double()
        simulated = x @ self.matrix.mT - self.sigma_y * measured_noise[:, self.measured].double()
        for k, rows in rows_of_components(component, len(self.weights)):
            x[rows] += self._pulled(k, self.y - simulated[rows])
        return x.to(like).view(-1, *like.shape[1:])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact samples (count, C, H, W), in the prior's dtype."""
        component = torch.multinomial(self.weights.to(generator.device), count, replacement=True, generator=generator)
        sizes = (self.matrix.shape[1], self.num_entries)
        noises = [torch.randn(count, n, generator=generator, device=generator.device) for n in sizes]
        return self.transform(*(value.to(self.y.device) for value in (component, *noises)))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x | y), (B,), by Bayes' rule."""
        misfit = self.y - x.flatten(1).double() @ self.matrix.mT
        log_likelihood = -0.5 * (misfit / self.sigma_y).square().sum(dim=1)
        log_likelihood = log_likelihood - len(self.y) * math.log(self.sigma_y * (2 * math.pi) ** 0.5)
        return self.prior.log_prob(x).double() + log_likelihood - self.log_evidence


@dataclass(frozen=True)
class _Factors:
    """What solves with one component's G = B + F diag(e) F^T.

    Args:
        bases: Cholesky factors of B, block by block.
        seen: F, (m, r).
        excess: e, (r,).
        scaled: B^-1 F, (m, r).
        factor, pivots: LU factors of I + e F^T B^-1 F, (r, r).
    """

    bases: list[Tensor]
    seen: Tensor
    excess: Tensor
    scaled: Tensor
    factor: Tensor
    pivots: Tensor


@dataclass(frozen=True)
class ExactMixture(Sampler):
    """Independent exact samples of p(x | y) under a `GaussianMixturePrior`; any linear operator, Gaussian noise.

    Raises:
        UserError: on a call, if the prior is another one, the operator is not linear or the noise not Gaussian.
    """

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        if not isinstance(prior, GaussianMixturePrior):
            raise UserError(f"ExactMixture needs a GaussianMixturePrior, got {type(prior).__name__}")
        noise = rng.randn("exact", measurement.image_shape).flatten(1)
        measured_noise = rng.randn("exact noise", measurement.operator.measurement_shape).flatten(1)
        place = rng.rand_like("component", noise[:, :1])
        rows_of: dict[str, list[int]] = {}
        for row, (image_id, _) in enumerate(rng.rows):
            rows_of.setdefault(image_id, []).append(row)
        samples = torch.empty(len(rng), *measurement.image_shape, device=noise.device)
        for done, chains in enumerate(rows_of.values(), start=1):
            rows = waits.to_device("rows of an image", torch.tensor(chains), noise)
            posterior = MixturePosterior(prior, measurement.rows(rows[:1]))
            component = torch.searchsorted(posterior.weights.cumsum(dim=0), place[rows, 0].double())
            component = component.clamp_max(len(posterior.weights) - 1)
            samples[rows] = posterior.transform(component, noise[rows], measured_noise[rows]).to(samples)
            observe("exact samples", done, len(rows_of), samples)
        return samples
