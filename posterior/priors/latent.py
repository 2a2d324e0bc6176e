"""Priors of latents: images are what a decoder makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from posterior.errors import UserError
from posterior.priors.base import Prior, digest
from posterior.priors.from_diffusers import DiffusersPrior, Scaling


class Decoder(nn.Module, ABC):
    """A frozen map g from latents z to images in [-1, 1], differentiable, each row by itself."""

    channels: int
    """Of the images."""
    latent_channels: int
    factor: int
    """Sides of an image over those of its latents."""
    scaling: Scaling | None = None
    """What z is, of the autoencoder's own latents; None: nobody says it."""

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Latents (B, c, h, w) as a prior has them -> images (B, C, factor h, factor w), not clipped."""

    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, int, int]:
        """(c, h, w) of the latents of images (C, H, W)."""
        return self.latent_channels, image_shape[-2] // self.factor, image_shape[-1] // self.factor


class LatentPrior(Prior):
    """Images x = g(z): a prior of latents z, and a decoder.

    `latents` is the denoiser D(z, sigma) = E[z0 | z0 + sigma n = z], and sigma is in units of z. There is no denoiser
    of images: the law of g(z) + sigma n is not known. So a sampler is asked for latents, by
    `posterior.samplers.InLatents`; all else is refused. Evaluations are those of `latents`.

    Source: Rombach et al., CVPR 2022, arXiv:2112.10752.

    Args:
        prior: of latents.
        decoder: g.

    Raises:
        UserError: if the decoder is for other latents: another number of channels, or, where the prior's own folder
            tells it, scaled otherwise.
    """

    def __init__(self, prior: Prior, decoder: Decoder) -> None:
        super().__init__()
        if prior.channels not in (None, decoder.latent_channels):
            raise UserError(
                f"LatentPrior: the prior is of {prior.channels} channels, the decoder's latents have "
                f"{decoder.latent_channels}: take the autoencoder that the prior was trained with"
            )
        trained = prior.scaling if isinstance(prior, DiffusersPrior) else None
        if trained is not None and decoder.scaling is not None and trained != decoder.scaling:
            raise UserError(
                f"LatentPrior: the prior was trained on latents {trained}, the decoder takes latents "
                f"{decoder.scaling}: take the autoencoder that the prior was trained with"
            )
        self.latents, self.decoder = prior, decoder.requires_grad_(False).eval()
        self.cost = prior.cost
        self.sigma_min, self.sigma_max = prior.sigma_min, prior.sigma_max
        self.channels, factor = decoder.channels, decoder.factor
        self.size = None if prior.size is None else (factor * prior.size[0], factor * prior.size[1])
        self.size_multiple = None if prior.size_multiple is None else factor * prior.size_multiple

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, None]:
        raise UserError(
            "LatentPrior has no denoiser of images, only one of latents: put the sampler into InLatents "
            "(sampler: {class_path: posterior.samplers.InLatents, init_args: {sampler: ...}})"
        )

    def content(self) -> str:
        return f"{self.latents.fingerprint()} {digest(self.decoder)}"
