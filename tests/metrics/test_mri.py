import numpy as np
import torch
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from posterior.metrics import NMSE, MagnitudePSNR, MagnitudeSSIM


def test_the_measures_are_scikit_images(golden):
    """fastMRI's definitions call scikit-image with the truth's maximum as data range, on magnitudes."""
    rng = torch.Generator().manual_seed(0)
    truth, x = (torch.rand(3, 2, 20, 24, generator=rng) for _ in range(2))
    wanted = np.linalg.norm(truth.numpy(), axis=1)
    found = np.linalg.norm(x.numpy(), axis=1)
    for row in range(3):
        t, f = wanted[row], found[row]
        assert np.isclose(float(NMSE()(x, truth, None)[row]), normalized_root_mse(t, f) ** 2, rtol=1e-5)
        psnr = peak_signal_noise_ratio(t, f, data_range=t.max())
        assert np.isclose(float(MagnitudePSNR()(x, truth, None)[row]), psnr, rtol=1e-5)
        ssim = structural_similarity(t, f, data_range=t.max())
        assert np.isclose(float(MagnitudeSSIM()(x, truth, None)[row]), ssim, rtol=1e-5)


def test_a_common_phase_changes_nothing():
    z = torch.randn(2, 1, 9, 9, dtype=torch.complex64)
    turned = z * torch.exp(torch.tensor(0.7j))
    x, y = (torch.cat([a.real, a.imag], dim=1) for a in (z, turned))
    assert NMSE()(y, x, None).max() < 1e-10
