"""The demo: its runs, its table, its one picture."""

from __future__ import annotations

import re

import pytest
import yaml
from PIL import Image

from benchmarks.matrix import demo as module
from benchmarks.matrix.cells import cells, read_matrix
from posterior import UserError
from posterior.settings import overlaid

pytestmark = pytest.mark.usefixtures("no_lpips_weights")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The demo's matrix with few steps, started in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    levels = {"num_levels": 3, "top": 1.0, "bottom": 0.1}
    few = {
        "conditional": {
            "calls": 21,
            "descent": {"class_path": "posterior.samplers.GeometricSigmas", "init_args": levels},
        },
        "dps": {"schedule": {"init_args": {"respacing": 5}}},
    }
    samplers = {name: {"model": {"sampler": {"init_args": settings}}} for name, settings in few.items()}
    path = tmp_path / "demo.yaml"
    shared = {"trainer": {"accelerator": "cpu"}}
    path.write_text(yaml.safe_dump({"from": str(module.CONFIG), "shared": shared, "samplers": samplers}))
    monkeypatch.setattr(module, "CONFIG", path)
    photo = {"model": samplers["conditional"]["model"], "data": {"size": 16, "short_side": 16}, **shared}
    monkeypatch.setattr(module, "PHOTO", overlaid(module.PHOTO, photo))


def test_the_demo_ends_with_its_table_and_one_picture(small, tmp_path, capsys):
    module.demo(tmp_path / "out", limit=2, faces=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"page: {tmp_path / 'out' / 'report.html'}", f"grid: {tmp_path / 'out' / 'grid.png'}"]
    end = lines[lines.index("2 held-out faces, means ± standard errors over them:") : -2]
    assert max(map(len, end)) <= 80
    table = [re.split(" {2,}", line.strip()) for line in end[1:-2]]
    assert table[0] == ["4x super-res.", "4x super-res.", "inpainting", "deblurring"]
    assert table[1] == ["conditional", "DPS", "conditional", "conditional"]
    assert [row[0] for row in table[2:]] == ["PSNR", "PSNR, mean", "LPIPS", "resid.", "std", "NFE"]
    assert table[-1][2] == "5 + 5"
    assert {len(row) for row in table[2:]} == {5}
    page = (tmp_path / "out" / "report.html").read_text()
    for method in ("conditional", "DPS"):
        assert f'<th scope="row">{method}</th>' in page
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert picture.width > 8 * 96  # measurement, four samples, mean, std, truth
        assert picture.height > 4 * 96
    module.demo(tmp_path / "out", limit=2, faces=1)
    assert capsys.readouterr().err.count("finished already") == 4


def test_the_demo_shows_a_photograph_where_one_is_installed(small, tmp_path, capsys, monkeypatch):
    pytest.importorskip("skimage", reason="the extra 'photos' is not installed")
    module.photograph(tmp_path / "photo")
    assert f"photograph: {tmp_path / 'photo' / 'grid.png'}\n" in capsys.readouterr().out
    names = {path.stem for path in (tmp_path / "photo" / "images" / "astronaut" / "0_0").glob("*.png")}
    assert {"measurement", "sample_003", "mean", "truth"} <= names
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    module.photograph(tmp_path / "other")
    got = "pip install 'posterior-sampling[photos]'"
    told = f"no photograph here (the photograph astronaut comes with scikit-image: {got})"
    assert capsys.readouterr().out == f"{told}\n"
    assert not (tmp_path / "other").exists()


def test_the_demo_shows_the_recommended_sampler_on_every_task():
    found = [(cell.task, cell.sampler) for cell in cells(read_matrix(module.CONFIG, smoke=False))]
    assert found == [
        ("super_resolution", "conditional"),
        ("super_resolution", "dps"),
        ("random_inpainting", "conditional"),
        ("gaussian_deblurring", "conditional"),
    ]


def test_a_file_that_the_demo_needs_and_that_is_gone_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONFIG", tmp_path / "demo.yaml")
    with pytest.raises(UserError, match=r"demo\.yaml does not exist"):
        module.demo(tmp_path)
