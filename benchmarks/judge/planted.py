"""Proof that the judge judges: an exact sampler and planted errors, on a problem where all of them are a few lines.

python -m benchmarks judge-the-judge
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import scipy.stats
import torch
from torch import Tensor

from benchmarks.judge.command import judge
from benchmarks.judge.problems import Coordinates, Problem, two_modes
from benchmarks.tools.tables import read_rows, write_rows
from posterior.errors import UserError
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
        shift: in standard deviations (within a mode), of one tenth of the numbers: of one hidden and one measured.
        noise_ratio: sigma_y that it believes in over the right one.
        share: of the mode at the right.
        ignores_y: samples of the prior.
        shared_by_samples: all samples of an image get the same random numbers.
        shared_by_images: all images get the same random numbers.
    """

    width: float = 1.0
    shift: float = 0.0
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
        noise = rng.randn("planted", measurement.image_shape)
        right = rng.rand_like("mode", noise[..., :1]) <= self.share
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
        for place in (1, NUMBERS // 2):
            moved[..., place] += self.shift * std[..., place]
        return mean + moved


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
class Count:
    """How often a sampler was refuted.

    Args:
        planted: what is wrong with it.
        seeds: how many times it was judged, each with measurements of its own.
        refuted: how often it was.
        low, high: 95 % interval of the probability (Clopper and Pearson).
        example: the first verdict.
    """

    planted: str
    seeds: int
    refuted: int
    low: float
    high: float
    example: str


def counted(planted: str, seeds: range, budget: str = "standard") -> Count:
    """Judge one of `PLANTED` with each of the seeds."""
    refuted, example = 0, ""
    problem = cheap_problem()
    for seed in seeds:
        one = judge({planted: PLANTED[planted]}, [problem], budget, seed, quiet=True).found[planted][0]
        if one.failure is not None:
            raise UserError(one.failure)
        refuted += one.refuted
        example = example or one.verdict()
    interval = scipy.stats.binomtest(refuted, len(seeds)).proportion_ci(method="exact")
    return Count(planted, len(seeds), refuted, float(interval.low), float(interval.high), example)


def judge_the_judge(output: Path = Path("results/judge_the_judge"), seeds: int = 200, budget: str = "standard") -> None:
    """How often an exact sampler and planted errors are refuted, over fixed seeds; writes planted.csv.

    Rows that are there are kept: the same command goes on.

    Args:
        output: folder.
        seeds: 0, 1, ... so many.
        budget: of each judgement.
    """
    table = output / "planted.csv"
    rows = read_rows(table, Count)
    for name in PLANTED:
        if any((row.planted, row.seeds) == (name, seeds) for row in rows):
            continue
        start = time.monotonic()
        row = counted(name, range(seeds), budget)
        rows = [other for other in rows if other.planted != name] + [row]
        write_rows(table, rows)
        told = f"refuted {row.refuted} of {row.seeds} times [{row.low:.3f}, {row.high:.3f}]"
        print(f"{name:52s} {told}, {time.monotonic() - start:.0f} s", flush=True)
