"""Modes one can count: classes of a sampler's digits beside the exact shares of the finite-sample posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from benchmarks.digits.density import HELD_OUT, Unlike
from benchmarks.digits.picture import Panel, picture
from benchmarks.judge.command import Progress, contestant_of, sample_work
from benchmarks.judge.problems import Case, Problem, read_problem, shipped
from benchmarks.judge.running import Contestant, Sampled, Sizes, run
from benchmarks.judge.verdict import LEVEL
from benchmarks.tools.html import pipes
from datamodules import IdxImageSet
from posterior.checks import MOST_IMAGES, MOST_SAMPLES, whole
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.metrics.classifier import CLASSES
from posterior.priors import EmpiricalPrior
from posterior.random import stream
from posterior.samplers import EmpiricalPosterior, posterior_of
from posterior.terminal import say_place, say_result

SIMULATIONS = 2000
"""Of exact samples' classes, for p-values and floors."""
CHANCE = 1e-3
"""Probability below which a class's number is no chance: of one class in one measurement."""
RARE = 0.01
"""Exact share below which a class is not there."""


def class_shares(posterior: EmpiricalPosterior, labels: Tensor) -> Tensor:
    """Exact probability of each class given y, (C,) float64.

    Args:
        posterior: of an `EmpiricalPrior`, exact.
        labels: of the prior's images, (N,), whole numbers >= 0.

    Raises:
        UserError: if the posterior is one of importance draws: those have no labels.
    """
    if posterior.num_draws is not None:
        raise UserError("class_shares: this posterior is known by importance draws only: take a prior of width 0")
    return torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels, posterior.weights)


@dataclass(frozen=True)
class ShareTest:
    """Classes of samples against exact shares, over measurements.

    Args:
        p_values: of each measurement.
        pooled: of the sum of their statistics.
        off: total variation between shares of samples and exact ones, mean over measurements.
        floor: what exact samples have, as many of them.
        invented: classes that are not there (`RARE`) in a measurement where samples have more of them than chance.
        dropped: classes of which there is no sample in a measurement, and that by no chance.
    """

    p_values: list[float]
    pooled: float
    off: float
    floor: float
    invented: list[int]
    dropped: list[int]

    @classmethod
    def of(cls, counts: Tensor, shares: Tensor, seed: int = 0, simulations: int = SIMULATIONS) -> ShareTest:
        """The likelihood-ratio chi-square G = 2 sum_c n_c log(n_c / (n q_c)); its law by simulation of exact samples.

        Expected numbers are too small for the chi-square's own law. One that is impossible makes G infinite.

        Args:
            counts: samples of each class, (M, C), whole numbers.
            shares: exact, q, (M, C).
            seed: of the simulations.
            simulations: >= 1; the least p-value is 1 / (simulations + 1).

        Raises:
            UserError: if shapes differ, there is no sample, or shares do not sum to 1.
        """
        if counts.shape != shares.shape or counts.ndim != 2 or not (counts.sum(dim=1) > 0).all():
            raise UserError(f"ShareTest: counts {tuple(counts.shape)} and shares {tuple(shares.shape)} of (M, C)")
        if not torch.allclose(shares.double().sum(dim=1), torch.ones(len(shares), dtype=torch.float64), atol=1e-6):
            raise UserError("ShareTest: exact shares do not sum to 1")
        own, null, off, floors = [], [], [], []
        for number, (n, q) in enumerate(zip(counts.double(), shares.double(), strict=True)):
            simulated = _simulated(int(n.sum()), q, simulations, stream(seed, "classes", number, "simulation"))
            own.append(_likelihood_ratio(n, q))
            null.append(_likelihood_ratio(simulated, q))
            off.append(_variation(n, q))
            floors.append(_variation(simulated, q).mean())
        observed, laws = torch.stack(own), torch.stack(null)
        found = _beyond_chance(counts.numpy(), shares.double().numpy())
        return cls(
            [_p_value(law, value) for law, value in zip(laws, observed, strict=True)],
            _p_value(laws.sum(dim=0), observed.sum()),
            float(torch.stack(off).mean()),
            float(torch.stack(floors).mean()),
            *found,
        )


def _simulated(count: int, shares: Tensor, simulations: int, generator: torch.Generator) -> Tensor:
    """Classes of so many exact samples, (simulations, C)."""
    drawn = torch.multinomial(shares, simulations * count, replacement=True, generator=generator)
    found = torch.zeros(simulations, len(shares), dtype=torch.float64)
    return found.scatter_add_(1, drawn.view(simulations, count), torch.ones(simulations, count, dtype=torch.float64))


def _likelihood_ratio(counts: Tensor, shares: Tensor) -> Tensor:
    """G of counts (..., C) under shares (C,), (...)."""
    expected = counts.sum(dim=-1, keepdim=True) * shares
    return 2 * torch.where(counts > 0, counts * (counts / expected).log(), 0).sum(dim=-1)


def _variation(counts: Tensor, shares: Tensor) -> Tensor:
    return 0.5 * (counts / counts.sum(dim=-1, keepdim=True) - shares).abs().sum(dim=-1)


def _p_value(law: Tensor, value: Tensor) -> float:
    """Of a value under simulated ones; equal numbers differ by rounding."""
    return (1 + int((law >= value - 1e-9).sum())) / (1 + len(law))


def _beyond_chance(counts: np.ndarray, shares: np.ndarray) -> tuple[list[int], list[int]]:
    """Classes invented and classes dropped in any measurement; see `ShareTest`."""
    n = counts.sum(axis=1, keepdims=True)
    more = scipy.stats.binom.sf(counts - 1, n, shares.clip(0, 1)) < CHANCE
    none = (counts == 0) & ((1 - shares.clip(0, 1)) ** n < CHANCE)
    invented = (more & (shares < RARE)).any(axis=0)
    return np.flatnonzero(invented).tolist(), np.flatnonzero(none.any(axis=0)).tolist()


@dataclass(frozen=True)
class Counted:
    """A sampler's samples on a problem, counted.

    Args:
        problem, sampler: names.
        measurements, samples: how many, and of each; measurements with a chain that diverged are left out.
        test: of the classes.
        improbable, undecided: shares of samples, see `Unlike`.
    """

    problem: str
    sampler: str
    measurements: int
    samples: int
    test: ShareTest
    improbable: float
    undecided: float

    HEAD = (
        *("problem", "sampler", "measurements x samples", "shares off by (exact samples)", "p"),
        *(f"refuted at {100 * LEVEL:g} %", "invents", "drops", "improbable", "undecided"),
    )

    def row(self) -> list[str]:
        """Of a table under `HEAD`."""
        test = self.test
        refuted = sum(p < LEVEL for p in test.p_values)
        return [
            *(self.problem, self.sampler, f"{self.measurements} x {self.samples}"),
            *(f"{test.off:.2f} ({test.floor:.2f})", f"{test.pooled:.2g}", f"{refuted} of {self.measurements}"),
            *(", ".join(map(named, classes)) or "-" for classes in (test.invented, test.dropped)),
            *(f"{self.improbable:.1%}", f"{self.undecided:.1%}"),
        ]


def named(label: int) -> str:
    """A class as people call it."""
    return f"{label}" if label < CLASSES else f"{label - CLASSES} turned"


@dataclass(frozen=True)
class Finite:
    """A problem under a finite-sample prior whose images have labels: the shares of classes are known.

    Args:
        problem: without the noise that the judge adds.
        prior: its own.
        labels: of the prior's images, (N,).
        known: id of a measurement and seed -> shares that were computed.
    """

    problem: Problem
    prior: EmpiricalPrior
    labels: Tensor
    known: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, changes: dict[str, Any]) -> Finite:
        """By the name of a shipped problem, or from a file.

        Args:
            name: of it.
            changes: settings laid over those of its prior.

        Raises:
            UserError: if there is none, its prior is another one, or has no labels.
        """
        path = shipped().get(name, Path(name))
        there = read_problem(path)
        if not isinstance(there.prior, EmpiricalPrior):
            raise UserError(f"{path}: classes are counted under an EmpiricalPrior, not {type(there.prior).__name__}")
        problem = read_problem(path, changes={"prior": {"init_args": changes}, "blur": 0.0})
        assert isinstance(problem.prior, EmpiricalPrior)
        if problem.prior.labels is None:
            raise UserError(f"{path}: the prior's images have no labels: name their file")
        return cls(problem, problem.prior, problem.prior.labels)

    def shares(self, case: Case, seed: int) -> Tensor:
        """Exact ones of a measurement, (C,)."""
        if (case.id, seed) not in self.known:
            draws = stream(seed, case.id, -1, "exact")
            self.known[case.id, seed] = class_shares(posterior_of(self.prior, case.measurement, draws), self.labels)
        return self.known[case.id, seed]

    def classes(self, x: Tensor) -> Tensor:
        """The label of the digit that is nearest to each of images (N, C, H, W), (N,)."""
        return self.labels[self.prior.nearest(x)]


def digit_classes(
    problems: Sequence[str] = ("digits-inpainting", "digits-super-resolution", "digits-phase-retrieval"),
    samplers: Sequence[str] = ("sampler/exact_empirical", "sampler/dps_100", "sampler/conditional"),
    measurements: int = 8,
    samples: int = 64,
    shown: int = 0,
    images: Path | None = None,
    labels: Path | None = None,
    width: float = 0.0,
    held_out: Path = HELD_OUT,
    output: Path = Path("results/digit_classes"),
    seed: int = 0,
) -> None:
    """Count the classes of samplers' digits; a table, and PROBLEM.png with one measurement's samples sorted by class.

    What was sampled stays in the folder, and the same command again goes on from there.

    Args:
        problems: names of shipped problems under a finite-sample prior (configs/problem), or files.
        samplers: classes, files of settings or shipped names, perhaps ``NAME=`` before it.
        measurements: of each problem, >= 1.
        samples: of each measurement, >= 2.
        shown: number of the measurement in the picture.
        images, labels: idx files of other digits for the prior, such as all 60,000; both or none.
        width: w of the prior.
        held_out: idx file of digits that the prior does not have.
        output: folder of pictures, classes.md and samples.
        seed: of measurements and samples.

    Raises:
        UserError: naming what does not fit.
    """
    whole("digit-classes", "measurements", measurements, 1, MOST_IMAGES)
    whole("digit-classes", "samples", samples, 2, MOST_SAMPLES)
    whole("digit-classes", "shown", shown, 0, measurements - 1)
    changes: dict[str, Any] = {"width": width}
    if images is not None and labels is not None:
        changes |= {"path": str(images.absolute()), "labels": str(labels.absolute())}
    elif images is not None or labels is not None:
        raise UserError("digit-classes: images and labels belong together: give both, or none")
    contestants = [contestant_of(name) for name in samplers]
    others, rows = IdxImageSet(held_out).all(), [list(Counted.HEAD)]
    for finite in [Finite.read(name, changes) for name in problems]:
        unlike = Unlike.of(finite.prior, others)
        say_result(
            f"{finite.problem.name}: {len(finite.prior)} images, held-out digits are likeliest at w {unlike.width:g}"
        )
        counting = Counting(finite, unlike, Sizes(measurements, samples, 0, 1), seed, output)
        rows += [one.row() for one in counting.of(contestants, shown)]
    told = "\n".join(pipes(rows))
    write_whole(output / "classes.md", f"{told}\n".encode())
    say_result(told)
    say_place(f"pictures: {output}")


@dataclass(frozen=True)
class Counting:
    """How the samples of a problem are counted.

    Args:
        finite: the problem.
        unlike: which of them are no digits.
        sizes: measurements, and samples of each.
        seed: of both.
        folder: of what is sampled, and of the picture.
    """

    finite: Finite
    unlike: Unlike
    sizes: Sizes
    seed: int
    folder: Path

    def of(self, contestants: Sequence[Contestant], shown: int) -> list[Counted]:
        """Sample, count, and draw measurement number ``shown``.

        Raises:
            UserError: if all of a sampler's chains diverge, or it breaks a rule.
        """
        problem, work = self.finite.problem, sample_work(self.finite.problem)
        known: dict[str, Case] = {}
        panels: list[Panel] = []
        found: list[Counted] = []
        progress = Progress(len(contestants) * self.sizes.measurements * self.sizes.samples * work, quiet=False)
        cells, at = self.folder / "cells", f"{problem.name}/compared/{shown}"
        for one in contestants:
            progress.begin(f"{one.name} on {problem.name}", work)
            sampled = run(one, problem, self.sizes, self.seed, cells, progress.told, known=known)
            if not sampled.cases:
                raise UserError(f"{one.name} on {problem.name}: all chains diverged")
            found.append(self.counted(one.name, sampled))
            samples = {case.id: x for case, x in zip(sampled.cases, sampled.samples, strict=True)}
            if at in samples:
                panels.append(Panel(one.name, samples[at], self.finite.classes(samples[at])))
        if panels:
            shares = self.finite.shares(known[at], self.seed)
            drawn = picture(problem.tells, known[at], shares, panels)
            write_whole(self.folder / f"{problem.name}.png", drawn)
        return found

    def counted(self, name: str, sampled: Sampled) -> Counted:
        """A sampler's row."""
        shares = torch.stack([self.finite.shares(case, self.seed) for case in sampled.cases])
        classes = [self.finite.classes(x) for x in sampled.samples]
        counts = torch.stack([one.bincount(minlength=shares.shape[1]) for one in classes])
        x, turned = torch.cat(sampled.samples), (torch.cat(classes) >= CLASSES).view(-1, 1, 1, 1)
        upright = torch.where(turned, x.flip(-2, -1), x)
        test = ShareTest.of(counts, shares, self.seed)
        marks = self.unlike.improbable(x), self.unlike.undecided(upright)
        improbable, undecided = (float(mark.double().mean()) for mark in marks)
        sizes = len(counts), self.sizes.samples
        return Counted(self.finite.problem.name, name, *sizes, test, improbable, undecided)
