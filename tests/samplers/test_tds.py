"""TDS against azula's, step by step, and what makes it exact."""

from itertools import pairwise

import pytest
import torch

from posterior.samplers import TDS, GeometricSigmas, tds
from posterior.samplers.particles import systematic
from tests.peers import SHAPE, SIGMA_Y, Recorded, cases, golden
from tests.truth import WideStreams, posterior, whitened

PARTICLES, SIGMAS = 5, GeometricSigmas(8, 20.0, 0.05)
RUNS = cases("pigdm_noisy")
"""For their problem: the operators that are here."""


def law_of_y(run, denoised, sigma, signal_std=0.35):
    """p~(y | x), one a row of D (K, ...)."""
    matrix, q2 = run.problem["A"], 1 / (1 / sigma**2 + 1 / signal_std**2)
    covariance = q2 * matrix @ matrix.mT + SIGMA_Y**2 * torch.eye(len(matrix))
    return torch.distributions.MultivariateNormal(denoised.flatten(1) @ matrix.mT, covariance)


@pytest.mark.parametrize("case", RUNS, ids="-".join)
def test_it_is_azulas_step_by_step(case, monkeypatch):
    runs = pytest.importorskip("tests.azula_runs", reason="azula is not here")
    from azula.guidance import TDSSampler

    run, levels = golden(*case), SIGMAS.sigmas()
    generator = torch.Generator().manual_seed(0)
    start, *fresh = torch.randn(len(levels) - 1, PARTICLES, *SHAPE, generator=generator).double()
    uniforms = torch.rand(len(levels) - 1, generator=generator).double()

    found, seen, propose = [], [], TDS.propose

    def watched(self, *arguments):
        found.append(propose(self, *arguments))
        return found[-1]

    def resampled(log_weights, number):
        seen.append(log_weights)
        return systematic(log_weights, number)

    monkeypatch.setattr(TDS, "propose", watched)
    monkeypatch.setattr(tds, "systematic", resampled)
    draws = Recorded({"initial": [start], "tds": fresh, "resampling": list(uniforms)}, 1)
    sampler = TDS(SIGMAS, PARTICLES, clip_denoised=False)
    sampler.particles(run.prior(), run.measurement(1), draws)
    assert draws.used_up()

    left, numbers = iter(fresh), iter(uniforms)
    monkeypatch.setattr(torch.distributions.Normal, "sample", lambda law: law.loc + law.scale * next(left))

    given = []

    def drawn(weights, count, **_):
        given.append(weights)
        places = (torch.arange(count) + next(numbers)) / count
        return (places[:, None] > weights.cumsum(dim=0)).sum(dim=1)

    monkeypatch.setattr(torch, "multinomial", drawn)
    prior = runs.OurPrior(run.prior(), levels[:-1])
    theirs = TDSSampler(
        prior,
        lambda x, sigma: law_of_y(run, x, sigma).log_prob(run.problem["y"]),
        steps=len(levels) - 2,
        silent=True,
        dtype=torch.float64,
    )
    expected = runs.states(theirs, (1 + levels[0] ** 2) ** 0.5 * start, levels[:-1])
    torch.testing.assert_close(torch.stack([x[0] for x, _ in found]), torch.stack(expected), rtol=1e-6, atol=1e-6)
    assert len(given) == len(levels) - 2
    for log_weights, weights in zip(seen, given, strict=False):  # ours are asked for once more, before the step to 0
        torch.testing.assert_close(log_weights[0].softmax(dim=0), weights, rtol=1e-6, atol=1e-9)


def descended(run, sigmas):
    """Mean and covariance of the ancestral descent's x0: with few steps not the prior's, but Gaussian all the same."""
    mu = run.problem["mu"]
    variances, basis = torch.linalg.eigh(run.problem["C"])
    mean, variance = -basis.mT @ mu, torch.full_like(variances, 1 + sigmas[0] ** 2)
    for sigma, sigma_next in pairwise(sigmas):
        kept = (sigma_next / sigma) ** 2
        factor = kept + (1 - kept) * variances / (variances + sigma**2)
        mean, variance = factor * mean, factor**2 * variance + sigma_next**2 * (1 - kept)
    return mu + basis @ mean, basis @ torch.diag(variance) @ basis.mT


def test_with_many_particles_its_samples_are_those_of_the_descent_given_y():
    run, rows, schedule = golden("pigdm_noisy", "average"), 300, GeometricSigmas(20, 20.0, 0.02)
    exact = posterior(*descended(run, schedule.sigmas()), run.problem["A"], run.problem["y"], SIGMA_Y)

    def moments(num_particles):
        """Squared error of the mean over its variance for exact samples, and the share of the variance."""
        sampler = TDS(schedule, num_particles, clip_denoised=False)
        z = whitened(sampler(run.prior(), run.measurement(rows), WideStreams(rows)), *exact)
        return float(rows * z.mean(dim=0).square().mean()), float(z.var(dim=0).mean())

    many, variance = moments(64)
    assert many == pytest.approx(1, abs=0.7)  # four standard deviations
    assert variance == pytest.approx(1, abs=0.04)
    alone, _ = moments(1)
    assert alone > 2.5  # the proposals are not of the posterior: weights make them so
