import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from posterior import Measurement, UserError
from posterior.images import load_image
from posterior.metrics import L2, LPIPS, PSNR, SSIM, Residual, standard_metrics
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution

SHAPE = (3, 32, 40)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, *SHAPE, generator=generator) * 2 - 1
    return truth + 0.3 * torch.randn(truth.shape, generator=generator), truth


@pytest.fixture
def measurement(images):
    operator = SuperResolution(4).realise(SHAPE)
    return Measurement(operator.forward(images[1]), operator, GaussianNoise(0.05))


def as_pictures(x):
    return ((x.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).double().numpy()


def test_psnr_is_the_formula_image_by_image(images, measurement):
    x, truth = map(as_pictures, images)
    expected = [-10 * np.log10(np.mean((i - t) ** 2)) for i, t in zip(x, truth, strict=True)]
    np.testing.assert_allclose(PSNR()(*images, measurement), expected, rtol=1e-5)


def test_ssim_is_the_formula_image_by_image(images, measurement):
    """Wang et al. 2004, equation 13, with moments from scipy's Gaussian filter."""

    def blur(image):
        return gaussian_filter(image, sigma=(1.5, 1.5, 0), truncate=3.5, mode="mirror")

    expected = []
    for a, b in zip(*map(as_pictures, images), strict=True):
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
        luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        expected.append(np.mean(luminance * (2 * cov + 0.03**2) / (var_a + var_b + 0.03**2)))
    np.testing.assert_allclose(SSIM()(*images, measurement), expected, rtol=1e-4)


def test_l2_is_the_unsquared_norm_of_clipped_images(images, measurement):
    x, truth = images
    expected = [float((i.clamp(-1, 1) - t).norm()) for i, t in zip(x, truth, strict=True)]
    np.testing.assert_allclose(L2()(x, truth, measurement), expected, rtol=1e-6)


def test_residual_is_in_units_of_the_noise(images, measurement):
    _, truth = images
    assert Residual()(truth, None, measurement).abs().max() < 1e-5
    shifted = Residual()(truth + 0.05, None, measurement)  # a constant passes the averaging unchanged
    np.testing.assert_allclose(shifted, 1.0, rtol=1e-4)


@pytest.mark.parametrize("metric", standard_metrics()[:3], ids=lambda metric: metric.name)
def test_an_image_alone_has_its_value_in_the_batch(metric, images, measurement):
    x, truth = images
    together = metric(x, truth, measurement)
    assert together.shape == (3,)
    for row in range(3):
        alone = metric(x[[row]], truth[[row]], measurement.rows(torch.tensor([row])))
        torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize(("net", "distance"), [("alex", 0.4556), ("vgg", 0.5776)])
def test_lpips_gives_the_known_distance(reference, lpips_weights, measurement, net, distance):
    pair = [load_image(reference / "ffhq_samples" / f"dps_{number}.png")[None] for number in ("00003", "00014")]
    metric = LPIPS(net)
    assert metric.unavailable is None
    assert float(metric(*pair, measurement)) == pytest.approx(distance, abs=1e-4)


@pytest.mark.usefixtures("no_lpips_weights")
def test_without_weights_lpips_says_how_to_get_them():
    metric = LPIPS("vgg")
    assert metric.name == "lpips_vgg"
    assert "vgg16-397923af.pth" in metric.unavailable
    assert "TORCH_HOME" in metric.unavailable
    assert "\n" not in metric.unavailable


def test_damaged_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    path = tmp_path / "hub" / "checkpoints" / LPIPS.WEIGHTS["alex"]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK and no more")
    with pytest.raises(UserError, match=r"lpips_alex: weights .*alexnet.* is not a readable state dict"):
        LPIPS("alex")
