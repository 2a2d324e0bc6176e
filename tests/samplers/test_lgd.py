"""LGD against InverseBench's runs, and its misfit against what it estimates."""

from dataclasses import dataclass

import pytest
import torch

from posterior import Measurement, Streams
from posterior.noise import GaussianNoise
from posterior.operators import Inpainting, SuperResolution
from posterior.samplers import DPS, LGD, ReverseStep
from tests.peers import Levels, Run, cases, golden


@dataclass(frozen=True)
class EulerMaruyama(ReverseStep):
    """InverseBench's step, with its tables; its states are s x."""

    run: Run

    def moments(self, x, denoised, fraction, sigma, sigma_next):
        arrays, step = self.run.arrays, self.run.arrays["sigma"].tolist().index(sigma)
        s, s_next = arrays["scaling"][step : step + 2].tolist()
        factor, kept = arrays["factor"][step].item(), arrays["scaling_factor"][step].item()
        return (kept * s * x + factor * (denoised - x) / (sigma**2 * s)) / s_next, factor**0.5 / s_next


class JointNorm(LGD):
    """InverseBench's: the norm of all residuals at once, over n."""

    def misfit(self, measurement, denoised, rng, sigma):
        return torch.linalg.vector_norm(self.losses(measurement, denoised, rng, sigma), dim=0) / self.num_draws


def spied(monkeypatch):
    """What each step finds: D and misfits, and the gradients of misfits in D and in x."""
    found, misfit, grad = [], JointNorm.misfit, torch.autograd.grad

    def misfits(self, measurement, denoised, rng, sigma):
        found.append([denoised.detach(), misfit(self, measurement, denoised, rng, sigma)])
        denoised.register_hook(found[-1].append)
        return found[-1][1]

    def grads(*arguments):
        found[-1].extend(gradient := grad(*arguments))
        return gradient

    monkeypatch.setattr(JointNorm, "misfit", misfits)
    monkeypatch.setattr(torch.autograd, "grad", grads)
    return found


@pytest.mark.parametrize("case", cases("lgd"), ids="-".join)
def test_a_run_of_inversebench(case, monkeypatch):
    run, found = golden(*case), spied(monkeypatch)
    start, *fresh = run.arrays["noise"]
    sigmas, scaling = run.arrays["sigma"].tolist(), run.arrays["scaling"].view(-1, 1, 1, 1, 1)
    first = run.arrays["sigma_max"] / scaling[0] * start / (1 + sigmas[0] ** 2) ** 0.5  # it starts at sigma n
    around = [draw for step in run.arrays["noise_mc"] for draw in step.unbind(dim=1)]
    scale, num_draws = run.setting("guidance_scale"), int(run.setting("num_mc"))
    sampler = JointNorm(Levels(sigmas), EulerMaruyama(run), scale, clip_denoised=False, num_draws=num_draws)
    *states, final = run.states_of(sampler, {"initial": [first], "around": around, "dps": fresh}, len(start))
    denoised, misfits, of_denoised, of_state = (torch.stack(values).detach() for values in zip(*found, strict=True))
    norms = num_draws * misfits  # avg_loss holds the sum of squares, avg_grad the gradient of their mean
    run.agrees(denoised, "denoised")
    run.agrees(norms**2, "avg_loss")
    run.agrees(2 * norms.view(*norms.shape, 1, 1, 1) * of_denoised, "avg_grad")
    run.agrees(of_state / scaling[:-1], "ll_grad")
    run.agrees(scaling[1:] * torch.stack(states), "state")
    run.agrees(scaling[-1] * final, "final")


def test_its_misfit_is_the_mean_over_images_around_d_in_closed_form():
    """Of one pixel, E exp(-|z|) of z ~ N(m, r^2) is exp(r^2 / 2) (exp(-m) Phi(m / r - r) + exp(m) Phi(-m / r - r))."""
    mask = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    y, denoised, sigma = torch.tensor([0.7, -0.4, 0.1]), torch.tensor([0.2, 0.1, 0.1]), 1.3
    measurement = Measurement(
        y.view(3, 1, 1, 1) * mask, Inpainting(mask.expand(3, -1, -1, -1), (1, 2, 2)), GaussianNoise()
    )
    found = LGD(num_draws=10_000).misfit(measurement, denoised.view(3, 1, 1, 1) * mask, Streams(0, list("abc")), sigma)
    m, r = y - denoised, sigma / (1 + sigma**2) ** 0.5
    tails = torch.special.log_ndtr(torch.stack([m / r - r, -m / r - r])) + torch.stack([-m, m])
    expected = -(r**2 / 2 + torch.logsumexp(tails, dim=0))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)  # four standard deviations
    assert ((found - m.abs()).abs() > 0.1).all()  # DPS's own


def test_without_spread_it_is_dps(field):
    operator = SuperResolution(4).realise((3, 16, 16))
    measurement = Measurement(torch.zeros(2, *operator.measurement_shape), operator, GaussianNoise())
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rng = Streams(0, ["a", "b"])
    torch.testing.assert_close(LGD().misfit(measurement, x, rng, 0.0), DPS().misfit(measurement, x, rng, 0.0))
