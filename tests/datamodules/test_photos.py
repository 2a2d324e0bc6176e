import importlib.util
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import PhotoCrops, Photographs
from datamodules.photos import HELD_OUT, PHOTOGRAPHS, SPLITS, Photograph, turned_hue
from posterior import UserError
from posterior.images import from_pixels
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution

pytest.importorskip("skimage", reason="the extra 'photos' is not installed")
pytest.importorskip("sklearn", reason="the extra 'photos' is not installed")

MEASURED = (SuperResolution(), GaussianNoise(0.05))


def test_the_split_is_by_picture():
    assert [photo.name for photo in HELD_OUT] == ["astronaut", "chelsea", "coffee"]
    contents = [photo.located().read_bytes() for photos in SPLITS.values() for photo in photos]
    assert len(contents) == len(set(contents)) == 15


def test_every_photograph_is_open_and_credited():
    for photo in PHOTOGRAPHS + HELD_OUT:
        assert photo.licence in ("CC0", "public domain", "CC BY 2.0", "no known copyright restrictions")
        assert photo.credit


def test_a_crop_is_its_number():
    crops, later = PhotoCrops(size=32, count=40), PhotoCrops(size=32, start=30, count=10)
    images = crops.all()
    assert images.shape == (40, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert torch.equal(later.all(), images[30:])
    assert len({image.numpy().tobytes() for image in images}) == 40


def test_held_out_crops_are_of_held_out_photographs(monkeypatch):
    opened = []
    monkeypatch.setattr(Photograph, "located", lambda photo: opened.append(photo.name) or located(photo))
    PhotoCrops("held_out", 32, count=2).all()
    assert opened == ["astronaut", "chelsea", "coffee"]


located = Photograph.located


def test_all_photographs_are_drawn_from_and_scenes_more_often(monkeypatch):
    crops = PhotoCrops(size=8, count=1500)
    crops.load()
    taken = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *args: taken.append(id(self)) or resize(self, *args))
    for index in range(crops.count):
        crops.image(index)
    total = sum(photo.weight for photo in PHOTOGRAPHS)
    for photo, picture in zip(PHOTOGRAPHS, crops.pictures, strict=True):
        share = photo.weight / total
        error = math.sqrt(share * (1 - share) / crops.count)
        assert abs(taken.count(id(picture)) / crops.count - share) < 4.5 * error, photo.name


def test_a_turn_of_the_hue_keeps_grey_and_distances():
    """A rotation about the grey axis; by a third of a full turn red becomes green."""
    pixels = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = turned_hue(pixels, 0.7)
    torch.testing.assert_close(turned.sum(dim=0), pixels.sum(dim=0))
    torch.testing.assert_close(turned.square().sum(dim=0), pixels.square().sum(dim=0))
    torch.testing.assert_close(turned_hue(turned, -0.7), pixels)
    grey = pixels[:1].expand(3, -1, -1)
    torch.testing.assert_close(turned_hue(grey, 0.7), grey)
    red = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(turned_hue(red, 2 * math.pi / 3), red.roll(1, dims=0), atol=1e-12, rtol=0)


def test_pieces_are_the_photographs_side_by_side():
    data = Photographs(*MEASURED, size=128, short_side=None)
    data.setup("predict")
    whole = from_pixels(np.array(Image.open(HELD_OUT[0].located()).convert("RGB")).transpose(2, 0, 1))
    rows = [torch.cat([data.read(f"astronaut/{row}_{column}") for column in range(4)], dim=2) for row in range(4)]
    assert torch.equal(torch.cat(rows, dim=1), whole)
    cat = from_pixels(np.array(Image.open(HELD_OUT[1].located()).convert("RGB")).transpose(2, 0, 1))
    assert torch.equal(data.read("chelsea/1_2"), cat[:, 22 + 128 : 22 + 256, 33 + 256 : 33 + 384])


def test_sixteen_held_out_pieces_are_measured():
    data = Photographs(*MEASURED, batch_size=2, limit=4)
    data.setup("predict")
    assert data.ids == [f"astronaut/{row}_{column}" for row in range(2) for column in range(2)]
    assert len(data.list_ids()) == 16
    batch = data.on_after_batch_transfer(next(iter(data.predict_dataloader())), 0)
    assert torch.equal(batch.truth[1], data.read("astronaut/0_1"))
    assert batch.measurement.y.shape == (2, 3, 32, 32)


def test_what_is_not_installed_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^the photograph astronaut comes with scikit-image: pip install .*\[photos\]'$"
    ):
        PhotoCrops("held_out").all()
    with pytest.raises(UserError, match="comes with scikit-image"):
        Photographs(*MEASURED).setup("predict")
    (tmp_path / "__init__.py").touch()
    spec = importlib.util.spec_from_file_location("skimage", tmp_path / "__init__.py")
    spec.submodule_search_locations = [os.fspath(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"^the photograph astronaut is missing, .* has no data/astronaut.png: pip"):
        PhotoCrops("held_out").all()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": 4}, "Photographs: size must be >= 8"),
        ({"size": 256, "short_side": 128}, "Photographs: short_side must be >= 256"),
        ({"size": 512, "short_side": 512}, "the photograph chelsea is 300x451, smaller than 512"),
        ({"size": 400, "short_side": None}, "the photograph chelsea is 300x451, smaller than 400"),
    ],
)
def test_pieces_that_a_photograph_has_not_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        Photographs(*MEASURED, **settings).setup("predict")
