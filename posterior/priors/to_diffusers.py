"""Our trained networks as folders that diffusers loads, without needing it.

Facts of the format: the layers of UNet2DModel and the keys of its state dict, as of diffusers 0.42. The two networks
are the same function to rounding; `tests/priors/test_to_diffusers.py` holds theirs against ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from posterior.errors import UserError
from posterior.priors.base import Prior
from posterior.priors.diffusion import DiffusionPrior
from posterior.priors.from_diffusers import NETWORK, PREDICTIONS, SCHEDULER, WEIGHTS
from posterior.priors.noise_schedule import CosineBetas, LinearBetas, NoiseSchedule
from posterior.priors.unet import AttentionBlock, Downsample, ResBlock, UNet

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Layers of a residual block: ours -> theirs."""


def write_diffusers(prior: Prior, folder: Path) -> int:
    """Write a pipeline's folder: ``DDPMPipeline.from_pretrained(folder)`` and `DiffusersPrior` load it.

    A network with patches is a UNet2DModel of images whose pixels are folded into channels (pixel unshuffle): the
    pipeline's pictures are then to be unfolded, and `DiffusersPrior` is told ``patch_size``.

    Args:
        prior: a `DiffusionPrior` of a `UNet`.
        folder: is made.

    Returns:
        The network's patch_size.

    Raises:
        UserError: if the format cannot hold the prior, saying why.
    """
    if type(prior) is not DiffusionPrior or not isinstance(prior.network, UNet):
        name = f"{type(prior).__name__} of a {type(getattr(prior, 'network', None)).__name__}"
        raise UserError(f"export: a {name} is no UNet2DModel: diffusers can hold a DiffusionPrior of a UNet alone")
    unet = prior.network
    settings, weights = network_settings(unet), network_weights(unet)
    learned = settings["out_channels"] > settings["in_channels"]
    scheduler = scheduler_settings(prior.noise_schedule, prior.prediction, learned)
    for name in ("unet", "scheduler"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    for path, values in (
        (folder / "model_index.json", index),
        (folder / "unet" / NETWORK, settings),
        (folder / "scheduler" / SCHEDULER, scheduler),
    ):
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    safetensors.torch.save_file(weights, folder / "unet" / WEIGHTS[0], metadata={"format": "pt"})
    return unet.patch_size


def scheduler_settings(schedule: NoiseSchedule, prediction: str, learned: bool) -> dict[str, Any]:
    """The scheduler's configuration.

    Args:
        schedule: the levels.
        prediction: of a `DiffusionPrior`.
        learned: whether the network gives a variance.
    """
    betas: dict[str, Any] = {"trained_betas": schedule.betas.tolist()}
    if isinstance(schedule, LinearBetas):
        betas = {"beta_schedule": "linear", "beta_start": schedule.betas[0], "beta_end": schedule.betas[-1]}
    elif isinstance(schedule, CosineBetas):
        betas = {"beta_schedule": "squaredcos_cap_v2"}
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.num_steps,
        **betas,
        "prediction_type": next(theirs for theirs, ours in PREDICTIONS.items() if ours == prediction),
        "variance_type": "learned_range" if learned else "fixed_small",
        "clip_sample": True,
    }


def _levels(unet: UNet) -> list[list[Any]]:
    """The blocks on the way down by level, each but the last ending with what halves the sides."""
    levels: list[list[Any]] = [[]]
    for block in list[Any](unet.input_blocks)[1:]:
        levels[-1].append(block)
        if _resamples(block[0]):
            levels.append([])
    return levels


def _resamples(layer: nn.Module) -> bool:
    return isinstance(layer, Downsample) or (isinstance(layer, ResBlock) and isinstance(layer.resample, Downsample))


def network_settings(unet: UNet) -> dict[str, Any]:
    """The configuration of a UNet2DModel.

    Raises:
        UserError: if there is none: another first width, or heads that differ from level to level.
    """
    levels = _levels(unet)
    widths = [level[0][0].out_layers[3].out_channels for level in levels]
    if widths[0] != unet.num_channels:
        raise UserError("export: UNet2DModel cannot hold a channel_mult that does not begin with 1")
    attention = [any(isinstance(layer, AttentionBlock) for block in level for layer in block) for level in levels]
    heads = {m.qkv.in_channels // m.num_heads for m in unet.modules() if isinstance(m, AttentionBlock)}
    if len(heads) > 1:
        raise UserError(f"export: UNet2DModel cannot hold heads of different widths {sorted(heads)}")
    residual = len(levels) > 1 and isinstance(levels[0][-1][0], ResBlock)
    plain = "Resnet{}sampleBlock2D" if residual else "{}Block2D"
    down = ["AttnDownBlock2D" if has else plain.format("Down") for has in attention]
    up = ["AttnUpBlock2D" if has else plain.format("Up") for has in reversed(attention)]
    resample = "resnet" if residual else "conv"
    return {
        "_class_name": "UNet2DModel",
        "sample_size": unet.image_size // unet.patch_size,
        "in_channels": unet.in_channels * unet.patch_size**2,
        "out_channels": len(unet.state_dict()["out.2.weight"]),
        "block_out_channels": widths,
        "layers_per_block": len(levels[-1]),
        "down_block_types": down,
        "up_block_types": up,
        "downsample_type": resample,
        "upsample_type": resample,
        "attention_head_dim": heads.pop(),
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if levels[0][0][0].scale_shift else "default",
        "num_class_embeds": unet.num_classes,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
    }


def network_weights(unet: UNet) -> dict[str, Tensor]:
    """The state dict of the UNet2DModel that `network_settings` describes."""
    found: dict[str, Tensor] = {}
    for name, layer in _named(unet):
        if isinstance(layer, ResBlock):
            for ours, theirs in RESIDUAL.items():
                _put(found, f"{name}.{theirs}", layer.get_submodule(ours))
        elif isinstance(layer, AttentionBlock):
            _put_attention(found, name, layer)
        else:
            _put(found, name, layer)
    return found


def _named(unet: UNet) -> Iterator[tuple[str, nn.Module]]:
    """Our layers by their names for them."""
    yield "time_embedding.linear_1", unet.time_embed[0]
    yield "time_embedding.linear_2", unet.time_embed[2]
    if unet.num_classes is not None:
        yield "class_embedding", unet.label_emb
    yield "conv_in", unet.input_blocks[0][0]  # type: ignore[index]
    for number, level in enumerate(_levels(unet)):
        blocks = level[:-1] if _resamples(level[-1][0]) else level
        yield from _stage(f"down_blocks.{number}", blocks)
        if blocks is not level:
            yield _resampler(f"down_blocks.{number}.downsamplers.0", level[-1][0])
    first, attention, second = unet.middle_block
    yield "mid_block.resnets.0", first
    yield "mid_block.attentions.0", attention
    yield "mid_block.resnets.1", second
    height = len(_levels(unet)[-1]) + 1
    blocks = list(unet.output_blocks)
    for number in range(len(blocks) // height):
        level = blocks[number * height : (number + 1) * height]
        last = level[-1][-1]
        rises = number < len(blocks) // height - 1
        yield from _stage(f"up_blocks.{number}", [*level[:-1], level[-1][:-1] if rises else level[-1]])
        if rises:
            yield _resampler(f"up_blocks.{number}.upsamplers.0", last)
    yield "conv_norm_out", unet.out[0]
    yield "conv_out", unet.out[2]


def _stage(name: str, blocks: Sequence[Any]) -> Iterator[tuple[str, nn.Module]]:
    for place, block in enumerate(blocks):
        yield f"{name}.resnets.{place}", block[0]
        if len(block) > 1:
            yield f"{name}.attentions.{place}", block[1]


def _resampler(name: str, layer: Any) -> tuple[str, nn.Module]:
    if isinstance(layer, ResBlock):
        return name, layer
    return f"{name}.conv", layer.op if isinstance(layer, Downsample) else layer.conv


def _put(found: dict[str, Tensor], name: str, layer: nn.Module) -> None:
    found.update({f"{name}.{key}": value.contiguous() for key, value in layer.state_dict().items()})


def _put_attention(found: dict[str, Tensor], name: str, layer: AttentionBlock) -> None:
    """Queries, keys and values lie in one convolution of ours, in either order; theirs are three linear layers."""
    _put(found, f"{name}.group_norm", layer.norm)
    for kind in ("weight", "bias"):
        joint = getattr(layer.qkv, kind).detach()
        shape = (layer.num_heads, 3, -1) if layer.legacy_order else (3, layer.num_heads, -1)
        parts = joint.flatten(1).view(*shape, *joint.shape[1:2]) if kind == "weight" else joint.view(shape)
        for part, one in zip(("to_q", "to_k", "to_v"), parts.unbind(1 if layer.legacy_order else 0), strict=True):
            found[f"{name}.{part}.{kind}"] = one.flatten(0, 1).contiguous()
        found[f"{name}.to_out.0.{kind}"] = getattr(layer.proj_out, kind).detach().flatten(1 if kind == "weight" else 0)
