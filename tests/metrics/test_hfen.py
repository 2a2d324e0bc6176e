import numpy as np
import pytest
import scipy.ndimage
import torch

from posterior.metrics import HFEN
from posterior.metrics.hfen import edges


def pictures(channels=1):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 2, channels, 40, 33, generator=generator) * 1.6 - 0.8


def laplacian_of_gaussian():
    """Its formula, (d^2/du^2 + d^2/dv^2) of exp(-(u^2 + v^2) / (2 s^2)), normalised, and without its mean."""
    u = np.arange(-7, 8)
    square = u[:, None] ** 2 + u**2
    bell = np.exp(-square / (2 * 1.5**2))
    kernel = (square / 1.5**4 - 2 / 1.5**2) * bell / bell.sum()
    return kernel - kernel.mean()


def test_it_is_the_norm_of_filtered_differences():
    x, truth = pictures()
    found = HFEN()(x, truth, None)
    for row in range(2):
        a, b = (
            scipy.ndimage.correlate(image[row, 0].double().numpy(), laplacian_of_gaussian(), mode="nearest")
            for image in (x, truth)
        )
        assert float(found[row]) == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-4)


def test_the_filter_is_about_scipys_and_blind_to_what_is_flat():
    truth = pictures()[1][:1]
    expected = scipy.ndimage.gaussian_laplace(truth[0, 0].double().numpy(), 1.5, mode="nearest")
    assert np.linalg.norm(edges(truth)[0, 0].numpy() - expected) < 0.03 * np.linalg.norm(expected)
    assert edges(torch.full((1, 3, 20, 20), -0.7)).abs().max() == 0
    assert HFEN()(truth + 0.1, truth, None) < 1e-5
    blurred = torch.from_numpy(scipy.ndimage.gaussian_filter(truth.numpy(), (0, 0, 1, 1)))
    assert HFEN()(truth, truth, None) == 0
    assert 0.2 < HFEN()(blurred, truth, None) < 1


@pytest.mark.parametrize(("channels", "level"), [(1, -1.0), (1, 0.3), (2, 0.0), (2, 0.3), (3, 0.1)])
def test_a_flat_truth_has_no_edges_to_divide_by(channels, level):
    """0 for what is flat too; else no finite value, and not that of rounding."""
    truth = torch.full((2, channels, 20, 20), level)
    x = truth.clone()
    x[0, :, 5:9, 5:9] += 0.2
    assert HFEN()(x, truth, None).tolist() == [float("inf"), 0]
    assert HFEN()(truth + 0.1, truth, None).tolist() == [0, 0]
    assert torch.isfinite(HFEN()(truth, x, None)[0])


def test_of_complex_images_it_is_the_magnitudes():
    x, truth = pictures(2)
    turned = torch.stack([-x[:, 1], x[:, 0]], dim=1)
    torch.testing.assert_close(HFEN()(turned, truth, None), HFEN()(x, truth, None))
