"""MCG-diff against the runs of the authors' code and of InverseBench, and where it is exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior import Measurement, Streams
from posterior.noise import GaussianNoise
from posterior.operators import Dense
from posterior.samplers import DDIM, GeometricSigmas, MCGDiff, Sampler
from posterior.samplers.particles import ParticleSampler, effective_number
from tests.peers import GaussianByMatrix, Levels, Recorded, by_rows, cases, golden, spied


class StartedAtThePrior(MCGDiff):
    """The authors: the potential at the first level is taken for met, and at the last the likelihood for 1."""

    def start(self, known, tau, sigma, noise):
        return (1 + sigma**2) ** 0.5 * noise

    def log_likelihood(self, known, xbar):
        return torch.zeros_like(xbar[..., 0, 0, 0])


@dataclass(frozen=True)
class Noiseless(MCGDiff):
    """InverseBench: y is free of noise, steps are those of Euler and Maruyama, and large weights are equal.

    Args:
        gains: its K of every level, the first for the start.
    """

    gains: Iterator[float] = field(default_factory=lambda: iter(()))

    def own_levels(self, known, sigmas):
        return torch.zeros_like(known.s).where(known.observed, torch.inf)

    def start(self, known, tau, sigma, noise):
        return sigma * noise * torch.where(known.observed, torch.full_like(noise, next(self.gains)), 1)

    def predict(self, xbar, denoised, sigma, sigma_next):
        factor = max(0, 2 * sigma * (sigma - sigma_next))
        return xbar + factor * (denoised - xbar) / sigma**2, factor**0.5

    def log_ratios(self, known, tau, xbar, mean, std, sigma, sigma_next):
        after, before = (((known.ybar - x) ** 2).where(known.observed, 0).flatten(2).sum(dim=2) for x in (mean, xbar))
        found = before / (2 * sigma**2) - after / (2 * (sigma_next**2 + std**2))
        return (found - found.amin(dim=1, keepdim=True)).clamp_max(60)

    def move(self, known, tau, mean, std, sigma_next, noise):
        gain = next(self.gains)
        seen = gain * known.ybar + (1 - gain) * mean + gain**0.5 * sigma_next * noise
        return seen.where(known.observed, mean + std * noise)


def followed(monkeypatch: pytest.MonkeyPatch, kind: type[Sampler], ancestors: Tensor) -> list[Tensor]:
    """Recorded ancestors take the place of drawn ones; the logarithms of weights that would have drawn them."""
    found, given = [], iter(ancestors)
    monkeypatch.setattr(kind, "ancestors", lambda self, log_weights, rng: (found.append(log_weights), next(given))[1])
    return found


@pytest.mark.parametrize("case", cases("mcgdiff_orig"), ids="-".join)
def test_a_run_of_the_authors(case, monkeypatch):
    run = golden(*case)
    noise, ordered = run.arrays["noise"][:, None], by_rows(run)
    levels = run.noise_levels()[run.arrays["timesteps"].flip(0)].tolist()
    assert [levels[0], *levels[1:-1]] == run.noise_levels()[run.arrays["t_of_state"]].tolist()
    steps, log_weights = (
        spied(monkeypatch, MCGDiff, "predict"),
        followed(monkeypatch, MCGDiff, run.arrays["ancestors"][:, None]),
    )
    own_levels = spied(monkeypatch, MCGDiff, "own_levels")
    sampler = StartedAtThePrior(Levels(levels), *(run.setting(name) for name in ("num_particles", "eta", "kappa")))
    rng = Recorded({"initial": noise[:1], "mcg-diff": noise[1:]}, 1)
    x, final = sampler.particles(ordered.prior(), ordered.measurement(1), rng)
    assert rng.used_up()
    (known, _), tau = own_levels[0]
    at_tau = run.noise_levels()[run.arrays["timesteps"][run.arrays["tau"]]]
    torch.testing.assert_close(tau[known.observed], at_tau)
    inputs = [xbar / (1 + sigma**2) ** 0.5 for (xbar, _, sigma, _), _ in steps]
    run.agrees(torch.stack(inputs), "state_bar")
    run.agrees(torch.stack(log_weights).softmax(dim=2), "weights")
    run.agrees(known.analyse(x) / (1 + levels[-1] ** 2) ** 0.5, "final_bar")
    run.agrees(final, "final_log_w")


@pytest.mark.parametrize("case", cases("mcgdiff"), ids="-".join)
def test_a_run_of_inversebench(case, monkeypatch):
    run = golden(*case)
    sigmas, (start, *noise) = run.arrays["sigma"].tolist(), run.arrays["noise"]
    factors = [max(0, 2 * sigma * (sigma - after)) for sigma, after in pairwise(sigmas)]
    gains = [factor / (factor + sigma**2) for factor, sigma in zip(factors, sigmas[:-1], strict=True)]
    fresh = [seen.where(run.problem["M"] > 0, unseen) for seen, unseen in zip(noise[::2], noise[1::2], strict=True)]
    log_weights, moves = followed(monkeypatch, MCGDiff, run.arrays["indices"]), spied(monkeypatch, Noiseless, "move")
    sampler = Noiseless(Levels(sigmas), int(run.setting("num_particles")), gains=iter([*gains, 1.0]))
    rng = Recorded({"initial": [start], "mcg-diff": fresh}, len(start))
    x, _ = sampler.particles(run.prior(), run.measurement(len(start)), rng)
    assert rng.used_up()
    run.agrees(torch.tensor(gains[0], dtype=torch.float64), "K0")
    run.agrees(torch.tensor([*gains[1:], 1.0], dtype=torch.float64), "K")
    run.agrees(moves[0][0][0].ybar, "ybar")
    run.agrees(torch.stack(log_weights), "log_prob")
    run.agrees(torch.stack([mean for (_, _, mean, *_), _ in moves]), "x_next_bar")
    run.agrees(torch.stack([moved for _, moved in moves]), "state_bar")
    run.agrees(x, "final")


# on Gaussians: two numbers of a triple are measured, with noise that differs by a factor of 3 in units of the image

SHAPE, SIGMA_Y, TRUTH = (1, 1, 3), 0.3, torch.tensor([1.0, -0.4, 0.2])
COVARIANCE = torch.tensor([[1.0, 0.6, 0.3], [0.6, 1.0, 0.5], [0.3, 0.5, 0.8]])
MATRIX = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.33, 0.0]])


def descended(sigmas: list[float], covariance: Tensor = COVARIANCE) -> Tensor:
    """Covariance of what DDIM steps with eta 1 make of N(0, (1 + sigma^2) I), the prior being N(0, covariance)."""
    values, basis = torch.linalg.eigh(covariance)
    variances = torch.full_like(values, 1 + sigmas[0] ** 2)
    for sigma, sigma_next in pairwise(sigmas):
        gains = values / (values + sigma**2)
        slope, std = DDIM(1.0).moments(torch.ones_like(gains), gains, None, sigma, sigma_next)
        variances = slope**2 * variances + std**2
    return (basis * variances) @ basis.mT


def posterior(covariance: Tensor, sigma_y: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of N(0, covariance) given y = `MATRIX` `TRUTH` and noise of sigma_y."""
    gain = covariance @ MATRIX.mT @ torch.linalg.inv(MATRIX @ covariance @ MATRIX.mT + sigma_y**2 * torch.eye(2))
    return gain @ MATRIX @ TRUTH, covariance - gain @ MATRIX @ covariance


def problem(rows: int) -> tuple[GaussianByMatrix, Measurement]:
    """The prior, and y without noise in ``rows`` rows."""
    y = (MATRIX @ TRUTH).view(1, 2, 1, 1).expand(rows, -1, -1, -1)
    return GaussianByMatrix(torch.zeros(3), COVARIANCE), Measurement(y, Dense(MATRIX, SHAPE), GaussianNoise(SIGMA_Y))


def moments(sampler: ParticleSampler, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted first and second moments of all particles, (rows, 3) and (rows, 3, 3), and the share that counts."""
    x, log_weights = sampler.particles(*problem(rows), Streams(0, [str(n) for n in range(rows)]))
    weights, x = log_weights.softmax(dim=1)[..., None], x.flatten(2)
    share = effective_number(log_weights) / x.shape[1]
    return (weights * x).sum(dim=1), (weights * x).mT @ x, share


def test_with_wide_potentials_and_many_particles_the_samples_are_those_of_the_descent_given_y():
    """Two levels of their own, a free coordinate, all by weights; within 4 standard errors of 20 rows."""
    schedule = GeometricSigmas(10, 20.0, 0.05)
    first, second, share = moments(MCGDiff(schedule, 4000, kappa=0.5), rows=20)
    mean, covariance = posterior(descended(schedule.sigmas()), SIGMA_Y)
    assert share.mean() > 0.2
    for found, exact in ((first, mean), (second, covariance + mean[:, None] * mean)):
        errors = found.std(dim=0) / len(found) ** 0.5
        assert ((found.mean(dim=0) - exact).abs() < 4 * errors).all(), (found.mean(dim=0), exact, errors)


def test_a_coordinate_noisier_than_any_level_is_weighed_and_not_followed():
    """It has noise 10 and is seen at 8, the levels end at 3: by the authors' code the particles would begin there."""
    matrix, schedule = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.03, 0.0]]), GeometricSigmas(10, 3.0, 0.05)
    y = torch.tensor([0.5, 0.24])
    measurement = Measurement(y.view(1, 2, 1, 1).expand(20, -1, -1, -1), Dense(matrix, SHAPE), GaussianNoise(SIGMA_Y))
    prior = GaussianByMatrix(torch.zeros(3), COVARIANCE)
    sampler = MCGDiff(schedule, 500, kappa=0.5)
    x, log_weights = sampler.particles(prior, measurement, Streams(0, [str(n) for n in range(20)]))
    found = (log_weights.softmax(dim=1)[..., None] * x.flatten(2)).sum(dim=1)
    of_x = descended(schedule.sigmas())
    exact = of_x @ matrix.mT @ torch.linalg.inv(matrix @ of_x @ matrix.mT + SIGMA_Y**2 * torch.eye(2)) @ y
    errors = found.std(dim=0) / len(found) ** 0.5
    assert ((found.mean(dim=0) - exact).abs() < 4 * errors).all(), (found.mean(dim=0), exact, errors)


def test_with_narrow_potentials_y_counts_twice():
    """The published kappa: coordinates are put to ybar at tau, which is as good as y, and weighed by y again."""
    schedule = GeometricSigmas(10, 20.0, 0.05)
    first, second, share = moments(MCGDiff(schedule, 1000), rows=20)
    variance = (second - first[:, :, None] * first[:, None]).mean(dim=0).diagonal()
    _, exact = posterior(descended(schedule.sigmas()), SIGMA_Y)
    _, twice = posterior(descended(schedule.sigmas()), SIGMA_Y / 2**0.5)
    assert share.mean() < 0.1
    assert (variance < exact.diagonal())[:2].all(), (variance, exact)
    assert variance[0] < 1.1 * twice[0, 0]
