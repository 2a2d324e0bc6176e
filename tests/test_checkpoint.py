"""Checkpoints as training code leaves them: prefixes, wrappers, averaged copies; and what does not fit, in one line."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from posterior import UserError
from posterior.checkpoint import load_checkpoint
from posterior.priors import DiffusionPrior, UNet

SMALL = {"image_size": 8, "num_channels": 32, "channel_mult": (1,), "attention_resolutions": (), "learn_sigma": False}


class Two(nn.Module):
    def __init__(self, value: float = 0.0):
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1)
        for parameter in self.parameters():
            nn.init.constant_(parameter, value)


def state(value, prefix="", dtype=torch.float32):
    return {f"{prefix}{key}": one.to(dtype) for key, one in Two(value).state_dict().items()}


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (state(1.0), None),
        (state(1.0, dtype=torch.float16), None),
        (state(1.0, "module."), "module"),
        (state(1.0, "model.module."), "model.module"),
        ({"state_dict": state(1.0, "module."), "epoch": 3}, "state_dict.module"),
        ({"model": state(1.0), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "step": 7}, "model"),
        ({"model": state(2.0), "ema": state(1.0)}, "ema"),
        ({"model": state(2.0), "model_ema": state(1.0), "step": torch.tensor(3)}, "model_ema"),
        (state(2.0, "online_model.") | state(1.0, "ema_model.") | {"step": torch.tensor(3)}, "ema_model"),
        ({"ema": state(2.0, "online_model.") | state(1.0, "ema_model.model.")}, None),
    ],
)
def test_the_weights_are_found_and_where_is_said(tmp_path, caplog, held, told):
    torch.save(held, tmp_path / "x.pt")
    network = Two()
    with caplog.at_level(logging.INFO):
        if told is None and "ema" in held:
            with pytest.raises(UserError, match="holds several networks that fit, "):
                load_checkpoint(network, tmp_path / "x.pt")
            return
        load_checkpoint(network, tmp_path / "x.pt")
    assert all((one == 1).all() for one in network.state_dict().values())
    assert ([f"the weights are those of {told}" in line for line in caplog.messages] == [True]) == (told is not None)


def test_of_several_none_is_guessed(tmp_path):
    torch.save({"generator": state(1.0), "teacher": state(2.0)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x.pt holds several networks that fit, generator, teacher: save the one"):
        load_checkpoint(Two(), tmp_path / "x.pt")


@pytest.mark.parametrize("extra", ["extra.weight", "first.weight", "scale"])
def test_a_key_too_many_beside_a_prefix_is_named(tmp_path, extra):
    torch.save(state(1.0, "module.") | {"step": torch.tensor(3), extra: torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=rf"Two: 1 unexpected: {extra} \(beside module\.\*\)$"):
        load_checkpoint(Two(), tmp_path / "x.pt")


def test_only_a_name_with_the_word_ema_is_an_averaged_copy(tmp_path):
    torch.save({"schema": state(1.0), "other": state(2.0)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="holds several networks that fit, schema, other: "):
        load_checkpoint(Two(), tmp_path / "x.pt")


def test_what_does_not_fit_is_told_of_the_closest(tmp_path):
    held = state(1.0, "module.")
    del held["module.second.bias"]
    torch.save({"other": {"x": torch.zeros(1)}, "model": held | {"module.third": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"Two: 1 missing: second.bias; 1 unexpected: third$"):
        load_checkpoint(Two(), tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("saved", "loaded", "told"),
    [
        ({"learn_sigma": True}, {}, "UNet: learn_sigma must be true: "),
        ({}, {"learn_sigma": True}, "UNet: learn_sigma must be false: "),
        ({"num_classes": 5, "label": 0}, {}, "UNet: num_classes must be 5: "),
        ({}, {"num_classes": 5, "label": 0}, "UNet: num_classes must be null: "),
        (
            {"num_classes": 4, "label": 0, "learn_sigma": True},
            {"num_classes": 5, "label": 0},
            "learn_sigma must be true, num_classes must be 4: ",
        ),
        ({"num_res_blocks": 2}, {}, r"UNet: \d+ unexpected"),
    ],
)
def test_the_setting_that_does_not_fit_a_guided_diffusion_checkpoint_is_named(tmp_path, saved, loaded, told):
    torch.save(UNet(**(SMALL | saved)).state_dict(), tmp_path / "x.pt")
    with pytest.raises(UserError, match=told) as error:
        load_checkpoint(UNet(**(SMALL | loaded)), tmp_path / "x.pt")
    assert "\n" not in str(error.value)


def test_a_class_conditional_network_adds_its_class_to_the_embedding(tmp_path):
    torch.manual_seed(0)
    network = UNet(**(SMALL | {"num_classes": 3, "label": 1}))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    torch.save(network.state_dict(), tmp_path / "x.pt")
    plain, other = UNet(**SMALL), UNet(**(SMALL | {"num_classes": 3, "label": 2}))
    shared = {key: value for key, value in network.state_dict().items() if key != "label_emb.weight"}
    shared["time_embed.2.bias"] = shared["time_embed.2.bias"] + network.label_emb.weight[1]
    plain.load_state_dict(shared)
    load_checkpoint(other, tmp_path / "x.pt")
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 500.0])
    torch.testing.assert_close(network(x, t), plain(x, t))
    assert (network(x, t) - other(x, t)).abs().max() > 1e-3


def test_two_classes_of_one_network_are_two_priors():
    settings = {"image_size": 8, "num_channels": 32, "channel_mult": (1,), "attention_resolutions": ()}
    networks = [UNet(**settings, num_classes=3, label=label) for label in (0, 0, 2)]
    for network in networks[1:]:
        network.load_state_dict(networks[0].state_dict())
    first, same, other = (DiffusionPrior(network).fingerprint() for network in networks)
    assert first == same != other
