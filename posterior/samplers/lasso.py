"""The naive algorithm of compressed sensing as a warm start: LASSO over wavelets."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior import waits
from posterior.checks import MOST_SIDE, MOST_STEPS, real, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved


@dataclass(frozen=True)
class Lasso(Sampler):
    """argmin_x ||y - A x||^2 / 2 + t ||W x||_1, W orthonormal wavelets: no prior, no network call.

    The rough estimate that Corollary 1.3 starts from: accurate to order r from few measurements, if x is near sparse.
    Solved by FISTA (Beck and Teboulle, SIAM J. Imaging Sci. 2009), with the step 1 / ||A||^2. The coarsest averages are
    not penalised. Every row on its own, so the result does not depend on the batch; nothing in it is random.

    Args:
        threshold: t in units of sigma_y ||A||, > 0; sqrt(2 log d) of them is the universal threshold of denoising
            (Donoho and Johnstone, 1994).
        num_steps: of FISTA, >= 1.
        wavelet: an orthogonal wavelet of PyWavelets (the extra ``mri``), e.g. "haar", "db4".
        num_levels: of the wavelet transform, at most; sides are halved while they are even.

    Raises:
        UserError: if a number is out of range, PyWavelets is not installed or the wavelet is not orthogonal; on a call,
            if A is not linear or the noise not Gaussian.
    """

    threshold: float = 1.0
    num_steps: int = 200
    wavelet: str = "db4"
    num_levels: int = 4

    def __post_init__(self) -> None:
        real("Lasso", "threshold", self.threshold, above=0)
        whole("Lasso", "num_steps", self.num_steps, 1, MOST_STEPS)
        whole("Lasso", "num_levels", self.num_levels, 1, MOST_SIDE.bit_length())
        wavelet_matrix(self.wavelet, 8)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        operator = measurement.linear_operator("Lasso")
        norm = operator.norm_bound()
        limit = self.threshold * measurement.gaussian_sigma("Lasso") / norm  # of a coefficient, a step
        x = z = measurement.y.new_zeros(len(measurement.y), *measurement.image_shape)
        wavelets = self._wavelets(x)
        momentum = 1.0
        for step in range(1, self.num_steps + 1):
            moved = z + operator.adjoint(measurement.y - operator.forward(z)) / norm**2
            coefficients, coarse = self._analyse(moved, wavelets)
            shrunk = torch.where(coarse, coefficients, torch.nn.functional.softshrink(coefficients, limit))
            before, x = x, self._synthesise(shrunk, wavelets)
            momentum_before, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            z = x + (momentum_before - 1) / momentum * (x - before)
            observe("lasso", step, self.num_steps, x)
        return check_finite(x, rng, "the lasso")

    def _sides(self, height: int, width: int) -> list[tuple[int, int]]:
        """The block of averages that each level splits, largest first."""
        sides = []
        for _ in range(self.num_levels):
            if height % 2 or width % 2 or min(height, width) < 4:
                break
            sides.append((height, width))
            height, width = height // 2, width // 2
        return sides

    def _wavelets(self, x: Tensor) -> dict[int, Tensor]:
        """`wavelet_matrix` of every side, where x is: before the steps, each of which would wait for the copies."""
        needed = {side for sides in self._sides(*x.shape[-2:]) for side in sides}
        return {side: waits.to_device("wavelets", wavelet_matrix(self.wavelet, side), x) for side in sorted(needed)}

    def _analyse(self, x: Tensor, wavelets: dict[int, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """W x, (R, C, H, W), and where the coarsest averages are, (H, W)."""
        wavelets = wavelets or self._wavelets(x)
        coefficients, sides = x.clone(), self._sides(*x.shape[-2:])
        for height, width in sides:
            block = coefficients[..., :height, :width]
            coefficients[..., :height, :width] = wavelets[height] @ block @ wavelets[width].T
        coarse = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
        if sides:
            coarse[: sides[-1][0] // 2, : sides[-1][1] // 2] = True
        return coefficients, coarse

    def _synthesise(self, coefficients: Tensor, wavelets: dict[int, Tensor] | None = None) -> Tensor:
        wavelets = wavelets or self._wavelets(coefficients)
        x = coefficients.clone()
        for height, width in reversed(self._sides(*x.shape[-2:])):
            x[..., :height, :width] = wavelets[height].T @ x[..., :height, :width] @ wavelets[width]
        return x


@functools.lru_cache(maxsize=64)
def wavelet_matrix(wavelet: str, side: int) -> Tensor:
    """One level of a periodic orthonormal wavelet transform, (side, side), averages first; side is even.

    Raises:
        UserError: if PyWavelets is not installed, does not know the wavelet, or it is not orthogonal.
    """
    try:
        import numpy as np
        import pywt
    except ImportError as error:
        raise UserError("Lasso needs PyWavelets: pip install 'posterior-sampling[mri]'") from error
    try:
        found = pywt.Wavelet(wavelet)
    except ValueError as error:
        raise UserError(f"Lasso: PyWavelets has no wavelet {wavelet!r}") from error
    if not found.orthogonal:
        raise UserError(f"Lasso: the wavelet {wavelet!r} is not orthogonal")
    averages, details = pywt.dwt(np.eye(side), found, mode="periodization", axis=0)
    matrix = torch.from_numpy(np.concatenate([averages, details]))
    if (matrix @ matrix.T - torch.eye(side)).abs().max() > 1e-6:  # the tables of some are rounded
        raise UserError(f"Lasso: the wavelet {wavelet!r} is not orthogonal")
    return matrix
