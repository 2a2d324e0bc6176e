"""Measurement operators A: what is seen of an image."""

from posterior.operators.base import LinearOperator, Operator, OperatorFamily
from posterior.operators.decoded import Decoded
from posterior.operators.dense import Dense, blocks_of, matrix_of
from posterior.operators.function import FunctionOperator, LinearFunctionOperator, operator_of
from posterior.operators.inpainting import BoxInpainting, Denoising, Inpainting, MaskInpainting, RandomInpainting
from posterior.operators.interferometry import EHTGains, EHTVisibilities, GainedVisibilities, Visibilities
from posterior.operators.motion_blur import GivenBlur, KernelBlur, MotionBlur
from posterior.operators.mri import CartesianMRI, MultiCoilFourier, UndersampledFourier
from posterior.operators.navier_stokes import Flow, NavierStokes
from posterior.operators.nonlinear_blur import EncodedBlur, KernelWizard, NonlinearBlur
from posterior.operators.nufft import GivenTrajectory, NonCartesianMRI, NonuniformFourier, Radial, Spiral, Trajectory
from posterior.operators.overlays import ScratchInpainting, TextInpainting
from posterior.operators.phase_retrieval import FourierAmplitude, PhaseRetrieval
from posterior.operators.saturation import SaturatedAverages, Saturation
from posterior.operators.scattering import InverseScattering, RingFields
from posterior.operators.separable import GaussianBlur, Separable, SuperResolution
from posterior.operators.tomography import FanBeam, ParallelBeam, RayTransform
from posterior.operators.transforms import GaussianSensing, MaskedTransform, SubsampledTransform
from posterior.operators.waveform import AcousticWaves, Seismograms

__all__ = [
    "AcousticWaves",
    "BoxInpainting",
    "CartesianMRI",
    "Decoded",
    "Denoising",
    "Dense",
    "EHTGains",
    "EHTVisibilities",
    "EncodedBlur",
    "FanBeam",
    "Flow",
    "FourierAmplitude",
    "FunctionOperator",
    "GainedVisibilities",
    "GaussianBlur",
    "GaussianSensing",
    "GivenBlur",
    "GivenTrajectory",
    "Inpainting",
    "InverseScattering",
    "KernelBlur",
    "KernelWizard",
    "LinearFunctionOperator",
    "LinearOperator",
    "MaskInpainting",
    "MaskedTransform",
    "MotionBlur",
    "MultiCoilFourier",
    "NavierStokes",
    "NonCartesianMRI",
    "NonlinearBlur",
    "NonuniformFourier",
    "Operator",
    "OperatorFamily",
    "ParallelBeam",
    "PhaseRetrieval",
    "Radial",
    "RandomInpainting",
    "RayTransform",
    "RingFields",
    "SaturatedAverages",
    "Saturation",
    "ScratchInpainting",
    "Seismograms",
    "Separable",
    "Spiral",
    "SubsampledTransform",
    "SuperResolution",
    "TextInpainting",
    "Trajectory",
    "UndersampledFourier",
    "Visibilities",
    "blocks_of",
    "matrix_of",
    "operator_of",
]
