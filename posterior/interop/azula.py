"""Our samplers for azula: a sampler over its denoiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from azula.denoise import Denoiser
from azula.sample import Sampler as AzulaSampler
from torch import Tensor

from posterior.errors import UserError
from posterior.interop.foreign import ForeignOperator
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.priors.from_azula import DenoiserPrior
from posterior.random import Streams
from posterior.samplers import ConditionalDescent, Sampler


class PosteriorSampler(AzulaSampler):
    """Samples of p(x | y), y = A x + sigma_y n, as azula asks for them: ``sampler(sampler.init(shape))``.

    Each call gives others, those that follow in the seed.

    Args:
        denoiser: azula's, of images (C, H, W) in units in which their numbers are about 1.
        y: (*, D): one measurement, or one a sample.
        A: linear and differentiable, (B, C, H, W) -> (B, D).
        sigma_y: noise level, > 0.
        sampler: any of ours that takes linear operators without a known basis; the one that ships by default.
        seed: of the random numbers, which are not torch's: sample k of a seed is always the same.

    Raises:
        UserError: if sigma_y <= 0 or y is a single number; on a call, if y does not fit A or the number of samples, or
            A is not linear.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        y: Tensor,
        A: Callable[[Tensor], Tensor],
        sigma_y: float,
        sampler: Sampler | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(silent=True)
        if y.ndim == 0:
            raise UserError("PosteriorSampler: y is (*, D), got a single number")
        self.denoiser, self.y, self.A, self.likelihood = denoiser, y, A, GaussianNoise(sigma_y)
        self.sampler, self.seed, self.drawn = sampler or ConditionalDescent(), seed, 0

    @torch.no_grad()
    def __call__(self, x: Tensor, **keywords: object) -> Tensor:
        """As many samples as x (B, C, H, W) has rows, on its device; its numbers are not used.

        Args:
            x: such as `init` gives.
            keywords: for the denoiser.
        """
        y = self.y.reshape(-1, self.y.shape[-1]).to(x)
        if len(y) not in (1, len(x)):
            told = "give one, or one a sample; y is (*, D), of A x that is flat"
            raise UserError(f"PosteriorSampler: {len(y)} measurements for {len(x)} samples: {told}")
        y = y.expand(len(x), -1)
        operator = ForeignOperator(self.A, x.shape[1:], y, "PosteriorSampler")
        measurement = Measurement(y.reshape(len(x), *operator.measurement_shape), operator, self.likelihood)
        rng = Streams(self.seed, ["azula"], device=x.device, samples=range(self.drawn, self.drawn + len(x)))
        self.drawn += len(x)
        return self.sampler(DenoiserPrior(self.denoiser, keywords), measurement, rng)
