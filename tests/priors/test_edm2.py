"""EDM2's network is its authors', and its published pickles become priors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from benchmarks.tools.recipe import fill_by_recipe
from posterior import UserError
from posterior.priors import EDM2UNet, EDMPrior

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[1] / "data" / "edm2_golden.json.gz").read_bytes()))["cases"]
SMALL = GOLDEN[0]["settings"]


def filled(settings):
    """As the golden outputs were made: gains are 0 in a new network, and would hide what they multiply."""
    network = EDM2UNet(**settings).eval()
    fill_by_recipe(network)
    for key, value in network.state_dict().items():
        if key.endswith("gain"):
            value.fill_(0.7)
        elif key == "emb_fourier.freqs":
            value.mul_(100)
    return network


def images(channels, rows=2):
    return torch.randn(rows, channels, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(len(case["settings"])))
def test_keys_and_outputs_are_its_authors(case):
    settings = case["settings"]
    network = filled(settings)
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == case["keys"]
    labels = torch.eye(settings["label_dim"])[[1, 2]] if settings["label_dim"] else None
    found = network(images(settings["img_channels"]), torch.tensor([-0.7, 0.9]), labels)[:, :, ::3, ::3].flatten()
    torch.testing.assert_close(found, torch.tensor(case["output"]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_weights_count_by_their_direction_alone():
    """What makes it EDM2: a weight twice as large is the same weight (both so large that its eps does not count)."""
    networks = [filled(SMALL), filled(SMALL)]
    for network, factor in zip(networks, (1e4, 2e4), strict=True):
        for key, value in network.state_dict().items():
            if key.endswith("weight"):
                value.mul_(factor)
    first, second = (network(images(3), torch.tensor([-0.7, 0.9])) for network in networks)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


@torch.no_grad()
def test_it_is_a_prior_of_one_class():
    settings = GOLDEN[1]["settings"]
    priors = [EDMPrior(filled(settings), num_classes=4, label=label) for label in (1, 2)]
    x = images(3)
    assert (priors[0].channels, priors[0].size, priors[0].size_multiple) == (3, (8, 8), 2)
    for prior, label in zip(priors, (1, 2), strict=True):
        r = (0.7**2 + 0.5**2) ** 0.5
        noise = torch.full((2,), 0.7).log() / 4
        output = filled(settings)(x / r, noise, torch.eye(4)[[label, label]])
        torch.testing.assert_close(prior.denoise(x, 0.7), (0.5 / r) ** 2 * x + 0.7 * 0.5 / r * output)
    none = filled(settings)
    torch.testing.assert_close(none(x, noise), none(x, noise, torch.zeros(2, 4)))


@torch.no_grad()
def test_a_row_alone_is_the_row_in_a_batch():
    prior = EDMPrior(filled(SMALL))
    x, levels = images(3, 3), torch.tensor([0.01, 1.0, 50.0])
    together = prior.denoise(x, levels)
    for row in range(3):
        torch.testing.assert_close(prior.denoise(x[row : row + 1], levels[row : row + 1])[0], together[row])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"img_resolution": 7}, "EDM2UNet: img_resolution 7 is no multiple of 2"),
        ({"channel_mult": []}, "EDM2UNet: channel_mult must have 1 to"),
        ({"res_balance": 1.5}, "EDM2UNet: res_balance must be >= 0 and <= 1"),
        ({"clip_act": 0.0}, "EDM2UNet: clip_act must be > 0"),
        ({"resample_filter": [1, 2, 1]}, "EDM2UNet: resample_filter must have an even number"),
        ({"channels_per_head": 10}, "EDM2UNet: 32 channels cannot be split into 3 heads"),
        ({"model_channels": 4096, "channel_mult": [64, 64]}, "EDM2UNet: these settings make .* more than"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, told):
    with pytest.raises(UserError, match=told) as error:
        EDM2UNet(**(SMALL | settings))
    assert "\n" not in str(error.value)
