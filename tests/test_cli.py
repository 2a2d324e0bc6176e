"""The main job, as a user starts it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from cleanfid.fid import fid_from_feats, get_folder_features, kernel_distance
from PIL import Image

import lightning_cli
from datamodules import ImageFolder
from lightning_cli import RunStarted, main
from posterior import files
from posterior.callbacks import ResultWriter
from posterior.metrics import PSNR, VGG16Pixels
from posterior.module import PosteriorSampling
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution
from posterior.priors import UNet
from posterior.results import Journal
from posterior.samplers import ExactGaussian

FIELD = {
    "class_path": "posterior.priors.GaussianFieldPrior",
    "init_args": {
        "mean": [0.0, 0.0, 0.0],
        "components": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "amplitude": [1e-2, 1e-2, 1e-2],
        "exponent": [2.0, 2.0, 2.0],
        "cutoff": [0.1, 0.1, 0.1],
        "floor": 0.1,
    },
}
SIDE = 16
IDS = ["a", "b", "c"]

pytestmark = pytest.mark.usefixtures("no_lpips_weights")


def write_images(folder: Path, ids: list[str] = IDS, side: int = SIDE) -> Path:
    for number, image_id in enumerate(ids):
        y, x = np.mgrid[:side, :side] / side
        pixels = np.stack([x, y, (x + y + number / 5) % 1], axis=-1)
        path = folder / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
    return folder


def write_config(path: Path, root: Path, output: Path, **changes: object) -> Path:
    """A small run of annealed Langevin; ``changes`` are dotted keys with ``__`` for the dot."""
    config = {
        "model": {
            "prior": FIELD,
            "sampler": {
                "class_path": "posterior.samplers.AnnealedLangevin",
                "init_args": {
                    "step_size": 1e-3,
                    "schedule": {
                        "class_path": "posterior.samplers.PublishedAnnealing",
                        "init_args": {"growth": 0.2, "num_levels": 30},
                    },
                    "reverse": {
                        "class_path": "posterior.samplers.ReverseDiffusion",
                        "init_args": {
                            "schedule": {
                                "class_path": "posterior.samplers.RespacedSigmas",
                                "init_args": {"respacing": 10},
                            }
                        },
                    },
                },
            },
            "num_samples": 2,
        },
        "data": {
            "class_path": "datamodules.ImageFolder",
            "init_args": {
                "root": str(root),
                "operator": {"class_path": "posterior.operators.RandomInpainting"},
                "likelihood": {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": 0.1}},
            },
        },
        "output": {"dir": str(output), "save_samples": True},
        "trainer": {"accelerator": "cpu", "devices": 1},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def run(tmp_path):
    """Run `predict` on a small folder: run(extra arguments, **config changes) -> output folder."""
    images = write_images(tmp_path / "images")

    def start(*arguments: str, **changes: object) -> Path:
        config = write_config(tmp_path / "config.yaml", images, tmp_path / "results" / "run", **changes)
        main(["predict", "--config", str(config), *arguments])
        return Path(yaml.safe_load(config.read_text())["output"]["dir"])

    start.images = images
    start.tmp_path = tmp_path
    return start


def complaint(run, capsys, *arguments, **changes) -> str:
    """The one line that a failing run prints."""
    with pytest.raises(SystemExit) as exit_:
        run(*arguments, **changes)
    assert exit_.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def samples(output: Path) -> dict[str, np.ndarray]:
    return {
        path.relative_to(output / "samples").with_suffix("").as_posix(): np.load(path)
        for path in (output / "samples").rglob("*.npy")
    }


def test_a_run_leaves_everything_it_promises(run, capsys):
    output = run()
    printed = capsys.readouterr().out
    assert f"grid: {output / 'grid.png'}" in printed
    assert "psnr" in printed
    for image_id in IDS:
        folder = output / "images" / image_id
        expected = {"measurement", "sample_000", "sample_001", "mean", "std", "truth"}
        assert {path.stem for path in folder.iterdir()} == expected
        assert np.load(output / "samples" / f"{image_id}.npy").shape == (2, 3, SIDE, SIDE)
        assert np.array_equal(Image.open(folder / "truth.png"), Image.open(run.images / f"{image_id}.png"))
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["images"] == 3
    assert metrics["samples_per_image"] == 2
    assert metrics["metrics"]["sample"]["psnr"]["count"] == 3
    assert metrics["metrics"]["sample"]["nfe_forward"]["mean"] == 10 + 29
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0]
    rows = list(csv.DictReader((output / "per_image.csv").open()))
    assert [(row["id"], row["sample"]) for row in rows] == [(i, k) for i in IDS for k in ("0", "1", "mean")]
    per_image = [np.mean([float(r["psnr"]) for r in rows if r["id"] == i and r["sample"] != "mean"]) for i in IDS]
    assert metrics["metrics"]["sample"]["psnr"]["mean"] == pytest.approx(np.mean(per_image), rel=1e-5)
    saved = yaml.safe_load((output / "config.yaml").read_text())
    assert saved["model"]["sampler"]["init_args"]["anchor_term"] is True  # defaults are written out
    assert not list(output.rglob("*.partial"))


def test_quietly_a_run_says_where_its_results_are_and_warnings(run, capsys, caplog):
    output = run("--quiet")
    said = capsys.readouterr()
    assert said.out == f"page: {output / 'report.html'}\n"
    assert "lpips_alex is left out" in caplog.text
    assert set(said.err.splitlines()) <= set(caplog.messages)
    run("--quiet")  # nothing is left to be done
    assert capsys.readouterr() == (said.out, "")


def test_the_table_of_a_run_fits_eighty_columns(run, capsys):
    run("--model.pick_best", "true")
    out = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(out) if line.endswith("samples each")) + 1
    assert max(len(line) for line in out[first : out.index(next(line for line in out if "grid: " in line))]) <= 80


def test_missing_lpips_weights_cost_one_line_and_a_dash(run, capsys, caplog):
    run()
    assert "lpips_alex is left out: alexnet-owt-7be5be79.pth is not in" in caplog.text
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lpips_alex ")]
    assert row.split()[1:] == ["-", "-"]  # a sample, the mean of two


def test_the_same_command_again_finishes_what_is_missing(run, capsys):
    output = run()
    before, metrics = samples(output), json.loads((output / "metrics.json").read_text())["metrics"]
    journal = output / "journal" / "rank0.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:4]) + lines[4][:20])  # killed while b was being recorded
    for path in (output / "samples" / "b.npy", output / "samples" / "c.npy", output / "metrics.json"):
        path.unlink()
    stamp = (output / "samples" / "a.npy").stat().st_mtime_ns
    run()
    assert (output / "samples" / "a.npy").stat().st_mtime_ns == stamp  # not computed again
    after = samples(output)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[i], before[i]) for i in IDS)
    again = json.loads((output / "metrics.json").read_text())["metrics"]
    assert again["sample"]["psnr"] == pytest.approx(metrics["sample"]["psnr"], rel=1e-5)
    run()  # nothing is missing now: only the table comes again
    assert (output / "samples" / "b.npy").stat().st_mtime_ns > stamp
    assert json.loads((output / "metrics.json").read_text())["images"] == 3
    assert "resuming: 3 images are complete" in capsys.readouterr().err


def test_a_limit_can_be_raised_and_batch_size_changed_on_resume(run):
    output = run("--data.init_args.limit", "1")
    assert json.loads((output / "metrics.json").read_text())["images"] == 1
    run("--data.init_args.batch_size", "2")
    assert json.loads((output / "metrics.json").read_text())["images"] == 3


def test_other_settings_are_not_mixed_into_a_run(run, capsys):
    run()
    line = complaint(run, capsys, model__sampler__init_args__step_size=2e-3)
    assert "holds a run with model.sampler.init_args.step_size = 0.001, now it is 0.002" in line


def test_results_do_not_depend_on_batch_size(run, tmp_path):
    """Stated tolerance of Langevin across batch sizes: 1e-4 absolute."""
    one = samples(run())
    three = samples(run(output__dir=str(tmp_path / "other"), data__init_args__batch_size=3))
    for image_id in IDS:
        np.testing.assert_allclose(one[image_id], three[image_id], atol=1e-4)


def test_two_processes_give_what_one_gives(run, root, warm, tmp_path):
    """DDP on the CPU with an odd number of images: same samples, same metrics, each image counted once."""
    single = run()
    double = tmp_path / "results" / "ddp"
    command = ["lightning_cli.py", "predict", "--config", str(tmp_path / "config.yaml")]
    command += ["--output.dir", str(double), "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    done = warm.run([*command, "--trainer.strategy", "ddp"], root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("grid: ") == 1
    ranks = [
        len({json.loads(line)["id"] for line in path.open()}) for path in sorted(double.glob("journal/rank*.jsonl"))
    ]
    assert ranks == [2, 1]
    ours, theirs = samples(single), samples(double)
    for image_id in IDS:
        np.testing.assert_allclose(ours[image_id], theirs[image_id], atol=1e-4)
        for name in ("measurement", "truth"):
            files = [(output / "images" / image_id / f"{name}.png").read_bytes() for output in (single, double)]
            assert files[0] == files[1]
    one, two = (json.loads((output / "metrics.json").read_text()) for output in (single, double))
    assert one["images"] == two["images"] == 3
    for kind, names in one["metrics"].items():
        for name, value in names.items():
            if name != "seconds":
                other = two["metrics"][kind][name]
                assert other["count"] == value["count"]
                assert other["mean"] == (value["mean"] and pytest.approx(value["mean"], rel=1e-3, abs=1e-5))


def test_more_processes_than_images_is_no_problem(run, root, warm, tmp_path):
    run("--data.init_args.limit", "1")
    command = ["lightning_cli.py", "predict", "--config", str(tmp_path / "config.yaml")]
    command += ["--output.dir", str(tmp_path / "ddp"), "--data.init_args.limit", "1", "--trainer.devices", "2"]
    done = warm.run([*command, "--trainer.strategy", "ddp"], root)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "ddp" / "metrics.json").read_text())["images"] == 1


def test_a_users_own_sampler_is_a_class_path_away(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from posterior.samplers import Sampler\n\n"
        "@dataclass(frozen=True)\n"
        "class BackProjection(Sampler):\n"
        "    gain: float = 1.0\n\n"
        "    def __call__(self, prior, measurement, rng, observe=None):\n"
        "        return self.gain * measurement.linear_operator('BackProjection').adjoint(measurement.y)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    output = run("--allow-local", model__sampler={"class_path": "mine.BackProjection", "init_args": {"gain": 2.0}})
    y = np.asarray(Image.open(output / "images" / "a" / "measurement.png")).astype(float)
    x = np.asarray(Image.open(output / "images" / "a" / "sample_000.png")).astype(float)
    np.testing.assert_allclose(x, np.clip(2 * (y - 127.5) + 127.5, 0, 255), atol=2)


def test_measured_data_report_residual_and_cost_only(run, tmp_path, capsys):
    (tmp_path / "y").mkdir()
    np.save(tmp_path / "y" / "scan.npy", np.random.default_rng(0).uniform(-1, 1, size=(3, 4, 4)))
    data = {
        "class_path": "datamodules.RecordedMeasurements",
        "init_args": {
            "root": str(tmp_path / "y"),
            "operator": {"class_path": "posterior.operators.SuperResolution", "init_args": {"scale": 4}},
            "likelihood": {"class_path": "posterior.noise.GaussianNoise"},
            "image_shape": [3, SIDE, SIDE],
        },
    }
    output = run(data=data)
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]["sample"]
    known = {name for name, value in metrics.items() if value["mean"] is not None}
    assert known == {"residual", "nfe_forward", "nfe_backward", "seconds"}
    assert not (output / "images" / "scan" / "truth.png").exists()


def test_missing_and_empty_folders(run, capsys, tmp_path):
    assert "image folder nowhere does not exist" in complaint(run, capsys, data__init_args__root="nowhere")
    (tmp_path / "empty").mkdir()
    line = complaint(run, capsys, data__init_args__root=str(tmp_path / "empty"))
    assert "holds no image file (.jpeg, .jpg, .png)" in line


def test_a_bad_image_leaves_the_completed_ones(run, capsys):
    path = run.images / "b.png"
    path.write_bytes(path.read_bytes()[:60])
    line = complaint(run, capsys)
    assert f"1 of 3 images failed, the others are complete: image {path} cannot be decoded" in line
    output = run.tmp_path / "results" / "run"
    assert sorted(samples(output)) == ["a", "c"]
    assert json.loads((output / "metrics.json").read_text())["failed"].keys() == {"b"}
    write_images(run.images)  # mended: the same command finishes
    run()
    assert sorted(samples(output)) == IDS
    assert json.loads((output / "metrics.json").read_text())["failed"] == {}


def test_a_transparent_and_a_small_image(run, capsys):
    Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 100)).save(run.images / "a.png")
    assert "a.png is partly transparent" in complaint(run, capsys)
    write_images(run.images)
    other = {"data__init_args__crop": 20, "output__dir": str(run.tmp_path / "results" / "cropped")}
    assert "3 of 3 images failed" in (line := complaint(run, capsys, **other))
    assert "smaller than the crop of 20" in line


def test_noise_that_is_not_positive(run, capsys):
    likelihood = {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": 0.0}}
    assert "sigma_y must be > 0" in complaint(run, capsys, data__init_args__likelihood=likelihood)


def test_an_operator_that_does_not_fit(run, capsys):
    operator = {"class_path": "posterior.operators.SuperResolution", "init_args": {"scale": 5}}
    line = complaint(run, capsys, data__init_args__operator=operator)
    assert "3 of 3 images failed" in line
    assert "image a: SuperResolution: scale 5 does not divide the image size 16x16" in line


def test_nan_in_a_chain(run, capsys):
    line = complaint(run, capsys, model__sampler__init_args__step_size=1e3)
    assert "3 of 3 images failed: image a, sample 0: NaN or infinite values in annealed Langevin" in line
    assert "smaller step size" in line


def test_nan_in_one_chain_costs_one_image(run, capsys, tmp_path, monkeypatch):
    (tmp_path / "unstable.py").write_text(
        "from posterior.samplers import Sampler\n\n"
        "class Unstable(Sampler):\n"
        "    def __call__(self, prior, measurement, rng, observe=None):\n"
        "        x = rng.randn('x', measurement.image_shape)\n"
        "        x[rng.rows.index(('b', 1))] = float('nan') if ('b', 1) in rng.rows else x[0]\n"
        "        return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sampler = {"class_path": "unstable.Unstable"}
    line = complaint(run, capsys, "--allow-local", model__sampler=sampler, data__init_args__batch_size=3)
    assert "1 of 3 images failed, the others are complete: image b, sample 1: NaN" in line
    assert sorted(samples(run.tmp_path / "results" / "run")) == ["a", "c"]


@pytest.mark.parametrize("bad", ["a", "b"])  # in the first rank's images, and in the second's
def test_a_bad_image_under_ddp_costs_one_line(run, root, warm, tmp_path, bad):
    run("--data.init_args.limit", "1")
    (run.images / f"{bad}.png").write_bytes(b"no picture")
    command = ["lightning_cli.py", "predict", "--config", str(tmp_path / "config.yaml")]
    command += ["--output.dir", str(tmp_path / "ddp"), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = warm.run(command, root)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: 1 of 3 images failed") == 1
    assert len(samples(tmp_path / "ddp")) == 2


def test_a_run_dies_of_sigterm(run, root, tmp_path):
    steps = {"class_path": "posterior.samplers.PublishedAnnealing", "init_args": {"num_levels": 200_000}}
    changes = {"model__sampler__init_args__schedule": steps}
    config = write_config(tmp_path / "config.yaml", run.images, tmp_path / "results" / "run", **changes)
    command = [sys.executable, "lightning_cli.py", "predict", "--config", str(config)]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (tmp_path / "results" / "run" / "config.yaml").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(2)
    process.terminate()
    assert process.wait(timeout=60) == -signal.SIGTERM


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_folder_that_cannot_be_written(run, capsys, tmp_path, output):
    (tmp_path / "file").write_text("in the way")
    assert "cannot write to output.dir" in complaint(run, capsys, output__dir=str(tmp_path / output))


def test_files_that_are_asked_for_later_or_were_deleted_are_made(run):
    output = run(output__save_samples=False)
    assert not (output / "samples").exists()
    run()
    assert sorted(samples(output)) == IDS
    shutil.rmtree(output / "images" / "b")
    run()
    assert (output / "images" / "b" / "sample_000.png").exists()


def test_another_prior_behind_the_same_settings_is_refused(run, capsys):
    prior = {
        "class_path": "posterior.priors.GaussianFieldPrior.from_folder",
        "init_args": {"root": str(run.images), "floor": 0.1},
    }
    run("--data.init_args.limit", "1", model__prior=prior)
    write_images(run.images, ["d", "e"])
    line = complaint(run, capsys, model__prior=prior)
    assert "holds a run with another content of what model.prior.init_args.root names" in line


def test_two_runs_in_one_process_do_not_add_up(field, tmp_path):
    data = ImageFolder(write_images(tmp_path / "images"), SuperResolution(4), GaussianNoise(0.1))
    module = PosteriorSampling(field, ExactGaussian(), metrics=[PSNR()])
    for name in ("one", "two"):
        settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "inference_mode": False}
        trainer = pl.Trainer(callbacks=[ResultWriter(tmp_path / name)], **settings)
        trainer.predict(module, datamodule=data, return_predictions=False)
        assert json.loads((tmp_path / name / "metrics.json").read_text())["metrics"]["sample"]["psnr"]["count"] == 3


def test_a_precision_that_samplers_do_not_know(run, capsys):
    assert "trainer.precision 64-true is not supported" in complaint(run, capsys, "--trainer.precision", "64-true")


def test_half_precision_on_a_cpu_is_refused_and_not_another_one_silently(run, capsys):
    assert "16-mixed needs a GPU" in complaint(run, capsys, "--trainer.precision", "16-mixed")


def test_under_autocast_closed_form_chains_are_the_same_to_the_bit(run, tmp_path):
    """States, noise and likelihood stay in float32: only a network runs in bfloat16."""
    plain = samples(run())
    mixed = samples(run("--trainer.precision", "bf16-mixed", output__dir=str(tmp_path / "mixed")))
    assert all(np.array_equal(plain[i], mixed[i]) for i in IDS)


def test_fid_and_kid_of_a_run_are_clean_fids_and_survive_a_kill(run, lpips_weights, tmp_path):
    distance = {
        "class_path": "posterior.metrics.FeatureDistance",
        "init_args": {"network": {"class_path": "posterior.metrics.VGG16Pixels"}},
    }
    changes = {"model__distances": [distance], "model__metrics": [{"class_path": "posterior.metrics.PSNR"}]}
    output = run(**changes)
    found = json.loads((output / "metrics.json").read_text())["distances"]["vgg16"]
    assert (found["images"], found["reference_images"]) == (3, 3)
    network, features = VGG16Pixels(), {}
    for name in ("sample_000", "truth"):
        for image_id in IDS:
            (tmp_path / name).mkdir(exist_ok=True)
            shutil.copy(output / "images" / image_id / f"{name}.png", tmp_path / name / f"{image_id}.png")
        features[name] = get_folder_features(
            str(tmp_path / name), model=network.of_resized, num_workers=0, device=torch.device("cpu"), verbose=False
        ).astype(np.float64)
    assert found["fid"] == pytest.approx(fid_from_feats(features["sample_000"], features["truth"]), rel=1e-3)
    expected = kernel_distance(features["sample_000"], features["truth"], num_subsets=1)
    assert found["kid"] == pytest.approx(expected, rel=1e-3)
    assert "features" not in (output / "per_image.csv").read_text()
    journal = output / "journal" / "rank0.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:100])  # killed while the truth's features were written
    (output / "metrics.json").unlink()
    run(**changes)
    assert json.loads((output / "metrics.json").read_text())["distances"]["vgg16"] == found


def test_a_writer_never_holds_more_than_a_few_batches(run, monkeypatch):
    """The disk is slow, the sampler fast: predictions wait in a bounded queue, not in memory without end."""
    slow, ahead = files.write_whole, []

    def write(path, content):
        time.sleep(0.02)
        slow(path, content)

    monkeypatch.setattr("posterior.callbacks.results.write_whole", write)
    measure = PosteriorSampling.measure

    def counted(self, batch, chains, cost):
        written = {record["id"] for record in Journal(run.tmp_path / "results" / "run" / "journal").read()}
        ahead.append(len(ahead) - len(written))
        return measure(self, batch, chains, cost)

    monkeypatch.setattr(PosteriorSampling, "measure", counted)
    write_images(run.images, [f"more/{n:02d}" for n in range(17)])
    run(model__sampler={"class_path": "posterior.samplers.ExactGaussian"})
    assert len(ahead) == 20
    assert 2 <= max(ahead) <= 4  # one at work, two waiting, one being handed over


@pytest.mark.parametrize(
    "sampler",
    [
        {"class_path": "posterior.samplers.ExactGaussian"},
        {"class_path": "posterior.samplers.ProximalDenoising", "init_args": {"covariance": "jacobian"}},
        {
            "class_path": "posterior.samplers.Projection",
            "init_args": {
                "schedule": {"class_path": "posterior.samplers.RespacedSigmas", "init_args": {"respacing": 10}}
            },
        },
    ],
)
def test_mixed_precision_is_the_networks_alone(run, tmp_path, sampler):
    operator = {"class_path": "posterior.operators.SuperResolution", "init_args": {"scale": 2}}
    changes = {"model__sampler": sampler, "data__init_args__operator": operator}
    plain = samples(run(**changes))
    mixed = samples(run("--trainer.precision", "bf16-mixed", output__dir=str(tmp_path / "mixed"), **changes))
    assert all(np.array_equal(plain[i], mixed[i]) for i in IDS)


def test_a_prior_within_a_prior_is_the_outer_one(run):
    """Also where priors are shared between runs of a process."""
    prior = {
        "class_path": "posterior.priors.PerturbedPrior",
        "init_args": {
            "prior": FIELD,
            "error": {
                "class_path": "posterior.priors.ShellError",
                "init_args": {"dimension": 768, "radius": 1.0, "width": 0.9, "order": 2.0, "error": 5.0},
            },
        },
    }
    config = write_config(run.tmp_path / "y.yaml", run.images, run.tmp_path / "y", model__prior=prior)
    seen = [samples(run(output__dir=str(run.tmp_path / "plain")))]
    for name in ("one", "two"):
        output = run.tmp_path / name
        settings = yaml.safe_load(config.read_text()) | {"output": {"dir": str(output), "save_samples": True}}
        lightning_cli.run("predict", settings, RunStarted(), share_prior=True)
        seen.append(samples(output))
        saved = yaml.safe_load((output / "config.yaml").read_text())["model"]["prior"]
        assert saved["class_path"] == "posterior.priors.PerturbedPrior"
    assert all(np.array_equal(seen[1][i], seen[2][i]) for i in IDS)
    assert not any(np.allclose(seen[0][i], seen[1][i]) for i in IDS)


def test_features_that_come_or_go_are_not_mixed_into_a_run(run, capsys, lpips_weights, monkeypatch):
    distance = {
        "class_path": "posterior.metrics.FeatureDistance",
        "init_args": {"network": {"class_path": "posterior.metrics.VGG16Pixels"}},
    }
    changes = {"model__distances": [distance], "model__metrics": [{"class_path": "posterior.metrics.PSNR"}]}
    run("--data.init_args.limit", "1", **changes)
    monkeypatch.setenv("TORCH_HOME", str(run.tmp_path / "empty"))
    line = complaint(run, capsys, **changes)
    assert "holds a run with the features of vgg16, now there are those of none (are its weights there?)" in line
    assert "each feature network may stand there once" in complaint(
        run, capsys, **changes | {"model__distances": [distance] * 2}
    )


def test_loggers_do_not_make_ranks_wait_for_each_other(run, root, warm, tmp_path):
    """Uneven ranks: with a collective a batch this would hang."""
    logger = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "log")}}
    config = write_config(tmp_path / "c.yaml", run.images, tmp_path / "out", trainer__logger=logger)
    command = ["lightning_cli.py", "predict", "--config", str(config), "--trainer.devices", "2"]
    done = warm.run([*command, "--trainer.strategy", "ddp"], root)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "log").rglob("metrics.csv")
    batches = [row["batch/sample/psnr"] for row in csv.DictReader(path.open()) if row["batch/sample/psnr"]]
    assert len(batches) == 2  # rank 0's


def test_loggers_get_settings_means_and_grid(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = [
        {
            "class_path": f"pytorch_lightning.loggers.{name}",
            "init_args": {"save_dir": str(tmp_path / name), "name": "x"},
        }
        for name in ("CSVLogger", "TensorBoardLogger")
    ]
    output = run(trainer__logger=loggers)
    summary = json.loads((output / "metrics.json").read_text())["metrics"]["sample"]["psnr"]["mean"]
    (path,) = (tmp_path / "CSVLogger").rglob("metrics.csv")
    rows = list(csv.DictReader(path.open()))
    assert float(rows[-1]["sample/psnr"]) == pytest.approx(summary)
    batches = [float(row["batch/sample/psnr"]) for row in rows if row["batch/sample/psnr"]]
    assert np.mean(batches) == pytest.approx(summary, rel=1e-5)
    (path,) = (tmp_path / "CSVLogger").rglob("hparams.yaml")
    assert yaml.safe_load(path.read_text())["model"]["num_samples"] == 2
    events = EventAccumulator(str(next((tmp_path / "TensorBoardLogger").rglob("events*")).parent)).Reload()
    assert events.Tags()["images"] == ["grid"]
    assert events.Scalars("sample/psnr")[0].value == pytest.approx(summary, rel=1e-5)


def test_the_saved_and_the_printed_configuration_make_the_run_again(run, tmp_path, capsys):
    first = run()
    saved = tmp_path / "saved.yaml"
    saved.write_bytes((first / "config.yaml").read_bytes())
    main(["predict", "--config", str(saved), "--output.dir", str(tmp_path / "again")])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "--config", str(tmp_path / "config.yaml"), "--print_config"])
    assert not stopped.value.code
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    main(["predict", "--config", str(tmp_path / "printed.yaml"), "--output.dir", str(tmp_path / "printed")])
    whole = samples(first)
    for name in ("again", "printed"):
        assert all(np.array_equal(whole[i], found) for i, found in samples(tmp_path / name).items())


def test_another_kind_of_datamodule_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        run(data={"class_path": "pytorch_lightning.demos.boring_classes.BoringDataModule"})
    assert "MeasuredData" in capsys.readouterr().err


def test_a_checkpoint_of_another_architecture(run, capsys, tmp_path):
    small = {"image_size": 16, "num_channels": 32, "channel_mult": [1, 1], "attention_resolutions": [8]}
    torch.save(UNet(**small | {"attention_resolutions": []}).state_dict(), tmp_path / "other.pt")
    prior = {
        "class_path": "posterior.priors.DiffusionPrior",
        "init_args": {
            "network": {"class_path": "posterior.priors.UNet", "init_args": small},
            "checkpoint": str(tmp_path / "other.pt"),
        },
    }
    line = complaint(run, capsys, model__prior=prior)
    assert "other.pt is of another architecture than UNet: " in line
    assert "missing: input_blocks.1.1.norm.weight" in line or "missing: input_blocks.3.1.norm.weight" in line


def test_a_misspelt_option_fails_before_anything_runs(run, capsys):
    with pytest.raises(SystemExit):
        run("--model.sampler.step_siez", "1")
    assert "step_siez" in capsys.readouterr().err
    assert not (run.tmp_path / "results").exists()


def test_a_gradient_guided_sampler_runs_under_the_trainer(run):
    sampler = {
        "class_path": "posterior.samplers.DPS",
        "init_args": {"schedule": {"class_path": "posterior.samplers.RespacedSigmas", "init_args": {"respacing": 5}}},
    }
    output = run(model__sampler=sampler)
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]["sample"]
    assert (metrics["nfe_forward"]["mean"], metrics["nfe_backward"]["mean"]) == (5, 5)


def test_progress_shows_images_and_steps(run, capsys, monkeypatch):
    from posterior.callbacks import SamplingProgress

    original = SamplingProgress.__init__
    monkeypatch.setattr(SamplingProgress, "__init__", lambda self: original(self, seconds_between_lines=0.0))
    run()
    lines = capsys.readouterr().err
    assert re.search(r"0 of 3 images done, \S+ calls/s; annealed Langevin, level 2/30, step 1/29\n", lines)
    assert re.search(r"0 of 3 images done, \S+ calls/s; annealed Langevin, level 30/30, step 29/29, ends in 0 s", lines)
    assert re.search(r"3 of 3 images done, \S+ calls/s, about 0 s left; batch sampled", lines)


def test_the_best_of_several_runs_is_reported_and_shown(run, capsys):
    operator = {"class_path": "posterior.operators.PhaseRetrieval"}
    output = run("--model.pick_best", "true", data__init_args__operator=operator)
    printed = capsys.readouterr().out
    assert "least residual" in printed
    assert "oracle's choice" in printed
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]
    assert metrics["best"]["residual"]["mean"] <= metrics["sample"]["residual"]["mean"]
    rows = {(row["id"], row["sample"]): row for row in csv.DictReader((output / "per_image.csv").open())}
    for kind in ("best", "oracle"):
        number = int(rows["a", kind]["picked"])
        picture = (output / "images" / "a" / f"{kind}.png").read_bytes()
        assert picture == (output / "images" / "a" / f"sample_{number:03d}.png").read_bytes()
    before = (output / "journal" / "rank0.jsonl").read_bytes()
    run("--model.pick_best", "true", data__init_args__operator=operator)
    assert (output / "journal" / "rank0.jsonl").read_bytes() == before  # complete: nothing is drawn again


def test_a_drawn_kernel_is_shown(run):
    output = run(
        data__init_args__operator={"class_path": "posterior.operators.MotionBlur", "init_args": {"kernel_size": 9}}
    )
    assert Image.open(output / "images" / "b" / "operator.png").size == (9, 9)


def test_langevin_takes_photon_noise(run):
    photons = {"class_path": "posterior.noise.PoissonNoise", "init_args": {"rate": 0.1}}
    slowly = ("--model.sampler.init_args.schedule.init_args.steps_per_level", "30")
    output = run(*slowly, data__init_args__likelihood=photons)
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]["sample"]
    assert 0.7 < metrics["residual"]["mean"] < 1.4
