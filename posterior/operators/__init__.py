"""Measurement operators A: what is seen of an image."""

from posterior.operators.base import LinearOperator, Operator, OperatorFamily
from posterior.operators.dense import Dense, matrix_of
from posterior.operators.inpainting import BoxInpainting, Inpainting, MaskInpainting, RandomInpainting
from posterior.operators.motion_blur import GivenBlur, KernelBlur, MotionBlur
from posterior.operators.nonlinear_blur import EncodedBlur, KernelWizard, NonlinearBlur
from posterior.operators.phase_retrieval import FourierAmplitude, PhaseRetrieval
from posterior.operators.separable import GaussianBlur, Separable, SuperResolution

__all__ = [
    "BoxInpainting",
    "Dense",
    "EncodedBlur",
    "FourierAmplitude",
    "GaussianBlur",
    "GivenBlur",
    "Inpainting",
    "KernelBlur",
    "KernelWizard",
    "LinearOperator",
    "MaskInpainting",
    "MotionBlur",
    "NonlinearBlur",
    "Operator",
    "OperatorFamily",
    "PhaseRetrieval",
    "RandomInpainting",
    "Separable",
    "SuperResolution",
    "matrix_of",
]
