"""Measurement operators A: what is seen of an image."""

from posterior.operators.base import LinearOperator, Operator, OperatorFamily
from posterior.operators.dense import Dense
from posterior.operators.inpainting import BoxInpainting, Inpainting, MaskInpainting, RandomInpainting
from posterior.operators.separable import GaussianBlur, Separable, SuperResolution

__all__ = [
    "BoxInpainting",
    "Dense",
    "GaussianBlur",
    "Inpainting",
    "LinearOperator",
    "MaskInpainting",
    "Operator",
    "OperatorFamily",
    "RandomInpainting",
    "Separable",
    "SuperResolution",
]
