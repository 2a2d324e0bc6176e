"""Samplers of p(x | y). Each takes a prior, a measurement and random streams."""

from posterior.samplers.annealed import AnnealedMeasurement, AnnealedSampler, Target
from posterior.samplers.annealed_langevin import AnnealedLangevin
from posterior.samplers.base import Ending, Observer, Sampler, check_finite, not_finite, unobserved
from posterior.samplers.conditional import ConditionalDenoiser, ConditionalDescent
from posterior.samplers.daps import DAPS
from posterior.samplers.ddnm import DDNMPlus
from posterior.samplers.ddrm import DDRM
from posterior.samplers.diffpir import DiffPIR
from posterior.samplers.dps import DPS, MCG, DPSPlus, Projection
from posterior.samplers.exact import ExactGaussian
from posterior.samplers.exact_empirical import EmpiricalPosterior, ExactEmpirical, posterior_of
from posterior.samplers.exact_mixture import ExactMixture, MixturePosterior
from posterior.samplers.filtered_back_projection import FilteredBackProjection
from posterior.samplers.fps_smc import FPSSMC
from posterior.samplers.in_latents import InLatents
from posterior.samplers.jfps import JFPS
from posterior.samplers.kinetic import KineticLangevin
from posterior.samplers.lasso import Lasso
from posterior.samplers.lgd import LGD
from posterior.samplers.likelihood_steps import (
    ExactLikelihoodStep,
    HamiltonianSteps,
    LangevinSteps,
    LikelihoodStep,
    MetropolisSteps,
)
from posterior.samplers.mcg_diff import MCGDiff
from posterior.samplers.mmps import MMPS
from posterior.samplers.pigdm import PiGDM
from posterior.samplers.pnp_dm import EulerMaruyama, PnPDM
from posterior.samplers.proximal import ProximalDenoising
from posterior.samplers.randomised_likelihood import RandomisedMaximumLikelihood
from posterior.samplers.red_diff import REDDiff
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
    KarrasSigmas,
    Level,
    ListedSigmas,
    NoAnnealing,
    PublishedAnnealing,
    QuadraticSigmas,
    RespacedSigmas,
    SigmaSchedule,
)
from posterior.samplers.tds import TDS
from posterior.samplers.total_variation import TotalVariation

__all__ = [
    "DAPS",
    "DDIM",
    "DDRM",
    "DPS",
    "FPSSMC",
    "JFPS",
    "LGD",
    "MCG",
    "MMPS",
    "TDS",
    "AdmissibleAnnealing",
    "Ancestral",
    "AnnealedLangevin",
    "AnnealedMeasurement",
    "AnnealedSampler",
    "AnnealingSchedule",
    "ConditionalDenoiser",
    "ConditionalDescent",
    "DDNMPlus",
    "DPSPlus",
    "DiffPIR",
    "EmpiricalPosterior",
    "Ending",
    "EulerMaruyama",
    "ExactEmpirical",
    "ExactGaussian",
    "ExactLikelihoodStep",
    "ExactMixture",
    "FilteredBackProjection",
    "GeometricAnnealing",
    "GeometricSigmas",
    "HamiltonianSteps",
    "InLatents",
    "KarrasSigmas",
    "KineticLangevin",
    "LangevinSteps",
    "Lasso",
    "Level",
    "LikelihoodStep",
    "ListedSigmas",
    "MCGDiff",
    "MetropolisSteps",
    "MixturePosterior",
    "NoAnnealing",
    "Observer",
    "PiGDM",
    "PnPDM",
    "Projection",
    "ProximalDenoising",
    "PublishedAnnealing",
    "QuadraticSigmas",
    "REDDiff",
    "RandomisedMaximumLikelihood",
    "RespacedSigmas",
    "ReverseDiffusion",
    "ReverseStep",
    "Sampler",
    "SecondOrderAncestral",
    "SigmaSchedule",
    "Target",
    "TotalVariation",
    "check_finite",
    "initial_noise",
    "not_finite",
    "posterior_of",
    "unobserved",
]
