import os

import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid

from posterior import UserError
from posterior.images import to_pixels
from posterior.metrics import FeatureDistance, Inception, VGG16Pixels, distances, encode
from posterior.metrics.distances import decode, read_features, write_features
from posterior.results.pictures import save_png
from posterior.results.table import format_distances


def pictures(count, seed, side=40):
    """Smooth random pictures that leave [-1, 1] a little."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=rng) * 0.6
    return torch.nn.functional.interpolate(coarse, size=side, mode="bicubic")


@pytest.fixture
def vgg(lpips_weights):
    return VGG16Pixels()


def records_of(network, ours, truth):
    rows = [{"id": str(n), "sample": 0, "features": {network.name: encode(f)}} for n, f in enumerate(network(ours))]
    rows += [
        {"id": str(n), "sample": "truth", "features": {network.name: encode(f)}} for n, f in enumerate(network(truth))
    ]
    return [*rows, {"id": "0", "sample": 1, "psnr": 3.0}, {"id": "0", "sample": "mean"}]


def test_fid_and_kid_are_those_of_clean_fid_on_the_written_folders(vgg, tmp_path):
    ours, truth = pictures(24, 0), pictures(20, 1)
    for name, images in (("ours", ours), ("truth", truth)):
        for number, image in enumerate(images):
            save_png(to_pixels(image), tmp_path / name / f"{number:03d}.png")

    features = {
        name: clean_fid.get_folder_features(
            str(tmp_path / name), model=vgg.of_resized, num_workers=0, device=torch.device("cpu"), verbose=False
        )
        for name in ("ours", "truth")
    }
    np.testing.assert_allclose(np.sort(vgg(ours), axis=0), np.sort(features["ours"], axis=0), rtol=1e-4, atol=1e-4)
    theirs = clean_fid.fid_from_feats(features["ours"].astype(np.float64), features["truth"].astype(np.float64))
    found = distances(records_of(vgg, ours, truth), {"vgg16": None})["vgg16"]
    assert found["fid"] == pytest.approx(theirs, rel=1e-3)
    assert (found["images"], found["reference_images"]) == (24, 20)
    x, y = features["ours"].astype(np.float64), features["truth"].astype(np.float64)
    same = clean_fid.kernel_distance(x[:20], y, num_subsets=1)  # subsets of all 20: nothing random is left
    found = distances(records_of(vgg, ours[:20], truth), {"vgg16": None})["vgg16"]
    assert found["kid"] == pytest.approx(same, rel=1e-3)


def test_features_do_not_depend_on_the_batch_and_survive_as_text(vgg):
    images = pictures(3, 2)
    together = vgg(images)
    apart = torch.cat([vgg(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert np.array_equal(decode(encode(together[1])), together[1].numpy())
    grey = images[:1, :1]
    torch.testing.assert_close(vgg(grey), vgg(grey.expand(-1, 3, -1, -1)))


def test_a_reference_set_is_read_back_and_another_network_is_refused(vgg, tmp_path):
    path = tmp_path / "sets" / "reference.npz"
    images = pictures(4, 3)
    write_features(path, vgg(images), vgg.name)
    assert torch.equal(read_features(path, "vgg16"), vgg(images))
    with pytest.raises(UserError, match="holds features of vgg16, not of inception"):
        read_features(path, "inception")
    with pytest.raises(UserError, match=r"reference features .*nothing\.npz does not exist; see docs/pipeline.md"):
        FeatureDistance(vgg, tmp_path / "nothing.npz")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"reference features .* is not a readable \.npz file"):
        read_features(path, "vgg16")
    write_features(path, vgg(list(images)), vgg.name)
    records = records_of(vgg, pictures(5, 4), images)
    from_file = distances(records, {"vgg16": str(path)})["vgg16"]
    assert from_file["fid"] == pytest.approx(distances(records, {"vgg16": None})["vgg16"]["fid"], rel=1e-9)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((4, 3), np.float32), "holds 3 features an image, vgg16 has 512"),
        (np.zeros(512, np.float32), r"they must be \(N, D\) reals, N >= 2, they are float32\[512\]"),
        (np.zeros((1, 512), np.float32), "N >= 2"),
        (np.zeros((4, 512), np.int64), "they are int64"),
        (np.zeros((4, 512), complex), "they are complex128"),
        (np.full((4, 512), np.nan, np.float32), "some are NaN or infinite"),
        (np.array([{}]), "pickled objects are not read"),
    ],
)
def test_features_that_are_none_are_named(vgg, tmp_path, features, message):
    np.savez(tmp_path / "x.npz", features=features, network=np.array("vgg16"))
    with pytest.raises(UserError, match=f"x.npz.*{message}"):
        FeatureDistance(vgg, tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", features=features if features.dtype != object else np.zeros(3))
    with pytest.raises(UserError, match="it must hold features and network, it holds features"):
        FeatureDistance(vgg, tmp_path / "x.npz")


def test_features_of_other_sizes_and_of_few_images_are_told(tmp_path):
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    records = [
        {"id": str(n), "sample": s, "features": {"own": encode(rows[n])}} for n in range(6) for s in (0, "truth")
    ]
    assert distances(records, {"own": None})["own"]["warning"] is None
    few = distances([r for r in records if r["id"] < "3"], {"own": None})
    assert "fewer images than the 4 features" in few["own"]["warning"]
    (line,) = format_distances(few)
    assert "(warning: fewer images than the 4 features: FID is biased upwards" in line
    write_features(tmp_path / "x.npz", rows[:, :3], "own")
    with pytest.raises(UserError, match=r"x\.npz, has 3 features an image, the images of this run have 4"):
        distances(records, {"own": str(tmp_path / "x.npz")})


def test_one_image_has_no_distance():
    records = [{"id": "a", "sample": s, "features": {"vgg16": encode(torch.ones(4))}} for s in (0, "truth")]
    found = distances(records, {"vgg16": None})["vgg16"]
    assert (found["fid"], found["kid"], found["images"]) == (None, None, 1)


def test_without_its_file_inception_says_so_and_another_file_is_refused(no_lpips_weights, tmp_path):
    network = Inception()
    assert network.unavailable is not None
    assert "inception-2015-12-05.pt" in network.unavailable
    wrong = tmp_path / "inception-2015-12-05.pt"
    wrong.write_bytes(os.urandom(100))
    with pytest.raises(UserError, match="its SHA-256 is not f58cb9b6"):
        Inception(wrong)
