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

    Ours are in [-1, 1], x = 2 u - 1: with y = A u + s n there is 2 y - A 1 = A x + 2 s n. Each call gives another
    sample, the next of the seed: so deepinv's ``DiffusionSampler`` has their mean and variance from it. A seed that is
    given with a call has its first one.

    Args:
        prior: p(x), of images in [-1, 1]; for a denoiser of deepinv's, `DenoiserPrior`.
        sampler: any of ours that takes linear operators without a known basis; the one that ships by default.
        seed: of the random numbers; rows of y are images "0", "1", ...
    """

    def __init__(self, prior: Prior, sampler: Sampler | None = None, seed: int = 0) -> None:
        super().__init__()
        self.prior, self.sampler, self.seed = prior, sampler or ConditionalDescent(), seed
        self.calls = 0

    def forward(self, y: Tensor, physics: LinearPhysics, seed: int | None = None, **_: object) -> Tensor:
        """A sample for each row of y, (B, C, H, W), in [0, 1] give or take what is not clipped.

        Args:
            y: measurements, a row an image.
            physics: A and the noise.
            seed: for this call alone, whose sample is then the first of that seed.

        Raises:
            UserError: if physics is not linear, y no tensor of real numbers or of another shape than it gives, images
                are not (C, H, W), or the noise not Gaussian of one level above 0.
        """
        if not isinstance(physics, LinearPhysics) or not isinstance(y, Tensor) or y.is_complex() or not len(y):
            told = f"{type(physics).__name__} and {described(y)}"
            raise UserError(f"PosteriorReconstructor needs a linear physics and real y, got {told}")
        if not isinstance(physics.noise_model, Noise) or physics.noise_model.sigma.numel() != 1:
            raise UserError(
                "PosteriorReconstructor: set physics.noise_model to GaussianNoise(sigma), one level for all"
            )
        sigma = waits.fetch("noise level", physics.noise_model.sigma.flatten()[0])
        image = physics.A_adjoint(y)
        if image.ndim != 4:
            raise UserError(f"PosteriorReconstructor is for images (B, C, H, W), this physics has {tuple(image.shape)}")
        operator = ForeignOperator(physics.A, image.shape[1:], y, "PosteriorReconstructor")
        centred = (2 * y - physics.A(image.new_ones(image.shape))).reshape(len(y), *operator.measurement_shape)
        ids, number = [str(row) for row in range(len(y))], self.calls if seed is None else 0
        rng = Streams(self.seed if seed is None else seed, ids, device=y.device, samples=[number])
        self.calls += seed is None
        x = self.sampler(self.prior, Measurement(centred, operator, GaussianNoise(2 * sigma)), rng)
        return (x + 1) / 2


def described(y: object) -> str:
    """What was given in place of real y."""
    if not isinstance(y, Tensor):
        return f"a {type(y).__name__}"
    return f"{y.dtype}" if len(y) else "no row"


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
