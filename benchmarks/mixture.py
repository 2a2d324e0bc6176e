"""Algorithm 2 against exact posterior samples of a Gaussian mixture."""

from __future__ import annotations

import torch

from posterior.measurement import Measurement
from posterior.metrics.distribution import sliced_wasserstein
from posterior.noise import GaussianNoise
from posterior.operators import Dense
from posterior.priors import GaussianMixturePrior
from posterior.random import Streams, stream
from posterior.samplers import AnnealedLangevin, MixturePosterior, PublishedAnnealing

IMAGE_SHAPE = (2, 4, 4)


def random_mixture(num_components: int, generator: torch.Generator) -> GaussianMixturePrior:
    """A mixture in 32 dimensions: standard normal means, covariances with eigenvalues in [0.02, 0.3]."""
    dimension = 32
    vectors, _ = torch.linalg.qr(torch.randn(num_components, dimension, dimension, generator=generator))
    values = 0.02 + 0.28 * torch.rand(num_components, dimension, generator=generator)
    weights = torch.rand(num_components, generator=generator) + 0.5
    means = torch.randn(num_components, *IMAGE_SHAPE, generator=generator)
    return GaussianMixturePrior.full(weights / weights.sum(), means, (vectors * values[:, None]) @ vectors.mT)


def mixture(
    anchor_sigma: float = 0.3,
    num_measurements: int = 12,
    num_samples: int = 500,
    num_measured: int = 8,
    sigma_y: float = 0.1,
    step_size: float = 2e-3,
    num_levels: int = 1000,
    growth: float = 0.009,
    floor_pairs: int = 20,
    seed: int = 0,
) -> tuple[float, float]:
    """Sliced W2 of Algorithm 2 to exact samples of p(x | x0, y), x0 drawn from the truth, and its floor.

    Args:
        anchor_sigma: noise level of the anchor x0.
        num_measurements: independent (truth, y, x0).
        num_samples: chains per measurement.
        num_measured: rows of the random projection.
        sigma_y: measurement noise.
        step_size, num_levels, growth: of annealed Langevin.
        floor_pairs: pairs of exact sets whose mean distance is the floor.
        seed: of everything.

    Returns:
        Mean distance over measurements, and mean floor.
    """
    prior = random_mixture(6, stream(seed, "mixture", -1, "prior"))
    sampler = AnnealedLangevin(step_size, PublishedAnnealing(growth, num_levels), anchor_sigma=anchor_sigma)
    distances, floors = [], []
    for number in range(num_measurements):
        generator, exact_generator = (stream(seed, f"measurement {number}", -1, use) for use in ("problem", "exact"))
        matrix = torch.randn(num_measured, 32, generator=generator) / 32**0.5
        truth = prior.sample(1, generator)
        operator, noise = Dense(matrix, IMAGE_SHAPE), torch.randn(1, num_measured, 1, 1, generator=generator)
        measurement = Measurement.simulate(truth, operator, GaussianNoise(sigma_y), noise)
        anchor = truth + anchor_sigma * torch.randn(truth.shape, generator=generator)
        posterior = MixturePosterior(prior.given_anchor(anchor[0], anchor_sigma), measurement)
        rng = Streams(seed, [f"measurement {number}"], num_samples)
        rows = measurement.repeat(num_samples)
        samples = sampler.from_anchor(prior, rows, anchor.expand(num_samples, -1, -1, -1), rng)
        sets = [posterior.sample(num_samples, exact_generator) for _ in range(2 * floor_pairs)]
        distances.append(sum(sliced_wasserstein(samples, exact) for exact in sets) / len(sets))
        floors.append(sum(sliced_wasserstein(a, b) for a, b in zip(sets[::2], sets[1::2], strict=True)) / floor_pairs)
    distance, floor = (sum(values) / len(values) for values in (distances, floors))
    spread = torch.tensor([d / f for d, f in zip(distances, floors, strict=True)])
    print(
        f"anchor_sigma {anchor_sigma}: sliced W2 {distance:.4f}, floor {floor:.4f}, ratio {spread.mean():.3f} "
        f"+- {spread.std() / len(spread) ** 0.5:.3f} over {num_measurements} measurements"
    )
    return distance, floor
