"""The DPS code's configuration files, in the form that its repository documents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image

from lightning_cli import main
from posterior import UserError
from posterior.dps_files import convert
from posterior.operators import OperatorFamily
from posterior.priors import Prior, UNet

FFHQ = """\
image_size: 256
num_channels: 128
num_res_blocks: 1
channel_mult: ""
learn_sigma: True
class_cond: False
use_checkpoint: False
attention_resolutions: 16
num_heads: 4
num_head_channels: 64
num_heads_upsample: -1
use_scale_shift_norm: True
dropout: 0.0
resblock_updown: True
use_fp16: False
use_new_attention_order: False
model_path: models/ffhq_10m.pt
"""
IMAGENET = FFHQ.replace("num_channels: 128", "num_channels: 256").replace("num_res_blocks: 1", "num_res_blocks: 2")
IMAGENET = IMAGENET.replace("attention_resolutions: 16", 'attention_resolutions: "32,16,8"').replace(
    "ffhq_10m", "imagenet256"
)
DIFFUSION = """\
sampler: ddpm
steps: 1000
noise_schedule: linear
model_mean_type: epsilon
model_var_type: learned_range
dynamic_threshold: False
clip_denoised: True
rescale_timesteps: False
timestep_respacing: 1000
"""
TASK = """\
conditioning:
  method: ps
  params:
    scale: 0.3
data:
  name: ffhq
  root: ./data/samples/
measurement:
  operator:
    name: gaussian_blur
    kernel_size: 61
    intensity: 3.0
  noise:
    name: gaussian
    sigma: 0.05
"""
GAUSSIAN = "    name: gaussian_blur\n    kernel_size: 61\n    intensity: 3.0\n"
INPAINTING = "    name: inpainting\n  mask_opt:\n    mask_type: random\n"
INPAINTING += "    mask_prob_range: !!python/tuple [0.3, 0.7]\n    image_size: 256\n"
SUPER_RESOLUTION = "    name: super_resolution\n    in_shape: !!python/tuple [1, 3, 256, 256]\n    scale_factor: 4\n"
OPERATORS = {
    GAUSSIAN: ("GaussianBlur", {"kernel_size": 61, "std": 3.0}),
    "    name: motion_blur\n    kernel_size: 61\n    intensity: 0.5\n": (
        "MotionBlur",
        {"kernel_size": 61, "intensity": 0.5},
    ),
    "    name: phase_retrieval\n    oversample: 2.0\n": ("PhaseRetrieval", {"oversample": 2.0}),
    SUPER_RESOLUTION: ("SuperResolution", {"scale": 4, "kernel": "bicubic"}),
    INPAINTING: ("RandomInpainting", {"low": 0.3, "high": 0.7}),
    "    name: inpainting\n  mask_opt:\n    mask_type: box\n    mask_len_range: !!python/tuple [128, 129]\n": (
        "BoxInpainting",
        {"box": 128, "margin": 16},
    ),
    "    name: noise\n": ("RandomInpainting", {"low": 0.0, "high": 0.0}),
}


@pytest.fixture
def files(tmp_path):
    """Write the three files: files(model, diffusion, task) -> their paths."""

    def write(model: str = FFHQ, diffusion: str = DIFFUSION, task: str = TASK) -> tuple[Path, Path, Path]:
        paths = tuple(tmp_path / f"{name}.yaml" for name in ("model", "diffusion", "task"))
        for path, text in zip(paths, (model, diffusion, task), strict=True):
            path.write_text(text)
        return paths

    return write


def parsed(kind: type, part: dict) -> None:
    """The part is one that our parser takes."""
    parser = ArgumentParser()
    parser.add_argument("--part", type=kind)
    parser.parse_object({"part": part})


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda text: text.split()[1])
def test_operators_have_their_counterparts(files, operator):
    config = convert(*files(task=TASK.replace(GAUSSIAN, operator)), Path("out"))
    name, settings = OPERATORS[operator]
    expected = {"class_path": f"posterior.operators.{name}", "init_args": settings}
    assert config["data"]["init_args"]["operator"] == expected
    parsed(OperatorFamily, expected)
    likelihood = {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": 0.05}}
    assert config["data"]["init_args"]["likelihood"] == likelihood
    assert config["data"]["init_args"]["root"] == "./data/samples/"
    assert config["output"] == {"dir": "out"}


def test_the_nonlinear_blur_finds_its_weights_in_the_options_file(files, tmp_path):
    options = tmp_path / "default.yml"
    options.write_text("KernelWizard:\n  pretrained: bkse/GOPRO_wVAE.pth\n  input_nc: 3\n  nf: 64\n")
    operator = f"    name: nonlinear_blur\n    opt_yml_path: {options}\n"
    config = convert(*files(task=TASK.replace(GAUSSIAN, operator)), Path("out"))
    assert config["data"]["init_args"]["operator"]["init_args"] == {"checkpoint": "bkse/GOPRO_wVAE.pth"}


@pytest.mark.parametrize(("model", "name"), [(FFHQ, "ffhq"), (IMAGENET, "imagenet")])
def test_both_models_are_the_published_networks(files, root, model, name):
    prior = convert(*files(model), Path("out"))["model"]["prior"]
    manifest = json.loads((root / f"tests/data/unet_{name}_manifest.json").read_text())
    settings = prior["init_args"] | {"checkpoint": None}
    parser = ArgumentParser()
    parser.add_argument("--prior", type=Prior)
    with torch.device("meta"):
        built = parser.instantiate_classes(parser.parse_object({"prior": prior | {"init_args": settings}})).prior
    found = [[key, list(value.shape)] for key, value in built.network.state_dict().items()]
    assert found == manifest["state_dict"]


def test_a_class_conditional_model_is_the_published_network_with_a_label(files):
    """Of the unconditional manifest, and the embedding of 1000 classes."""
    model = IMAGENET.replace("class_cond: False", "class_cond: True\nlabel: 207")
    network = convert(*files(model), Path("out"))["model"]["prior"]["init_args"]["network"]["init_args"]
    assert (network["num_classes"], network["label"]) == (1000, 207)
    with torch.device("meta"):
        found, plain = (
            {key: tuple(value.shape) for key, value in UNet(**settings).state_dict().items()}
            for settings in (network, network | {"num_classes": None, "label": None})
        )
    assert found == plain | {"label_emb.weight": (1000, 4 * 256)}


@pytest.mark.parametrize(
    ("method", "sampler", "settings"),
    [
        ("ps\n  params:\n    scale: 0.5", "DPS", {"scale": 0.5}),
        ("ps", "DPS", {"scale": 1.0}),
        ("ps+\n  params:\n    scale: 0.3\n    num_sampling: 3", "DPSPlus", {"scale": 0.3, "copies": 3}),
        ("mcg\n  params:\n    scale: 1.0", "MCG", {"scale": 1.0}),
        ("projection", "Projection", {}),
        ("vanilla", "ReverseDiffusion", {}),
    ],
)
def test_methods_have_their_counterparts(files, method, sampler, settings):
    task = TASK.replace("ps\n  params:\n    scale: 0.3", method)
    found = convert(*files(task=task), Path("out"))["model"]["sampler"]
    assert found["class_path"] == f"posterior.samplers.{sampler}"
    fixed = ("schedule", "step", "clip_denoised")
    assert {name: value for name, value in found["init_args"].items() if name not in fixed} == settings
    assert found["init_args"]["step"] == {"class_path": "posterior.samplers.Ancestral"}


@pytest.mark.parametrize(
    ("old", "new", "where", "expected"),
    [
        ("sampler: ddpm", "sampler: ddim", ("sampler", "step"), {"ddim_eta": 0.0}),
        ("timestep_respacing: 1000", "timestep_respacing: ddim50", ("sampler", "schedule"), {"respacing": "ddim50"}),
        ("timestep_respacing: 1000", "timestep_respacing: ddim25", ("sampler", "schedule"), {"respacing": "ddim25"}),
        ("timestep_respacing: 1000", 'timestep_respacing: "10,20"', ("sampler", "schedule"), {"respacing": "10,20"}),
        ("timestep_respacing: 1000", 'timestep_respacing: ""', ("sampler", "schedule"), {"respacing": 1000}),
        ("timestep_respacing: 1000", "timestep_respacing: [10, 20]", ("sampler", "schedule"), {"respacing": "10,20"}),
        ("steps: 1000", "steps: 500", ("prior", "noise_schedule"), {"num_steps": 500}),
    ],
)
def test_diffusion_settings_are_carried_over(files, old, new, where, expected):
    part, name = where
    found = convert(*files(diffusion=DIFFUSION.replace(old, new)), Path("out"))["model"][part]["init_args"][name]
    assert expected.items() <= found["init_args"].items()


def test_a_fixed_variance_goes_with_a_network_that_has_learned_none(files):
    model = FFHQ.replace("learn_sigma: True", "learn_sigma: False")
    diffusion = DIFFUSION.replace("learned_range", "fixed_large")
    config = convert(*files(model, diffusion), Path("out"))
    assert config["model"]["sampler"]["init_args"]["step"]["init_args"] == {"fixed_variance": "large"}
    with pytest.raises(UserError, match="model_var_type does not fit the model's learn_sigma, which is True"):
        convert(*files(FFHQ, diffusion), Path("out"))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("model", "class_cond: False", "class_cond: 1.5", "class_cond: 1.5 has no counterpart"),
        ("model", "class_cond: False", "class_cond: True", "class_cond is true, but label is missing: add the class"),
        ("model", "class_cond: False", "class_cond: True\nlabel: 1000", "but label is 1000: add .*, 0 to 999"),
        ("model", "class_cond: False", "class_cond: True\nlabel: dog", "but label is 'dog': add"),
        ("model", "class_cond: False", "class_cond: False\nlabel: 3", "model.yaml: label: no counterpart here"),
        ("model", "model_path", "modelpath", "model_path is missing"),
        ("model", "dropout: 0.0", "dropouts: 0.0", "model.yaml: dropouts: no counterpart here"),
        (
            "diffusion",
            "dynamic_threshold: False",
            "dynamic_threshold: True",
            "dynamic_threshold: True has no counterpart",
        ),
        ("diffusion", "epsilon", "previous_x", "model_mean_type: 'previous_x' has no counterpart"),
        ("task", "method: ps", "method: [ps]", r"method: \['ps'\] has no counterpart"),
        ("task", "method: ps", "method: magic", "method: 'magic' has no counterpart here"),
        (
            "task",
            "name: gaussian_blur",
            "name: turbulence",
            "measurement: operator: name: 'turbulence' has no counterpart",
        ),
        ("task", "name: gaussian\n", "name: clean\n", "noise: name: 'clean' has no counterpart"),
        ("task", "scale: 0.3", "scale: 0.3\n    momentum: 0.9", "params: momentum: no counterpart"),
        ("task", "method: ps", "method: !!python/object:os.system ls", "only plain data is read"),
        ("task", "conditioning:", "conditioning: [", "expected"),
    ],
)
def test_what_has_no_counterpart_is_named(files, file, old, new, message):
    texts = {"model": FFHQ, "diffusion": DIFFUSION, "task": TASK}
    assert old in texts[file]
    texts[file] = texts[file].replace(old, new)
    with pytest.raises(UserError, match=message) as error:
        convert(*files(**texts), Path("out"))
    assert f"{file}.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["0.5", "[0.1, 0.2, 0.3]", "[a, b]"])
def test_a_range_must_be_two_numbers(files, value):
    task = TASK.replace(GAUSSIAN, INPAINTING.replace("!!python/tuple [0.3, 0.7]", value))
    with pytest.raises(UserError, match="mask_opt: mask_prob_range must be two numbers"):
        convert(*files(task=task), Path("out"))


def test_what_a_file_leaves_out_is_what_dps_takes(files):
    """One head, no learned variance, plain resampling: the same shapes would load with other heads, and be wrong."""
    lines = FFHQ.splitlines(keepends=True)
    kept = ("image_size", "num_channels", "num_res_blocks", "model_path")
    model = "".join(line for line in lines if line.startswith(kept))
    config = convert(*files(model, DIFFUSION.replace("learned_range", "fixed_small")), Path("out"))
    network = config["model"]["prior"]["init_args"]["network"]["init_args"]
    expected = {"num_heads": 1, "learn_sigma": False, "use_scale_shift_norm": False, "resblock_updown": False}
    assert expected.items() <= network.items()
    assert network["attention_resolutions"] == [16]


@pytest.mark.usefixtures("no_lpips_weights")
@pytest.mark.parametrize("operator", [INPAINTING, SUPER_RESOLUTION], ids=["inpainting", "super-resolution"])
def test_the_files_run(files, tmp_path, capsys, operator):
    """As a DPS user would start it, on a small network and few steps."""
    images = tmp_path / "samples"
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "00000.png")
    task = TASK.replace(GAUSSIAN, operator).replace("./data/samples/", str(images))
    diffusion = DIFFUSION.replace("timestep_respacing: 1000", "timestep_respacing: 4")
    model = FFHQ.replace("num_channels: 128", "num_channels: 32").replace(
        "num_head_channels: 64", "num_head_channels: 32"
    )
    paths = files(model, diffusion, task)
    network = convert(*paths, tmp_path)["model"]["prior"]["init_args"]["network"]["init_args"]
    torch.save(UNet(**network).state_dict(), tmp_path / "small.pt")
    paths = files(model.replace("models/ffhq_10m.pt", str(tmp_path / "small.pt")), diffusion, task)
    names = ("model_config", "diffusion_config", "task_config")
    arguments = [f"--dps.{name}={path}" for name, path in zip(names, paths, strict=True)]
    main(["predict", *arguments, f"--dps.save_dir={tmp_path / 'out'}", "--trainer.accelerator", "cpu"])
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["metrics"]["sample"]["nfe_backward"]["mean"] == 4
    ours = yaml.safe_load((tmp_path / "out" / "from_dps.yaml").read_text())
    assert ours["model"]["sampler"]["class_path"] == "posterior.samplers.DPS"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["predict", *arguments])
    assert capsys.readouterr().err == "error: DPS configuration: --dps.save_dir missing\n"
