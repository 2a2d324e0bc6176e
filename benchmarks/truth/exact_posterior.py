"""Samplers against exact posterior samples: distance to the posterior over the number of network calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import scipy.stats
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.tools.pooled import PooledStreams
from benchmarks.tools.tables import read_rows, write_rows
from benchmarks.truth.problems import SMOKE, Make, Problem, Target, problems
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.metrics.distribution import (
    band_std_ratios,
    mmd_test,
    mode_weight_error,
    sliced_wasserstein,
    std_ratio,
    subspaces,
)
from posterior.noise import GaussianNoise
from posterior.operators import matrix_of
from posterior.priors import GaussianMixturePrior
from posterior.random import stream
from posterior.samplers import (
    DPS,
    AnnealedLangevin,
    GeometricAnnealing,
    KineticLangevin,
    NoAnnealing,
    PublishedAnnealing,
    RespacedSigmas,
    ReverseDiffusion,
)
from posterior.shipped import CONFIGS

DRAW_STEPS = 100
"""Steps of reverse diffusion that draw X_1."""
STEP_FRACTIONS = (0.05, 0.1, 0.3)
"""Langevin's step over its limit of stability, 2 / L: to choose from."""
AVERAGED_FRACTION, KINETIC_FRACTION = 0.8, 0.75
"""The same of samplers that do not choose: averaged noise has no bias in Gaussian directions and runs near the limit;
second order's limit is 2 / sqrt(L)."""
MATRIX_LIMIT = 4096
"""Dimension up to which A is written out to find its measured directions."""


@dataclass
class Row:
    """A sampler on a task: means over measurements."""

    problem: str
    task: str
    sampler: str
    target: str
    measurements: int
    forward: float
    backward: float
    w2: float
    floor: float
    ratio: float
    ratio_se: float
    std_measured: float | None
    std_unmeasured: float | None
    std_bands: str
    mode_error: float | None
    l2_ratio: float
    """Mean distance to the truth, over that of exact samples; below 1 is a bias towards the mean, not a win."""
    mmd_rejected: float
    """Share of measurements on which the MMD test finds a difference at the level 0.05."""
    dps_scale: float | None
    step_fraction: float | None
    seconds: float
    seed: int
    smoke: bool

    def half_width(self) -> float:
        """Of the 95 % interval of the ratio, by Student's t over measurements; NaN (nothing is drawn) with one."""
        return float(scipy.stats.t.ppf(0.975, max(self.measurements - 1, 1))) * self.ratio_se


@dataclass
class _Sums:
    """What was found, measurement by measurement."""

    columns: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float | None) -> None:
        for name, value in values.items():
            if value is not None:
                self.columns.setdefault(name, []).append(value)

    def mean(self, name: str) -> float | None:
        values = self.columns.get(name)
        return sum(values) / len(values) if values else None


def exact_posterior(
    output: Path = Path("results/exact_posterior"),
    toon_mixture: Path = CONFIGS / "prior" / "mixture_toon32.safetensors",
    toon_field: Path = CONFIGS / "prior" / "gaussian_toon64.yaml",
    only: Sequence[str] = (),
    dps_scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0),
    smoke: bool = False,
    seed: int = 0,
) -> list[Row]:
    """DPS, Algorithms 1, 2 and 3, kinetic and plain Langevin beside exact samples; writes exact_posterior.csv and .png.

    "Distance" is sliced W2 over 200 directions to exact sets of the same size, divided by its floor, the mean over
    pairs of exact sets. Every sampler is held against its own target: p(x | x0, y) for Algorithm 2 and its kinetic
    counterpart, whose anchor is drawn from the truth; p(x | y) for all others, so that Algorithm 3's double use of the
    data shows (standard deviations below 1). DPS has, task by task, the best of ``dps_scales`` on a measurement of its
    own, and Langevin's step is the share of its limit of stability, of three, at which Algorithm 2 does best there.
    "Algorithm 2, averaged" is Algorithm 2 with ``averaged_noise``, at 0.8 of the limit. N levels of the published
    schedule cover the same range; the kinetic row's calls include those that draw X_1. Rows that the folder's table has
    of other problems stay in it.

    Args:
        output: folder.
        toon_mixture: mixture fitted to toon faces (`fit-mixture`).
        toon_field: configuration of the Gaussian field.
        only: names of problems, or beginnings of names; all if empty.
        dps_scales: scales to choose from.
        smoke: small sizes, under a minute.
        seed: of everything.

    Raises:
        UserError: if no problem has such a name, or the folder's table has rows of another seed or size.
    """
    output.mkdir(parents=True, exist_ok=True)
    chosen = {
        name: replace(make(), **SMOKE[name]) if smoke else make()  # type: ignore[arg-type]
        for name, make in problems(toon_mixture, toon_field, seed).items()
        if not only or name.startswith(tuple(only))
    }
    if not chosen:
        raise UserError(f"exact-posterior: no problem is called {list(only)}")
    table = output / "exact_posterior.csv"
    rows = read_rows(table, Row)
    if any((row.seed, row.smoke) != (seed, smoke) for row in rows):
        raise UserError(f"{table} has rows of another seed or size: choose another output")
    found: list[Row] = []
    for name, problem in chosen.items():
        for task, make in problem.tasks.items():
            of_task = run_task(problem, name, task, make, (0.5,) if smoke else dps_scales, seed, smoke)
            for row in of_task:
                print(_line(row), flush=True)
            found += of_task
            rows = [row for row in rows if (row.problem, row.task) != (name, task)] + of_task
            write_rows(table, rows)
    _draw(rows, output / "exact_posterior.png")
    print(f"picture: {output / 'exact_posterior.png'}")
    return found


def _line(row: Row) -> str:
    def ratio(value: float | None) -> str:
        return "   - " if value is None else f"{value:5.2f}"

    return (
        f"{row.problem:29s} {row.task:14s} {row.sampler:26s} {row.target:8s} calls {row.forward:5.0f} + "
        f"{row.backward:4.0f}  W2 / floor {row.ratio:7.3f} +- {row.ratio_se:.3f}  std measured "
        f"{ratio(row.std_measured)} unmeasured {ratio(row.std_unmeasured)} bands {row.std_bands}  modes "
        f"{ratio(row.mode_error)}  L2 {row.l2_ratio:.3f}  MMD rejects {row.mmd_rejected:.2f}  {row.seconds:.0f} s"
    )


def run_task(
    problem: Problem, name: str, task: str, make: Make, dps_scales: Sequence[float], seed: int, smoke: bool = False
) -> list[Row]:
    """Every sampler at every budget, over the problem's measurements."""
    chosen = dict.fromkeys(problem.calls, (dps_scales[0], STEP_FRACTIONS[-1]))
    if len(dps_scales) > 1:
        few = replace(problem, num_samples=-(-problem.num_samples // 4), num_sets=4)
        case = Case.draw(few, f"{name} {task} tuning", make, seed, tuning=True)
        chosen = {calls: case.tuned(calls, dps_scales, STEP_FRACTIONS) for calls in problem.calls}
    found: dict[tuple[str, str], _Sums] = {}
    fixed = {"DPS": None, "Algorithm 2, averaged": AVERAGED_FRACTION, "kinetic": KINETIC_FRACTION}
    for number in range(problem.num_measurements):
        case = Case.draw(problem, f"{name} {task} {number}", make, seed)
        for which, target in case.exact.items():
            own, *others = target.sets
            found.setdefault((f"exact {which}", f"p(x|{which})"), _Sums()).add(**case.judge(own, which, others))
        for calls in problem.calls:
            anchors = case.anchor.expand(problem.num_samples, -1, -1, -1)
            rows = case.measurement.repeat(problem.num_samples)
            for sampler, (which, run) in samplers(problem, rows, anchors, calls, *chosen[calls]).items():
                before, start = replace(problem.prior.cost), time.monotonic()
                samples = run(PooledStreams(problem.num_samples, case.seed))
                cost = problem.prior.cost
                spent: dict[str, float | None] = {
                    "forward": (cost.forward - before.forward) / problem.num_samples,
                    "backward": (cost.backward - before.backward) / problem.num_samples,
                    "seconds": time.monotonic() - start,
                    "dps_scale": chosen[calls][0] if sampler in ("DPS", "Algorithm 3") else None,
                    "step_fraction": fixed.get(sampler, chosen[calls][1]),
                }
                sums = found.setdefault((f"{sampler} {calls}", f"p(x|{which})"), _Sums())
                sums.add(**spent, **case.judge(samples, which, case.exact[which].sets))
    return [_row(name, task, sampler, target, sums, seed, smoke) for (sampler, target), sums in found.items()]


def _row(name: str, task: str, sampler: str, target: str, sums: _Sums, seed: int, smoke: bool) -> Row:
    ratios = torch.tensor(sums.columns["ratio"], dtype=torch.float64)
    bands = [sums.mean(f"band{number}") for number in range(3)]
    p_values = sums.columns["mmd_p"]
    return Row(
        name,
        task,
        sampler,
        target,
        len(ratios),
        sums.mean("forward") or 0.0,
        sums.mean("backward") or 0.0,
        sums.mean("w2") or 0.0,
        sums.mean("floor") or 0.0,
        float(ratios.mean()),
        float(ratios.std()) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan"),
        sums.mean("measured"),
        sums.mean("unmeasured"),
        " ".join(f"{value:.2f}" for value in bands if value is not None) or "-",
        sums.mean("modes"),
        sums.mean("l2") or 0.0,
        sum(p < 0.05 for p in p_values) / len(p_values),
        sums.mean("dps_scale"),
        sums.mean("step_fraction"),
        sums.mean("seconds") or 0.0,
        seed,
        smoke,
    )


@dataclass(frozen=True)
class Case:
    """One measurement of a problem, its anchor, and exact samples of both posteriors."""

    problem: Problem
    truth: Tensor
    measurement: Measurement
    anchor: Tensor
    exact: dict[str, Target]
    directions: tuple[Tensor, Tensor] | None
    seed: int

    @classmethod
    def draw(cls, problem: Problem, label: str, make: Make, seed: int, tuning: bool = False) -> Case:
        """Truth, measurement and anchor from the streams of the label; for tuning, without the directions."""
        generator = stream(seed, label, -1, "problem")
        operator, truth = make(generator), problem.draw(generator)
        noise = torch.randn(1, *operator.measurement_shape, generator=generator)
        measurement = Measurement.simulate(truth, operator, GaussianNoise(problem.sigma_y), noise)
        anchor = truth + problem.anchor_sigma * torch.randn(truth.shape, generator=generator)
        targets = {"y": None, "x0,y": anchor}
        exact = {
            which: problem.target(problem, measurement, given, stream(seed, label, -1, f"exact {which}"))
            for which, given in targets.items()
        }
        directions = None
        if not tuning and truth.numel() <= MATRIX_LIMIT:
            measured, rest = subspaces(matrix_of(operator))
            directions = (measured, rest)
        number = int(torch.randint(2**31, (), generator=generator))
        return cls(problem, truth, measurement, anchor, exact, directions, number)

    def tuned(self, calls: int, scales: Sequence[float], fractions: Sequence[float]) -> tuple[float, float]:
        """DPS's scale that comes nearest to p(x | y), and Algorithm 2's best step fraction for its target."""
        problem, count = self.problem, self.problem.num_samples
        rows, anchors = self.measurement.repeat(count), self.anchor.expand(count, -1, -1, -1)

        def run(sampler: str, scale: float, fraction: float) -> Tensor:
            _, draw = samplers(problem, rows, anchors, calls, scale, fraction)[sampler]
            return draw(PooledStreams(count, self.seed))

        scale, fraction = scales[0], fractions[0]
        if calls <= 1000:
            scale = best_scale(
                lambda scale: run("DPS", scale, fraction), lambda x: self.distance(x, self.exact["y"].sets), scales
            )
        fraction = best_scale(
            lambda fraction: run("Algorithm 2", scale, fraction),
            lambda x: self.distance(x, self.exact["x0,y"].sets),
            fractions,
        )
        return scale, fraction

    def distance(self, samples: Tensor, sets: Sequence[Tensor]) -> float:
        """Mean sliced W2 to exact sets."""
        return sum(sliced_wasserstein(samples, exact) for exact in sets) / len(sets)

    def judge(self, samples: Tensor, which: str, sets: Sequence[Tensor]) -> dict[str, float | None]:
        """Distance, floor and spread of samples beside exact sets."""
        pairs = list(zip(sets[::2], sets[1::2], strict=False))
        floor = sum(sliced_wasserstein(a, b) for a, b in pairs) / len(pairs)
        distance = self.distance(samples, sets)
        pooled = torch.cat(list(sets))
        values: dict[str, float | None] = {"w2": distance, "floor": floor, "ratio": distance / floor}
        if self.directions is not None:
            for name, directions in zip(("measured", "unmeasured"), self.directions, strict=True):
                values[name] = std_ratio(samples, pooled, directions) if directions.shape[1] else None
        if min(samples.shape[-2:]) >= 16:
            values |= {f"band{number}": value for number, value in enumerate(band_std_ratios(samples, pooled, 3))}
        prior, weights = self.problem.prior, self.exact[which].weights
        if isinstance(prior, GaussianMixturePrior) and weights is not None:
            values["modes"] = mode_weight_error(prior.responsibilities(samples), weights)
        errors = [(x - self.truth).flatten(1).norm(dim=1).mean() for x in (samples, pooled)]
        values["l2"] = float(errors[0] / errors[1])
        values["mmd_p"] = mmd_test(samples, sets[0], num_permutations=200)[1]
        return values


Run = Callable[[PooledStreams], Tensor]


def samplers(
    problem: Problem, rows: Measurement, anchors: Tensor, calls: int, dps_scale: float, step_fraction: float
) -> dict[str, tuple[str, Run]]:
    """name -> (which posterior it targets, samples from random numbers).

    Args:
        problem: prior and noise levels.
        rows: one row a chain.
        anchors: x0 of each chain, for Algorithm 2.
        calls: Langevin steps, and DPS steps: at most 1000 start Algorithm 3, and there is no row of DPS beyond.
        dps_scale: of DPS.
        step_fraction: Langevin's step over its limit of stability, where that is not fixed.
    """
    prior = problem.prior
    norm = rows.linear_operator("exact-posterior").norm_bound()
    curvature = prior.curvature(prior.sigma_min) + norm**2 / problem.sigma_y**2
    levels = min(calls, 1000)
    schedule = PublishedAnnealing(9 / levels, levels, max(calls // levels, 1))
    dps = plain_dps(calls, dps_scale)
    reverse = ReverseDiffusion(RespacedSigmas(DRAW_STEPS))
    cold = AnnealedLangevin(step_fraction * 2 / curvature, schedule=schedule, reverse=reverse)
    near = step_fraction * 2 / (curvature + problem.anchor_sigma**-2)
    warm = replace(cold, step_size=near, anchor_sigma=problem.anchor_sigma)
    averaged = replace(warm, step_size=AVERAGED_FRACTION / step_fraction * near, averaged_noise=True)
    spent = len(reverse.schedule.below(problem.anchor_sigma))  # for X_1, and the chain's first call
    kinetic = KineticLangevin(
        KINETIC_FRACTION,
        schedule=GeometricAnnealing(max(calls - spent, 1) + 1),
        reverse=reverse,
        anchor_sigma=problem.anchor_sigma,
    )
    runs: dict[str, tuple[str, Run]] = {"DPS": ("y", lambda rng: dps(prior, rows, rng))} if calls <= 1000 else {}
    return runs | {
        "Algorithm 1": ("y", lambda rng: cold(prior, rows, rng)),
        "Algorithm 2": ("x0,y", lambda rng: warm.from_anchor(prior, rows, anchors, rng)),
        "Algorithm 2, averaged": ("x0,y", lambda rng: averaged.from_anchor(prior, rows, anchors, rng)),
        "kinetic": ("x0,y", lambda rng: kinetic.from_anchor(prior, rows, anchors, rng)),
        "Algorithm 3": ("y", lambda rng: replace(warm, warm_start=dps)(prior, rows, rng)),
        "plain": ("y", lambda rng: replace(cold, schedule=NoAnnealing(calls))(prior, rows, rng)),
    }


def plain_dps(calls: int, scale: float) -> DPS:
    """DPS in so many steps (at most 1000), without clipping: these priors leave [-1, 1]."""
    return DPS(RespacedSigmas(min(calls, 1000)), scale=scale, clip_denoised=False)


def best_scale(run: Callable[[float], Tensor], loss: Callable[[Tensor], float], scales: Sequence[float]) -> float:
    """The scale (or other setting) whose samples have the smallest loss; those at which chains diverge are left out.

    Raises:
        UserError: if chains diverge at every one.
    """
    losses = {}
    for scale in scales:
        try:
            samples = run(scale)
        except UserError:
            continue
        if torch.isfinite(samples).all():
            losses[scale] = loss(samples)
    if not losses:
        raise UserError(f"chains diverge at every setting of {list(scales)}")
    return min(losses, key=losses.__getitem__)


def _draw(rows: Sequence[Row], path: Path) -> None:
    """A panel a task: distance over calls, the floor dashed."""
    tasks = list(dict.fromkeys((row.problem, row.task) for row in rows))
    width = min(len(tasks), 3)
    height = -(-len(tasks) // width)
    figure = Figure(figsize=(4.6 * width, 3.6 * height), layout="constrained")
    panels = figure.subplots(height, width, squeeze=False).flatten()
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    for axes, (problem, task) in zip(panels, tasks, strict=False):
        curves: dict[str, list[Row]] = {}
        for row in rows:
            if (row.problem, row.task) == (problem, task) and not row.sampler.startswith("exact"):
                curves.setdefault(row.sampler.rsplit(" ", 1)[0], []).append(row)
        for number, (sampler, points) in enumerate(curves.items()):
            axes.errorbar(
                [row.forward + row.backward for row in points],
                [row.ratio for row in points],
                [row.half_width() for row in points],
                marker="o",
                capsize=3,
                color=f"C{number}",
                label=f"{sampler}, {points[0].target}",
            )
        axes.axhline(1.0, linestyle="--", color="black", label="floor: two exact sets")
        axes.set(xscale="log", yscale="log", title=f"{problem}: {task}")
        axes.set(xlabel="network calls a sample", ylabel="sliced W2 / floor")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=90)
