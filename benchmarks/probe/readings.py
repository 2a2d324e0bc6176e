"""Faults that people make, each undone on its own: if a prior then denoises better, that was its fault."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Asked = Callable[[Tensor, float], tuple[Tensor, float]]
"""(x, sigma) -> what the prior is given in their place."""
Read = Callable[[Tensor, float, Tensor], Tensor]
"""(x, sigma, what the prior answers) -> D(x, sigma)."""


@dataclass(frozen=True)
class Reading:
    """A fault, and how it is undone.

    Args:
        fault: in words, the subject being the prior.
        remedy: what to do about it.
        asked: what the prior is given without the fault; readings that share it share the call.
        read: what its answer means without the fault.
    """

    fault: str
    remedy: str
    asked: Asked
    read: Read


OUTPUTS: Mapping[str, Callable[[float], tuple[float, float]]] = {
    "epsilon": lambda sigma: (1.0, -sigma),
    "x0": lambda sigma: (0.0, 1.0),
    "v": lambda sigma: (1 / (1 + sigma**2), -sigma / math.sqrt(1 + sigma**2)),
}
"""What a network of a VP schedule predicts -> (a, b) of D = a x + b F (`posterior.priors.DiffusionPrior`)."""
IN_WORDS = {"epsilon": "the noise (epsilon)", "x0": "the clean image (x0)", "v": "v"}


def as_it_is(x: Tensor, sigma: float) -> tuple[Tensor, float]:
    """The prior is given what there is."""
    return x, sigma


def answer(x: Tensor, sigma: float, denoised: Tensor) -> Tensor:
    """The prior's answer is D."""
    return denoised


def output_reading(read_as: str, is_: str) -> Reading:
    """A network's output that was taken for something else."""

    def read(x: Tensor, sigma: float, denoised: Tensor) -> Tensor:
        (a, b), (right_a, right_b) = OUTPUTS[read_as](sigma), OUTPUTS[is_](sigma)
        return right_a * x + right_b / b * (denoised - a * x)

    fault = f"its network predicts {IN_WORDS[is_]} and is read as if it predicted {IN_WORDS[read_as]}"
    return Reading(fault, f"set prediction to {is_}", as_it_is, read)


def level_reading(factor: float, told: str, remedy: str) -> Reading:
    """A prior that takes the noise to be 1 / factor times what it is."""
    fault = f"its noise levels are off by {told} (asked at sigma, it takes the noise to be {1 / factor:.3g} sigma)"
    return Reading(fault, remedy, lambda x, sigma: (x, factor * sigma), answer)


def betas_asked(power: float) -> Asked:
    """The same input and timestep of a VP network whose abar is a power of what it was trained with."""

    def asked(x: Tensor, sigma: float) -> tuple[Tensor, float]:
        grown = math.expm1(power * math.log1p(sigma**2))  # 1 + sigma^2 = 1 / abar
        return x * math.sqrt((1 + grown) / (1 + sigma**2)), math.sqrt(grown)

    return asked


def betas_reading(asked: Asked, output: str, told: str) -> Reading:
    """A VP schedule with other betas than in training, of a network that predicts ``output``."""

    def read(x: Tensor, sigma: float, denoised: Tensor) -> Tensor:
        given, level = asked(x, sigma)
        (a, b), (right_a, right_b) = OUTPUTS[output](level), OUTPUTS[output](sigma)
        return right_a * x + right_b / b * (denoised - a * given)

    fault = f"the betas of its noise schedule, the variances of its steps, are {told} those of its training"
    return Reading(fault, "give the schedule of its training", asked, read)


SCALES = "a standard deviation of images in [0, 1] is twice as large in [-1, 1]"
VARIANCES = "look for a variance that is taken twice, or half of it"


def _readings() -> dict[str, Reading]:
    twice, half = betas_asked(2.0), betas_asked(0.5)
    return {
        "sigma doubled": level_reading(0.5, "a factor 2", SCALES),
        "sigma halved": level_reading(2.0, "a factor 2", SCALES),
        "variance doubled": level_reading(0.5**0.5, "a factor 2 in the variance", VARIANCES),
        "variance halved": level_reading(2**0.5, "a factor 2 in the variance", VARIANCES),
        **{f"betas doubled ({name})": betas_reading(twice, name, "twice") for name in OUTPUTS},
        **{f"betas halved ({name})": betas_reading(half, name, "half of") for name in OUTPUTS},
        "range": Reading(
            "its network is for images in [0, 1] and is given ones in [-1, 1]",
            "put posterior.priors.RescaledPrior around it",
            lambda x, sigma: ((x + 1) / 2, sigma / 2),
            lambda x, sigma, denoised: 2 * denoised - 1,
        ),
        "channels": Reading(
            "its channels are in reverse order, BGR for RGB",
            "reverse the channels of its images",
            lambda x, sigma: (x.flip(1), sigma),
            lambda x, sigma, denoised: denoised.flip(1),
        ),
        **{f"{is_} read as {taken}": output_reading(taken, is_) for is_, taken in itertools.permutations(OUTPUTS, 2)},
    }


READINGS: Mapping[str, Reading] = _readings()
"""Name -> fault."""
