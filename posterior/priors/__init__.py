"""Priors p(x), as denoisers in sigma units."""

from posterior.priors.autoencoders import DiffusersDecoder
from posterior.priors.base import ClosedFormPrior, Cost, Prior
from posterior.priors.diffusion import DiffusionPrior
from posterior.priors.edm import EDMPrior
from posterior.priors.edm2_network import EDM2UNet
from posterior.priors.edm_networks import DhariwalUNet, SongUNet
from posterior.priors.empirical import EmpiricalPrior
from posterior.priors.flow import FlowPrior
from posterior.priors.from_azula import AzulaPrior
from posterior.priors.from_diffusers import DiffusersPrior
from posterior.priors.gaussian import GaussianFieldPrior
from posterior.priors.latent import Decoder, LatentPrior
from posterior.priors.local import LocalPrior, LocalUNet
from posterior.priors.mixture import GaussianMixturePrior
from posterior.priors.network import NetworkPrior
from posterior.priors.noise_schedule import CosineBetas, LinearBetas, NoiseSchedule, respaced_timesteps
from posterior.priors.perturbed import PerturbedPrior, ScoreError, ShellError
from posterior.priors.ring import RingPrior
from posterior.priors.score_network import ScoreNetworkPrior
from posterior.priors.unet import UNet
from posterior.priors.wrapped import ChannelwisePrior, RescaledPrior

__all__ = [
    "AzulaPrior",
    "ChannelwisePrior",
    "ClosedFormPrior",
    "CosineBetas",
    "Cost",
    "Decoder",
    "DhariwalUNet",
    "DiffusersDecoder",
    "DiffusersPrior",
    "DiffusionPrior",
    "EDM2UNet",
    "EDMPrior",
    "EmpiricalPrior",
    "FlowPrior",
    "GaussianFieldPrior",
    "GaussianMixturePrior",
    "LatentPrior",
    "LinearBetas",
    "LocalPrior",
    "LocalUNet",
    "NetworkPrior",
    "NoiseSchedule",
    "PerturbedPrior",
    "Prior",
    "RescaledPrior",
    "RingPrior",
    "ScoreError",
    "ScoreNetworkPrior",
    "ShellError",
    "SongUNet",
    "UNet",
    "respaced_timesteps",
]
