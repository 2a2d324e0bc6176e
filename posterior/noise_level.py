"""The noise level of a measurement, where nobody has stated it: from the measurement itself, with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from posterior.errors import UserError
from posterior.random import Streams

MASK = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
"""Difference of two Laplacians, which annuls planes and straight edges along the axes; its norm is 6."""
QUARTILE = 0.6744897501960817
"""Median of |n|, n ~ N(0, 1)."""
BLOCK = 16
"""Side of the blocks that are drawn anew for the interval, in pixels."""
MOST_BLOCKS = 2048
"""More of them are put together, far apart from each other."""
FEWEST_BLOCKS = 4
FEWEST = 400
"""Of differences: the median of so many is known to 5 %."""
RESAMPLES = 400
CELLS = 1024
"""Of the histogram that the resampled medians are read from, up to 4 medians."""
REPEATED, REPEATED_LEVEL = 0.01, 0.2
"""Largest share of y that may be one and the same number; the second where y has few levels, as 8-bit pixels have."""
DRIFT = 1e-6
"""Level of the test that repeats are of one image."""


@dataclass(frozen=True)
class NoiseLevel:
    """An estimate of sigma_y.

    Args:
        sigma: standard deviation of the noise, in units of y.
        low, high: ends of a 95 % interval.
        method: how both were found.
    """

    sigma: float
    low: float
    high: float
    method: str

    def __str__(self) -> str:
        return f"{self.sigma:.4g} (95 %: {self.low:.4g} to {self.high:.4g}; {self.method})"


def estimate_sigma(
    y: Tensor | np.ndarray, mask: Tensor | np.ndarray | None = None, repeats: bool = False
) -> NoiseLevel:
    """The level of white Gaussian noise of one size in pictures, or in several measurements of the same image.

    Pictures: differences of second differences leave little of an image and all of the noise (Immerkaer, Computer
    Vision and Image Understanding 64, 1996). Their median size over 0.6745 is the estimate, which edges move less than
    a mean (Donoho and Johnstone, Biometrika 81, 1994). The interval is a bootstrap over blocks of 16x16 pixels. It is
    about chance alone: fine structure of the images makes the estimate too large (docs/measurements.md has by how
    much). Noise that is not white, as after interpolation or JPEG, is not seen to be so, and makes it wrong.

    Repeats: the variance over them, whatever the operator is. The interval is that of a chi-squared variable, exact for
    Gaussian noise; images have no part in it.

    Args:
        y: pictures (N, C, H, W), (C, H, W) or (H, W), of one noise level and on any scale; or with ``repeats`` R >= 2
            measurements (R, ...) of the same image by the same operator.
        mask: of pictures, what is measured: not 0, of a shape that goes with y. What y holds elsewhere has no part in
            it. Values at the very ends of the range that are taken more than once have been cut off, and are left out
            like what is masked.
        repeats: whether the rows are repeats.

    Raises:
        UserError: if y is no such array, too small or too much of it is masked or cut off, one number stands in much of
            it, its values are rounded to steps larger than the noise, it has no noise, or repeats differ by more than
            noise.
    """
    y = _real(y)
    if repeats:
        if mask is not None:
            raise UserError(
                "estimate_sigma: mask is of pictures; of repeats give the entries that are measured, y[:, kept]"
            )
        _check_finite(y)
        return _of_repeats(y)
    kept = _measured(y, mask)
    y = torch.where(kept, y, 0)
    _check_finite(y)
    return _of_pictures(y, kept)


def _real(y: Tensor | np.ndarray) -> Tensor:
    """y in float64, on the CPU.

    Raises:
        UserError: if it holds something else than real floating-point numbers.
    """
    if not isinstance(y, (Tensor, np.ndarray)):
        raise UserError(f"estimate_sigma: y must be a tensor or array, got {type(y).__name__}")
    y = torch.as_tensor(y).detach().cpu()
    if not y.is_floating_point():
        more = "take its real and its imaginary part" if y.is_complex() else "y / 127.5 - 1 is of 8-bit pixels"
        raise UserError(f"estimate_sigma: y must hold real floating-point numbers, got {y.dtype}: {more}")
    return y.double()


def _check_finite(y: Tensor) -> None:
    """Raises:
    UserError: if something in it is NaN or infinite.
    """
    if bad := int((~torch.isfinite(y)).sum()):
        raise UserError(
            f"estimate_sigma: y has NaN or infinite values, {bad} of {y.numel()}: leave them out "
            "(of pictures: a mask that is 0 there)"
        )


def _of_repeats(y: Tensor) -> NoiseLevel:
    if y.ndim < 2 or len(y) < 2 or y[0].numel() < 2:
        raise UserError(f"estimate_sigma: repeats must be (R, ...), 2 or more measurements, got {tuple(y.shape)}")
    rows = y.flatten(1)
    left = rows - rows.mean(dim=0)
    between, within = len(rows) - 1, (len(rows) - 1) * (rows.shape[1] - 1)
    total = float(left.square().sum())
    if total == 0:
        raise UserError("estimate_sigma: the repeats are all the same: no noise, or one measurement several times")
    means = float(left.mean(dim=1).square().sum()) * rows.shape[1]  # what changes of brightness explain
    ratio = means / between / max((total - means) / within, 1e-300)
    if scipy.stats.f.sf(ratio, between, within) < DRIFT:
        raise UserError(
            "estimate_sigma: the repeats differ in their means by more than noise does: the light, the gain or the "
            "image has changed between them"
        )
    freedom, values = between + within, rows.unique()
    if 2 * len(values) < rows.numel():  # else some numbers far apart would pass for steps
        _check_rounded(values, (total / freedom) ** 0.5)
    still = (rows == rows[0]).all(dim=0)
    _check_repeated(rows[0][still], still.numel(), len(values), "not measured or cut off, leave it out, y[:, kept]")
    low, high = (total / scipy.stats.chi2.ppf(share, freedom) for share in (0.975, 0.025))
    return NoiseLevel((total / freedom) ** 0.5, low**0.5, high**0.5, f"variance over {len(rows)} repeats, chi-squared")


def _of_pictures(y: Tensor, kept: Tensor) -> NoiseLevel:
    if not 2 <= y.ndim <= 4 or min(y.shape[-2:]) < 3:
        raise UserError(
            f"estimate_sigma: y must be pictures (N, C, H, W), (C, H, W) or (H, W), got {tuple(y.shape)}; of other "
            "measurements it takes several of the same image, repeats=True"
        )
    kept = _inside(y, kept)
    shape = (*[1] * (4 - y.ndim), *y.shape)
    size, blocks = _differences(y.view(shape), kept.view(shape))
    if len(size) < FEWEST or len(blocks.unique()) < FEWEST_BLOCKS:
        raise UserError(
            f"estimate_sigma: {len(size)} differences of neighbours that are all measured and not cut off: "
            f"it takes {FEWEST}, in {FEWEST_BLOCKS} blocks of {BLOCK}x{BLOCK} pixels"
        )
    values, sigma = y[kept].unique(), float(size.median()) / QUARTILE
    _check_repeated(y[kept], int(kept.sum()), len(values), "not measured, give a mask")
    _check_rounded(values, sigma)
    low, high = _bootstrapped(size, blocks)
    return NoiseLevel(sigma, low, high, f"median of differences, bootstrap over {BLOCK}x{BLOCK} blocks")


def _check_repeated(values: Tensor, count: int, levels: int, advice: str) -> None:
    """Refuse y if one number stands in more of it than noise would have it.

    Args:
        values: where such a number may be, (n,).
        count: entries of which its share is taken.
        levels: different numbers in y.
        advice: what to do, for the message.

    Raises:
        UserError: if there is one.
    """
    different, counts = values.unique(return_counts=True)
    often = float(counts.max()) / count if len(different) else 0.0
    if often > (REPEATED if levels > CELLS else REPEATED_LEVEL):
        raise UserError(
            f"estimate_sigma: {float(different[counts.argmax()]) or 0.0:.4g} stands in {often:.0%} of y, as noise "
            f"does not: if that is what is {advice}"
        )


def _check_rounded(values: Tensor, sigma: float) -> None:
    """Raises:
    UserError: if there is no noise, or the different values, sorted, have steps that are larger.
    """
    step = float(values.diff().median()) if len(values) > 1 else 0.0
    if sigma == 0 or (len(values) <= CELLS and sigma < step):
        raise UserError(
            "estimate_sigma: more than half of the differences are 0, or y is rounded to steps "
            f"({step:.3g}) larger than its noise: there is none that could be measured"
        )


def _measured(y: Tensor, mask: Tensor | np.ndarray | None) -> Tensor:
    """What is measured, bool, shaped like y.

    Raises:
        UserError: if the mask does not go with y.
    """
    if mask is None:
        return torch.ones_like(y, dtype=torch.bool)
    try:
        given = torch.as_tensor(mask).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"estimate_sigma: mask must be a tensor or array, got {type(mask).__name__}") from error
    try:
        return (given != 0).expand_as(y)
    except RuntimeError as error:
        told = f"mask is {tuple(given.shape)}, y {tuple(y.shape)}"
        raise UserError(f"estimate_sigma: {told}: the mask must be of the pictures' shape, or (H, W)") from error


def _inside(y: Tensor, kept: Tensor) -> Tensor:
    """What is kept and not cut off, bool, shaped like y."""
    if kept.any():
        for end in (y[kept].min(), y[kept].max()):
            if (y[kept] == end).sum() > 1:
                kept = kept & (y != end)
    return kept


def _differences(pictures: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """|second differences|, with the deviation of the noise, where all nine pixels are kept, and the block of each.

    Args:
        pictures: (N, C, H, W).
        kept: bool, likewise.
    """
    count, channels, height, width = pictures.shape
    kernel = torch.tensor(MASK, dtype=pictures.dtype)[None, None] / 6
    found = F.conv2d(pictures.flatten(0, 1)[:, None], kernel).abs()
    whole = F.conv2d(kept.flatten(0, 1)[:, None].to(pictures.dtype), torch.ones_like(kernel)) > 8.5
    down, across = (torch.arange(side - 2) // BLOCK for side in (height, width))
    in_picture = down[:, None] * (int(across[-1]) + 1) + across
    number = torch.arange(count).view(-1, 1, 1, 1) * (int(in_picture.max()) + 1) + in_picture
    blocks = number.expand(-1, channels, -1, -1).reshape(whole.shape) % MOST_BLOCKS
    return found[whole], blocks[whole]


def _bootstrapped(size: Tensor, blocks: Tensor) -> tuple[float, float]:
    """Ends of the 95 % interval of the noise level: medians over blocks that are drawn with replacement.

    Source: Efron, "Bootstrap methods", Annals of Statistics 7, 1979 (percentiles). Blocks, as neighbours share noise.

    Args:
        size, blocks: as `_differences` gives them.
    """
    centre = float(size.median())
    names, block = blocks.unique(return_inverse=True)
    cell = (size / (4 * centre) * CELLS).long().clamp_max(CELLS)
    counts = torch.bincount(block * (CELLS + 1) + cell, minlength=len(names) * (CELLS + 1)).view(len(names), -1)
    like = torch.empty(1, RESAMPLES * len(names), dtype=torch.float64)
    drawn = (len(names) * (1 - Streams(0, ["blocks"]).rand_like("bootstrap", like))).long().view(RESAMPLES, -1)
    weights = torch.zeros(RESAMPLES, len(names)).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float32))
    below = (weights @ counts.float()).cumsum(dim=1)
    half = below[:, -1:] / 2
    place = torch.searchsorted(below, half).clamp_max(CELLS)
    before = torch.where(place > 0, below.gather(1, (place - 1).clamp_min(0)), 0)
    within = (half - before) / (below.gather(1, place) - before).clamp_min(1)
    medians = (place + within) * 4 * centre / CELLS / QUARTILE
    low, high = torch.quantile(medians.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
