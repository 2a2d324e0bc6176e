import json

import numpy as np
import pytest
import torch

from benchmarks.tools.recipe import fill_by_recipe
from posterior import UserError
from posterior.priors import UNet
from posterior.priors.unet import timestep_embedding

IGNORED = {"class_cond", "use_checkpoint", "use_fp16", "num_heads_upsample"}
"""Options of the reference's configuration that are off in every network here."""


def build(config: dict) -> UNet:
    config = {key: value for key, value in config.items() if key not in IGNORED}
    for key in ("channel_mult", "attention_resolutions"):
        config[key] = [int(part) for part in str(config[key]).split(",")] if config[key] else None
    return UNet(**config)


@pytest.mark.parametrize("name", ["unet_small", "unet_small_b", "unet_small_c"])
def test_small_networks_match_the_reference(golden, relative, name):
    expected = golden(name)
    network = build(json.loads(str(expected["config_json"])))
    assert list(network.state_dict()) == expected["keys"].tolist()
    fill_by_recipe(network)
    x = torch.from_numpy(expected["x"]).requires_grad_()
    y = network(x, torch.from_numpy(expected["timesteps"]))
    (grad,) = torch.autograd.grad((y * torch.from_numpy(expected["cotangent"])).sum(), x)
    assert relative(y, expected["y"]) < 1e-4
    assert relative(grad, expected["grad_x"]) < 1e-4
    embedding = timestep_embedding(torch.from_numpy(expected["timesteps"]), 32)
    np.testing.assert_allclose(embedding, expected["time_embedding_32"], atol=1e-6)


def test_the_full_ffhq_network_matches_the_reference(golden, relative, root):
    expected = golden("unet_ffhq_full")
    network = build(json.loads((root / "tests/data/unet_ffhq_manifest.json").read_text())["config"])
    fill_by_recipe(network)
    state = network.state_dict()
    assert list(state) == expected["keys"].tolist()
    sums = [float(tensor.double().sum()) for tensor in state.values()]
    np.testing.assert_allclose(sums, expected["param_sum"], rtol=1e-9, atol=1e-6)
    with torch.no_grad():
        y = network(torch.from_numpy(expected["x"]), torch.from_numpy(expected["timesteps"]))
    assert relative(y, expected["y"]) < 1e-4


@pytest.mark.parametrize("name", ["ffhq", "imagenet"])
def test_keys_and_shapes_are_those_of_the_checkpoints(root, name):
    manifest = json.loads((root / f"tests/data/unet_{name}_manifest.json").read_text())
    with torch.device("meta"):
        network = build(manifest["config"])
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == manifest["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest["num_parameters"]


def test_sizes_that_do_not_fit_are_said():
    network = UNet(image_size=32, num_channels=32, channel_mult=(1, 1, 1), attention_resolutions=())
    with pytest.raises(UserError, match="30x32 is not a multiple of 4"):
        network(torch.zeros(1, 3, 30, 32), torch.zeros(1))
    with pytest.raises(UserError, match="multiple of 32"):
        UNet(image_size=32, num_channels=48, channel_mult=(1,))
    with pytest.raises(UserError, match="channel_mult must be given"):
        UNet(image_size=48)
    with pytest.raises(UserError, match="attention heads"):
        UNet(image_size=32, num_channels=32, channel_mult=(1,), num_heads=33)
    with pytest.raises(UserError, match="96 channels cannot be split into attention heads of 64"):
        UNet(image_size=32, num_channels=96, channel_mult=(1,), num_head_channels=64)


def test_patches_fold_pixels_into_channels():
    """A patch size of 2 is the network of half the size, between the two shuffles."""
    settings = {"num_channels": 32, "channel_mult": (1, 1), "attention_resolutions": (4,), "learn_sigma": False}
    patched = UNet(image_size=16, patch_size=2, **settings)
    plain = UNet(image_size=8, in_channels=12, **settings)
    assert [tuple(p.shape) for p in patched.parameters()] == [tuple(p.shape) for p in plain.parameters()]
    fill_by_recipe(patched)
    plain.load_state_dict(patched.state_dict())
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    folded = torch.stack([x[:, :, i::2, j::2] for i in range(2) for j in range(2)], dim=2).flatten(1, 2)
    y = plain(folded, t).unflatten(1, (3, 4))
    for number, (i, j) in enumerate((i, j) for i in range(2) for j in range(2)):
        torch.testing.assert_close(patched(x, t)[:, :, i::2, j::2], y[:, :, number])
    assert patched.size_multiple == 4
    with pytest.raises(UserError, match="patch_size must be >= 1"):
        UNet(image_size=16, patch_size=0, **settings)


def test_an_untrained_network_predicts_zero():
    network = UNet(image_size=16, num_channels=32, channel_mult=(1, 1), attention_resolutions=(8,))
    assert network(torch.randn(1, 3, 16, 16), torch.zeros(1)).abs().max() == 0


def test_checkpointed_activations_give_the_same_gradient_from_less_memory():
    settings = {"image_size": 32, "num_channels": 32, "channel_mult": (1, 2), "attention_resolutions": (16,)}
    networks = [UNet(**settings, checkpoint_activations=flag) for flag in (False, True)]
    fill_by_recipe(networks[0])
    networks[1].load_state_dict(networks[0].state_dict())
    x, kept, grads = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), [], []
    for network in networks:
        network.requires_grad_(False).eval()
        z, bytes_kept = x.clone().requires_grad_(), []

        def pack(tensor, bytes_kept=bytes_kept):
            bytes_kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = network(z, torch.full((2,), 300.0)).square().sum()
        kept.append(sum(bytes_kept))
        grads.append(torch.autograd.grad(out, z)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
    assert kept[1] < 0.35 * kept[0]
