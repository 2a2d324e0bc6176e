"""Our networks as folders that diffusers itself loads: the same function, held against ours."""

from __future__ import annotations

import pytest
import torch

from benchmarks.__main__ import run
from benchmarks.tools.recipe import fill_by_recipe
from posterior import UserError
from posterior.priors import CosineBetas, DiffusersPrior, DiffusionPrior, LocalPrior, LocalUNet, UNet
from posterior.priors.to_diffusers import write_diffusers
from tests.formats import CONFIGS, ROUNDING, made, sampled, shipped

SMALL = {"image_size": 16, "num_channels": 32, "channel_mult": (1, 2, 2), "attention_resolutions": (8,)}
LEVELS = (0.011, 0.3, 2.0, 30.0, 150.0)


def images(sigma):
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * (1 + sigma**2) ** 0.5


def filled(**settings) -> UNet:
    network = UNet(**(SMALL | {"num_head_channels": 16} | settings))
    fill_by_recipe(network)
    return network


@torch.no_grad()
@pytest.mark.parametrize(
    ("settings", "prior_settings"),
    [
        ({}, {}),
        ({"resblock_updown": False, "use_new_attention_order": True}, {"prediction": "v"}),
        ({"use_scale_shift_norm": False, "learn_sigma": False, "num_res_blocks": 2}, {"prediction": "x0"}),
        ({"patch_size": 2, "attention_resolutions": (4,)}, {"noise_schedule": CosineBetas(100)}),
        ({"attention_resolutions": (16, 4), "channel_mult": (1, 1, 2)}, {"noise_schedule": CosineBetas(50)}),
        ({"num_classes": 3, "label": 1}, {}),
    ],
)
def test_it_is_the_same_denoiser(tmp_path, settings, prior_settings):
    ours = DiffusionPrior(filled(**settings), **prior_settings)
    write_diffusers(ours, tmp_path)
    theirs = DiffusersPrior(tmp_path, settings.get("label"), settings.get("patch_size", 1))
    assert theirs.sigma_max == pytest.approx(ours.sigma_max, rel=1e-4)
    for sigma in LEVELS:
        if not ours.sigma_min < sigma < ours.sigma_max:
            continue
        x = images(sigma)
        (expected, wanted), (found, fraction) = ours.predict(x, sigma), theirs.predict(x, sigma)
        assert (found - expected).abs().max() <= 1e-5 * max(1, sigma)
        assert (wanted is None) == (fraction is None)
        assert wanted is None or (fraction - wanted).abs().max() <= 1e-5


def test_diffusers_own_loader_takes_the_folder(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    ours = DiffusionPrior(filled(learn_sigma=False))
    write_diffusers(ours, tmp_path)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    x, t = images(1.0), 400
    with torch.no_grad():
        expected = ours.network(x, torch.full((2,), float(t)))
        torch.testing.assert_close(pipeline.unet(x, t).sample, expected, rtol=1e-4, atol=1e-5)
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    levels = pipeline.scheduler.alphas_cumprod.double()
    torch.testing.assert_close(levels, torch.from_numpy(ours.noise_schedule.alphas_cumprod), rtol=1e-4, atol=0)


def test_the_shipped_prior_leaves_by_the_command_and_gives_the_native_runs_samples(tmp_path, capsys):
    pytest.importorskip("diffusers")
    folder = tmp_path / "toon"
    run("export", ["--prior", str(CONFIGS / "prior" / "toon_faces32.yaml"), "--output", str(folder)])
    assert "pixel_shuffle(x, 2)" in capsys.readouterr().out
    assert (sampled(made(tmp_path / "toon.json")) - sampled(shipped())).abs().max() < ROUNDING
    with pytest.raises(SystemExit):
        run("export", ["--prior", str(CONFIGS / "prior" / "toon_faces32.yaml"), "--output", str(folder)])
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prior", "told"),
    [
        (
            lambda: LocalPrior(LocalUNet(widths=(8,), down_blocks=(1,), up_blocks=())),
            "a LocalPrior of a LocalUNet",
        ),
        (lambda: DiffusionPrior(filled(channel_mult=(2, 2))), "a channel_mult that does not begin with 1"),
        (
            lambda: DiffusionPrior(filled(num_head_channels=-1, num_heads=2, attention_resolutions=(16,))),
            "of different",
        ),
    ],
)
def test_what_the_format_cannot_hold_is_said(tmp_path, prior, told):
    with pytest.raises(UserError, match=told):
        write_diffusers(prior(), tmp_path / "x")
    assert not (tmp_path / "x").exists()
