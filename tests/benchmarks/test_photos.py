"""The benchmark of denoising, on made-up pictures."""

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.photos import denoising as judging
from benchmarks.photos import noise_level as estimating
from benchmarks.photos.denoising import Row, denoising, judged, table
from benchmarks.photos.noise_level import Estimated
from posterior import UserError
from posterior.priors import GaussianFieldPrior


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "HELD_OUT", ())
    (tmp_path / "mine").mkdir()
    for name in "ab":
        Image.fromarray(np.full((40, 56, 3), 128, dtype=np.uint8)).save(tmp_path / "mine" / f"{name}.png")
    return tmp_path / "mine"


def test_the_psnr_is_that_of_the_clipped_result():
    x0 = torch.zeros(1, 3, 8, 8)
    assert judged(lambda x, sigma: x + 0.1, x0, 0.0, x0)[0] == pytest.approx(10 * math.log10(4 / 0.01), abs=1e-4)
    assert judged(lambda x, sigma: x + 7.0, x0, 0.0, x0)[0] == pytest.approx(10 * math.log10(4), abs=1e-4)


def test_a_known_denoiser_has_its_known_error(folder, tmp_path, capsys):
    """On grey, noise of variance v leaves (s^2 / (s^2 + v))^2 v."""
    white = GaussianFieldPrior.fit(0.5 * torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    rows = denoising(white, tmp_path / "out", folder, levels=(25,))
    v, s2 = (50 / 255) ** 2, 0.25
    expected = 10 * math.log10(4 / ((s2 / (s2 + v)) ** 2 * v))
    assert [(row.kind, row.image, row.method) for row in rows] == [("mine", "a", "prior"), ("mine", "b", "prior")]
    for row in rows:
        assert row.psnr == pytest.approx(expected, abs=0.2)
    assert rows[0].psnr != rows[1].psnr  # noise of its own
    with (tmp_path / "out" / "denoising.csv").open() as file:
        assert [float(row["psnr"]) for row in csv.DictReader(file)] == pytest.approx([row.psnr for row in rows], 1e-5)
    assert "| mine (2) | 25 |" in capsys.readouterr().out


def test_the_table_pairs_the_pictures():
    rows = [
        Row("faces", image, 25, method, psnr, 0.0)
        for image, values in {"a": (30.0, 31.0), "b": (34.0, 33.0), "c": (35.0, 35.0)}.items()
        for method, psnr in zip(("prior", "BM3D"), values, strict=True)
    ]
    assert table(rows)[-1] == f"| faces (3) | 25 | 33.00 | 33.00 | +0.00 +- {1.96 / 3**0.5:.2f} |"


def test_what_is_missing_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    prior = GaussianFieldPrior.fit(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(UserError, match=r"^BM3D is not installed: pip install 'posterior-sampling\[bm3d\]'$"):
        denoising(prior, tmp_path / "out", folder, bm3d=True)
    for levels, told in (((), "1 to 100 entries"), ((300.0,), "levels must be > 0 and <= 255")):
        with pytest.raises(UserError, match=told):
            denoising(prior, tmp_path / "out", folder, levels=levels)


def test_noise_of_a_known_level_is_estimated_and_its_table_is_right(tmp_path, monkeypatch, capsys):
    """Of a grey picture, where nothing but noise is measured."""
    grey = [("grey", number, torch.zeros(3, 64, 64)) for number in range(3)]
    monkeypatch.setattr(estimating, "pictures", lambda count: grey[:count])
    rows = estimating.noise_level(tmp_path, levels=(0.05, 0.2), count=3)
    assert [(row.image, row.level) for row in rows] == [(n, level) for n in range(3) for level in (0.05, 0.2)]
    for row in rows:
        assert row.ratio == pytest.approx(1, abs=0.05)
    assert len({row.ratio for row in rows}) == 6  # noise of its own
    with (tmp_path / "noise_level.csv").open() as file:
        assert [float(row["ratio"]) for row in csv.DictReader(file)] == pytest.approx([r.ratio for r in rows], 1e-5)
    assert capsys.readouterr().out.splitlines()[0] == "| pictures | 0.05 | 0.2 |"
    of = [Estimated("k", n, 0.1, ratio, ratio < 1.2) for n, ratio in enumerate((1.5, 1.0, 1.1))]
    assert estimating.table(of) == ["| pictures | 0.1 |", "| --- | --- |", "| k | 1.10 [1.00, 1.50], 2 |"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"levels": (0.0,)}, "levels must be > 0"), ({"levels": ()}, "levels"), ({"count": 0}, "count must be >= 1")],
)
def test_noise_levels_that_are_none_are_one_line(tmp_path, settings, told):
    with pytest.raises(UserError, match=told):
        estimating.noise_level(tmp_path, **settings)


def test_the_pictures_of_the_estimate_are_those_of_the_page():
    for extra in ("skimage", "resvg_py"):
        pytest.importorskip(extra, reason="the extras 'photos' and 'faces' are not installed")
    found = list(estimating.pictures(1))
    assert [tuple(clean.shape[-2:]) for _, _, clean in found] == [(128, 128), (64, 64), (128, 128), (64, 64)]
    page = (Path(__file__).parents[2] / "docs" / "measurements.md").read_text()
    assert all(f"\n| {kind} | " in page for kind, _, _ in found)
