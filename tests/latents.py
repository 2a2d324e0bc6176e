"""A prior of latents whose posterior is known: a Gaussian, and a decoder that is linear."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior.priors import Decoder, GaussianMixturePrior, LatentPrior

LATENT_SHAPE, IMAGE_SHAPE = (2, 2, 2), (3, 4, 4)


class LinearDecoder(Decoder):
    """x = W z + b, of 8 numbers to 48."""

    channels, latent_channels, factor = 3, 2, 2

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("weight", 0.3 * torch.randn(48, 8, generator=generator))
        self.register_buffer("bias", 0.1 * torch.randn(48, generator=generator))

    def forward(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.weight.T + self.bias).view(-1, *IMAGE_SHAPE)


def gaussian() -> tuple[Tensor, Tensor]:
    """Mean (8,) and covariance (8, 8) of the latents."""
    generator = torch.Generator().manual_seed(4)
    factor = torch.randn(8, 8, generator=generator) / 8**0.5
    return torch.randn(8, generator=generator), factor @ factor.T + 0.2 * torch.eye(8)


def gaussian_latents() -> LatentPrior:
    mean, covariance = gaussian()
    prior = GaussianMixturePrior.full(torch.ones(1), mean.view(1, *LATENT_SHAPE), covariance[None])
    return LatentPrior(prior, LinearDecoder())
