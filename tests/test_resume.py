"""What a run takes in, what it goes on from, and where it writes: nothing is mixed without a word."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.matrix.compare import compare
from benchmarks.matrix.summarise import summarise
from lightning_cli import main
from posterior import UserError
from posterior.callbacks import record
from posterior.results.journal import FORMAT
from tests.test_cli import FIELD, IDS, SIDE, complaint, run, samples, write_config, write_images  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_lpips_weights")
EXACT = {"class_path": "posterior.samplers.ExactGaussian"}
MASKED = {"class_path": "posterior.operators.MaskInpainting"}


@pytest.fixture
def quick(run):  # noqa: F811
    """`run` with the exact sampler."""

    def start(*arguments: str, **changes: object) -> Path:
        return run(*arguments, **{"model__sampler": EXACT} | changes)

    start.images, start.tmp_path = run.images, run.tmp_path
    return start


def masks(path: Path, row: int) -> Path:
    mask = np.ones((SIDE, SIDE), dtype=np.uint8)
    mask[row] = 0
    np.save(path, mask)
    return path


def metrics(output: Path) -> dict:
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.parametrize(
    "flag", ["fast_dev_run=true", "fast_dev_run=2", "limit_predict_batches=1", "overfit_batches=1"]
)
def test_ways_of_the_trainer_to_run_on_less_name_ours(quick, capsys, flag):
    line = complaint(quick, capsys, f"--trainer.{flag}")
    assert f"trainer.{flag.partition('=')[0]} is not for predict: set data.init_args.limit" in line
    assert not (quick.tmp_path / "results").exists()


@pytest.mark.parametrize("missing", ["config.yaml", "record.json"])
def test_records_without_what_says_of_what_are_refused(quick, capsys, missing):
    output = quick()
    (output / missing).unlink()
    line = complaint(quick, capsys, model__num_samples=1)
    assert f"holds results, but not the {missing} that says of what" in line


def test_a_setting_that_only_shares_its_name_with_a_free_one_is_held_to():
    assert record.changes_nothing("data.init_args.limit")
    assert not record.changes_nothing("model.sampler.init_args.limit")
    assert record.changes_nothing("model.prior.init_args.network.init_args.checkpoint_activations")


def test_a_damaged_record_is_named(quick, capsys):
    output = quick()
    (output / "record.json").write_text("")
    assert "record.json or config.yaml beside it is damaged" in complaint(quick, capsys)


def test_a_configuration_of_the_users_own_is_not_overwritten(quick, capsys):
    output = quick.tmp_path / "results" / "run"
    output.mkdir(parents=True)
    (output / "config.yaml").write_text("mine: true")
    assert "is there, but no run that it belongs to" in complaint(quick, capsys)
    assert (output / "config.yaml").read_text() == "mine: true"


def test_the_folder_of_the_inputs_is_none_for_a_run(quick, capsys):
    line = complaint(quick, capsys, output__dir=str(quick.images))
    assert "is the folder of the inputs: choose one of its own" in line
    assert sorted(path.name for path in quick.images.iterdir()) == [".lock", *(f"{i}.png" for i in IDS)]


def test_images_that_nobody_did_are_missed(quick, capsys, monkeypatch):
    from datamodules import ImageFolder

    monkeypatch.setattr(ImageFolder, "_shard", lambda self, shard=ImageFolder._shard: (shard(self)[0][:2], range(2)))
    monkeypatch.setattr(ImageFolder, "num_local_images", 2)
    assert "1 of 3 images were not done, c for one: start again" in complaint(quick, capsys)


def test_a_mask_that_changed_under_its_name_is_refused(quick, capsys):
    operator = MASKED | {"init_args": {"mask": str(masks(quick.tmp_path / "mask.npy", 3))}}
    quick("--data.init_args.limit", "1", data__init_args__operator=operator)
    os.utime(quick.tmp_path / "mask.npy", (1, 1))  # the same content at another time is the same
    quick("--data.init_args.limit", "2", data__init_args__operator=operator)
    masks(quick.tmp_path / "mask.npy", 4)
    line = complaint(quick, capsys, data__init_args__operator=operator)
    assert "another content of what data.init_args.operator.init_args.mask names" in line


def test_a_picture_that_changed_under_its_name_is_done_again_and_no_other(quick, capsys):
    output = quick(model__num_samples=1)
    before, stamps = samples(output), {i: (output / "samples" / f"{i}.npy").stat().st_mtime_ns for i in IDS}
    path = quick.images / "b.png"
    kept = path.stat()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    quick(model__num_samples=1)
    assert "1 inputs have changed and are done again: b" in capsys.readouterr().err
    after = samples(output)
    assert [i for i in IDS if (output / "samples" / f"{i}.npy").stat().st_mtime_ns != stamps[i]] == ["b"]
    assert not np.allclose(after["b"], before["b"])
    whole = quick(model__num_samples=1, output__dir=str(quick.tmp_path / "whole"))
    assert metrics(output)["metrics"]["sample"]["psnr"] == metrics(whole)["metrics"]["sample"]["psnr"]


def test_a_picture_that_went_bad_counts_no_more(quick, capsys):
    output = quick()
    (quick.images / "b.png").write_bytes(b"no picture")
    assert "1 of 3 images failed, the others are complete" in complaint(quick, capsys)
    assert metrics(output)["images"] == 2
    assert metrics(output)["metrics"]["sample"]["psnr"]["count"] == 2
    assert "b," not in (output / "per_image.csv").read_text()


def test_an_edited_sampler_of_the_users_does_not_go_on(quick, root, warm):
    """In processes of their own: a module is imported once in each."""
    code = "from posterior.samplers import Sampler\nfrom edited_helper import GAIN\n\nclass Mine(Sampler):\n"
    code += "    def __call__(self, prior, measurement, rng, observe=None):\n"
    code += "        return GAIN * rng.randn('x', measurement.image_shape)\n"
    (quick.tmp_path / "edited_sampler.py").write_text(code)
    (quick.tmp_path / "edited_helper.py").write_text("GAIN = 1.0\n")
    config = write_config(quick.tmp_path / "c.yaml", quick.images, quick.tmp_path / "out")
    command = ["lightning_cli.py", "predict", "--config", str(config)]
    command += ["--model.sampler", "edited_sampler.Mine", "--data.init_args.limit"]
    environment = os.environ | {"PYTHONPATH": str(quick.tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(limit: int) -> subprocess.CompletedProcess[str]:
        return warm.run([*command, str(limit)], root, environment)

    assert start(1).returncode == 0
    assert start(2).returncode == 0
    (quick.tmp_path / "edited_helper.py").write_text("GAIN = 2.0\n")
    done = start(3)
    assert done.returncode == 2
    assert "another edited_helper, whose code" in done.stderr.splitlines()[-1]
    assert len(samples(quick.tmp_path / "out")) == 2


def test_another_version_of_this_program_does_not_go_on(quick, capsys, monkeypatch):
    quick("--data.init_args.limit", "1")
    monkeypatch.setattr("posterior.__version__", "9.9")
    assert "holds a run of version 0.2.0 of this program, this is 9.9" in complaint(quick, capsys)


def test_a_run_may_be_gone_on_with_from_another_folder_and_from_its_own_settings(quick, monkeypatch):
    """Paths that its file says, relative to that file; the run's folder has pictures under the name of the inputs'."""
    changes = {"data__init_args__root": "images", "model__num_samples": 1}
    output = quick("--data.init_args.limit", "1", **changes)
    saved = output / "config.yaml"
    assert yaml.safe_load(saved.read_text())["data"]["init_args"]["root"] == str(quick.images)
    monkeypatch.chdir(quick.tmp_path)
    quick("--data.init_args.limit", "2", **changes)
    assert yaml.safe_load(saved.read_text())["data"]["init_args"]["root"] == "images"
    before = samples(output)
    (quick.tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(quick.tmp_path / "elsewhere")
    main(["predict", "--config", str(saved), "--data.init_args.limit", "3"])
    after = samples(output)
    assert (sorted(before), sorted(after)) == (IDS[:2], IDS)
    assert all(np.array_equal(before[i], after[i]) for i in before)
    assert json.loads((output / "record.json").read_text())["started_in"] == str(quick.tmp_path / "elsewhere")
    assert not list((quick.tmp_path / "elsewhere").iterdir())


def test_a_journal_that_is_no_file_is_named(quick, capsys):
    path = quick(model__num_samples=1) / "journal" / "sessions.jsonl"
    path.unlink()
    os.mkfifo(path)
    assert "sessions.jsonl is no file: remove it" in complaint(quick, capsys, model__num_samples=1)


def test_a_record_that_no_run_has_written_is_named_before_any_work(quick, capsys):
    path = quick(model__num_samples=1) / "journal" / "rank0.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(lines[0]) | {"residual": None}), *lines[1:]]) + "\n")
    told = complaint(quick, capsys, model__num_samples=1)
    assert "rank0.jsonl, line 1: residual must be a number, got None: remove that line" in told


def test_results_of_another_format_are_refused_and_those_before_formats_read(quick, capsys):
    output = quick(model__num_samples=1)
    sessions = output / "journal" / "sessions.jsonl"
    compared = partial(compare, output=quick.tmp_path / "page")
    files = {sessions: summarise, output / "metrics.json": lambda folder: compared([folder])}
    for path, read in files.items():
        kept = json.loads(path.read_text())
        assert kept.pop("format") == FORMAT
        path.write_text(json.dumps(kept) + "\n")
        read(output)
        path.write_text(json.dumps(kept | {"format": FORMAT + 1}) + "\n")
        with pytest.raises(UserError, match=f"has format {FORMAT + 1}, this version of the program reads") as caught:
            read(output)
        assert "\n" not in str(caught.value)
    path = output / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT - 1}))
    line = complaint(quick, capsys, model__num_samples=1)
    assert f"holds a run of the format {FORMAT - 1} of this program, this is {FORMAT}" in line


def test_results_within_the_input_folder_are_not_taken_for_inputs(quick, capsys):
    inside = str(quick.images / "results" / "one")
    for _ in range(2):
        assert metrics(quick(output__dir=inside))["images"] == 3
    other = quick(output__dir=str(quick.images / "other"))
    assert metrics(other)["images"] == 3
    assert metrics(other)["left_out"] == {"folder of a run": 1}
    assert "other: 3 files taken; left out: 1 folder of a run" in capsys.readouterr().out


def test_a_single_picture_is_a_run(quick):
    output = quick(data__init_args__root=str(quick.images / "b.png"))
    assert sorted(samples(output)) == ["b"]
    whole = samples(quick(output__dir=str(quick.tmp_path / "whole")))
    np.testing.assert_allclose(samples(output)["b"], whole["b"], atol=1e-4)


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (["../../x", "b"], "'../../x' has an empty part"),
        (["/tmp/x", "b"], "absolute"),
        (["a", "./a"], "empty part"),
        (["a", "a"], "same id"),
        (["", "b"], "is empty"),
        (["a\nb", "b"], "line breaks"),
        (["a", "a/"], "empty part"),
    ],
)
def test_ids_that_lead_out_of_the_runs_folder(quick, capsys, ids, told):
    pixels = np.zeros((2, 3, SIDE, SIDE), dtype=np.uint8)
    np.savez(quick.tmp_path / "x.npz", images=pixels, ids=np.array(ids))
    config = yaml.safe_load((write_config(quick.tmp_path / "c.yaml", quick.images, quick.tmp_path)).read_text())
    settings = {k: v for k, v in config["data"]["init_args"].items() if k != "root"}
    settings["path"] = str(quick.tmp_path / "x.npz")
    line = complaint(quick, capsys, data={"class_path": "datamodules.ImageArray", "init_args": settings})
    assert told in line
    assert not (quick.tmp_path / "results" / "run" / "images").exists()


def test_ids_of_a_users_own_datamodule_are_checked_too(quick, capsys, monkeypatch):
    (quick.tmp_path / "own_data.py").write_text(
        "from datamodules import ImageFolder\n\n"
        "class Own(ImageFolder):\n"
        "    def list_ids(self):\n"
        "        return ['../' + name for name in super().list_ids()]\n"
    )
    monkeypatch.syspath_prepend(quick.tmp_path)
    config = yaml.safe_load((write_config(quick.tmp_path / "c.yaml", quick.images, quick.tmp_path)).read_text())
    data = config["data"] | {"class_path": "own_data.Own"}
    assert "Own: the id '../a' has an empty part, '.' or '..' in it" in complaint(
        quick, capsys, "--allow-local", data=data
    )


def test_what_a_reader_raises_costs_one_image(quick, capsys, monkeypatch):
    from datamodules import ImageFolder

    read = ImageFolder.read

    def odd(self, image_id):
        if image_id == "b":
            raise ZeroDivisionError("EXIF 0/0\nof two lines")
        return read(self, image_id)

    monkeypatch.setattr(ImageFolder, "read", odd)
    line = complaint(quick, capsys)
    assert (
        "1 of 3 images failed, the others are complete: image b cannot be read (ZeroDivisionError: EXIF 0/0 of" in line
    )


def test_a_name_that_is_no_utf_8_costs_nothing(quick):
    shutil.copy(os.fsencode(quick.images / "a.png"), os.path.join(os.fsencode(quick.images), b"caf\xe9.png"))
    assert sorted(samples(quick())) == ["a", "b", "c", "caf%E9"]


def test_pictures_of_several_sizes_have_one_outcome_at_every_batch_size(quick):
    write_images(quick.images, ["b"], side=24)
    outputs = [
        quick(data__init_args__batch_size=size, output__dir=str(quick.tmp_path / f"by{size}")) for size in (1, 2, 3)
    ]
    first, *others = map(samples, outputs)
    assert sorted(first) == IDS
    for other in others:
        for image_id in IDS:
            np.testing.assert_allclose(other[image_id], first[image_id], atol=1e-4)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_may_be_started_in_any_way(quick, method):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        output = quick("--data.init_args.num_workers", "2", output__dir=str(quick.tmp_path / method))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert sorted(samples(output)) == IDS


def test_two_runs_do_not_share_a_folder(quick, capsys, monkeypatch):
    lock = record.FolderLock(quick.tmp_path / "results" / "run", patience=0)
    lock.take()
    monkeypatch.setattr(record, "FolderLock", lambda folder: type(lock)(folder, patience=0))
    assert "another process is at work in" in complaint(quick, capsys)
    lock.leave()
    quick()


def test_what_a_killed_run_left_half_written_is_gone_afterwards(quick):
    output = quick("--data.init_args.limit", "1")
    (output / "images" / "a" / ".mean.png.123.partial").write_bytes(b"half")
    quick()
    assert not list(output.rglob("*.partial"))


def test_a_replaced_part_does_not_inherit(quick):
    output = quick(
        "--data.init_args.operator",
        "posterior.operators.GaussianBlur",
        "--data.init_args.operator.kernel_size=5",
        data__init_args__operator={"class_path": "posterior.operators.MotionBlur", "init_args": {"kernel_size": 9}},
    )
    saved = yaml.safe_load((output / "config.yaml").read_text())["data"]["init_args"]["operator"]
    assert saved["init_args"]["kernel_size"] == 5
    quick(
        *("--data.init_args.operator", "posterior.operators.MotionBlur", "--output.dir", str(quick.tmp_path / "o")),
        *("--data.init_args.size", "64", "--data.init_args.limit", "1"),
        data__init_args__operator={"class_path": "posterior.operators.GaussianBlur", "init_args": {"kernel_size": 9}},
    )
    saved = yaml.safe_load((quick.tmp_path / "o" / "config.yaml").read_text())["data"]["init_args"]["operator"]
    assert saved["init_args"] == {"kernel_size": 61, "intensity": 0.5}  # its own defaults, not the 9 of the part before


def test_a_closed_standard_output_is_no_failure(quick, root):
    config = write_config(quick.tmp_path / "c.yaml", quick.images, quick.tmp_path / "out", model__sampler=EXACT)
    command = f"{sys.executable} lightning_cli.py predict --config {config}"
    for number, closed in enumerate((">&-", "| true", "> /dev/full")):
        line = f"set -o pipefail; {command} --output.dir {quick.tmp_path}/{number} {closed}"
        done = subprocess.run(["bash", "-c", line], cwd=root, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr
        assert metrics(quick.tmp_path / str(number))["images"] == 3


def test_what_the_trainer_writes_lies_in_the_runs_folder_too(quick, monkeypatch):
    (quick.tmp_path / "here").mkdir()
    monkeypatch.chdir(quick.tmp_path / "here")
    output = quick("--trainer.logger=true")
    assert not list((quick.tmp_path / "here").iterdir())
    assert list(output.rglob("metrics.csv")) or list(output.rglob("events*"))


def test_a_run_on_several_machines_does_not_wait_for_ones_that_are_not_there(quick, capsys):
    assert "trainer.num_nodes 2: this machine would wait for others" in complaint(
        quick, capsys, "--trainer.num_nodes=2"
    )


def test_check_lists_classes_without_importing_them(quick, capsys, monkeypatch):
    (quick.tmp_path / "never_imported.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(quick.tmp_path)
    config = write_config(
        quick.tmp_path / "c.yaml", quick.images, quick.tmp_path, model__sampler={"class_path": "never_imported.X"}
    )
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(config)])
    assert stopped.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("! never_imported.X") and "(model.sampler)" in line for line in lines)
    assert any(line.startswith("  posterior.priors.GaussianFieldPrior") and " ours " in line for line in lines)
    assert lines[-1].startswith("5 classes, 1 of them")


def test_an_unforeseen_error_is_one_line_with_its_place(quick, capsys, monkeypatch):
    (quick.tmp_path / "broken_sampler.py").write_text(
        "from posterior.samplers import Sampler\n\n"
        "class Broken(Sampler):\n"
        "    def __call__(self, prior, measurement, rng, observe=None):\n"
        "        return None + 1\n"
    )
    monkeypatch.syspath_prepend(quick.tmp_path)
    line = complaint(quick, capsys, "--model.sampler", "broken_sampler.Broken")
    assert "TypeError: unsupported operand" in line
    assert "(broken_sampler.py, line 5); --debug shows where it comes from" in line


def test_fit_leaves_nothing_of_a_try_and_goes_on_from_no_foreign_checkpoint(tmp_path, capsys):
    faces = write_images(tmp_path / "faces", ["a", "b", "c", "d"])
    network = {"image_size": 16, "num_channels": 32, "channel_mult": [1], "attention_resolutions": []}
    network |= {"num_res_blocks": 1, "learn_sigma": False}
    images = {"class_path": "datamodules.FolderImages", "init_args": {"root": str(faces)}}
    config = {
        "model": {
            "prior": {
                "class_path": "posterior.priors.DiffusionPrior",
                "init_args": {"network": {"class_path": "posterior.priors.UNet", "init_args": network}},
            }
        },
        "data": {"training": images, "validation": images, "batch_size": 2},
        "output": {"dir": str(tmp_path / "run"), "sheet_images": 0},
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 1, "val_check_interval": 1},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(tmp_path / "c.yaml"), "--trainer.fast_dev_run", "true"])
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("*.safetensors"))
    start = ["fit", "--config", str(tmp_path / "c.yaml")]
    main(start)
    other = write_config(tmp_path / "p.yaml", faces, tmp_path / "run", model__sampler=EXACT)
    with pytest.raises(SystemExit):
        main(["predict", "--config", str(other)])
    assert "holds a run of fit, this is predict" in capsys.readouterr().err
    for change, told in [
        (lambda: write_images(faces, ["e"]), "another content of what data.training.init_args.root names"),
        (lambda: (tmp_path / "run" / "config.yaml").unlink(), "holds results, but not the config.yaml"),
    ]:
        change()
        with pytest.raises(SystemExit) as stopped:
            main([*start, "--trainer.max_steps", "2"])
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err
