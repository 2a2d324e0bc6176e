"""RED-diff against the runs of the authors' code and of InverseBench, and what it is: an optimiser."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.operators import Inpainting
from posterior.samplers import REDDiff, RespacedSigmas
from tests.peers import SIGMA_Y, Levels, cases, golden, spied
from tests.truth import WideStreams, posterior


class OfScaled(REDDiff):
    """InverseBench: the network is shown the variance-preserving state."""

    def predicted(self, prior, x, sigma):
        return super().predicted(prior, x / (1 + sigma**2) ** 0.5, sigma)


@dataclass(frozen=True)
class OfMeans(REDDiff):
    """The authors' code: means over the batch too, mu with noise of its own, and A^+ y as a start.

    Args:
        sigma_x0: the noise of mu.
        batch: how many images theirs had.
    """

    sigma_x0: float = 0.0
    batch: int = 2

    def start(self, measurement):
        return pseudoinverse(measurement)

    def gradient(self, prior, measurement, mu, sigma, rng):
        moved = mu + self.sigma_x0 * rng.randn_like("of mu", mu)
        found = super().gradient(prior, measurement, moved, sigma, rng)
        return found / (2 * measurement.operator.num_measured() * self.batch)


def pseudoinverse(measurement: Measurement) -> Tensor:
    basis = measurement.operator.diagonal()
    back = basis.analyse(measurement.operator.adjoint(measurement.y))
    return basis.synthesise(torch.where(basis.gains > 0, back / basis.gains, 0))


@pytest.mark.parametrize("case", cases("reddiff_const", "reddiff_linear"), ids="-".join)
def test_a_run_of_inversebench(case, monkeypatch):
    run = golden(*case)
    levels, power = run.arrays["sigma"].tolist(), float(run.name == "reddiff_linear")
    sampler = OfScaled(Levels(levels), run.setting("base_lambda"), power, run.setting("base_lr"))
    gradients, weights = spied(monkeypatch, REDDiff, "gradient"), spied(monkeypatch, REDDiff, "weight")
    predicted = spied(monkeypatch, REDDiff, "predicted")
    *states, final = run.states_of(sampler, {"red-diff": run.arrays["noise"]}, run.arrays["noise"].shape[1])
    run.agrees(torch.stack(states), "state")
    run.agrees(final, "final")
    run.agrees(torch.stack([gradient for _, gradient in gradients]), "gradient")
    run.agrees(torch.stack([noise for _, noise in predicted]), "pred_epsilon")
    run.agrees(torch.stack([x for (_, x, _), _ in predicted]), "xt")
    run.agrees(torch.tensor([weight for _, weight in weights], dtype=torch.float64), "lam")


@pytest.mark.parametrize("case", cases("reddiff_orig", "reddiff_orig_sqrt"), ids="-".join)
def test_a_run_of_the_authors(case, monkeypatch):
    run = golden(*case)
    levels, power = run.noise_levels()[run.arrays["ts"].flip(0)].tolist(), 0.5 if run.name.endswith("sqrt") else 1.0
    lam, step_size, sigma_x0 = (run.setting(name) for name in ("lam", "lr", "sigma_x0"))
    sampler = OfMeans(Levels([*levels, 0.0]), lam, power, step_size, of_means=True, sigma_x0=sigma_x0)
    of_mu, noise = run.arrays["noise"].unbind(1)
    gradients = spied(monkeypatch, OfMeans, "gradient")
    *_, final = run.states_of(sampler, {"of mu": of_mu, "red-diff": noise}, noise.shape[1])
    run.agrees(torch.stack([mu for (_, _, mu, *_), _ in gradients]), "mu_before")
    run.agrees(final, "final")


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_its_gradients_have_the_mean_of_its_objectives(power):
    """|| y - A mu ||^2 and, the prior being N(m, C), lam sigma^power times sigma (C + sigma^2 I)^-1 (mu - m)."""
    run, rows, sigma, lam = golden(*cases("reddiff_const")[0]), 4000, 0.8, 0.25
    m, covariance, matrix, y = (run.problem[name] for name in ("mu", "C", "A", "y"))
    mu = torch.linspace(-1, 1, 64, dtype=torch.float64).requires_grad_()
    (y - matrix @ mu).square().sum().backward()
    of_prior = sigma * torch.linalg.solve(covariance + sigma**2 * torch.eye(64), mu.detach() - m)
    expected = mu.grad + lam * sigma**power * of_prior
    at = mu.detach().view(1, 1, 8, 8).expand(rows, -1, -1, -1)
    sampler = REDDiff(lam=lam, power=power)
    draws = sampler.gradient(run.prior(), run.measurement(rows), at, sigma, WideStreams(rows)).flatten(1)
    assert ((draws.mean(dim=0) - expected) / draws.std(dim=0) * rows**0.5).abs().max() < 4.5


def test_a_weight_of_means_follows_from_what_of_each_image_is_measured():
    """lam 0.25 is 0.5 m / n, for each row's mask."""
    mask = torch.ones(2, 1, 4, 4)
    mask[0, 0, 1:] = 0  # a quarter
    operator = Inpainting(mask, (3, 4, 4))
    measurement = Measurement(torch.zeros(2, 3, 4, 4), operator, GaussianNoise(0.1))
    weight = REDDiff(power=0.5, of_means=True).weight(measurement, 4.0)
    assert weight.flatten().tolist() == pytest.approx([0.25, 1.0])
    assert REDDiff(power=0.5).weight(measurement, 4.0) == 0.5


def test_it_is_an_optimiser_whose_samples_are_much_narrower_than_the_posterior():
    run, rows = golden(*cases("reddiff_const")[0]), 40
    sampler = REDDiff(RespacedSigmas(500), step_size=0.005)
    samples = sampler(run.prior(), run.measurement(rows), WideStreams(rows)).flatten(1)
    _, covariance = posterior(*(run.problem[name] for name in ("mu", "C", "A", "y")), SIGMA_Y)
    assert samples.var(dim=0).sum() < 0.1 * covariance.trace()
