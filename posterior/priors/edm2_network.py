"""The network of EDM2, with that project's state-dict keys, so that its weights load strictly.

The code is ours; names of layers, their order and their constants are facts of the format (NVlabs/edm2,
`training/networks_edm2.py`).

Source: Karras, Aittala, Lehtinen, Hellsten, Aila, Laine, "Analyzing and Improving the Training Dynamics of Diffusion
Models", CVPR 2024, arXiv:2312.02696, appendix B; equations are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posterior.checks import MOST_CHANNELS, MOST_CLASSES, MOST_SIDE, length, real, whole
from posterior.errors import UserError
from posterior.priors.edm_networks import Sides, build_within_bounds, check_taps
from posterior.priors.unet import MOST_BLOCKS, MOST_LEVELS

SILU_GAIN = 1 / 0.596
"""Of silu(n), n normal, to magnitude 1 (equation 81)."""


def unit(x: Tensor, dims: Sequence[int]) -> Tensor:
    """x over its root mean square along ``dims``, and 1e-4 more (equation 30)."""
    norm = torch.linalg.vector_norm(x, dim=list(dims), keepdim=True, dtype=torch.float32)
    return x / (1e-4 + norm * (norm.numel() / x.numel()) ** 0.5).to(x.dtype)


def activated(x: Tensor) -> Tensor:
    """silu(x) of magnitude 1 (equation 81)."""
    return SILU_GAIN * F.silu(x)


def blended(a: Tensor, b: Tensor, t: float) -> Tensor:
    """a (1 - t) + b t, of magnitude 1 where a and b are and do not depend on each other (equation 88)."""
    return torch.lerp(a, b, t) / ((1 - t) ** 2 + t**2) ** 0.5


def joined(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Channels of a, then of b, with shares 1 - t and t of the magnitude, which is 1 (equation 103)."""
    total = ((a.shape[1] + b.shape[1]) / ((1 - t) ** 2 + t**2)) ** 0.5
    return torch.cat([total * (1 - t) / a.shape[1] ** 0.5 * a, total * t / b.shape[1] ** 0.5 * b], dim=1)


class UnitFourier(nn.Module):
    """sqrt(2) cos(f x + p) of numbers (B,), frequencies and phases part of the weights: (B, width) (equation 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * torch.pi * torch.randn(width))
        self.register_buffer("phases", 2 * torch.pi * torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return 2**0.5 * (x[:, None] * self.freqs + self.phases).cos()


class UnitLayer(nn.Module):
    """A linear map or a convolution whose weights are brought to length 1 at every call, so no bias (equation 47).

    Args:
        channels, out_channels: in and out.
        kernel: its side; 0: a linear map.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, channels, *(2 * [kernel] if kernel else [])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        weight = self.weight.float()
        weight = unit(weight, range(1, weight.ndim)) * (gain / weight[0].numel() ** 0.5)
        weight = weight.to(x.dtype)
        return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class EDM2Block(nn.Module):
    """Two convolutions with the embedding in between, blended with a skip, and self-attention if there are heads.

    Args:
        channels, out_channels: in and out.
        embedding: width.
        down: it is of the way down: the skip comes first, and the norm of each pixel is made 1.
        sides: what becomes of them.
        num_heads: of attention; 0: none.
        taps: of the filter that changes sides, along one axis.
        res_balance, attn_balance: share of the new in each blend.
        clip_act: bound on the output's size, or None.
    """

    resample_filter: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        *,
        down: bool,
        sides: Sides,
        num_heads: int,
        taps: Sequence[float],
        res_balance: float,
        attn_balance: float,
        clip_act: float | None,
    ) -> None:
        super().__init__()
        self.down, self.sides, self.num_heads = down, sides, num_heads
        self.res_balance, self.attn_balance, self.clip_act = res_balance, attn_balance, clip_act
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = UnitLayer(out_channels if down else channels, out_channels, 3)
        self.emb_linear = UnitLayer(embedding, out_channels, 0)
        self.conv_res1 = UnitLayer(out_channels, out_channels, 3)
        self.conv_skip = UnitLayer(channels, out_channels, 1) if channels != out_channels else None
        if num_heads:
            self.attn_qkv = UnitLayer(out_channels, 3 * out_channels, 1)
            self.attn_proj = UnitLayer(out_channels, out_channels, 1)
        row = torch.tensor(taps, dtype=torch.float32)
        square = torch.outer(row, row)[None, None] / row.sum() ** 2
        self.register_buffer("resample_filter", square, persistent=False)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self._resampled(x)
        if self.down:
            x = unit(x if self.conv_skip is None else self.conv_skip(x), [1])
        h = self.conv_res0(activated(x))
        scale = 1 + self.emb_linear(embedding, self.emb_gain)[..., None, None]
        h = self.conv_res1(activated(h * scale))
        if not self.down and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = blended(x, h, self.res_balance)
        if self.num_heads:
            x = blended(x, self._attended(x), self.attn_balance)
        return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.sides == "same":
            return x
        channels, padding = x.shape[1], (self.resample_filter.shape[-1] - 1) // 2
        taps = self.resample_filter.to(x.dtype).expand(channels, -1, -1, -1)
        if self.sides == "half":
            return F.conv2d(x, taps, stride=2, padding=padding, groups=channels)
        return F.conv_transpose2d(x, 4 * taps, stride=2, padding=padding, groups=channels)

    def _attended(self, x: Tensor) -> Tensor:
        """A head's channels lie together; of each channel queries, keys and values do. All have magnitude 1."""
        batch, channels = x.shape[:2]
        parts = self.attn_qkv(x).view(batch, self.num_heads, channels // self.num_heads, 3, -1)
        q, k, v = (part.transpose(2, 3) for part in unit(parts, [2]).unbind(dim=3))
        return self.attn_proj(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape))


class EDM2UNet(nn.Module):
    """The magnitude-preserving UNet of EDM2; argument names are those of its files.

    Args:
        img_resolution: side of the images in pixels.
        img_channels: of the images.
        label_dim: number of classes; 0: none.
        model_channels: base of the widths, >= 1.
        channel_mult: width of each level as a multiple of it, finest first.
        channel_mult_noise, channel_mult_emb: widths of the noise level's features and of the embedding as multiples;
            None: that of the first level, of the widest.
        num_blocks: blocks per level.
        attn_resolutions: sides in pixels at which attention is used.
        label_balance: share of the class in the embedding.
        concat_balance: share of the way down where it joins the way up.
        resample_filter: that changes sides, along one axis.
        channels_per_head: of attention; a level with fewer has none.
        dropout: of training; unused here.
        res_balance, attn_balance, clip_act: see `EDM2Block`.

    Raises:
        UserError: if a number is out of range, the size does not fit the levels, the widths do not fit the heads, or
            the network would have more than `MOST_PARAMETERS`.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        resample_filter: Sequence[float] = (1, 1),
        channels_per_head: int = 64,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256.0,
    ) -> None:
        super().__init__()
        who = "EDM2UNet"
        whole(who, "img_resolution", img_resolution, 1, MOST_SIDE)
        whole(who, "img_channels", img_channels, 1, MOST_CHANNELS)
        whole(who, "label_dim", label_dim, 0, MOST_CLASSES)
        whole(who, "model_channels", model_channels, 1, MOST_CHANNELS)
        whole(who, "num_blocks", num_blocks, 1, MOST_BLOCKS)
        whole(who, "channels_per_head", channels_per_head, 1, MOST_CHANNELS)
        length(who, "channel_mult", channel_mult, 1, MOST_LEVELS)
        for mult in (*channel_mult, channel_mult_noise or 1, channel_mult_emb or 1):
            whole(who, "channel_mult", mult, 1, 64)
        balances = {"label": label_balance, "concat": concat_balance, "res": res_balance, "attn": attn_balance}
        for name, balance in balances.items():
            real(who, f"{name}_balance", balance, least=0, most=1)
        if clip_act is not None:
            real(who, "clip_act", clip_act, above=0)
        check_taps(who, resample_filter)
        self.in_channels, self.image_size = img_channels, img_resolution
        self.size_multiple = 2 ** (len(channel_mult) - 1)
        if img_resolution % self.size_multiple:
            raise UserError(
                f"{who}: img_resolution {img_resolution} is no multiple of {self.size_multiple}, which "
                f"{len(channel_mult)} levels need"
            )
        self.widths = [model_channels * mult for mult in channel_mult]
        self.noise = self.widths[0] if channel_mult_noise is None else model_channels * channel_mult_noise
        self.embedding = max(self.widths) if channel_mult_emb is None else model_channels * channel_mult_emb
        self.label_dim, self.num_blocks, self.attn_resolutions = label_dim, num_blocks, set(attn_resolutions)
        self.label_balance, self.concat_balance, self.channels_per_head = (
            label_balance,
            concat_balance,
            channels_per_head,
        )
        self.block_settings: dict[str, Any] = {
            "taps": tuple(resample_filter),
            "res_balance": res_balance,
            "attn_balance": attn_balance,
            "clip_act": clip_act,
        }
        build_within_bounds(self, self._build)

    def _build(self) -> None:
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = UnitFourier(self.noise)
        self.emb_noise = UnitLayer(self.noise, self.embedding, 0)
        self.emb_label = UnitLayer(self.label_dim, self.embedding, 0) if self.label_dim else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        channels = self.widths[0]
        self.enc[f"{self.image_size}x{self.image_size}_conv"] = UnitLayer(self.in_channels + 1, channels, 3)
        skips = [channels]
        for level, width in enumerate(self.widths):
            side = self.image_size >> level
            if level:
                self.enc[f"{side}x{side}_down"] = self._block(channels, channels, "enc", "half")
                skips.append(channels)
            for index in range(self.num_blocks):
                attention = side in self.attn_resolutions
                self.enc[f"{side}x{side}_block{index}"] = self._block(channels, width, "enc", attention=attention)
                channels = width
                skips.append(channels)
        for level, width in reversed(list(enumerate(self.widths))):
            side = self.image_size >> level
            if level == len(self.widths) - 1:
                self.dec[f"{side}x{side}_in0"] = self._block(channels, channels, "dec", attention=True)
                self.dec[f"{side}x{side}_in1"] = self._block(channels, channels, "dec")
            else:
                self.dec[f"{side}x{side}_up"] = self._block(channels, channels, "dec", "double")
            for index in range(self.num_blocks + 1):
                attention, joint = side in self.attn_resolutions, channels + skips.pop()
                self.dec[f"{side}x{side}_block{index}"] = self._block(joint, width, "dec", attention=attention)
                channels = width
        self.out_conv = UnitLayer(channels, self.in_channels, 3)

    def _block(
        self, channels: int, out: int, way: Literal["enc", "dec"], sides: Sides = "same", attention: bool = False
    ) -> EDM2Block:
        num_heads = out // self.channels_per_head if attention else 0
        if num_heads and out % num_heads:
            raise UserError(f"EDM2UNet: {out} channels cannot be split into {num_heads} heads")
        return EDM2Block(
            *(channels, out, self.embedding),
            down=way == "enc",
            sides=sides,
            num_heads=num_heads,
            **self.block_settings,
        )

    def forward(self, x: Tensor, noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """c_in x (B, C, H, W), c_noise (B,) and classes (B, label_dim), None for no class -> (B, C, H, W)."""
        embedding = self.emb_noise(self.emb_fourier(noise))
        if self.emb_label is not None:
            labels = x.new_zeros(len(x), self.label_dim) if class_labels is None else class_labels
            embedding = blended(embedding, self.emb_label(labels * self.label_dim**0.5), self.label_balance)
        embedding = activated(embedding)
        x, skips = torch.cat([x, torch.ones_like(x[:, :1])], dim=1), []
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, EDM2Block) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            x = layer(joined(x, skips.pop(), self.concat_balance) if "_block" in name else x, embedding)
        return self.out_conv(x, self.out_gain)
