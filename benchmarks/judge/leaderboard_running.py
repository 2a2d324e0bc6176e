"""What the leaderboard runs: the judge, settings that are tried, budgets that are varied, toon faces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.judge.command import Progress, fitting, judge, sample_work, work
from benchmarks.judge.leaderboard_faces import AVERAGED, FaceRow, face_problems, face_rows
from benchmarks.judge.problems import Case, Problem
from benchmarks.judge.running import Budget, Contestant, ExactSets, Sizes, device_here, run
from benchmarks.judge.statistics import median_interval
from benchmarks.judge.verdict import Judged
from benchmarks.tools.measuring import face_metrics
from posterior.errors import UserError

MOST_CALLS = 1000
"""Of a sample on a curve, forward and backward ones, of all particles."""
TUNING = "tuning"
"""Purpose of the measurements on which settings are tried (`Sizes`), and the folder of what is kept of them."""


@dataclass(frozen=True)
class Entrant:
    """A sampler of the leaderboard.

    Args:
        name: what tables call it.
        group: "ours", of this project; "peers", of others but in our code; "theirs", in the code of others.
        judged: as it is where posteriors are known, with the settings of its ``judge:`` section.
        plain: as it ships, for pictures.
        curve: setting, in words -> the sampler with that budget.
        tune: setting, in words -> the sampler with it, one of those that are tried.
    """

    name: str
    group: str
    judged: Contestant
    plain: Contestant
    curve: Mapping[str, Contestant] = field(default_factory=dict)
    tune: Mapping[str, Contestant] = field(default_factory=dict)


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
class Choice:
    """What a sampler was tried with on a problem, on other measurements than those that are reported.

    Args:
        sampler, problem: names.
        tried: a point a setting, in their order.
    """

    sampler: str
    problem: str
    tried: Sequence[Point]

    @property
    def best(self) -> Point | None:
        """The nearest to the posterior, of equal ones the first; None if none gave a number."""
        best = min(self.tried, key=lambda one: one.ratio)
        return best if np.isfinite(best.ratio) else None


def tuned_name(name: str) -> str:
    """What tables call a sampler with the settings that were chosen for it."""
    return f"{name} (tuned)"


@dataclass(frozen=True)
class Board:
    """All that the leaderboard shows.

    Args:
        budget: of the judge, its name.
        seed: of measurements and samples.
        ours: names of samplers of this project; the first is what others are compared with.
        found: sampler -> a verdict for each problem, as it ships.
        curves: points of varied budgets.
        faces: what each sampler makes of toon faces, a row a sampler and task.
        theirs: names of samplers that are other libraries' code.
        tuned: sampler -> the same as `found`, with what was chosen for it.
        choices: a row a problem and sampler.
    """

    budget: str
    seed: int
    ours: Sequence[str]
    found: Mapping[str, Sequence[Judged]]
    curves: Sequence[Point] = ()
    faces: Sequence[FaceRow] = ()
    theirs: Sequence[str] = ()
    tuned: Mapping[str, Sequence[Judged]] = field(default_factory=dict)
    choices: Sequence[Choice] = ()

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
    tune: Sequence[Problem] = (),
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
        tune: those of the problems on which samplers are judged a second time, with settings chosen for each.

    Raises:
        UserError: if there is no sampler, two have one name, one cannot be made with a setting of its budget or one
            that is tried, or LPIPS has no weights. A sampler that refuses is a row.
    """
    names = [one.name for one in entrants]
    if not names:
        raise UserError("leaderboard: there is no sampler: name one by --sampler, or in the list")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--sampler: two samplers are called {name}: write NAME=WHAT")
    tasks, metrics = (face_problems(faces), face_metrics()) if faces else ([], {})
    device_here(device)
    fitting([one.judged for one in entrants], [*problems, *curves])  # before samplers are tried, not only judged
    for one in entrants:
        makeable(one, problems[0])
    place = (folder, device, quiet)
    choices = [one for problem in tune for one in tried(entrants, problem, budget.of(problem), seed, *place)]
    again = [tuned(one, choices) for one in entrants if any(choice.sampler == one.name for choice in choices)]
    judged = judge(
        {one.name: one for one in (*(entrant.judged for entrant in entrants), *again)}, problems, budget, seed, *place
    ).found
    points = [one for problem in curves for one in curve(entrants, problem, budget.of(problem), seed, *place)]
    plain, sizes = [one.plain for one in entrants], Sizes(mean_faces, AVERAGED, faces, 1, rows=16)
    rows = face_rows(plain, tasks, metrics, sizes, seed, folder / "cells", device, quiet)
    return Board(
        budget.name,
        seed,
        [one.name for one in entrants if one.group == "ours"],
        {name: judged[name] for name in names},
        points,
        rows,
        [one.name for one in entrants if one.group == "theirs"],
        {name: judged[tuned_name(name)] for name in names if tuned_name(name) in judged},
        choices,
    )


def makeable(entrant: Entrant, problem: Problem) -> None:
    """Refuse settings of a budget, and those that are tried, that a sampler does not have.

    One that cannot be made as it is, such as one whose package is not installed, is left to be a row.

    Raises:
        UserError: naming sampler, section and setting.
    """
    try:
        entrant.judged.made(problem)
    except UserError:
        return
    for section, contestants in (("leaderboard", entrant.curve), ("tune", entrant.tune)):
        for told, contestant in contestants.items():
            try:
                contestant.made(problem)
            except UserError as error:
                raise UserError(f"{entrant.name}: {section}: {told}: {error}") from error


def tried(
    entrants: Sequence[Entrant], problem: Problem, sizes: Sizes, seed: int, folder: Path, device: str, quiet: bool
) -> list[Choice]:
    """Every sampler with all that it is tried with, on half as many measurements, with half as many samples.

    The measurements are drawn for this purpose alone, so that none of them is reported, of any seed.
    """
    few = max(1, sizes.measurements // 2), max(2, sizes.samples // 2)
    half = replace(sizes, measurements=few[0], samples=few[1], purpose=TUNING)
    asked = [(one.name, told, contestant) for one in entrants for told, contestant in one.tune.items()]
    found = distances(asked, problem, half, seed, folder / TUNING, device, quiet)
    own = {one.name: [point for point in found if point.sampler == one.name] for one in entrants if one.tune}
    return [Choice(name, problem.name, points) for name, points in own.items()]


def tuned(entrant: Entrant, choices: Sequence[Choice]) -> Contestant:
    """The sampler with what was chosen for it on each problem; it refuses the others."""
    own = {one.problem: one.best for one in choices if one.sampler == entrant.name}

    def on(problem: Problem) -> Contestant:
        best = own.get(problem.name)
        if best is None:
            told = "no setting gave a number" if problem.name in own else "not tuned on it"
            raise UserError(f"{entrant.name}: {told}")
        return entrant.tune[best.setting]

    name = tuned_name(entrant.name)
    return Contestant(name, lambda problem: on(problem).made(problem), lambda problem: on(problem).digest(problem))


def curve(
    entrants: Sequence[Entrant], problem: Problem, sizes: Sizes, seed: int, folder: Path, device: str, quiet: bool
) -> list[Point]:
    """The points of a problem; those of more than `MOST_CALLS` calls are left out."""
    asked = [(one.name, told, contestant) for one in entrants for told, contestant in one.curve.items()]
    found = distances(asked, problem, sizes, seed, folder, device, quiet)
    return [one for one in found if one.failure is not None or one.calls <= MOST_CALLS]


def distances(
    asked: Iterable[tuple[str, str, Contestant]],
    problem: Problem,
    sizes: Sizes,
    seed: int,
    folder: Path,
    device: str,
    quiet: bool,
) -> list[Point]:
    """How near to the posterior each comes, without ranks.

    Args:
        asked: (sampler, setting in words, the sampler with it).
        problem: where.
        sizes: how much.
        seed: of measurements and samples.
        folder: of samples that are kept.
        device: where samplers run.
        quiet: say nothing while it goes on.
    """
    exact, known, compared, asked = ExactSets(folder, seed), dict[str, Case](), replace(sizes, pairs=0), list(asked)
    each = work(problem, compared)
    progress, found = Progress(len(asked) * each, quiet), []
    for name, setting, contestant in asked:
        progress.begin(f"{contestant.name} on {problem.name}", sample_work(problem))
        try:
            sampled = run(contestant, problem, compared, seed, folder / "cells", progress.told, device, known)
        except UserError as error:
            found.append(Point(name, setting, problem.name, failure=str(error)))
            progress.skip(each)
            continue
        one = Point(name, setting, problem.name, (sampled.forward + sampled.backward) / max(sampled.rows, 1))
        if sampled.diverged:
            told = f"diverged on {len(sampled.diverged)} of {sampled.total} measurements"
            found.append(replace(one, failure=told))
            continue
        pairs = zip(sampled.cases, sampled.samples, strict=True)
        ratios = np.array([exact.of(problem, case, sizes).ratio(samples) for case, samples in pairs])
        low, high = median_interval(ratios)
        found.append(replace(one, ratio=float(np.median(ratios)), low=low, high=high))
    return found
