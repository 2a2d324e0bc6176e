import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid
from scipy.linalg import sqrtm
from torchmetrics.image.kid import maximum_mean_discrepancy, poly_mmd

from posterior import UserError
from posterior.images import to_pixels
from posterior.metrics import distances, encode
from posterior.metrics.distances import frechet_distance, kernel_distance, kernel_distance_left_out
from posterior.metrics.features import decode, write_features
from posterior.results.pictures import save_png
from posterior.results.table import format_distances


@pytest.fixture
def sets():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 8, generator=generator)
    return torch.randn(60, 8, generator=generator), 0.5 + torch.randn(80, 8, generator=generator) @ mixing


def test_the_frechet_distance_is_the_formula(sets):
    x, y = (s.double().numpy() for s in sets)
    a, b = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(sets[0], sets[0]) == pytest.approx(0, abs=1e-8)


def test_the_frechet_distance_knows_fewer_rows_than_features():
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(x, x + 2) == pytest.approx(80, rel=1e-6)
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(x[:1], x)


def test_the_kernel_distance_is_torchmetrics(sets):
    x, y = (s.double() for s in sets)
    x, y = x, y[:60]
    kernels = [(a @ b.T / 8 + 1) ** 3 for a, b in ((x, x), (x, y), (y, y))]
    assert kernel_distance(x, y) == pytest.approx(float(maximum_mean_discrepancy(*kernels)), rel=1e-10)
    assert kernel_distance(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)


def test_the_kernel_distance_is_unbiased():
    """Its mean over pairs of sets from one distribution is 0, whatever their sizes."""
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor(
        [
            kernel_distance(torch.randn(6, 4, generator=generator), torch.randn(9, 4, generator=generator))
            for _ in range(2000)
        ]
    )
    assert abs(float(values.mean())) < 4 * float(values.std()) / 2000**0.5


def test_leaving_one_out_is_what_it_says(sets):
    x, y = sets
    left_out = kernel_distance_left_out(x, y)
    for row in (0, 7, 59):
        rest = torch.cat([x[:row], x[row + 1 :]])
        assert float(left_out[row]) == pytest.approx(kernel_distance(rest, y), rel=1e-10)


def records_of(network, ours, truth):
    rows = [{"id": str(n), "sample": 0, "features": {network.name: encode(f)}} for n, f in enumerate(network(ours))]
    rows += [
        {"id": str(n), "sample": "truth", "features": {network.name: encode(f)}} for n, f in enumerate(network(truth))
    ]
    return [*rows, {"id": "0", "sample": 1, "psnr": 3.0}, {"id": "0", "sample": "mean"}]


def test_fid_and_kid_are_those_of_clean_fid_on_the_written_folders(vgg, pictures, tmp_path):
    ours, truth = pictures(6, 0), pictures(5, 1)
    for name, images in (("ours", ours), ("truth", truth)):
        for number, image in enumerate(images):
            save_png(to_pixels(image), tmp_path / name / f"{number:03d}.png")

    features = {
        name: clean_fid.get_folder_features(
            str(tmp_path / name), model=vgg.of_resized, num_workers=0, device=torch.device("cpu"), verbose=False
        )
        for name in ("ours", "truth")
    }
    records = records_of(vgg, ours, truth)
    seen = [decode(row["features"]["vgg16"]) for row in records[:6]]
    np.testing.assert_allclose(np.sort(seen, axis=0), np.sort(features["ours"], axis=0), rtol=1e-4, atol=1e-4)
    theirs = clean_fid.fid_from_feats(features["ours"].astype(np.float64), features["truth"].astype(np.float64))
    found = distances(records, {"vgg16": None})["vgg16"]
    assert found["fid"] == pytest.approx(theirs, rel=1e-3)
    assert (found["images"], found["reference_images"]) == (6, 5)
    x, y = features["ours"].astype(np.float64), features["truth"].astype(np.float64)
    same = clean_fid.kernel_distance(x[:5], y, num_subsets=1)  # subsets of all 5: nothing random is left
    few = [row for row in records if int(row["id"]) < 5]
    found = distances(few, {"vgg16": None})["vgg16"]
    assert found["kid"] == pytest.approx(same, rel=1e-3)


def test_a_distance_is_the_same_from_a_file_of_features_and_from_those_of_the_run(vgg, pictures, tmp_path):
    truth = pictures(4, 3)
    write_features(tmp_path / "reference.npz", vgg(list(truth)), vgg.name)
    records = records_of(vgg, pictures(5, 4), truth)
    from_file = distances(records, {"vgg16": str(tmp_path / "reference.npz")})["vgg16"]
    assert from_file["fid"] == pytest.approx(distances(records, {"vgg16": None})["vgg16"]["fid"], rel=1e-9)


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
