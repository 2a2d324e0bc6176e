"""Sensitivities of receiver coils: checked, normalised, or estimated from the middle of k-space."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.operators.mri import centred_ifft

SEES = 0.05
"""A pixel is seen if its root sum of squares over the coils is more than this share of the largest."""
TOLERANCE = 0.01
"""How far the root sum of squares of normalised sensitivities may be from 1 where anything is seen."""
KERNEL = 6
"""Side of ESPIRiT's kernels in k-space."""
SPANNED = 0.02
"""Singular values of the patches above this share of the largest span their space."""
LEAST_CALIBRATION = 2 * KERNEL
"""Side of the block from which sensitivities are estimated, or judged: what one of a few lines shows of an image is too
coarse for a coil's image to be its product with the sensitivity."""
EIGENVALUE = 0.95
"""Above it a pixel holds signal that the sensitivities explain."""
MOST_CALIBRATION = 24
"""Side of the block of k-space that ESPIRiT needs at most, that of its authors' code."""


def checked_sensitivities(maps: np.ndarray, name: str, normalise: bool = False) -> Tensor:
    """Sensitivities S (coils, H, W) complex128 with sum_c |S_c|^2 = 1 where anything is seen, and <= 1 elsewhere.

    Args:
        maps: as they were given.
        name: of where they come from, for messages.
        normalise: divide by the root sum of squares; where it is less than `SEES` of the largest they become 0.

    Raises:
        UserError: if they are no finite complex array (coils, H, W), a coil is all zeros, or, without ``normalise``,
            the root sum of squares is not 1; the message says what it is.
    """
    if maps.ndim != 3 or maps.dtype.kind != "c":
        raise UserError(f"{name} must be a complex array (coils, H, W), it is {maps.dtype}{list(maps.shape)}")
    if not np.isfinite(maps).all():
        raise UserError(f"{name} holds NaN or infinity")
    if not (seeing := np.abs(maps).any(axis=(1, 2))).all():
        raise UserError(f"{name}: coil {int(seeing.argmin())} of {len(maps)} is all zeros")
    total = np.sqrt((np.abs(maps) ** 2).sum(axis=0))
    seen = total > SEES * total.max()
    if normalise:
        return torch.from_numpy(np.where(seen, maps / np.where(seen, total, 1), 0).astype(np.complex128))
    low, high = total[seen].min(), total.max()
    if low < 1 - TOLERANCE or high > 1 + TOLERANCE:
        raise UserError(
            f"{name} are not normalised: their root sum of squares is {low:.3g} to {high:.3g} where they see anything, "
            "it must be 1: normalise: true divides by it"
        )
    return torch.from_numpy((maps / max(high, 1.0)).astype(np.complex128))


def calibration_width(mask: Tensor) -> int:
    """Side of the largest square in the middle of k-space that is measured, at most `MOST_CALIBRATION`.

    Args:
        mask: True = measured, (H, W).
    """
    height, width = mask.shape
    for side in range(min(MOST_CALIBRATION, height, width), 0, -1):
        if mask[_middle(height, side)][:, _middle(width, side)].all():
            return side
    return 0


def _middle(size: int, length: int) -> slice:
    """``length`` entries about the zero frequency, which is entry size // 2."""
    start = size // 2 - length // 2
    return slice(start, start + length)


def estimated_sensitivities(kspace: Tensor, width: int) -> Tensor:
    """ESPIRiT's sensitivities, (coils, H, W), sum_c |S_c|^2 = 1.

    Patches of `KERNEL` x `KERNEL` numbers of all coils, from the middle of k-space, span a space of few dimensions. At
    each pixel the projection onto it is a matrix (coils, coils), of which S is the eigenvector with eigenvalue 1. The
    phase is that of the image as the first coil sees it. Where there is no signal the largest eigenvalue is below 1;
    its eigenvector is kept (the authors put 0), so that y measures the air too, which comes out dark.

    Source: Uecker et al., Magnetic Resonance in Medicine 71:990-1001 (2014), equations 8 to 12; thresholds of its code.

    Args:
        kspace: (coils, H, W), its zero frequency in the middle.
        width: side of the measured square in the middle, see `calibration_width`.

    Raises:
        UserError: if that is too small, or no signal is found.
    """
    if width < LEAST_CALIBRATION:
        raise UserError(
            f"a block of {width}x{width} in the middle of k-space is measured, ESPIRiT needs "
            f"{LEAST_CALIBRATION}x{LEAST_CALIBRATION}: give sensitivities"
        )
    values, vectors = torch.linalg.eigh(_projection_at_pixels(kspace, width))
    if values.max() < EIGENVALUE:
        raise UserError("ESPIRiT finds no signal in the middle of k-space: give sensitivities")
    maps = vectors[..., -1].movedim(-1, 0)
    return maps * torch.sgn(maps[:1]).conj()


def _projection_at_pixels(kspace: Tensor, width: int) -> Tensor:
    """The projection onto the space of patches, at each pixel: (H, W, coils, coils), Hermitian, norm at most about 1.

    At pixel r it is the sum over pairs of places l, m in the kernel of P(l, m) exp(2 pi i (l - m) r / N) / K^2, P the
    projection of patches: the transform of what P has for each difference l - m.
    """
    coils, height, columns = kspace.shape
    middle = kspace[:, _middle(height, width)][:, :, _middle(columns, width)]
    patches = middle.unfold(1, KERNEL, 1).unfold(2, KERNEL, 1).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    _, levels, spanning = torch.linalg.svd(patches, full_matrices=False)
    spanning = spanning[levels > SPANNED * levels[0]].unflatten(1, (coils, KERNEL**2))
    place = torch.stack(torch.meshgrid(torch.arange(KERNEL), torch.arange(KERNEL), indexing="ij")).flatten(1)
    lags = place[:, :, None] - place[:, None]
    index = (lags[0] + height // 2) * columns + lags[1] + columns // 2
    projection = torch.einsum("rcl,rdm->cdlm", spanning, spanning.conj())
    by_lag = kspace.new_zeros(coils, coils, height * columns)
    by_lag.index_add_(2, index.flatten(), projection.flatten(2))
    at_pixels = centred_ifft(by_lag.unflatten(2, (height, columns))) * (height * columns) ** 0.5 / KERNEL**2
    return at_pixels.permute(2, 3, 0, 1)


def projection_residual(maps: Tensor, kspace: Tensor, width: int) -> float:
    """||c - S S^H c|| / ||c||, c the coils' images of the measured square in the middle of k-space.

    What of the data the sensitivities cannot explain: noise, and what is wrong with them (or lies where they are 0).

    Args:
        maps: S, (coils, H, W), sum_c |S_c|^2 = 1 or 0.
        kspace: (coils, H, W).
        width: side of the square.
    """
    rows, columns = _middle(kspace.shape[-2], width), _middle(kspace.shape[-1], width)
    middle = torch.zeros_like(kspace)
    middle[:, rows, columns] = kspace[:, rows, columns]
    coils = centred_ifft(middle)
    explained = maps * (maps.conj() * coils).sum(dim=0)
    return float(torch.linalg.vector_norm(coils - explained) / torch.linalg.vector_norm(coils))
