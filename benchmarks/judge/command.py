"""The command `judge`, and the same from Python."""

from __future__ import annotations

import fnmatch
import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from benchmarks.judge.page import write_page
from benchmarks.judge.problems import Case, Problem, chosen, shipped
from benchmarks.judge.running import (
    Budget,
    Contestant,
    ExactSets,
    FromFunction,
    Sizes,
    contents_of,
    device_here,
    digest_of,
    planned,
    run,
)
from benchmarks.judge.verdict import Judged, correct, judge_samples, summary
from benchmarks.tools.building import built, settings_at
from posterior.checks import whole
from posterior.errors import UserError
from posterior.samplers import Sampler
from posterior.settings import Given, conformed, file_digests, overlaid
from posterior.settings.classes import import_class
from posterior.settings.places import SUFFIXES, named_file
from posterior.shell import Parser
from posterior.terminal import Status, duration, quietly, say_place, say_result

BUDGETS = {
    "quick": Budget("quick", Sizes(12, 100, 200, 19), Sizes(3, 40, 40, 9, rows=120)),
    "standard": Budget("standard", Sizes(24, 200, 400, 19), Sizes(8, 64, 64, 19, rows=150)),
    "long": Budget("long", Sizes(48, 400, 1000, 39), Sizes(24, 100, 256, 19, rows=200)),
}
QUICK = ("two-modes", "ring", "mixture32", "hard-instance", "toon-inpainting", "toon-super-resolution")
"""Problems of the budget `quick` where none is named; of the others, all."""


@dataclass
class Verdicts:
    """What `judge` has found.

    Args:
        budget: its name.
        seed: of measurements and samples.
        found: sampler -> a verdict for each problem.
    """

    budget: str
    seed: int
    found: dict[str, list[Judged]]

    def __str__(self) -> str:
        lines = []
        for name, judged in self.found.items():
            lines.append(f"{name}: {summary(judged)}.")
            lines += [f"  {one.problem:22s} {one.verdict()}" for one in judged]
        return "\n".join(lines)


def judge(
    sampler: Sampler | Callable[..., Any] | Mapping[str, Sampler | Callable[..., Any] | Contestant],
    problems: Sequence[Problem | str | Path] | None = None,
    budget: str | Budget = "standard",
    seed: int = 0,
    output: Path | str | None = None,
    device: str = "cpu",
    quiet: bool = False,
) -> Verdicts:
    """Run samplers, from y alone, on problems whose posterior is known exactly, and say what is wrong with them.

    Args:
        sampler: a sampler; a plain function (`FromFunction`); or several of them by name.
        problems: problems, names of shipped ones, or files; those of the budget if None.
        budget: ``quick`` (at most two minutes for a sampler of 100 calls, on two cores), ``standard`` (about ten),
            ``long``; or sizes of your own.
        seed: of measurements and samples: all samplers see the same measurements.
        output: folder of the report, and of samples that are kept so that the same call goes on from there; None: no
            report, and they are kept nowhere.
        device: where samplers run.
        quiet: say nothing while it goes on.

    Raises:
        UserError: if a name is not there, or a problem has no closed form. A sampler that breaks a rule is a verdict.
    """
    sizes = budget_of(budget)
    given = dict(sampler) if isinstance(sampler, Mapping) else {_label(sampler): sampler}
    contestants = [one if isinstance(one, Contestant) else of_object(name, one) for name, one in given.items()]
    names = problems if problems is not None else (QUICK if sizes.name == "quick" else ())
    taken = [one for one in names if isinstance(one, Problem)]
    others = [str(one) for one in names if not isinstance(one, Problem)]
    if others or not taken:
        taken += chosen(others, allow_local=True)
    fitting(contestants, taken)
    device_here(device)
    folder = None if output is None else Path(output)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    verdicts = _judged(contestants, taken, sizes, seed, folder, device, quiet)
    if folder is not None:
        settings = {one.name: settings_told(one, taken) for one in contestants}
        write_page(folder, verdicts.budget, seed, verdicts.found, taken, settings)
    return verdicts


def settings_told(contestant: Contestant, problems: Sequence[Problem]) -> str:
    """What a sampler runs with, and on which problems, for people."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        try:
            made = contestant.made(problem)
            told = repr(made) if is_dataclass(made) else type(made).__name__
        except UserError as error:
            told = f"not made: {error}"
        found.setdefault(told, []).append(problem.name)
    return "\n".join(f"  {', '.join(names)}: {told}" for told, names in found.items())


def _judged(
    contestants: Sequence[Contestant],
    problems: Sequence[Problem],
    budget: Budget,
    seed: int,
    folder: Path | None,
    device: str,
    quiet: bool,
) -> Verdicts:
    exact, cells = ExactSets(folder, seed), None if folder is None else folder / "cells"
    works = {problem.name: work(problem, budget.of(problem)) for problem in problems}
    progress = Progress(sum(works.values()) * len(contestants), quiet)
    found: dict[str, list[Judged]] = {one.name: [] for one in contestants}
    for problem in problems:
        sizes = budget.of(problem)
        known: dict[str, Case] = {}
        for contestant in contestants:
            progress.begin(f"{contestant.name} on {problem.name}", sample_work(problem))
            try:
                sampled = run(contestant, problem, sizes, seed, cells, progress.told, device, known)
                judged = judge_samples(sampled, exact, sizes)
            except UserError as error:
                judged = Judged(problem.name, problem.tells, failure=str(error))
                progress.skip(works[problem.name])
            found[contestant.name].append(judged)
        exact.kept.clear()
    for judged_ones in found.values():
        correct(judged_ones)
    return Verdicts(budget.name, seed, found)


def work(problem: Problem, sizes: Sizes) -> float:
    """How long a problem takes, in no unit: a sample costs about as much as its numbers, and a little."""
    return sum(count * len(ids) for _, ids, count in planned(problem, sizes)) * sample_work(problem)


def sample_work(problem: Problem) -> float:
    """The same of one sample."""
    return 200.0 + problem.dimension


class Progress:
    """Says how far it is, how many samples a second it makes, and how long it will take (`Status`).

    Of no work it says nothing: nobody would end its bars.
    """

    def __init__(self, total: float, quiet: bool) -> None:
        self.total = total
        self.done, self.before, self.each = 0.0, 0.0, 1.0
        self.rows, self.at = 0.0, ""
        self.start = time.monotonic()
        with quietly(quiet or not total):
            self.status = Status(first=5.0)

    def begin(self, at: str, each: float) -> None:
        """What is sampled next, and how long a sample takes there."""
        self.at, self.each, self.before = at, each, self.done

    def skip(self, work: float) -> None:
        """What will not be sampled."""
        self.done = self.before + work
        self._tell()

    def told(self, rows: float) -> None:
        """So many samples more, or such a part of one."""
        self.done += rows * self.each
        self.rows += rows
        self._tell()

    def _tell(self) -> None:
        ended = self.done > (1 - 1e-9) * self.total  # parts of samples are rounded
        share, taken = 1.0 if ended else self.done / self.total, time.monotonic() - self.start
        left = f"about {duration(taken / share * (1 - share))} left" if not ended else f"took {duration(taken)}"
        pace = f"{self.rows / max(taken, 1e-9):.3g} samples/s"
        self.status.tell((share, f"{share:.0%} of the work, {pace}, {left}"), (None, self.at), end=ended)
        if ended:
            self.status.close()


def budget_of(budget: str | Budget) -> Budget:
    """One of `BUDGETS` by its name, or sizes of one's own.

    Raises:
        UserError: if there is none of the name.
    """
    if isinstance(budget, Budget):
        return budget
    if budget not in BUDGETS:
        raise UserError(f"--budget: there is no budget {budget!r}; there are {', '.join(BUDGETS)}")
    return BUDGETS[budget]


def _label(sampler: Any) -> str:
    return sampler.__name__ if inspect.isfunction(sampler) else type(sampler).__name__


def of_object(name: str, sampler: Any) -> Contestant:
    """Of a sampler, or of a plain function.

    Raises:
        UserError: if it is neither.
    """
    if not isinstance(sampler, Sampler):
        if not callable(sampler) or inspect.isclass(sampler):
            raise UserError(
                f"{name}: {type(sampler).__name__} is no sampler: a Sampler, or a function of y and operator"
            )
        sampler = FromFunction(sampler)
    contents = contents_of(sampler)
    return Contestant(name, lambda problem: sampler, lambda problem: digest_of(contents, sampler))


def of_settings(name: str, settings: Any, allow_local: bool = False) -> Contestant:
    """Of settings of a sampler; a ``judge:`` section beside them has settings for problems by pattern of their name.

    Raises:
        UserError: if they are not those of a sampler.
    """
    special: Any = {}
    if isinstance(settings, dict):
        settings = dict(settings)
        if "class_path" not in settings and isinstance(settings.get("model"), dict):
            settings = dict(settings["model"].get("sampler") or {})  # a whole experiment: its sampler
        special = settings.pop("judge", None) or {}
        if not isinstance(special, dict):
            raise UserError(f"{name}: judge: must hold settings by problem (pattern: {{setting: value}})")

    def on(problem: Problem) -> dict[str, Any]:
        found = settings if isinstance(settings, dict) else {"class_path": settings}
        for pattern, more in special.items():
            if fnmatch.fnmatchcase(problem.name, pattern):
                found = overlaid(found, {"init_args": more})
        return conformed({"sampler": found}, {"sampler": Sampler}, allow_local)["sampler"]

    def made(problem: Problem) -> Sampler:
        sampler: Sampler = built({"sampler": on(problem)}, {"sampler": Sampler}, name)[0]
        return sampler

    def digest(problem: Problem) -> str:
        checked = on(problem)
        files = sorted(file_digests(checked).values())
        return digest_of([checked, files], built({"sampler": checked}, {"sampler": Sampler}, name)[0])

    return Contestant(name, made, digest, tuple(special))


def fitting(contestants: Sequence[Contestant], problems: Sequence[Problem]) -> None:
    """Refuse settings for problems that there are not.

    Raises:
        UserError: naming a pattern that fits neither a problem that is judged nor one that is shipped.
    """
    names = {*shipped(), *(problem.name for problem in problems)}
    for one in contestants:
        for pattern in one.patterns:
            if not fnmatch.filter(names, pattern):
                raise UserError(f"{one.name}: judge: no problem fits {pattern!r}; there are {', '.join(sorted(names))}")


def contestant_of(text: str, allow_local: bool = False) -> Contestant:
    """Of what stands behind ``--sampler``: [NAME=]FILE.yaml, [NAME=]module.Class or [NAME=]module.function.

    Raises:
        UserError: if it is none of them.
    """
    label, equals, place = text.partition("=")
    if not equals:
        label, place = "", text
    if named_file(place) is not None or place.endswith(SUFFIXES) or "/" in place:
        return of_settings(label or Path(place).stem, settings_at(place, "--sampler"), allow_local)
    full, found = import_class(place, Sampler, "--sampler")
    name = label or full.rpartition(".")[2]
    if inspect.isfunction(found):
        return of_object(name, found)
    if not (inspect.isclass(found) and issubclass(found, Sampler)):
        raise UserError(
            f"--sampler: {full} is no sampler: name a subclass of posterior.samplers.Sampler, a file of settings, or a "
            "function of (y, operator, num_samples)"
        )
    return of_settings(name, {"class_path": Given(full)}, allow_local)


def judge_command(arguments: Sequence[str]) -> None:
    """Read the command line, judge, print the verdicts."""
    parser = Parser(
        prog="posterior-sampling judge",
        description="Any sampler, from y alone, on problems whose posterior is known exactly: what is wrong, in words.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--sampler",
        action="append",
        required=True,
        metavar="[NAME=]WHAT",
        help="a class (my_sampler.MySampler, DPS), a file of settings, or a plain function; may be given again",
    )
    parser.add_argument("--output", type=Path, default=Path("results/judge"), help="folder (results/judge)")
    parser.add_argument("--budget", default="standard", help="quick (2 min), standard (10 min), long (standard)")
    parser.add_argument(
        "--problems", action="append", default=[], help="names, patterns or files, with commas between them (all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of measurements and samples (0)")
    parser.add_argument("--device", default="cpu", help="where samplers run (cpu)")
    parser.add_argument("--allow-local", action="store_true", help="files may name classes that are not installed")
    options = parser.parse_args(list(arguments))
    whole("judge", "seed", options.seed, 0, 2**63)
    contestants: dict[str, Contestant] = {}
    for text in options.sampler:
        one = contestant_of(text, options.allow_local)
        if one.name in contestants:
            raise UserError(f"--sampler: two samplers are called {one.name}: write NAME={text.rpartition('=')[2]}")
        contestants[one.name] = one
    names = [name.strip() for text in options.problems for name in text.split(",") if name.strip()]
    budget = budget_of(options.budget)
    problems = chosen(names or (QUICK if budget.name == "quick" else ()), options.allow_local)
    verdicts = judge(contestants, problems, budget, options.seed, options.output, options.device)
    say_result(str(verdicts))
    say_place(f"report: {options.output / 'report.html'}")
    if any(one.failure for found in verdicts.found.values() for one in found):
        sys.exit(2)
