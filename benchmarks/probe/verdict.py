"""What the measurements of a prior mean, in words.

Thresholds hold with room to spare for exact priors (Gaussian field, mixture, digits) and for the learned ones that ship
(docs/probe.md has their numbers); a finding counts only where its whole interval is beyond.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.probe.measures import Chain, Estimate, Level, Measured, Safety
from benchmarks.probe.readings import READINGS

NAMED = -0.02
"""Change of log squared error: a fault whose undoing does more is named."""
WORSE = 1.05
"""Ratio of squared errors, to the linear denoiser's."""
BIASED = 0.25
"""Share of what is taken away that should have stayed, or the other way round."""
ASYMMETRIC = 0.6
"""Of 0.71, which a random matrix has; small networks have 0.2 to 0.5."""
NEGATIVE = -0.5
"""Of the smallest eigenvalue of a covariance over sigma^2."""
DRIFTING = 0.1
"""Of the squared error."""
DEPENDENT = 1e-3
"""Of the largest number of D."""
IMPRECISE = 0.05
"""Of the squared error."""
OUTSIDE = 0.1
"""Share of numbers."""
STAYS = 0.03, 0.06
"""How far |x - D|^2 and the distance to the images may move along a chain, as shares."""
SCALED = 0.1
"""Share by which a score may be too large where it is recommended."""
MOSTLY_ERROR = 0.5


@dataclass(frozen=True)
class Verdict:
    """What is concluded.

    Args:
        sound: nothing was found.
        sentence: the verdict; if something was found, the likeliest cause.
        fault: the known fault that it names, of `READINGS`.
        others: what else was found, and remarks.
        score_sigma: the lowest level at which the score can be trusted; None if that is at none, or nothing can be.
    """

    sound: bool
    sentence: str
    fault: str | None
    others: list[str]
    score_sigma: float | None


def verdict_on(measured: Measured, trained_here: bool = False) -> Verdict:
    """The verdict on a prior.

    Args:
        measured: what was found.
        trained_here: its settings are those of its training, so that no known fault of reading it can be the cause.
    """
    fault = None if trained_here else named_fault(measured.gains)
    found = list(faults(measured, fault))
    recommended = None if found else score_sigma(measured.chains)
    remarks = list(remarks_on(measured))
    if found:
        return Verdict(False, found[0], fault, [*found[1:], *remarks], None)
    ratios = [level.against_linear.value for level in measured.levels]
    sentence = (
        f"sound: its squared error is {min(ratios):.2g} to {max(ratios):.2g} times that of a linear denoiser fitted to "
        f"these images{'' if trained_here else ', and none of the known faults shows'}"
    )
    if recommended is not None:
        sentence = f"{sentence}; read its score at sigma >= {recommended:.2g}"
    return Verdict(True, sentence, None, remarks, recommended)


def named_fault(gains: dict[str, Estimate]) -> str | None:
    """The fault whose undoing makes the prior better, and most so."""
    better = {name: gain for name, gain in gains.items() if gain.high < NAMED}
    return min(better, key=lambda name: better[name].value) if better else None


def faults(measured: Measured, fault: str | None) -> Iterator[str]:
    """What is wrong, the likeliest cause first."""
    if measured.safety.not_finite:
        low, high = measured.safety.not_finite[0], measured.safety.not_finite[-1]
        yield f"broken: its denoised images hold NaN or infinite values at sigma {low:.3g} to {high:.3g}"
    if fault:
        less = -math.expm1(measured.gains[fault].value)
        reading = READINGS[fault]
        yield (
            f"not what it claims: most likely {reading.fault}; without that its squared error is {less:.0%} less; "
            f"{reading.remedy}"
        )
    yield from dependent(measured.safety)
    yield from inexact(measured.levels, fault)
    for jacobian in measured.jacobians:
        if jacobian.asymmetry.low > ASYMMETRIC:
            yield (
                f"no denoiser's mean: dD/dx is not symmetric at sigma {jacobian.sigma:.3g} (asymmetry "
                f"{jacobian.asymmetry.value:.2f}; 0.71 is that of a random matrix)"
            )
        if jacobian.smallest.high < NEGATIVE:
            yield (
                f"no denoiser's mean: dD/dx has an eigenvalue {jacobian.smallest.value:.2f} at sigma "
                f"{jacobian.sigma:.3g}, and a covariance has none below 0"
            )


def dependent(safe: Safety) -> Iterator[str]:
    """What D depends on beside its own image and level."""
    for gap, told in (
        (safe.again, "two calls with the same image differ (dropout that is not off?)"),
        (
            safe.alone,
            "an image's answer depends on its batch (batch normalisation, a norm over the batch?)",
        ),
        (safe.by_row, "one sigma for all images and the same sigma for each give different answers"),
    ):
        if gap > DEPENDENT:
            yield f"unusable as it is: {told}, by {gap:.2g} of its largest number"


def inexact(levels: Sequence[Level], fault: str | None) -> Iterator[str]:
    """Where D is not the mean of x0 given x."""
    worse = [level for level in levels if level.against_linear.low > WORSE]
    if worse:
        most = max(level.against_linear.value for level in worse)
        why = "" if fault else "; no known fault explains it: a network of other images, or hardly trained"
        yield f"worse than a linear denoiser: {most:.3g} times its squared error at {at(worse)}{why}"
    for told, biased in (
        ("much", [level for level in levels if level.bias.low > BIASED]),
        ("little", [level for level in levels if level.bias.high < -BIASED]),
    ):
        if biased:
            most = max(abs(level.bias.value) for level in biased)
            yield f"biased in the residual noise level: it takes away up to {most:.0%} too {told} at {at(biased)}"
    drifting = [level for level in levels if level.drift.low > DRIFTING]
    if drifting:
        most = max(level.drift.value for level in drifting)
        yield (
            f"at odds with itself: from one level to the next D drifts by up to {most:.0%} of its squared error at "
            f"{at(drifting)}"
        )


def remarks_on(measured: Measured) -> Iterator[str]:
    """What one should know, and is no fault."""
    safe = measured.safety
    if safe.beyond > OUTSIDE:
        yield f"up to {safe.beyond:.0%} of the numbers of its denoised images are outside of the images' range"
    for name, added in safe.low_precision.items():
        if added is not None and not added <= IMPRECISE:  # NaN, too
            told = "is not finite" if math.isnan(added) else f"adds {added:.0%} to its squared error"
            yield f"{name} is not safe: it {told} at some level"
    floor = score_floor(measured.chains)
    if floor is not None:
        yield f"below sigma {floor:.2g} its score is mostly error"
    if measured.chains and score_sigma(measured.chains) is None:
        yield "Langevin chains stay put at none of the levels that were tried"


def score_floor(chains: Sequence[Chain]) -> float | None:
    """The highest level at which half of the score, or more, is error; None if there is none."""
    bad = [chain.sigma for chain in chains if abs(chain.bias.value) > MOSTLY_ERROR]
    return max(bad, default=None)


def trusted(chain: Chain) -> bool:
    """Whether a Langevin chain may stay put at a level, and the score's size be right there."""
    moved, away = (abs(found.value - 1) - found.error for found in (chain.removed, chain.distance))
    return moved <= STAYS[0] and away <= STAYS[1] and abs(chain.bias.value) - chain.bias.error <= SCALED


def score_sigma(chains: Sequence[Chain]) -> float | None:
    """The lowest level from which on all that were tried can be trusted."""
    found = None
    for chain in sorted(chains, key=lambda chain: -chain.sigma):
        if not trusted(chain):
            break
        found = chain.sigma
    return found


def at(levels: Sequence[Level]) -> str:
    """Where they are, in words."""
    low, high = levels[0].sigma, levels[-1].sigma
    return f"sigma {low:.3g}" if low == high else f"sigma {low:.3g} to {high:.3g}"
