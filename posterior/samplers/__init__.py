"""Samplers of p(x | y). Each takes a prior, a measurement and random streams."""

from posterior.samplers.annealed import AnnealedMeasurement, AnnealedSampler, Target
from posterior.samplers.annealed_langevin import AnnealedLangevin
from posterior.samplers.base import Observer, Sampler, check_finite, not_finite, unobserved
from posterior.samplers.conditional import ConditionalDenoiser, ConditionalDescent
from posterior.samplers.dps import DPS, MCG, DPSPlus, Projection
from posterior.samplers.exact import ExactGaussian
from posterior.samplers.exact_mixture import ExactMixture, MixturePosterior
from posterior.samplers.kinetic import KineticLangevin
from posterior.samplers.lasso import Lasso
from posterior.samplers.proximal import ProximalDenoising
from posterior.samplers.reverse_diffusion import (
    DDIM,
    Ancestral,
    ReverseDiffusion,
    ReverseStep,
    SecondOrderAncestral,
    initial_noise,
)
from posterior.samplers.schedules import (
    AdmissibleAnnealing,
    AnnealingSchedule,
    GeometricAnnealing,
    GeometricSigmas,
    Level,
    ListedSigmas,
    NoAnnealing,
    PublishedAnnealing,
    RespacedSigmas,
    SigmaSchedule,
)

__all__ = [
    "DDIM",
    "DPS",
    "MCG",
    "AdmissibleAnnealing",
    "Ancestral",
    "AnnealedLangevin",
    "AnnealedMeasurement",
    "AnnealedSampler",
    "AnnealingSchedule",
    "ConditionalDenoiser",
    "ConditionalDescent",
    "DPSPlus",
    "ExactGaussian",
    "ExactMixture",
    "GeometricAnnealing",
    "GeometricSigmas",
    "KineticLangevin",
    "Lasso",
    "Level",
    "ListedSigmas",
    "MixturePosterior",
    "NoAnnealing",
    "Observer",
    "Projection",
    "ProximalDenoising",
    "PublishedAnnealing",
    "RespacedSigmas",
    "ReverseDiffusion",
    "ReverseStep",
    "Sampler",
    "SecondOrderAncestral",
    "SigmaSchedule",
    "Target",
    "check_finite",
    "initial_noise",
    "not_finite",
    "unobserved",
]
