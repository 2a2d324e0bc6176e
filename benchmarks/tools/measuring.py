"""What samples cost, and how near they are to the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.metrics import L2, LPIPS, ImageMetric, Residual
from posterior.priors import Prior


@dataclass(frozen=True)
class Cost:
    """Of a sample: forward and backward calls of the prior, seconds of this machine."""

    forward: float
    backward: float
    seconds: float


def drawn(prior: Prior, draw: Callable[[], Tensor]) -> tuple[Tensor, Cost]:
    """Samples (R, C, H, W), and what one of them cost."""
    forward, backward, start = prior.cost.forward, prior.cost.backward, time.monotonic()
    x = draw()
    spent = (prior.cost.forward - forward, prior.cost.backward - backward, time.monotonic() - start)
    return x, Cost(*(value / len(x) for value in spent))


def face_metrics() -> dict[str, ImageMetric]:
    """What pictures of small faces are measured by.

    Raises:
        UserError: if LPIPS has no weights.
    """
    lpips = LPIPS("alex", upsample=2)
    if lpips.unavailable:
        raise UserError(lpips.unavailable)
    return {"l2": L2(), "lpips": lpips, "residual": Residual()}


def measured(
    metrics: Mapping[str, ImageMetric], samples: Tensor, truth: Tensor, measurement: Measurement
) -> dict[str, Tensor]:
    """Metrics of the first of samples (K, B, C, H, W) and, where there are several, of their mean (``NAME_of_mean``).

    Returns:
        Name -> a value an image, (B,).
    """
    found = {name: metric(samples[0], truth, measurement) for name, metric in metrics.items()}
    if len(samples) > 1:
        mean = samples.mean(dim=0)
        found |= {f"{name}_of_mean": metric(mean, truth, measurement) for name, metric in metrics.items()}
    return found
