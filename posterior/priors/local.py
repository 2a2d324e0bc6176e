"""A prior of photographs of any size: a fully convolutional network, and large pictures by tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posterior.checks import MOST_CHANNELS, MOST_SIDE, length, whole
from posterior.errors import UserError
from posterior.priors.diffusion import DiffusionPrior
from posterior.priors.network import Compile, MemoryFormat
from posterior.priors.noise_schedule import NoiseSchedule
from posterior.priors.unet import MOST_BLOCKS, MOST_LEVELS, MOST_PARAMETERS, timestep_embedding, zero

EMBEDDING = 64
"""Sinusoids of the timestep; what is made of them is four times as wide."""


class LocalBlock(nn.Module):
    """Two convolutions and a skip; the norm is over the channels of a pixel, and the noise level scales and shifts it.

    Source: the norm as in Chen et al., "Simple Baselines for Image Restoration", ECCV 2022; scale and shift as in
    Dhariwal and Nichol, NeurIPS 2021. The second convolution starts at zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(4 * EMBEDDING, 2 * channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        zero(self.second)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, None, None].chunk(2, dim=-1)
        h = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2])
        h = torch.addcmul(shift, h, 1 + scale).permute(0, 3, 1, 2)
        return x + self.second(F.silu(self.first(h)))


class LocalUNet(nn.Module):
    """A UNet that sees each pixel's neighbourhood and nothing else: no attention, no norm over the picture.

    Pixels are folded into channels first (pixel unshuffle). Going down and up a level halves and doubles the sides with
    kernels that do not overlap, and skips are added. A picture whose sides are no multiples of `stride` is continued by
    reflection to the right and below. `reach` is how far a pixel sees at most, in pixels.

    Args:
        in_channels: channels of the image.
        patch_size: side of the square of pixels that is folded, >= 1.
        widths: channels of each level, finest first.
        down_blocks: residual blocks of each level on the way down; the last entry is of the bottom.
        up_blocks: on the way up, an entry less.

    Raises:
        UserError: if a number is out of range, the three lists do not fit each other, or the network would have more
            than `MOST_PARAMETERS`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        patch_size: int = 2,
        widths: Sequence[int] = (64, 128, 256),
        down_blocks: Sequence[int] = (1, 1, 3),
        up_blocks: Sequence[int] = (2, 2),
    ) -> None:
        super().__init__()
        whole("LocalUNet", "in_channels", in_channels, 1, MOST_CHANNELS)
        whole("LocalUNet", "patch_size", patch_size, 1, 64)
        length("LocalUNet", "widths", widths, 1, MOST_LEVELS)
        length("LocalUNet", "down_blocks", down_blocks, len(widths), len(widths))
        length("LocalUNet", "up_blocks", up_blocks, len(widths) - 1, len(widths) - 1)
        for width in widths:
            whole("LocalUNet", "widths", width, 1, MOST_CHANNELS)
        for count in (*down_blocks, *up_blocks):
            whole("LocalUNet", "blocks", count, 0, MOST_BLOCKS)
        self.in_channels, self.patch_size = in_channels, patch_size
        self.size_multiple, self.stride = 1, patch_size * 2 ** (len(widths) - 1)
        convolutions = [2 * (down + up) for down, up in zip(down_blocks, [*up_blocks, 0], strict=True)]
        convolutions[0] += 2  # stem and output
        sight = sum(count * patch_size * 2**level for level, count in enumerate(convolutions))
        self.reach = (-(-sight // self.stride) + 1) * self.stride  # a bottom cell's pixels share what they see there

        with torch.device("meta"):  # shapes without memory
            self._build(widths, down_blocks, up_blocks)
        count = sum(parameter.numel() for parameter in self.parameters())
        if count > MOST_PARAMETERS:
            raise UserError(f"LocalUNet: these settings make {count:.2g} parameters, more than {MOST_PARAMETERS:.0e}")
        self._build(widths, down_blocks, up_blocks)

    def _build(self, widths: Sequence[int], down_blocks: Sequence[int], up_blocks: Sequence[int]) -> None:
        folded, steps = self.in_channels * self.patch_size**2, list(pairwise(widths))
        self.embed = nn.Sequential(nn.Linear(EMBEDDING, 4 * EMBEDDING), nn.SiLU())
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down = nn.ModuleList([_blocks(width, count) for width, count in zip(widths, down_blocks, strict=True)])
        self.up = nn.ModuleList([_blocks(width, count) for width, count in zip(widths, up_blocks, strict=False)])
        self.coarser = nn.ModuleList([nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps])
        self.finer = nn.ModuleList([nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps])
        self.out = nn.Conv2d(widths[0], folded, 3, padding=1)
        zero(self.out)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Images z (B, C, H, W) of any size and timesteps (B,), fractional ones allowed -> (B, C, H, W)."""
        height, width = x.shape[-2:]
        embedding = self.embed(timestep_embedding(timesteps, EMBEDDING))
        h = self.stem(F.pixel_unshuffle(continued(x, self.stride), self.patch_size))
        skips = []
        for level, blocks in enumerate(self.down):
            h = self.coarser[level - 1](h) if level else h
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, embedding)
            skips.append(h)
        for level in reversed(range(len(self.up))):
            h = skips[level] + self.finer[level](h)
            for block in self.up[level]:  # type: ignore[attr-defined]
                h = block(h, embedding)
        return F.pixel_shuffle(self.out(h), self.patch_size)[..., :height, :width]


def _blocks(width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList([LocalBlock(width) for _ in range(count)])


def continued(x: Tensor, multiple: int) -> Tensor:
    """Images (..., H, W) continued by reflection to the right and below, until the sides are multiples.

    Of a side of one pixel the pixel is repeated; a side shorter than what is missing is reflected to and fro.
    """
    for dim in (-2, -1):
        side = x.shape[dim]
        if missing := -side % multiple:
            period = max(1, 2 * side - 2)
            place = torch.arange(side + missing, device=x.device) % period
            x = x.index_select(dim, torch.minimum(place, (period - place).abs()) if side > 1 else 0 * place)
    return x


@dataclass(frozen=True)
class Tile:
    """A part of one side of a picture.

    Args:
        kept: the part itself.
        seen: what a network must see for it.
        inside: the part within what is seen.
    """

    kept: slice
    seen: slice
    inside: slice


def tiles(side: int, tile: int, reach: int) -> Iterator[Tile]:
    """Cover a side of so many pixels by parts for none of which more than ``tile`` pixels are seen.

    Args:
        side: in pixels.
        tile: in pixels, > 2 reach.
        reach: how far a pixel sees. All parts begin at multiples of what divides ``tile`` and it.
    """
    start = 0
    while start < side:
        seen_from = max(0, start - reach)
        stop = side if side - seen_from <= tile else seen_from + tile - reach
        yield Tile(
            slice(start, stop), slice(seen_from, min(side, stop + reach)), slice(start - seen_from, stop - seen_from)
        )
        start = stop


class LocalPrior(DiffusionPrior):
    """A frozen `LocalUNet` that predicts v, for pictures of any height and width.

    A picture with a side above ``tile`` is computed by tiles that overlap by what a pixel sees: the result is that of
    the whole picture, to rounding, and the network's memory is that of a tile (not so if a gradient is to flow back).
    Predicting v is the preconditioning of Karras et al. (NeurIPS 2022) for data of unit variance: the network's part in
    D vanishes with sigma.

    Args:
        network: the module.
        noise_schedule: the levels that it was trained on.
        checkpoint: state dict to load strictly; None leaves the network as it is.
        tile: longest side in pixels that is computed at once, a multiple of the network's stride and more than twice
            what a pixel sees.
        compile, memory_format: see `posterior.priors.NetworkPrior`.

    Raises:
        UserError: if the tile or the checkpoint does not fit; on evaluation outside the schedule's range of sigma.
    """

    def __init__(
        self,
        network: LocalUNet,
        noise_schedule: NoiseSchedule | None = None,
        checkpoint: Path | None = None,
        tile: int = 1024,
        compile: Compile | None = None,
        memory_format: MemoryFormat = "channels_last",
    ) -> None:
        whole("LocalPrior", "tile", tile, 2 * network.reach + network.stride, MOST_SIDE)
        if tile % network.stride:
            raise UserError(f"LocalPrior: tile must be a multiple of the network's stride {network.stride}, got {tile}")
        super().__init__(network, noise_schedule, "v", checkpoint, compile, memory_format)
        self.tile, self.reach, self.stride = tile, network.reach, network.stride

    def check_images(self, image_shape: Sequence[int]) -> str | None:
        """As any prior. A picture smaller than what a pixel sees to each side works, and gets a line."""
        line = super().check_images(image_shape)
        height, width = image_shape[1:]
        if line is not None or min(height, width) >= self.reach:
            return line
        return (
            f"{type(self).__name__}: images of {height}x{width} are smaller than the {self.reach} pixels that the "
            "network sees to each side: it works, but their border bears upon every pixel"
        )

    def call_network(self, x: Tensor, levels: Tensor) -> Tensor:
        """As any network prior, by tiles of one image at a time if x (B, C, H, W) is large."""
        height, width = x.shape[-2:]
        if max(height, width) <= self.tile:
            return super().call_network(x, levels)
        x = continued(x, self.stride)
        output = torch.empty_like(x)
        places = list(product(*(list(tiles(side, self.tile, self.reach)) for side in x.shape[-2:])))
        for (rows, columns), row in product(places, range(len(x))):  # one by one: memory is that of a single tile
            one = slice(row, row + 1)
            found = super().call_network(x[one, :, rows.seen, columns.seen], levels[one])
            output[one, :, rows.kept, columns.kept] = found[..., rows.inside, columns.inside]
        return output[..., :height, :width]
