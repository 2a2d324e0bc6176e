"""Measurement operators A: what is seen of an image."""

from posterior.operators.base import LinearOperator, Operator, OperatorFamily
from posterior.operators.dense import Dense, blocks_of, matrix_of
from posterior.operators.inpainting import BoxInpainting, Denoising, Inpainting, MaskInpainting, RandomInpainting
from posterior.operators.motion_blur import GivenBlur, KernelBlur, MotionBlur
from posterior.operators.mri import CartesianMRI, MultiCoilFourier, UndersampledFourier
from posterior.operators.nonlinear_blur import EncodedBlur, KernelWizard, NonlinearBlur
from posterior.operators.phase_retrieval import FourierAmplitude, PhaseRetrieval
from posterior.operators.saturation import SaturatedAverages, Saturation
from posterior.operators.separable import GaussianBlur, Separable, SuperResolution
from posterior.operators.transforms import GaussianSensing, MaskedTransform, SubsampledTransform

__all__ = [
    "BoxInpainting",
    "CartesianMRI",
    "Denoising",
    "Dense",
    "EncodedBlur",
    "FourierAmplitude",
    "GaussianBlur",
    "GaussianSensing",
    "GivenBlur",
    "Inpainting",
    "KernelBlur",
    "KernelWizard",
    "LinearOperator",
    "MaskInpainting",
    "MaskedTransform",
    "MotionBlur",
    "MultiCoilFourier",
    "NonlinearBlur",
    "Operator",
    "OperatorFamily",
    "PhaseRetrieval",
    "RandomInpainting",
    "SaturatedAverages",
    "Saturation",
    "Separable",
    "SubsampledTransform",
    "SuperResolution",
    "UndersampledFourier",
    "blocks_of",
    "matrix_of",
]
