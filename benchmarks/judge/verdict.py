"""What tests have found, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from benchmarks.judge.problems import Case, Problem
from benchmarks.judge.running import ExactSets, Sampled, Sizes
from benchmarks.judge.statistics import (
    BANDS,
    PICTURE,
    Finding,
    Measured,
    bands,
    coverage_test,
    holm,
    inside,
    rank_tests,
    spread_test,
    two_sample,
)
from posterior.random import stream

LEVEL = 0.01
"""Probability of refuting an exact sampler, over all its tests on all problems."""
SAME = 1e-3
"""Ratio of standard deviations below which samples of one measurement are the same."""
CLIP_SHARE = 1e-3
"""Share of exact numbers outside [-1, 1] from which clipping is worth a word."""
FEWEST_MEASUREMENTS, FEWEST_PAIRS = 2, 10
ENOUGH_TO_TRIM = 15
"""Samples of a pair from which a second interval is looked at, without the least and the greatest."""

PLACES = {
    "measured": "where y sees",
    "unmeasured": "where y does not see",
    "within modes": "within modes",
    "all directions alike": "over all directions alike",
    "coarse scales": "at coarse scales",
    "middle scales": "at middle scales",
    "fine scales": "at fine scales",
}
"""Views of a width, in words, the ones that are said first before the others."""


@dataclass
class Judged:
    """A sampler on a problem.

    Args:
        problem: its name.
        tells: what it shows.
        findings: of all tests.
        corrected: their p-values after Holm's correction over all problems of the sampler (`correct`).
        level: of a single test after correction, at which power is stated.
        diverged, total: measurements with a chain that is not finite, of how many.
        deterministic: whether all samples of a measurement are the same.
        clipped: share of the posterior's numbers outside [-1, 1], if the sampler never leaves it; else 0.
        forward, backward: calls a sample.
        seconds: a sample.
        ranks: functional -> ranks.
        ranked: K.
        shown: samples and exact ones of the first measurement, for the picture.
        failure: why it could not be judged, if it could not.
        held: what is ranked among samples, in words.
    """

    problem: str
    tells: str
    findings: list[Finding] = field(default_factory=list)
    corrected: list[float] = field(default_factory=list)
    level: float = LEVEL
    diverged: int = 0
    total: int = 0
    deterministic: bool = False
    clipped: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0
    ranks: dict[str, np.ndarray] = field(default_factory=dict)
    ranked: int = 0
    shown: tuple[Tensor, Tensor] | None = None
    failure: str | None = None
    held: str = "the truth"

    @property
    def refuted(self) -> bool:
        """Whether something is wrong, at the level of all tests together."""
        return bool(self.diverged) or self.deterministic or any(p < LEVEL for p in self.corrected)

    def of(self, kind: str, only_refuted: bool = True) -> list[Finding]:
        """Findings of a kind, in the order of what is worth saying first."""
        pairs = zip(self.findings, self.corrected, strict=True)
        found = [one for one, p in pairs if one.kind == kind and (p < LEVEL or not only_refuted)]
        if kind == "width":
            order = list(PLACES)
            found.sort(key=lambda one: (-abs(math.log(max(one.effect, 1e-9))), order.index(one.where)))
        return found

    def verdict(self) -> str:
        """A sentence: what is wrong, or what would have been found."""
        if self.failure is not None:
            return f"Not judged: {self.failure}"
        said = []
        if self.diverged:
            said.append(f"diverged on {self.diverged} of {self.total} measurements")
        if self.deterministic:
            said.append("the same sample every time: no distribution at all")
        elif widths := self.of("width"):
            said.append(_widths(widths))
        if shares := self.of("shares"):
            said.append(f"modes in wrong shares, off by {_span(shares[0])}")
        if shifts := self.of("shift"):
            worst = max(shifts, key=lambda one: one.effect)
            said.append(f"shifted by {_span(worst)} std" + (f", {worst.where}" if worst.where else ""))
        if (coverage := self.of("coverage")) and not self.deterministic:
            said.append(
                f"{coverage[0].more['nominal']:.0%} intervals hold {self.held} {_span(coverage[0])} of the time"
            )
        if (spread := self.of("spread")) and not self.deterministic:
            worst = max(spread, key=lambda one: abs(math.log(max(one.effect, 1e-9))))
            where = f" {PLACES[worst.where]}" if worst.where else ""
            said.append(f"the error of the mean{where} is {_span(worst)} of what the spread says")
        if (scores := self.of("score")) and not self.deterministic:
            said.append(f"the {scores[-1].test} of {self.held} is {_span(scores[-1])} of what any sample has")
        if (pixels := self.of("pixels")) and not self.deterministic:
            said.append(f"{pixels[0].test} are off by {_span(pixels[0])}")
        compared = any(self.of(kind) for kind in ("width", "shares", "shift"))
        if not (compared or self.diverged or self.deterministic) and (ranks := self.of("rank")):
            told = ", ".join(_rank(one) for one in ranks)
            said.append(f"{self.held} is not one of the samples: ranks of {told}")
        elif not said and self.of("distance"):
            said.append("differs from the posterior (MMD) in none of the ways that have a name here")
        if not said:
            return f"No difference found; {self.power()}"
        if self.clipped:
            said.append(
                f"its samples stay in [-1, 1], which {self.clipped:.1%} of the posterior's numbers leave: clipped"
            )
        text = "; ".join(said)
        return text[0].upper() + text[1:]

    def power(self) -> str:
        """What the tests would have found with probability 0.8."""
        found = []
        for one in self.findings:
            if one.reach is None:
                continue
            size = one.reach(self.level)
            if one.kind == "width" and one.where in ("all directions alike", "unmeasured"):
                found.append(f"a width error of {size:.1%} {PLACES[one.where]}")
            elif one.kind == "coverage" and "a coverage" not in " ".join(found):
                found.append(f"a coverage off by {size:.2g}")
            elif one.kind == "score" and one.test == "energy score":
                found.append(f"an energy score off by {size:.1%}")
            elif one.kind == "pixels" and one.where == "pooled":
                found.append(f"ranks of all numbers off by {size:.2g}")
            elif one.kind == "shift":
                found.append(f"a shift of {size:.2g} std")
            elif one.kind == "shares":
                found.append(f"shares of two equal modes off by {size:.2g}")
        return f"this budget would have found {', or '.join(found)} with probability 0.8"


def _span(one: Finding) -> str:
    return f"{one.effect:.2f} ({one.low:.2f} to {one.high:.2f})"


def _widths(found: Sequence[Finding]) -> str:
    """The width that is furthest off, and the worst in the other direction if there is one."""
    first = found[0]
    parts = []
    for one in [first, *(other for other in found[1:] if (other.effect < 1) != (first.effect < 1))][:2]:
        kind = "too narrow" if one.effect < 1 else "too wide"
        parts.append(f"{kind}: {_span(one)} of the posterior's width {PLACES[one.where]}")
    return ", and ".join(parts)


def _rank(one: Finding) -> str:
    """A functional and the shape of its ranks."""
    centre, spread = one.more["off centre"], one.more["off in spread"]
    if abs(centre) > abs(spread):
        shape = "too low" if centre < 0 else "too high"
    else:
        shape = "too far out" if spread > 0 else "too central"
    return f"{one.where} ({shape})"


def correct(found: Sequence[Judged]) -> None:
    """Correct the p-values of one sampler's tests on all problems for their number."""
    values = holm([one.p for judged in found for one in judged.findings])
    tests, place = max(len(values), 1), 0
    for judged in found:
        judged.corrected = values[place : place + len(judged.findings)]
        judged.level = LEVEL / tests
        place += len(judged.findings)


def functionals(problem: Problem, cases: Sequence[Case], images: Tensor, seed: int) -> dict[str, Tensor]:
    """Numbers of the images of each pair, by which the truth is ranked among samples: name -> (R, P).

    Random directions, one a pair, of what y sees and of what it does not see; brightness; log prior; residual; distance
    to a random point (TARP: Lemos et al., "Sampling-based accuracy testing of posterior estimators", ICML 2023); of
    pictures also roughness and a random direction of each band of frequencies.

    Args:
        problem: whose.
        cases: P pairs.
        images: (R, P, C, H, W), R images of each pair.
        seed: of directions and points.
    """
    rows, flat = len(images), images.flatten(0, 1)
    found: dict[str, Tensor] = {}

    def along(name: str, z: Tensor, case: Case) -> Tensor:
        return z @ torch.randn(z.shape[1], generator=stream(seed, case.id, -1, f"direction {name}"))

    for place, case in enumerate(cases):
        for name, part in problem.parts(case).items():
            label = f"a direction {PLACES[name]}"
            found.setdefault(label, torch.full((rows, len(cases)), torch.nan))[:, place] = along(
                name, part(images[:, place]), case
            )
    found["brightness"] = flat.flatten(1).mean(dim=1).view(rows, -1)
    log_prior = problem.truth.log_prior(flat)
    if log_prior is not None:
        found["log prior"] = log_prior.view(rows, -1)
    found["residual"] = problem.batch(cases, seed).repeat(rows).residual_norm(flat).view(rows, -1)
    found["distance to a random point"] = (images - problem.references(cases, seed)).flatten(2).norm(dim=2)
    if min(images.shape[-2:]) >= PICTURE:
        across, down = (flat.diff(dim=axis).square().mean(dim=(1, 2, 3)) for axis in (-1, -2))
        found["roughness"] = (across + down).view(rows, -1)
        for place, name in enumerate(BANDS):
            z = bands(flat, place).view(rows, len(cases), -1)
            draws = [stream(seed, case.id, -1, f"direction {name}") for case in cases]
            directions = torch.stack([torch.randn(z.shape[2], generator=draw) for draw in draws]).double()
            found[f"a direction of {name} scales"] = torch.einsum("rpj,pj->rp", z, directions)
    return found


def ranks_along(values: Tensor, name: str, pairs: Sequence[Case], seed: int) -> np.ndarray:
    """How many of a pair's samples lie below the truth along a functional, at random among those that are equal.

    Args:
        values: of the functional, (K + 1, P), the truth's in row 0.
        name: of the functional.
        pairs: P of them.
        seed: of the order of equal values; a functional that says yes or no has many.
    """
    below, equal = (values[1:] < values[0]).sum(dim=0), (values[1:] == values[0]).sum(dim=0)
    draws = [float(torch.rand((), generator=stream(seed, case.id, -1, f"rank of {name}"))) for case in pairs]
    among = torch.tensor(draws, dtype=torch.float64) * (equal + 1)
    return (below + among.long()).numpy()


def ranks_of(
    problem: Problem, pairs: Sequence[Case], ranked: Sequence[Tensor], seed: int, together: int = 64
) -> dict[str, np.ndarray]:
    """How many of a pair's samples lie below the truth, by functional; of those that equal it, a random share.

    Args:
        problem: whose.
        pairs: P of them.
        ranked: samples of each, (K, C, H, W).
        seed: of the functionals.
        together: pairs at a time.
    """
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(pairs), together):
        cases = pairs[start : start + together]
        truths = torch.cat([case.truth for case in cases])
        images = torch.cat([truths[None], torch.stack(list(ranked[start : start + together]), dim=1)])
        for name, values in functionals(problem, cases, images, seed).items():
            found.setdefault(name, []).append(ranks_along(values, name, cases, seed))
    return {name: np.concatenate(values) for name, values in found.items()}


def interval_tests(pairs: Sequence[Case], ranked: Sequence[Tensor], together: int = 64) -> list[Finding]:
    """Coverage of the widest intervals, and of the next ones if there are enough samples; error over spread."""
    truths = torch.cat([case.truth for case in pairs])
    images = torch.cat([truths[None], torch.stack(list(ranked), dim=1)])
    trims = [0, 1] if len(ranked[0]) >= ENOUGH_TO_TRIM else [0]
    found = []
    for trim in trims:
        order = torch.Generator().manual_seed(trim)  # one for all pairs: their ties must not fall alike
        parts = [inside(images[:, start : start + together], order, trim) for start in range(0, len(pairs), together)]
        found.append(coverage_test(torch.cat(parts, dim=1), trim))
    return [*found, spread_test(images)]


def begun(sampled: Sampled, sizes: Sizes) -> Judged:
    """What there is to say of samples before any test: divergence and cost."""
    problem, rows = sampled.problem, max(sampled.rows, 1)
    return Judged(
        problem.name,
        problem.tells,
        diverged=len(sampled.diverged),
        total=sampled.total,
        forward=sampled.forward / rows,
        backward=sampled.backward / rows,
        seconds=sampled.seconds / rows,
        ranked=sizes.ranked,
    )


def judge_samples(sampled: Sampled, exact: ExactSets, sizes: Sizes) -> Judged:
    """All tests of a sampler's samples on a problem; p-values are not corrected yet (`correct`)."""
    problem, judged = sampled.problem, begun(sampled, sizes)
    if len(sampled.cases) >= FEWEST_MEASUREMENTS:
        measured = []
        for case, samples in zip(sampled.cases, sampled.samples, strict=True):
            one = exact.of(problem, case, sizes)
            measured.append(Measured(samples, one.sets, one.ratio(samples), problem.parts(case), problem.truth.modes))
        judged.findings = two_sample(measured)
        whole = next(one for one in judged.findings if one.where == "all directions alike")
        judged.deterministic = whole.effect < SAME
        judged.clipped = _clipped(measured)
        judged.shown = (measured[0].samples, measured[0].exact[0])
    if len(sampled.pairs) >= FEWEST_PAIRS:
        judged.ranks = ranks_of(problem, sampled.pairs, sampled.ranked, exact.seed)
        judged.findings += rank_tests(judged.ranks, sizes.ranked)
        judged.findings += interval_tests(sampled.pairs, sampled.ranked)
        judged.deterministic |= judged.findings[-1].effect > 1 / SAME  # errors over next to no spread
    if not judged.findings and judged.diverged < judged.total:
        judged.failure = (
            f"too few measurements to conclude anything: {len(sampled.cases)} with exact samples, {len(sampled.pairs)} "
            f"for ranks; {FEWEST_MEASUREMENTS} or {FEWEST_PAIRS} are the least"
        )
    return judged


def _clipped(measured: Sequence[Measured]) -> float:
    """Share of the posterior's numbers outside [-1, 1], if samples end at that border and never beyond."""
    sizes = torch.cat([one.samples.abs().flatten() for one in measured])
    share = float(np.mean([float((x.abs() > 1).float().mean()) for one in measured for x in one.exact]))
    at_border = float((sizes > 1 - 1e-5).float().mean())
    return share if float(sizes.max()) <= 1 + 1e-5 and at_border > CLIP_SHARE and share > CLIP_SHARE else 0.0


def summary(found: Sequence[Judged]) -> str:
    """A sampler on all problems, in a sentence."""
    judged = [one for one in found if one.failure is None]
    failed = len(found) - len(judged)
    bad = [one for one in judged if one.refuted]
    told = f" ({failed} not judged)" if failed else ""
    if not judged:
        return f"Not judged{told}"
    if not bad:
        return f"No difference from the posterior found on any of {len(judged)} problems{told}"
    names = ", ".join(one.problem for one in bad)
    return f"Refuted on {len(bad)} of {len(judged)} problems: {names}{told}"
