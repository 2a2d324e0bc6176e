"""The networks of EDM, with that project's state-dict keys, so that its weights load strictly.

`SongUNet` is DDPM++ and NCSN++, `DhariwalUNet` is ADM, both as EDM builds them. The code is ours; names of layers,
their order and their constants are facts of the format (NVlabs/edm, `training/networks.py`).

Source: Karras et al., NeurIPS 2022, arXiv:2206.00364, appendix F; Song et al., ICLR 2021 (DDPM++, NCSN++); Dhariwal and
Nichol, NeurIPS 2021 (ADM).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posterior.checks import MOST_CHANNELS, MOST_CLASSES, MOST_SIDE, brief, choice, length, real, whole
from posterior.errors import UserError
from posterior.priors.unet import MOST_BLOCKS, MOST_LEVELS, MOST_PARAMETERS

Sides = Literal["same", "half", "double"]
Embedding = Literal["positional", "fourier"]
Encoder = Literal["standard", "skip", "residual"]
Decoder = Literal["standard", "skip"]


class GroupNorm(nn.GroupNorm):
    """At most 32 groups, of at least 4 channels."""

    def __init__(self, channels: int, eps: float) -> None:
        groups = min(32, channels // 4)
        if not groups or channels % groups:
            raise UserError(f"EDM's networks: {channels} channels cannot be split into groups of 4 or more")
        super().__init__(groups, channels, eps)


class Convolution(nn.Module):
    """A convolution that may halve or double the sides, before it or (``fused``, of those that halve) after it.

    Args:
        channels, out_channels: in and out.
        kernel: its side; 0: sides are changed and nothing else.
        sides: what becomes of them.
        taps: the filter of what changes the sides, along one axis.
        fused: the filter comes after the convolution.
    """

    resample_filter: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        sides: Sides = "same",
        taps: Sequence[float] = (1, 1),
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels, self.kernel, self.sides, self.fused = out_channels, kernel, sides, fused
        if kernel:
            made = nn.Conv2d(channels, out_channels, kernel)  # for its initial values
            self.weight = made.weight
            self.bias = nn.Parameter(torch.zeros(out_channels))
        if sides != "same":
            row = torch.tensor(taps, dtype=torch.float32)
            self.register_buffer("resample_filter", torch.outer(row, row)[None, None] / row.sum() ** 2)

    def forward(self, x: Tensor) -> Tensor:
        fused = self.fused and self.sides == "half"
        if self.sides != "same" and not fused:
            x = self._resampled(x, (self.resample_filter.shape[-1] - 1) // 2)
        if self.kernel:
            margin = (self.resample_filter.shape[-1] - 1) // 2 if fused else 0
            x = F.conv2d(x, self.weight, padding=self.kernel // 2 + margin)
        if fused:
            x = self._resampled(x, 0)
        return x if not self.kernel else x + self.bias[:, None, None]

    def _resampled(self, x: Tensor, padding: int) -> Tensor:
        channels = x.shape[1]
        taps = self.resample_filter.to(x.dtype).expand(channels, -1, -1, -1)
        if self.sides == "half":
            return F.conv2d(x, taps, stride=2, padding=padding, groups=channels)
        return F.conv_transpose2d(x, 4 * taps, stride=2, padding=padding, groups=channels)


class EDMBlock(nn.Module):
    """Two normalised convolutions with the embedding in between, a skip, and self-attention if there are heads.

    Args:
        channels, out_channels: in and out.
        embedding: width.
        sides: what becomes of them.
        num_heads: of attention; 0: none.
        scale_shift: the embedding scales and shifts the second norm, instead of being added before it.
        skip_scale: what the sums are multiplied by.
        eps: of the norms.
        taps: see `Convolution`.
        project: the skip has weights wherever it changes sides.
        dropout: probability.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        sides: Sides,
        num_heads: int,
        *,
        scale_shift: bool,
        skip_scale: float,
        eps: float,
        taps: Sequence[float],
        project: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.channels, self.out_channels, self.num_heads = channels, out_channels, num_heads
        self.scale_shift, self.skip_scale, self.dropout = scale_shift, skip_scale, dropout
        self.norm0 = GroupNorm(channels, eps)
        self.conv0 = Convolution(channels, out_channels, 3, sides, taps)
        self.affine = nn.Linear(embedding, out_channels * (2 if scale_shift else 1))
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Convolution(out_channels, out_channels, 3)
        self.skip: nn.Module = nn.Identity()
        if channels != out_channels or sides != "same":
            kernel = 1 if project or channels != out_channels else 0
            self.skip = Convolution(channels, out_channels, kernel, sides, taps)
        if num_heads:
            if out_channels % num_heads:
                raise UserError(f"EDM's networks: {out_channels} channels cannot be split into {num_heads} heads")
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Convolution(out_channels, 3 * out_channels, 1)
            self.proj = Convolution(out_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        shift = self.affine(embedding)[..., None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), 1 + scale)
        else:
            h = self.norm1(h + shift)
        h = self.conv1(F.dropout(F.silu(h), self.dropout, self.training))
        x = (h + self.skip(x)) * self.skip_scale
        return (x + self._attended(x)) * self.skip_scale if self.num_heads else x

    def _attended(self, x: Tensor) -> Tensor:
        """A head's channels lie together; of each channel queries, keys and values do."""
        batch, channels = x.shape[:2]
        parts = self.qkv(self.norm2(x)).view(batch, self.num_heads, channels // self.num_heads, 3, -1)
        q, k, v = (part.transpose(2, 3) for part in parts.unbind(dim=3))  # (B, heads, pixels, channels per head)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape))


def sinusoids(x: Tensor, width: int, last: bool) -> Tensor:
    """Cosines, then sines of numbers (B,) times frequencies from 1 to 1 / 10000, (B, width).

    Args:
        last: the lowest frequency is one of them.
    """
    half = width // 2
    powers = torch.arange(half, device=x.device, dtype=torch.float32) / (half - last)
    phase = x[:, None] * ((1 / 10000) ** powers).to(x.dtype)
    return torch.cat([phase.cos(), phase.sin()], dim=1)


class FourierFeatures(nn.Module):
    """Cosines, then sines of numbers (B,) times random frequencies, which are part of the weights: (B, width)."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(width // 2))

    def forward(self, x: Tensor) -> Tensor:
        phase = x[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([phase.cos(), phase.sin()], dim=1)


def check_taps(who: str, taps: Sequence[float]) -> None:
    """Refuse a filter that cannot change sides.

    Raises:
        UserError: if it has an odd number of entries, or one is out of range, or they are all 0.
    """
    length(who, "resample_filter", taps, 2, 64)
    for tap in taps:
        real(who, "resample_filter", tap, least=0, most=1e6)
    if len(taps) % 2 or not sum(taps):
        raise UserError(f"{who}: resample_filter must have an even number of entries, not all 0, got {brief(taps)}")


def build_within_bounds(network: nn.Module, build: Callable[[], None]) -> None:
    """Make a network's layers, on nothing first: shapes without memory.

    Raises:
        UserError: if they would have too many parameters.
    """
    with torch.device("meta"):
        build()
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > MOST_PARAMETERS:
        raise UserError(
            f"{type(network).__name__}: these settings make {count:.2g} parameters, more than {MOST_PARAMETERS:.0e}"
        )
    build()


class EDMUNet(nn.Module, ABC):
    """What both networks share: blocks called by the side of their pictures, down and up again.

    Args:
        img_resolution: side of the images in pixels.
        in_channels, out_channels: of the images; out_channels as many.
        label_dim: number of classes; 0: none.
        augment_dim: of what training told of its augmentations; nothing is told here, which is how one samples.
        model_channels: base of the widths, >= 4.
        channel_mult: width of each level as a multiple of it, finest first.
        channel_mult_emb: width of the embedding as a multiple.
        num_blocks: residual blocks per level.
        attn_resolutions: sides in pixels at which attention is used.
        dropout: probability in [0, 1).
        label_dropout: of training; unused here.

    Raises:
        UserError: if a number is out of range, the size does not fit the levels, the widths do not fit the norms or
            heads, or the network would have more than `MOST_PARAMETERS`.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int,
        augment_dim: int,
        model_channels: int,
        channel_mult: Sequence[int],
        channel_mult_emb: int,
        num_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float,
        label_dropout: float,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        whole(who, "img_resolution", img_resolution, 1, MOST_SIDE)
        whole(who, "in_channels", in_channels, 1, MOST_CHANNELS)
        whole(who, "out_channels", out_channels, in_channels, in_channels)
        whole(who, "label_dim", label_dim, 0, MOST_CLASSES)
        whole(who, "augment_dim", augment_dim, 0, MOST_CHANNELS)
        whole(who, "model_channels", model_channels, 4, MOST_CHANNELS)
        whole(who, "channel_mult_emb", channel_mult_emb, 1, 64)
        whole(who, "num_blocks", num_blocks, 1, MOST_BLOCKS)
        length(who, "channel_mult", channel_mult, 1, MOST_LEVELS)
        for mult in channel_mult:
            whole(who, "channel_mult", mult, 1, 64)
        real(who, "dropout", dropout, least=0, below=1)
        real(who, "label_dropout", label_dropout, least=0, most=1)
        self.in_channels, self.image_size = in_channels, img_resolution
        self.size_multiple = 2 ** (len(channel_mult) - 1)
        if img_resolution % self.size_multiple:
            raise UserError(
                f"{who}: img_resolution {img_resolution} is no multiple of {self.size_multiple}, which "
                f"{len(channel_mult)} levels need"
            )
        self.embedding = model_channels * channel_mult_emb
        self.widths = [model_channels * mult for mult in channel_mult]
        self.num_blocks, self.attn_resolutions, self.dropout = num_blocks, set(attn_resolutions), dropout

    @abstractmethod
    def _build(self) -> None: ...

    @abstractmethod
    def _block(self, channels: int, out: int, sides: Sides = "same", attention: bool = False) -> EDMBlock: ...

    def _beside_down(self, name: str, channels: int) -> None:
        """What goes down beside the blocks, to a level with so many channels."""

    def _beside_up(self, name: str, channels: int, level: int) -> None:
        """What goes up beside the blocks, after those of a level with so many channels."""

    def _build_blocks(self, first: int, attend_all: bool) -> None:
        """The way down, ``enc``, and up, ``dec``.

        Args:
            first: channels that the image becomes.
            attend_all: on the way up all blocks of a level attend, not the last alone.
        """
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        names = [f"{side}x{side}" for side in (self.image_size >> level for level in range(len(self.widths)))]
        attend = [self.image_size >> level in self.attn_resolutions for level in range(len(self.widths))]
        channels, skips = first, [first]
        for level, width in enumerate(self.widths):
            name = names[level]
            if level == 0:
                self.enc[f"{name}_conv"] = Convolution(self.in_channels, first, 3)
            else:
                self.enc[f"{name}_down"] = self._block(channels, channels, "half")
                self._beside_down(name, channels)
                skips.append(channels)
            for index in range(self.num_blocks):
                self.enc[f"{name}_block{index}"] = self._block(channels, width, attention=attend[level])
                channels = width
                skips.append(channels)
        for level, width in reversed(list(enumerate(self.widths))):
            name = names[level]
            if level == len(self.widths) - 1:
                self.dec[f"{name}_in0"] = self._block(channels, channels, attention=True)
                self.dec[f"{name}_in1"] = self._block(channels, channels)
            else:
                self.dec[f"{name}_up"] = self._block(channels, channels, "double")
            for index in range(self.num_blocks + 1):
                attention = attend[level] and (attend_all or index == self.num_blocks)
                self.dec[f"{name}_block{index}"] = self._block(channels + skips.pop(), width, attention=attention)
                channels = width
            self._beside_up(name, channels, level)

    @abstractmethod
    def _embedded(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """The embedding of c_noise (B,) and classes (B, label_dim), (B, embedding)."""


class SongUNet(EDMUNet):
    """DDPM++ and NCSN++ as EDM builds them; argument names are those of its files.

    Args:
        img_resolution, in_channels, out_channels, label_dim, augment_dim: see `EDMUNet`.
        model_channels, channel_mult, channel_mult_emb, num_blocks, attn_resolutions: the same.
        dropout, label_dropout: the same.
        embedding_type: of the noise level: ``positional`` (DDPM++) or ``fourier`` (NCSN++).
        channel_mult_noise: its width as a multiple of model_channels.
        encoder_type: what goes down beside the blocks: nothing (``standard``), the image (``skip``), or what is made of
            it (``residual``, NCSN++).
        decoder_type: what goes up beside the blocks: nothing, or the image (``skip``).
        resample_filter: that changes sides, along one axis.

    Raises:
        UserError: as `EDMUNet`, or if the filter has an odd number of entries or they are all 0.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int = 3,
        out_channels: int = 3,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
        embedding_type: Embedding = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Encoder = "standard",
        decoder_type: Decoder = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__(
            *(img_resolution, in_channels, out_channels, label_dim, augment_dim, model_channels, channel_mult),
            *(channel_mult_emb, num_blocks, attn_resolutions, dropout, label_dropout),
        )
        choice("SongUNet", "embedding_type", embedding_type, Embedding)
        choice("SongUNet", "encoder_type", encoder_type, Encoder)
        choice("SongUNet", "decoder_type", decoder_type, Decoder)
        whole("SongUNet", "channel_mult_noise", channel_mult_noise, 1, 64)
        check_taps("SongUNet", resample_filter)
        self.first, self.noise = model_channels, model_channels * channel_mult_noise
        self.label_dim, self.augment_dim, self.taps = label_dim, augment_dim, tuple(resample_filter)
        self.embedding_type, self.encoder_type, self.decoder_type = embedding_type, encoder_type, decoder_type
        build_within_bounds(self, self._build)

    def _build(self) -> None:
        if self.embedding_type == "fourier":
            self.map_noise = FourierFeatures(self.noise)
        if self.label_dim:
            self.map_label = nn.Linear(self.label_dim, self.noise)
        if self.augment_dim:
            self.map_augment = nn.Linear(self.augment_dim, self.noise, bias=False)
        self.map_layer0 = nn.Linear(self.noise, self.embedding)
        self.map_layer1 = nn.Linear(self.embedding, self.embedding)
        self.beside = self.in_channels
        self._build_blocks(self.first, attend_all=False)

    def _block(self, channels: int, out: int, sides: Sides = "same", attention: bool = False) -> EDMBlock:
        return EDMBlock(
            *(channels, out, self.embedding, sides, 1 if attention else 0),
            scale_shift=False,
            skip_scale=0.5**0.5,
            eps=1e-6,
            taps=self.taps,
            project=True,
            dropout=self.dropout,
        )

    def _beside_down(self, name: str, channels: int) -> None:
        if self.encoder_type == "skip":
            self.enc[f"{name}_aux_down"] = Convolution(self.beside, self.beside, 0, "half", self.taps)
            self.enc[f"{name}_aux_skip"] = Convolution(self.beside, channels, 1)
        elif self.encoder_type == "residual":
            self.enc[f"{name}_aux_residual"] = Convolution(self.beside, channels, 3, "half", self.taps, fused=True)
            self.beside = channels

    def _beside_up(self, name: str, channels: int, level: int) -> None:
        if self.decoder_type != "skip" and level:
            return
        if self.decoder_type == "skip" and level < len(self.widths) - 1:
            self.dec[f"{name}_aux_up"] = Convolution(self.in_channels, self.in_channels, 0, "double", self.taps)
        self.dec[f"{name}_aux_norm"] = GroupNorm(channels, 1e-6)
        self.dec[f"{name}_aux_conv"] = Convolution(channels, self.in_channels, 3)

    def _embedded(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        if self.embedding_type == "fourier":
            embedding = self.map_noise(noise)
        else:
            embedding = sinusoids(noise, self.noise, last=True)
        cosines, sines = embedding.chunk(2, dim=1)
        embedding = torch.cat([sines, cosines], dim=1)
        if labels is not None:
            embedding = embedding + self.map_label(labels * self.label_dim**0.5)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))

    def forward(self, x: Tensor, noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """c_in x (B, C, H, W), c_noise (B,) and classes (B, label_dim) -> (B, C, H, W)."""
        embedding = self._embedded(noise, class_labels)
        skips: list[Tensor] = []
        beside = x
        for name, layer in self.enc.items():
            if name.endswith("aux_down"):
                beside = layer(beside)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + layer(beside)
            elif name.endswith("aux_residual"):
                x = skips[-1] = beside = (x + layer(beside)) / 2**0.5
            else:
                x = layer(x, embedding) if isinstance(layer, EDMBlock) else layer(x)
                skips.append(x)
        output: Tensor | None = None
        normed = x
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                output = layer(output)
            elif name.endswith("aux_norm"):
                normed = F.silu(layer(x))
            elif name.endswith("aux_conv"):
                output = layer(normed) if output is None else layer(normed) + output
            else:
                x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, embedding)
        assert output is not None
        return output


class DhariwalUNet(EDMUNet):
    """ADM as EDM builds it; argument names are those of its files.

    Args:
        img_resolution, in_channels, out_channels, label_dim, augment_dim: see `EDMUNet`.
        model_channels, channel_mult, channel_mult_emb, num_blocks, attn_resolutions: the same.
        dropout, label_dropout: the same.

    Raises:
        UserError: as `EDMUNet`.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int = 3,
        out_channels: int = 3,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            *(img_resolution, in_channels, out_channels, label_dim, augment_dim, model_channels, channel_mult),
            *(channel_mult_emb, num_blocks, attn_resolutions, dropout, label_dropout),
        )
        self.noise, self.label_dim, self.augment_dim = model_channels, label_dim, augment_dim
        build_within_bounds(self, self._build)

    def _build(self) -> None:
        if self.augment_dim:
            self.map_augment = nn.Linear(self.augment_dim, self.noise, bias=False)
        self.map_layer0 = nn.Linear(self.noise, self.embedding)
        self.map_layer1 = nn.Linear(self.embedding, self.embedding)
        if self.label_dim:
            self.map_label = nn.Linear(self.label_dim, self.embedding, bias=False)
        self._build_blocks(self.widths[0], attend_all=True)
        self.out_norm = GroupNorm(self.widths[0], 1e-5)
        self.out_conv = Convolution(self.widths[0], self.in_channels, 3)

    def _block(self, channels: int, out: int, sides: Sides = "same", attention: bool = False) -> EDMBlock:
        return EDMBlock(
            *(channels, out, self.embedding, sides, out // 64 if attention else 0),
            scale_shift=True,
            skip_scale=1.0,
            eps=1e-5,
            taps=(1, 1),
            project=False,
            dropout=self.dropout,
        )

    def _embedded(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        embedding = self.map_layer1(F.silu(self.map_layer0(sinusoids(noise, self.noise, last=False))))
        return F.silu(embedding if labels is None else embedding + self.map_label(labels))

    def forward(self, x: Tensor, noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """c_in x (B, C, H, W), c_noise (B,) and classes (B, label_dim) -> (B, C, H, W)."""
        embedding = self._embedded(noise, class_labels)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, EDMBlock) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, embedding)
        return self.out_conv(F.silu(self.out_norm(x)))
