"""DAPS against the runs of the authors' code and of InverseBench, and where it is exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators import Dense, SuperResolution
from posterior.priors import DiffusionPrior, Prior, UNet
from posterior.samplers import (
    DAPS,
    ExactLikelihoodStep,
    HamiltonianSteps,
    KarrasSigmas,
    LangevinSteps,
    MetropolisSteps,
)
from posterior.samplers.likelihood_steps import ChainSteps
from tests.peers import GaussianByMatrix, Levels, Run, cases, golden, spied
from tests.truth import posterior, whitened

ROWS = 10_000


class Stopped(DAPS):
    """The authors' flow: as many steps, but the last level is the bottom."""

    def grid(self, sigma):
        return KarrasSigmas(self.ode_steps + 1, sigma, self.ode_bottom).sigmas()[:-1]


KINDS = {
    "daps": LangevinSteps,
    "daps_orig": LangevinSteps,
    "daps_orig_mh": MetropolisSteps,
    "daps_orig_hmc": HamiltonianSteps,
}


def count_the_dropped_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' share of steps that are done, of 7 where there are 6."""
    size = ChainSteps.size
    monkeypatch.setattr(ChainSteps, "size", lambda self, done: size(self, done * 6 / 7))


def steps_of(run: Run) -> ChainSteps:
    """The run's inner chain; the authors' gradients of y are doubled, by tau."""
    names = ("inner", "lr", "lr_min_ratio", "tau")
    num_steps, step_size, final_share, tau = (run.setting(name) for name in names)
    if run.name in ("daps_orig", "daps_orig_hmc"):
        tau /= 2**0.5
    momentum = {"momentum": run.setting("momentum")} if run.name == "daps_orig_hmc" else {}
    return KINDS[run.name](num_steps, step_size, final_share, tau, **momentum)


def draws_of(run: Run, num_levels: int) -> dict[str, list[Tensor]]:
    """By purpose; the noise of the last level, 0, is left out."""
    inner, hamiltonian = int(run.setting("inner")), "hmc" in run.name
    start, *rest = run.arrays["noise"]
    blocks = torch.stack(rest).unflatten(0, (num_levels, -1))
    chain = blocks[:, hamiltonian : hamiltonian + inner].flatten(0, 1)
    draws = {"initial": [start], "daps": blocks[:-1, -1]}
    draws["proposal" if "mh" in run.name else "langevin"] = chain
    if hamiltonian:
        draws["velocity"] = blocks[:, 0]
    if "mh" in run.name:
        draws["acceptance"] = run.arrays["uniform"]
    return draws


@pytest.mark.parametrize("case", cases(*KINDS), ids="-".join)
def test_a_golden_run(case, monkeypatch):
    run = golden(*case)
    levels, authors = run.arrays["sigma"].tolist(), run.name != "daps"
    if authors:
        count_the_dropped_level(monkeypatch)
    sampler = (Stopped if authors else DAPS)(
        Levels(levels), int(run.setting("ode_steps")), run.setting("ode_sigma_min"), steps_of(run)
    )
    num_levels = len(levels) - 1
    draws = draws_of(run, num_levels)
    flows, asked = spied(monkeypatch, DAPS, "flow"), spied(monkeypatch, Prior, "denoise")
    chains, drifts = spied(monkeypatch, ChainSteps, "__call__"), spied(monkeypatch, ChainSteps, "drift")
    *states, final = run.states_of(sampler, draws, len(draws["initial"][0]))
    tolerance = 1e-5 if authors else 1e-6
    run.agrees(torch.stack([x0hat for _, x0hat in flows]), "x0hat", tolerance)
    run.agrees(torch.stack([x0 for _, x0 in chains]), "x0y", tolerance)
    run.agrees(torch.stack(states), "state", tolerance)
    run.agrees(final, "final", tolerance)
    run.agrees(torch.tensor([sigma for (_, sigma), _ in asked], dtype=torch.float64), "ode_sigma", tolerance)
    if run.operator == "inpaint" and not authors:
        run.agrees(torch.stack([x for (x, _), _ in asked]), "ode_x")
        run.agrees(torch.stack([w for (_, w, *_), _ in drifts]), "langevin_before")
    dropped = [*KarrasSigmas(num_levels + 1, 100.0, 0.1).sigmas()[:-2], 0.0]
    sigmas = dropped if authors else KarrasSigmas(num_levels, 100.0, 0.1).sigmas()
    run.agrees(torch.tensor(sigmas, dtype=torch.float64), "sigma")


def square(singular_values: list[float]) -> tuple[Measurement, Tensor]:
    """A measurement by an invertible A of images (1, 1, n), ROWS times over, and A."""
    generator, size = torch.Generator().manual_seed(0), len(singular_values)
    turns = (torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for _ in range(2))
    matrix = next(turns) * torch.tensor(singular_values) @ next(turns)
    y = torch.randn(1, size, 1, 1, generator=generator).expand(ROWS, -1, -1, -1)
    return Measurement(y, Dense(matrix, (1, 1, size)), GaussianNoise(0.5)), matrix


def is_normal(samples: Tensor, mean: Tensor, covariance: Tensor, bias: float) -> None:
    """Mean and variance are right in every coordinate that is independent, within 4.5 errors and a bias."""
    z = whitened(samples, mean, covariance)
    assert (ROWS**0.5 * z.mean(dim=0)).abs().max() < 4.5
    assert (z.var(dim=0) - 1).abs().max() < 4.5 * (2 / ROWS) ** 0.5 + bias


@pytest.mark.parametrize(
    ("step", "bias"),
    [
        (ExactLikelihoodStep(), 0.0),
        (LangevinSteps(400, 0.005), 0.005 * 40 / 2),
        (MetropolisSteps(400, 0.1), 0.0),
        (HamiltonianSteps(400, 0.001, momentum=0.8), 0.001 / (1 - 0.8) * 40 / 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_step_draws_from_its_law(step, bias):
    """h L / 2 is the bias of Langevin's variance, L = 3^2 / 0.5^2 + 1 / 0.7^2 where it is largest."""
    measurement, matrix = square([3.0, 1.0, 0.3])
    center, radius = torch.full((ROWS, 1, 1, 3), 0.2), 0.7
    found = step(measurement, center, radius, 0.0, Streams(0, [str(n) for n in range(ROWS)]))
    exact = posterior(
        center[0].flatten().double(),
        radius**2 * torch.eye(3).double(),
        matrix.double(),
        measurement.y[0].flatten().double(),
        0.5,
    )
    is_normal(found, *exact, bias)


def test_it_is_exact_where_an_image_given_the_state_is_normal_around_it():
    """As under a prior that is flat: there the probability flow leads nowhere, and x0 given x is N(x, sigma^2 I)."""
    measurement, matrix = square([3.0, 1.0, 0.5])
    flat = GaussianByMatrix(torch.zeros(3), 1e6 * torch.eye(3))
    sampler = DAPS(KarrasSigmas(6, 20.0, 0.3), likelihood_step=ExactLikelihoodStep())
    samples = sampler(flat, measurement, Streams(0, [str(n) for n in range(ROWS)]))
    inverse = torch.linalg.inv(matrix.double())
    is_normal(samples, inverse @ measurement.y[0].flatten().double(), 0.5**2 * inverse @ inverse.mT, 0.0)


def test_step_sizes_fall_to_their_final_share():
    steps = LangevinSteps(step_size=0.2, final_share=0.1)
    assert [steps.size(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.11, 0.02])


@pytest.mark.parametrize("kind", [LangevinSteps, MetropolisSteps, HamiltonianSteps])
@pytest.mark.parametrize(
    ("name", "bad"), [("num_steps", 0), ("step_size", 0.0), ("final_share", 0.0), ("final_share", 1.1), ("tau", 0.0)]
)
def test_bad_settings_of_a_chain_are_refused(kind, name, bad):
    with pytest.raises(UserError, match=f"{kind.__name__}: {name} must be"):
        kind(**{name: bad})


def test_a_momentum_that_never_forgets_is_refused():
    with pytest.raises(UserError, match="HamiltonianSteps: momentum must be"):
        HamiltonianSteps(momentum=1.0)


@pytest.mark.parametrize("settings", [{"ode_bottom": 0.005}, {"schedule": KarrasSigmas(5, 200.0, 0.1)}])
def test_levels_outside_of_the_priors_range_are_refused_before_any_evaluation(settings):
    prior = DiffusionPrior(UNet(8, num_channels=32, channel_mult=(1,), attention_resolutions=()))
    operator = SuperResolution(2).realise((3, 8, 8))
    measurement = Measurement(torch.zeros(1, *operator.measurement_shape), operator, GaussianNoise())
    with pytest.raises(UserError, match="outside"):
        DAPS(**settings)(prior, measurement, Streams(0, ["a"]))
    assert prior.cost.forward == 0


def test_langevin_steps_that_diverge_are_refused_before_any_evaluation(field):
    operator = Dense(3 * torch.eye(192)[:5], (3, 8, 8))
    measurement = Measurement(torch.zeros(1, 5, 1, 1), operator, GaussianNoise(0.05))
    with pytest.raises(UserError, match=r"step_size 0\.0001 diverges with this operator: take 2\.22e-05 at most"):
        DAPS()(field, measurement, Streams(0, ["a"]))
    assert field.cost.forward == 0
    steps = LangevinSteps(3000, 2e-5, tau=0.01)
    found = steps(measurement, torch.ones(1, 3, 8, 8), 0.1, 0.0, Streams(0, ["a"]))
    assert torch.isfinite(found).all()
