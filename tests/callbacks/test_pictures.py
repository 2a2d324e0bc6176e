import numpy as np
import torch
from PIL import Image

from posterior.callbacks.pictures import STD_RANGE, make_grid, picture_names, save_png, std_picture


def test_std_pictures_rise_with_the_std():
    std = torch.linspace(0, 2 * STD_RANGE, 9).expand(3, 1, 9)
    brightness = std_picture(std).astype(int).sum(axis=-1)[0]
    assert (np.diff(brightness[:5]) > 0).all()
    assert brightness[4] == brightness[8]  # saturated from STD_RANGE on


def test_the_grid_shows_every_picture_enlarged(tmp_path):
    columns = picture_names(5, {f"sample_{k:03d}" for k in range(5)} | {"measurement", "mean", "std", "truth"})
    assert list(columns) == ["measurement", "sample_000", "sample_001", "sample_002", "mean", "std", "truth"]
    colours = np.random.default_rng(0).integers(0, 255, (2, len(columns), 3), dtype=np.uint8)
    for row, image_id in enumerate(["a", "sub/b"]):
        for column, stem in enumerate(columns):
            save_png(
                np.full((16, 16, 3), colours[row, column], np.uint8), tmp_path / "images" / image_id / f"{stem}.png"
            )
    make_grid(tmp_path / "images", ["a", "sub/b"], columns, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    for colour in colours.reshape(-1, 3):
        assert (grid == colour).all(axis=-1).sum() >= 128 * 128
    assert not list(tmp_path.rglob("*.partial"))


def test_pictures_of_another_shape_keep_theirs(tmp_path):
    for image_id, shape in [("a", (32, 32, 3)), ("b" * 60, (16, 64, 3))]:
        save_png(np.full(shape, (7, 90, 200), np.uint8), tmp_path / image_id / "measurement.png")
    make_grid(tmp_path, ["a", "b" * 60], {"measurement": "measurement"}, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (grid == (7, 90, 200)).all(axis=-1).sum() == 128 * 128 + 32 * 128
    assert grid.shape[1] < 400  # long ids are cut


def test_columns_follow_what_exists():
    assert list(picture_names(1, {"measurement", "sample_000"})) == ["measurement", "sample_000"]
