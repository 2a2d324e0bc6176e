"""Autoencoders and priors of latents that diffusers has written: images and denoisers are those of its pipelines."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from lightning_cli import main
from posterior import Measurement, UserError
from posterior.noise import GaussianNoise
from posterior.operators import Decoded, SuperResolution
from posterior.priors import DiffusersDecoder, DiffusersPrior, LatentPrior
from posterior.reading import read_json
from tests.latents import LinearDecoder, gaussian_latents

diffusers = pytest.importorskip("diffusers")

SIDE, FACTOR = 4, 2
BLOCKS = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
UNET = {
    "sample_size": SIDE,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}


def autoencoder(kind="AutoencoderKL", **settings):
    torch.manual_seed(1)
    model = getattr(diffusers, kind)(**(BLOCKS | {"latent_channels": 4} | settings))
    if kind == "VQModel":  # codes as far apart as latents are; they start near 0
        nn.init.normal_(model.quantize.embedding.weight)
    return model.eval()


def pipeline(folder, vae, name="vae", channels=4):
    """unet/, scheduler/ and the autoencoder, as pipelines of diffusers lie in a folder."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(in_channels=channels, out_channels=channels, **UNET).eval()
    network.save_pretrained(folder / "unet")
    diffusers.DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    vae.save_pretrained(folder / name)
    return network


def latents(rows=2, channels=4):
    return torch.randn(rows, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize(
    ("settings", "unscaled"),
    [
        ({}, lambda z: z / 0.18215),
        ({"scaling_factor": 0.13025}, lambda z: z / 0.13025),
        ({"scaling_factor": 1.5, "shift_factor": -0.1}, lambda z: z / 1.5 - 0.1),
        (
            {"scaling_factor": 0.5, "latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0]},
            lambda z: (
                z * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1) / 0.5 + torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1)
            ),
        ),
        ({"use_quant_conv": False, "use_post_quant_conv": False}, lambda z: z / 0.18215),
    ],
    ids=["usual", "scaled", "shifted", "whitened", "no quant_conv"],
)
def test_images_are_those_of_the_autoencoder(tmp_path, settings, unscaled):
    model = autoencoder(**settings)
    model.save_pretrained(tmp_path)
    decoder, z = DiffusersDecoder(tmp_path), latents()
    assert (decoder.channels, decoder.latent_channels, decoder.factor) == (3, 4, FACTOR)
    assert decoder.latent_shape((3, 8, 16)) == (4, 4, 8)
    torch.testing.assert_close(decoder(z), model.decode(unscaled(z)).sample, rtol=0, atol=1e-5)
    assert decoder(z).std() > 0.05


@torch.no_grad()
def test_latents_of_a_vqmodel_are_moved_to_its_codes(tmp_path):
    model = autoencoder("VQModel", latent_channels=3, num_vq_embeddings=16, vq_embed_dim=2, scaling_factor=0.7)
    model.save_pretrained(tmp_path)
    decoder, z = DiffusersDecoder(tmp_path), latents(channels=2)
    assert decoder.latent_channels == 2
    torch.testing.assert_close(decoder(z), model.decode(z / 0.7).sample, rtol=0, atol=1e-5)
    codes = model.quantize.embedding.weight
    nearest = (z.movedim(1, -1)[..., None, :] / 0.7 - codes).square().sum(dim=-1).argmin(dim=-1)
    moved = codes[nearest].movedim(-1, 1)
    torch.testing.assert_close(decoder(z), decoder(0.7 * moved), rtol=0, atol=1e-5)


def test_images_and_denoiser_of_unconditional_latent_diffusion_are_its_pipelines(tmp_path):
    """The last step of LDMPipeline, from timestep 1 to no noise, is the denoiser, decoded."""
    vqvae = autoencoder("VQModel", latent_channels=3, num_vq_embeddings=16)
    network = pipeline(tmp_path, vqvae, "vqvae", 3)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    theirs = diffusers.LDMPipeline(vqvae, network, scheduler)
    theirs.set_progress_bar_config(disable=True)
    calls = []
    network.register_forward_pre_hook(lambda module, given: calls.append(given))
    pictures = theirs(2, torch.Generator().manual_seed(0), num_inference_steps=3, output_type="np").images
    z_t, t = calls[-1]
    kept = scheduler.alphas_cumprod[t]
    prior = LatentPrior(DiffusersPrior(tmp_path), DiffusersDecoder(tmp_path))
    with torch.no_grad():
        z = prior.latents.denoise(z_t / kept.sqrt(), float(((1 - kept) / kept).sqrt()))
        found = (prior.decoder(z) / 2 + 0.5).clamp(0, 1)
    expected = torch.from_numpy(pictures).movedim(-1, 1)
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("latent")
    pipeline(place, autoencoder())
    return place


def made(folder):
    return LatentPrior(DiffusersPrior(folder), DiffusersDecoder(folder))


@torch.no_grad()
def test_latents_are_denoised_as_diffusers_does(folder):
    prior, scheduler = made(folder), diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
    model = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    scheduler.set_timesteps(1000)
    for t in (0, 50, 400, 998):
        kept = scheduler.alphas_cumprod[t]
        sigma = float(((1 - kept) / kept).sqrt())
        z = latents() * (1 + sigma**2) ** 0.5
        z_t = kept.sqrt() * z
        theirs = scheduler.step(model(z_t, t).sample, t, z_t).pred_original_sample
        difference = (prior.latents.denoise(z, sigma) - theirs).abs().max()
        assert difference <= 1e-5 * max(1.0, float(theirs.abs().max()))
    assert (prior.channels, prior.size, prior.size_multiple) == (3, (8, 8), 4)
    assert prior.cost.forward == 8
    assert prior.check_images((3, 8, 8)) is None


def test_the_gradient_through_decoder_and_operator_is_that_of_finite_differences(folder):
    decoder = DiffusersDecoder(folder).double()
    inner = SuperResolution(2).realise((3, 8, 8)).to(torch.float64)
    z = latents().double()
    operator = Decoded(inner, decoder, (4, SIDE, SIDE))
    measurement = Measurement(torch.zeros(2, 3, 4, 4, dtype=torch.float64), operator, GaussianNoise(0.1))
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    slope = (measurement.log_likelihood_grad(z) * direction).flatten(1).sum(dim=1)
    h = 1e-5
    up, down = (-0.5 * measurement.distance(z + s * h * direction) ** 2 / 0.1**2 for s in (1, -1))
    torch.testing.assert_close(slope, (up - down) / (2 * h), rtol=1e-5, atol=1e-6)


def test_what_decides_the_images_is_in_the_fingerprint(folder, tmp_path):
    first, same = made(folder), made(folder)
    assert first.fingerprint() == same.fingerprint()
    with torch.no_grad():
        same.decoder.network.decoder.conv_out.bias += 1
    assert first.fingerprint() != same.fingerprint()
    assert LatentPrior(DiffusersPrior(folder), LinearChannels()).fingerprint() != first.fingerprint()


@pytest.fixture
def pictures(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    for name, picture in zip("ab", pixels, strict=True):
        Image.fromarray(picture).save(place / f"{name}.png")
    return place


SETTINGS = """\
model:
  prior:
    class_path: posterior.priors.LatentPrior
    init_args:
      prior: {{class_path: posterior.priors.DiffusersPrior, init_args: {{folder: {folder}}}}}
      decoder: {{class_path: posterior.priors.DiffusersDecoder, init_args: {{folder: {folder}}}}}
  sampler: sampler/in_latents
  num_samples: 2
data:
  class_path: datamodules.ImageFolder
  init_args:
    root: {pictures}
    operator: {{class_path: posterior.operators.SuperResolution, init_args: {{scale: 2}}}}
    likelihood: {{class_path: posterior.noise.GaussianNoise, init_args: {{sigma_y: 0.05}}}}
"""


def predict(place, folder, pictures, *arguments):
    """Two samples of each picture; the run's folder."""
    (place / "run.yaml").write_text(SETTINGS.format(folder=folder, pictures=pictures))
    target = place / "run"
    main(["predict", "--config", str(place / "run.yaml"), "--output.dir", str(target), *arguments])
    return target


@pytest.mark.usefixtures("no_lpips_weights")
@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        ("", (121, 0)),
        (
            "--model.sampler.sampler DPS --model.sampler.sampler.clip_denoised false "
            "--model.sampler.sampler.schedule RespacedSigmas --model.sampler.sampler.schedule.respacing 5",
            (5, 5),
        ),
    ],
    ids=["conditional", "DPS"],
)
def test_a_run_from_a_file_of_settings(tmp_path, folder, pictures, arguments, calls):
    target = predict(tmp_path, folder, pictures, *arguments.split())
    found = read_json(target / "metrics.json", "metrics")
    assert found["images"] == 2
    cost = found["metrics"]["sample"]
    assert (cost["nfe_forward"]["mean"], cost["nfe_backward"]["mean"]) == calls
    assert (target / "grid.png").stat().st_size > 1000


@pytest.mark.usefixtures("no_lpips_weights")
def test_a_sampler_of_images_is_one_line(tmp_path, folder, pictures, capsys):
    with pytest.raises(SystemExit):
        predict(tmp_path, folder, pictures, "--model.sampler", "DPS")
    assert "LatentPrior has no denoiser of images" in capsys.readouterr().err


class LinearChannels(LinearDecoder):
    """One that says nothing of its scale."""

    latent_channels = 4


def test_a_prior_of_latents_is_none_of_images(folder):
    with pytest.raises(UserError, match=r"these are latents, not images: there is an autoencoder, .*vae/config\.json"):
        DiffusersPrior(folder).check_images((4, SIDE, SIDE))


def test_another_scale_than_the_prior_was_trained_with_is_refused(tmp_path, folder):
    autoencoder(scaling_factor=0.13025).save_pretrained(tmp_path)
    told = r"trained on latents scaled by 0\.18215 \(.*vae/config\.json\), the decoder takes latents scaled by 0\.13025"
    with pytest.raises(UserError, match=told) as error:
        LatentPrior(DiffusersPrior(folder), DiffusersDecoder(tmp_path))
    assert "\n" not in str(error.value)
    autoencoder(latent_channels=3).save_pretrained(tmp_path / "three")
    with pytest.raises(UserError, match="the prior is of 4 channels, the decoder's latents have 3"):
        LatentPrior(DiffusersPrior(folder), DiffusersDecoder(tmp_path / "three"))
    prior = gaussian_latents().latents
    assert LatentPrior(prior, LinearDecoder()).channels == 3  # of nothing that tells its scale


def edited(path, **values):
    settings = read_json(path, "x") | values
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


def spoilt(path, change):
    state = safetensors.torch.load_file(path)
    state["decoder.conv_in.bias"] = change(state["decoder.conv_in.bias"])
    safetensors.torch.save_file(state, path)


WEIGHTS, CONFIG = "vae/diffusion_pytorch_model.safetensors", "vae/config.json"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: shutil.rmtree(f / "vae"), "has no autoencoder: neither config.json nor vae/ nor vqvae/"),
        (lambda f: (f / CONFIG).unlink(), "vae/config.json is missing: the autoencoder's configuration"),
        (lambda f: (f / WEIGHTS).unlink(), "vae has no weights"),
        (lambda f: edited(f / CONFIG, _class_name="AutoencoderDC"), "config.json: _class_name 'AutoencoderDC' is not"),
        (lambda f: edited(f / CONFIG, scaling_factor="one"), "config.json: scaling_factor must be a number, got 'one'"),
        (lambda f: edited(f / CONFIG, scaling_factor=0.0), "config.json: scaling_factor must be > 0"),
        (lambda f: edited(f / CONFIG, shift_factor=[True]), "shift_factor must be a number or a list of them"),
        (
            lambda f: edited(f / CONFIG, latents_mean=[0.0, 0.0], latents_std=[1.0, 1.0]),
            "config.json: its latents have 4 channels, their scale 2",
        ),
        (lambda f: edited(f / CONFIG, block_out_channels=[8, 8]), "weights .* is of another architecture"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "model.safetensors is not a readable"),
        (lambda f: spoilt(f / WEIGHTS, lambda b: b * torch.nan), "decoder.conv_in.bias holds NaN"),
        (lambda f: spoilt(f / WEIGHTS, lambda b: b.int()), "decoder.conv_in.bias is torch.int32"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_file_and_key(tmp_path, folder, spoil, told):
    shutil.copytree(folder, tmp_path / "copy")
    spoil(tmp_path / "copy")
    with pytest.raises(UserError, match=told) as error:
        DiffusersDecoder(tmp_path / "copy")
    assert "\n" not in str(error.value)
