"""Priors p(x), as denoisers in sigma units."""

from posterior.priors.base import ClosedFormPrior, Cost, Prior
from posterior.priors.diffusion import DiffusionPrior
from posterior.priors.gaussian import GaussianFieldPrior
from posterior.priors.local import LocalPrior, LocalUNet
from posterior.priors.mixture import GaussianMixturePrior
from posterior.priors.network import NetworkPrior
from posterior.priors.noise_schedule import CosineBetas, LinearBetas, NoiseSchedule, respaced_timesteps
from posterior.priors.perturbed import PerturbedPrior, ScoreError, ShellError
from posterior.priors.ring import RingPrior
from posterior.priors.score_network import ScoreNetworkPrior
from posterior.priors.unet import UNet

__all__ = [
    "ClosedFormPrior",
    "CosineBetas",
    "Cost",
    "DiffusionPrior",
    "GaussianFieldPrior",
    "GaussianMixturePrior",
    "LinearBetas",
    "LocalPrior",
    "LocalUNet",
    "NetworkPrior",
    "NoiseSchedule",
    "PerturbedPrior",
    "Prior",
    "RingPrior",
    "ScoreError",
    "ScoreNetworkPrior",
    "ShellError",
    "UNet",
    "respaced_timesteps",
]
