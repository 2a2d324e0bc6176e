import numpy as np
import pytest
import torch

from datamodules import RecordedMeasurements
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import MaskInpainting, RandomInpainting, SuperResolution

SHAPE = (3, 16, 16)


def read(root, operator=None, **settings):
    data = RecordedMeasurements(root, operator or SuperResolution(4), GaussianNoise(0.05), SHAPE, **settings)
    data.setup("predict")
    return [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]


def test_measurements_come_without_truth(tmp_path):
    (tmp_path / "sub").mkdir()
    y = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    np.save(tmp_path / "one.npy", y[0]), np.save(tmp_path / "sub" / "two.npy", y[1])
    (batch,) = read(tmp_path, batch_size=2)
    assert batch.ids == ["one", "sub/two"]
    assert batch.truth is None
    torch.testing.assert_close(batch.measurement.y, torch.from_numpy(y).float())


def test_inpainting_takes_the_users_mask(tmp_path):
    mask = np.ones((16, 16), np.uint8)
    mask[4:8] = 0
    np.save(tmp_path / "mask.npy", mask)
    (tmp_path / "y").mkdir()
    np.save(tmp_path / "y" / "a.npy", np.ones(SHAPE))
    (batch,) = read(tmp_path / "y", MaskInpainting(tmp_path / "mask.npy"))
    assert torch.equal(batch.measurement.y[0, 0], torch.from_numpy(mask).float())


def test_a_random_operator_is_refused(tmp_path):
    with pytest.raises(UserError, match="RandomInpainting draws its parameters at random"):
        read(tmp_path, RandomInpainting())


def test_folders_without_measurements_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no \.npy file"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"image_shape must be \(C, H, W\)"):
        RecordedMeasurements(tmp_path, SuperResolution(4), GaussianNoise(0.05), (3, 16))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((3, 5, 4)), "has shape (3, 5, 4), the operator gives (3, 4, 4)"),
        (np.full((3, 4, 4), np.nan), "holds NaN or infinite values"),
        (np.full((3, 4, 4), 1e300), "holds NaN or infinite values"),
        (np.zeros((3, 4, 4), complex), "must hold real floating-point numbers"),
        (np.zeros((3, 4, 4), np.uint8), "must hold real floating-point numbers"),
        (None, "cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path, y, message):
    path = tmp_path / "scan.npy"
    np.save(path, y) if y is not None else path.write_bytes(b"nothing")
    (batch,) = read(tmp_path)
    assert batch.ids == []
    assert str(path) in batch.failed["scan"]
    assert message in batch.failed["scan"]
