"""The samples of a run on recorded k-space as one HDF5 file, in the units of the scanner."""

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from benchmarks.tools.hdf5 import hdf5
from datamodules import RecordedKSpace
from datamodules.mri import draw_phantom
from lightning_cli import main
from posterior import UserError
from posterior.operators.mri import centred_fft, to_complex

ROOT = Path(__file__).parents[2]
SCALE = 3e-4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a recorded file of one coil that is asked for measures that need a truth."""
    folder = tmp_path_factory.mktemp("recorded")
    kspace = SCALE * centred_fft(to_complex(draw_phantom(1, 32)[None]))[0]
    draws = torch.Generator().manual_seed(0)
    kspace = kspace + 0.01 * SCALE * torch.randn(kspace.shape, dtype=torch.complex64, generator=draws)
    with h5py.File(folder / "file1.h5", "w") as file:
        file["kspace"] = kspace.numpy()
    names = ("Residual", "NMSE", "MagnitudePSNR")
    main(
        [
            *("predict", "--config", str(ROOT / "configs" / "mri" / "recorded.yaml")),
            *("--data.init_args.root", str(folder), "--data.init_args.sigma", str(0.01 * SCALE)),
            *("--model.num_samples", "3", "--trainer.accelerator", "cpu"),
            *("--model.sampler.init_args.schedule.init_args.num_levels", "5"),
            *("--model.metrics", json.dumps([{"class_path": f"posterior.metrics.{name}"} for name in names])),
            *("--output.dir", str(folder / "run"), "--output.save_samples", "true"),
        ]
    )
    return folder / "run"


def test_measures_that_need_a_truth_are_not_made_up(run):
    text = (run / "per_image.csv").read_text()
    assert text.startswith("id,sample,residual,")
    assert "nmse" not in text
    assert "psnr" not in text
    assert "coverage" not in text
    assert not list(run.rglob("truth*.png"))


def test_samples_come_in_the_units_of_the_file(run, tmp_path):
    hdf5(run, tmp_path / "out.h5")
    samples = np.load(run / "samples" / "file1" / "slice_000.npy")
    z = samples[:, 0] + 1j * samples[:, 1]
    truth = SCALE * to_complex(draw_phantom(1, 32)[None])[0, 0].numpy()
    with h5py.File(tmp_path / "out.h5") as file:
        group = file["file1/slice_000"]
        scale = group.attrs["scale"]
        assert scale == pytest.approx(np.abs(truth).max(), rel=0.1)
        assert group.attrs["offset"] == 0
        assert group.attrs["sigma"] == pytest.approx(0.01 * SCALE, rel=1e-6)
        np.testing.assert_allclose(group["samples"][:], scale * z, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(group["mean"][:], scale * z.mean(axis=0), rtol=1e-4, atol=1e-9)
        spread = np.sqrt((np.abs(z - z.mean(axis=0)) ** 2).sum(axis=0) / 2)
        np.testing.assert_allclose(group["std"][:], scale * spread, rtol=1e-4)
        error = np.linalg.norm(group["mean"][:] - truth) / np.linalg.norm(truth)
    assert error < 0.2  # fully sampled, little noise


def test_what_cannot_be_written_is_said(run, tmp_path):
    (tmp_path / "there.h5").touch()
    with pytest.raises(UserError, match=r"there\.h5 is there already"):
        hdf5(run, tmp_path / "there.h5")
    with pytest.raises(UserError, match="is no folder of a run with finished images"):
        hdf5(tmp_path, tmp_path / "new.h5")
    shutil.copytree(run / "journal", tmp_path / "bare" / "journal")
    with pytest.raises(UserError, match=r"has no samples of file1/slice_000: run it with --output\.save_samples true"):
        hdf5(tmp_path / "bare", tmp_path / "new.h5")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".h5"] == ["there.h5"]


def test_the_file_that_the_page_makes_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "recorded_mri.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(script, "recorded_mri.md", "exec"), {})
    data = RecordedKSpace(tmp_path / "scans")
    data.setup("predict")
    batch = data.on_after_batch_transfer(next(iter(data.predict_dataloader())), 0)
    units = batch.units["file1/slice_000"]
    assert batch.measurement.image_shape == (2, 64, 64)
    assert batch.measurement.operator.sensitivities.shape[1] == 4
    assert units["sigma_low"] < 3e-6 < units["sigma_high"]
    assert units["projection_residual"] < 0.1
