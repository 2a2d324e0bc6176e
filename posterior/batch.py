"""What a DataModule hands to the module, and what the module hands to its callbacks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
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
        failed: id -> reason, of images that could not be measured and are not in the batch.
        inputs: id -> digest of what was read for it.
        units: id -> numbers that turn its samples into the units of what was recorded, where these differ.
    """

    ids: list[str]
    seed: int
    measurement: Measurement | None
    truth: Tensor | None
    failed: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    units: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def keep(self, rows: list[int]) -> Batch:
        """The images ``rows`` of a batch that is not empty."""
        assert self.measurement is not None
        index = torch.tensor(rows, dtype=torch.long, device=self.measurement.y.device)
        truth = None if self.truth is None else self.truth[index]
        return replace(self, ids=[self.ids[row] for row in rows], measurement=self.measurement.rows(index), truth=truth)


@dataclass(frozen=True)
class Prediction:
    """Samples of one batch and what was measured of them.

    Args:
        batch: what was sampled (without the images that failed).
        samples: (K, B, C, H, W).
        records: one dictionary per image and sample, and per image one with sample "mean" if K > 1 ("best" and "oracle"
            if they are picked): ``id``, ``sample``, metric values, for samples ``nfe_forward``, ``nfe_backward``,
            ``seconds``, and for picked ones ``picked``, the sample's number.
        failed: id -> reason, of images that have no samples.
    """

    batch: Batch
    samples: Tensor
    records: list[dict[str, object]]
    failed: dict[str, str]
