import numpy as np
import pytest
import torch

from datamodules import RecordedMeasurements
from datamodules.recorded import keeps_scale
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import (
    GaussianBlur,
    GivenBlur,
    MaskInpainting,
    PhaseRetrieval,
    RandomInpainting,
    SuperResolution,
)

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
    with pytest.raises(UserError, match=r"holds no measurement file \(\.npy\)"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"image_shape must be \(C, H, W\)"):
        RecordedMeasurements(tmp_path, SuperResolution(4), GaussianNoise(0.05), (3, 16))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((3, 5, 4)), "has shape (3, 5, 4), the operator gives (3, 4, 4)"),
        (np.zeros((4, 4, 3)), "its channels come last: transpose it to (C, H, W)"),
        (np.linspace(0, 255, 48).reshape(3, 4, 4), "has values from 0 to 255; expected is the scale of images"),
        (np.linspace(0, 255, 48).reshape(3, 4, 4), "y / 127.5 - 1 converts [0, 255]"),
        (np.linspace(-100, 1000, 48).reshape(3, 4, 4), "2 (y - low) / (high - low) - 1 converts [low, high]"),
        (np.zeros((3, 4, 4), np.uint8), "y / 127.5 - 1 converts 8-bit values"),
        (np.array([{}], dtype=object), "pickled objects are not read"),
        (np.full((3, 4, 4), np.nan), "holds NaN or infinite values"),
        (np.full((3, 4, 4), 1e300), "holds NaN or infinite values"),
        (np.zeros((3, 4, 4), complex), "must hold real floating-point numbers"),
        (np.zeros((3, 4, 4), np.uint8), "must hold real floating-point numbers"),
        (None, "is not a readable .npy file"),
    ],
)
def test_bad_files_are_named(tmp_path, y, message):
    path = tmp_path / "scan.npy"
    np.save(path, y) if y is not None else path.write_bytes(b"nothing")
    (batch,) = read(tmp_path)
    assert batch.ids == []
    assert str(path) in batch.failed["scan"]
    assert message in batch.failed["scan"]


def test_values_within_0_and_1_are_warned_of_once(tmp_path, caplog):
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", np.linspace(-0.05, 1.02, 48).reshape(3, 4, 4))
    assert [batch.ids for batch in read(tmp_path)] == [["a"], ["b"], ["c"]]
    (record,) = caplog.records
    assert "measurement a lies within [0, 1]" in record.getMessage()
    assert "2 y - 1" in record.getMessage()
    for end, warnings in ((1.3, 0), (2.5, 1)):
        caplog.clear()
        for name in "abc":
            np.save(tmp_path / f"{name}.npy", np.linspace(-end, end, 48).reshape(3, 4, 4))
        assert [batch.ids for batch in read(tmp_path)] == [["a"], ["b"], ["c"]]
        assert len(caplog.records) == warnings
    assert "measurement a leaves [-1, 1]" in caplog.text


def test_only_what_keeps_the_scale_of_images_is_held_to_it(tmp_path):
    operator = PhaseRetrieval().realise(SHAPE)
    np.save(tmp_path / "y.npy", operator.forward(torch.ones(1, *SHAPE))[0].numpy())
    (batch,) = read(tmp_path, PhaseRetrieval())
    assert batch.ids == ["y"]
    kernel = tmp_path / "kernel.npy"
    np.save(kernel, np.ones((3, 3)))
    mask = np.ones(SHAPE[1:])
    mask[2:4] = 0
    np.save(tmp_path / "mask.npy", mask)
    kept = [SuperResolution(4), SuperResolution(2, "average"), GaussianBlur(5, 1.0), GivenBlur(kernel)]
    assert all(keeps_scale(family.realise(SHAPE)) for family in [*kept, MaskInpainting(tmp_path / "mask.npy")])
    assert not keeps_scale(operator)
