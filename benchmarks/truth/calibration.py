"""Do intervals cover the truth as often as they say? Many (x, y) pairs, a few samples of each."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.tools.pooled import PooledStreams
from benchmarks.truth.exact_posterior import Run, best_scale, plain_dps, samplers
from benchmarks.truth.problems import Problem, anchored, field_problem, mixture_problem, random_mixture
from posterior.measurement import Measurement
from posterior.metrics.distribution import bootstrap, coverage, nominal_coverage, rank_p_value, ranks
from posterior.noise import GaussianNoise
from posterior.operators import Dense, GaussianBlur, LinearOperator, OperatorFamily, RandomInpainting, SuperResolution
from posterior.priors import GaussianFieldPrior, GaussianMixturePrior
from posterior.random import stream
from posterior.samplers import ExactGaussian, MixturePosterior

FIELD_SHAPE = (1, 8, 8)
MIXTURE_SHAPE = (2, 4, 4)
FIELD_TASKS: dict[str, OperatorFamily] = {
    "inpainting": RandomInpainting(),
    "2x SR": SuperResolution(2, "average"),
    "blur": GaussianBlur(5, 1.0),
}


def small_field() -> GaussianFieldPrior:
    """One colour, the spectrum of images (exponent 2), curvature 1 / 0.1^2 at most."""
    return GaussianFieldPrior([0.0], [[1.0]], amplitude=[0.02], exponent=[2.0], cutoff=[0.1], floor=0.1)


@dataclass
class Calibration:
    """One sampler on one task."""

    problem: str
    task: str
    sampler: str
    target: str
    coverage: float
    low: float
    high: float
    """95 % interval of the coverage, from the bootstrap over pairs."""
    nominal: float
    rank_p: float
    std_ratio: float
    calls: float


def calibration(
    output: Path = Path("results/calibration"),
    num_pairs: int = 1000,
    num_samples: int = 19,
    trim: int = 0,
    calls: int = 300,
    dps_scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0),
    step_fraction: float = 0.1,
    smoke: bool = False,
    seed: int = 0,
) -> list[Calibration]:
    """Coverage of intervals between order statistics, and ranks of the truth; writes calibration.csv and .png.

    For posterior samples the interval from the least to the greatest of 19 (or, with trim 1, from the second to the
    38th of 39) covers each number of the truth with probability 0.9, averaged over (x, y); and the rank of the truth
    along any direction is uniform (one random direction a pair). DPS has the scale of ``dps_scales`` whose coverage
    on 100 other pairs comes nearest to that. Algorithm 2's anchor is drawn from the truth, pair by pair.

    Coverage is necessary, not enough: samples of the prior, which ignore y, cover as often. The ratio of standard
    deviations to exact samples' (pooled over pairs and numbers) tells them apart.

    Args:
        output: folder.
        num_pairs: independent (x, y).
        num_samples: K.
        trim: order statistics left out at each end.
        calls: Langevin steps, and DPS steps.
        dps_scales: scales to choose from.
        step_fraction: Langevin's step over its limit of stability.
        smoke: small sizes, under a minute.
        seed: of everything.
    """
    output.mkdir(parents=True, exist_ok=True)
    if smoke:
        num_pairs, calls, dps_scales = min(num_pairs, 100), min(calls, 100), dps_scales[:1]
    found: list[Calibration] = []
    histograms: dict[tuple[str, str], dict[str, Tensor]] = {}
    for problem, name, task, make in _tasks(seed):
        scale = _tuned(problem, task, make, num_samples, trim, calls, dps_scales, seed)
        pairs = Pairs.draw(problem, make, num_pairs, seed)
        exact = {which: pairs.exact(num_samples, which, seed) for which in ("y", "x0,y")}
        rows, anchors = pairs.measurement.repeat(num_samples), pairs.anchor.repeat(num_samples, 1, 1, 1)
        runs: dict[str, tuple[str, Run]] = {f"exact {which}": (which, partial(_given, x)) for which, x in exact.items()}
        runs |= samplers(problem, rows, anchors, calls, scale, step_fraction)
        for sampler, (which, run) in runs.items():
            before = problem.prior.cost.forward + problem.prior.cost.backward
            samples = run(PooledStreams(num_pairs * num_samples, seed + 1)).view(num_samples, *pairs.truth.shape)
            spent = problem.prior.cost.forward + problem.prior.cost.backward - before
            shares = coverage(samples, pairs.truth, trim).numpy()
            low, high = bootstrap(shares, lambda values: float(np.mean(values)))
            rank = ranks((samples * pairs.direction).sum(dim=(2, 3, 4)), (pairs.truth * pairs.direction).sum((1, 2, 3)))
            histograms.setdefault((name, task), {})[f"{sampler}, {shares.mean():.3f}"] = rank
            spread = samples.var(dim=0).mean() / exact[which].view_as(samples).var(dim=0).mean()
            found.append(
                Calibration(
                    name,
                    task,
                    sampler,
                    f"p(x|{which})",
                    float(shares.mean()),
                    low,
                    high,
                    nominal_coverage(num_samples, trim),
                    rank_p_value(rank, num_samples),
                    float(spread) ** 0.5,
                    spent / (num_pairs * num_samples),
                )
            )
            print(_line(found[-1]), flush=True)
    with (output / "calibration.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(found[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in found)
    _draw(histograms, num_samples, output / "calibration.png")
    print(f"picture: {output / 'calibration.png'}")
    return found


def _given(samples: Tensor, rng: PooledStreams) -> Tensor:
    return samples


def _line(row: Calibration) -> str:
    return (
        f"{row.problem:16s} {row.task:11s} {row.sampler:12s} {row.target:9s} coverage {row.coverage:.3f} "
        f"[{row.low:.3f}, {row.high:.3f}] of {row.nominal:.3f}  rank p {row.rank_p:.3f}  "
        f"std ratio {row.std_ratio:.3f}  calls {row.calls:.0f}"
    )


Make = Callable[[Sequence[torch.Generator]], LinearOperator]


def _tasks(seed: int) -> list[tuple[Problem, str, str, Make]]:
    """(problem, its name, task, the operator of some pairs)."""
    field = field_problem(small_field(), FIELD_SHAPE)
    tasks: list[tuple[Problem, str, str, Make]] = []
    for task, family in FIELD_TASKS.items():

        def make(streams: Sequence[torch.Generator], family: OperatorFamily = family) -> LinearOperator:
            operator = family.realise(FIELD_SHAPE, streams)
            assert isinstance(operator, LinearOperator)
            return operator

        tasks.append((field, "Gaussian field", task, make))
    mixture = mixture_problem(random_mixture(6, stream(seed, "mixture", -1, "prior")), {}, 0.1)
    matrix = torch.randn(8, 32, generator=stream(seed, "mixture", -1, "matrix")) / 32**0.5
    tasks.append((mixture, "mixture, d = 32", "projection", lambda streams: Dense(matrix, MIXTURE_SHAPE)))
    return tasks


@dataclass(frozen=True)
class Pairs:
    """Independent (x, y) with an anchor each, and a direction along which ranks are taken."""

    problem: Problem
    truth: Tensor
    measurement: Measurement
    anchor: Tensor
    direction: Tensor

    @classmethod
    def draw(cls, problem: Problem, make: Make, count: int, seed: int) -> Pairs:
        """``count`` pairs."""
        rng = PooledStreams(count, seed)
        generator = stream(seed, "pairs", -1, "truth")
        truth = torch.cat([problem.draw(generator) for _ in range(count)])
        operator = make([stream(seed, f"pair {number}", -1, "operator") for number in range(count)])
        noise = rng.randn("noise", operator.measurement_shape)
        measurement = Measurement.simulate(truth, operator, GaussianNoise(problem.sigma_y), noise)
        anchor = truth + problem.anchor_sigma * rng.randn_like("anchor", truth)
        return cls(problem, truth, measurement, anchor, rng.randn_like("direction", truth))

    def exact(self, num_samples: int, which: str, seed: int) -> Tensor:
        """Exact samples (K * B, C, H, W) of p(x | y) or p(x | x0, y), row k * B + b of pair b."""
        prior, rows = self.problem.prior, self.measurement.repeat(num_samples)
        if isinstance(prior, GaussianMixturePrior):
            sets = []
            for number in range(len(self.truth)):
                anchor = self.anchor[number]
                given = prior if which == "y" else prior.given_anchor(anchor, self.problem.anchor_sigma)
                posterior = MixturePosterior(given, self.measurement.rows(torch.tensor([number])))
                sets.append(posterior.sample(num_samples, stream(seed, f"pair {number}", -1, f"exact {which}")))
            return torch.stack(sets, dim=1).flatten(0, 1)
        if which == "x0,y":
            rows = anchored(self.problem, rows, self.anchor.repeat(num_samples, 1, 1, 1))
        return ExactGaussian()(prior, rows, PooledStreams(len(rows.y), seed + 2))


def _tuned(
    problem: Problem,
    task: str,
    make: Make,
    num_samples: int,
    trim: int,
    calls: int,
    scales: Sequence[float],
    seed: int,
) -> float:
    """The scale of DPS whose coverage on 100 other pairs is nearest to the nominal one."""
    if len(scales) == 1:
        return scales[0]
    pairs = Pairs.draw(problem, make, 100, seed + 3)
    rows, nominal = pairs.measurement.repeat(num_samples), nominal_coverage(num_samples, trim)

    def gap(samples: Tensor) -> float:
        return abs(float(coverage(samples.view(num_samples, *pairs.truth.shape), pairs.truth, trim).mean()) - nominal)

    return best_scale(
        lambda scale: plain_dps(calls, scale)(problem.prior, rows, PooledStreams(len(rows.y), seed + 3)), gap, scales
    )


def _draw(histograms: dict[tuple[str, str], dict[str, Tensor]], num_samples: int, path: Path) -> None:
    """Ranks of the truth among the samples: a row a task, a column a sampler; flat is right."""
    width = max(len(found) for found in histograms.values())
    figure = Figure(figsize=(2.4 * width, 2.1 * len(histograms)), layout="constrained")
    panels = figure.subplots(len(histograms), width, squeeze=False)
    for line, ((problem, task), found) in zip(panels, histograms.items(), strict=True):
        for axes, (sampler, rank) in zip(line, found.items(), strict=True):
            axes.hist(rank, bins=np.linspace(0, num_samples + 1, 11).round() - 0.5, density=True)
            axes.axhline(1 / (num_samples + 1), color="black", linestyle="--")
            axes.set_title(sampler, fontsize="small")
            axes.set_yticks([])
        line[0].set_ylabel(f"{problem}\n{task}", fontsize="small")
    figure.suptitle("rank of the truth among the samples along a random direction (dashed: exact), and coverage")
    figure.savefig(path, dpi=90)
