import os

import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid

from posterior import UserError
from posterior.callbacks.pictures import save_png
from posterior.images import to_pixels
from posterior.metrics import FeatureDistance, Inception, VGG16Pixels, distances, encode
from posterior.metrics.distances import decode, read_features, write_features


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
    with pytest.raises(UserError, match="no set of reference features"):
        FeatureDistance(vgg, tmp_path / "nothing.npz")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="no set of reference features"):
        read_features(path, "vgg16")
    write_features(path, vgg(list(images)), vgg.name)
    records = records_of(vgg, pictures(5, 4), images)
    from_file = distances(records, {"vgg16": str(path)})["vgg16"]
    assert from_file["fid"] == pytest.approx(distances(records, {"vgg16": None})["vgg16"]["fid"], rel=1e-9)


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
