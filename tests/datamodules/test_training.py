from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import FolderImages, ToonFaceImages, TrainingImages, training
from datamodules.toon import render_toon_face
from datamodules.training import TrainingOrder
from posterior import UserError
from posterior.images import to_pixels


@pytest.fixture
def folder(tmp_path):
    for number in range(10):
        pixels = np.full((8, 8, 3), 20 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    return tmp_path


def test_toon_faces_are_rendered_once_and_cached(tmp_path, monkeypatch):
    pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")
    monkeypatch.setattr(training, "CHUNK", 2)
    for first in (2, 4):
        training._render_chunk(first, 2, 16, tmp_path / f"16px_{first:07d}.npy")
    monkeypatch.setattr(training, "ProcessPoolExecutor", None)  # nothing is left to render
    images = ToonFaceImages(16, start=3, count=3, cache=tmp_path)
    images.prepare()
    images.load()
    assert len(images) == 3
    for index in range(3):
        face, number = images[index]
        assert number == index
        expected = to_pixels(render_toon_face(3 + index, 16)[0])
        np.testing.assert_array_equal(to_pixels(face), expected)


def test_processes_render_what_is_missing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")
    images = ToonFaceImages(8, start=700, count=1, cache=tmp_path / "cache")
    images.prepare()
    images.load()
    np.testing.assert_array_equal(to_pixels(images[0][0]), to_pixels(render_toon_face(700, 8)[0]))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["8px_0000500.npy"]
    assert "rendering 500 toon faces" in capsys.readouterr().err


def test_a_broken_cache_is_named(tmp_path):
    (tmp_path / "8px_0000000.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match="delete the file"):
        ToonFaceImages(8, count=1, cache=tmp_path).load()


@pytest.mark.parametrize(
    "chunk", [np.zeros((500, 3, 9, 9), np.uint8), np.zeros((500, 3, 8, 8)), np.zeros((5, 3, 8, 8), np.uint8)]
)
def test_a_cache_of_other_pictures_is_named(tmp_path, chunk):
    np.save(tmp_path / "8px_0000000.npy", chunk)
    with pytest.raises(UserError, match=r"8px_0000000\.npy must be uint8\[500, 3, 8, 8\], they are .* delete the file"):
        ToonFaceImages(8, count=1, cache=tmp_path).load()


def test_a_folder_is_split_by_order(folder):
    first, rest = FolderImages(folder, count=3), FolderImages(folder, start=3)
    first.load()
    rest.load()
    assert (len(first), len(rest)) == (3, 7)
    assert not {path.name for path in first.paths} & {path.name for path in rest.paths}
    assert float(rest[1][0].mean()) == pytest.approx(80 / 127.5 - 1)
    with pytest.raises(UserError, match="holds 10 images, too few for 3 from 8"):
        FolderImages(folder, start=8, count=3).load()
    with pytest.raises(UserError, match="count must be >= 1"):
        FolderImages(folder, count=0)


def batches(order, count):
    return list(islice(iter(order), count))


def test_every_epoch_is_a_new_order_of_the_same_images(folder):
    data = TrainingImages(FolderImages(folder), FolderImages(folder, count=3), batch_size=3)
    data.setup("fit")
    drawn = [indices.tolist() for _, indices in islice(data.train_dataloader(), 9)]
    epochs = [[index for batch in drawn[3 * n : 3 * n + 3] for index in batch] for n in range(3)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert all(a != b for a, b in pairwise(epochs))
    assert [indices.tolist() for _, indices in data.val_dataloader()] == [[0, 1, 2]]


@pytest.mark.parametrize("first", [1, 3, 7])
def test_a_later_start_sees_what_would_have_come(first):
    def order(start):
        return TrainingOrder(11, 3, 0, 1, seed=5, first=lambda: start)

    assert batches(order(first), 6) == batches(order(0), first + 6)[first:]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_images(world_size):
    ranks = [TrainingOrder(13, 2, rank, world_size, seed=1, first=lambda: 0) for rank in range(world_size)]
    steps = 13 // (2 * world_size)
    drawn = [index for rank in ranks for batch in batches(rank, steps) for index in batch]
    assert len(drawn) == len(set(drawn)) == 2 * world_size * steps


def test_too_few_images_for_a_step(folder):
    data = TrainingImages(FolderImages(folder), FolderImages(folder), batch_size=11)
    with pytest.raises(UserError, match="10 training and 10 validation images are too few for steps of 11 images"):
        data.setup("fit")
    with pytest.raises(UserError, match="batch_size must be >= 1"):
        TrainingImages(FolderImages(folder), FolderImages(folder), batch_size=0)


def test_images_are_on_the_scale_of_the_priors(folder):
    images = FolderImages(folder, size=4)
    images.load()
    image, _ = images[0]
    assert image.shape == (3, 4, 4)
    assert torch.equal(image, torch.full((3, 4, 4), -1.0))
