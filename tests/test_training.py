"""Training a prior, as a user starts it."""

from __future__ import annotations

import copy
import csv
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import safetensors
import torch
import yaml
from PIL import Image

from lightning_cli import main
from posterior import UserError
from posterior.priors import DiffusionPrior, LinearBetas, UNet
from posterior.training import DenoisingTraining, TrainingLevels

SIDE = 8
NETWORK = {
    "image_size": SIDE,
    "patch_size": 2,
    "num_channels": 32,
    "channel_mult": [1],
    "attention_resolutions": [],
    "learn_sigma": False,
}


@pytest.fixture
def start(tmp_path):
    """Run `fit` on a folder of 12 small pictures: start(arguments) -> the run's folder. An epoch has two steps."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(16):
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE
        pixels = np.stack([x, y, (x + y + number / 16) % 1], axis=-1)
        Image.fromarray((pixels * 255).astype(np.uint8)).save(images / f"{number:02d}.png")
    data = {"class_path": "datamodules.FolderImages"}
    config = {
        "model": {
            "prior": {
                "class_path": "posterior.priors.DiffusionPrior",
                "init_args": {
                    "prediction": "v",
                    "network": {"class_path": "posterior.priors.UNet", "init_args": NETWORK},
                },
            },
            "learning_rate": 2e-3,
            "warmup_steps": 2,
            "cooldown_steps": 2,
            "ema_decay": 0.9,
            "validation_sigmas": [0.1, 1.0],
        },
        "data": {
            "training": data | {"init_args": {"root": str(images), "start": 4}},
            "validation": data | {"init_args": {"root": str(images), "count": 4}},
            "batch_size": 6,
        },
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 8, "val_check_interval": 2},
        "output": {"dir": str(tmp_path / "run"), "sheet_images": 4, "sheet_steps": 5},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def fit(*arguments: str) -> Path:
        main(["fit", "--config", str(tmp_path / "config.yaml"), *arguments])
        return tmp_path / "run"

    fit.config = tmp_path / "config.yaml"
    fit.output = tmp_path / "run"
    return fit


def losses(folder: Path) -> list[dict[str, float]]:
    with (folder / "losses.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def weights(folder: Path) -> dict[str, np.ndarray]:
    with safetensors.safe_open(folder / "prior.safetensors", "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_a_run_leaves_everything_it_promises(start, capsys):
    folder = start("--trainer.max_steps", "60", "--trainer.val_check_interval", "30")
    rows = losses(folder)
    assert [row["step"] for row in rows] == [30, 60]
    assert [row["images"] for row in rows] == [180, 360]
    assert set(rows[0]) == {"step", "images", "hours", "rate", "train_loss", "val_loss", "rmse_0_1", "rmse_1"}
    assert rows[1]["val_loss"] < 0.9 * rows[0]["val_loss"] < 0.9  # 1 for a network that predicts zero
    assert rows[1]["rmse_1"] < rows[0]["rmse_1"] < 0.8
    assert (folder / "losses.png").stat().st_size > 1000
    assert [path.name for path in sorted((folder / "sheets").iterdir())] == [
        "step_0000030.png",
        "step_0000060.png",
    ]
    assert not list(folder.rglob("*.partial"))
    assert "step 60: images 360, hours" in capsys.readouterr().err
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["warmup_steps"] == 2


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_the_exported_weights_are_the_average_and_load_as_a_prior(start, stored):
    folder = start("--output.weights", stored)
    prior = DiffusionPrior(UNet(**NETWORK), prediction="v", checkpoint=folder / "prior.safetensors")
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    tolerance = {"float32": 0, "float16": 1e-3}[stored]
    for name, value in prior.network.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, state[f"average.network.{name}"], rtol=tolerance, atol=1e-6)
    assert any((state[f"average.{n}"] - state[f"prior.{n}"]).abs().max() > 1e-6 for n in prior.state_dict())
    assert {value.dtype.name for value in weights(folder).values()} == {stored}


@pytest.mark.parametrize("stop", [2, 3])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(start, tmp_path, stop):
    """Stopped at an epoch's end (2 steps an epoch) or within one, and started again with the same command."""
    start("--output.dir", str(tmp_path / "whole"))
    whole, folder = tmp_path / "whole", start.output
    longer = ("--model.cooldown_steps", "0")  # so that both have the same rates until then
    start("--trainer.max_steps", str(stop), *longer)
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == stop
    start()
    assert [row["step"] for row in losses(folder)] == [2, 4, 6, 8]
    assert [row["images"] for row in losses(folder)] == [12, 24, 36, 48]
    expected = weights(whole)
    for name, value in weights(folder).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)
    for ours, theirs in zip(losses(folder), losses(whole), strict=True):
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-5)
        assert ours["rate"] == pytest.approx(theirs["rate"])


def test_the_end_is_written_though_no_validation_falls_there(start):
    folder = start("--trainer.max_steps", "5")
    assert [row["step"] for row in losses(folder)] == [2, 4]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 5
    with safetensors.safe_open(folder / "prior.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["training"])["step"] == 5
        assert json.loads(file.metadata()["training"])["images"] == 30


def test_a_new_rate_counts_in_a_resumed_run(start):
    start("--trainer.max_steps", "4", "--model.cooldown_steps", "0")
    folder = start("--model.learning_rate", "1e-5", "--model.cooldown_steps", "0")
    assert [row["rate"] for row in losses(folder)][1:] == pytest.approx([2e-3, 1e-5, 1e-5])


def test_a_row_cut_off_is_passed_over(start):
    folder = start("--trainer.max_steps", "4", "--model.cooldown_steps", "0")
    with (folder / "losses.csv").open("a") as file:
        file.write("6,3")
    start()
    assert [row["step"] for row in losses(folder)] == [2, 4, 6, 8]


def test_another_prior_in_the_same_folder_is_refused(start, capsys):
    start()
    with pytest.raises(SystemExit):
        start("--model.prior.init_args.prediction", "epsilon")
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "prior.init_args.prediction = 'v', now it is 'epsilon'" in line
    with pytest.raises(SystemExit):
        start("--data.training.init_args.start", "5")
    assert "data.training.init_args.start = 4, now it is 5" in capsys.readouterr().err


DIGEST = """
import pytorch_lightning as pl
from pathlib import Path

class Digest(pl.Callback):
    def __init__(self, folder: Path):
        self.folder, self.seen = Path(folder), []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.seen += batch[1].tolist()

    def on_train_end(self, trainer, module):
        total = sum(p.double().abs().sum().item() for p in module.prior.network.parameters())
        average = sum(p.double().abs().sum().item() for p in module.average.network.parameters())
        text = f"{total!r} {average!r} {self.seen}"
        (self.folder / f"rank{trainer.global_rank}.txt").write_text(text)
"""


def test_two_processes_train_one_network(start, root, warm, tmp_path):
    """On different images, with the same weights at the end: their gradients were averaged."""
    (tmp_path / "digest.py").write_text(DIGEST)
    arguments = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "3"]
    arguments += [
        f"--trainer.callbacks+={json.dumps({'class_path': 'digest.Digest', 'init_args': {'folder': str(tmp_path)}})}"
    ]
    command = ["lightning_cli.py", "fit", "--config", str(start.config), *arguments]
    done = warm.run(command, root, os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    rows = losses(start.output)
    assert [row["images"] for row in rows] == [12, 24, 36, 48]
    assert done.stderr.count("step 8: ") == 1
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    texts = [(tmp_path / f"rank{rank}.txt").read_text().split(" ", 2) for rank in (0, 1)]
    assert texts[0][:2] == texts[1][:2]
    seen = [json.loads(text[2]) for text in texts]
    assert all(len(s) == 24 for s in seen)
    for epoch in range(4):  # an epoch is 12 images, six a rank
        assert sorted(seen[0][6 * epoch :][:6] + seen[1][6 * epoch :][:6]) == list(range(12))


def test_an_error_on_another_rank_is_said(start, root, warm, tmp_path):
    for number in range(4, 16):
        (tmp_path / "images" / f"{number:02d}.png").write_bytes(b"no picture")
    arguments = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "3"]
    done = warm.run(["lightning_cli.py", "fit", "--config", str(start.config), *arguments], root)
    assert done.returncode != 0
    assert "cannot be decoded" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.learning_rate", "0"], "learning_rate must be > 0"),
        (["--model.levels.uniform", "2"], "uniform must be >= 0 and <= 1"),
        (["--model.validation_sigmas", "[1000]"], "noise level 1000 outside"),
        (["--data.batch_size", "13"], "12 training and 4 validation images are too few for steps of 13"),
        (["--data.training.init_args.root", "nowhere"], "image folder nowhere does not exist"),
        (["--trainer.max_steps", "-1"], "training needs trainer.max_steps"),
        (["--trainer.precision", "bf16-true"], "trainer.precision bf16-true is not supported"),
        (["--output.sheet_steps", "300"], "no integer stride takes 300"),
        (["--model.prior.init_args.network.init_args.learn_sigma", "true"], "set learn_sigma to false"),
    ],
)
def test_bad_settings_are_one_line(start, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        start(*arguments)
    assert exit_.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_levels_are_log_normal_and_reach_both_ends():
    levels, schedule = TrainingLevels(log_mean=-0.9, log_std=1.4, uniform=0.2), LinearBetas()
    u = (np.arange(100_000) + 0.5) / 100_000
    sigma = levels.sigmas(u, schedule)
    even, normal = sigma[u < 0.2], np.log(sigma[u >= 0.2])
    assert even.min() == pytest.approx(schedule.sigmas[0], rel=1e-2)
    assert even.max() == pytest.approx(schedule.sigmas[-1], rel=1e-2)
    assert np.median(even) == pytest.approx(schedule.sigmas[499], rel=1e-2)
    assert normal.mean() == pytest.approx(-0.9, abs=0.01)
    assert normal.std() == pytest.approx(1.4, rel=0.01)
    for fraction in (0.0, 1.0):
        sigma = TrainingLevels(uniform=fraction).sigmas(u, schedule)
        assert np.isfinite(sigma).all()
        assert sigma.min() >= schedule.sigmas[0]
        assert sigma.max() <= schedule.sigmas[-1]


def module(**settings):
    return DenoisingTraining(DiffusionPrior(UNet(**NETWORK), prediction="v"), validation_sigmas=[1.0], **settings)


def test_the_rate_warms_up_stays_and_cools_down():
    training = module(warmup_steps=10, cooldown_steps=20)
    training.trainer = pl.Trainer(max_steps=100, accelerator="cpu", logger=False, enable_checkpointing=False)
    rates = [training.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10:80] == [1.0] * 70
    assert rates[90] == pytest.approx(10 / 21)
    assert rates[100] == 0
    assert all(a < b for a, b in pairwise(rates[:11]))


def test_the_average_follows_the_weights():
    training = module(ema_decay=0.5)
    before = copy.deepcopy(training.average.network.state_dict())
    with torch.no_grad():
        for parameter in training.prior.network.parameters():
            parameter.add_(1.0)
    training.follow(step=1)  # (1 + 1) / (10 + 1) < 0.5
    for name, value in training.average.network.state_dict().items():
        torch.testing.assert_close(value, before[name] + 9 / 11)
    training.follow(step=1000)
    for name, value in training.average.network.state_dict().items():
        torch.testing.assert_close(value, before[name] + 1 - 2 / 11 / 2)


def test_the_validation_is_the_same_whatever_the_batch():
    """Noise and levels belong to an image's number."""
    training = module()
    images, numbers = torch.rand(4, 3, SIDE, SIDE), torch.arange(4)
    for sizes in ([4], [1, 3]):
        for x, n in zip(images.split(sizes), numbers.split(sizes), strict=True):
            training.validation_step((x, n), 0)
        values = [float(mean.compute()) for mean in (training.val_loss, *training.errors)]
        if len(sizes) == 1:
            expected = values
            for mean in (training.val_loss, *training.errors):
                mean.reset()
    assert values == pytest.approx(expected, rel=1e-6)


def test_a_validation_level_outside_the_schedule_is_refused():
    with pytest.raises(UserError, match="noise level 1000 outside"):
        DenoisingTraining(DiffusionPrior(UNet(**NETWORK)), validation_sigmas=[1000.0])


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_images_that_the_prior_cannot_take_are_one_line(step):
    training = module()
    batch = (torch.zeros(2, 1, SIDE, SIDE), torch.arange(2))
    with pytest.raises(UserError, match=r"is for images \(3, 8, 8\), these are \(1, 8, 8\): take images of 3 channels"):
        getattr(training, step)(batch, 0)
    with pytest.raises(UserError, match=r"multiples of 2: set data.init_args.size 8"):
        getattr(training, step)((torch.zeros(2, 3, SIDE - 1, SIDE), torch.arange(2)), 0)


def test_another_size_than_the_networks_is_told_once(monkeypatch):
    training, said = module(), []
    monkeypatch.setattr("posterior.training.warn_once", said.append)
    for _ in range(2):
        training.check_images(torch.zeros(2, 3, 2 * SIDE, SIDE))
    assert len(said) == 1
    assert "(3, 16, 8), a size that it was not made for" in said[0]
