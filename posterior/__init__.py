"""Posterior sampling with diffusion priors: draw samples of p(x | y), y = A x + noise, and prove that they are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posterior.batch import Batch, Prediction
    from posterior.errors import UserError
    from posterior.measurement import Measurement
    from posterior.noise_level import NoiseLevel, estimate_sigma
    from posterior.random import Streams, stream
    from posterior.sampling import PosteriorSamples, sample

__version__ = "0.2.0"

__all__ = [
    "Batch",
    "Measurement",
    "NoiseLevel",
    "PosteriorSamples",
    "Prediction",
    "Streams",
    "UserError",
    "estimate_sigma",
    "sample",
    "stream",
]

HOMES = {
    "Batch": "posterior.batch",
    "Measurement": "posterior.measurement",
    "NoiseLevel": "posterior.noise_level",
    "PosteriorSamples": "posterior.sampling",
    "Prediction": "posterior.batch",
    "Streams": "posterior.random",
    "UserError": "posterior.errors",
    "estimate_sigma": "posterior.noise_level",
    "sample": "posterior.sampling",
    "stream": "posterior.random",
}
"""Where the names of this package are defined; imported when asked for, so that `--help` does not wait for torch."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
