"""Idx files: tiny ones that the tests write, damaged in every way, and the digits that ship."""

import gzip

import numpy as np
import pytest
import torch

from datamodules import IdxImages, IdxImageSet
from posterior import UserError
from posterior.idx import read_idx
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution
from tests.conftest import SHARED

NUMBERS = np.arange(5 * 6 * 8).reshape(5, 6, 8).astype(np.uint8)


def idx(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


@pytest.fixture(params=["plain", "packed"])
def write(request, tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if request.param == "plain" else gzip.compress(content))
        return path

    return write


def data(path, **settings):
    found = IdxImages(path, SuperResolution(4, "average"), GaussianNoise(0.05), **settings)
    found.setup("predict")
    return found


def test_pictures_are_padded_scaled_and_named_by_their_number(write):
    path, labels = write("images", idx(NUMBERS)), write("labels", idx(np.array([3, 1, 4, 1, 5], np.uint8)))
    source = data(path, size=16, start=1, count=3, batch_size=3)
    (batch,) = [source.on_after_batch_transfer(batch, 0) for batch in source.predict_dataloader()]
    assert batch.ids == ["idx_000001", "idx_000002", "idx_000003"]
    assert batch.truth.shape == (3, 1, 16, 16)
    assert batch.measurement.y.shape == (3, 1, 4, 4)
    expected = torch.full((3, 16, 16), -1.0)
    expected[:, 5:11, 4:12] = torch.from_numpy(NUMBERS[1:4]).float() / 127.5 - 1
    torch.testing.assert_close(batch.truth[:, 0], expected)
    images = IdxImageSet(path, labels, size=16, start=1, count=3)
    torch.testing.assert_close(images.all()[:, 0], expected)
    torch.testing.assert_close(images[2][0][0], expected[2])
    assert [images.label(index) for index in range(3)] == [1, 4, 1]
    with pytest.raises(UserError, match="labels were not named"):
        IdxImageSet(path).label(0)
    assert len(data(path, size=8, start=2).ids) == 3


BAD = {
    "cut off": (idx(NUMBERS)[:-1], r"its header says \[5, 6, 8\], 240 bytes, but only 239 bytes follow"),
    "too long": (idx(NUMBERS) + b"x", "240 bytes, but more follow"),
    "cut off within the header": (idx(NUMBERS)[:9], "is cut off within its header"),
    "another magic number": (b"\x00\x00\x0d\x03" + idx(NUMBERS)[4:], "begins with 0x00000d03, an idx file of unsigned"),
    "a picture": (b"\x89PNG" + bytes(40), "begins with 0x89504e47"),
    "labels for images": (idx(np.arange(5, dtype=np.uint8)), r"must be \(N, H, W\), its header says \[5\]"),
    "no images": (idx(np.empty((0, 6, 8), np.uint8)), r"must be \(N, H, W\), its header says \[0, 6, 8\]"),
    "more than any file": (bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(9), "more than .* bytes can hold"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_one_line(write, fault):
    content, message = BAD[fault]
    path = write("images", content)
    with pytest.raises(UserError, match=f"idx images .*images.*{message}") as caught:
        data(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(4, dtype=np.uint8), r"labels are 4, the images of .*images 5: they do not belong together"),
        (NUMBERS, r"must be \(N,\), its header says \[5, 6, 8\]"),
    ],
)
def test_labels_of_other_images_are_refused(write, labels, message):
    with pytest.raises(UserError, match=message) as caught:
        IdxImageSet(write("images", idx(NUMBERS)), write("labels", idx(labels))).load()
    assert "\n" not in str(caught.value)


def test_a_damaged_gzip_file_and_a_missing_one_are_named(tmp_path):
    packed = gzip.compress(idx(np.random.default_rng(0).integers(256, size=(50, 6, 8), dtype=np.uint8)))
    (tmp_path / "cut.gz").write_bytes(packed[:-500])
    with pytest.raises(UserError, match=r"cut\.gz is cut off or damaged"):
        data(tmp_path / "cut.gz")
    (tmp_path / "flipped.gz").write_bytes(packed[:400] + bytes([packed[400] ^ 255]) + packed[401:])
    with pytest.raises(UserError, match=r"flipped\.gz is cut off or damaged"):
        data(tmp_path / "flipped.gz")
    with pytest.raises(UserError, match="does not exist"):
        data(tmp_path / "none")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 7}, "size must be >= 8"),
        ({"size": 8, "start": 5}, "has 5 images, not number 5"),
        ({"size": 8, "start": 3, "count": 3}, "has 5 images, not number 3 and 2 more"),
        ({"count": 0}, "count must be >= 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(write, settings, message):
    with pytest.raises(UserError, match=message):
        data(write("images", idx(NUMBERS)), **settings)
    with pytest.raises(UserError, match="images of 6x12 do not fit into 8x8: set size 12"):
        data(write("wide", idx(np.zeros((5, 6, 12), np.uint8))), size=8)


def test_a_file_may_stay_on_the_disk(tmp_path):
    (tmp_path / "images").write_bytes(idx(NUMBERS))
    found = read_idx(tmp_path / "images", "idx images", mmap=True)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, NUMBERS)
    (tmp_path / "cut").write_bytes(idx(NUMBERS)[:-1])
    with pytest.raises(UserError, match="only 239 bytes follow"):
        read_idx(tmp_path / "cut", "idx images", mmap=True)


@pytest.fixture
def shipped(root):
    return root / "configs" / "data" / "digits_images.idx.gz", root / "configs" / "data" / "digits_labels.idx.gz"


def test_the_shipped_digits_are_few_bytes_and_have_all_classes(shipped):
    images, labels = (read_idx(path, "idx") for path in shipped)
    assert images.shape == (4000, 28, 28)
    assert labels.shape == (4000,)
    assert (np.bincount(labels, minlength=10) > 300).all()
    assert sum(path.stat().st_size for path in shipped) < 700_000


ORIGINALS = [name for name in ("images-idx3", "labels-idx1") if (SHARED / "mnist" / f"train-{name}-ubyte.gz").is_file()]


@pytest.mark.parametrize("name", ORIGINALS)  # no cases in a clone, which has no more than what ships
def test_the_shipped_digits_are_the_first_of_the_originals(shipped, name):
    original = read_idx(SHARED / "mnist" / f"train-{name}-ubyte.gz", "idx")
    np.testing.assert_array_equal(read_idx(shipped["labels" in name], "idx"), original[:4000])
