"""What a network keeps for a backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior.priors import UNet


def memory() -> dict[str, tuple[float, float]]:
    """Print what DPS keeps of the network, an image, with and without ``checkpoint_activations``.

    Counted are the bytes of all tensors that autograd saves in a forward pass in float32, each storage once, weights
    left out; what one block needs while it is computed again comes on top. Untrained networks of the shapes of
    configs/prior/toon_faces32.yaml, ffhq256.yaml and imagenet256.yaml, on the CPU (the last needs 10 GB, a minute).

    Returns:
        name -> MiB without and with checkpointing.
    """
    small = {"patch_size": 2, "num_channels": 64, "channel_mult": (1, 2, 2), "learn_sigma": False}
    large = {"num_channels": 256, "num_res_blocks": 2, "attention_resolutions": (32, 16, 8)}
    networks = {
        "toon faces 32x32": UNet(32, attention_resolutions=(8,), num_head_channels=32, resblock_updown=False, **small),  # type: ignore[arg-type]
        "FFHQ 256x256": UNet(256, num_channels=128, attention_resolutions=(16,), num_head_channels=64),
        "ImageNet 256x256": UNet(256, num_head_channels=64, **large),  # type: ignore[arg-type]
    }
    found = {}
    for name, network in networks.items():
        network.requires_grad_(False).eval()
        side = 32 if "32x32" in name else 256
        found[name] = (kept(network, side, False), kept(network, side, True))
        weights = sum(parameter.nbytes for parameter in network.parameters()) / 2**20
        print(f"{name}: {found[name][0]:.0f} MiB, checkpointed {found[name][1]:.0f} MiB; weights {weights:.0f} MiB")
    return found


def kept(network: UNet, side: int, checkpointed: bool) -> float:
    """MiB that a forward pass of one image (3, side, side) saves for its backward pass."""
    network.checkpoint_activations = checkpointed
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    alive: list[Tensor] = []  # a freed storage's address would be given to the next one

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        return tensor

    x = torch.zeros(1, 3, side, side).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(x, torch.full((1,), 500.0))
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in alive}
    del output
    return sum(size for place, size in sizes.items() if place not in weights) / 2**20
