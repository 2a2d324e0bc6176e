"""Priors whose posteriors are known exactly, and what is measured of their samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmarks.tools.pooled import PooledStreams
from benchmarks.truth.annealing import hard_mixture, ring_posterior
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.operators import Dense, GaussianBlur, LinearOperator, OperatorFamily, RandomInpainting, SuperResolution
from posterior.priors import GaussianFieldPrior, GaussianMixturePrior, Prior, RingPrior
from posterior.random import stream
from posterior.samplers import ExactGaussian, MixturePosterior

Make = Callable[[torch.Generator], LinearOperator]


@dataclass(frozen=True)
class Target:
    """Independent exact sets (N, C, H, W) of a posterior, and the weights of its modes if it is a mixture."""

    sets: list[Tensor]
    weights: Tensor | None = None


@dataclass(frozen=True)
class Problem:
    """A prior whose posteriors are known, and what is measured of its samples."""

    prior: Prior
    image_shape: tuple[int, int, int]
    draw: Callable[[torch.Generator], Tensor]
    """One sample (1, C, H, W) of the prior."""
    target: Callable[[Problem, Measurement, Tensor | None, torch.Generator], Target]
    """Of (the problem, a measurement of one image, anchor, random numbers): p(x | y), or p(x | x0, y)."""
    tasks: dict[str, Make]
    sigma_y: float
    anchor_sigma: float
    num_samples: int
    calls: tuple[int, ...] = (60, 300, 1000)
    num_measurements: int = 12
    num_sets: int = 40


def random_mixture(num_components: int, generator: torch.Generator) -> GaussianMixturePrior:
    """A mixture in 32 dimensions: standard normal means, covariances with eigenvalues in [0.02, 0.3]."""
    dimension = 32
    vectors, _ = torch.linalg.qr(torch.randn(num_components, dimension, dimension, generator=generator))
    values = 0.02 + 0.28 * torch.rand(num_components, dimension, generator=generator)
    weights = torch.rand(num_components, generator=generator) + 0.5
    means = torch.randn(num_components, 2, 4, 4, generator=generator)
    return GaussianMixturePrior.full(weights / weights.sum(), means, (vectors * values[:, None]) @ vectors.mT)


def _drawn(family: OperatorFamily, image_shape: tuple[int, int, int]) -> Make:
    def make(generator: torch.Generator) -> LinearOperator:
        operator = family.realise(image_shape, [generator])
        assert isinstance(operator, LinearOperator)
        return operator

    return make


def projection(rows: int, image_shape: tuple[int, int, int]) -> Make:
    size = torch.Size(image_shape).numel()
    return lambda generator: Dense(torch.randn(rows, size, generator=generator) / size**0.5, image_shape)


def mixture_problem(prior: GaussianMixturePrior, tasks: dict[str, Make], sigma_y: float, **settings: object) -> Problem:
    """Of any Gaussian mixture."""
    shape = prior.means.shape[1:]
    base = Problem(
        prior, (shape[0], shape[1], shape[2]), partial(prior.sample, 1), _mixture_target, tasks, sigma_y, 0.3, 500
    )
    return replace(base, **settings)  # type: ignore[arg-type]


def _mixture_target(
    problem: Problem, measurement: Measurement, anchor: Tensor | None, generator: torch.Generator
) -> Target:
    assert isinstance(problem.prior, GaussianMixturePrior)
    given = problem.prior if anchor is None else problem.prior.given_anchor(anchor[0], problem.anchor_sigma)
    posterior = MixturePosterior(given, measurement)
    sets = [posterior.sample(problem.num_samples, generator) for _ in range(problem.num_sets)]
    return Target(sets, posterior.weights)


class WithAnchor(LinearOperator):
    """A x / sigma_y and x / anchor_sigma as one measurement of unit noise, (n, 1, 1)."""

    def __init__(self, operator: LinearOperator, sigma_y: float, anchor_sigma: float) -> None:
        super().__init__(operator.image_shape)
        self.operator, self.sigma_y, self.anchor_sigma = operator, sigma_y, anchor_sigma

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (torch.Size(self.operator.measurement_shape).numel() + torch.Size(self.image_shape).numel(), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(self.operator.forward(x), x)

    def stack(self, y: Tensor, x: Tensor) -> Tensor:
        """y and x in their units of noise."""
        return torch.cat([y.flatten(1) / self.sigma_y, x.flatten(1) / self.anchor_sigma], dim=1)[..., None, None]

    def restrict(self, y: Tensor) -> Tensor:
        seen, x = self._parts(y)
        return torch.cat([self.operator.restrict(seen).flatten(1), x.flatten(1)], dim=1).view_as(y)

    def adjoint(self, v: Tensor) -> Tensor:
        seen, x = self._parts(v)
        return self.operator.adjoint(seen) / self.sigma_y + x / self.anchor_sigma

    def norm(self) -> Tensor:
        return ((self.operator.norm() / self.sigma_y) ** 2 + self.anchor_sigma**-2) ** 0.5

    def norm_bound(self) -> float:
        return float((self.operator.norm_bound() / self.sigma_y) ** 2 + self.anchor_sigma**-2) ** 0.5

    def rows(self, index: Tensor) -> WithAnchor:
        return WithAnchor(self.operator.rows(index), self.sigma_y, self.anchor_sigma)

    def to(self, device: torch.device | str | torch.dtype) -> WithAnchor:
        return WithAnchor(self.operator.to(device), self.sigma_y, self.anchor_sigma)

    def _parts(self, v: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.Size(self.operator.measurement_shape).numel()
        seen, x = v.flatten(1)[:, :count], v.flatten(1)[:, count:]
        return seen.reshape(-1, *self.operator.measurement_shape), x.reshape(-1, *self.image_shape)


def anchored(problem: Problem, measurement: Measurement, anchor: Tensor) -> Measurement:
    """The measurement and a noisy view of x itself, as one measurement."""
    operator = measurement.linear_operator("the exact posterior")
    both = WithAnchor(operator, problem.sigma_y, problem.anchor_sigma)
    return Measurement(both.stack(measurement.y, anchor), both, GaussianNoise(1.0))


def field_problem(prior: GaussianFieldPrior, image_shape: tuple[int, int, int], **settings: object) -> Problem:
    """Of a Gaussian field: inpainting, super-resolution and blur."""

    def draw(generator: torch.Generator) -> Tensor:
        return prior.sample_from(torch.randn(1, *image_shape, generator=generator))

    base = Problem(prior, image_shape, draw, _field_target, picture_tasks(image_shape), 0.05, 0.3, 48)
    return replace(base, **settings)  # type: ignore[arg-type]


def _field_target(
    problem: Problem, measurement: Measurement, anchor: Tensor | None, generator: torch.Generator
) -> Target:
    if anchor is not None:
        measurement = anchored(problem, measurement, anchor)
    rows = measurement.repeat(problem.num_samples)
    seeds = torch.randint(2**31, (problem.num_sets,), generator=generator).tolist()
    return Target([ExactGaussian()(problem.prior, rows, PooledStreams(len(rows.y), seed)) for seed in seeds])


def picture_tasks(shape: tuple[int, int, int]) -> dict[str, Make]:
    """The small tasks of the toon faces."""
    return {
        "inpainting": _drawn(RandomInpainting(), shape),
        "4x SR": _drawn(SuperResolution(4, "average"), shape),
        "blur": _drawn(GaussianBlur(9, 1.0), shape),
    }


def ring_problem(**settings: object) -> Problem:
    """The ring of Figure 1, its first coordinate measured."""
    prior = RingPrior(0.1)
    first = Dense(torch.tensor([[1.0, 0.0]]), RingPrior.IMAGE_SHAPE)
    tasks: dict[str, Make] = {"one coordinate": lambda generator: first}
    base = Problem(prior, (2, 1, 1), partial(prior.sample, 1), _ring_target, tasks, 0.1, 0.1, 1000)
    return replace(base, **settings)  # type: ignore[arg-type]


def _ring_target(
    problem: Problem, measurement: Measurement, anchor: Tensor | None, generator: torch.Generator
) -> Target:
    assert isinstance(problem.prior, RingPrior)
    count, levels = problem.num_samples * problem.num_sets, (problem.sigma_y, anchor, problem.anchor_sigma)
    samples = ring_posterior(problem.prior, measurement.y, *levels, count, generator)
    return Target(list(samples.split(problem.num_samples)))


def problems(toon_mixture: Path, toon_field: Path, seed: int) -> dict[str, Callable[[], Problem]]:
    """All of them, by name; a file is read when its problem is made."""

    def small(anchor_sigma: float, calls: tuple[int, ...]) -> Problem:
        prior = random_mixture(6, stream(seed, "mixture", -1, "prior"))
        tasks = {"projection": projection(8, (2, 4, 4))}
        return mixture_problem(prior, tasks, 0.1, anchor_sigma=anchor_sigma, calls=calls)

    def toon() -> Problem:
        prior = GaussianMixturePrior.from_file(toon_mixture)
        return mixture_problem(
            prior, picture_tasks((3, 32, 32)), 0.05, num_samples=200, calls=(60, 1000), num_measurements=2
        )

    def wide() -> Problem:
        settings = yaml.safe_load(toon_field.read_text(encoding="utf-8"))["init_args"]
        return field_problem(
            GaussianFieldPrior(**settings), (3, 64, 64), calls=(60, 300, 1000), num_measurements=1, num_sets=12
        )

    def hard() -> Problem:
        prior = hard_mixture(8, 0.1, stream(seed, "hard instance", -1, "prior"))
        second_half = Dense(torch.eye(16)[8:], (16, 1, 1))
        tasks: dict[str, Make] = {"f(s)": lambda generator: second_half}
        return mixture_problem(prior, tasks, 0.1, anchor_sigma=0.2, num_measurements=4, calls=(100, 300))

    return {
        "mixture, d = 32": partial(small, 0.3, (60, 300, 1000)),
        "mixture, d = 32, loose anchor": partial(small, 1.0, (60, 100, 1000)),
        "toon mixture, d = 3072": toon,
        "Gaussian field, 64x64": wide,
        "ring": ring_problem,
        "hard instance": hard,
    }


SMOKE: dict[str, dict[str, object]] = {
    "mixture, d = 32": {"num_samples": 100, "calls": (50,), "num_measurements": 2, "num_sets": 4},
    "mixture, d = 32, loose anchor": {"num_samples": 100, "calls": (50,), "num_measurements": 2, "num_sets": 4},
    "toon mixture, d = 3072": {"num_samples": 16, "calls": (20,), "num_measurements": 1, "num_sets": 4},
    "Gaussian field, 64x64": {"num_samples": 8, "calls": (20,), "num_measurements": 1, "num_sets": 4},
    "ring": {"num_samples": 200, "calls": (50,), "num_measurements": 2, "num_sets": 4},
    "hard instance": {"num_samples": 50, "calls": (50,), "num_measurements": 1, "num_sets": 4},
}
