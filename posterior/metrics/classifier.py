"""The class of a handwritten digit, as a calibrated probability; and features of digits for distances between sets."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from posterior.checkpoint import load_checkpoint
from posterior.errors import UserError
from posterior.shipped import CONFIGS

SHIPPED = CONFIGS / "data" / "digits_classifier.safetensors"
SIDE, CLASSES, WIDTH = 32, 10, 32
"""Side of its images, number of classes, channels of the first layer."""


class DigitClassifier(nn.Module):
    """p(class | image) of grey images 32x32 in [-1, 1], white on black, by five convolutions.

    Logits are divided by a temperature that was fitted to digits that the weights have not seen (Guo, Pleiss, Sun and
    Weinberger, "On Calibration of Modern Neural Networks", ICML 2017). Its card is configs/data/digits_classifier.md.
    """

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(1, WIDTH, 5, stride=2),
            *_convolution(WIDTH, WIDTH, 3),
            nn.MaxPool2d(2),
            *_convolution(WIDTH, 2 * WIDTH, 3),
            *_convolution(2 * WIDTH, 2 * WIDTH, 3),
            nn.MaxPool2d(2),
            *_convolution(2 * WIDTH, 4 * WIDTH, 3),
        )
        self.head = nn.Linear(4 * WIDTH, CLASSES)
        self.register_buffer("temperature", torch.ones(()))

    @classmethod
    def from_file(cls, path: Path = SHIPPED) -> DigitClassifier:
        """With the weights of a file, on the CPU, frozen; by default of that which ships.

        Raises:
            UserError: naming the file, if it is missing, unreadable, or of another network.
        """
        with torch.device("meta"):
            network = cls()
        network.to_empty(device="cpu")
        load_checkpoint(network, path)
        return network.requires_grad_(False).eval()

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees, (B, 128), of images (B, 1, 32, 32), not clipped.

        Raises:
            UserError: if images have another shape.
        """
        if x.shape[1:] != (1, SIDE, SIDE):
            raise UserError(f"DigitClassifier: images must be (1, {SIDE}, {SIDE}), these are {tuple(x.shape[1:])}")
        found: Tensor = self.layers(x).mean(dim=(2, 3))
        return found

    def logits(self, x: Tensor) -> Tensor:
        """Calibrated, (B, 10), of images (B, 1, 32, 32)."""
        found: Tensor = self.head(self.features(x)) / self.temperature
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (B, 10) of images (B, 1, 32, 32)."""
        return self.logits(x).softmax(dim=1)


def _convolution(channels: int, to: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(channels, to, kernel_size, stride, kernel_size // 2, bias=False)
    return [layer, nn.BatchNorm2d(to), nn.ReLU()]


@functools.cache
def shipped_classifier(device: torch.device | str = "cpu") -> DigitClassifier:
    """That which ships, read once for each device."""
    return DigitClassifier.from_file().to(device)


def calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Expected calibration error: mean over images of |accuracy - confidence| of their bin.

    Bins of equal width of the highest probability. Source: Guo et al., ICML 2017, equation 3.

    Args:
        probabilities: (N, C).
        labels: (N,).
        num_bins: >= 1.

    Raises:
        ValueError: if there is no image, or the numbers differ.
    """
    if not len(labels) or len(labels) != len(probabilities):
        raise ValueError(f"calibration_error: {len(probabilities)} predictions for {len(labels)} labels")
    confidence, found = probabilities.double().max(dim=1)
    place = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    gap = torch.zeros(num_bins, dtype=torch.float64).index_add_(0, place, (found == labels).double() - confidence)
    return float(gap.abs().sum()) / len(labels)
