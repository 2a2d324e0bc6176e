"""Measurements that cannot be right, from the command line: exit status 2 and one line; and those without truth."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import MRISlices
from datamodules.mri import draw_phantom
from lightning_cli import main
from posterior.noise import GaussianNoise
from posterior.operators import CartesianMRI, ParallelBeam
from posterior.operators.mri import centred_fft, simulated_coils, to_complex
from posterior.transmission import TransmissionPhotons
from tests.pages import ROOT

h5py = pytest.importorskip("h5py", reason="the extra 'mri' is not installed")
pytest.importorskip("skimage", reason="the extra 'mri' is not installed")
SIDE = 24
RECORDED = ("--config", "mri/recorded", "--data.sigma", "0.01")
SLICES = ("--config", "mri/slice_4x")
EXACT = ("--model.sampler", "sampler/exact_gaussian", "--model.num_samples", "2", "--trainer.accelerator", "cpu")
RAYS = ("--config", "ct/phantom_photons", "--data.size", "16", "--data.limit", "1", "--model.num_samples", "1")
SPOKES = ("--config", "mri/phantom_4x", "--data.size", "16", "--data.limit", "1", "--data.operator", "NonCartesianMRI")
TWO_SPOKES = ("--data.operator.trajectory.num_spokes", "2", "--data.operator.trajectory.angles", "[0, 90]")
TWO_VIEWS = ("--data.operator", "ParallelBeam", "--data.operator.angles", "[0, 90]")
SINOGRAMS = (
    *("--config", "recorded/super_resolution", "--data.root", "data", "--data.image_shape", f"[1, {SIDE}, {SIDE}]"),
    *("--data.operator", "ParallelBeam", "--data.operator.num_views", "3"),
    *("--data.likelihood", "posterior.transmission.TransmissionPhotons", "--model.prior", "prior/gaussian_ct64"),
)
TRUTH = {"nmse", "coverage", "spread_over_error"}
"""Of what only a truth gives."""


@pytest.fixture
def coils() -> np.ndarray:
    return simulated_coils(3, SIDE, SIDE, 0.3, np.arange(3.0))


@pytest.fixture
def kspace(coils) -> np.ndarray:
    """Of a phantom, three coils, (1, coils, H, W)."""
    image = to_complex(draw_phantom(1, SIDE)[None])[0, 0].numpy()
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, *coils.shape))
    return (centred_fft(torch.from_numpy(coils * image)).numpy() + 0.01 * (noise[0] + 1j * noise[1]))[None]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where a run starts, with a folder for its files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def predict(*options: str, output: str = "run") -> None:
    main(["predict", *options, *EXACT, "--output.dir", output])


def columns(run: str) -> set[str]:
    """That hold anything in a run's table of images."""
    with open(f"{run}/per_image.csv", newline="") as file:
        return {name for row in csv.DictReader(file) for name, value in row.items() if value}


def metrics_of(run: str) -> dict:
    with open(f"{run}/metrics.json") as file:
        return json.load(file)


def complaint(capsys, *options: str, output: str = "run") -> str:
    """The one line that a failing run prints."""
    with pytest.raises(SystemExit) as end:
        predict(*options, output=output)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def write(path, kspace, **more):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
        for name, values in more.items():
            file[name] = values


def test_kspace_with_nan_lines(folder, kspace, capsys):
    kspace[0, 1, :, [7, 9]] = np.nan
    write(folder / "a.h5", kspace)
    line = complaint(capsys, *RECORDED, "--data.root", "data")
    assert "a.h5: 'kspace', slice 0 has NaN or infinity in 2 columns (7, 9)" in line


def test_a_coil_of_zeros(folder, kspace, capsys):
    kspace[0, 1] = 0
    write(folder / "a.h5", kspace)
    line = complaint(capsys, *RECORDED, "--data.root", "data")
    assert "a.h5: 'kspace', slice 0: coil 1 of 3 is all zeros: leave it out of the file" in line


def test_a_mask_of_another_shape(folder, kspace, capsys):
    write(folder / "a.h5", kspace, mask=np.ones(SIDE - 1))
    line = complaint(capsys, *RECORDED, "--data.root", "data")
    assert "a.h5: 'kspace', slice 0 is 24x24, 'mask' has shape (23,): it must be (W,) or (H, W)" in line
    write(folder / "a.h5", kspace)
    np.save("mask.npy", np.ones((SIDE, SIDE + 1)))
    line = complaint(capsys, *RECORDED, "--data.root", "data", "--data.mask", "mask.npy", output="other")
    assert "slice 0 is 24x24, mask mask.npy has shape (24, 25): it must be (W,) or (H, W)" in line


def test_sensitivities_that_are_not_normalised_and_normalise(folder, kspace, coils, capsys):
    write(folder / "a.h5", kspace)
    np.save("coils.npy", 3 * coils)
    given = (*RECORDED, "--data.root", "data", "--data.sensitivities", "coils.npy")
    line = complaint(capsys, *given)
    assert "sensitivities coils.npy are not normalised: their root sum of squares is 3 to 3" in line
    assert line.endswith("it must be 1: normalise: true divides by it")
    predict(*given, "--data.normalise", "true", output="normalised")
    assert metrics_of("normalised")["failed"] == {}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            (*RAYS, *TWO_VIEWS),
            "ParallelBeam: angles up to 90 have no unit: say unit: degrees, or unit: radians",
        ),
        (
            (*SPOKES, "--data.operator.trajectory", "Radial", *TWO_SPOKES),
            "Radial: angles reach 90, more than 2 pi: say unit: degrees, or unit: radians if they are",
        ),
        (
            (*RAYS, *TWO_VIEWS, "--data.operator.unit", "radians"),
            "ParallelBeam: angles up to 90 radians are more than a turn: are they degrees?",
        ),
    ],
)
def test_angles_without_their_unit(options, told, capsys):
    assert told in complaint(capsys, *options)


def test_zero_counts(folder, capsys):
    line = complaint(capsys, *RAYS, "--data.likelihood.photons", "0.001")
    assert "counts no photon in any of 30 views: it is dead, or there are too few photons" in line
    operator = ParallelBeam(3).realise((1, SIDE, SIDE))
    counts = torch.full((1, *operator.measurement_shape), 1000.0)
    counts[..., 4] = 0
    np.save(folder / "a.npy", TransmissionPhotons().along(operator).measured(counts)[0].numpy())
    line = complaint(capsys, *SINOGRAMS, output="other")
    assert "a.npy: detector 4 counts no photon in any of 3 views" in line


def test_the_real_slice_of_the_page_is_read_at_both_sizes():
    pytest.importorskip("pydicom", reason="the extra 'ct' is not installed")
    page = (ROOT / "docs" / "mri.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(script, "mri.md", "exec"), {})
    for root, side in (("slices", 64), ("slices_small", 32)):
        data = MRISlices(Path(root), CartesianMRI(), GaussianNoise(0.02))
        data.setup("predict")
        (image,) = map(data.read, data.ids)
        assert image.shape == (2, side, side)
        assert image.square().sum(dim=0).max() == pytest.approx(1)
        assert image[1].abs().max() < 0.03  # magnitudes


def test_masked_kspace_is_no_truth(folder, kspace, capsys):
    mask = np.zeros(SIDE)
    mask[::2] = mask[8:16] = 1
    write(folder / "a.h5", kspace * mask)
    line = complaint(capsys, *SLICES, "--data.root", "data")
    assert "a.h5, slice 0 is undersampled k-space (8 of 24 columns are zero), which has no true image" in line


def test_without_truth_no_column_is_of_a_truth(folder, kspace, coils):
    write(folder / "a.h5", kspace)
    predict(*SLICES, "--data.root", "data")
    assert columns("run") >= TRUTH  # the same metrics, where there is one
    metrics = "[{class_path: posterior.metrics.NMSE}, {class_path: posterior.metrics.Residual}]"
    of_samples = "[{class_path: posterior.metrics.SpreadOverError}]"
    asked = ("--model.metrics", metrics, "--model.sample_metrics", of_samples)
    predict(*RECORDED, "--data.root", "data", *asked, output="recorded")
    assert columns("recorded") & TRUTH == set()
    assert "residual" in columns("recorded")
    assert not list((folder.parent / "recorded").rglob("truth.png"))
    assert {one["nmse"]["mean"] for one in metrics_of("recorded")["metrics"].values()} == {None}
