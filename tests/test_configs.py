"""Every file in configs/ parses; every experiment runs on a tiny subset."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image

from benchmarks.tools.recipe import fill_kernel_wizard_by_recipe
from lightning_cli import main
from posterior.operators import KernelWizard, OperatorFamily
from posterior.priors import Prior
from posterior.samplers import Sampler
from posterior.settings import conformed, read_settings
from tests.dicom import write_dicom

CONFIGS = Path(__file__).parents[1] / "configs"
FRAGMENTS = {"prior": Prior, "operator": OperatorFamily, "sampler": Sampler}
TRAINING = sorted((CONFIGS / "train").glob("*.yaml"))
ELSEWHERE = {"benchmark", "data", "faces", "problem", "science", "task", "truth"}  # tests/benchmarks runs them
EXPERIMENTS = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name not in {*FRAGMENTS, *ELSEWHERE} and path not in TRAINING
)

pytestmark = pytest.mark.usefixtures("no_lpips_weights")

SAMPLER = "--model.sampler.init_args"
HERE = {
    f"datamodules.{name}" for name in ("CTPhantoms", "IdxImages", "ImageArray", "Phantoms", "Photographs", "Scenes")
}
"""Data whose files ship, or that are made."""
FEW_LEVELS = [f"{SAMPLER}.schedule.init_args.num_levels", "5"]
RESPACING = "schedule.init_args.respacing"
SMALL_NETWORK = [  # the paper's network in a small form, as its checkpoint is a download
    *("--model.prior.init_args.checkpoint", "null"),
    *("--model.prior.init_args.network.init_args.num_channels", "32"),
    *("--model.prior.init_args.network.init_args.num_head_channels", "32"),
]
SMOKE = {  # by folder, or folder and sampler: a few steps
    "toon64_gaussian": [*FEW_LEVELS, f"{SAMPLER}.reverse.init_args.{RESPACING}", "5"],
    "demo_dps": [f"{SAMPLER}.{RESPACING}", "5"],
    "demo_langevin": [
        *FEW_LEVELS,
        *(f"{SAMPLER}.warm_start.init_args.{RESPACING}", "3"),
        *(f"{SAMPLER}.reverse.init_args.{RESPACING}", "10"),
    ],
    "demo_kinetic": FEW_LEVELS,
    "demo_conditional": [],  # 121 calls
    "paper": [
        *FEW_LEVELS,
        *(f"{SAMPLER}.warm_start.init_args.{RESPACING}", "3"),
        *(f"{SAMPLER}.reverse.init_args.schedule", "posterior.samplers.RespacedSigmas"),
        *(f"{SAMPLER}.reverse.init_args.{RESPACING}", "20"),
        *SMALL_NETWORK,
        *("--data.init_args.num_workers", "0"),
    ],
    "dps": [*SMALL_NETWORK, f"{SAMPLER}.{RESPACING}", "3", "--data.init_args.num_workers", "0"],
    "ct_photons": ["--model.num_samples", "2", f"{SAMPLER}.calls", "70", "--data.init_args.size", "32"],
    "ct_slice": ["--model.num_samples", "2", f"{SAMPLER}.calls", "70", "--data.init_args.crop", "32"],
    "mri_4x": [*FEW_LEVELS, "--model.num_samples", "2"],
    "mri_recorded": [*FEW_LEVELS, "--model.num_samples", "2"],
    "mri_learned": ["--model.num_samples", "2", f"{SAMPLER}.calls", "70"],
    "physics_scattering": ["--model.num_samples", "2"],
    "physics_hole": ["--model.num_samples", "2"],
    "physics_closures": ["--model.num_samples", "2", f"{SAMPLER}.{RESPACING}", "3"],
    "physics_stokes": [
        *("--model.num_samples", "2"),
        *(f"{SAMPLER}.num_steps", "1", f"{SAMPLER}.inner_steps", "2"),
        *(f"{SAMPLER}.warm_start.init_args.schedule.init_args.num_levels", "3"),
        *(f"{SAMPLER}.warm_start.init_args.likelihood_step.init_args.num_steps", "3"),
    ],
    "physics_waveform": ["--model.num_samples", "2", f"{SAMPLER}.num_steps", "1", f"{SAMPLER}.inner_steps", "2"],
    "photos": [
        *("--model.num_samples", "1", f"{SAMPLER}.calls", "70"),
        *("--data.size", "64", "--data.short_side", "64"),
    ],
    "recorded": [*SMALL_NETWORK, f"{SAMPLER}.{RESPACING}", "3", "--model.num_samples", "2"],
    "toon32_mixture": ["--model.num_samples", "2"],
    "ffhq256_gaussian": ["--model.num_samples", "2", "--data.init_args.size", "64"],
}


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


@pytest.mark.parametrize("path", [p for p in sorted(CONFIGS.rglob("*.yaml")) if p.parent.name in FRAGMENTS], ids=name)
def test_fragments_parse(path):
    kind = FRAGMENTS[path.parent.name]
    part = conformed({"part": read_settings(path)}, {"part": kind})["part"]
    assert part["class_path"] == yaml.safe_load(path.read_text())["class_path"]
    parser = ArgumentParser()
    parser.add_argument("--part", type=kind)
    assert parser.parse_object({"part": part}).part.class_path == part["class_path"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_experiments_run_on_a_tiny_subset(path, tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)  # shipped files are named from there
    data = yaml.safe_load(path.read_text())["data"]
    folder = path.parent.name
    smoke = SMOKE.get(folder) or SMOKE[f"{folder}_{path.stem.rpartition('_')[2]}"]
    arguments = ["predict", "--config", str(path), "--output.dir", str(tmp_path / "run"), *smoke]
    arguments += ["--data.init_args.limit", "1", "--trainer.accelerator", "cpu"]
    if data["class_path"] == "datamodules.ToonFaces":
        pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")
    elif data["class_path"] in ("datamodules.MRISlices", "datamodules.RecordedKSpace"):
        kspace = np.random.default_rng(0).normal(size=(1, 64, 64)) * (1 + 0j)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["kspace"] = kspace.astype(np.complex64)
        arguments += ["--data.init_args.root", str(tmp_path / "a.h5")]
    elif data["class_path"] == "datamodules.CTSlices":
        pytest.importorskip("pydicom", reason="the extra 'ct' is not installed")
        pixels = np.random.default_rng(0).integers(-1000, 1000, (40, 48))
        write_dicom(tmp_path / "a.dcm", pixels, "CT", RescaleSlope=1, RescaleIntercept=0)
        arguments += ["--data.init_args.root", str(tmp_path / "a.dcm")]
    elif data["class_path"] not in HERE:
        folder = tmp_path / "data"
        folder.mkdir()
        np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(3, 64, 64)))
        pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
        arguments += ["--data.init_args.root", str(folder)]
        if "gaussian" in (CONFIGS / path.parent / str(yaml.safe_load(path.read_text())["model"]["prior"])).name:
            arguments += ["--model.prior.init_args.root", str(folder)]
    if path.stem == "phase_retrieval":
        arguments += ["--model.num_samples", "2"]
    if "nonlinear" in path.stem:  # the published weights are a download
        network = KernelWizard()
        fill_kernel_wizard_by_recipe(network, list(network.state_dict()))
        torch.save(network.state_dict(), tmp_path / "recipe.pth")
        arguments += ["--data.init_args.operator.init_args.checkpoint", str(tmp_path / "recipe.pth")]
    main(arguments)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["images"] == 1
    assert (tmp_path / "run" / "grid.png").stat().st_size > 1000


@pytest.mark.parametrize("path", TRAINING, ids=name)
def test_training_runs_on_a_tiny_subset(path, tmp_path, rendered_here):
    cache: list[str] = []
    if "Toon" in yaml.safe_load(path.read_text())["data"]["training"]["class_path"]:
        pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")
        cache = [f"--data.{part}.init_args.cache={tmp_path}" for part in ("training", "validation")]
    main(
        [
            *("fit", "--config", str(path), "--output.dir", str(tmp_path / "run"), "--trainer.devices", "1"),
            *("--trainer.strategy", "auto"),  # distributed in this process, it would stay so for the tests that follow
            *("--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--data.batch_size", "4"),
            *("--output.sheet_images", "2", "--output.sheet_steps", "2"),
            *("--data.training.init_args.count", "4", "--data.validation.init_args.count", "4"),
            *cache,
        ]
    )
    assert (tmp_path / "run" / "prior.safetensors").stat().st_size < 15_000_000


def test_the_shipped_prior_is_the_trained_one():
    """Same network, schedule and prediction in the training's config and in the fragment that loads the weights."""
    shipped = yaml.safe_load((CONFIGS / "prior" / "toon_faces32.yaml").read_text())
    trained = yaml.safe_load((CONFIGS / "train" / "toon_faces32.yaml").read_text())["model"]["prior"]
    del shipped["init_args"]["checkpoint"]
    assert shipped == trained


def test_fragments_replace_parts_of_an_experiment_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    main(
        [
            *("predict", "--config", str(CONFIGS / "demo" / "super_resolution_langevin.yaml")),
            *("--model.sampler", str(CONFIGS / "sampler" / "dps.yaml")),
            *(f"{SAMPLER}.schedule.init_args.respacing", "3"),
            *("--data.init_args.operator", str(CONFIGS / "operator" / "random_inpainting.yaml")),
            *("--data.init_args.limit", "1", "--output.dir", str(tmp_path / "run"), "--trainer.accelerator", "cpu"),
        ]
    )
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["model"]["sampler"]["class_path"] == "posterior.samplers.DPS"
    assert saved["data"]["init_args"]["operator"]["class_path"] == "posterior.operators.RandomInpainting"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]["sample"]
    assert metrics["nfe_backward"]["mean"] == 3


def test_the_papers_settings_are_the_papers():
    for path in sorted((CONFIGS / "paper").glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        sampler, data = config["model"]["sampler"]["init_args"], config["data"]["init_args"]
        assert sampler["schedule"]["init_args"] == {"growth": 0.009, "num_levels": 1000}
        assert sampler["warm_start"]["init_args"]["schedule"]["init_args"]["respacing"] == 1000
        assert sampler["warm_start"]["init_args"]["scale"] == (0.5 if "inpainting" in path.name else 0.3)
        assert sampler["anchor_sigma"] == pytest.approx(0.34226, abs=1e-3)  # t = 100
        assert sampler["clip"] is True
        assert data["likelihood"]["init_args"]["sigma_y"] == 0.05
        assert data["limit"] == 1000
