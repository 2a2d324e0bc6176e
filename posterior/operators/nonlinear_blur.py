"""Nonlinear blur: a trained network that blurs as a camera in motion does."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posterior.checkpoint import load_checkpoint
from posterior.errors import UserError
from posterior.operators.base import Operator, OperatorFamily

CODE_CHANNELS = 512
CODE_STD = 1.2
"""Standard deviation of the blur codes that DPS draws."""
STRIDE = 128
"""The image's side over the code's."""


class ResidualBlock(nn.Module):
    """h + conv2(relu(conv1(h)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.conv2(F.relu(self.conv1(h)))


class AdapterLevel(nn.Module):
    """One level of the adapter: halve, go deeper (at the bottom: append the blur code), double."""

    def __init__(self, widths: Sequence[int], outermost: bool = True) -> None:
        super().__init__()
        outer, inner, *deeper = widths
        convolution = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=False)
        self.down = nn.Sequential(convolution) if outermost else nn.Sequential(nn.LeakyReLU(0.2), convolution)
        self.submodule = AdapterLevel([inner, *deeper], outermost=False) if deeper else None
        up = nn.ConvTranspose2d(2 * inner, outer, 4, stride=2, padding=1, bias=outermost)
        self.up = nn.Sequential(nn.ReLU(), up)

    def forward(self, h: Tensor, code: Tensor) -> Tensor:
        down = self.down(h)
        if self.submodule is None:
            return self.up(torch.cat([down, code], dim=1))
        return self.up(torch.cat([self.submodule(down, code), down], dim=1))


class Adapter(nn.Module):
    """Features and blur code -> features of the blurred image."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AdapterLevel([64, 64, 128, 256, 512, CODE_CHANNELS])

    def forward(self, features: Tensor, code: Tensor) -> Tensor:
        return self.model(features, code).tanh()


class KernelWizard(nn.Module):
    """The blur network of "Exploring Image Deblurring via Encoded Blur Kernel Space" (Tran et al., CVPR 2021).

    The part that blurs, with the published state-dict keys (`feature_extractor`, `adapter`, `recon_trunk`); that which
    estimates codes (`kernel_extractor`) is left out. Negative entries of a code have no effect (a ReLU takes them).
    """

    def __init__(self) -> None:
        super().__init__()

        def convolution(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inside, outside, 3, stride, padding=1)

        def leaky() -> nn.LeakyReLU:
            return nn.LeakyReLU(0.1)

        self.feature_extractor = nn.Sequential(
            *(convolution(3, 64), leaky(), convolution(64, 64, 2), leaky(), convolution(64, 64, 2), leaky()),
            *(ResidualBlock(64) for _ in range(10)),
        )
        self.adapter = Adapter()
        self.recon_trunk = nn.Sequential(
            *(ResidualBlock(64) for _ in range(20)),
            *(convolution(64, 256), nn.PixelShuffle(2), leaky()),
            *(convolution(64, 256), nn.PixelShuffle(2), leaky()),
            *(convolution(64, 64), leaky(), convolution(64, 3)),
        )

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], codes (B, 512, H/128, W/128) -> blurred images, not clipped."""
        return self.recon_trunk(self.adapter(self.feature_extractor(x), code)) + x


@functools.lru_cache(maxsize=4)
def kernel_wizard(checkpoint: Path, device: torch.device, dtype: torch.dtype) -> KernelWizard:
    """The frozen network, read once per process and device.

    Raises:
        UserError: naming the file, if it is missing or of another network.
    """
    network = KernelWizard()
    load_checkpoint(network, checkpoint, unused="kernel_extractor.")
    return network.to(device, dtype).requires_grad_(False).eval()


class EncodedBlur(Operator):
    """clip(2 N((x + 1) / 2, code) - 1): the network N with one blur code per image.

    Args:
        code: (B, 512, H/128, W/128).
        image_shape: (3, H, W).
        checkpoint: the network's weights; they do not travel with the operator between processes.
    """

    per_image = ("code",)

    def __init__(self, code: Tensor, image_shape: Sequence[int], checkpoint: Path) -> None:
        super().__init__(image_shape)
        self.code, self.checkpoint = code, checkpoint

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def forward(self, x: Tensor) -> Tensor:
        network = kernel_wizard(self.checkpoint, x.device, x.dtype)
        return (2 * network((x + 1) / 2, self.code.to(x)) - 1).clamp(-1, 1)


class NonlinearBlur(OperatorFamily):
    """The nonlinear deblurring measurement of DPS; each image's blur code is drawn once, from its stream.

    The code is the same in the measurement and whenever the operator is applied (the DPS code draws a new one at every
    call, so that its measurement and its guidance blur differently).

    Args:
        checkpoint: the published weights, ``GOPRO_wVAE.pth`` of the blur-kernel-space-exploring project.

    Raises:
        UserError: naming the file, if it is missing or of another network; on realisation, if the image is not in
            colour or its sides are no multiples of 128.
    """

    random = True

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = Path(checkpoint)
        if not self.checkpoint.is_file():
            raise UserError(
                f"NonlinearBlur: {self.checkpoint} does not exist; it is GOPRO_wVAE.pth of the project "
                "VinAIResearch/blur-kernel-space-exploring (its README links the file)"
            )
        kernel_wizard(self.checkpoint, torch.device("cpu"), torch.float32)  # a wrong file is named now

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> EncodedBlur:
        channels, height, width = image_shape
        if channels != 3 or height % STRIDE or width % STRIDE:
            raise UserError(
                f"NonlinearBlur: needs colour images with sides that are multiples of {STRIDE}, got {channels} "
                f"channels of {height}x{width}"
            )
        shape = (CODE_CHANNELS, height // STRIDE, width // STRIDE)
        code = torch.stack([CODE_STD * torch.randn(shape, generator=generator) for generator in streams])
        return EncodedBlur(code, image_shape, self.checkpoint)
