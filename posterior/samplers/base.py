"""The sampler interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams

Observer = Callable[[str, int, int, Tensor], None]
"""Called after each step with (stage, step from 1, number of steps, state (R, C, H, W))."""


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
            Samples (R, C, H, W), not clipped unless a field says so.

        Raises:
            UserError: naming image and stage, if a chain is no longer finite.
        """


def check_finite(x: Tensor, rng: Streams, stage: str) -> Tensor:
    """x, unless no image has a finite chain any more: then the settings are wrong, and going on is a waste.

    Single images with a chain that is not finite are named at the end (`PosteriorSampling`). This waits for the device,
    so it is called once a stage, not once a step.

    Raises:
        UserError: naming stage and images.
    """
    if not (reasons := not_finite(x, rng, stage)) or len(reasons) < len({image_id for image_id, _ in rng.rows}):
        return x
    first = next(iter(reasons.values()))
    raise UserError(first if len(reasons) == 1 else f"{first} (and so in all {len(reasons)} images of the batch)")


def not_finite(x: Tensor, rng: Streams, stage: str) -> dict[str, str]:
    """Images with a chain that is not finite: id -> one line that says which chain, where, and what to try."""
    finite = torch.isfinite(x.flatten(1)).all(dim=1).tolist()
    reasons: dict[str, str] = {}
    for (image_id, sample), good in zip(rng.rows, finite, strict=True):
        if not good:
            reasons.setdefault(
                image_id,
                f"image {image_id}, sample {sample}: NaN or infinite values in {stage}; "
                "try a smaller step size or scale, and check the prior's checkpoint",
            )
    return reasons
