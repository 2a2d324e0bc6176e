"""Folders that diffusers has written, read by us: the denoiser is the one that its own schedulers compute."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.torch
import torch

from posterior import UserError
from posterior.priors import DiffusersPrior

diffusers = pytest.importorskip("diffusers")

SIDE = 8
SMALL = {
    "sample_size": SIDE,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
DDPM = {"clip_sample": False}


def network(**settings):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**(SMALL | settings)).eval()


def saved(folder, model, scheduler):
    """As a pipeline writes it."""
    diffusers.DDPMPipeline(model, scheduler).save_pretrained(folder)
    return folder


def images(sigma, channels=3):
    """As large as data and noise of sigma are, float64."""
    x = torch.randn(2, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x * (1 + sigma**2) ** 0.5


def close(found, expected):
    """To 1e-6 of what a denoiser's numbers are made of: images of size 1, or noise."""
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= 1e-6 * scale


def levels_of(scheduler):
    """(t, abar_t, sigma_t) over the range. In float64: theirs are rounded, by up to 1e-3 of a timestep."""
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    scheduler.set_timesteps(1000)
    for t in (0, 1, 50, 400, 998):
        abar = scheduler.alphas_cumprod[t]
        yield t, abar, float(((1 - abar) / abar).sqrt())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    "betas",
    [{"beta_schedule": "linear"}, {"beta_schedule": "squaredcos_cap_v2"}, {"rescale_betas_zero_snr": True}],
    ids=lambda betas: next(iter(betas.values())),
)
def test_the_denoiser_is_the_schedulers(tmp_path, kind, prediction, betas):
    model, scheduler = network(), getattr(diffusers, kind)(prediction_type=prediction, **DDPM, **betas)
    prior = DiffusersPrior(saved(tmp_path, model, scheduler)).double()
    assert (prior.channels, prior.size, prior.size_multiple, prior.value_range) == (3, (SIDE, SIDE), 2, (-1, 1))
    model.double()
    found = list(levels_of(scheduler))
    assert prior.sigma_min == pytest.approx(found[0][2])
    for t, abar, sigma in found:
        x = images(sigma)
        x_t = abar.sqrt() * x
        theirs = scheduler.step(model(x_t, t).sample, t, x_t).pred_original_sample
        close(prior.denoise(x, sigma), theirs)
        close(prior.denoise(x, torch.tensor([sigma, sigma], dtype=torch.float64)), theirs)
    with pytest.raises(UserError, match="outside"):
        prior.denoise(x, 1e6)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edms_scheduler(tmp_path, prediction):
    model = network()
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.6, sigma_max=50.0, prediction_type=prediction)
    prior = DiffusersPrior(saved(tmp_path, model, scheduler)).double()
    assert (prior.sigma_min, prior.sigma_max) == (0.002, 50.0)
    model.double()
    for sigma in (0.002, 0.3, 2.0, 50.0):
        x, level = images(sigma), torch.tensor(sigma, dtype=torch.float64)
        output = model(scheduler.precondition_inputs(x, level), scheduler.precondition_noise(level)).sample
        close(prior.denoise(x, sigma), scheduler.precondition_outputs(x, output, level))


@torch.no_grad()
def test_flow_matching(tmp_path):
    model, scheduler = network(), diffusers.FlowMatchEulerDiscreteScheduler()
    prior = DiffusersPrior(saved(tmp_path, model, scheduler)).double()
    model.double()
    for t in (0.001, 0.3, 0.9, 0.998):
        sigma = t / (1 - t)
        x = images(sigma)
        scheduler.set_timesteps(sigmas=[t])  # one step, to t = 0
        x_t = x / (1 + sigma)
        velocity = model(x_t, scheduler.timesteps[0].double()).sample
        close(prior.denoise(x, sigma), scheduler.step(velocity, scheduler.timesteps[0], x_t).prev_sample)


@torch.no_grad()
def test_networks_of_the_score_are_told_sigma(tmp_path):
    model = network(time_embedding_type="fourier")
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_max=50.0)
    prior = DiffusersPrior(saved(tmp_path, model, scheduler)).double()
    assert (prior.sigma_min, prior.sigma_max, prior.value_range) == (0.02, 100.0, (-1, 1))
    for sigma in (0.01, 1.0, 50.0):
        u = images(sigma)
        score = model.double()(u, torch.tensor([sigma, sigma], dtype=torch.float64)).sample
        close(prior.denoise(2 * u - 1, 2 * sigma), 2 * (u + sigma**2 * score) - 1)


def test_what_variance_exploding_pipelines_show_is_the_denoiser_mapped_to_0_1(tmp_path):
    """The last step of theirs is the denoiser at sigma_min, cut off outside [0, 1]."""
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.5, sigma_max=1.0, sampling_eps=0.0, correct_steps=0)
    pipeline = diffusers.ScoreSdeVePipeline(network(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    prior, calls = DiffusersPrior(tmp_path), []
    pipeline.unet.register_forward_pre_hook(lambda module, given: calls.append(given))
    rng = torch.Generator().manual_seed(0)
    pictures = pipeline(2, num_inference_steps=3, generator=rng, output_type="np").images
    u, levels = calls[-1]
    assert levels.tolist() == [0.5, 0.5]
    with torch.no_grad():
        found = (prior.denoise(2 * u - 1, 1.0) + 1) / 2
    expected = torch.from_numpy(pictures).movedim(-1, 1)
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.05
    torch.testing.assert_close(found.clamp(0, 1), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_class_and_a_learned_variance(tmp_path):
    model = network(num_class_embeds=4, out_channels=6)
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", **DDPM)
    folder = saved(tmp_path, model, scheduler)
    prior = DiffusersPrior(folder, label=2).double()
    model.double()
    x = images(1.0)
    for t, abar, sigma in levels_of(scheduler):
        x_t = abar.sqrt() * x
        output = model(x_t, t, class_labels=torch.tensor([2, 2])).sample
        theirs = scheduler.step(output, t, x_t).pred_original_sample
        denoised, fraction = prior.predict(x, sigma)
        close(denoised, theirs)
        close(fraction, (output[:, 3:] + 1) / 2)
    other = DiffusersPrior(folder, label=3)
    assert other.fingerprint() != prior.float().fingerprint()
    assert DiffusersPrior(folder, label=2).fingerprint() == prior.fingerprint()
    with pytest.raises(UserError, match="has 4 classes: label must say which"):
        DiffusersPrior(folder)
    with pytest.raises(UserError, match="label must be >= 0 and <= 3"):
        DiffusersPrior(folder, label=4)


def side_by_side(folder, target):
    """All files in one folder, with torch's weights and attention called as in 2022: the first ones of the hub."""
    target.mkdir(parents=True)
    shutil.copy(folder / "unet" / "config.json", target / "config.json")
    shutil.copy(folder / "scheduler" / "scheduler_config.json", target)
    state = safetensors.torch.load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        state = {key.replace(f".{new}.", f".{old}."): value for key, value in state.items()}
    torch.save(state, target / "diffusion_pytorch_model.bin")
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("pipeline"), network(), diffusers.DDPMScheduler(**DDPM))


def test_the_first_folders_of_the_hub(tmp_path, folder):
    old = DiffusersPrior(side_by_side(folder, tmp_path / "old"))
    assert old.fingerprint() == DiffusersPrior(folder).fingerprint()
    settings = json.loads((tmp_path / "old" / "scheduler_config.json").read_text())
    del settings["prediction_type"]  # not yet written then; the library's default was and is epsilon
    (tmp_path / "old" / "scheduler_config.json").write_text(json.dumps(settings))
    assert DiffusersPrior(tmp_path / "old").fingerprint() == old.fingerprint()


def test_a_hubs_name_is_looked_up_in_its_cache(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789012345678901234567890123456789"
    shutil.copytree(folder, tmp_path / "models--google--small" / "snapshots" / commit)
    (tmp_path / "models--google--small" / "refs").mkdir()
    (tmp_path / "models--google--small" / "refs" / "main").write_text(commit)
    theirs = pytest.importorskip("huggingface_hub").snapshot_download(
        "google/small", cache_dir=tmp_path, local_files_only=True
    )
    expected = DiffusersPrior(folder).fingerprint()
    assert DiffusersPrior(theirs).fingerprint() == expected
    for name in ("hf://google/small", f"hf://google/small@{commit}"):
        assert DiffusersPrior(name).fingerprint() == expected
    for name, told in {
        "hf://google/large": "hf://google/large is not in the cache .*, and nothing is downloaded here: run",
        "hf://google/small@other": "small@other is not in the cache .* 'posterior-sampling fetch hf://google/small@other'",
        "hf://small": "a name of the hub has the form hf://owner/name",
        "nowhere": "nowhere is not a folder",
    }.items():
        with pytest.raises(UserError, match=told) as error:
            DiffusersPrior(name)
        assert "\n" not in str(error.value)


def edited(path, **values):
    settings = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def weights(folder, change):
    state = safetensors.torch.load_file(folder / WEIGHTS)
    state["conv_in.bias"] = change(state["conv_in.bias"])
    safetensors.torch.save_file(state, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / UNET).unlink(), "unet/config.json is missing"),
        (lambda f: (f / SCHEDULER).unlink(), "scheduler_config.json is missing"),
        (lambda f: (f / WEIGHTS).unlink(), "unet has no weights"),
        (lambda f: (f / SCHEDULER).write_text("{"), "scheduler_config.json is not JSON"),
        (lambda f: (f / SCHEDULER).write_text("[]"), "scheduler_config.json must hold a mapping"),
        (
            lambda f: edited(f / SCHEDULER, _class_name="HeunScheduler"),
            "scheduler_config.json: _class_name 'HeunScheduler'",
        ),
        (lambda f: edited(f / SCHEDULER, _class_name=...), "scheduler_config.json: _class_name is missing"),
        (
            lambda f: edited(f / SCHEDULER, prediction_type="flow_prediction"),
            "scheduler_config.json: prediction_type 'flow_prediction' is not known here",
        ),
        (lambda f: edited(f / SCHEDULER, beta_schedule="wavy"), "scheduler_config.json: diffusers makes no DDPM"),
        (lambda f: edited(f / SCHEDULER, beta_start=-0.1), "scheduler_config.json: its betas are not all between"),
        (lambda f: edited(f / SCHEDULER, variance_type="learned_range"), "variance_type is 'learned_range', but the"),
        (lambda f: edited(f / UNET, _class_name="UNet2DConditionModel"), "_class_name 'UNet2DConditionModel' is not"),
        (lambda f: edited(f / UNET, time_embedding_type="learned"), "time_embedding_type 'learned' is not known"),
        (lambda f: edited(f / UNET, class_embed_type="identity"), "class_embed_type 'identity' is not known"),
        (lambda f: edited(f / UNET, out_channels=4), "out_channels is 4, which is neither in_channels 3"),
        (lambda f: edited(f / UNET, block_out_channels=[8, 12]), "weights .*model.safetensors is of another archi"),
        (lambda f: edited(f / UNET, down_block_types=["No", "No"]), "unet/config.json: diffusers makes no UNet2D"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "model.safetensors is not a readable"),
        (lambda f: weights(f, lambda b: b * torch.nan), "model.safetensors: conv_in.bias holds NaN"),
        (lambda f: weights(f, lambda b: b.int()), "model.safetensors: conv_in.bias is torch.int32"),
        (lambda f: weights(f, lambda b: b + 0j), "model.safetensors: conv_in.bias is torch.complex64"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_file_and_key(tmp_path, folder, spoil, told):
    shutil.copytree(folder, tmp_path / "copy")
    spoil(tmp_path / "copy")
    with pytest.raises(UserError, match=told) as error:
        DiffusersPrior(tmp_path / "copy")
    assert "\n" not in str(error.value)


def test_time_that_runs_the_other_way_is_refused(tmp_path):
    folder = saved(tmp_path, network(), diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    with pytest.raises(UserError, match=r"scheduler_config\.json: invert_sigmas is true"):
        DiffusersPrior(folder)


def test_half_precision_weights_and_other_sizes(tmp_path):
    prior = DiffusersPrior(saved(tmp_path, network().half(), diffusers.DDPMScheduler(**DDPM)))
    assert prior.denoise(images(1.0).float(), 1.0).dtype == torch.float32
    assert "a size that it was not made for" in prior.check_images((3, 16, 10))
    assert prior.denoise(torch.zeros(1, 3, 16, 10), 1.0).shape == (1, 3, 16, 10)
    with pytest.raises(UserError, match="sides that are multiples of 2"):
        prior.check_images((3, 9, 9))
