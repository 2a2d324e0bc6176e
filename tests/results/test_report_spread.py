"""What the page draws of an image's spread, against the metrics of the same pictures."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from posterior.metrics import AUSE
from posterior.results import report_explorer
from posterior.results.pictures import save_png
from posterior.results.report_folder import Picture
from posterior.results.report_page import write_page
from posterior.results.report_spread import FOOT, HEAD, HIGH, LEFT, RIGHT, WIDE, read_levels, spread_figure
from tests.results.runs import write_run

SIDE = 24
NUMBER = r"\d+(?:\.\d+)?(?:e-\d+)?"


def levels(scale=1.0, count=4, channels=3, seed=0):
    """Grey levels of a truth and of samples of its law (1 + K, H, W, C), which are then so much nearer one another."""
    rng = np.random.default_rng(seed)
    width = rng.uniform(10, 40, (SIDE, SIDE, channels))
    noise = rng.standard_normal((1 + count, SIDE, SIDE, channels))
    mean = noise[1:].mean(axis=0)
    noise[1:] = mean + scale * (noise[1:] - mean)
    return (128 + width * noise).clip(0, 255).round().astype(np.uint8)


def written(folder, pixels, more=()):
    """The pictures of an image on disk, the truth first."""
    found = []
    for name, one in zip(["truth", *(f"sample_{k:03d}" for k in range(len(pixels) - 1))], pixels, strict=True):
        save_png(np.broadcast_to(one, (*one.shape[:2], 3)).copy(), folder / f"{name}.png")
        found.append(Picture(name, name, folder / f"{name}.png"))
    return [*found, *(Picture(name, name, folder / f"{name}.png") for name in more)]


def drawn(pictures):
    return spread_figure(read_levels(pictures, 10**9))


def points(figure, kind, top):
    """Points of a curve from its place in the drawing, (P, 2)."""
    path = re.search(rf'class="{kind}" d="M([^"]+)"', figure).group(1)
    places = np.array([pair.split() for pair in path.split("L")], dtype=float)
    across = (places[:, 0] - LEFT) / (WIDE - LEFT - RIGHT)
    return np.stack([across, top * (HIGH - FOOT - places[:, 1]) / (HIGH - FOOT - HEAD)], axis=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_curve_is_that_of_the_metric(tmp_path, channels):
    pixels = levels(channels=channels)
    figure = drawn(written(tmp_path, pixels))
    values = torch.from_numpy(pixels / 127.5 - 1).movedim(-1, 1)[:, None]
    expected = float(AUSE()(values[1:], values[0]))
    area = re.search(rf"\(AUSE\) is ({NUMBER});", figure).group(1)
    assert float(area) == pytest.approx(expected, rel=5e-3)
    assert f"AUSE: {area}." in figure  # for those who listen
    error = np.abs(pixels[1:].mean(axis=0) - pixels[0]).ravel()
    spread = pixels[1:].std(axis=0).ravel()
    for kind, key in (("kept", spread), ("least", error)):
        found, half = points(figure, kind, 1.0), error[np.argsort(key)][: error.size // 2]
        assert found[24, 0] == pytest.approx(0.5, abs=1e-3)
        assert found[24, 1] == pytest.approx(half.mean() / error.mean(), abs=0.02)  # of equal spreads any may be first
        assert found[-1] == pytest.approx([1, 1], abs=1e-3)


def told(figure):
    """Spread and error of the bin of least spread, and of that of greatest."""
    count, *found = map(float, re.findall(NUMBER, re.search(r'aria-label="(Error by spread[^"]*)"', figure).group(1)))
    assert count == figure.count("<circle")
    return found


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_error_of_each_bin_is_that_of_the_pixels(tmp_path, scale):
    pixels = levels(scale, count=8)
    low, low_error, high, high_error = told(drawn(written(tmp_path, pixels)))
    values = (pixels / 127.5 - 1).reshape(9, -1)
    spread, error = values[1:].std(axis=0, ddof=1), values[1:].mean(axis=0) - values[0]
    first, *_, last = np.array_split(np.argsort(spread, kind="stable"), 10)
    for part, *found in ((first, low, low_error), (last, high, high_error)):
        expected = [np.sqrt(9 / 8) * np.sqrt(np.mean(spread[part] ** 2)), np.sqrt(np.mean(error[part] ** 2))]
        assert found == pytest.approx(expected, rel=0.02)  # of equal spreads any may be in the bin
    assert (high_error > 1.3 * high) == (scale < 1)  # exact samples, and those that are too sure


def test_magnitudes_have_their_own_unit(tmp_path):
    pictures = written(tmp_path, levels())
    plain, magnitudes = drawn(pictures), drawn([*pictures, Picture("truth_phase", "phase", tmp_path / "none.png")])
    assert told(plain) == pytest.approx([2 * value for value in told(magnitudes)], rel=0.01)
    assert "All from 8-bit pictures." in plain
    assert "All from 8-bit magnitudes." in magnitudes


def test_what_cannot_be_told_is_not_drawn(tmp_path):
    pictures = written(tmp_path, levels())
    assert read_levels(pictures, 5 * SIDE**2) is not None
    assert read_levels(pictures, 5 * SIDE**2 - 1) is None
    assert read_levels(pictures[1:], 10**9) is None  # no truth
    assert read_levels(pictures[:2], 10**9) is None  # one sample
    assert spread_figure(read_levels(written(tmp_path / "same", levels()[[0, 0, 0]]), 10**9)) == ""
    for content in (b"cut off", pictures[2].path.read_bytes()[:60]):
        pictures[1].path.write_bytes(content)
        assert read_levels(pictures, 10**9) is None
    save_png(np.zeros((SIDE, SIDE + 1, 3), np.uint8), pictures[1].path)
    assert read_levels(pictures, 10**9) is None


def test_the_first_images_have_it_as_far_as_the_limit_goes(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", ["a", "b", "c"], samples=2, side=16)
    assert write_page(folder).read_text().count('<figure class="spread">') == 3
    monkeypatch.setattr(report_explorer, "SPREAD_VALUES", 2 * 3 * 3 * 16**2)
    sections = write_page(folder).read_text().split('<section class="image"')[1:]
    assert ['<figure class="spread">' in section for section in sections] == [True, True, False]
    single = write_run(tmp_path / "single", ["a"], samples=1)
    assert '<figure class="spread">' not in write_page(single).read_text()
