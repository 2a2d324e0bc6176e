"""The sampler interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from posterior import waits
from posterior.errors import Diverged, UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams

Observer = Callable[[str, int, int, Tensor], None]
"""Called after each step with (stage, step from 1, number of steps, state (R, C, H, W)).

Behind a comma a stage may say where in it the step is: ``annealed Langevin, level 120/300``.
"""


def unobserved(stage: str, step: int, total: int, x: Tensor) -> None:
    """The observer that looks away."""


class Sampler(ABC):
    """Draws samples of p(x | y). Settings are fields; a call keeps nothing.

    A subclass of a user's own goes into a config by its `class_path`.
    """

    @abstractmethod
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        """One sample per row of the measurement.

        Args:
            prior: p(x).
            measurement: R rows; several samples of one image are several rows (`Measurement.repeat`).
            rng: the R rows' random streams.
            observe: sees every state.

        Returns:
            Samples (R, C, H, W), float32, not clipped unless a field says so. A row with a value that is not finite
            costs its image.

        Raises:
            Diverged: naming images and stage, if no chain is finite any more and the rest would be a waste.
            UserError: if the settings do not fit prior or measurement; it stops the run.
        """


class Ending(ABC):
    """What leads a state at a noise level to an image: how a chain ends that reads its score above level 0."""

    @abstractmethod
    def from_level(
        self,
        prior: Prior,
        measurement: Measurement,
        x: Tensor,
        sigma: float,
        rng: Streams,
        observe: Observer = unobserved,
    ) -> Tensor:
        """Images (R, C, H, W) that x leads to.

        Args:
            prior: p(x).
            measurement: R rows.
            x: the state, x0 + sigma n, (R, C, H, W).
            sigma: its level, in the prior's range.
            rng: the R rows' random streams.
            observe: sees every state.
        """

    def check_level(self, prior: Prior, sigma: float) -> None:
        """What can be known before the chain that ends at this level.

        Raises:
            UserError: if the ending has nothing to do there.
        """
        if sigma <= 0:
            raise UserError(f"ending {type(self).__name__} needs a score_sigma above 0")


def check_finite(x: Tensor, rng: Streams, stage: str) -> Tensor:
    """x, with NaN for all of a row that is not finite; unless no image is left whose chains are.

    Such rows stay NaN to the end, where `PosteriorSampling` names their images: clipping would turn an infinite value
    into an ordinary one, and so would let an image pass in a batch that fails on its own. This waits for the device, so
    it is called once a stage, not once a step.

    Raises:
        Diverged: if every image has a chain that is not finite: to go on is a waste.
    """
    reasons = not_finite(x, rng, stage)
    if not reasons:
        return x
    if len(reasons) == len({image_id for image_id, _ in rng.rows}):
        raise Diverged(reasons)
    finite = torch.isfinite(x).flatten(1).all(dim=1).view(-1, *[1] * (x.ndim - 1))
    return torch.where(finite, x, torch.nan)


def clipped(denoised: Tensor) -> Tensor:
    """D in [-1, 1]; NaN where it is not finite, so that an overflow shows."""
    return denoised.clamp(-1, 1).where(denoised.isfinite(), torch.nan)


def not_finite(x: Tensor, rng: Streams, stage: str) -> dict[str, str]:
    """Images with a chain that is not finite: id -> one line that says which chain, where, and what to try."""
    finite = waits.fetch("finite?", torch.isfinite(x.flatten(1)).all(dim=1))
    reasons: dict[str, str] = {}
    for (image_id, sample), good in zip(rng.rows, finite, strict=True):
        if not good:
            reasons.setdefault(
                image_id,
                f"image {image_id}, sample {sample}: NaN or infinite values in {stage}; "
                "try a smaller step size or scale, and check the prior's checkpoint",
            )
    return reasons
