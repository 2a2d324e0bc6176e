"""Posterior sampling with diffusion priors: draw samples of p(x | y), y = A x + noise, and prove that they are."""

from posterior.batch import Batch, Prediction
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.random import Streams, stream

__version__ = "0.2.0"

__all__ = ["Batch", "Measurement", "Prediction", "Streams", "UserError", "stream"]
