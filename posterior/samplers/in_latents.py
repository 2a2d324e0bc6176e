"""Sampling in the latents of an autoencoder, for measurements of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace

import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.operators.decoded import Decoded
from posterior.priors.base import Prior
from posterior.priors.latent import LatentPrior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, unobserved


@dataclass(frozen=True)
class InLatents(Sampler):
    """Samples x = g(z): z of p(z | y) by another sampler, y = A g(z) + noise, g the decoder of a `LatentPrior`.

    Source: docs/method.md section 10. A g is not linear, even where A is. So the other sampler must be one for
    nonlinear operators: what needs a linear one (a proximal step, a projection, singular values) refuses before its
    first evaluation. Noise levels are in units of z, and observers see z.

    Args:
        sampler: of latents. It must clip nothing: latents have no bounds.

    Raises:
        UserError: if the sampler clips; on a call, if the prior is no `LatentPrior`.
    """

    sampler: Sampler

    def __post_init__(self) -> None:
        for name in clipping(self.sampler, "sampler"):
            raise UserError(f"InLatents: {name} is on, but latents have no bounds to clip to: set it to false")

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        if not isinstance(prior, LatentPrior):
            raise UserError(f"InLatents needs a LatentPrior, got {type(prior).__name__}")
        shape = prior.decoder.latent_shape(measurement.image_shape)
        decoded = replace(measurement, operator=Decoded(measurement.operator, prior.decoder, shape))
        z = self.sampler(prior.latents, decoded, rng, observe)
        finite = torch.isfinite(z).flatten(1).all(dim=1).view(-1, 1, 1, 1)  # a decoder may hide what is not
        with torch.no_grad():
            return torch.where(finite, prior.decoder(z), torch.nan)


def clipping(part: object, name: str) -> Iterator[str]:
    """The settings of a sampler and its parts that clip states or denoised images, by dotted name."""
    if not is_dataclass(part):
        return
    for one in fields(part):
        value, inner = getattr(part, one.name), f"{name}.{one.name}"
        if one.name.startswith("clip") and value is True:
            yield inner
        yield from clipping(value, inner)
