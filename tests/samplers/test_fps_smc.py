"""FPS-SMC against the runs of the authors' code and of InverseBench, and against the exact filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior import Measurement, Streams
from posterior.noise import GaussianNoise
from posterior.operators import Dense
from posterior.samplers import FPSSMC, GeometricSigmas, RespacedSigmas
from posterior.samplers.particles import select, spectrum_of_particles
from posterior.samplers.spectrum import spectrum
from tests.peers import Levels, Recorded, cases, golden, spied
from tests.samplers.test_mcg_diff import (
    COVARIANCE,
    SIGMA_Y,
    followed,
    moments,
    posterior,
    problem,
)


def total(x: Tensor) -> Tensor:
    """Sums over coordinates, (R, P)."""
    return x.flatten(2).sum(dim=2)


@dataclass(frozen=True)
class AsTheAuthors(FPSSMC):
    """The path is a level late, in variance-preserving units; weights are raised to the number of particles.

    Args:
        above: the level of the path's start.
        before: the level before each.
    """

    above: float = 0.0
    before: Mapping[float, float] = field(default_factory=dict)

    def path(self, known, sigmas, rng):
        own = [self.above, *sigmas[:-1]]
        late = zip(super().path(known, own, rng), own, sigmas, strict=True)
        return iter([ybar * ((1 + sigma**2) / (1 + level**2)) ** 0.5 for ybar, level, sigma in late])

    def filter(self, known, mean, ybar, sigma_next, noise):
        if sigma_next == 0:
            return mean, torch.zeros_like(mean[..., 0, 0, 0])
        abar, abar_next = (1 / (1 + sigma**2) for sigma in (self.before[sigma_next], sigma_next))
        free, told = self.eta**2 * (1 - abar_next), known.sigma_y**2 * abar
        gain = torch.tensor((free + 1e-6) / told, dtype=torch.float32)  # as there
        left = 1 - (gain / (gain + 1)).double()
        guided = torch.where(known.observed, left * (mean + gain.double() * ybar), mean)
        variance = torch.where(known.observed, told * free / (told + free), free) / abar_next
        moved = guided + variance**0.5 * noise
        misfit = ((moved - ybar) ** 2).where(known.observed, 0) / known.sigma_y**2
        step = (moved - mean) ** 2 / (self.eta * sigma_next) ** 2
        return moved, self.num_particles * total((moved - guided) ** 2 / variance - misfit - step) / 2


@dataclass(frozen=True)
class AsInverseBench(FPSSMC):
    """States are s x; ybar of the level before meets x', with noise sigma_y whatever the singular values.

    Args:
        scaling: s by level.
    """

    scaling: Mapping[float, float] = field(default_factory=dict)

    def path(self, known, sigmas, rng):
        found = list(FPSSMC(self.schedule, self.num_particles, self.eta).path(known, sigmas, rng))
        scaled = [self.scaling[sigma] * ybar for sigma, ybar in zip(sigmas, found, strict=True)]
        return iter([found[0] / self.scaling[sigmas[0]], *scaled[:-1]])

    def predict(self, xbar, denoised, sigma, sigma_next):
        return super().predict(self.scaling[sigma] * xbar, denoised, sigma, sigma_next)

    def undivided(self, known, sigma_next):
        """Their noise of ybar: not divided by the singular values."""
        return replace(known, s=known.observed.to(known.s), sigma_y=known.sigma_y * self.scaling[sigma_next])

    def condition(self, known, mean, ybar, sigma_next):
        """Mean and variance of x': ours, of such noise."""
        known = self.undivided(known, sigma_next)
        guided, _ = super().filter(known, mean, ybar, sigma_next, torch.zeros_like(mean))
        return guided, 1 / ((self.eta * sigma_next) ** -2 + known.s / known.sigma_y**2)

    def filter(self, known, mean, ybar, sigma_next, noise):
        """Our x', and the weight of scaled states that they give it."""
        guided, variance = self.condition(known, mean, ybar, sigma_next)
        found, _ = super().filter(self.undivided(known, sigma_next), mean, ybar, sigma_next, noise)
        scaling = self.scaling[sigma_next]
        moved = scaling * found
        misfit = (ybar - moved.where(known.observed, 0)) ** 2 / (known.sigma_y * scaling) ** 2
        step = (mean - moved) ** 2 / (self.eta * sigma_next) ** 2
        return found, total((guided - moved) ** 2 / variance - misfit - step) / 2


@pytest.mark.parametrize("case", cases("fps_orig"), ids="-".join)
def test_a_run_of_the_authors(case, monkeypatch):
    run = golden(*case)
    above, *levels = (1 / torch.cumprod(1 - run.arrays["betas"], dim=0) - 1).sqrt().flip(0).tolist()
    run.agrees(torch.arange(len(levels)).flip(0), "t", 0)  # the state of the level above is given to the network first
    for sigmas in (run.noise_levels()[run.arrays["timestep_map"]].flip(0).tolist(), RespacedSigmas(13).sigmas()[:-1]):
        assert [above, *levels] == pytest.approx(sigmas, rel=1e-5)
    particles, eta = int(run.setting("num_particles")), run.setting("c_rate") ** 0.5
    before = dict(zip(levels[1:], levels, strict=False))
    sampler = AsTheAuthors(Levels([*levels, 0.0]), particles, eta, above=above, before=before)
    draws = {
        "path": [e for (e,) in run.arrays["noise_y"]],
        "initial": [run.arrays["noise_init"]],
        "fps": list(run.arrays["noise_x"].unflatten(0, (-1, particles)).flatten(2, 3)),
    }
    steps, log_weights = (
        spied(monkeypatch, FPSSMC, "predict"),
        followed(monkeypatch, FPSSMC, run.arrays["ancestors"][:, None]),
    )
    heard = spied(monkeypatch, AsTheAuthors, "filter")
    rng = Recorded(draws, 1)
    x, _ = sampler.particles(run.prior(), run.measurement(1), rng)
    assert rng.used_up()
    preserved = [ybar * known.observed / (1 + sigma**2) ** 0.5 for (known, _, ybar, sigma, _), _ in heard]
    run.agrees(torch.stack(preserved), "y_seq")
    steps = steps[len(heard) :]  # the path's own come first
    states = [xbar / (1 + sigma**2) ** 0.5 for (xbar, _, sigma, _), _ in steps]
    run.agrees(torch.stack(states), "state_before")
    run.agrees(torch.stack([*states[1:], x]), "state")
    run.agrees(torch.stack([denoised for (_, denoised, *_), _ in steps]), "x0_pred", 1e-5)
    log_weights = torch.stack(log_weights)
    run.agrees((log_weights - log_weights.amax(dim=2, keepdim=True)).exp(), "weights", 1e-5)
    run.agrees(x[:, 0], "final")


@pytest.mark.parametrize("case", cases("fps_smc", "fps_smc_ve"), ids="-".join)
def test_a_run_of_inversebench(case, monkeypatch):
    run = golden(*case)
    sigmas, scaling = run.arrays["sigma"].tolist(), run.arrays["scaling"].tolist()
    particles, seen = int(run.setting("num_particles")), run.problem["M"]
    sampler = AsInverseBench(
        Levels(sigmas), particles, run.setting("eta"), scaling=dict(zip(sigmas, scaling, strict=True))
    )
    first, *fresh = run.arrays["noise_y"]
    start = run.arrays["sigma_max"] * first / (1 + sigmas[0] ** 2) ** 0.5
    draws = {
        "path": [seen * start, *fresh],
        "initial": [start[:, None].expand(-1, particles, -1) / scaling[0]],
        "fps": run.arrays["noise_x"],
    }
    indices = run.arrays["indices"]
    followed(monkeypatch, FPSSMC, indices)
    steps, filtered = spied(monkeypatch, AsInverseBench, "condition"), spied(monkeypatch, AsInverseBench, "filter")
    rng = Recorded(draws, len(start))
    x, _ = sampler.particles(run.prior(), run.measurement(len(start)), rng)
    assert rng.used_up()
    moved = [s * select(xbar, index) for s, (_, (xbar, _)), index in zip(scaling[1:], filtered, indices, strict=True)]
    run.agrees(torch.stack(moved), "state_bar")
    run.agrees(scaling[-1] * select(x, indices[-1]), "final")
    run.agrees(torch.stack([log_weights for _, (_, log_weights) in filtered]), "log_w")
    if case[0] == "fps_smc":
        run.agrees(torch.stack([mean for (_, mean, *_), _ in steps]), "x_ddim")
        run.agrees(torch.stack([guided for _, (guided, _) in steps]), "mean")
        run.agrees(torch.stack([variance[0, 0] for _, (_, variance) in steps]), "variance")


def filtered(sampler: FPSSMC, rows: int) -> tuple[Tensor, Tensor]:
    """The exact filter's mean (rows, 3) and covariance (3, 3) of x0, for the paths of the rows, by Kalman's recursion.

    The chain is xbar' = F xbar + eta sigma' n, which the denoiser of a Gaussian makes linear, and s ybar' is s xbar'
    with noise sigma_y.
    """
    _, measurement = problem(rows)
    known, sigmas = spectrum(measurement, "test"), sampler.schedule.sigmas()
    path = [p.flatten(1) for p in sampler.path(known, sigmas, Streams(0, [str(n) for n in range(rows)]))]
    turn = known.analyse(torch.eye(3).view(3, 1, 1, 3)).view(3, 3)  # V: row n is V^T e_n
    within, s, seen = turn.mT @ COVARIANCE @ turn, known.s[0].flatten(), known.observed[0].flatten()
    mean = path[0].where(seen, 0)
    covariance = torch.where(seen, 0.0, 1 + sigmas[0] ** 2).diag()
    for number, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
        gains = within @ torch.linalg.inv(within + sigma**2 * torch.eye(3))
        slope = sampler.predict(torch.eye(3), gains, sigma, sigma_next)
        mean, covariance = (
            mean @ slope.mT,
            slope @ covariance @ slope.mT + (sampler.eta * sigma_next) ** 2 * torch.eye(3),
        )
        a = s.diag()[seen]
        gain = covariance @ a.mT @ torch.linalg.inv(a @ covariance @ a.mT + SIGMA_Y**2 * torch.eye(len(a)))
        mean, covariance = mean + (path[number] - mean) @ (gain @ a).mT, covariance - gain @ a @ covariance
    return mean @ turn.mT, turn @ covariance @ turn.mT


def test_with_many_particles_it_is_the_exact_filter_of_its_path():
    """What the paper promises; within 4 standard errors of 40 rows, each with a path of its own."""
    sampler = FPSSMC(GeometricSigmas(10, 20.0, 0.05), 2000, 0.85)
    first, second, share = moments(sampler, rows=40)
    mean, covariance = filtered(sampler, rows=40)
    assert mean.std(dim=0).min() > 0.02  # the paths differ
    found = (
        second
        - mean[:, :, None] * first[:, None]
        - first[:, :, None] * mean[:, None]
        + mean[:, :, None] * mean[:, None]
    )
    for values in (first - mean, found - covariance):
        errors = values.std(dim=0) / len(values) ** 0.5
        assert (values.mean(dim=0).abs() < 4 * errors).all(), (values.mean(dim=0), errors)
    assert share.min() > 0.5


@pytest.mark.parametrize("num_levels", [10, 40])
def test_the_filter_is_no_posterior_sampler(num_levels):
    """The noise of y counts anew at every level: the more levels, the narrower; by the exact filter, paths included."""
    sampler = FPSSMC(GeometricSigmas(num_levels, 20.0, 0.05), eta=0.85)
    mean, covariance = filtered(sampler, rows=2000)
    found = (mean.var(dim=0) + covariance.diagonal()) ** 0.5
    _, exact = posterior(COVARIANCE, SIGMA_Y)
    most = {10: 0.75, 40: 0.45}[num_levels]
    assert ((found / exact.diagonal() ** 0.5)[:2] < most).all()


def test_a_state_that_knows_next_to_nothing_is_no_trouble_in_float32():
    """At level 157 all but 1e-9 of what is known of xbar' is y's: the rest must not become negative."""
    shape = (1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    operator = Dense(torch.randn(60, 64, generator=generator) / 4, shape)
    measurement = Measurement(torch.randn(2, 60, 1, 1, generator=generator), operator, GaussianNoise(0.005))
    known = spectrum_of_particles(measurement, "FPSSMC", 3)
    noise = torch.randn(2, 3, *shape, generator=generator)
    mean = 100 * torch.randn(2, 3, *shape, generator=generator)
    clear = known.observed & (known.noise < 0.002)
    for sigma in (157.0, 10.0, 0.1):
        moved, log_weights = FPSSMC().filter(known, mean, known.ybar, sigma, noise)
        assert torch.isfinite(moved).all()
        assert torch.isfinite(log_weights).all()
        if sigma > 1:
            told = (moved - known.ybar - known.noise * noise).abs()
            assert told.where(clear, 0).max() < 2e-4
