"""Tiny but complete runs whose settings and files the fuzzer spoils, each with the files that it reads."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from PIL import Image

from posterior.priors import GaussianMixturePrior, UNet

SIDE = 8
NETWORK = {
    "image_size": SIDE,
    "num_channels": 32,
    "channel_mult": [1],
    "learn_sigma": False,
    "attention_resolutions": [8],
    "num_head_channels": 32,
    "resblock_updown": False,
}
IDS = ["a", "b", "c/d"]


@dataclass(frozen=True)
class Base:
    """An undisturbed run.

    Args:
        command: subcommand of lightning_cli.py, or ``matrix``.
        config: what its file holds; paths are relative to the folder that it runs in.
        files: writes the files that it reads, into the folder ``inputs``.
        images: how many it has to end with; None for a command that counts none.
        resumed: it runs on the folder that an earlier one left, whose files are spoilt too.
    """

    command: str
    config: dict[str, Any]
    files: Callable[[Path], None]
    images: int | None = None
    resumed: bool = False


def _part(path: str, /, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments} if arguments else {"class_path": path}


def _field(channels: int = 3) -> dict[str, Any]:
    numbers = {"amplitude": [1e-2], "exponent": [2.0], "cutoff": [0.1]}
    rows = np.eye(channels).tolist()
    spectrum = {name: value * channels for name, value in numbers.items()}
    return _part("posterior.priors.GaussianFieldPrior", mean=[0.0] * channels, components=rows, floor=0.1, **spectrum)


def _data(name: str, operator: dict[str, Any], /, **arguments: Any) -> dict[str, Any]:
    noise = _part("posterior.noise.GaussianNoise", sigma_y=0.1)
    return _part(f"datamodules.{name}", operator=operator, likelihood=noise, **arguments)


def _respaced(number: int) -> dict[str, Any]:
    return _part("posterior.samplers.RespacedSigmas", respacing=number)


def _langevin(**arguments: Any) -> dict[str, Any]:
    annealing = _part("posterior.samplers.PublishedAnnealing", growth=0.9, num_levels=3)
    reverse = _part("posterior.samplers.ReverseDiffusion", schedule=_respaced(3))
    settings = {"step_size": 1e-3, "schedule": annealing, "reverse": reverse}
    return _part("posterior.samplers.AnnealedLangevin", **settings | arguments)


def _run(prior: dict[str, Any], sampler: dict[str, Any], data: dict[str, Any], **model: Any) -> dict[str, Any]:
    return {
        "model": {"prior": prior, "sampler": sampler, "metrics": [_part("posterior.metrics.PSNR")], **model},
        "data": data,
        "output": {"dir": "out", "save_samples": True},
        "trainer": {"accelerator": "cpu", "devices": 1},
    }


def _diffusion(**arguments: Any) -> dict[str, Any]:
    network = _part("posterior.priors.UNet", **NETWORK)
    return _part("posterior.priors.DiffusionPrior", network=network, **arguments)


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


def pictures(folder: Path, ids: Sequence[str] = IDS) -> None:
    """Write small pictures, PNG but for the second, into the folder's folder ``images``."""
    for number, image_id in enumerate(ids):
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE
        pixels = (np.stack([x, y, (x + y + number / 5) % 1], axis=-1) * 255).astype(np.uint8)
        path = folder / "images" / f"{image_id}.{'jpg' if number == 1 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def _zipped(folder: Path) -> None:
    pictures(folder)
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "images").rglob("*.*")):
            archive.write(path, path.relative_to(folder / "images"))
    shutil.rmtree(folder / "images")
    torch.manual_seed(0)
    state = {name: 0.05 * torch.randn_like(value) for name, value in UNet(**NETWORK).state_dict().items()}  # type: ignore[arg-type]
    torch.save(state, folder / "network.pt")
    safetensors.torch.save_file(state, folder / "network.safetensors")


def _recorded(folder: Path) -> None:
    (folder / "y").mkdir()
    for number in range(2):
        np.save(folder / "y" / f"scan{number}.npy", 0.3 * _generator().normal(size=(3, SIDE, SIDE)))
    mask = _generator().integers(0, 2, (SIDE, SIDE)).astype(np.uint8)
    np.save(folder / "mask.npy", mask)
    Image.fromarray(mask * 255).save(folder / "mask.png")
    np.save(folder / "kernel.npy", np.array([[0, 1, 0], [1, 2, 1], [0, 1, 0]]) / 6)


def _array(folder: Path) -> None:
    images = _generator().integers(0, 255, (3, 3, SIDE, SIDE), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, ids=np.array(["a", "b", "c"]))
    directions = torch.linalg.qr(torch.randn(2, 3 * SIDE**2, 4, generator=torch.Generator().manual_seed(0)))[0]
    weights, means = torch.full((2,), 0.5), torch.zeros(2, 3, SIDE, SIDE)
    mixture = GaussianMixturePrior(weights, means, directions, torch.ones(2, 4), torch.full((2,), 0.1))
    mixture.save(folder / "mixture.safetensors")


def _slices(folder: Path) -> None:
    import h5py

    (folder / "slices").mkdir()
    with h5py.File(folder / "slices" / "one.h5", "w") as file:
        file["reconstruction_rss"] = _generator().random((2, 16, 16)).astype(np.float32)
    coils = np.ones((2, 16, 16), dtype=np.complex64) / 2**0.5
    np.save(folder / "coils.npy", coils)


def _matrix(folder: Path) -> None:
    pictures(folder)
    (folder / "prior.yaml").write_text(yaml.safe_dump(_field()), encoding="utf-8")


def bases() -> dict[str, Base]:
    """All runs, by name."""
    super_resolution = _part("posterior.operators.SuperResolution", scale=2)
    inpainting = _part("posterior.operators.RandomInpainting", low=0.3, high=0.7)
    dps = _part("posterior.samplers.DPS", schedule=_respaced(3), scale=0.3)
    kinetic = _langevin()
    kinetic["class_path"] = "posterior.samplers.KineticLangevin"
    del kinetic["init_args"]["step_size"]
    folder = _run(_field(), _langevin(), _data("ImageFolder", inpainting, root="inputs/images"), num_samples=2)
    recorded = {"root": "inputs/y", "image_shape": [3, SIDE, SIDE]}
    mask, array_mask = (_part("posterior.operators.MaskInpainting", mask=f"inputs/mask.{e}") for e in ("png", "npy"))
    kernel = _part("posterior.operators.GivenBlur", kernel="inputs/kernel.npy")
    mri = _part("posterior.operators.CartesianMRI", center_fraction=0.1, sensitivities="inputs/coils.npy")
    archive = _data("ImageFolder", super_resolution, root="inputs/images.zip", batch_size=2)
    array = _data("ImageArray", inpainting, path="inputs/images.npz")
    mixture = _part("posterior.priors.GaussianMixturePrior.from_file", path="inputs/mixture.safetensors")
    slices = _data("MRISlices", mri, root="inputs/slices", key="reconstruction_rss")
    magnitude = {"metrics": [_part("posterior.metrics.MagnitudePSNR")]}
    images = _part("datamodules.FolderImages", root="inputs/images")
    training = {
        "model": {"prior": _diffusion(prediction="v"), "warmup_steps": 1, "levels": {"uniform": 0.15}},
        "data": {"training": images, "validation": images, "batch_size": 2},
        "output": {"dir": "out", "sheet_images": 1, "sheet_steps": 2},
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 2, "val_check_interval": 1},
    }
    cells = {
        "dir": "out",
        "shared": {
            "model": {"prior": "inputs/prior.yaml", "metrics": [_part("posterior.metrics.PSNR")]},
            "data": _part(
                "datamodules.ImageFolder", root="inputs/images", likelihood=folder["data"]["init_args"]["likelihood"]
            ),
            "trainer": {"accelerator": "cpu", "devices": 1},
        },
        "tasks": {"inpainting": {"data": {"init_args": {"operator": inpainting}}}},
        "samplers": {
            "exact": {"model": {"sampler": _part("posterior.samplers.ExactGaussian")}},
            "langevin": {"model": {"sampler": _langevin()}, "tasks": {"inpainting": {"model": {"num_samples": 2}}}},
        },
        "seeds": [0],
        "smoke": {"dir": "out", "shared": {"data": {"init_args": {"limit": 1}}}},
    }
    with_pt, with_safetensors = (_diffusion(checkpoint=f"inputs/network.{kind}") for kind in ("pt", "safetensors"))
    measured = {
        name: _run(
            _field(),
            sampler,
            _data("RecordedMeasurements", operator, **recorded),
            metrics=[_part("posterior.metrics.Residual")],
        )
        for name, sampler, operator in [
            ("mask", kinetic, mask),
            ("array_mask", _part("posterior.samplers.ExactGaussian"), array_mask),
            ("blur", _langevin(), kernel),
        ]
    }
    found = {
        "langevin": Base("predict", folder, pictures, 3),
        "resumed": Base("predict", folder, pictures, 3, resumed=True),
        "dps": Base("predict", _run(with_pt, dps, archive), _zipped, 3),
        "safetensors": Base("predict", _run(with_safetensors, dps, archive), _zipped, 3),
        **{name: Base("predict", config, _recorded, 2) for name, config in measured.items()},
        "array": Base("predict", _run(mixture, _part("posterior.samplers.ExactMixture"), array), _array, 3),
        "mri": Base("predict", _run(_field(2), _langevin(), slices, **magnitude), _slices, 2),
        "fit": Base("fit", training, pictures),
        "trained": Base("fit", training, pictures, resumed=True),
        "matrix": Base("matrix", cells, _matrix),
    }
    return {name: replace(base, config=json.loads(json.dumps(base.config))) for name, base in found.items()}
