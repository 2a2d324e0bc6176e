"""The time at which a sampler goes wrong: its states at each level, held against the exact law of x_t given y."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.judge.command import contestant_of
from benchmarks.judge.problems import Case, Problem, chosen
from benchmarks.judge.running import Exact
from benchmarks.tools.html import pipes
from posterior.checks import MOST_IMAGES, MOST_SAMPLES, MOST_STEPS, whole
from posterior.errors import UserError
from posterior.priors import EmpiricalPrior
from posterior.random import Streams, stream
from posterior.samplers import Sampler, SigmaSchedule, posterior_of
from posterior.terminal import say_result

SETS = 3
"""Exact sets at a level: three distances between two of them are the floor."""


@dataclass(frozen=True)
class Instant:
    """A sampler's states at one level.

    Args:
        sigma: of the states.
        ratio: sliced W2 to exact states over that between exact sets, median over measurements; 1 is exact.
        worst: the largest.
    """

    sigma: float
    ratio: float
    worst: float


def trajectory(
    sampler: Sampler,
    sigmas: Sequence[float],
    problem: Problem,
    ids: Sequence[str],
    count: int,
    seed: int = 0,
    every: int = 1,
) -> list[Instant]:
    """How far a sampler's states are from x_t given y, level by level.

    It runs from y alone, as the judge runs it. A state that follows step k, counted from 1, is taken for one of level
    ``sigmas[k]``; at the level 0 the problem's blur is added to both.

    Args:
        sampler: one whose observer is called once a level, such as `posterior.samplers.DPS`.
        sigmas: its levels, the first of them that of pure noise: ``sampler.schedule.sigmas()``.
        problem: under an `EmpiricalPrior`.
        ids: of its measurements.
        count: chains of each of them.
        seed: of measurements, chains and exact states.
        every: levels that are looked at, besides the last one, >= 1.

    Raises:
        UserError: if the problem has another prior, or the sampler takes another number of steps.
    """
    if not isinstance(problem.prior, EmpiricalPrior):
        raise UserError(f"problem {problem.name}: states on their way are known under an EmpiricalPrior only")
    whole("trajectory", "every", every, 1, MOST_STEPS)
    looked = [step for step in range(1, len(sigmas)) if step % every == 0 or step == len(sigmas) - 1]
    found: dict[int, list[float]] = {step: [] for step in looked}
    for case in problem.cases(ids, seed):
        states = _states(sampler, problem, case, count, seed)
        if len(states) != len(sigmas) - 1:
            raise UserError(
                f"{type(sampler).__name__} takes {len(states)} steps, these levels are for {len(sigmas) - 1}"
            )
        posterior = posterior_of(problem.prior, case.measurement, stream(seed, case.id, -1, "importance draws"))
        for step in looked:
            draws = stream(seed, case.id, step, "exact states")
            x, exact = states[step - 1], posterior.sample(SETS * count, draws, sigmas[step])
            if sigmas[step] == 0:
                x, exact = (
                    problem.blurred(part, case.id, seed, what)
                    for part, what in ((x, "samples"), (exact, "exact samples"))
                )
            found[step].append(Exact.of(exact, count).ratio(x))
    return [Instant(sigmas[step], float(np.median(values)), max(values)) for step, values in found.items()]


def levels(
    sampler: str = "sampler/dps_100",
    problem: str = "digits-inpainting",
    measurements: int = 5,
    samples: int = 40,
    every: int = 9,
    seed: int = 0,
) -> None:
    """Print a table of `trajectory`: at which noise level a sampler's states leave the exact law of x_t given y.

    Args:
        sampler: a class, a file of settings or a shipped name; of a sampler with one step for each of its noise levels.
        problem: name of a shipped problem under an `EmpiricalPrior`, or a file.
        measurements: of it, >= 1.
        samples: chains of each measurement, >= 2.
        every: so many levels, >= 1, from one that is looked at to the next; the last one is looked at in any case.
        seed: of measurements, chains and exact states.

    Raises:
        UserError: if a number is out of range, several problems are named, or the sampler has no noise levels; or as
            `trajectory` does.
    """
    whole("trajectory", "measurements", measurements, 1, MOST_IMAGES)
    whole("trajectory", "samples", samples, 2, MOST_SAMPLES)
    whole("trajectory", "seed", seed, 0, 2**63)
    found = chosen([problem])
    if len(found) > 1:
        raise UserError(f"--problem: {problem!r} names {len(found)} problems, it must be one")
    one = found[0]
    made = contestant_of(sampler).made(one)
    schedule = getattr(made, "schedule", None)
    if not isinstance(schedule, SigmaSchedule):
        raise UserError(f"--sampler: {type(made).__name__} has no schedule of noise levels")
    ids = [f"{one.name}/compared/{number}" for number in range(measurements)]
    rows = [["level", "W2 / floor: median", "worst"]]
    for instant in trajectory(made, schedule.sigmas(), one, ids, samples, seed, every):
        rows.append([f"{instant.sigma:.3g}", f"{instant.ratio:.2f}", f"{instant.worst:.2f}"])
    say_result("\n".join(pipes(rows)))


def _states(sampler: Sampler, problem: Problem, case: Case, count: int, seed: int) -> list[Tensor]:
    """The states of all chains after each step, (count, C, H, W)."""
    seen: list[Tensor] = []
    rows = problem.batch([case], seed).repeat(count)
    with torch.no_grad():
        sampler(
            problem.prior, rows, Streams(seed, [case.id], count), lambda stage, step, total, x: seen.append(x.clone())
        )
    return seen
