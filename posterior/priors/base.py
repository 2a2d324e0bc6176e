"""The denoiser interface: what a sampler knows of p(x)."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posterior import waits
from posterior.errors import UserError


@dataclass
class Cost:
    """Evaluations of a prior, counted in images: a call on B images counts B."""

    forward: int = 0
    backward: int = 0


class Prior(nn.Module, ABC):
    """A denoiser D(x, sigma) = E[x0 | x0 + sigma n = x], n ~ N(0, I), for images in [-1, 1].

    Subclasses implement `_predict`; networks, timesteps and scalings stay behind it. Every evaluation is
    counted in `cost`: forward when it happens, backward when a gradient flows back through it.

    `sigma` is a float or a tensor (B,). Pass floats in loops: the range of a tensor on a GPU can only be checked
    by waiting for the GPU.
    """

    sigma_min: float = 0.0
    """Smallest noise level at which the prior can be evaluated; the unsmoothed score is read here."""
    sigma_max: float = math.inf

    channels: int | None = None
    """Channels of the images that it is for: 3 colours, 1 grey, 2 real and imaginary part. None: any number."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that it was made for; None: no size in particular."""
    size_multiple: int | None = 1
    """Sides that it can take at all are multiples of this; None: only `size`."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """Values of its images (of each part of complex ones)."""

    network_dtype: torch.dtype | None = None
    """Of a network's matrix products (autocast), bfloat16 or float16; None: as its weights. All else is float32."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def autocast(self, x: Tensor) -> torch.autocast:
        """The context in which a network is called, and nothing else."""
        return torch.autocast(x.device.type, dtype=self.network_dtype, enabled=self.network_dtype is not None)

    @abstractmethod
    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor | None]:
        """D(x, sigma) and the variance fraction; ``sigma`` is a float or (B, 1, 1, 1)."""

    def predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor | None]:
        """The denoised image, and where in its range the variance of an ancestral step lies.

        Args:
            x: noisy images x0 + sigma n, (B, C, H, W).
            sigma: noise level in units of the data, float or (B,).

        Returns:
            D(x, sigma), (B, C, H, W); and a fraction (B, C, H, W), 0 = the smallest and 1 = the largest admissible
            variance (interpolated in its log), or None if the prior has not learned one.

        Raises:
            UserError: if sigma lies outside [sigma_min, sigma_max].
        """
        denoised, fraction = self._predict(x, self._checked(x, sigma))
        return self._counted(denoised), fraction

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, sigma), (B, C, H, W); see `predict`."""
        return self.predict(x, sigma)[0]

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of log p_sigma(x), p_sigma = p * N(0, sigma^2 I), (B, C, H, W), by Tweedie's formula.

        Raises:
            UserError: if sigma lies outside [sigma_min, sigma_max].
        """
        levels = self._checked(x, sigma)
        denoised, _ = self._predict(x, levels)
        return (self._counted(denoised) - x) / levels**2

    def curvature(self, sigma: float) -> float:
        """Bound on the curvature of -log p_sigma, for step sizes: the largest eigenvalue of minus its Hessian.

        For any p it is at most 1 / sigma^2: the Hessian is (Cov[x0 | x] / sigma^2 - I) / sigma^2.
        """
        return 1 / sigma**2 if sigma > 0 else math.inf

    def check_range(self, sigma: float | Tensor) -> None:
        """Refuse noise levels at which the prior cannot be evaluated.

        Raises:
            UserError: if sigma lies outside [sigma_min, sigma_max].
        """
        lowest = highest = sigma
        if isinstance(sigma, Tensor):
            lowest, highest = waits.fetch("range of sigma", torch.stack(sigma.aminmax()))
        slack = 1e-6  # a float32 level read off the grid's end
        if not (lowest >= self.sigma_min * (1 - slack) and highest <= self.sigma_max * (1 + slack)):
            told = f"{lowest:.6g}" if lowest == highest else f"{lowest:.6g} to {highest:.6g}"
            raise UserError(
                f"{type(self).__name__}: noise level {told} outside [{self.sigma_min:.6g}, {self.sigma_max:.6g}]"
            )

    def check_images(self, image_shape: Sequence[int]) -> str | None:
        """Compare images with what the prior is for.

        Args:
            image_shape: (C, H, W).

        Returns:
            One line of warning, if the size works but is not the one that the prior was made for; otherwise None.

        Raises:
            UserError: if the channels or the size cannot work.
        """
        shape = tuple(image_shape)
        made_for = ", ".join(map(str, (self.channels or "C", *(self.size or ("H", "W")))))
        found = f"{type(self).__name__} is for images ({made_for}), these are {shape}"
        if len(shape) != 3:
            raise UserError(f"{found}: images must be (C, H, W)")
        channels, height, width = shape
        if channels > 4 >= width and channels != self.channels:
            line = f"{found}, which looks like (H, W, C): put the channels first"
            if self.channels is None and self.size is None:
                return line
            raise UserError(line)
        if self.channels not in (None, channels):
            raise UserError(f"{found}: take images of {self.channels} channels, or a prior for {channels}")
        remedy = "set a crop or size"
        if self.size is not None:
            (high, wide), square = self.size, self.size[0] == self.size[1]
            remedy = f"set data.init_args.size {high}" if square else f"take images of {high}x{wide} pixels"
        multiple = self.size_multiple
        if multiple is not None and (height % multiple or width % multiple):
            raise UserError(f"{found}, and it can only take sides that are multiples of {multiple}: {remedy}")
        if self.size in (None, (height, width)):
            return None
        if multiple is None:
            raise UserError(f"{found}: {remedy}")
        return f"{found}, a size that it was not made for, and nobody knows what it is worth there: {remedy}"

    def ask(self, network: nn.Module) -> None:
        """Take over what a network says that it is for, if it does.

        By its attributes ``in_channels`` (int), ``image_size`` (int, or height and width) and ``size_multiple`` (int),
        those of `posterior.priors.UNet`.
        """
        channels, size, multiple = (
            getattr(network, name, None) for name in ("in_channels", "image_size", "size_multiple")
        )
        if isinstance(channels, int) and channels > 0:
            self.channels = channels
        sides = (size, size) if isinstance(size, int) else size
        if isinstance(sides, (tuple, list)) and len(sides) == 2 and all(isinstance(n, int) and n > 0 for n in sides):
            self.size = (sides[0], sides[1])
        if isinstance(multiple, int) and multiple > 0:
            self.size_multiple = multiple

    def fingerprint(self) -> str:
        """A digest of `content` and `facts`, to tell whether a run is resumed with the same prior."""
        found, told = self.content(), self.facts()
        return hashlib.blake2b(f"{found} {told}".encode(), digest_size=16).hexdigest() if told else found

    def facts(self) -> str:
        """What decides the prior and is neither parameter nor buffer, in a line; empty: nothing does."""
        return ""

    def content(self) -> str:
        """A digest of parameters and buffers."""
        return digest(self)

    def _counted(self, output: Tensor) -> Tensor:
        def count_backward(grad: Tensor) -> None:
            self.cost.backward += len(grad)

        self.cost.forward += len(output)
        if output.requires_grad:
            output.register_hook(count_backward)
        return output

    def _checked(self, x: Tensor, sigma: float | Tensor) -> float | Tensor:
        self.check_range(sigma)
        return sigma.to(x).view(-1, *[1] * (x.ndim - 1)) if isinstance(sigma, Tensor) else sigma


def digest(module: nn.Module) -> str:
    """Of parameters and buffers."""
    whole = hashlib.blake2b(digest_size=16)
    for name, value in module.state_dict().items():
        whole.update(f"{name} {tuple(value.shape)} {waits.on_host('fingerprint', _sum, value):.9g};".encode())
    return whole.hexdigest()


def _sum(value: Tensor) -> float:
    """In the order of the indices, whatever the memory format."""
    return value.contiguous().double().sum().item()


class ClosedFormPrior(Prior):
    """A prior whose score is known exactly at every sigma >= 0; the denoiser follows from it."""

    @abstractmethod
    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of log p_sigma(x); ``sigma`` is a float or (B, 1, 1, 1), 0 allowed."""

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, None]:
        return x + sigma**2 * self._score(x, sigma), None

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The exact score, counted as a forward evaluation; see `Prior.score`."""
        return self._counted(self._score(x, self._checked(x, sigma)))
