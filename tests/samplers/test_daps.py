"""DAPS against the runs of the authors' code and of InverseBench, and where it is exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise, PoissonNoise, VaryingNoise
from posterior.one_bit import OneBit
from posterior.operators import Dense, LinearOperator, SuperResolution
from posterior.priors import DiffusionPrior, Prior, UNet
from posterior.samplers import (
    DAPS,
    DDNMPlus,
    ExactLikelihoodStep,
    HamiltonianSteps,
    KarrasSigmas,
    LangevinSteps,
    ListedSigmas,
    MetropolisSteps,
)
from posterior.samplers.likelihood_steps import Ball, ChainSteps, balls
from tests.peers import GaussianByMatrix, Levels, Run, cases, golden, spied
from tests.truth import posterior, whitened

ROWS = 10_000


class Stopped(DAPS):
    """The authors' flow: as many steps, but the last level is the bottom."""

    def grid(self, sigma):
        return KarrasSigmas(self.ode_steps + 1, sigma, self.ode_bottom).sigmas()[:-1]


class Unknown(LinearOperator):
    """A of which nobody says in which basis it is diagonal."""

    measurement_shape = (2, 1, 1)

    def __init__(self, known: LinearOperator) -> None:
        super().__init__(known.image_shape)
        self.known = known

    def forward(self, x):
        return self.known.to(x.dtype).forward(x)

    def adjoint(self, y):
        return self.known.to(y.dtype).adjoint(y)


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


def is_normal(samples: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Mean and variance are right in every coordinate that is independent, within 4.5 errors."""
    z = whitened(samples, mean, covariance)
    assert (ROWS**0.5 * z.mean(dim=0)).abs().max() < 4.5
    assert (z.var(dim=0) - 1).abs().max() < 4.5 * (2 / ROWS) ** 0.5


def reached(move: Tensor, push: Tensor, fresh: Tensor, start: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance to which s <- move s + push + fresh n comes from those of the start, side by side."""
    mean, covariance = start[:, 0], start[:, 1:]
    for _ in range(num_steps):
        mean, covariance = move @ mean + push, move @ covariance @ move.mT + fresh @ fresh.mT
    return mean, covariance


def langevin_law(mean: Tensor, precision: Tensor, center: Tensor, step: LangevinSteps) -> tuple[Tensor, Tensor]:
    """Of the last state: its bias is that of steps that are not short, and the chain's memory of the center."""
    eye, h = torch.eye(3).double(), step.step_size
    start = torch.cat([center[:, None], 0 * eye], dim=1)
    return reached(eye - h * precision, h * precision @ mean, (2 * h) ** 0.5 * eye, start, step.num_steps)


def hamiltonian_law(mean: Tensor, precision: Tensor, center: Tensor, step: HamiltonianSteps) -> tuple[Tensor, Tensor]:
    """Of the last w, from (w, v) = (center, n)."""
    eye, none, root, m = torch.eye(3).double(), torch.zeros(3, 3).double(), step.step_size**0.5, step.momentum
    fresh = (2 * (1 - m)) ** 0.5 * eye
    of_v = [-root * precision, m * eye]
    move = torch.cat([torch.cat([eye + root * of_v[0], root * of_v[1]], 1), torch.cat(of_v, 1)])
    push = torch.cat([root * root * precision @ mean, root * precision @ mean])
    start = torch.cat([torch.cat([center, 0 * center])[:, None], torch.block_diag(none, eye)], dim=1)
    mean, covariance = reached(move, push, torch.cat([root * fresh, fresh]), start, step.num_steps)
    return mean[:3], covariance[:3, :3]


@pytest.mark.parametrize(
    ("step", "law"),
    [
        (ExactLikelihoodStep(), None),
        (LangevinSteps(400, 0.005), langevin_law),
        (MetropolisSteps(400, 0.1), None),
        (HamiltonianSteps(400, 0.001, momentum=0.8), hamiltonian_law),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_step_draws_from_its_law(step, law):
    """The posterior's where a step has no bias, else the law of that very chain; which is near the posterior's."""
    measurement, matrix = square([3.0, 1.0, 0.3])
    center, radius = torch.full((ROWS, 1, 1, 3), 0.2), 0.7
    found = step(measurement, center, Ball(radius, 0.0), Streams(0, [str(n) for n in range(ROWS)]))
    at, wide = center[0].flatten().double(), matrix.double()
    exact = posterior(at, radius**2 * torch.eye(3).double(), wide, measurement.y[0].flatten().double(), 0.5)
    if law is None:
        is_normal(found, *exact)
        return
    mean, covariance = law(exact[0], torch.linalg.inv(exact[1]), at, step)
    is_normal(found, mean, covariance)
    assert (torch.linalg.solve(exact[1], covariance) - torch.eye(3).double()).norm() < 0.2


def test_a_walk_follows_the_law_of_signs_and_not_their_residual():
    """Of one number seen as its sign, against quadrature; by the residual its mean would be 0.70, not 0.49."""
    rows = 4000
    y = torch.ones(rows, 1, 1, 1)
    measurement = Measurement(y, Dense(torch.ones(1, 1), (1, 1, 1)), OneBit(0.5))
    step = MetropolisSteps(300, 0.5)
    found = step(measurement, torch.full_like(y, -0.5), Ball(1.0, 0.0), Streams(0, [str(n) for n in range(rows)]))
    grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    weights = (torch.special.log_ndtr(grid / 0.5) - (grid + 0.5) ** 2 / 2).softmax(dim=0)
    mean = (weights * grid).sum()
    deviation = (weights * (grid - mean) ** 2).sum() ** 0.5
    assert float(mean) == pytest.approx(0.486, abs=1e-3)
    assert abs(float(found.mean() - mean)) < 4.5 * float(deviation) / rows**0.5
    assert float(found.std() / deviation) == pytest.approx(1, abs=4.5 / (2 * rows) ** 0.5 * 1.5)


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), VaryingNoise(torch.full((5, 1), 0.2)), OneBit(0.5)])
@pytest.mark.parametrize("kind", ["as it is", "annealed", "photons"])
def test_the_gradient_of_the_energy_is_the_score(noise, kind):
    """Of every law; that of photons is the Gaussian's that stands for them."""
    law = (
        noise.annealed(0.1, torch.zeros(5, 1))
        if kind == "annealed"
        else PoissonNoise(0.5)
        if kind == "photons"
        else noise
    )
    y, clean = (
        torch.tensor([[-0.9], [-0.2], [0.1], [0.6], [0.8]]).double(),
        torch.linspace(-1.2, 1, 5).double()[:, None],
    )
    clean.requires_grad_()
    (slope,) = torch.autograd.grad(law.energy(y, clean).sum(), clean)
    torch.testing.assert_close(-slope, law.score(y, clean.detach()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "most"), [(LangevinSteps(300, 1e-4), 2), (HamiltonianSteps(300, 1e-4, momentum=0.5), 3)]
)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_steps_that_a_small_radius_makes_diverge_are_refused_and_no_others(step, most, share):
    """At the edge itself: a chain that is let through stays, one that is refused would not have."""
    measurement, _ = square([1.0, 1.0])
    measurement, step = measurement.rows(torch.arange(2)), replace(step, final_share=share)
    of_y = measurement.operator.norm_bound() ** 2 / 0.5**2
    for beyond in (0.98, 1.02):
        radius = (beyond * most / step.size(0.5) - of_y) ** -0.5
        steps = [Ball(1.0, 0.0), Ball(radius, 0.5)]
        found = step(measurement, torch.full((2, 1, 1, 2), 0.2), steps[1], Streams(0, ["a", "b"]))
        if beyond < 1:
            step.check(measurement, steps)
            assert found.abs().max() < 10
        else:
            with pytest.raises(
                UserError, match=rf"step_size 0\.0001 diverges .* radius is 0\.00.*: take .* at most, {most}"
            ):
                step.check(measurement, steps)
            assert found.abs().max() > 10 or not found.isfinite().all()


def test_a_radius_in_the_end_that_conjugate_gradients_do_not_solve_is_refused():
    measurement, _ = square([1.0, 0.02])
    blind = Measurement(measurement.y[:1], Unknown(measurement.operator), GaussianNoise(0.005))
    ExactLikelihoodStep().check(blind, balls([5.0, 0.2]))
    with pytest.raises(UserError, match=r"a radius of 0\.4 in the end .* of Unknown: end at 0\.297 at most"):
        ExactLikelihoodStep().check(blind, balls([5.0, 0.4]))
    known = replace(measurement, likelihood=GaussianNoise(0.005))
    ExactLikelihoodStep().check(known, balls([5.0, 0.4]))


@pytest.mark.parametrize("sampler", [DAPS, DDNMPlus])
def test_a_schedule_without_a_level_is_refused(sampler):
    measurement, _ = square([1.0, 1.0, 1.0])
    flat = GaussianByMatrix(torch.zeros(3), torch.eye(3))
    with pytest.raises(UserError, match="ListedSigmas: this sampler needs a level above 0"):
        sampler(ListedSigmas([0.0]))(flat, measurement.rows(torch.arange(1)), Streams(0, ["a"]))


def test_it_is_exact_where_an_image_given_the_state_is_normal_around_it():
    """As under a prior that is flat: there the probability flow leads nowhere, and x0 given x is N(x, sigma^2 I)."""
    measurement, matrix = square([3.0, 1.0, 0.5])
    flat = GaussianByMatrix(torch.zeros(3), 1e6 * torch.eye(3))
    sampler = DAPS(KarrasSigmas(6, 20.0, 0.3), likelihood_step=ExactLikelihoodStep())
    samples = sampler(flat, measurement, Streams(0, [str(n) for n in range(ROWS)]))
    inverse = torch.linalg.inv(matrix.double())
    is_normal(samples, inverse @ measurement.y[0].flatten().double(), 0.5**2 * inverse @ inverse.mT)


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
    with pytest.raises(UserError, match=r"step_size 0\.0001 diverges .* radius is 100: take 2\.22e-05 at most"):
        DAPS()(field, measurement, Streams(0, ["a"]))
    assert field.cost.forward == 0
    steps = LangevinSteps(3000, 2e-5, tau=0.01)
    found = steps(measurement, torch.ones(1, 3, 8, 8), Ball(0.1, 0.0), Streams(0, ["a"]))
    assert torch.isfinite(found).all()
