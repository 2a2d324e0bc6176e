"""DiffPIR against the runs of the authors' code and of InverseBench, and what its equations say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import PhaseRetrieval, SuperResolution
from posterior.priors import Prior
from posterior.samplers import DiffPIR, QuadraticSigmas
from tests.peers import SIGMA_Y, Levels, cases, golden, spied


class Scaled(DiffPIR):
    """InverseBench: a factor 2, sqrt(1 - abar) in place of sigma, and rounding to float32."""

    def rho(self, sigma_y, sigma):
        return 2 * super().rho(sigma_y, sigma) * (1 + sigma**2)

    def restore(self, measurement, denoised, sigma):
        return super().restore(measurement, denoised, sigma).float().double()


class Gradient(Scaled):
    """One gradient step in place of the minimum."""

    def restore(self, measurement, denoised, sigma):
        missing = measurement.y - measurement.observed(denoised)
        return denoised + 2 * measurement.operator.adjoint(missing) / self.rho(SIGMA_Y, sigma)


@dataclass(frozen=True)
class WithEta(DiffPIR):
    """The authors' code: fresh noise of DDIM as well, and no last step: the state is multiplied by sqrt(abar).

    Args:
        eta: of DDIM.
        betas: sigma_t -> beta_t.
    """

    eta: float = 0.0
    betas: Mapping[float, float] = field(default_factory=dict)

    def renoise(self, x, restored, sigma, sigma_next, rng):
        if sigma_next == 0:
            return x / (1 + sigma**2) ** 0.5
        fresh, other = (rng.randn_like("diffpir", x) for _ in range(2))
        share = self.eta**2 * (1 + 1 / sigma**2) * self.betas[sigma]  # of sigma_next^2
        kept = (1 - share) ** 0.5 * (x - restored) / sigma + share**0.5 * fresh
        return restored + sigma_next * ((1 - self.zeta) ** 0.5 * kept + self.zeta**0.5 * other)


@pytest.mark.parametrize("case", cases("diffpir_grad", "diffpir_grad_xi", "diffpir_prox"), ids="-".join)
def test_a_run_of_inversebench(case, monkeypatch):
    run = golden(*case)
    levels, scaling, (start, *fresh) = run.arrays["sigma"].tolist(), run.arrays["scaling"], run.arrays["noise"]
    sampler = (Gradient if run.setting("linear") == 0 else Scaled)(
        Levels(levels), run.setting("lamb"), run.setting("xi"), clip_denoised=False
    )
    first = run.arrays["sigma_max"] * start / scaling[0]
    draws = {"initial": [first / (1 + levels[0] ** 2) ** 0.5], "diffpir": fresh}
    denoised, steps = spied(monkeypatch, Prior, "denoise"), spied(monkeypatch, DiffPIR, "renoise")
    *states, final = run.states_of(sampler, draws, len(start))
    scaling = torch.cat([scaling[1:-1], torch.ones(1)])  # the last state they do not scale
    tolerance = 1e-5 if run.setting("linear") else 1e-6
    run.agrees(torch.tensor([sampler.rho(SIGMA_Y, sigma) for sigma in levels[:-1]]), "rho")
    run.agrees(torch.stack([d for _, d in denoised]), "x0", tolerance)
    run.agrees(torch.stack([restored for (_, restored, *_), _ in steps]), "x0hat", tolerance)
    run.agrees(scaling.view(-1, 1, 1, 1, 1) * torch.stack(states), "state", tolerance)
    run.agrees(final, "final", tolerance)


@pytest.mark.parametrize("case", cases("diffpir_orig", "diffpir_orig_zeta"), ids="-".join)
def test_a_run_of_the_authors(case, monkeypatch):
    run = golden(*case)
    schedule, betas = QuadraticSigmas(12), run.problem["betas"]
    levels, (start, *fresh) = torch.tensor(schedule.sigmas(), dtype=torch.float64), run.arrays["noise"]
    run.agrees(torch.tensor(schedule.timesteps()), "t", 0)
    run.agrees(999 - torch.tensor(schedule.timesteps()), "seq", 0)
    sampler = WithEta(
        schedule,
        run.setting("lam"),
        run.setting("zeta"),
        eta=run.setting("eta"),
        betas=dict(zip(levels.tolist(), betas[schedule.timesteps()].tolist(), strict=False)),
    )
    run.agrees(torch.tensor([sampler.rho(run.setting("sigma"), sigma) for sigma in levels[:-1].tolist()]), "rhos")
    preserved = 1 / (1 + levels**2).sqrt()
    near = run.noise_levels()[(run.noise_levels() - run.setting("sigma")).abs().argmin()]
    y = run.measurement(len(start)).y.view_as(start)
    first = (1 + near**2).sqrt() * y + (levels[0] ** 2 - near**2).sqrt() * start
    draws = {"initial": [first * preserved[0]], "diffpir": fresh}
    denoised = spied(monkeypatch, Prior, "denoise")
    *states, final = run.states_of(sampler, draws, len(start))
    states = torch.stack([first, *states[:-1]]) * preserved[:-1].view(-1, 1, 1, 1, 1)
    run.agrees(states, "state")
    run.agrees(torch.stack([d.clamp(-1, 1) for _, d in denoised]), "x0_pred")
    run.agrees(final, "last_state")
    run.agrees(torch.where(run.problem["M"].view_as(final[0]) > 0, y, final), "final")


def test_the_restored_image_is_where_the_gradient_of_equation_12_vanishes():
    run, sampler, sigma = golden(*cases("diffpir_prox")[0]), DiffPIR(lam=7.0), 0.3
    measurement = run.measurement(2)
    denoised = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = sampler.restore(measurement, denoised, sigma).requires_grad_()
    misfit = (measurement.y - measurement.observed(x0)).square().sum()
    (misfit + 7.0 * SIGMA_Y**2 / sigma**2 * (x0 - denoised).square().sum()).backward()
    torch.testing.assert_close(x0.grad, torch.zeros_like(x0), rtol=0, atol=1e-12)


def test_noise_that_is_kept_and_fresh_noise_together_have_the_level():
    """Around the image that it has restored, if x had noise of its level there."""
    rows, sigma, sigma_next = 2000, 2.0, 0.5
    restored, rng = torch.zeros(rows, 1, 2, 2), Streams(0, [str(n) for n in range(rows)])
    x = sigma * rng.randn_like("x", restored)
    for zeta in (0.0, 0.3, 1.0):
        found = DiffPIR(zeta=zeta).renoise(x, restored, sigma, sigma_next, rng) / sigma_next
        assert abs(float(found.square().mean()) - 1) < 4 * (2 / found.numel()) ** 0.5


def test_measurements_almost_without_noise_are_met(field):
    shape = (3, 16, 16)
    truth = field.sample_from(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    operator = SuperResolution(4).realise(shape)
    noise = torch.randn(2, *operator.measurement_shape, generator=torch.Generator().manual_seed(1))
    measurement = Measurement.simulate(truth, operator, GaussianNoise(1e-3), noise)
    x = DiffPIR(clip_denoised=False)(field, measurement, Streams(0, ["a", "b"]))
    assert (measurement.relative_residual(x) < 1.5).all()


def test_it_needs_a_linear_operator_and_gaussian_noise_and_says_so_before_any_evaluation(field):
    nonlinear, linear = PhaseRetrieval().realise((3, 16, 16)), SuperResolution(4).realise((3, 16, 16))
    for operator, law, told in (
        (nonlinear, GaussianNoise(), "DiffPIR needs a linear operator, got FourierAmplitude"),
        (linear, PoissonNoise(), "DiffPIR needs Gaussian noise, got PoissonNoise"),
    ):
        measurement = Measurement(torch.zeros(1, *operator.measurement_shape), operator, law)
        with pytest.raises(UserError, match=told):
            DiffPIR()(field, measurement, Streams(0, ["a"]))
    assert field.cost.forward == 0
