"""What the leaderboard runs: the judge, budgets that are varied, toon faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.judge.command import Progress, fitting, judge, sample_work
from benchmarks.judge.leaderboard_faces import FaceRow, face_problems, face_rows
from benchmarks.judge.problems import Case, Problem
from benchmarks.judge.running import Budget, Contestant, ExactSets, Sizes, device_here, run
from benchmarks.judge.statistics import median_interval
from benchmarks.judge.verdict import Judged
from benchmarks.tools.measuring import face_metrics
from posterior.errors import UserError

MOST_CALLS = 1000
"""Of a sample on a curve, forward and backward ones, of all particles."""


@dataclass(frozen=True)
class Entrant:
    """A sampler of the leaderboard.

    Args:
        name: what tables call it.
        ours: whether it is of this project; DPS, say, is not.
        judged: as it is where posteriors are known, with the settings of its ``judge:`` section.
        plain: as it ships, for pictures.
        curve: setting, in words -> the sampler with that budget.
    """

    name: str
    ours: bool
    judged: Contestant
    plain: Contestant
    curve: Mapping[str, Contestant] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """What a sampler with some budget reaches on a problem.

    Args:
        sampler: its name.
        setting: its budget, in words; empty: as it ships.
        problem: name.
        calls: forward and backward calls a sample.
        ratio: sliced W2 over its floor, median over measurements; infinite if a chain diverges.
        low, high: its interval (`median_interval`).
        failure: why there is no such number.
    """

    sampler: str
    setting: str
    problem: str
    calls: float = 0.0
    ratio: float = np.inf
    low: float = np.inf
    high: float = np.inf
    failure: str | None = None

    def told(self) -> str:
        """In words."""
        setting = f" ({self.setting})" if self.setting else ""
        return f"{self.sampler}{setting}, {self.calls:.0f} calls: {self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Board:
    """All that the leaderboard shows.

    Args:
        budget: of the judge, its name.
        seed: of measurements and samples.
        ours: names of samplers of this project; the first is what others are compared with.
        found: sampler -> a verdict for each problem.
        curves: points of varied budgets.
        faces: what each sampler makes of toon faces, a row a sampler and task.
    """

    budget: str
    seed: int
    ours: Sequence[str]
    found: Mapping[str, Sequence[Judged]]
    curves: Sequence[Point] = ()
    faces: Sequence[FaceRow] = ()

    def points(self, problem: str) -> list[Point]:
        """Of a problem: those as they ship, and those of varied budgets; none without a number."""
        shipped = [shipped_point(name, one) for name, judged in self.found.items() for one in judged]
        return [one for one in (*shipped, *self.curves) if one.problem == problem and np.isfinite(one.ratio)]


def shipped_point(name: str, judged: Judged) -> Point:
    """Of a verdict."""
    calls = judged.forward + judged.backward
    distance = next((one for one in judged.findings if one.test == "distribution"), None)
    if distance is None or judged.diverged:
        failure = judged.failure or f"diverged on {judged.diverged} of {judged.total} measurements"
        return Point(name, "", judged.problem, calls, failure=failure)
    return Point(name, "", judged.problem, calls, distance.effect, distance.low, distance.high)


def leaderboard(
    entrants: Sequence[Entrant],
    problems: Sequence[Problem],
    budget: Budget,
    seed: int = 0,
    folder: Path = Path("results/leaderboard"),
    device: str = "cpu",
    curves: Sequence[Problem] = (),
    faces: int = 0,
    mean_faces: int = 0,
    quiet: bool = False,
) -> Board:
    """Judge all samplers, vary their budgets, let them restore faces; what the folder has is not run again.

    Args:
        entrants: at least one.
        problems: of the judge.
        budget: of the judge.
        seed: of measurements and samples.
        folder: of samples that are kept, and of the judge's own report.
        device: where samplers run.
        curves: problems on which budgets are varied.
        faces: toon faces a task; 0: none.
        mean_faces: faces a task with several samples each, for the error of their mean.
        quiet: say nothing while it goes on.

    Raises:
        UserError: if two samplers have one name, or LPIPS has no weights. A sampler that refuses is a row.
    """
    names = [one.name for one in entrants]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--sampler: two samplers are called {name}: write NAME=WHAT")
    tasks, metrics = (face_problems(faces), face_metrics()) if faces else ([], {})
    device_here(device)
    fitting([one.judged for one in entrants], [*problems, *curves])
    found = judge({one.name: one.judged for one in entrants}, problems, budget, seed, folder, device, quiet).found
    points = [
        point
        for problem in curves
        for point in curve(entrants, problem, budget.of(problem), seed, folder, device, quiet)
    ]
    plain, sizes = [one.plain for one in entrants], Sizes(mean_faces, 8, faces, 1, rows=16)
    rows = face_rows(plain, tasks, metrics, sizes, seed, folder / "cells", device, quiet)
    return Board(budget.name, seed, [one.name for one in entrants if one.ours], found, points, rows)


def curve(
    entrants: Sequence[Entrant], problem: Problem, sizes: Sizes, seed: int, folder: Path, device: str, quiet: bool
) -> list[Point]:
    """The points of a problem; those of more than `MOST_CALLS` calls are left out."""
    exact, known, cells = ExactSets(folder, seed), dict[str, Case](), folder / "cells"
    total = sum(len(one.curve) for one in entrants) * sizes.measurements * sizes.samples * sample_work(problem)
    progress, found = Progress(total, quiet), []
    for entrant in entrants:
        for setting, contestant in entrant.curve.items():
            progress.begin(f"{contestant.name} on {problem.name}", sample_work(problem))
            try:
                compared = replace(sizes, pairs=0)
                sampled = run(contestant, problem, compared, seed, cells, progress.told, device, known)
            except UserError as error:
                found.append(Point(entrant.name, setting, problem.name, failure=str(error)))
                progress.skip(sizes.measurements * sizes.samples * sample_work(problem))
                continue
            calls = (sampled.forward + sampled.backward) / max(sampled.rows, 1)
            one = Point(entrant.name, setting, problem.name, calls)
            if sampled.diverged:
                told = f"diverged on {len(sampled.diverged)} of {sampled.total} measurements"
                found.append(replace(one, failure=told))
            elif calls <= MOST_CALLS:
                pairs = zip(sampled.cases, sampled.samples, strict=True)
                ratios = np.array([exact.of(problem, case, sizes).ratio(samples) for case, samples in pairs])
                low, high = median_interval(ratios)
                found.append(replace(one, ratio=float(np.median(ratios)), low=low, high=high))
    return found
