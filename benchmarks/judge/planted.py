"""Proof that the judge judges: an exact sampler and planted errors, on a problem where all of them are a few lines.

python -m benchmarks judge-the-judge
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import scipy.stats
import torch
from torch import Tensor

from benchmarks.judge.command import judge
from benchmarks.judge.problems import Coordinates, Problem, two_modes
from benchmarks.judge.verdict import Judged
from benchmarks.tools.html import pipes
from benchmarks.tools.tables import read_rows, write_rows
from posterior.files import write_whole
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.priors import Prior
from posterior.random import Streams
from posterior.samplers import Sampler
from posterior.samplers.base import Observer, unobserved

DISTANCE, WIDTH, NUMBERS = 1.2, 0.2, 20
SIGMA_Y = 0.1


def cheap_problem() -> Problem:
    """Two equal modes that y cannot tell apart, half of 20 numbers measured: that of configs/problem/two-modes.yaml."""
    operator = Coordinates(range(NUMBERS // 2, NUMBERS))
    prior = two_modes(DISTANCE, WIDTH, NUMBERS)
    return Problem("two-modes", "planted errors", prior, operator, GaussianNoise(SIGMA_Y), (1, 1, NUMBERS))


@dataclass(frozen=True)
class Planted(Sampler):
    """Exact samples of the cheap problem's posterior, but for what is planted.

    Args:
        width: of samples around the posterior mean, over the right one.
        shift: in standard deviations (within a mode) of the numbers ``shifted``.
        shifted: which; by default one tenth of them, one hidden and one measured.
        noise_ratio: sigma_y that it believes in over the right one.
        share: of the mode at the right.
        ignores_y: samples of the prior.
        shared_by_samples: all samples of an image get the same random numbers.
        shared_by_images: all images get the same random numbers.
    """

    width: float = 1.0
    shift: float = 0.0
    shifted: Sequence[int] = (1, NUMBERS // 2)
    noise_ratio: float = 1.0
    share: float = 0.5
    ignores_y: bool = False
    shared_by_samples: bool = False
    shared_by_images: bool = False

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        if self.shared_by_samples:
            rng = Streams(rng.seed, [image_id for image_id, _ in rng.rows])
        if self.shared_by_images:
            rng = Streams(rng.seed, [f"sample {sample}" for _, sample in rng.rows])
        noise, uniform = _drawn(rng.seed, tuple(rng.rows), rng.device)
        right = uniform <= self.share
        mean, std = torch.zeros_like(noise), torch.full_like(noise, WIDTH)
        if not self.ignores_y:
            variance = 1 / (WIDTH**-2 + (self.noise_ratio * SIGMA_Y) ** -2)
            seen = measurement.y.view(len(noise), 1, 1, -1)
            mean[..., NUMBERS // 2 :] = seen * variance / (self.noise_ratio * SIGMA_Y) ** 2
            std[..., NUMBERS // 2 :] = variance**0.5
        centre = torch.where(right, DISTANCE / 2, -DISTANCE / 2)
        moved = std * noise
        moved[..., :1] += centre
        moved = self.width * moved
        for place in self.shifted:
            moved[..., place] += self.shift * std[..., place]
        return mean + moved


@functools.lru_cache(maxsize=64)  # more than the calls of a sampler with one seed: the others ask for the same
def _drawn(seed: int, rows: tuple[tuple[str, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Standard normal numbers of each row, (B, 1, 1, NUMBERS), and a uniform one, (B, 1, 1, 1)."""
    rng = Streams(seed, [], device=device)
    rng.rows = list(rows)
    noise = rng.randn("planted", (1, 1, NUMBERS))
    return noise, rng.rand_like("mode", noise[..., :1])


PLANTED: dict[str, Planted] = {
    "exact": Planted(),
    "width x 0.9": Planted(width=0.9),
    "a shift of 0.2 std in one tenth of the directions": Planted(shift=0.2),
    "the posterior mean": Planted(width=0.0),
    "samples of the prior": Planted(ignores_y=True),
    "sigma_y wrong by 1.3": Planted(noise_ratio=1.3),
    "one of two modes": Planted(share=1.0),
    "shares 0.6 / 0.4 for 0.5 / 0.5": Planted(share=0.6),
    "noise shared between the samples of an image": Planted(shared_by_samples=True),
    "noise shared between images": Planted(shared_by_images=True),
}
"""What is planted, and in the first row nothing."""


@dataclass
class Row:
    """One judgement.

    Args:
        planted: what is wrong with the sampler.
        seed: of its measurements.
        refuted: whether it was.
        verdict: in words.
    """

    planted: str
    seed: int
    refuted: bool
    verdict: str


def judged_planted(seed: int, budget: str = "standard", with_stated: bool = True) -> list[Row]:
    """All of `PLANTED` with the measurements of one seed, and errors of a stated size.

    Those are as large as the verdict on the exact sampler says that it would have found with probability 0.8.
    """
    problem = cheap_problem()
    found = judge(PLANTED, [problem], budget, seed, quiet=True).found
    if with_stated:
        found = found | judge(_stated(found["exact"][0]), [problem], budget, seed, quiet=True).found
    return [Row(name, seed, one.refuted, one.verdict()) for name, (one,) in found.items()]


def _stated(exact: Judged) -> dict[str, Planted]:
    """Errors as large as the verdict on the exact sampler says that it would have found with probability 0.8."""
    sizes = {one.test: one.reach(exact.level) for one in exact.findings if one.reach is not None}
    return {
        "a width error as large as stated": Planted(width=1 - sizes["width, all directions alike"]),
        "a shift as large as stated": Planted(shift=sizes["shift"], shifted=range(1, NUMBERS)),
    }


def judge_the_judge(output: Path = Path("results/judge_the_judge"), seeds: int = 200, budget: str = "standard") -> None:
    """How often an exact sampler and planted errors are refuted, over fixed seeds; writes planted.csv and planted.md.

    Rows that are there are kept: the same command goes on.

    Args:
        output: folder.
        seeds: 0, 1, ... so many.
        budget: of each judgement.
    """
    path = output / "planted.csv"
    rows = read_rows(path, Row)
    for seed in range(seeds):
        if not any(row.seed == seed for row in rows):
            rows += judged_planted(seed, budget)
            write_rows(path, rows)
            print(f"seed {seed}", flush=True)
    told = "\n".join(pipes(counts([row for row in rows if row.seed < seeds]))) + "\n"
    write_whole(output / "planted.md", told.encode())
    print(told)


def counts(rows: Sequence[Row]) -> list[list[str]]:
    """Head, then a row for each planted error: how often refuted, with the 95 % interval of Clopper and Pearson."""
    found = [["planted", "refuted", "95 % interval", "first verdict"]]
    for name in dict.fromkeys(row.planted for row in rows):
        own = [row for row in rows if row.planted == name]
        refuted = sum(row.refuted for row in own)
        interval = scipy.stats.binomtest(refuted, len(own)).proportion_ci(method="exact")
        limits = f"{interval.low:.3f} to {interval.high:.3f}"
        found.append([name, f"{refuted} of {len(own)}", limits, own[0].verdict])
    return found
