import numpy as np
import pytest
import torch

from benchmarks.faces.held_out import held_out_toon
from datamodules import ImageArray
from datamodules.array import load_arrays
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution

ATTRIBUTES = {"hair", "rear_hair", "beard", "eyes", "mouth", "skin_tone", "hair_tone", "background_tone"}


@pytest.fixture
def shipped(root):
    return root / "datamodules" / "toon_faces32.npz"


def serve(path, **settings):
    data = ImageArray(path, SuperResolution(4), GaussianNoise(0.05), **settings)
    data.setup("predict")
    return [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]


def test_the_shipped_faces_come_with_their_attributes(shipped):
    arrays = load_arrays(shipped)
    assert arrays["images"].shape == (256, 3, 32, 32)
    assert arrays["ids"].tolist() == [f"toon_{index:06d}" for index in range(256)]
    assert set(arrays) >= ATTRIBUTES
    assert all(arrays[name].shape == (256,) for name in ATTRIBUTES)
    assert len(set(arrays["skin_tone"].tolist())) == 5
    assert shipped.stat().st_size < 400_000


def test_the_shipped_faces_are_those_that_are_rendered(shipped, tmp_path):
    pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")
    held_out_toon(tmp_path / "few.npz", start=250, count=6)
    few, all_ = load_arrays(tmp_path / "few.npz"), load_arrays(shipped)
    for name in all_:
        np.testing.assert_array_equal(few[name], all_[name][250:])


def test_it_serves_images_by_id(shipped):
    (batch,) = serve(shipped, batch_size=3, limit=3)
    assert batch.ids == ["toon_000000", "toon_000001", "toon_000002"]
    expected = torch.from_numpy(load_arrays(shipped)["images"][2]).float() / 127.5 - 1
    assert torch.equal(batch.truth[2], expected)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((2, 3, 8, 8), np.uint8)}, r"it holds pictures uint8\[2, 3, 8, 8\]"),
        (
            {"images": np.zeros((2, 8, 8, 3), np.uint8), "ids": np.array(["a", "b"])},
            r"images are channels-last, \[2, 8, 8, 3\]: transpose to \(N, C, H, W\)",
        ),
        (
            {"images": np.zeros((2, 3, 8, 8), np.uint8), "ids": np.array(["a", {}], dtype=object)},
            "pickled objects are not read",
        ),
        ({"images": np.zeros((2, 3, 8, 8)), "ids": np.array(["a", "b"])}, "uint8"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8), "ids": np.array(["a"])}, "must hold images"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8), "ids": np.array(["a", "a"])}, "same id"),
    ],
)
def test_other_contents_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        serve(tmp_path / "x.npz")


def test_missing_and_broken_files_are_named(tmp_path, shipped):
    with pytest.raises(UserError, match=r"none\.npz does not exist"):
        serve(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes(shipped.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.npz is not a readable .npz file"):
        serve(tmp_path / "cut.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"single\.npy is not a readable .npz file"):
        serve(tmp_path / "single.npy")
