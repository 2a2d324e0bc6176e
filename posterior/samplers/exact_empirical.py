"""Exact posteriors under an empirical prior: for operators and noise of any kind where its images are not blurred."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior import waits
from posterior.checks import MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise, Likelihood
from posterior.operators import LinearOperator, matrix_of
from posterior.priors.base import Prior
from posterior.priors.empirical import EmpiricalPrior, effective_number
from posterior.random import Streams, stream
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved

TOGETHER = 1024
"""Images that are measured at a time."""
LEAST_NOISE = 1e-4
"""Noise below this is none: the next image is thousands of standard deviations away."""
BOLD = 0.9
"""Share of importance draws from images by p(y | x_i); the others are from the prior, so that weights are bounded."""


def log_likelihood(measurement: Measurement, x: Tensor) -> Tensor:
    """log p(y | x) of the one measurement for images x (n, C, H, W), (n,) float64.

    Entries that the operator does not measure do not count.

    Raises:
        UserError: if the noise law does not state it.
    """
    found = []
    for part in x.split(TOGETHER):
        rows = measurement.rows(torch.zeros(len(part), dtype=torch.int64, device=part.device))
        entries = rows.likelihood.log_prob(rows.y.double(), rows.observed(part).double())
        seen = rows.operator.restrict(torch.ones_like(rows.y)) != 0
        found.append(torch.where(seen, entries, 0).flatten(1).sum(dim=1))
    return torch.cat(found)


class EmpiricalPosterior(ABC):
    """p(x | y) under an `EmpiricalPrior`, for the measurement of one image; `posterior_of` makes it.

    It is a mixture over images or draws, (K,). At every level of diffusion noise, x + sigma n given y, its law is
    known too: so a sampler's states on their way can be judged.

    Args:
        log_weights: of its components, (K,) float64, up to a constant.
        num_images: effective number of images of the prior that it leaves, a number ().
        num_draws: effective number of importance draws, (); None: the posterior is exact.
    """

    def __init__(self, log_weights: Tensor, num_images: Tensor, num_draws: Tensor | None = None) -> None:
        self.weights = log_weights.softmax(dim=0)
        self.num_images, self.num_draws = num_images, num_draws

    @abstractmethod
    def transform(self, component: Tensor, noise: Tensor) -> Tensor:
        """Samples (n, C, H, W) of components (n,) from standard normal numbers (n, C, H, W)."""

    @abstractmethod
    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """log of the density of x + sigma n given y, (B,) float64.

        Raises:
            UserError: if there is none at that level: images that are not blurred have none at 0.
        """

    def sample(self, count: int, generator: torch.Generator, sigma: float = 0.0) -> Tensor:
        """Samples (count, C, H, W) of x + sigma n given y, sigma >= 0."""
        device = self.weights.device
        component = torch.multinomial(self.weights.to(generator.device), count, replacement=True, generator=generator)
        shape = (count, *self.image_shape)
        noise, more = (torch.randn(shape, generator=generator, device=generator.device).to(device) for _ in range(2))
        found = self.transform(component.to(device), noise)
        return found + sigma * more.to(found) if sigma > 0 else found

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""


class WeightedImages(EmpiricalPosterior):
    """p(x | y) as given images with other weights: exact at w = 0, or importance draws.

    Args:
        prior: the images, with the weights p_i that they have after y.
        num_images, num_draws: see `EmpiricalPosterior`.
    """

    def __init__(self, prior: EmpiricalPrior, num_images: Tensor, num_draws: Tensor | None = None) -> None:
        super().__init__(prior.log_weights, num_images, num_draws)
        self.prior = prior
        """Its denoiser is E[x0 | x_t, y], its score that of log p(x_t | y)."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.prior.images.shape[1:])

    def transform(self, component: Tensor, noise: Tensor) -> Tensor:
        return self.prior.transform(component, noise)

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        return self.prior.log_prob(x, sigma)


class ConditionedImages(EmpiricalPosterior):
    """p(x | y) for w > 0, a linear operator and Gaussian noise: a mixture whose covariances are all alike.

    With A = U diag(s) V^T, z_i = V^T x_i and ybar = U^T y, image i has the weight p_i prod_j N(ybar_j; s_j z_ij,
    w^2 s_j^2 + sigma_y^2), the mean x_i + V g (ybar - s z_i), g = w^2 s / (w^2 s^2 + sigma_y^2), and the variance
    c = w^2 sigma_y^2 / (w^2 s^2 + sigma_y^2) along V, w^2 elsewhere. In float64.

    Args:
        prior: of width w > 0.
        measurement: of one image.
    """

    def __init__(self, prior: EmpiricalPrior, measurement: Measurement) -> None:
        who = "ConditionedImages"
        operator, sigma_y = measurement.linear_operator(who), measurement.gaussian_sigma(who)
        matrix = matrix_of(operator, measurement.y.device)
        with waits.inside("factorisation"):
            left, gains, right = torch.linalg.svd(matrix, full_matrices=False)
        spread = (prior.width * gains) ** 2 + sigma_y**2
        observed = measurement.y.flatten().double() @ left
        self.prior, self.basis = prior, right.mT  # V, (d, r)
        self.along = prior.products(right).mT  # z, (N, r)
        missing = observed - gains * self.along
        self.moved = prior.width**2 * gains / spread * missing  # V^T (mean_i - x_i), (N, r)
        self.variances = prior.width**2 * sigma_y**2 / spread  # c, (r,)
        log_weights = prior.log_weights - 0.5 * (missing.square() / spread).sum(dim=1)
        super().__init__(log_weights, effective_number(log_weights.softmax(dim=0)))

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.prior.images.shape[1:])

    def transform(self, component: Tensor, noise: Tensor) -> Tensor:
        images = self.prior.pictures(component)
        n = noise.flatten(1).double()
        along = self.moved[component] + (n @ self.basis) * (self.variances.sqrt() - self.prior.width)
        found = images.flatten(1).double() + self.prior.width * n + along @ self.basis.mT
        return found.to(images).view_as(images)

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        flat, (dimension, rank) = x.flatten(1).double(), self.basis.shape
        inside, elsewhere = self.variances + sigma**2, self.prior.width**2 + sigma**2
        seen = flat @ self.basis
        squares = _squared_distances(seen / inside.sqrt(), (self.along + self.moved) / inside.sqrt())
        unseen = _squared_distances(seen, self.along)
        distance = flat.square().sum(dim=1, keepdim=True) - 2 * self.prior.products(flat) + self.prior.squares
        squares = squares + (distance - unseen).clamp_min(0) / elsewhere
        log_det = inside.log().sum() + (dimension - rank) * math.log(elsewhere) + dimension * math.log(2 * math.pi)
        return (self.weights.log() - 0.5 * (squares + log_det)).logsumexp(dim=1)


def _squared_distances(x: Tensor, z: Tensor) -> Tensor:
    """Of rows x (B, r) and z (N, r), (B, N)."""
    return torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist").square()


def posterior_of(
    prior: EmpiricalPrior, measurement: Measurement, generator: torch.Generator, num_draws: int = 4096
) -> EmpiricalPosterior:
    """p(x | y): exact at w = 0, and for a linear operator with Gaussian noise; otherwise by importance draws.

    Those are self-normalised: images are chosen with p(y | x_i) in mind, blurred, and weighed. `num_draws` of what is
    returned is the effective number of them.

    Args:
        prior: the images.
        measurement: of one image.
        generator: of importance draws, on the CPU.
        num_draws: how many, where they are needed.

    Raises:
        UserError: if there are several images, the noise law states no density, or at w = 0 a continuous y has no
            noise: its posterior is one image, or none.
    """
    if len(measurement.y) != 1:
        raise UserError(f"posterior_of: takes the measurement of one image, got {len(measurement.y)}")
    check_noise(prior, measurement.likelihood)
    if prior.width > 0 and _linear_gaussian(measurement):
        return ConditionedImages(prior, measurement)
    index = torch.arange(len(prior), device=measurement.y.device)
    likelihoods = torch.cat([log_likelihood(measurement, prior.pictures(part)) for part in index.split(TOGETHER)])
    weighted = prior.reweighted(prior.log_weights + likelihoods)
    if prior.width == 0:
        return WeightedImages(weighted, effective_number(weighted.weights))
    return _importance(prior, measurement, weighted.weights, generator, num_draws)


def check_noise(prior: EmpiricalPrior, likelihood: Likelihood) -> None:
    """Refuse continuous measurements without noise of images that are not blurred.

    Raises:
        UserError: if they are.
    """
    if prior.width == 0 and not likelihood.discrete and not likelihood.sigma_y >= LEAST_NOISE:
        raise UserError(
            f"EmpiricalPrior of width 0: y is continuous and has no noise (sigma_y = {likelihood.sigma_y:g}), so its "
            f"posterior is one image or none: give sigma_y >= {LEAST_NOISE:g}, or a width > 0"
        )


def _linear_gaussian(measurement: Measurement) -> bool:
    return isinstance(measurement.operator, LinearOperator) and isinstance(measurement.likelihood, GaussianNoise)


def _importance(
    prior: EmpiricalPrior, measurement: Measurement, told: Tensor, generator: torch.Generator, num_draws: int
) -> WeightedImages:
    """Draws of the prior and their weights; ``told`` are those of the images themselves given y, (N,)."""
    proposal = BOLD * told + (1 - BOLD) * prior.weights
    proposal = torch.where(torch.isfinite(told).all(), proposal, prior.weights)  # a NaN in y shows in the weights
    noise = torch.randn(num_draws, *prior.images.shape[1:], generator=generator)
    index = waits.on_host(
        "importance draws", lambda p: torch.multinomial(p, num_draws, replacement=True, generator=generator), proposal
    )
    index, noise = (waits.to_device("importance draws", value, prior.squares.device) for value in (index, noise))
    draws = prior.transform(index, noise)
    log_weights = log_likelihood(measurement, draws) + (prior.weights / proposal)[index].log()
    weights = log_weights.softmax(dim=0)
    of_images = torch.zeros_like(told).index_add_(0, index, weights)
    law = EmpiricalPrior(draws).reweighted(log_weights)
    return WeightedImages(law, effective_number(of_images), effective_number(weights))


@dataclass(frozen=True)
class ExactEmpirical(Sampler):
    """Independent samples of p(x | y) under an `EmpiricalPrior`: exact where `posterior_of` is.

    That is for any operator at w = 0, and for a linear one with Gaussian noise at w > 0. Otherwise they are resampled
    importance draws, and too few effective ones are an error.

    Args:
        num_draws: importance draws of an image, where they are needed, >= 1.
        least_draws: effective number of them below which it is an error, >= 1, at most num_draws.

    Raises:
        UserError: if a number is out of range; on a call, if the prior is another one, the noise law states no density,
            or importance draws are too few.
    """

    num_draws: int = 4096
    least_draws: float = 100.0

    def __post_init__(self) -> None:
        whole("ExactEmpirical", "num_draws", self.num_draws, 1, MOST_STEPS)
        real("ExactEmpirical", "least_draws", self.least_draws, least=1, most=self.num_draws)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        if not isinstance(prior, EmpiricalPrior):
            raise UserError(f"ExactEmpirical needs an EmpiricalPrior, got {type(prior).__name__}")
        check_noise(prior, measurement.likelihood)
        noise = rng.randn("exact", measurement.image_shape)
        place = rng.rand_like("component", noise[:, :1, :1, :1]).flatten().double()
        rows_of: dict[str, list[int]] = {}
        for row, (image_id, _) in enumerate(rng.rows):
            rows_of.setdefault(image_id, []).append(row)
        samples = torch.empty_like(noise)
        for done, (image_id, chains) in enumerate(rows_of.items(), start=1):
            rows = waits.to_device("rows of an image", torch.tensor(chains), noise)
            draws = stream(rng.seed, image_id, -1, "importance draws")
            posterior = posterior_of(prior, measurement.rows(rows[:1]), draws, self.num_draws)
            self._check(posterior, image_id)
            component = torch.searchsorted(posterior.weights.cumsum(dim=0), place[rows], right=True)
            found = posterior.transform(component.clamp_max(len(posterior.weights) - 1), noise[rows])
            samples[rows] = torch.where(torch.isfinite(posterior.weights).all(), found, torch.nan).to(samples)
            observe("exact samples", done, len(rows_of), samples)
        return check_finite(samples, rng, "the exact posterior (no image can have given this measurement)")

    def _check(self, posterior: EmpiricalPosterior, image_id: str) -> None:
        """Raises:
        UserError: if there are too few importance draws.
        """
        if posterior.num_draws is None:
            return
        number = waits.fetch("importance draws", posterior.num_draws)
        if number < self.least_draws:
            raise UserError(
                f"ExactEmpirical: image {image_id}: {self.num_draws} importance draws count for {number:.0f}, fewer "
                f"than least_draws {self.least_draws:g}: set num_draws higher, or take a prior of width 0"
            )
