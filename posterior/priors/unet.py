"""The guided-diffusion UNet, with that project's state-dict keys, so that its checkpoints load strictly.

Source: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021. The layer facts that decide
parity (order of channels, scales, resampling) were checked against golden outputs; see tests/priors/test_unet.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posterior.checks import MOST_CHANNELS, MOST_SIDE, brief, check_label, length, real, whole
from posterior.errors import UserError

DEFAULT_CHANNEL_MULT = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}
MOST_PARAMETERS = 10_000_000_000
"""40 GB of weights in float32; the largest published network of this kind has 0.6 billion."""
MOST_LEVELS = MOST_SIDE.bit_length()
MOST_BLOCKS = 64
"""Residual blocks a level; published networks have 1 to 3."""


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoids of (fractional) timesteps (B,), cosines first: (B, width)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=timesteps.device) / half)
    phase = timesteps[:, None].float() * frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Downsample(nn.Module):
    """Halve the size: by a strided convolution (key ``op``) or, without ``channels``, by averaging."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if channels else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double the size by repetition, followed by a convolution (key ``conv``) if ``channels`` is given."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ResBlock(nn.Module):
    """Two normalised convolutions with the time embedding in between, and a skip.

    With ``resample`` both the main branch (before its first convolution) and the skip change size.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        dropout: float,
        scale_shift: bool,
        resample: type[Downsample] | type[Upsample] | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.resample = resample() if resample else nn.Identity()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(
            group_norm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, activation, convolution = self.in_layers
        h = convolution(self.resample(activation(norm(x))))
        shift = self.emb_layers(embedding)[..., None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + shift)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.resample(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels. Legacy order splits the 3C channels into heads first, the new into q, k, v."""

    def __init__(self, channels: int, num_heads: int, legacy_order: bool) -> None:
        super().__init__()
        self.num_heads, self.legacy_order = num_heads, legacy_order
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat))
        if self.legacy_order:
            heads = qkv.view(batch, self.num_heads, 3, channels // self.num_heads, -1).unbind(dim=2)
        else:
            heads = qkv.view(batch, 3, self.num_heads, channels // self.num_heads, -1).unbind(dim=1)
        q, k, v = (part.transpose(2, 3) for part in heads)  # (B, heads, pixels, channels per head)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(batch, channels, -1)
        return x + self.proj_out(attended).view_as(x)


class Block(nn.Sequential):
    """A sequence whose residual and attention blocks also get the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, (ResBlock, AttentionBlock)) else layer(x)
        return x


class UNet(nn.Module):
    """The guided-diffusion UNet; argument names are those of its configuration files.

    Args:
        image_size: side in pixels that the network is meant for; fixes where attention sits.
        num_channels: base of the widths, a multiple of 32.
        num_res_blocks: residual blocks per level.
        channel_mult: width of each level as a multiple of num_channels, finest first; None: the usual one of the size.
        learn_sigma: the output has 2 * in_channels channels, the second half the variance.
        attention_resolutions: sides in pixels at which attention is used.
        num_heads: attention heads where num_head_channels is -1.
        num_head_channels: channels per head, or -1.
        use_scale_shift_norm: the time embedding scales and shifts the second norm instead of being added.
        dropout: probability in [0, 1).
        resblock_updown: residual blocks change the size, instead of plain (strided) convolutions.
        use_new_attention_order: split into q, k, v before heads.
        in_channels: channels of the image.
        patch_size: fold patch_size x patch_size pixels into channels before the first level and unfold them after the
            last (pixel unshuffle), >= 1: at 2, four times the parameters at the same cost. The usual network has 1.
        checkpoint_activations: keep only each block's input for a backward pass and compute the rest again: DPS then
            needs a fraction of the memory, and a forward pass more for each backward one (`docs/pipeline.md`). The
            numbers stay the same.
        num_classes: of a class-conditional network (key ``label_emb``); None: it has no classes.
        label: the class that it is asked for, in 0, ..., num_classes - 1.

    Residual and attention branches and the output start at zero, as in guided-diffusion. What it is for is told by
    ``in_channels``, ``image_size`` and ``size_multiple``, of which the sides of all its images must be multiples.

    Raises:
        UserError: if a number is out of range, the widths do not fit the group norms or heads, the size does not fit
            the levels or has no usual channel_mult, a label is missing or too many, or the network would have more than
            `MOST_PARAMETERS`.
    """

    def __init__(
        self,
        image_size: int = 256,
        num_channels: int = 128,
        num_res_blocks: int = 1,
        channel_mult: Sequence[float] | None = None,
        learn_sigma: bool = True,
        attention_resolutions: Sequence[int] = (16,),
        num_heads: int = 4,
        num_head_channels: int = -1,
        use_scale_shift_norm: bool = True,
        dropout: float = 0.0,
        resblock_updown: bool = True,
        use_new_attention_order: bool = False,
        in_channels: int = 3,
        patch_size: int = 1,
        checkpoint_activations: bool = False,
        num_classes: int | None = None,
        label: int | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        check_label("UNet", num_classes, label)
        self.num_classes, self.label = num_classes, label
        whole("UNet", "image_size", image_size, 1, MOST_SIDE)
        whole("UNet", "num_channels", num_channels, 32, MOST_CHANNELS)
        whole("UNet", "num_res_blocks", num_res_blocks, 1, MOST_BLOCKS)
        whole("UNet", "num_heads", num_heads, 1, MOST_CHANNELS)
        if num_head_channels != -1:
            whole("UNet", "num_head_channels", num_head_channels, 1, MOST_CHANNELS)
        whole("UNet", "in_channels", in_channels, 1, MOST_CHANNELS)
        whole("UNet", "patch_size", patch_size, 1, 64)
        real("UNet", "dropout", dropout, least=0, below=1)
        length("UNet", "attention_resolutions", attention_resolutions, 0, MOST_LEVELS)
        if channel_mult is None:
            if image_size not in DEFAULT_CHANNEL_MULT:
                raise UserError(f"UNet: channel_mult must be given for image_size {image_size}")
            channel_mult = DEFAULT_CHANNEL_MULT[image_size]
        length("UNet", "channel_mult", channel_mult, 1, MOST_LEVELS)
        for mult in channel_mult:
            real("UNet", "channel_mult", mult, above=0, most=64)
        widths = [int(num_channels * mult) for mult in channel_mult]
        if any(width % 32 or not width for width in [num_channels, *widths]):
            raise UserError(f"UNet: every level's width must be a multiple of 32, got {brief(widths)}")
        self.num_channels = num_channels
        self.patch_size = patch_size
        self.in_channels, self.image_size = in_channels, image_size
        self.size_multiple = patch_size * 2 ** (len(widths) - 1)
        if image_size % self.size_multiple:
            raise UserError(
                f"UNet: image_size {image_size} is not a multiple of {self.size_multiple}, which {len(widths)} levels "
                f"after patches of {patch_size} need: take fewer entries of channel_mult, or another size"
            )
        side = image_size // patch_size
        for resolution in attention_resolutions:
            whole("UNet", "attention_resolutions", resolution, 1, MOST_SIDE)
            if resolution < side and side % resolution:
                raise UserError(
                    f"UNet: attention_resolutions: no level has the side {resolution}, which must divide {side}"
                )
        attention_factors = {side // resolution for resolution in attention_resolutions}

        def build() -> None:
            self._build(
                *(widths, num_res_blocks, in_channels * patch_size**2, 2 if learn_sigma else 1, attention_factors),
                *(num_heads, num_head_channels, use_scale_shift_norm, dropout, resblock_updown),
                use_new_attention_order,
            )

        with torch.device("meta"):  # shapes without memory
            build()
        count = sum(parameter.numel() for parameter in self.parameters())
        if count > MOST_PARAMETERS:
            raise UserError(f"UNet: these settings make {count:.2g} parameters, more than {MOST_PARAMETERS:.0e}")
        build()

    def _build(
        self,
        widths: list[int],
        num_res_blocks: int,
        in_channels: int,
        outputs: int,
        attention_factors: set[int],
        num_heads: int,
        num_head_channels: int,
        use_scale_shift_norm: bool,
        dropout: float,
        resblock_updown: bool,
        use_new_attention_order: bool,
    ) -> None:
        """Make the layers: ``in_channels``, pixels folded in, to ``outputs`` times as many."""
        base, embedding = self.num_channels, 4 * self.num_channels

        def res(channels: int, out: int, resample: type[Downsample] | type[Upsample] | None = None) -> ResBlock:
            return ResBlock(channels, out, embedding, dropout, use_scale_shift_norm, resample)

        def attention(channels: int) -> AttentionBlock:
            width = channels // num_heads if num_head_channels == -1 else num_head_channels
            if width < 1 or channels % width:
                raise UserError(f"UNet: {channels} channels cannot be split into attention heads of {width}")
            return AttentionBlock(channels, channels // width, legacy_order=not use_new_attention_order)

        self.time_embed = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if self.num_classes is not None:
            self.label_emb = nn.Embedding(self.num_classes, embedding)

        channels = widths[0]
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(in_channels, channels, 3, padding=1))])
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [res(channels, width)]
                channels = width
                if 2**level in attention_factors:
                    layers.append(attention(channels))
                self.input_blocks.append(Block(*layers))
                skips.append(channels)
            if level < len(widths) - 1:
                down = res(channels, channels, Downsample) if resblock_updown else Downsample(channels)
                self.input_blocks.append(Block(down))
                skips.append(channels)

        self.middle_block = Block(res(channels, channels), attention(channels), res(channels, channels))

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for index in range(num_res_blocks + 1):
                layers = [res(channels + skips.pop(), width)]
                channels = width
                if 2**level in attention_factors:
                    layers.append(attention(channels))
                if level and index == num_res_blocks:
                    layers.append(res(channels, channels, Upsample) if resblock_updown else Upsample(channels))
                self.output_blocks.append(Block(*layers))

        last = nn.Conv2d(channels, outputs * in_channels, 3, padding=1)
        self.out = nn.Sequential(group_norm(channels), nn.SiLU(), last)
        zero(last)
        for module in self.modules():
            if isinstance(module, ResBlock):
                zero(module.out_layers[-1])
            elif isinstance(module, AttentionBlock):
                zero(module.proj_out)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Images z (B, C, H, W) and timesteps (B,), fractional ones allowed -> (B, C or 2C, H, W).

        Raises:
            UserError: if H or W is not a multiple of `size_multiple`.
        """
        if x.shape[-1] % self.size_multiple or x.shape[-2] % self.size_multiple:
            raise UserError(
                f"UNet: image size {x.shape[-2]}x{x.shape[-1]} is not a multiple of {self.size_multiple}, "
                "which its levels need"
            )
        embedding = self.time_embed(timestep_embedding(timesteps, self.num_channels))
        if self.label is not None:
            embedding = embedding + self.label_emb.weight[self.label]
        h, skips = F.pixel_unshuffle(x, self.patch_size), []
        for block in self.input_blocks:
            h = self._run(block, h, embedding)
            skips.append(h)
        h = self._run(self.middle_block, h, embedding)
        for block in self.output_blocks:
            h = self._run(block, torch.cat([h, skips.pop()], dim=1), embedding)
        return F.pixel_shuffle(self.out(h), self.patch_size)

    def hint(self, state: Mapping[str, Tensor]) -> str:
        """Which settings a state dict of this architecture tells to be others, ending in ": ", or ""."""
        told = []
        outputs, classes = state.get("out.2.weight"), state.get("label_emb.weight")
        last = len(self.state_dict()["out.2.weight"])
        if outputs is not None and len(outputs) in (2 * last, last / 2):
            told.append(f"learn_sigma must be {str(len(outputs) > last).lower()}")
        if (classes is None) != (self.num_classes is None) or (
            classes is not None and len(classes) != self.num_classes
        ):
            told.append(f"num_classes must be {'null' if classes is None else len(classes)}")
        return f"{', '.join(told)}: " if told else ""

    def _run(self, block: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, h, embedding, use_reentrant=False, preserve_rng_state=self.training)
        return block(h, embedding)
