import zipfile

import pytest
from PIL import Image

from datamodules import SquareImages
from posterior import UserError


def zipped(path, grey):
    """A zip of two pictures of one grey level."""
    Image.new("RGB", (12, 10), (grey,) * 3).save(path.with_suffix(".png"))
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.png", "b.png"):
            archive.write(path.with_suffix(".png"), name)


def test_pixels_that_are_kept_are_not_those_of_another_zip(tmp_path):
    """With the same names in it, and of the same length."""
    for grey, wanted in ((0, -1.0), (255, 1.0)):
        zipped(tmp_path / f"{grey}.zip", grey)
        images = SquareImages(tmp_path / f"{grey}.zip", 8, tmp_path / "kept", every=2)
        assert (images.all() == wanted).all()


def test_pixels_that_are_kept_are_not_decoded_again(tmp_path, monkeypatch):
    zipped(tmp_path / "pictures.zip", 100)
    settings = (tmp_path / "pictures.zip", 8, tmp_path / "kept", 2)
    first = SquareImages(*settings).all()
    monkeypatch.setattr("datamodules.squares.square", None)
    assert (SquareImages(*settings).all() == first).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 4}, "SquareImages: size must be >= 8"),
        ({"every": 1}, "SquareImages: every must be >= 2"),
        ({"root": "nothing"}, "nothing"),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path, change, message):
    settings = {"root": tmp_path, "size": 8, "cache": tmp_path / "kept"} | change
    with pytest.raises(UserError, match=message) as caught:
        SquareImages(**settings).all()
    assert "\n" not in str(caught.value)
