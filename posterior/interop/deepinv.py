"""Our samplers for deepinv: a reconstructor, and a prior made of one of its denoisers."""

from __future__ import annotations

from deepinv.models import Reconstructor
from deepinv.physics import GaussianNoise as Noise
from deepinv.physics import LinearPhysics
from torch import Tensor, nn

from posterior import waits
from posterior.errors import UserError
from posterior.interop.foreign import ForeignOperator
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers import ConditionalDescent, Sampler


class PosteriorReconstructor(Reconstructor):
    """A sample of p(x | y) as deepinv asks for it: ``model(y, physics)``, images in [0, 1].

    Ours are in [-1, 1], x = 2 u - 1: with y = A u + s n there is 2 y - A 1 = A x + 2 s n.

    Args:
        prior: p(x), of images in [-1, 1]; for a denoiser of deepinv's, `DenoiserPrior`.
        sampler: any of ours that takes linear operators without a known basis; the one that ships by default.
        seed: of the random numbers; rows of y are images "0", "1", ...
    """

    def __init__(self, prior: Prior, sampler: Sampler | None = None, seed: int = 0) -> None:
        super().__init__()
        self.prior, self.sampler, self.seed = prior, sampler or ConditionalDescent(), seed

    def forward(self, y: Tensor, physics: LinearPhysics, **_: object) -> Tensor:
        """A sample for each row of y, (B, C, H, W), in [0, 1] give or take what is not clipped.

        Raises:
            UserError: if physics is not linear, y complex or of another shape than it gives, or the noise not Gaussian
                of one level above 0.
        """
        if not isinstance(physics, LinearPhysics) or y.is_complex():
            kind = type(physics).__name__
            raise UserError(f"PosteriorReconstructor needs a linear physics and real y, got {kind} and {y.dtype}")
        if not isinstance(physics.noise_model, Noise) or physics.noise_model.sigma.numel() != 1:
            raise UserError(
                "PosteriorReconstructor: set physics.noise_model to GaussianNoise(sigma), one level for all"
            )
        sigma = waits.fetch("noise level", physics.noise_model.sigma.flatten()[0])
        image = physics.A_adjoint(y)
        operator = ForeignOperator(physics.A, image.shape[1:], y, "PosteriorReconstructor")
        centred = (2 * y - physics.A(image.new_ones(image.shape))).reshape(len(y), *operator.measurement_shape)
        rng = Streams(self.seed, [str(row) for row in range(len(y))], device=y.device)
        x = self.sampler(self.prior, Measurement(centred, operator, GaussianNoise(2 * sigma)), rng)
        return (x + 1) / 2


class DenoiserPrior(Prior):
    """A denoiser of deepinv's, called as denoiser(u, s) for images u in [0, 1] with noise of level s.

    Args:
        denoiser: the module.
        sigma_min, sigma_max: levels that it is good for, in [-1, 1]: twice those in [0, 1].
    """

    def __init__(self, denoiser: nn.Module, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.denoiser, self.sigma_min, self.sigma_max = denoiser, sigma_min, sigma_max

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, None]:
        return 2 * self.denoiser((x + 1) / 2, sigma.flatten() / 2 if isinstance(sigma, Tensor) else sigma / 2) - 1, None
