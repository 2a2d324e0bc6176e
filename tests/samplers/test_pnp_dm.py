"""PnP-DM against the runs of the authors' code and of InverseBench, and what law its samples have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from posterior import UserError
from posterior.priors import Prior
from posterior.samplers import (
    DDIM,
    EulerMaruyama,
    ExactLikelihoodStep,
    KarrasSigmas,
    LangevinSteps,
    PnPDM,
    ReverseStep,
)
from posterior.samplers.likelihood_steps import ChainSteps
from tests.peers import SIGMA_Y, Levels, Run, by_rows, cases, golden, spied
from tests.truth import WideStreams, posterior, whitened


class FromBelow(Levels):
    """The authors' start: at the first level below, as if that were the noise of z."""

    def below(self, sigma):
        return [level for level in self.levels if level < sigma]


class FromAbove(Levels):
    """InverseBench's start: at the last level that is not below."""

    def below(self, sigma):
        return self.levels[-sum(level < sigma for level in self.levels) - 1 :]


@dataclass(frozen=True)
class OfTheLevelBefore(ReverseStep):
    """InverseBench's step: that of the interval before, with noise also at the end."""

    levels: Sequence[float]

    def factor(self, sigma: float) -> float:
        before = self.levels[self.levels.index(sigma) - 1]
        return 2 * before * (before - sigma)

    def moments(self, x, denoised, fraction, sigma, sigma_next):
        return x + self.factor(sigma) / sigma**2 * (denoised - x), self.factor(sigma) ** 0.5


def blocks_of(noise: Tensor, lengths: list[list[int]]) -> list[list[Tensor]]:
    """Draws in their order, by iteration and then by kind: lengths has the number of draws of either kind."""
    blocks = iter(noise.split([length for pair in lengths for length in pair]))
    return [list(kind) for kind in zip(*((next(blocks), next(blocks)) for _ in lengths), strict=True)]


def of_center(run: Run, noise: Tensor, rho: float) -> Tensor:
    """The center's noise by which the exact draw moves as the reference's, made in V's coordinates, y having none."""
    narrowed = (1 + run.problem["M"] * (run.problem["S"] * rho / SIGMA_Y) ** 2).sqrt()
    return (narrowed * noise.flatten(1)) @ run.problem["V"].mT


@pytest.mark.parametrize("case", cases("pnpdm", "pnpdm_orig_sde", "pnpdm_orig_ode"), ids="-".join)
def test_a_golden_run(case, monkeypatch):
    held = of_inversebench if case[0] == "pnpdm" else of_the_authors
    held(by_rows(golden(*case)), monkeypatch)


def of_inversebench(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    levels, counts = run.arrays["sigma"].tolist(), run.arrays["denoise_steps"].tolist()
    inner, step_size, decay, tau = (run.setting(name) for name in ("inner", "lr", "rho", "tau"))
    langevin, step = LangevinSteps(int(inner), step_size, tau=tau), OfTheLevelBefore(levels)
    sampler = PnPDM(len(counts), 3.0, 0.1, decay, FromAbove(levels), step, langevin)
    start, noise = run.arrays["noise"][0], run.arrays["noise"][1:]
    chain, reverse = blocks_of(noise, [[int(inner), count] for count in counts])
    draws = {"initial": [start], "langevin": torch.cat(chain), "pnp-dm": torch.cat(reverse)}
    asked, drifts = spied(monkeypatch, Prior, "predict"), spied(monkeypatch, ChainSteps, "drift")
    z, descents = spied(monkeypatch, ChainSteps, "__call__"), spied(monkeypatch, PnPDM, "denoise")
    *states, final = run.states_of(sampler, draws, len(start))
    run.agrees(torch.stack([x for _, x in z]), "z")
    run.agrees(torch.stack(states), "state")
    run.agrees(final, "final")
    run.agrees(torch.tensor(sampler.rhos(), dtype=torch.float64), "anneal_sigma")
    run.agrees(torch.tensor([len(sigmas) - 1 for (*_, sigmas, _), _ in descents]), "denoise_steps", 0)
    run.agrees(torch.tensor([sigma for (_, sigma), _ in asked], dtype=torch.float64), "net_sigma")
    run.agrees(torch.tensor(KarrasSigmas(30, 15.0, 0.05).sigmas(), dtype=torch.float64), "sigma")
    run.agrees(torch.tensor([step.factor(sigma) for sigma in levels[1:]], dtype=torch.float64), "factor")
    if run.operator == "inpaint":
        run.agrees(torch.stack([x for (x, _), _ in asked]), "net_x")
        run.agrees(torch.stack([w for (_, w, *_), _ in drifts]), "langevin_before")


def of_the_authors(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, noisy = KarrasSigmas(25, 15.0, 0.05), run.name == "pnpdm_orig_sde"
    sampler = PnPDM(6, 3.0, 0.1, 0.5, FromBelow(schedule.sigmas()), EulerMaruyama() if noisy else DDIM())
    run.agrees(torch.tensor(schedule.sigmas(), dtype=torch.float64), "t_steps")
    run.agrees(torch.tensor(sampler.rhos(), dtype=torch.float64), "anneal")
    start, noise = run.arrays["noise"][0], run.arrays["noise"][1:]
    counts = [noisy * (len(sampler.schedule.below(rho)) - 2) for rho in sampler.rhos()]  # the last step has none
    likelihood, reverse = blocks_of(noise, [[1, count] for count in counts])
    draws = {
        "initial": [start],
        "exact step, y": [torch.zeros_like(run.measurement(len(start)).y)] * 6,
        "exact step, center": [of_center(run, e, rho) for (e,), rho in zip(likelihood, sampler.rhos(), strict=True)],
        "pnp-dm": torch.cat(reverse),
    }
    exact = spied(monkeypatch, ExactLikelihoodStep, "__call__")
    *_, final = run.states_of(sampler, draws, len(start))
    run.agrees(torch.stack([x for (_, x, *_), _ in exact]), "state_before", 1e-5)
    run.agrees(torch.stack([z for _, z in exact]), "z", 1e-5)
    run.agrees(final, "final", 1e-5)


def test_its_samples_are_of_the_posterior_of_a_measurement_with_noise_rho_more_in_the_image():
    """Here A A^T = I / 4. With the noise that y really has they would be far too wide."""
    run, rows, rho = golden("pnpdm_orig_sde", "average"), 200, 0.3
    sampler = PnPDM(25, 3.0, rho, 0.8, KarrasSigmas(200, 5.0, 0.002))
    samples = sampler(run.prior(), run.measurement(rows), WideStreams(rows))
    problem = [run.problem[name] for name in ("mu", "C", "A", "y")]
    z = whitened(samples, *posterior(*problem, (SIGMA_Y**2 + rho**2 / 4) ** 0.5))
    assert float(rows * z.mean(dim=0).square().mean()) == pytest.approx(1, abs=0.7)  # four standard deviations
    assert float(z.var(dim=0).mean()) == pytest.approx(1, abs=0.05)
    assert whitened(samples, *posterior(*problem, SIGMA_Y)).var(dim=0).mean() > 1.5


def test_a_rho_that_does_not_fall_to_its_least_is_refused():
    assert PnPDM(45).rhos()[-1] == 0.1
    with pytest.raises(UserError, match=r"rho ends at 1\.35, above rho_min 0\.1"):
        PnPDM(20)
