"""deepinv's DPS, DDRM and DiffPIR. Its images are in [0, 1], u = (x + 1) / 2, and levels are half of ours."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from deepinv.models import Reconstructor
from deepinv.optim import L2
from deepinv.physics import DecomposablePhysics, GaussianNoise
from deepinv.sampling import DDRM, DPS, DiffPIR
from torch import Tensor, nn

from benchmarks.theirs.base import TheirSampler, denoised
from posterior.checks import real
from posterior.priors.base import Prior
from posterior.samplers.spectrum import Spectrum


class UnitDenoiser(nn.Module):
    """A prior of ours as deepinv asks its denoisers, of images u in [0, 1] with noise of level s.

    Args:
        prior: of images in [-1, 1].
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, u: Tensor, sigma: float | Tensor) -> Tensor:
        """The mean of u (B, C, H, W) given itself with noise; sigma is a number or has one for each image."""
        return (denoised(self.prior, 2 * u - 1, 2 * sigma) + 1) / 2


class DeepinvSampler(TheirSampler):
    """A sampler of deepinv's. With y = S V^T x + sigma_y n there is (y + S V^T 1) / 2 = S V^T u + sigma_y / 2 n."""

    @abstractmethod
    def model(self, denoiser: UnitDenoiser, device: torch.device) -> Reconstructor:
        """Theirs, with its defaults."""

    def samples(self, prior: Prior, known: Spectrum) -> Tensor:
        y = known.s * (known.ybar + known.analyse(torch.ones_like(known.ybar))) / 2
        physics = DecomposablePhysics(
            V_adjoint=known.analyse,
            V=known.synthesise,
            mask=known.s[:1],
            img_size=tuple(y.shape[1:]),
            device=y.device,
            noise_model=GaussianNoise(known.sigma_y / 2),
        )
        return 2 * self.model(UnitDenoiser(prior), y.device)(y, physics) - 1


@dataclass(frozen=True)
class DeepinvDPS(DeepinvSampler):
    """deepinv's DPS: 1000 steps of variance-preserving DDPM, clipped to u in [-1, 1] within the guidance.

    Args:
        weight: of the gradient of ||y - A D||, > 0; theirs is 1, and the hundreds by what their documentation
            says.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        real("DeepinvDPS", "weight", self.weight, above=0)

    def model(self, denoiser: UnitDenoiser, device: torch.device) -> Reconstructor:
        return DPS(denoiser, weight=self.weight, device=device)


@dataclass(frozen=True)
class DeepinvDDRM(DeepinvSampler):
    """deepinv's DDRM: 100 levels from 1 to 0 in [0, 1], eta 0.85, eta_b 1; its noise is divided by the root of 2."""

    def model(self, denoiser: UnitDenoiser, device: torch.device) -> Reconstructor:
        return DDRM(denoiser)


@dataclass(frozen=True)
class DeepinvDiffPIR(DeepinvSampler):
    """deepinv's DiffPIR: 100 steps, x0 clipped to [-1, 1].

    Args:
        lam: > 0, the weight of D against y, their ``lambda_``.
        zeta: in [0, 1], the share of fresh noise.
    """

    lam: float = 7.0
    zeta: float = 0.1

    def __post_init__(self) -> None:
        real("DeepinvDiffPIR", "lam", self.lam, above=0)
        real("DeepinvDiffPIR", "zeta", self.zeta, least=0, most=1)

    def model(self, denoiser: UnitDenoiser, device: torch.device) -> Reconstructor:
        return DiffPIR(denoiser, L2(), zeta=self.zeta, lambda_=self.lam, device=device)
