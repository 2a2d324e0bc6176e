"""`fit --images`: a prior of one's own pictures in one command: settings by size and hours, training, probe, card."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

import lightning_cli
from benchmarks.probe.command import FEWEST, built_prior, evenly, probe
from benchmarks.probe.measures import Measured
from benchmarks.probe.verdict import Verdict
from datamodules import SquareImages
from posterior.checks import real
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.images import list_images
from posterior.priors import DiffusionPrior, Prior
from posterior.reading import read_json, shown
from posterior.settings import conformed
from posterior.settings.building import built
from posterior.shell import Parser, in_words
from posterior.terminal import remark, say_place

SIZES = (8, 16, 32, 64, 128, 256)
EVERY = 10
"""Of the pictures one in so many is held out; of few, half."""
LEAST = 4 * FEWEST
"""Pictures: of half of them a probe can say something."""
SHORT = 0.5
"""Hours below which the network is half as wide."""
WARM_UP = 5.0
"""Seconds of training steps that are timed in each precision."""
TRAINING_SHARE = 0.85
"""Of the hours: the rest is for validations, samples and the probe."""
FEWEST_STEPS = 20
MOST_EPOCHS = 300
"""Times that a picture is seen: later a network learns pictures by heart.

On 100 toon faces the loss on others was least at 360.
"""
LEAST_INTERVAL = 100
"""Steps between two validations."""
ASKED, SETTINGS, PRIOR = "asked.json", "train.yaml", "prior.yaml"
Settings = dict[str, Any]


def fit_command(arguments: Sequence[str]) -> None:
    """Read the command line; train, probe, write the card. The same command goes on from where it stopped."""
    parser = Parser(
        prog="posterior-sampling fit",
        description="Train a prior on a folder of pictures; everything else is chosen by size and hours.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--images", type=Path, required=True, help=f"folder or zip of PNG or JPEG files, {LEAST} at least"
    )
    parser.add_argument("--hours", type=float, default=2.0, help="that it may take (2)")
    parser.add_argument("--size", type=int, choices=SIZES, default=32, help="side in pixels (32)")
    parser.add_argument("--output", type=Path, help="the run's folder (results/fit/IMAGES_SIZEpx)")
    options = parser.parse_args(list(arguments))
    real("fit", "hours", options.hours, above=0, most=10_000)
    folder = options.output or Path("results/fit") / f"{options.images.stem}_{options.size}px"
    lightning_cli.quiet()
    fit_folder(options.images, options.hours, options.size, folder)


def fit_folder(images: Path, hours: float, size: int, folder: Path) -> Verdict:
    """Train a prior on pictures, probe it on those held out, write its card.

    Args:
        images: folder or zip.
        hours: that it may take.
        size: side in pixels, one of `SIZES`.
        folder: of the run.

    Raises:
        UserError: naming what cannot be used, or that the folder holds a run of something else.
    """
    settings = settings_of_run(images, hours, size, folder)
    remark(f"{settings['trainer']['max_steps']} steps, {settings['trainer']['precision']}: {folder / SETTINGS}")
    try:
        lightning_cli.run("fit", settings, lightning_cli.RunStarted())
    except (UserError, OSError):
        raise
    except Exception as error:  # jsonargparse wraps what a constructor raises
        raise UserError(in_words(error)) from error
    held_out = SquareImages(**settings["data"]["validation"]["init_args"])
    x0 = held_out.all()
    kept = evenly(len(x0))
    prior = built_prior(str(write_prior(settings, folder)))
    ids = [str(one) for one in kept]
    measured, verdict = probe(prior, x0[kept], ids, folder / "probe", folder.name, trained_here=True)
    write_whole(folder / "card.md", card(folder, settings, prior, measured, verdict).encode())
    say_place(f"card: {folder / 'card.md'}; prior: --model.prior {folder / PRIOR}")
    return verdict


def settings_of_run(images: Path, hours: float, size: int, folder: Path) -> Settings:
    """The settings of the run: those that it was begun with, or, at the start, chosen ones, which are written down.

    Raises:
        UserError: if there are too few pictures, or the folder holds a run that was asked for something else.
    """
    asked = {"images": str(images), "hours": hours, "size": size}
    if (folder / ASKED).is_file():
        before = read_json(folder / ASKED, "record of the run")
        for name, value in asked.items():
            if before.get(name) != value:
                raise UserError(
                    f"{folder} holds a run with --{name} {before.get(name)}, not {value}: choose another --output"
                )
        found: Settings = yaml.safe_load((folder / SETTINGS).read_text(encoding="utf-8"))
        return found
    settings = chosen_settings(images, hours, size, folder)
    write_whole(folder / SETTINGS, yaml.safe_dump(settings, sort_keys=False).encode())
    write_whole(folder / ASKED, (json.dumps(asked) + "\n").encode())
    return settings


def chosen_settings(images: Path, hours: float, size: int, folder: Path) -> Settings:
    """Settings of `fit --config`, by size, hours, and the pace of a few steps on this machine.

    Raises:
        UserError: if there are too few pictures, one cannot be used, or the hours are too few for any training.
    """
    count = len(list_images(images))
    if count < LEAST:
        raise UserError(
            f"fit: {shown(images)} holds {count} pictures, {LEAST} are needed at least, and good priors take thousands"
        )
    every = EVERY if count >= EVERY * 2 * FEWEST else 2
    data: Settings = {"root": str(images), "size": size, "cache": str(folder / "pixels"), "every": every}
    SquareImages(**data).prepare()
    gpu = torch.cuda.is_available()
    prior = prior_settings(size, (64 if hours >= SHORT else 32) * (2 if gpu else 1))
    batch = min(64 if gpu else 32, count // 2)
    paces = {precision: seconds_a_step(prior, size, batch, precision) for precision in ("32-true", "bf16-mixed")}
    precision = min(paces, key=lambda name: paces[name])
    steps = int(TRAINING_SHARE * hours * 3600 / paces[precision])
    learnt = count - -(-count // every)
    if steps > (most := MOST_EPOCHS * learnt // batch):
        remark(
            f"{learnt} pictures to learn from take {most} of the {steps} steps that the hours allow: after more they "
            "would be known by heart; more pictures use more hours"
        )
        steps = most
    if steps < FEWEST_STEPS:
        raise UserError(
            f"fit: {hours:g} hours are {steps} steps here, too few for any training: give more --hours, or a smaller "
            "--size"
        )
    return {
        "model": {
            "prior": prior,
            "learning_rate": 8e-4,
            "warmup_steps": min(500, steps // 20),
            "cooldown_steps": steps // 4,
            "ema_decay": min(0.9995, 1 - 20 / steps),
        },
        "data": {
            "training": {"class_path": "datamodules.SquareImages", "init_args": data},
            "validation": {"class_path": "datamodules.SquareImages", "init_args": data | {"held_out": True}},
            "batch_size": batch,
        },
        "trainer": {
            "accelerator": "auto",
            "devices": 1,
            "precision": precision,
            "max_steps": steps,
            "gradient_clip_val": 1.0,
            "val_check_interval": max(steps // 12, min(steps, LEAST_INTERVAL)),
        },
        "output": {"dir": str(folder), "weights": "float16", "sheet_images": 16},
    }


def prior_settings(size: int, width: int) -> Settings:
    """A network for squares of a side: patches down to 32 pixels at most, then levels down to 4."""
    patch = max(2, size // 32)
    side = size // patch
    levels = min(4, side.bit_length() - 2)
    network = {
        "image_size": size,
        "patch_size": patch,
        "num_channels": width,
        "channel_mult": [1, 2, 2, 2][:levels],
        "num_res_blocks": 1,
        "learn_sigma": False,
        "attention_resolutions": [8] if side >= 8 else [],
        "num_head_channels": 32,
        "resblock_updown": False,
    }
    return {
        "class_path": "posterior.priors.DiffusionPrior",
        "init_args": {
            "prediction": "v",
            "noise_schedule": {"class_path": "posterior.priors.LinearBetas", "init_args": {"num_steps": 1000}},
            "network": {"class_path": "posterior.priors.UNet", "init_args": network},
        },
    }


def seconds_a_step(settings: Settings, size: int, batch: int, precision: str) -> float:
    """How long a training step takes: forward, backward, optimiser; the first, which makes tables, does not count."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kinds = {"prior": DiffusionPrior}
    prior: DiffusionPrior = built(conformed({"prior": settings}, kinds), kinds, "fit")[0].to(device).train()
    prior.network.requires_grad_(True)
    optimiser = torch.optim.Adam(prior.network.parameters(), lr=0.0)
    x0 = torch.zeros(batch, 3, size, size, device=device)
    sigma = prior.noise_schedule.sigmas[:batch].repeat(-(-batch // len(prior.noise_schedule.sigmas)))[:batch]
    ends: list[float] = []
    while len(ends) < 3 or ends[-1] - ends[0] < WARM_UP:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision != "32-true"):
            loss = prior.training_error(x0, x0, sigma).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.monotonic())
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def write_prior(settings: Settings, folder: Path) -> Path:
    """The trained prior as a file of settings that --prior takes."""
    prior = settings["model"]["prior"]
    arguments = {"checkpoint": "prior.safetensors", **prior["init_args"]}
    content = yaml.safe_dump({"class_path": prior["class_path"], "init_args": arguments}, sort_keys=False)
    write_whole(folder / PRIOR, content.encode())
    return folder / PRIOR


def card(folder: Path, settings: Settings, prior: Prior, measured: Measured, verdict: Verdict) -> str:
    """What somebody who gets the weights has to know, in Markdown; what only their maker knows is left to fill in."""
    asked = read_json(folder / ASKED, "record of the run")
    images, size, every = Path(asked["images"]), asked["size"], settings["data"]["training"]["init_args"]["every"]
    with (folder / "losses.csv").open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    errors = {name.removeprefix("rmse_").replace("_", "."): value for name, value in last.items() if "rmse" in name}
    parameters = sum(value.numel() for value in prior.parameters())
    parts = [
        f"**Network**: a denoiser of pictures {size}x{size}, {parameters:,} parameters, v prediction, float16 "
        f"(`prior.safetensors`); `{PRIOR}` has its settings.",
        f"**Data**: {len(list_images(images))} pictures of `{images.name}`, the largest central square of each; one in "
        f"{every} held out. *Fill in: what they show, and where they are from.*",
        "**Licence**: *fill in: that of the pictures, and yours for these weights.*",
        f"**Training**: `posterior-sampling fit --images {images.name} --hours {asked['hours']:g} --size {size}`: "
        f"{settings['trainer']['max_steps']} steps of {settings['data']['batch_size']} images in "
        f"{float(last['hours']):.2f} hours (`{SETTINGS}`).",
        f"**Losses** (v): {float(last['train_loss']):.4f} in training, {float(last['val_loss']):.4f} of the averaged "
        f"weights on pictures held out. Their error of x0 at sigma {' / '.join(errors)}: "
        f"{' / '.join(f'{float(value):.4f}' for value in errors.values())}.",
        f"**Probe**, on {measured.sizes.judged} pictures held out: {verdict.sentence} ([page](probe/probe.md)).",
        "**Limits**: *fill in: what it has never seen.*",
    ]
    use = (
        "    posterior-sampling predict --config demo/super_resolution_dps \\\n"
        f"        --output.dir results/with_{folder.name} --model.prior {folder / PRIOR}"
    )
    return "\n".join([f"# {folder.name}", "", use, "", *(f"- {part}" for part in parts), ""])
