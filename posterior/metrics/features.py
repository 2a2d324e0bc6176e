"""Distances between sets of pictures, in the feature space of a network."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from posterior.checkpoint import load_checkpoint
from posterior.checks import whole
from posterior.errors import UserError

VGG16_WEIGHTS = "vgg16-397923af.pth"
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of the three colours on the scale [0, 1]: what torchvision's networks expect to be taken out."""


def hub_file(name: str) -> Path:
    """Where torch's hub keeps a file of weights; it may not be there, and nothing is downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def missing(name: str) -> str:
    """What to do about a file of weights that is not there, as the end of a sentence."""
    return (
        f"{name} is not in {hub_file(name).parent}: put https://download.pytorch.org/models/{name} there, or set "
        "TORCH_HOME to a folder that has it under hub/checkpoints"
    )


class VGG16Features(nn.Module):
    """The mean over positions of VGG16's last feature map, of images enlarged to ``side`` (bilinear): 512 numbers.

    torchvision's ImageNet weights, read from torch's hub folder; nothing is downloaded.

    Args:
        side: side in pixels to which images are resized, >= 32.

    Raises:
        UserError: if the weights are not there or not readable, or side is out of range.
    """

    def __init__(self, side: int = 64) -> None:
        super().__init__()
        whole("VGG16Features", "side", side, 32, 1024)
        if not hub_file(VGG16_WEIGHTS).is_file():
            raise UserError(f"VGG16's features need its weights: {missing(VGG16_WEIGHTS)}")
        self.side = side
        with torch.device("meta"):
            self.features = torchvision.models.vgg16().features  # keys as in the file
        self.features.to_empty(device="cpu")
        load_checkpoint(self, hub_file(VGG16_WEIGHTS), unused="classifier.")
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 512) of images (B, 3, H, W) in [-1, 1], clipped."""
        x = F.interpolate((x.clamp(-1, 1) + 1) / 2, size=(self.side, self.side), mode="bilinear")
        return self.features(normalize(x, IMAGENET_MEAN, IMAGENET_STD)).mean(dim=(2, 3))

    def of_set(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Features (N, 512), float64, of many images (N, 3, H, W)."""
        return torch.cat([self(batch) for batch in images.split(batch_size)]).double()


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (N, D), (M, D); float64.

    ||mean_x - mean_y||^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) (Heusel et al., NeurIPS 2017); it falls as the sets grow.

    Raises:
        ValueError: if a set has fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("frechet_distance needs at least two rows in each set")
    x, y = x.double(), y.double()
    values, vectors = torch.linalg.eigh(x.T.cov())
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ y.T.cov() @ root).clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * cross)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of two sets of features, kernel (a . b / D + 1)^3 (KID; Binkowski et al., ICLR 2018).

    Unlike the Fréchet distance its mean does not depend on the sets' sizes; it can be negative.

    Args:
        x, y: features (N, D), (M, D).

    Raises:
        ValueError: if a set has fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("kernel_distance needs at least two rows in each set")
    return float(_within(x).mean() + _within(y).mean() - 2 * _kernel(x, y).mean())


def kernel_distance_left_out(x: Tensor, y: Tensor) -> Tensor:
    """`kernel_distance` without row i of x, for every i, (N,): for jackknife errors, also of paired differences.

    Raises:
        ValueError: if x has fewer than three rows or y fewer than two.
    """
    if len(x) < 3 or len(y) < 2:
        raise ValueError("kernel_distance_left_out needs three rows of x and two of y")
    n = len(x)
    within, between = _within(x), _kernel(x, y).mean(dim=1)
    # the mean over ordered pairs without i: of the n (n - 1) pairs, 2 (n - 1) hold i
    without = (within.sum() * (n - 1) - 2 * within * (n - 1)) / ((n - 1) * (n - 2))
    return without + _within(y).mean() - 2 * (between.sum() - between) / (n - 1)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def _within(x: Tensor) -> Tensor:
    """Each row's mean kernel with the other rows."""
    kernel = _kernel(x, x)
    return (kernel.sum(dim=1) - kernel.diagonal()) / (len(x) - 1)
