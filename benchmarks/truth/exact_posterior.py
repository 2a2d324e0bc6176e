"""Samplers against exact posterior samples: distance to the posterior over the number of network calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import scipy.stats
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.judge.problems import SHIPPED, MixtureTruth, Problem, Truth, read_problem
from benchmarks.judge.running import Exact
from benchmarks.tools.measuring import drawn
from benchmarks.tools.pooled import PooledStreams
from benchmarks.tools.tables import read_rows, write_rows
from benchmarks.tools.tuning import best_scale, read_samplers
from benchmarks.truth.problems import anchored, projection
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.metrics.distribution import (
    band_std_ratios,
    distance_of_projections,
    mmd_test,
    mode_weight_error,
    sorted_projections,
    std_ratio,
    subspaces,
)
from posterior.operators import LinearOperator, matrix_of
from posterior.random import stream
from posterior.samplers import AnnealedSampler, MixturePosterior, RespacedSigmas, Sampler
from posterior.shipped import CONFIGS

SAMPLERS = CONFIGS / "truth" / "samplers.yaml"
DRAW_STEPS = 100
"""Steps of reverse diffusion that draw X_1 there."""
SHARES = (0.05, 0.1, 0.3)
"""Langevin's step over its limit of stability: to choose from."""
MATRIX_LIMIT = 4096
"""Dimension up to which A is written out to find its measured directions."""
GIVEN = {"from_y": "y", "from_anchor": "x0,y"}
"""Table of samplers -> what its targets are given."""
FILES = {"from_y": "exact_posterior.csv", "from_anchor": "exact_posterior_from_anchor.csv"}
Make = Callable[[torch.Generator], LinearOperator]


@dataclass(frozen=True)
class Counts:
    """How much is sampled of a problem: chains and exact sets of so many rows, budgets of calls."""

    samples: int
    calls: tuple[int, ...]
    measurements: int = 12
    sets: int = 40


@dataclass(frozen=True)
class Task:
    """A problem as the tables call it.

    Args:
        problem, task: in the tables.
        file: of configs/problem, without its ending.
        anchor_sigma: noise of the anchor.
        sizes, smoke: of the full and the small run.
        make: the operator of a measurement; None: the problem's own.
    """

    problem: str
    task: str
    file: str
    anchor_sigma: float
    sizes: Counts
    smoke: Counts
    make: Make | None = None


def tasks() -> list[Task]:
    """All of them."""
    fresh = partial(projection, 8, (2, 4, 4))
    small, rows = Counts(100, (50,), 2, 4), {"inpainting": "inpainting", "4x SR": "super-resolution", "blur": "blur"}
    toon, field = Counts(200, (60, 1000), 2), Counts(48, (60, 300, 1000), 1, 12)
    return [
        Task("mixture, d = 32", "projection", "mixture32", 0.3, Counts(500, (60, 300, 1000)), small, fresh),
        Task("mixture, d = 32, loose anchor", "projection", "mixture32", 1, Counts(500, (60, 100, 1000)), small, fresh),
        *(
            Task("toon mixture, d = 3072", task, f"toon-{file}", 0.3, toon, Counts(16, (20,), 1, 4))
            for task, file in rows.items()
        ),
        *(
            Task("Gaussian field, 64x64", task, f"field-{file}", 0.3, field, Counts(8, (20,), 1, 4))
            for task, file in rows.items()
        ),
        Task("ring", "one coordinate", "ring", 0.1, Counts(1000, (60, 300, 1000)), Counts(200, (50,), 2, 4)),
        Task("hard instance", "f(s)", "hard-instance", 0.2, Counts(500, (100, 300), 4), Counts(50, (50,), 1, 4)),
    ]


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


def exact_posterior(
    output: Path = Path("results/exact_posterior"),
    only: Sequence[str] = (),
    dps_scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0),
    smoke: bool = False,
    seed: int = 0,
) -> list[Row]:
    """DPS, Algorithms 1, 2 and 3, kinetic and plain Langevin beside exact samples; writes two tables and a picture.

    "Distance" is sliced W2 over 200 directions to exact sets of the same size, divided by its floor, the mean over
    pairs of exact sets. Every sampler is held against its own target. exact_posterior.csv has those that see y alone,
    target p(x | y), so that Algorithm 3's double use of the data shows (standard deviations below 1);
    exact_posterior_from_anchor.csv has Algorithm 2 and its kinetic counterpart, whose anchor is drawn from the truth,
    target p(x | x0, y). DPS has, task by task, the best of ``dps_scales`` on a measurement of its own, and Langevin's
    step is the share of its limit of stability, of three, at which Algorithm 2 does best there. N levels of the
    published schedule cover the same range; the kinetic row's calls include those that draw X_1. Samplers are those of
    configs/truth/samplers.yaml, problems those of `judge`. Rows that the folder's tables have of other
    problems stay in them.

    Args:
        output: folder.
        only: names of problems, or beginnings of names; all if empty.
        dps_scales: scales to choose from.
        smoke: small sizes, under a minute.
        seed: of measurements and samples.

    Raises:
        UserError: if no problem has such a name, or the folder's tables have rows of another seed or size.
    """
    output.mkdir(parents=True, exist_ok=True)
    chosen = [task for task in tasks() if not only or task.problem.startswith(tuple(only))]
    if not chosen:
        raise UserError(f"exact-posterior: no problem is called {list(only)}")
    rows = [row for file in FILES.values() for row in read_rows(output / file, Row)]
    if any((row.seed, row.smoke) != (seed, smoke) for row in rows):
        raise UserError(f"{output} has rows of another seed or size: choose another output")
    found: list[Row] = []
    for task in chosen:
        problem, scales = read_problem(SHIPPED / f"{task.file}.yaml"), (0.5,) if smoke else dps_scales
        of_task = run_task(problem, task, task.smoke if smoke else task.sizes, scales, seed, smoke)
        for row in of_task:
            print(_line(row), flush=True)
        found += of_task
        rows = [row for row in rows if (row.problem, row.task) != (task.problem, task.task)] + of_task
        for table, file in FILES.items():
            write_rows(output / file, [row for row in rows if row.target == f"p(x|{GIVEN[table]})"])
    _draw(rows, output / "exact_posterior.png")
    print(f"picture: {output / 'exact_posterior.png'}")
    return found


def _line(row: Row) -> str:
    def ratio(value: float | None) -> str:
        return "   - " if value is None else f"{value:5.2f}"

    return (
        f"{row.problem:29s} {row.task:14s} {row.sampler:26s} {row.target:9s} calls {row.forward:5.0f} + "
        f"{row.backward:4.0f}  W2 / floor {row.ratio:7.3f} +- {row.ratio_se:.3f}  std measured "
        f"{ratio(row.std_measured)} unmeasured {ratio(row.std_unmeasured)} bands {row.std_bands}  modes "
        f"{ratio(row.mode_error)}  L2 {row.l2_ratio:.3f}  MMD rejects {row.mmd_rejected:.2f}  {row.seconds:.0f} s"
    )


def run_task(
    problem: Problem, task: Task, sizes: Counts, dps_scales: Sequence[float], seed: int, smoke: bool = False
) -> list[Row]:
    """Every sampler at every budget, over measurements."""
    label = f"{task.problem} {task.task}"
    chosen = dict.fromkeys(sizes.calls, (dps_scales[0], SHARES[-1]))
    if len(dps_scales) > 1:
        few = replace(sizes, samples=-(-sizes.samples // 4), sets=4)
        case = AnchoredCase.draw(problem, task, few, f"{label} tuning", seed, tuning=True)
        chosen = {calls: case.tuned(calls, dps_scales) for calls in sizes.calls}
    runs = {calls: samplers(calls, *best, task.anchor_sigma) for calls, best in chosen.items()}
    found: dict[tuple[str, str], list[dict[str, float | None]]] = {}
    for number in range(sizes.measurements):
        case = AnchoredCase.draw(problem, task, sizes, f"{label} {number}", seed)
        for given, exact in case.exact.items():
            own, *others = exact.sets
            found.setdefault((f"exact {given}", given), []).append(case.compared(own, given, with_floor(others)))
        for calls, tables in runs.items():
            for table, named in tables.items():
                for name, sampler in named.items():
                    found.setdefault((f"{name} {calls}", GIVEN[table]), []).append(case.judged(sampler, table))
    return [_row(task, sampler, given, columns, seed, smoke) for (sampler, given), columns in found.items()]


def samplers(calls: int, scale: float, share: float, anchor_sigma: float) -> dict[str, dict[str, Sampler]]:
    """Those of the file, by table and name.

    Args:
        calls: Langevin steps, and DPS steps, at most 1000.
        scale: of DPS.
        share: Langevin's step over its limit of stability, where that is not fixed.
        anchor_sigma: noise of an anchor.
    """
    levels = max(calls - len(RespacedSigmas(DRAW_STEPS).below(anchor_sigma)), 1) + 1  # the chain begins with a call
    blanks: dict[str, float] = {"CALLS": calls, "GROWTH": 9 / calls, "LEVELS": levels}
    blanks |= {"SCALE": scale, "SHARE": share, "ANCHOR": anchor_sigma}
    return {table: read_samplers(SAMPLERS, table, blanks) for table in GIVEN}


def _row(
    task: Task, sampler: str, given: str, columns: Sequence[dict[str, float | None]], seed: int, smoke: bool
) -> Row:
    def values(name: str) -> list[float]:
        return [value for one in columns if (value := one.get(name)) is not None]

    def mean(name: str) -> float | None:
        found = values(name)
        return sum(found) / len(found) if found else None

    ratios = torch.tensor(values("ratio"), dtype=torch.float64)
    bands = [f"{value:.2f}" for number in range(3) if (value := mean(f"band{number}")) is not None]
    return Row(
        task.problem,
        task.task,
        sampler,
        f"p(x|{given})",
        len(ratios),
        mean("forward") or 0.0,
        mean("backward") or 0.0,
        mean("w2") or 0.0,
        mean("floor") or 0.0,
        float(ratios.mean()),
        float(ratios.std()) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan"),
        mean("measured"),
        mean("unmeasured"),
        " ".join(bands) or "-",
        mean("modes"),
        mean("l2") or 0.0,
        sum(p < 0.05 for p in values("mmd_p")) / len(ratios),
        mean("dps_scale"),
        mean("step_fraction"),
        mean("seconds") or 0.0,
        seed,
        smoke,
    )


def given_anchor(
    truth: Truth, measurement: Measurement, anchor: Tensor, anchor_sigma: float
) -> tuple[Truth, Measurement]:
    """A law and a measurement whose posterior is p(x | x0, y)."""
    if isinstance(truth, MixtureTruth):
        return MixtureTruth(truth.prior.given_anchor(anchor[0], anchor_sigma)), measurement
    return truth, anchored(measurement, anchor, anchor_sigma)


def with_floor(sets: Sequence[Tensor]) -> Exact:
    """Exact sets, and the mean distance over pairs of them, each set in one pair."""
    along = [sorted_projections(one) for one in sets]
    pairs = [distance_of_projections(a, b) for a, b in zip(along[::2], along[1::2], strict=False)]
    return Exact(list(sets), along, sum(pairs) / len(pairs))


@dataclass(frozen=True)
class AnchoredCase:
    """One measurement of a problem and its anchor; by what is given: exact sets, and the weights of modes."""

    problem: Problem
    task: Task
    truth: Tensor
    measurement: Measurement
    anchor: Tensor
    exact: dict[str, Exact]
    weights: dict[str, Tensor]
    directions: dict[str, Tensor]
    samples: int
    seed: int

    @classmethod
    def draw(
        cls, problem: Problem, task: Task, sizes: Counts, label: str, seed: int, tuning: bool = False
    ) -> AnchoredCase:
        """Truth, measurement and anchor from the streams of the label; for tuning, without the directions."""
        generator = stream(seed, label, -1, "problem")
        operator = task.make(generator) if task.make else problem.operator.realise(problem.image_shape, [generator])
        truth = problem.truth.sample(1, generator)
        noise = torch.randn(1, *operator.measurement_shape, generator=generator)
        measurement = Measurement.simulate(truth, operator, problem.likelihood, noise)
        anchor = truth + task.anchor_sigma * torch.randn(truth.shape, generator=generator)
        laws = {
            "y": (problem.truth, measurement),
            "x0,y": given_anchor(problem.truth, measurement, anchor, task.anchor_sigma),
        }
        exact, weights, directions = {}, {}, {}
        for given, (law, seen) in laws.items():
            count, rng = sizes.samples, stream(seed, label, -1, f"exact {given}")
            if isinstance(law, MixtureTruth):
                mixture = MixturePosterior(law.prior, seen)
                exact[given] = with_floor([mixture.sample(count, rng) for _ in range(sizes.sets)])
                weights[given] = mixture.weights
            else:
                exact[given] = with_floor(law.posterior(seen, count * sizes.sets, rng).split(count))
        if not tuning and truth.numel() <= MATRIX_LIMIT:
            parts = subspaces(matrix_of(measurement.linear_operator("exact-posterior")))
            directions = dict(zip(("measured", "unmeasured"), parts, strict=True))
        number = int(torch.randint(2**31, (), generator=generator))
        return cls(problem, task, truth, measurement, anchor, exact, weights, directions, sizes.samples, number)

    def tuned(self, calls: int, scales: Sequence[float]) -> tuple[float, float]:
        """DPS's scale, and the share of its limit with which Algorithm 2 steps, that come nearest to their targets."""

        def best(table: str, name: str, choices: Sequence[float]) -> float:
            def run(choice: float) -> Tensor:
                return self.run(samplers(calls, choice, choice, self.task.anchor_sigma)[table][name], table)

            return best_scale(run, self.exact[GIVEN[table]].ratio, choices)

        return best("from_y", "DPS", scales), best("from_anchor", "Algorithm 2", SHARES)

    def run(self, sampler: Sampler, table: str) -> Tensor:
        """Samples (N, C, H, W)."""
        rows, rng = self.measurement.repeat(self.samples), PooledStreams(self.samples, self.seed)
        if table == "from_y":
            return sampler(self.problem.prior, rows, rng)
        assert isinstance(sampler, AnnealedSampler)
        return sampler.from_anchor(self.problem.prior, rows, self.anchor.expand(self.samples, -1, -1, -1), rng)

    def judged(self, sampler: Sampler, table: str) -> dict[str, float | None]:
        """What a sampler gives, at what cost and with which settings."""
        samples, cost = drawn(self.problem.prior, lambda: self.run(sampler, table))
        return self.compared(samples, GIVEN[table], self.exact[GIVEN[table]]) | {
            "forward": cost.forward,
            "backward": cost.backward,
            "seconds": cost.seconds * self.samples,
            "dps_scale": getattr(getattr(sampler, "warm_start", None) or sampler, "scale", None),
            "step_fraction": getattr(sampler, "step_fraction", getattr(sampler, "step_size", None)),
        }

    def compared(self, samples: Tensor, given: str, exact: Exact) -> dict[str, float | None]:
        """Distance, floor and spread of samples beside exact sets."""
        pooled, ratio = torch.cat(exact.sets), exact.ratio(samples)
        values: dict[str, float | None] = {"w2": ratio * exact.floor, "floor": exact.floor, "ratio": ratio}
        for name, directions in self.directions.items():
            values[name] = std_ratio(samples, pooled, directions) if directions.shape[1] else None
        if min(samples.shape[-2:]) >= 16:
            values |= {f"band{number}": value for number, value in enumerate(band_std_ratios(samples, pooled, 3))}
        if isinstance(self.problem.truth, MixtureTruth):
            modes = self.problem.truth.prior.responsibilities(samples)
            values["modes"] = mode_weight_error(modes, self.weights[given])
        errors = [(x - self.truth).flatten(1).norm(dim=1).mean() for x in (samples, pooled)]
        values["l2"] = float(errors[0] / errors[1])
        values["mmd_p"] = mmd_test(samples, exact.sets[0], num_permutations=200)[1]
        return values


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
                linestyle=":" if "x0" in points[0].target else "-",
                label=f"{sampler}, {points[0].target}",
            )
        axes.axhline(1.0, linestyle="--", color="black", label="floor: two exact sets")
        axes.set(xscale="log", yscale="log", title=f"{problem}: {task}")
        axes.set(xlabel="network calls a sample", ylabel="sliced W2 / floor")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=90)
