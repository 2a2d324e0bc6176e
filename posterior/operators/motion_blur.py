"""Motion blur: a random kernel per image, and convolution with any kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from posterior.checks import MOST_KERNEL, real, whole
from posterior.errors import UserError
from posterior.operators.base import LinearOperator, OperatorFamily
from posterior.reading import read_array


class KernelBlur(LinearOperator):
    """Correlation of every channel with a kernel of the image's own, borders mirrored without repeating the edge.

    The kernel is not flipped, as in the DPS code. Computed by Fourier transforms; the adjoint is exact (the DPS code
    takes the identity for it).

    Args:
        kernel: (B, k, k), k odd.
        image_shape: (C, H, W), H and W > k // 2.
    """

    per_image = ("kernel",)

    def __init__(self, kernel: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self.kernel = kernel
        self.margin = kernel.shape[-1] // 2

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def _correlate(self, padded: Tensor, flipped: bool) -> Tensor:
        """Circular correlation with the kernel or, flipped, convolution; on the padded size nothing wraps around."""
        size = padded.shape[-2:]
        gain = torch.fft.rfft2(self.kernel, s=size)[:, None]
        return torch.fft.irfft2(torch.fft.rfft2(padded) * (gain if flipped else gain.conj()), s=size)

    def norm_bound(self) -> float:
        """For kernels >= 0 of sum 1: rows of A sum to 1, columns, with their mirrored copies, to at most 4."""
        return 2.0

    def forward(self, x: Tensor) -> Tensor:
        padded = _reflect(_reflect(x, self.margin, -2), self.margin, -1)
        return self._correlate(padded, flipped=False)[..., : x.shape[-2], : x.shape[-1]]

    def adjoint(self, v: Tensor) -> Tensor:
        padded = self._correlate(F.pad(v, (0, 2 * self.margin) * 2), flipped=True)
        for dim in (-2, -1):
            padded = _unreflect(padded, self.margin, dim)
        return padded

    def parameters_view(self) -> Tensor:
        """The kernels, each scaled to its own maximum, (B, 1, k, k) in [-1, 1]."""
        return (2 * self.kernel / self.kernel.amax(dim=(1, 2), keepdim=True) - 1)[:, None]


def _reflect(x: Tensor, margin: int, dim: int) -> Tensor:
    """Reflect padding by ``margin`` along a dimension; unlike torch's its derivative is deterministic on GPUs."""
    size = x.shape[dim]
    before, after = x.narrow(dim, 1, margin), x.narrow(dim, size - 1 - margin, margin)
    return torch.cat([before.flip(dim), x, after.flip(dim)], dim=dim)


def _unreflect(padded: Tensor, margin: int, dim: int) -> Tensor:
    """The transpose of reflect padding by ``margin`` along a dimension: mirrored entries are added to their source."""
    size = padded.shape[dim] - 2 * margin
    out = padded.narrow(dim, margin, size).clone()
    out.narrow(dim, 1, margin).add_(padded.narrow(dim, 0, margin).flip(dim))
    out.narrow(dim, size - 1 - margin, margin).add_(padded.narrow(dim, size + margin, margin).flip(dim))
    return out


def motion_path(kernel_size: int, intensity: float, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
    """A random camera path, (V, 2) float64: x, y on a canvas of twice the kernel's size, its mean at the centre.

    Source: L. Borodenko, "motionblur" (the kernels of DPS): Beta-distributed steps, headings with a tendency to keep
    their side. Headings are absolute directions; all numbers are drawn in the published order.

    Args:
        kernel_size: side of the kernel in pixels.
        intensity: in [0, 1]; 0 is a straight line.
        rng: numpy's random numbers.
    """
    diagonal = math.sqrt(2) * 2 * kernel_size
    budget = 0.75 * diagonal * (rng.uniform(0, 1) + rng.uniform(0, intensity**2))
    steps: list[float] = []
    while sum(steps) < budget:
        step = rng.beta(1, 30) * (1 - intensity + 0.1) * diagonal
        if step < budget:
            steps.append(step)
    largest = rng.uniform(0, intensity * math.pi)
    flip = rng.beta(2, 20)
    headings = [rng.uniform(-largest, largest)]
    while len(headings) < len(steps):
        size = rng.triangular(0, intensity * largest, largest + 0.1)
        sign = np.sign(headings[-1])
        headings.append(size * (-sign if rng.uniform(0, 1) < flip else sign))
    vertices = np.cumsum(np.array(steps) * np.exp(1j * np.array(headings)))
    vertices = (vertices - vertices.mean()) * np.exp(1j * rng.uniform(0, math.pi))
    return np.stack([vertices.real, vertices.imag], axis=1) + kernel_size


def draw_kernel(path: np.ndarray, kernel_size: int) -> np.ndarray:
    """The path drawn as a line, blurred and brought to size, (k, k) uint8 (before it is divided by its sum)."""
    diagonal = math.sqrt(2) * 2 * kernel_size
    canvas = Image.new("L", (2 * kernel_size, 2 * kernel_size))
    # at least one pixel: Pillow 13 draws nothing for width 0, older ones a line of one pixel
    ImageDraw.Draw(canvas).line(
        [tuple(vertex) for vertex in path.tolist()], fill=255, width=max(1, int(diagonal / 150))
    )
    canvas = canvas.filter(ImageFilter.GaussianBlur(radius=int(0.01 * diagonal)))
    return np.asarray(canvas.resize((kernel_size, kernel_size), Image.Resampling.LANCZOS))


class MotionBlur(OperatorFamily):
    """Blur along a random camera path, one kernel per image from that image's stream.

    The DPS code draws one kernel for all images of a run, unseeded.

    Args:
        kernel_size: odd side of the kernel in pixels (DPS: 61).
        intensity: in [0, 1], how much the path turns (DPS: 0.5).

    Raises:
        UserError: if kernel_size is even or < 3, or intensity outside [0, 1]; on realisation if the image is too small
            to be mirrored.
    """

    random = True

    def __init__(self, kernel_size: int = 61, intensity: float = 0.5) -> None:
        check_kernel_size("MotionBlur", kernel_size, 3)
        real("MotionBlur", "intensity", intensity, least=0, most=1)
        self.kernel_size, self.intensity = kernel_size, intensity

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> KernelBlur:
        check_mirrors("MotionBlur", image_shape, self.kernel_size)
        kernels = []
        for generator in streams:
            rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
            kernel = np.zeros((), dtype=np.uint8)
            while not kernel.any():  # a path may leave the canvas
                kernel = draw_kernel(motion_path(self.kernel_size, self.intensity, rng), self.kernel_size)
            kernels.append(torch.from_numpy(kernel / kernel.sum()).float())
        return KernelBlur(torch.stack(kernels), image_shape)


class GivenBlur(OperatorFamily):
    """Blur with one given kernel for all images, e.g. that with which a user's own measurements were made.

    Args:
        kernel: a .npy array (k, k), k odd, >= 0; it is divided by its sum, and not flipped.

    Raises:
        UserError: if the file cannot be read or holds something else, or on realisation if the image is too small.
    """

    def __init__(self, kernel: Path) -> None:
        values = read_array(Path(kernel), "GivenBlur: kernel")
        ordinary = values.ndim == 2 and values.dtype.kind in "biuf"
        if not ordinary or len(set(values.shape)) != 1 or values.shape[0] % 2 == 0 or not values.min() >= 0:
            raise UserError(f"GivenBlur: {kernel} must be (k, k) of numbers >= 0, k odd")
        if not 0 < values.sum(dtype=np.float64) < np.inf:
            raise UserError(f"GivenBlur: {kernel} has no finite sum > 0")
        self.kernel = torch.from_numpy(values / values.sum(dtype=np.float64)).float()

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> KernelBlur:
        check_mirrors("GivenBlur", image_shape, len(self.kernel))
        return KernelBlur(self.kernel.expand(max(1, len(streams)), -1, -1), image_shape)


def check_kernel_size(who: str, kernel_size: int, least: int) -> None:
    """Raises:
    UserError: if it is even, or out of range.
    """
    whole(who, "kernel_size", kernel_size, least, MOST_KERNEL)
    if kernel_size % 2 == 0:
        raise UserError(f"{who}: needs an odd kernel_size, got {kernel_size}")


def check_mirrors(who: str, image_shape: Sequence[int], kernel_size: int) -> None:
    """Raises:
    UserError: if the image is too small for its border to be mirrored by half a kernel.
    """
    _, height, width = image_shape
    if min(height, width) <= kernel_size // 2:
        raise UserError(
            f"{who}: a kernel of {kernel_size} needs images larger than {kernel_size // 2} "
            f"pixels to be mirrored, got {height}x{width}"
        )
