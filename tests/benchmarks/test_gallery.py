"""The gallery's pictures: of held-out faces, what is asked for and no other, and a sampler that fails costs its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.judge.leaderboard_faces import HeldOut
from benchmarks.tools import gallery as tools
from benchmarks.tools.gallery import FACES, SAMPLES, SHOWN, gallery, panel, save_flip
from posterior import UserError
from tests.pages import ROOT

SIDE = 32


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def tiles(path):
    """Rows of square tiles (rows, columns, SIDE, SIDE, 3)."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    return pixels.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)


def test_a_row_is_measurement_samples_mean_deviation_truth(tmp_path):
    gallery(tmp_path, ["ddrm"])
    assert [path.name for path in tmp_path.iterdir()] == ["sampler_ddrm.png"]
    found = tiles(tmp_path / "sampler_ddrm.png")
    assert found.shape[:2] == (FACES, 1 + SHOWN + 3)
    for row, truth in zip(found, HeldOut().images, strict=False):
        assert np.array_equal(row[-1], truth.transpose(1, 2, 0))
        blocks = row[0].reshape(8, 4, 8, 4, 3).astype(int)
        assert (blocks == blocks[:, :1, :, :1]).all()  # of 4x super-resolution
        samples = row[1 : 1 + SHOWN].astype(int)
        assert len({sample.tobytes() for sample in samples}) == SHOWN
        assert np.abs(samples.mean(axis=0) - row[1 + SHOWN]).mean() < 20  # the mean is of all


def test_a_sampler_that_fails_is_named_at_the_end(tmp_path, monkeypatch):
    def drawn(problem, contestant, faces):
        if contestant.name == "dps":
            raise UserError("it diverged")
        return torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.rand(1, SHOWN, 3, 4, 4)

    monkeypatch.setattr(tools, "drawn", drawn)
    with pytest.raises(UserError, match=r"^dps: it diverged$"):
        gallery(tmp_path, ["dps", "mcg", "denoising"])
    assert {path.name for path in tmp_path.iterdir()} == {"sampler_mcg.png", "task_denoising.png"}


@pytest.mark.parametrize("name", ["nobody", "tds", "mri"])
def test_what_has_no_picture_is_one_line(name, tmp_path):
    with pytest.raises(UserError, match=rf"^--only: there is no picture {name}; there are [^\n]*$"):
        gallery(tmp_path, ["ddrm", name])
    assert not list(tmp_path.iterdir())


def test_the_first_page_flips_through_all_samples(tmp_path):
    levels = torch.linspace(-1, 1, SAMPLES)
    samples = levels.view(1, SAMPLES, 1, 1, 1).expand(2, SAMPLES, 3, 8, 8)
    save_flip(samples[:, 0], samples[:, 0], samples, tmp_path / "flip.webp")
    with Image.open(tmp_path / "flip.webp") as picture:
        assert picture.n_frames == SAMPLES
        seen = []
        for number in range(SAMPLES):
            picture.seek(number)
            frame = np.asarray(picture.convert("L"))
            height = frame.shape[0] // 4
            seen.append(frame[height + height // 2, -10])
    assert seen == pytest.approx(((levels + 1) * 127.5).tolist(), abs=6)


def test_the_deviation_is_that_of_all_samples():
    samples = torch.zeros(1, SAMPLES, 3, 4, 4)
    alike = panel(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), samples)
    samples[:, -1] = 1  # one that is not shown
    other = panel(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), samples)
    changed = (alike != other).reshape(4, -1, 4, 3).any(axis=(0, 2, 3))
    assert changed.nonzero()[0].tolist() == [1 + SHOWN, 2 + SHOWN]  # mean and deviation
