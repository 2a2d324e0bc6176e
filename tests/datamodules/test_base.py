import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolder
from datamodules.base import Shard
from posterior import UserError
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import RandomInpainting, SuperResolution


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in "edcba":
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def batches(folder, operator=None, **settings):
    data = ImageFolder(folder, operator or RandomInpainting(), GaussianNoise(0.05), **settings)
    data.setup("predict")
    return [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shards_are_a_partition(world_size):
    parts = [list(Shard(5, rank, world_size)) for rank in range(world_size)]
    items = [index for part in parts for index in part if index >= 0]
    assert sorted(items) == list(range(5))
    assert all(len(part) == len(Shard(5, rank, world_size)) >= 1 for rank, part in enumerate(parts))


def test_a_rank_without_images_gets_one_empty_batch(folder):
    data = ImageFolder(folder, RandomInpainting(), GaussianNoise(0.05))
    data.setup("predict")
    data.skip = set(data.ids)
    (batch,) = list(data.predict_dataloader())
    batch = data.on_after_batch_transfer(batch, 0)
    assert batch.ids == []
    assert batch.measurement is None


def test_an_images_measurement_depends_on_seed_and_id_alone(folder):
    (together,) = batches(folder, batch_size=5)
    (folder / "a.png").unlink()  # other images run, in other batches
    apart = batches(folder, batch_size=2, num_workers=1)
    for batch in apart:
        for row, image_id in enumerate(batch.ids):
            source = together.ids.index(image_id)
            assert torch.equal(batch.measurement.operator.mask[row], together.measurement.operator.mask[source])
            assert torch.equal(batch.measurement.y[row], together.measurement.y[source])
            assert torch.equal(batch.truth[row], together.truth[source])
    (other_seed,) = batches(folder, batch_size=4, seed=1)
    assert not torch.equal(other_seed.measurement.y[0], together.measurement.y[1])


def test_the_noise_has_its_level(folder):
    (batch,) = batches(folder, SuperResolution(4), batch_size=5)
    noise = batch.measurement.y - batch.measurement.operator.forward(batch.truth)
    assert float(noise.std()) == pytest.approx(0.05, rel=5 / (2 * noise.numel()) ** 0.5)


def test_a_picture_of_one_pixel_is_measured_like_any_other(tmp_path):
    Image.fromarray(np.full((1, 1, 3), 200, dtype=np.uint8)).save(tmp_path / "a.png")
    data = ImageFolder(tmp_path, RandomInpainting(0.0, 0.0), GaussianNoise(0.05))
    data.setup("predict")
    (loaded,) = data.predict_dataloader()
    batch = data.on_after_batch_transfer(loaded, 0)
    assert batch.ids == ["a"]
    assert batch.inputs["a"] == data.input_digests(["a"])["a"]
    torch.testing.assert_close(batch.truth, torch.full((1, 3, 1, 1), 200 / 127.5 - 1))


def test_limit_takes_the_first_ids(folder):
    assert [batch.ids for batch in batches(folder, limit=2)] == [["a"], ["b"]]


def test_an_operator_that_does_not_fit_names_the_image(folder):
    found = batches(folder, SuperResolution(5), batch_size=5)
    failed = {image_id: reason for batch in found for image_id, reason in batch.failed.items()}
    assert not any(batch.ids for batch in found)
    assert failed["a"].startswith("image a: SuperResolution: scale 5 does not divide the image size 16x16: crop")
    assert len(failed) == 5


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_file_is_named_and_leaves_the_others(folder, num_workers):
    (folder / "b.png").write_bytes(b"no picture")
    batch, failed = batches(folder, batch_size=5, num_workers=num_workers)
    assert batch.ids == ["a", "c", "d", "e"]
    assert len(batch.measurement.y) == 4
    assert list(failed.failed) == ["b"]
    assert failed.failed["b"].startswith(f"image {folder / 'b.png'} cannot be decoded")
    assert "\n" not in failed.failed["b"]


@pytest.mark.parametrize("odd", "abe")
def test_images_of_several_sizes_come_in_batches_of_one_shape(folder, odd):
    """Whichever is first in its batch: none decides for the others."""
    Image.new("RGB", (20, 20)).save(folder / f"{odd}.png")
    found = batches(folder, batch_size=5)
    assert sorted(image_id for batch in found for image_id in batch.ids) == list("abcde")
    assert {tuple(batch.truth.shape[1:]): len(batch.ids) for batch in found} == {(3, 16, 16): 4, (3, 20, 20): 1}
    assert not any(batch.failed for batch in found)


@pytest.mark.parametrize("settings", [{"crop": 0}, {"size": -1}])
def test_crop_and_size_are_positive(folder, settings):
    with pytest.raises(UserError, match="must be >= 1 and <= 16384"):
        ImageFolder(folder, RandomInpainting(), GaussianNoise(0.05), **settings)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"num_workers": -1}, {"limit": 0}])
def test_numbers_out_of_range_are_refused(folder, settings):
    with pytest.raises(UserError, match=r"data: \w+ must be >= [01] and <="):
        ImageFolder(folder, RandomInpainting(), GaussianNoise(0.05), **settings)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_an_image_that_cannot_be_measured_costs_itself_at_every_batch_size(folder, batch_size, monkeypatch):
    read = ImageFolder.read
    monkeypatch.setattr(ImageFolder, "read", lambda self, i: read(self, i) + (4.0 if i == "c" else 0.0))
    data = ImageFolder(folder, RandomInpainting(), PoissonNoise(1.0), batch_size=batch_size)
    data.setup("predict")
    found = [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]
    assert sorted(image_id for batch in found for image_id in batch.ids) == list("abde")
    assert [image_id for batch in found for image_id in batch.failed] == ["c"]
