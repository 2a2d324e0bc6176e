"""What a DataModule hands to the module, and what the module hands to its callbacks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from posterior.measurement import Measurement


@dataclass(frozen=True)
class Batch:
    """Measurements of B images.

    Args:
        ids: B image ids.
        seed: the run's seed; with the ids it fixes every random number.
        measurement: B rows; None in an empty batch.
        truth: the images (B, C, H, W) in [-1, 1], or None where nobody knows them.
    """

    ids: list[str]
    seed: int
    measurement: Measurement | None
    truth: Tensor | None


@dataclass(frozen=True)
class Prediction:
    """Samples of one batch and what was measured of them.

    Args:
        batch: what was sampled.
        samples: (K, B, C, H, W).
        records: one dictionary per image and sample, and per image one with sample "mean" if K > 1: ``id``, ``sample``,
            metric values, and for samples ``nfe_forward``, ``nfe_backward``, ``seconds``.
    """

    batch: Batch
    samples: Tensor
    records: list[dict[str, object]]
