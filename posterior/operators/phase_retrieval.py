"""Phase retrieval: the amplitude of the Fourier transform is seen, its phase is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from posterior.checks import real
from posterior.operators.base import Operator, OperatorFamily

MOST_OVERSAMPLE = 64.0
"""8 sizes of zeros on each side: 289 times the image."""


class FourierAmplitude(Operator):
    """|F x| per channel: F pads with zeros, then transforms (orthonormal), zero frequency in the middle.

    The image turned by 180 degrees has the same amplitudes: what is measured does not tell the two apart.

    Args:
        image_shape: (C, H, W).
        margin: zeros on each side, (rows, columns).
    """

    def __init__(self, image_shape: Sequence[int], margin: tuple[int, int]) -> None:
        super().__init__(image_shape)
        self.margin = margin

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        channels, height, width = self.image_shape
        return (channels, height + 2 * self.margin[0], width + 2 * self.margin[1])

    def _transform(self, x: Tensor) -> Tensor:
        rows, columns = self.margin
        padded = F.pad(x, (columns, columns, rows, rows))
        spectrum = torch.fft.fft2(torch.fft.ifftshift(padded, dim=(-2, -1)), norm="ortho")
        return torch.fft.fftshift(spectrum, dim=(-2, -1))

    def forward(self, x: Tensor) -> Tensor:
        return self._transform(x).abs()

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """Re F^H (v F x / |F x|); where an amplitude is 0, which has no derivative, its share is 0."""
        back = torch.fft.ifftshift(v * torch.sgn(self._transform(x)), dim=(-2, -1))
        padded = torch.fft.fftshift(torch.fft.ifft2(back, norm="ortho").real, dim=(-2, -1))
        (rows, columns), (height, width) = self.margin, self.image_shape[-2:]
        return padded[..., rows : rows + height, columns : columns + width]

    def view(self, y: Tensor) -> Tensor:
        """log(1 + |y|), each image scaled to its own range, at the image's size."""
        levels = y.abs().log1p()
        low, high = levels.amin(dim=(1, 2, 3), keepdim=True), levels.amax(dim=(1, 2, 3), keepdim=True)
        return super().view(2 * (levels - low) / (high - low).clamp_min(1e-12) - 1)


class PhaseRetrieval(OperatorFamily):
    """Amplitudes of the oversampled Fourier transform, as in DPS (images stay in [-1, 1]).

    Zeros are padded on each side, ``int(oversample / 8 * size)`` of them: a quarter of the image's size at 2.0, at any
    size (the DPS code has the size 256 built in).

    Args:
        oversample: >= 0 (DPS: 2.0), at most `MOST_OVERSAMPLE`.

    Raises:
        UserError: if oversample is out of range.
    """

    def __init__(self, oversample: float = 2.0) -> None:
        real("PhaseRetrieval", "oversample", oversample, least=0, most=MOST_OVERSAMPLE)
        self.oversample = oversample

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> FourierAmplitude:
        rows, columns = (int(self.oversample / 8 * size) for size in image_shape[1:])
        return FourierAmplitude(image_shape, (rows, columns))
