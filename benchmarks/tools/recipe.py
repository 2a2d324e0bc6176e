"""Reproducible weights for a network of any size, where the trained ones are a download."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from posterior.priors import DiffusionPrior


def fill_by_recipe(network: nn.Module) -> None:
    """Fill a network with the reference recipe: seeded normal numbers, scaled by fan-in, gains near 1, small biases.

    Tensor number i of the state dict is drawn from a generator seeded 1000 + i.
    """
    for i, (key, tensor) in enumerate(network.state_dict().items()):
        _fill(tensor, key, 1000 + i)


def _fill(tensor: Tensor, key: str, seed: int) -> None:
    z = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
    if tensor.ndim >= 2:
        z = z / math.sqrt(math.prod(tensor.shape[1:]))
    elif key.endswith("weight"):
        z = 1 + 0.1 * z
    else:
        z = 0.05 * z
    tensor.copy_(z)


def fill_kernel_wizard_by_recipe(network: nn.Module, keys: Sequence[str]) -> None:
    """The recipe for the nonlinear blur, damped so that its output is not saturated.

    Args:
        network: a `posterior.operators.KernelWizard`.
        keys: all keys of the published file in order, those too that the network leaves out.
    """
    state = network.state_dict()
    for i, key in enumerate(keys):
        if key in state:
            _fill(state[key], key, 1000 + i)
            if ".conv2.weight" in key:
                state[key].mul_(0.25)
            if key == "recon_trunk.28.weight":
                state[key].mul_(0.2)
            if key.startswith("adapter.") and key.endswith("weight"):
                state[key].mul_(2)


def recipe_weights(prior: DiffusionPrior, output: Path) -> None:
    """Write recipe weights for a prior's network: a stand-in for a checkpoint, to try memory and speed.

    Args:
        prior: the prior, e.g. configs/prior/ffhq256.yaml, with its checkpoint set to null.
        output: the .pt file to write.
    """
    fill_by_recipe(prior.network)
    torch.save(prior.network.state_dict(), output)
    print(f"{output}: {sum(p.numel() for p in prior.network.parameters()):,} parameters")
