"""What tests of pictures' features and of distances between them share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from posterior.metrics import VGG16Pixels


@pytest.fixture(scope="session")
def pictures() -> Callable[..., torch.Tensor]:
    """pictures(count, seed, side): smooth random pictures that leave [-1, 1] a little."""

    def make(count: int, seed: int, side: int = 40) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed)
        coarse = torch.randn(count, 3, 5, 5, generator=rng) * 0.6
        return torch.nn.functional.interpolate(coarse, size=side, mode="bicubic")

    return make


@pytest.fixture
def vgg(lpips_weights) -> VGG16Pixels:
    return VGG16Pixels()
