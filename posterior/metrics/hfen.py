"""How well edges and fine structures are reconstructed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from posterior.measurement import Measurement
from posterior.metrics.base import ImageMetric
from posterior.metrics.mri import magnitude

SIZE, STD = 15, 1.5
"""Of the filter, pixels (Ravishankar and Bresler)."""


class HFEN(ImageMetric):
    """High-frequency error norm: ||L x - L truth|| / ||L truth||, L a Laplacian of a Gaussian.

    Ravishankar and Bresler, IEEE Trans. Med. Imaging 30 (2011), section IV: 15x15 pixels, standard deviation 1.5; the
    division is what later work has added. Of complex images (two channels) the magnitude, of others what is clipped
    to [-1, 1]; borders are continued, so that a flat picture has no edge there. Of a flat truth it is 0 for what is
    flat too, and otherwise has no finite value: the run names the image.
    """

    name = "hfen"

    def forward(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> Tensor:
        assert truth is not None
        found, wanted = (edges(_picture(image)).flatten(1) for image in (x, truth))
        off, size = (torch.linalg.vector_norm(part, dim=1) for part in (found - wanted, wanted))
        return torch.where(off == 0, 0, off / size)


def _picture(x: Tensor) -> Tensor:
    return magnitude(x)[:, None] if x.shape[1] == 2 else x.clamp(-1, 1)


def edges(x: Tensor) -> Tensor:
    """L x of images (B, C, H, W), 0 of what is flat."""
    side = torch.arange(SIZE, device=x.device, dtype=x.dtype) - SIZE // 2
    radius2 = side[:, None] ** 2 + side**2
    gaussian = torch.exp(-radius2 / (2 * STD**2))
    laplacian = gaussian / gaussian.sum() * (radius2 - 2 * STD**2) / STD**4
    kernel = (laplacian - laplacian.mean()).expand(x.shape[1], 1, -1, -1)
    padded = F.pad(x - x[..., :1, :1], 4 * (SIZE // 2,), mode="replicate")  # L of a constant is rounding alone
    return F.conv2d(padded, kernel, groups=x.shape[1])
