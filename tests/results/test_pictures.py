import numpy as np
import torch
from PIL import Image

from posterior.results.pictures import (
    STD_RANGE,
    STD_TICKS,
    make_grid,
    picture_names,
    save_png,
    std_colours,
    std_picture,
)


def test_std_pictures_rise_with_the_std():
    levels = np.linspace(0, 2, 9) * STD_RANGE
    brightness = [std_picture(torch.full((3, 8, 8), level)).astype(int).sum(axis=-1)[0, 0] for level in levels]
    assert (np.diff(brightness[:5]) > 0).all()
    assert brightness[4] == brightness[8]  # saturated from STD_RANGE on


def test_std_pictures_of_few_samples_are_smooth():
    picture = std_picture(0.1 * torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).std(dim=0))
    assert np.abs(picture.astype(int) - std_colours(np.array(0.1))).max() <= 40  # of 255; speckle had 120


def test_the_grid_has_a_colour_bar_where_it_has_a_std(tmp_path):
    for stem in ("measurement", "std"):
        save_png(np.full((32, 32, 3), 200, np.uint8), tmp_path / "a" / f"{stem}.png")
    sizes = {}
    for names in (["measurement"], ["measurement", "std"]):
        make_grid([("a\nb", tmp_path / "a")], {name: name for name in names}, tmp_path / "grid.png")
        grid = np.asarray(Image.open(tmp_path / "grid.png"))
        sizes[len(names)] = grid.shape
        for level in STD_TICKS[1:-1]:
            assert (grid == std_colours(np.array(level))).all(axis=-1).any() == (len(names) == 2)
    assert sizes[2][0] > sizes[1][0]


def test_the_grid_shows_every_picture_enlarged(tmp_path):
    columns = picture_names(5, {f"sample_{k:03d}" for k in range(5)} | {"measurement", "mean", "std", "truth"})
    assert list(columns) == ["measurement", "sample_000", "sample_001", "sample_002", "mean", "std", "truth"]
    colours = np.random.default_rng(0).integers(0, 255, (2, len(columns), 3), dtype=np.uint8)
    for row, image_id in enumerate(["a", "sub/b"]):
        for column, stem in enumerate(columns):
            save_png(
                np.full((16, 16, 3), colours[row, column], np.uint8), tmp_path / "images" / image_id / f"{stem}.png"
            )
    rows = [(image_id, tmp_path / "images" / image_id) for image_id in ("a", "sub/b")]
    make_grid(rows, columns, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    for colour in colours.reshape(-1, 3):
        assert (grid == colour).all(axis=-1).sum() >= 128 * 128
    assert not list(tmp_path.rglob("*.partial"))


def test_pictures_of_another_shape_keep_theirs(tmp_path):
    for image_id, shape in [("a", (32, 32, 3)), ("b" * 60, (16, 64, 3))]:
        save_png(np.full(shape, (7, 90, 200), np.uint8), tmp_path / image_id / "measurement.png")
    rows = [(image_id, tmp_path / image_id) for image_id in ("a", "b" * 60)]
    make_grid(rows, {"measurement": "measurement"}, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (grid == (7, 90, 200)).all(axis=-1).sum() == 128 * 128 + 32 * 128
    assert grid.shape[1] < 400  # long ids are cut


def test_columns_follow_what_exists():
    assert list(picture_names(1, {"measurement", "sample_000"})) == ["measurement", "sample_000"]
