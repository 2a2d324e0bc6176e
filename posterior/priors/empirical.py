"""The empirical prior: given images, each blurred a little. Its posteriors are known for operators of any kind."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from posterior import waits
from posterior.checks import MOST_IMAGES, MOST_SIDE, real, whole
from posterior.errors import UserError
from posterior.idx import idx_shape, packed, padded, read_labelled
from posterior.priors.base import Cost, Prior
from posterior.random import stream
from posterior.reading import check_file, read_arrays, shown

ROWS = 64
"""Noisy images at a time: their logits for 60,000 images have 31 MB."""
BLOCK = 512
"""Images at a time: 4 MB in float64, of 1024 numbers: larger blocks leave the cache, and are slower."""
SIGMA_MIN = 1e-3
"""Lowest level where the images are not blurred: there the law has no density."""
SHARE = 0.5
"""Of the machine's memory that images may take."""


class EmpiricalPrior(Prior):
    """p(x) = sum_i p_i N(x_i, w^2 I) over N given images x_i, w >= 0 (docs/method.md section 11).

    With s^2 = w^2 + sigma^2, r the softmax of log p_i - |x - x_i|^2 / (2 s^2), m and C the mean and covariance of the
    images under r,

        D(x, sigma) = (w^2 x + sigma^2 m) / s^2,   score = (m - x) / s^2,   dD/dx = (w^2 I + sigma^2 C / s^2) / s^2

    Images are taken in blocks. Logits are in float64 and leave out |x|^2, which all images share: what is left of
    |x - x_i|^2 is known to 1e-12. Gradients flow by the closed form, once.

    Args:
        images: x_i, (N, C, H, W); of uint8 they are pixels, x_i = pixel / 127.5 - 1, and take a quarter of the memory.
        width: w, in units of the images.
        labels: a whole number >= 0 for each image, (N,), by which modes are counted; None: there are none.

    Raises:
        UserError: if shapes do not fit, there is no image, w is out of range, or an image is not finite.
    """

    images: Tensor
    squares: Tensor
    log_weights: Tensor
    labels: Tensor | None

    def __init__(self, images: Tensor, width: float = 0.0, labels: Tensor | None = None) -> None:
        super().__init__()
        real("EmpiricalPrior", "width", width, least=0)
        if images.ndim != 4 or not images.numel():
            raise UserError(f"EmpiricalPrior: images must be (N, C, H, W), these are {tuple(images.shape)}")
        if labels is not None and (tuple(labels.shape) != images.shape[:1] or labels.min() < 0):
            raise UserError(f"EmpiricalPrior: labels must be {len(images)} whole numbers >= 0, one for each image")
        self.width = width
        self.sigma_min = 0.0 if width > 0 else SIGMA_MIN
        self.channels, self.size, self.size_multiple = images.shape[1], (images.shape[2], images.shape[3]), None
        self.register_buffer("images", images)
        self.register_buffer("labels", labels)
        factor, shift = self._scale
        wide = (block.double().mul_(factor).add_(shift) for _, block in self._blocks())
        squares = torch.cat([block.square().sum(dim=1) for block in wide])
        if not waits.fetch("finite?", torch.isfinite(squares).all()):
            raise UserError("EmpiricalPrior: an image has NaN or infinite values")
        self.register_buffer("squares", squares)
        self.register_buffer("log_weights", torch.full_like(squares, -math.log(len(images))))

    @classmethod
    def from_file(
        cls,
        path: Path,
        labels: Path | None = None,
        width: float = 0.0,
        count: int | None = None,
        size: int | None = None,
        half_turns: bool = False,
    ) -> EmpiricalPrior:
        """Of the images of a file.

        An idx file that is not compressed and would take more than half of the machine's memory stays on the disk: a
        line on standard error says how large it is and how long a call takes.

        Args:
            path: an idx file (N, H, W), also compressed by gzip, or an .npz file with ``images`` (N, C, H, W) uint8
                and, if there are any, ``labels`` (N,).
            labels: the labels of an idx file.
            width: w.
            count: the first so many images; None: all.
            size: side in pixels to which the images of an idx file are padded with black; None: as they are.
            half_turns: every image also turned by 180 degrees, with a label beyond all others, and as likely.

        Raises:
            UserError: naming the file, if it cannot be used, or does not fit into the memory.
        """
        if count is not None:
            whole("EmpiricalPrior", "count", count, 1, MOST_IMAGES)
        if size is not None:
            whole("EmpiricalPrior", "size", size, 1, MOST_SIDE)
        zipped = Path(path).suffix == ".npz"
        left = not zipped and _too_large(Path(path), size, half_turns)
        pixels, classes = _of_npz(path, labels) if zipped else read_labelled(path, labels, mmap=left)
        if count is not None and count > len(pixels):
            raise UserError(f"images {shown(path)}: there are {len(pixels)}, fewer than count {count}")
        pixels, classes = pixels[:count], None if classes is None else classes[:count]
        if not zipped:
            pixels = padded(pixels, size) if size is not None and not left else pixels
            pixels = pixels[:, None]
        images = torch.from_numpy(pixels)
        names = None if classes is None else torch.from_numpy(classes.astype(np.int64))
        if half_turns:
            images = torch.cat([images, images.flip(-2, -1)])
            names = None if names is None else torch.cat([names, names + int(names.max()) + 1])
        start = time.monotonic()
        prior = cls(images, width, names)
        if left:
            _tell(path, images.shape, time.monotonic() - start)
        return prior

    def __len__(self) -> int:
        return len(self.images)

    def reweighted(self, log_weights: Tensor) -> Self:
        """The same images, other p_i: those of log weights (N,) up to a constant; nothing is copied."""
        other = copy.copy(self)
        other._buffers = self._buffers | {"log_weights": log_weights.double().log_softmax(dim=0)}
        other.cost = Cost()
        return other

    @property
    def weights(self) -> Tensor:
        """p_i, (N,) float64."""
        return self.log_weights.exp()

    def pictures(self, index: Tensor) -> Tensor:
        """Images number (n,), (n, C, H, W) in [-1, 1]; float32 if they are kept as pixels."""
        return self._values(self.images[index])

    @property
    def _scale(self) -> tuple[float, float]:
        """x_i = a times what is kept of it + b: (a, b)."""
        return (1 / 127.5, -1.0) if self.images.dtype == torch.uint8 else (1.0, 0.0)

    def _values(self, images: Tensor) -> Tensor:
        return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Place and what is kept of the images there, (n, d), block by block."""
        for start in range(0, len(self.images), BLOCK):
            place = slice(start, start + BLOCK)
            yield place, self.images[place].flatten(1)

    def facts(self) -> str:
        return f"{self.width:.9g}"

    def content(self) -> str:
        """A digest of the labels and a projection of each image, in their order; read by blocks."""
        direction = stream(0, "EmpiricalPrior", 0, "fingerprint")
        projected = torch.randn(1, self.images[0].numel(), generator=direction, dtype=torch.float64)
        values = waits.on_host("fingerprint", self.products, projected)
        digest = hashlib.blake2b(f"{tuple(self.images.shape)};".encode(), digest_size=16)
        digest.update(",".join(f"{value:.6g}" for value in values[0].tolist()).encode())
        if self.labels is not None:
            digest.update(waits.on_host("fingerprint", torch.Tensor.long, self.labels).numpy().tobytes())
        return digest.hexdigest()

    def products(self, x: Tensor) -> Tensor:
        """<x_i, x> for rows x (B, d), (B, N) float64."""
        wide, (factor, shift) = x.double(), self._scale
        found = wide.new_empty(len(x), len(self.images))
        for place, block in self._blocks():
            found[:, place] = wide @ block.to(wide).mT
        return found.mul_(factor).add_(shift * wide.sum(dim=1, keepdim=True))

    def combined(self, shares: Tensor) -> Tensor:
        """sum_i a_i x_i for rows a (B, N), (B, d), in the dtype of a."""
        (factor, shift), total = self._scale, shares.sum(dim=1, keepdim=True)
        found = shares.new_zeros(len(shares), self.images[0].numel())
        for place, block in self._blocks():
            found.addmm_(shares[:, place], block.to(shares))
        return found.mul_(factor).add_(shift * total)

    def _logits(self, x: Tensor, variance: float | Tensor) -> Tensor:
        """Log of p_i exp(-|x - x_i|^2 / (2 s^2)) for rows x (B, d) but for |x|^2, (B, N) float64; s^2 as (B, 1)."""
        return self.products(x).sub_(0.5 * self.squares).div_(variance).add_(self.log_weights)

    def _smoothed(self, x: Tensor, sigma: float | Tensor) -> float | Tensor:
        """s^2, a number or float64 (B, 1)."""
        level = sigma.double().view(-1, 1) if isinstance(sigma, Tensor) else sigma
        return self.width**2 + level**2

    def responsibilities(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Probability of each image given x0 + sigma n = x, (B, N) float64.

        Raises:
            UserError: if sigma lies outside the prior's range.
        """
        return self._logits(x.flatten(1), self._smoothed(x, self._checked(x, sigma))).softmax(dim=1)

    def log_prob(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """log p_sigma(x), (B,) float64.

        Raises:
            UserError: if sigma lies outside the prior's range.
        """
        variance, flat = self._smoothed(x, self._checked(x, sigma)), x.flatten(1)
        own = flat.double().square().sum(dim=1)
        spread = torch.as_tensor(variance, dtype=torch.float64).flatten().to(x.device)
        normal = 0.5 * flat.shape[1] * (2 * math.pi * spread).log()
        return self._logits(flat, variance).logsumexp(dim=1) - 0.5 * own / spread - normal

    def mean_image(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """m, the mean of the images given x0 + sigma n = x, (B, C, H, W); gradients flow."""
        variance = self._smoothed(x, sigma)
        found: Tensor = _MeanImage.apply(x.flatten(1), variance, self)
        return found.view_as(x)

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, None]:
        variance = self.width**2 + sigma**2
        return (self.width**2 / variance) * x + (sigma**2 / variance) * self.mean_image(x, sigma), None

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The exact score, counted as a forward evaluation; see `Prior.score`."""
        levels = self._checked(x, sigma)
        return self._counted((self.mean_image(x, levels) - x) / (self.width**2 + levels**2))

    def times_jacobian(self, x: Tensor, v: Tensor, sigma: float | Tensor) -> Tensor:
        """dD/dx v, (B, C, H, W), symmetric in v.

        Raises:
            UserError: if sigma lies outside the prior's range.
        """
        levels = self._checked(x, sigma)
        variance, flat = self._smoothed(x, levels), v.flatten(1)
        shares = self.responsibilities(x, sigma)
        spread = (self._times_covariance(shares, flat) / variance).to(v).view_as(v)
        total = self.width**2 + levels**2
        return (self.width**2 * v + levels**2 * spread) / total

    def _times_covariance(self, shares: Tensor, v: Tensor) -> Tensor:
        """C v for rows v (B, d), C of the images under shares (B, N)."""
        along = self.products(v)
        centred = shares * (along - (shares * along).sum(dim=1, keepdim=True))
        return self.combined(centred.to(v.dtype))

    def nearest(self, x: Tensor) -> Tensor:
        """Number of the image that is nearest to each of x, (B,)."""
        return torch.cat(
            [(self.products(part) - 0.5 * self.squares).argmax(dim=1) for part in x.flatten(1).split(ROWS)]
        )

    def curvature(self, sigma: float) -> float:
        variance = self.width**2 + sigma**2
        return 1 / variance if variance > 0 else math.inf

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact samples (count, C, H, W)."""
        index = torch.multinomial(self.weights.to(generator.device), count, replacement=True, generator=generator)
        shape = (count, *self.images.shape[1:])
        return self.transform(index, torch.randn(shape, generator=generator, device=generator.device))

    def transform(self, index: Tensor, noise: Tensor) -> Tensor:
        """Samples of images number (n,) from standard normal numbers (n, C, H, W): x_i + w n."""
        pictures = self.pictures(index.to(self.images.device))
        return pictures + self.width * noise.to(pictures)


class _MeanImage(torch.autograd.Function):
    """m of rows x (B, d): the images under the softmax of their logits; its gradient is C v / s^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, variance: float | Tensor, prior: EmpiricalPrior) -> Tensor:
        groups = list(_groups(x, variance))
        shares = [prior._logits(x[rows], of_rows).softmax(dim=1).to(x.dtype) for rows, of_rows in groups]
        ctx.save_for_backward(*shares)
        ctx.groups, ctx.prior = groups, prior
        return torch.cat([prior.combined(part) for part in shares])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        parts = [
            (ctx.prior._times_covariance(shares, grad[rows]) / of_rows).to(grad)
            for shares, (rows, of_rows) in zip(ctx.saved_tensors, ctx.groups, strict=True)
        ]
        return torch.cat(parts), None, None


def _groups(x: Tensor, variance: float | Tensor) -> Iterator[tuple[slice, float | Tensor]]:
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, variance[rows] if isinstance(variance, Tensor) and len(variance) > 1 else variance


def effective_number(weights: Tensor) -> Tensor:
    """How many images of equal weight would be as many, (..., N) -> (...): (sum w)^2 / sum w^2."""
    return weights.sum(dim=-1) ** 2 / weights.square().sum(dim=-1)


def memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_npz(path: Path, labels: Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Images (N, C, H, W) uint8 and labels (N,) of an .npz file."""
    if labels is not None:
        raise UserError(f"EmpiricalPrior: labels {shown(labels)} are for an idx file; {shown(path)} has its own")
    arrays = read_arrays(path, "images")
    images, classes = arrays.get("images"), arrays.get("labels")
    if images is None or images.ndim != 4 or images.dtype != np.uint8:
        raise UserError(f"images {shown(path)} must hold images (N, C, H, W) uint8, it holds {', '.join(arrays)}")
    if classes is not None and (classes.shape != images.shape[:1] or classes.dtype.kind not in "iu"):
        raise UserError(f"images {shown(path)} must hold {len(images)} labels, whole numbers, one for each image")
    return images, classes


def _too_large(path: Path, size: int | None, half_turns: bool) -> bool:
    """Whether an idx file stays on the disk.

    Raises:
        UserError: if it should, and cannot.
    """
    check_file(path, "idx images")
    shape = idx_shape(path, "idx images")
    numbers = math.prod(shape) if size is None else shape[0] * size**2
    if numbers * (2 if half_turns else 1) <= SHARE * memory():
        return False
    told = f"idx images {shown(path)} would take {numbers / 1e9:.3g} GB, of {memory() / 1e9:.3g} GB in all"
    if packed(path) or half_turns or size not in (None, *shape[1:]):
        raise UserError(f"{told}: give a file of fewer images, or one that needs no unpacking, padding or turning")
    return True


def _tell(path: Path, shape: torch.Size, seconds: float) -> None:
    """What images on the disk cost; reading them once took so long."""
    numbers = math.prod(shape)
    print(
        f"images {shown(path)}: {shape[0]} of {math.prod(shape[1:])} numbers, {numbers / 1e9:.3g} GB, more than "
        f"{SHARE:.0%} of the memory: they stay on the disk, in blocks of {BLOCK}; a call takes about "
        f"{2 * seconds:.2g} s for up to {ROWS} noisy images",
        file=sys.stderr,
        flush=True,
    )
