"""Why the measurement noise is annealed: the theory's claims, measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.tools.pooled import PooledStreams
from benchmarks.truth.problems import anchored
from posterior.measurement import Measurement
from posterior.metrics.distribution import mode_weight_error, sliced_wasserstein, sliced_wasserstein_floor
from posterior.noise import GaussianNoise
from posterior.operators import Dense, Inpainting
from posterior.priors import GaussianMixturePrior, PerturbedPrior, RingPrior, ShellError
from posterior.samplers import (
    AnnealedLangevin,
    ListedSigmas,
    MixturePosterior,
    NoAnnealing,
    PublishedAnnealing,
    ReverseDiffusion,
)


@dataclass(frozen=True)
class Dip:
    """Lemma F.1: variance of plain Langevin's state over time, averaged over y; measured and as the lemma has it."""

    times: np.ndarray
    measured: np.ndarray
    stated: np.ndarray
    tolerance: float
    """Five standard errors of the measured variance, plus Euler-Maruyama's bias."""


def lemma_f1(eta2: float = 0.5, rows: int = 200_000, h: float = 1e-3, seed: int = 0) -> Dip:
    """p = N(0, 1), y = x + N(0, eta^2), X_0 ~ p on its own: Var X_t = 1 - 2 u (1 - u) / (1 + eta^2) (Figure 3).

    u = exp(-(1 + eta^2) t / eta^2). Plain Langevin towards p(x | y) leaves the region where samples of p are, though it
    starts and (averaged over y) ends with their law.

    Args:
        eta2: variance of the measurement noise.
        rows: independent (X_0, y) and chains.
        h: step.
        seed: of everything.
    """
    rng = PooledStreams(rows, seed)
    x, truth, noise = (rng.randn("setup", (1, 1, 1)) for _ in range(3))
    measurement = Measurement(truth + eta2**0.5 * noise, Dense(torch.ones(1, 1), (1, 1, 1)), GaussianNoise(eta2**0.5))
    dip = eta2 * math.log(2) / (1 + eta2)
    steps = round(4 * dip / h)
    measured = [float(x.var())]
    AnnealedLangevin(h, schedule=NoAnnealing(steps)).anneal(
        normal_prior(1),
        measurement,
        x,
        None,
        rng,
        lambda stage, step, total, state: measured.append(float(state.var())),
    )
    times = h * np.arange(steps + 1)
    u = np.exp(-(1 + eta2) * times / eta2)
    tolerance = 5 * (2 / rows) ** 0.5 + h * (1 + 1 / eta2)
    return Dip(times, np.array(measured), 1 - 2 * u * (1 - u) / (1 + eta2), tolerance)


def normal_prior(side: int) -> GaussianMixturePrior:
    """N(0, I) on images (1, side, side)."""
    size = side**2
    direction = torch.eye(size)[None, :, :1]
    ones = torch.ones(1)
    return GaussianMixturePrior(ones, torch.zeros(1, 1, side, side), direction, torch.ones(1, 1), ones)


@dataclass(frozen=True)
class Crossing:
    """Lemma F.2: share of chains that were in the shell at any time, and |X|^2 / d over the run, chain by chain."""

    plain: float
    annealed: float
    plain_levels: np.ndarray
    annealed_levels: np.ndarray
    error: ShellError


def lemma_f2(
    side: int = 32,
    rows: int = 50,
    eta2: float = 0.1,
    h: float = 2e-3,
    num_levels: int = 600,
    growth: float = 0.015,
    steps_per_level: int = 20,
    seed: int = 0,
) -> Crossing:
    """N(0, I_d), y = x + N(0, 0.1 I): a score that is L^4-accurate to 0.1, yet ruinous on a shell of tiny probability.

    Plain Langevin passes |X|^2 / d = 6 / 11 (the dip of Lemma F.1) and so enters the shell; the annealed sampler's
    states keep, averaged over y, the law of the prior, and do not.

    Args:
        side: d = side^2.
        rows: chains of each kind.
        eta2: variance of the measurement noise.
        h: step.
        num_levels, growth, steps_per_level: of the annealed sampler.
        seed: of everything.
    """
    dimension = side**2
    error = ShellError(dimension, 1 - 1 / (2 * (1 + eta2)), width=0.3, order=4, error=0.1)
    prior = PerturbedPrior(normal_prior(side), error)
    shape = (1, side, side)
    results = []
    for schedule in (NoAnnealing(round(1.0 / h)), PublishedAnnealing(growth, num_levels, steps_per_level)):
        rng = PooledStreams(rows, seed)
        x, truth, noise = (rng.randn("setup", shape) for _ in range(3))
        everything = Inpainting(torch.ones(1, 1, side, side), shape)
        measurement = Measurement(truth + eta2**0.5 * noise, everything, GaussianNoise(eta2**0.5))
        entered, levels = error.inside(x), [x.square().mean(dim=(1, 2, 3))]

        def watch(
            stage: str, step: int, total: int, state: Tensor, entered: Tensor = entered, levels: list[Tensor] = levels
        ) -> None:
            entered |= error.inside(state)
            levels.append(state.square().mean(dim=(1, 2, 3)))

        AnnealedLangevin(h, schedule=schedule).anneal(prior, measurement, x, None, rng, watch)
        results.append((float(entered.double().mean()), torch.stack(levels).numpy()))
    (plain, plain_levels), (annealed, annealed_levels) = results
    return Crossing(plain, annealed, plain_levels, annealed_levels, error)


@dataclass(frozen=True)
class RingRun:
    """Algorithm 2 on the ring from anchors of one noise level: distance to exact samples, over the floor."""

    anchor_sigma: float
    distance: float
    floor: float
    samples: Tensor
    exact: Tensor


def ring(
    width: float = 0.1,
    anchor_sigmas: Sequence[float] = (0.05, 0.1, 0.2, 0.5, 1.0),
    sigma_y: float = 0.1,
    rows: int = 2000,
    num_levels: int = 300,
    growth: float = 0.03,
    steps_per_level: int = 10,
    h: float = 2e-4,
    seed: int = 0,
) -> list[RingRun]:
    """Ring of width w, the first coordinate measured (Figure 1, E.4): p(x | x0, y) by Algorithm 2 and exactly.

    The claim: with a warm start sigma <= c w the posterior is well conditioned and reached. Exact samples come from a
    fine grid.

    Args:
        width: w.
        anchor_sigmas: noise levels of the anchor, which is drawn from the truth.
        sigma_y: measurement noise.
        rows: chains, all of one measurement and one anchor.
        num_levels, growth, steps_per_level, h: of annealed Langevin.
        seed: of everything.
    """
    prior = RingPrior(width)
    generator = torch.Generator().manual_seed(seed)
    truth = torch.tensor([0.6, 0.8]).view(1, 2, 1, 1)
    operator = Dense(torch.tensor([[1.0, 0.0]]), RingPrior.IMAGE_SHAPE)
    y = truth[:, :1] + sigma_y * torch.randn(1, 1, 1, 1, generator=generator)
    runs = []
    for anchor_sigma in anchor_sigmas:
        anchor = truth + anchor_sigma * torch.randn(truth.shape, generator=generator)
        measurement = Measurement(y, operator, GaussianNoise(sigma_y))
        descent = [anchor_sigma * 0.9**n for n in range(1, 60)]
        sampler = AnnealedLangevin(
            h,
            schedule=PublishedAnnealing(growth, num_levels, steps_per_level),
            reverse=ReverseDiffusion(ListedSigmas([*descent, 0.0])),
            anchor_sigma=anchor_sigma,
        )
        anchors, rng = anchor.expand(rows, -1, -1, -1), PooledStreams(rows, seed)
        samples = sampler.from_anchor(prior, measurement.repeat(rows), anchors, rng)
        given = anchored(measurement, anchor, anchor_sigma)
        sets = [ring_posterior(prior, given, rows, generator) for _ in range(12)]
        distance = sum(sliced_wasserstein(samples, exact) for exact in sets) / len(sets)
        runs.append(RingRun(anchor_sigma, distance, sliced_wasserstein_floor(sets)[0], samples, sets[0]))
    return runs


def ring_posterior(prior: RingPrior, measurement: Measurement, count: int, generator: torch.Generator) -> Tensor:
    """Samples (count, 2, 1, 1) of p(x | y), from a grid of cells of 0.005, uniform within a cell."""
    cell = 0.005
    axis = torch.arange(-2, 2, cell, dtype=torch.float64) + cell / 2
    points = torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1)
    misfit = measurement.operator.to(torch.float64).forward(points) - measurement.y.double()
    sigma_y = measurement.gaussian_sigma("the ring's posterior")
    log_prob = prior.log_prob(points) - 0.5 * (misfit / sigma_y).square().flatten(1).sum(dim=1)
    probability = (log_prob - log_prob.max()).exp()
    place = torch.rand(count, generator=generator, dtype=torch.float64)
    index = torch.searchsorted(probability.cumsum(0) / probability.sum(), place).clamp_max(len(points) - 1)
    within = (torch.rand(count, 2, 1, 1, generator=generator, dtype=torch.float64) - 0.5) * cell
    return (points[index] + within).float()


@dataclass(frozen=True)
class HardInstance:
    """Error of the modes' weights (total variation), and the share of samples in the true mode."""

    cold_error: float
    cold_share: float
    warm_error: float
    warm_share: float
    exact_share: float


def hard_instance(
    bits: int = 8, rows: int = 500, spread: float = 0.1, sigma_y: float = 0.1, anchor_sigma: float = 0.2, seed: int = 0
) -> HardInstance:
    """A mixture of 2^bits Gaussians at (s, f(s)), f a random permutation, y a noisy view of f(s) (Section 2).

    From y alone one would have to invert f; with any x0 near the truth the mode is known.

    Args:
        bits: entries of s, each -1 or 1; f(s) has as many.
        rows: chains.
        spread: standard deviation of a mode.
        sigma_y: measurement noise.
        anchor_sigma: noise level of the warm start's anchor.
        seed: of everything.
    """
    generator = torch.Generator().manual_seed(seed)
    prior = hard_mixture(bits, spread, generator)
    count = len(prior.weights)
    true_mode = int(torch.randint(count, (), generator=generator))
    truth = prior.means[[true_mode]] + spread * torch.randn(1, 2 * bits, 1, 1, generator=generator)
    operator = Dense(torch.eye(2 * bits)[bits:], (2 * bits, 1, 1))
    y = truth[:, bits:] + sigma_y * torch.randn(1, bits, 1, 1, generator=generator)
    one = Measurement(y, operator, GaussianNoise(sigma_y))
    measurement = one.repeat(rows)
    schedule = PublishedAnnealing(0.03, 300)
    levels = ReverseDiffusion(ListedSigmas([*(10.0 * 0.93**n for n in range(100)), 0.0]))
    cold = AnnealedLangevin(1e-3, schedule=schedule, reverse=levels)(prior, measurement, PooledStreams(rows, seed))
    warm_sampler = AnnealedLangevin(1e-3, schedule=schedule, reverse=levels, anchor_sigma=anchor_sigma)
    anchor = truth + anchor_sigma * torch.randn(truth.shape, generator=generator)
    warm = warm_sampler.from_anchor(prior, measurement, anchor.expand(rows, -1, -1, -1), PooledStreams(rows, seed))
    given_y = MixturePosterior(prior, one)
    given_both = MixturePosterior(prior.given_anchor(anchor[0], anchor_sigma), one)

    def modes(samples: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(prior.responsibilities(samples).argmax(dim=1), count)

    return HardInstance(
        mode_weight_error(modes(cold), given_y.weights),
        float(modes(cold)[:, true_mode].double().mean()),
        mode_weight_error(modes(warm), given_both.weights),
        float(modes(warm)[:, true_mode].double().mean()),
        float(given_y.weights[true_mode]),
    )


def hard_mixture(bits: int, spread: float, generator: torch.Generator) -> GaussianMixturePrior:
    """2^bits Gaussians N((s, f(s)), spread^2 I) of equal weight, s all of {-1, 1}^bits, f a random permutation."""
    count = 2**bits
    s = 2 * ((torch.arange(count)[:, None] >> torch.arange(bits)) & 1).float() - 1
    f = s[torch.randperm(count, generator=generator)]
    means = torch.cat([s, f], dim=1).view(count, 2 * bits, 1, 1)
    direction = torch.eye(2 * bits)[None, :, :1].expand(count, -1, -1)
    level = torch.full((count,), spread**2)
    return GaussianMixturePrior(torch.full((count,), 1 / count), means, direction, level[:, None], level)


def annealing(output: Path = Path("results/annealing"), smoke: bool = False) -> None:
    """The theory's claims beside what is measured; writes annealing.png.

    Args:
        output: folder.
        smoke: small sizes, under a minute.
    """
    output.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(14, 8), layout="constrained")
    panels = figure.subplots(2, 3)
    dip = lemma_f1(rows=20_000 if smoke else 200_000)
    _draw_dip(panels[0, 0], dip)
    worst = float(np.abs(dip.measured - dip.stated).max())
    print(f"Lemma F.1: largest gap to the stated variance {worst:.4f} (tolerance {dip.tolerance:.4f})", flush=True)
    crossing = lemma_f2(16, 20, h=0.01, steps_per_level=4) if smoke else lemma_f2(rows=200)
    for axes, levels, name in (
        (panels[0, 1], crossing.plain_levels, "plain"),
        (panels[0, 2], crossing.annealed_levels, "annealed"),
    ):
        _draw_crossing(axes, levels, name, crossing.error)
    print(
        f"Lemma F.2: d = {crossing.error.dimension}, M = {crossing.error.magnitude:.0f}, L^4 error 0.1; in the shell: "
        f"plain Langevin {100 * crossing.plain:.0f} % of chains, annealed {100 * crossing.annealed:.0f} %",
        flush=True,
    )
    runs = ring(rows=500 if smoke else 2000, anchor_sigmas=(0.1, 1.0) if smoke else (0.05, 0.1, 0.2, 0.5, 1.0))
    for run in runs:
        print(
            f"ring of width 0.1, anchor sigma {run.anchor_sigma}: sliced W2 {run.distance:.4f}, floor {run.floor:.4f}, "
            f"ratio {run.distance / run.floor:.2f}",
            flush=True,
        )
    for axes, run in ((panels[1, 0], runs[1 if len(runs) > 2 else 0]), (panels[1, 1], runs[-1])):
        for samples, label in ((run.exact, "exact"), (run.samples, "Algorithm 2")):
            axes.plot(samples[:500, 0, 0, 0], samples[:500, 1, 0, 0], ".", markersize=3, label=label)
        axes.set(title=f"ring, anchor sigma {run.anchor_sigma}", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        axes.legend(fontsize="small")
    hard = hard_instance(bits=6 if smoke else 8, rows=100 if smoke else 500)
    print(
        f"hard instance: error of the modes' weights cold {hard.cold_error:.3f}, warm {hard.warm_error:.3f}; share in "
        f"the true mode cold {hard.cold_share:.3f} (exact {hard.exact_share:.3f}), warm {hard.warm_share:.3f}",
        flush=True,
    )
    panels[1, 2].bar(["cold", "exact p(x | y)", "warm"], [hard.cold_share, hard.exact_share, hard.warm_share])
    panels[1, 2].set(title="hard instance: share in the true mode", ylim=(0, 1))
    figure.savefig(output / "annealing.png", dpi=90)
    print(f"picture: {output / 'annealing.png'}")


def _draw_dip(axes: Axes, dip: Dip) -> None:
    axes.plot(dip.times, dip.measured, label="plain Langevin")
    axes.plot(dip.times, dip.stated, "--", label="Lemma F.1")
    axes.set(title="Figure 3: variance of X_t over y", xlabel="t", ylabel="Var X_t")
    axes.legend()


def _draw_crossing(axes: Axes, levels: np.ndarray, name: str, error: ShellError) -> None:
    axes.plot(np.linspace(0, 1, len(levels)), np.clip(levels[:, :20], 0, 2), linewidth=0.7)
    axes.axhspan(error.radius * (1 - error.width), error.radius * (1 + error.width), color="red", alpha=0.2)
    axes.set(title=f"Lemma F.2: |X|^2 / d, {name}; red: the shell", xlabel="share of the run", ylim=(0, 2))
